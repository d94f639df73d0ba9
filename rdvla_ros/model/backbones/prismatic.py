"""The published backbone: DINOv2 and SigLIP side by side, a projector, and Qwen2.5 with learned latent queries.

Sequence: [token 0; P image tokens; the other N - 1 tokens; Q latent queries; token 2], causal. Only what is read is computed: the
last query and token 2 come after everything that is read, so they are left out, as are the layers above those the head reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdvla_ros.model.backbones.base import Backbone, LayerStates, register_backbone
from rdvla_ros.model.backbones.vit import VisionTower, VitConfig
from rdvla_ros.model.resample import Preprocessing
from rdvla_ros.types import CheckpointError, ObservationError

CHANNELS = 6  # per image: three for each tower


@dataclass(frozen=True)
class TextConfig:
    """The Qwen2 decoder. layers: in the published model; how many are kept follows from what is read."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    max_tokens: int = 32768


@dataclass(frozen=True)
class SquareView:
    """A camera whose whole image becomes size x size pixels."""

    name: str
    size: int

    width = property(lambda self: self.size)
    height = property(lambda self: self.size)
    crop = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class PrismaticConfig:
    """dino, siglip: the two towers. read_layers: indices of hidden states that can be asked for (0 = embeddings).

    shifted: the published weights take task states from one position too early (token 0 is in, the last patch is out) and latent
    states likewise. camera_names: in the order of the images in the sequence; empty: any number, named by nobody.
    """

    dino: VitConfig
    siglip: VitConfig
    text: TextConfig
    read_layers: tuple[int, ...]
    latent_queries: int = 64
    shifted: bool = True
    camera_names: tuple[str, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    def __post_init__(self) -> None:
        if not self.read_layers or max(self.read_layers) > self.text.layers or min(self.read_layers) < 0:
            raise CheckpointError(
                f"Backbone: the head reads layers {list(self.read_layers)}, expected indices 0 .. {self.text.layers} (the number "
                "of decoder layers). The head and the language model are of different checkpoints."
            )
        if self.dino.patches != self.siglip.patches or self.dino.image != self.siglip.image:
            raise CheckpointError(
                f"Backbone: expected two towers of the same images and patches, got {self.dino.patches} patches of "
                f"{self.dino.image} px and {self.siglip.patches} of {self.siglip.image} px."
            )

    @property
    def kept_layers(self) -> int:
        return max(1, *self.read_layers)

    @property
    def cameras(self) -> tuple[SquareView, ...]:
        return tuple(SquareView(name, self.dino.image) for name in self.camera_names)

    @classmethod
    def from_dict(cls, data: Mapping) -> PrismaticConfig:
        values = dict(data)
        for name, kind in (("dino", VitConfig), ("siglip", VitConfig), ("text", TextConfig)):
            values[name] = kind(**values[name])
        settings = dict(values["preprocessing"])
        settings |= {name: tuple(map(tuple, settings[name])) for name in ("means", "stds")}
        values["preprocessing"] = Preprocessing(**settings)
        values |= {name: tuple(values[name]) for name in ("read_layers", "camera_names")}
        return cls(**values)

    def to_dict(self) -> dict:
        return asdict(self)


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

    def forward(
        self, images: Tensor | Mapping[str, Tensor], input_ids: Tensor, layers: tuple[int, ...] | None = None
    ) -> tuple[LayerStates, LayerStates]:
        """images: pixel_values (B, 6 * images, S, S), or camera name -> (B, 6, S, S); layers: default all that can be read."""
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
            images = torch.cat([images[name] for name in (names or images)], 1)
        count, rest = divmod(images.shape[1], CHANNELS) if images.ndim == 4 else (0, 1)
        if rest or not count or images.shape[2:] != (size, size) or (names and count != len(names)):
            wanted = f"{CHANNELS * len(names)} ({len(names)} cameras)" if names else f"{CHANNELS} per image"
            raise ObservationError(
                f"pixel_values: expected shape (batch, {wanted}, {size}, {size}), got {tuple(images.shape)}. Each image has "
                "three channels normalised for each of the two towers."
            )
        return images

    def text(self, input_ids: Tensor) -> Tensor:
        """(B, N) token ids -> (B, N, D)."""
        vocabulary = self.config.text.vocabulary
        if input_ids.ndim != 2 or not input_ids.shape[1]:
            raise ObservationError(f"input_ids: expected shape (batch, tokens) with a token, got {tuple(input_ids.shape)}.")
        if int(input_ids.min()) < 0 or int(input_ids.max()) >= vocabulary:
            raise ObservationError(
                f"input_ids: expected ids 0 .. {vocabulary - 1}, got {int(input_ids.min())} .. {int(input_ids.max())}. The "
                "tokenizer is of another checkpoint."
            )
        return self.language.embed_tokens(input_ids)

    def fuse(self, vision: Tensor, text: Tensor, layers: tuple[int, ...]) -> tuple[LayerStates, LayerStates]:
        """vision (B, P, D), text (B, N, D) -> the states of the layers asked for."""
        unread = [layer for layer in layers if layer > self.config.kept_layers or layer < 0]
        if unread:
            raise CheckpointError(
                f"Backbone: layers {unread} were not kept; it has 0 .. {self.config.kept_layers}. Load it with read_layers."
            )
        patches, queries, shift = vision.shape[1], self.config.latent_queries, int(self.config.shifted)
        latents = self.latents[: queries - shift].to(vision.dtype).expand(len(vision), -1, -1)
        text = text.expand(len(vision), -1, -1)
        sequence = torch.cat([text[:, :1], vision, text[:, 1:], latents], 1)
        if sequence.shape[1] + shift + 1 > self.config.text.max_tokens:
            raise ObservationError(
                f"Sequence: expected at most {self.config.text.max_tokens} tokens, got {sequence.shape[1] + shift + 1} "
                f"({patches} of images, {text.shape[1]} of the prompt). Use fewer cameras or a shorter instruction."
            )
        states = self._hidden(sequence, layers)
        first, last = patches + text.shape[1] - shift, patches + text.shape[1] - shift + queries
        task = {layer: states[layer][:, 1 - shift : 1 - shift + patches] for layer in layers}
        return task, {layer: states[layer][:, first:last] for layer in layers}

    def _hidden(self, sequence: Tensor, layers: tuple[int, ...]) -> LayerStates:
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
                states[self.config.kept_layers] = self.language(inputs_embeds=sequence, use_cache=False).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        return states
