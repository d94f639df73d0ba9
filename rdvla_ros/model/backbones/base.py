"""What the head asks of a backbone: dense hidden states over the image tokens and over learned latent queries.

B = batch, P = vision tokens of all cameras, Q = latent queries, N = instruction tokens, D = hidden width, L = layers.
Layer index 0 is the embeddings, index L the last layer after the final norm.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from rdvla_ros.model.images import CameraView, prepare_image
from rdvla_ros.types import CheckpointError, nearest_names

LayerStates = dict[int, torch.Tensor]


class Backbone(nn.Module):
    """An image-and-language network under the RD-VLA head.

    hidden_dim: D. num_layers: L. forward returns only the layers asked for, because a layer that nobody reads need not
    be kept, and a layer above all that are read need not be computed.
    """

    hidden_dim: int
    num_layers: int
    static = False  # see and fuse ask the device nothing: they can be recorded as a CUDA graph
    # 'vision', 'projector' and 'language' -> names of submodules (the longest that fits a parameter counts), for fine-tuning.
    parts: Mapping[str, tuple[str, ...]] = {}

    @classmethod
    def empty(cls, config) -> Backbone:
        """A backbone whose weights are about to be loaded; a large one takes no memory for them yet."""
        return cls(config)

    def loaded(self) -> None:
        """Called after the weights were assigned: what is no weight is put right here."""

    def save_activations(self, saved: bool) -> None:
        """False: in training, blocks are computed again in the backward pass instead of keeping what it needs."""
        if not saved:
            raise CheckpointError(f"{type(self).__name__} keeps its activations. Set tuning.checkpointing to false.")

    def forward(
        self, images: Mapping[str, torch.Tensor], input_ids: torch.Tensor, layers: tuple[int, ...]
    ) -> tuple[LayerStates, LayerStates]:
        """images: camera name -> (B, 3, h, w) uint8; input_ids (B, N) -> (task_states, latent_states).

        task_states: layer -> (B, P, D). latent_states: layer -> (B, Q, D).
        """
        raise TypeError(f"{type(self).__name__} is a description of a backbone; build one of {', '.join(BACKBONES)}")

    def prepare(self, image: np.ndarray, camera: CameraView) -> torch.Tensor:
        """One camera's image (height, width, 3) uint8 -> (1, C, h, w), what forward wants of that camera."""
        return torch.from_numpy(prepare_image(image, camera)).permute(2, 0, 1)[None]


BACKBONES: dict[str, type[Backbone]] = {}


def register_backbone(name: str):
    """Class decorator: makes a backbone available under the name that a checkpoint's manifest gives."""

    def register(cls: type[Backbone]) -> type[Backbone]:
        BACKBONES[name] = cls
        return cls

    return register


def backbone_class(name: str) -> type[Backbone]:
    if name not in BACKBONES:
        raise CheckpointError(f"Backbone '{name}' is not known. {nearest_names(name, BACKBONES)}")
    return BACKBONES[name]
