"""A vision-language model of transformers under the head: latent queries appended to the prompt, hooks on named decoder layers.

The model's own forward runs, so that whatever a family does with positions and image features stays its own. The latent queries
take the place of the embeddings of the last Q tokens; layers above those that are read are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rdvla_ros.model.backbones.base import Backbone, LayerStates, register_backbone
from rdvla_ros.model.backbones.compact import CameraInput
from rdvla_ros.model.backbones.families import family
from rdvla_ros.model.prompt_tokenizer import PADDING
from rdvla_ros.types import CheckpointError, ObservationError


@dataclass(frozen=True)
class VlmConfig:
    """family: a name of families.FAMILIES. model: the transformers configuration as plain values, with the kept layers only.

    layers: decoder layers of the whole model; read_layers: hidden states that can be asked for, 0 .. layers. cameras: in the
    order of the prompt, all image_side pixels wide and high. means, stds: of the image processor.
    """

    family: str
    model: Mapping[str, Any]
    layers: int
    read_layers: tuple[int, ...]
    latent_queries: int
    image_side: int
    cameras: tuple[CameraInput, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.read_layers or not 0 <= min(self.read_layers) <= max(self.read_layers) <= self.layers:
            raise CheckpointError(
                f"Backbone: the head reads layers {list(self.read_layers)}, expected indices 0 .. {self.layers} of this "
                f"{self.family} model. Change prelude_layers, core_layers and coda_layers."
            )
        wrong = [camera.name for camera in self.cameras if {camera.width, camera.height} != {self.image_side}]
        if wrong or not self.cameras:
            raise CheckpointError(
                f"Backbone: expected cameras of {self.image_side} x {self.image_side} px, not {', '.join(wrong) or 'none'}."
            )

    @property
    def kept(self) -> int:
        return max(1, *self.read_layers)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> VlmConfig:
        values = dict(data)
        cameras = [{**c, "crop": tuple(c["crop"]), "channels": tuple(c["channels"])} for c in values["cameras"]]
        values["cameras"] = tuple(CameraInput(**camera) for camera in cameras)
        values |= {name: tuple(values[name]) for name in ("read_layers", "means", "stds")}
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def transformers_config(name: str, values: Mapping[str, Any]) -> Any:
    """The family's configuration object from plain values."""
    import transformers

    values = {key: value for key, value in values.items() if key not in ("transformers_version", "model_type", "architectures")}
    return getattr(transformers, family(name).config)(**values)


