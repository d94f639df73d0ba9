"""The published backbone: DINOv2 and SigLIP side by side, a projector, and Qwen2.5 with learned latent queries.

Sequence: [token 0; P image tokens; the other N - 1 tokens; Q latent queries; token 2], causal. Only what is read is computed: the
last query and token 2 come after everything that is read, so they are left out, as are the layers above those the head reads.
Padding (id -1, in front of a prompt) lies between the images and the rest of the prompt, seen by nobody and counted in no
position: the numbers are those of the shorter prompt, the shapes those of the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdvla_ros.model.backbones.base import Backbone, LayerStates, register_backbone
from rdvla_ros.model.backbones.prismatic_config import PrismaticConfig, SquareView, TextConfig
from rdvla_ros.model.backbones.vit import VisionTower
from rdvla_ros.model.prompt_tokenizer import PADDING
from rdvla_ros.model.resample import crop_and_normalise
from rdvla_ros.model.static_call import made_static
from rdvla_ros.types import CheckpointError, ObservationError

CHANNELS = 6  # per image: three for each tower


@dataclass(frozen=True)
class Prompt:
    """states (B, N, D): embeddings, the padding's after token 0. padded (B,): how many of them are padding, None: none."""

    states: Tensor
    padded: Tensor | None = None

    def expand(self, batch: int) -> Prompt:
        return Prompt(self.states.expand(batch, -1, -1), None if self.padded is None else self.padded.expand(batch))


class Projector(nn.Module):
    """(B, P, W1 + W2) -> (B, P, D)."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(inputs, 4 * inputs), nn.Linear(4 * inputs, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(x)))))


def language_model(config: TextConfig, layers: int, normed: bool) -> nn.Module:
    """transformers' Qwen2Model of `layers` layers; without the final norm where nothing after it is read."""
    from transformers import Qwen2Config, Qwen2Model

    model = Qwen2Model(
        Qwen2Config(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.inner,
            num_hidden_layers=layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            rms_norm_eps=config.rms_norm_eps,
            rope_theta=config.rope_theta,
            max_position_embeddings=config.max_tokens,
            use_cache=False,
            attn_implementation="sdpa",
            pad_token_id=None,
        )
    )
    if not normed:
        model.norm = nn.Identity()
    return model