@register_backbone("vlm")
class VlmBackbone(Backbone):
    """See the module's docstring; made by vlm_loading.vlm_from_folder, or from a checkpoint of ours."""

    config_class = VlmConfig

    def __init__(self, config: VlmConfig, model: nn.Module | None = None):
        """model: with its weights (None: fresh ones)."""
        super().__init__()
        import transformers

        self.config, self.family = config, family(config.family)
        if model is None:
            values = transformers_config(config.family, config.model)
            model = getattr(transformers, self.family.model)._from_config(values, dtype=torch.float32)
        self.model = model
        decoder = getattr(model, self.family.decoder)
        if len(decoder.layers) < config.kept:
            raise CheckpointError(f"Backbone: expected {config.kept} decoder layers, got {len(decoder.layers)}.")
        decoder.layers = decoder.layers[: config.kept]
        if config.kept < config.layers:
            decoder.norm = nn.Identity()
        text = model.config.get_text_config()
        self.hidden_dim, self.num_layers = text.hidden_size, config.layers
        self.latents = nn.Parameter(0.02 * torch.randn(config.latent_queries, self.hidden_dim))
        self.image_token = int(model.config.image_token_id)
        self.filler = 0 if self.image_token else 1
        entry = self.family
        named = {"vision": (entry.vision,), "projector": entry.projector, "language": (entry.decoder,)}
        self.parts = {part: tuple(f"model.{name}" for name in names) for part, names in named.items()}
        self.image_tokens = len(config.cameras) * self.family.tokens(model.config, config.image_side)

    def _apply(self, function, *args, **kwargs):
        """Buffers that are computed (rotary frequencies) keep their float32: narrower numbers would spoil every position."""
        kept = [
            (module, name, buffer.detach().clone())
            for module in self.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and name in module._non_persistent_buffers_set and buffer.dtype == torch.float32
        ]
        super()._apply(function, *args, **kwargs)
        for module, name, buffer in kept:
            setattr(module, name, buffer.to(self.latents.device))
        return self

    def save_activations(self, saved: bool) -> None:
        if saved:
            self.model.activation_checkpointing_disable()
        else:
            self.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})

    def forward(
        self, images: Mapping[str, Tensor], input_ids: Tensor, layers: tuple[int, ...] | None = None
    ) -> tuple[LayerStates, LayerStates]:
        return self.fuse(self.see(images), self.text(input_ids), self.config.read_layers if layers is None else layers)

    def see(self, images: Mapping[str, Tensor]) -> Tensor:
        """camera -> (B, 3, S, S), uint8 or float in -1..1 -> (B, cameras, 3, S, S), normalised as the family's processor does."""
        side, stack = self.config.image_side, []
        for camera in self.config.cameras:
            image = images.get(camera.name)
            if image is None or tuple(image.shape[1:]) != (3, side, side):
                raise ObservationError(
                    f"Camera '{camera.name}': expected images of shape (batch, 3, {side}, {side}), got "
                    f"{'none' if image is None else tuple(image.shape)}."
                )
            stack.append(image.float() / 255.0 if image.dtype == torch.uint8 else (image.float() + 1.0) / 2.0)
        mean, std = (torch.tensor(x, device=stack[0].device).view(3, 1, 1) for x in (self.config.means, self.config.stds))
        pixels = (torch.stack(stack, 1) - mean) / std
        empty = (pixels == 0).flatten(2).all(-1).any(0)
        if bool(empty.any()):
            name = self.config.cameras[int(empty.nonzero()[0])].name
            raise ObservationError(f"Camera '{name}': its image is all of the mean colour, which this model takes for no image.")
        return pixels.to(self.latents.dtype).contiguous()  # training hands over images with the channels last

    def text(self, input_ids: Tensor) -> Tensor:
        """(B, N) -> (B, N), checked: every row has the image tokens of all cameras."""
        counts = (input_ids == self.image_token).sum(-1)
        size = max(self.model.get_input_embeddings().num_embeddings, self.image_token + 1)
        if input_ids.ndim != 2 or bool((counts != self.image_tokens).any()) or int(input_ids.max()) >= size:
            raise ObservationError(
                f"input_ids: expected {self.image_tokens} image tokens ({len(self.config.cameras)} cameras) in each row and ids "
                f"below {size}, got {counts.tolist()} and {int(input_ids.max())}. The tokenizer or the image size is of another "
                "model."
            )
        return input_ids

    def fuse(self, vision: Tensor, text: Tensor, layers: tuple[int, ...]) -> tuple[LayerStates, LayerStates]:
        """vision: of `see`; text: of `text` -> the states of the layers asked for."""
        batch, queries = len(vision), self.config.latent_queries
        unread = [layer for layer in layers if not 0 <= layer <= self.config.kept]
        if unread:
            raise CheckpointError(f"Backbone: layers {unread} were not kept; it has 0 .. {self.config.kept}.")
        text = text.expand(batch, -1)
        ids = torch.cat([text, text.new_full((batch, queries), self.filler)], 1)
        mask = ids != PADDING
        ids = ids.masked_fill(~mask, self.filler)
        states = self._hidden(vision, ids, mask, layers)
        places = ids == self.image_token
        task = {layer: states[layer][places].view(batch, self.image_tokens, -1) for layer in layers}
        return task, {layer: states[layer][:, -queries:] for layer in layers}

    def _hidden(self, vision: Tensor, ids: Tensor, mask: Tensor, layers: tuple[int, ...]) -> LayerStates:
        states: LayerStates = {}
        decoder, kept = getattr(self.model, self.family.decoder), self.config.kept

        def embedded(_, inputs, output: Tensor) -> Tensor:
            latents = self.latents.to(output.dtype).expand(len(output), -1, -1)
            return torch.cat([output[:, : -latents.shape[1]], latents], 1)

        def read(layer: int):
            return lambda _, inputs, named: states.update({layer: inputs[0] if inputs else named["hidden_states"]})

        hooks = [self.model.get_input_embeddings().register_forward_hook(embedded)]
        for layer in layers:
            if layer < kept:
                hooks.append(decoder.layers[layer].register_forward_pre_hook(read(layer), with_kwargs=True))
        try:
            arguments = self.family.pack(vision, self.model.config) | self.family.extra(ids, self.model.config)
            if not bool(mask.all()):
                arguments["attention_mask"] = mask.long()
            output = self.model(input_ids=ids, use_cache=False, **arguments)
        finally:
            for hook in hooks:
                hook.remove()
        states[kept] = output.last_hidden_state
        absent = [layer for layer in layers if layer not in states or states[layer].shape[:2] != ids.shape]
        if absent:
            raise CheckpointError(
                f"Backbone: layers {absent} of this {self.config.family} model gave no hidden states of the whole sequence. Use "
                "the release of transformers that requirements.txt names."
            )
        return states