@register_backbone("prismatic")
class PrismaticBackbone(Backbone):
    """backbone(pixel_values (B, 6 * images, S, S), input_ids (B, N)) -> (task_states, latent_states)."""

    config_class = PrismaticConfig
    static = True
    parts = {"vision": ("dino", "siglip"), "projector": ("projector",), "language": ("language",)}

    def __init__(self, config: PrismaticConfig):
        super().__init__()
        self.config = config
        self.hidden_dim, self.num_layers = config.text.width, config.text.layers
        self.dino, self.siglip = VisionTower(config.dino), VisionTower(config.siglip)
        self.projector = Projector(config.dino.width + config.siglip.width, config.text.width)
        self.language = language_model(config.text, config.kept_layers, config.kept_layers == config.text.layers)
        self.latents = nn.Parameter(0.02 * torch.randn(config.latent_queries, config.text.width))

    @classmethod
    def empty(cls, config: PrismaticConfig) -> PrismaticBackbone:
        """Without memory for its weights, which a state dict is then assigned to."""
        with torch.device("meta"):
            return cls(config)

    def loaded(self) -> None:
        self.restore_rotary()

    def _apply(self, *args, **kwargs):
        super()._apply(*args, **kwargs)
        self.restore_rotary()
        return self

    def restore_rotary(self) -> None:
        """Rotary frequencies anew: they are no weights, and a conversion to bfloat16 or a load into empty memory spoils them."""
        kind, device = type(self.language.rotary_emb), self.latents.device
        if device.type != "meta":
            with torch.device("cpu"):
                fresh = kind(self.language.config)
            for name, buffer in fresh.named_buffers():
                setattr(self.language.rotary_emb, name, buffer.to(device))

    def save_activations(self, saved: bool) -> None:
        self.dino.checkpointing = self.siglip.checkpointing = not saved
        if saved:
            self.language.activation_checkpointing_disable()
        else:
            self.language.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})

    def forward(
        self, images: Tensor | Mapping[str, Tensor], input_ids: Tensor, layers: tuple[int, ...] | None = None
    ) -> tuple[LayerStates, LayerStates]:
        """images: pixel_values (B, 6 * images, S, S), or camera name -> (B, 6, S, S), or (B, 3, S, S) in -1..1 as training makes
        them; layers: default all that can be read."""
        return self.fuse(self.see(images), self.text(input_ids), self.config.read_layers if layers is None else layers)

    def prepare(self, image: np.ndarray, camera: SquareView) -> Tensor:
        """(h, w, 3) uint8 -> (1, 6, S, S) float32."""
        return torch.from_numpy(self.config.preprocessing(image))[None]

    def see(self, images: Tensor | Mapping[str, Tensor]) -> Tensor:
        """-> (B, images * patches, D): every tower once, over all images of the batch together."""
        pixels = self._pixels(images)
        batch, channels = pixels.shape[:2]
        pixels = pixels.to(self.latents.dtype).unflatten(1, (-1, CHANNELS)).flatten(0, 1)
        features = torch.cat([self.dino(pixels[:, :3]), self.siglip(pixels[:, 3:])], -1)
        return self.projector(features).unflatten(0, (batch, channels // CHANNELS)).flatten(1, 2)

    def _pixels(self, images: Tensor | Mapping[str, Tensor]) -> Tensor:
        names, size = self.config.camera_names, self.config.dino.image
        if isinstance(images, Mapping):
            missing = [name for name in names if name not in images]
            if missing:
                raise ObservationError(f"Camera '{missing[0]}': expected images of {', '.join(names)}, got {', '.join(images)}.")
            images = torch.cat([self._normalised(images[name]) for name in (names or images)], 1)
        count, rest = divmod(images.shape[1], CHANNELS) if images.ndim == 4 else (0, 1)
        if rest or not count or images.shape[2:] != (size, size) or (names and count != len(names)):
            wanted = f"{CHANNELS * len(names)} ({len(names)} cameras)" if names else f"{CHANNELS} per image"
            raise ObservationError(
                f"pixel_values: expected shape (batch, {wanted}, {size}, {size}), got {tuple(images.shape)}. Each image has "
                "three channels normalised for each of the two towers."
            )
        return images

    def _normalised(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) in -1..1, resized but not yet cropped, as training hands them over -> (B, 6, S, S); others as they are."""
        if image.ndim != 4 or image.shape[1] != 3 or image.shape[2] != image.shape[3]:
            return image
        return crop_and_normalise((image.float() + 1.0) * 127.5, self.config.preprocessing)

    def recorded(self, layers: tuple[int, ...], run: str, **options: Any) -> Callable[[Mapping[str, Tensor], Prompt], tuple]:
        """fuse(see(images), text, layers) with one recording per length of prompts; run, options: see static_call."""

        def states(pixels: Tensor, embedded: Tensor, padded: Tensor) -> tuple[LayerStates, LayerStates]:
            return self.fuse(self.see(pixels), Prompt(embedded, padded), layers)

        call = made_static(states, run, **options)

        def both(images: Mapping[str, Tensor], text: Prompt) -> tuple[LayerStates, LayerStates]:
            none = torch.zeros(len(text.states), dtype=torch.long, device=text.states.device)
            return call(self._pixels(images), text.states, none if text.padded is None else text.padded)

        return both

    def text(self, input_ids: Tensor) -> Prompt:
        """(B, N) token ids; PADDING only in front of a prompt."""
        vocabulary = self.config.text.vocabulary
        if input_ids.ndim != 2 or not input_ids.shape[1]:
            raise ObservationError(f"input_ids: expected shape (batch, tokens) with a token, got {tuple(input_ids.shape)}.")
        missing = input_ids == PADDING
        if bool(missing.any()):
            padded = missing.sum(-1)
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            if bool((missing != (places < padded[:, None])).any()) or bool((padded > len(places) - 2).any()):
                raise ObservationError("input_ids: expected padding in front of a prompt of at least two tokens.")
            first = input_ids.gather(1, padded[:, None])
            # Token 0 comes before the images, so it changes places with the padding.
            input_ids = input_ids.masked_fill(missing | (places == padded[:, None]), 0).scatter(1, torch.zeros_like(first), first)
            return Prompt(self._embedded(input_ids, vocabulary), padded)
        return Prompt(self._embedded(input_ids, vocabulary))

    def _embedded(self, input_ids: Tensor, vocabulary: int) -> Tensor:
        if int(input_ids.min()) < 0 or int(input_ids.max()) >= vocabulary:
            raise ObservationError(
                f"input_ids: expected ids 0 .. {vocabulary - 1}, got {int(input_ids.min())} .. {int(input_ids.max())}. The "
                "tokenizer is of another checkpoint."
            )
        return self.language.embed_tokens(input_ids)

    def fuse(self, vision: Tensor, text: Prompt, layers: tuple[int, ...]) -> tuple[LayerStates, LayerStates]:
        """vision (B, P, D), text: of `text` -> the states of the layers asked for."""
        unread = [layer for layer in layers if layer > self.config.kept_layers or layer < 0]
        if unread:
            raise CheckpointError(
                f"Backbone: layers {unread} were not kept; it has 0 .. {self.config.kept_layers}. Load it with read_layers."
            )
        patches, queries, shift = vision.shape[1], self.config.latent_queries, int(self.config.shifted)
        latents = self.latents[: queries - shift].to(vision.dtype).expand(len(vision), -1, -1)
        prompt = text.expand(len(vision))
        text = prompt.states
        sequence = torch.cat([text[:, :1], vision, text[:, 1:], latents], 1)
        if sequence.shape[1] + shift + 1 > self.config.text.max_tokens:
            raise ObservationError(
                f"Sequence: expected at most {self.config.text.max_tokens} tokens, got {sequence.shape[1] + shift + 1} "
                f"({patches} of images, {text.shape[1]} of the prompt). Use fewer cameras or a shorter instruction."
            )
        states = self._hidden(sequence, layers, *self._seen(sequence, prompt.padded, patches))
        first, last = patches + text.shape[1] - shift, patches + text.shape[1] - shift + queries
        task = {layer: states[layer][:, 1 - shift : 1 - shift + patches] for layer in layers}
        return task, {layer: states[layer][:, first:last] for layer in layers}

    @staticmethod
    def _seen(sequence: Tensor, padded: Tensor | None, patches: int) -> tuple[Tensor | None, Tensor | None]:
        """(mask (B, 1, T, T): what each position attends to, positions (B, T)); None: causal, 0 .. T - 1."""
        if padded is None:
            return None, None
        places = torch.arange(sequence.shape[1], device=sequence.device)
        # Of a padded prompt of N tokens, n are padding: they stand at 1 + P .. P + n.
        hidden = (places > patches) & (places <= patches + padded[:, None])
        mask = (places[:, None] >= places) & ~hidden[:, None]
        mask = mask | (hidden[:, :, None] & (places[:, None] == places))  # a row of nothing would be a division by zero
        positions = torch.where(places > patches, (places - padded[:, None]).clamp(min=0), places)
        return mask[:, None], positions

    def _hidden(
        self, sequence: Tensor, layers: tuple[int, ...], mask: Tensor | None = None, positions: Tensor | None = None
    ) -> LayerStates:
        """Hidden states of the named layers; the last one that is kept comes out of the model itself."""
        states: LayerStates = {0: sequence} if 0 in layers else {}
        hooks = [
            self.language.layers[layer].register_forward_pre_hook(
                lambda _, inputs, layer=layer: states.update({layer: inputs[0]})
            )
            for layer in layers
            if 0 < layer < self.config.kept_layers
        ]
        try:
            if self.config.kept_layers:
                states[self.config.kept_layers] = self.language(
                    inputs_embeds=sequence, attention_mask=mask, position_ids=positions, use_cache=False
                ).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        return states
