"""A few million parameters of vision and language, small enough to train from scratch on two processor cores.

Per camera: a convolutional stem, then two kinds of tokens.
- Keypoint tokens: M learned attention maps over the fine features; each token is the features pooled under one map plus
  the map's expected position. A position comes out finer than a pixel, which is what grasping needs, for the price of one
  1 x 1 convolution.
- Grid tokens: the coarse features, one token per patch, for everything no keypoint follows.
The instruction's words are pooled into a few text tokens. A pre-norm transformer runs over
[vision tokens; text tokens; latent queries]. Proprioception enters the head, not the backbone.

A view of a camera may go past the transformer: its keypoint tokens, and text tokens of their own, stand beside the latent queries
in every layer that the head reads. So the head itself can look things up, one after the other, in what is seen and named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from rdvla_ros.model.backbones.base import Backbone, LayerStates, register_backbone
from rdvla_ros.types import CheckpointError, ObservationError


@dataclass(frozen=True)
class CameraInput:
    """One view of a camera, as the network sees it.

    name: of the view; camera: the camera that it is of ("": the one with the view's name);
    crop: (left, top, right, bottom) as fractions of the image; width, height: size after shrinking [px];
    keypoints: number of keypoint tokens; channels: widths of the stem at strides 2, 4 and 8;
    to_head: the keypoint tokens go to the head as they are, past the transformer, and there are no others.
    """

    name: str
    width: int
    height: int
    crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    keypoints: int = 16
    channels: tuple[int, int, int] = (24, 48, 96)
    camera: str = ""
    to_head: bool = False

    @property
    def source(self) -> str:
        """The camera's name."""
        return self.camera or self.name

    def __post_init__(self) -> None:
        left, top, right, bottom = self.crop
        if not (0.0 <= left < right <= 1.0 and 0.0 <= top < bottom <= 1.0):
            raise CheckpointError(
                f"Camera '{self.name}': crop: expected 0 <= left < right <= 1, 0 <= top < bottom <= 1, got {self.crop}."
            )
        if min(self.width, self.height) < 16:
            raise CheckpointError(f"Camera '{self.name}': expected at least 16 x 16 pixels, got {self.width} x {self.height}.")


@dataclass(frozen=True)
class CompactConfig:
    """Sizes of the compact backbone; `vocabulary_size` counts the tokenizer's ids, padding included (id 0).

    head_text_tokens: further text tokens, which go to the head as they are, like the views that do.
    """

    cameras: tuple[CameraInput, ...]
    vocabulary_size: int
    hidden_dim: int = 192
    num_heads: int = 6
    num_layers: int = 4
    mlp_ratio: float = 2.0
    latent_queries: int = 16
    text_tokens: int = 4
    max_words: int = 48
    head_text_tokens: int = 0

    @property
    def head_tokens(self) -> int:
        """Keypoint tokens that go to the head as they are."""
        return sum(camera.keypoints for camera in self.cameras if camera.to_head)

    @classmethod
    def from_dict(cls, data: Mapping) -> CompactConfig:
        cameras = tuple(
            CameraInput(**{**camera, "crop": tuple(camera["crop"]), "channels": tuple(camera["channels"])})
            for camera in data["cameras"]
        )
        return cls(**{**data, "cameras": cameras})

    def to_dict(self) -> dict:
        return asdict(self)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))): no normalisation (slow on a CPU); the second map starts at zero, which keeps it stable."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.kaiming_normal_(self.conv1.weight, nonlinearity="relu")
        nn.init.zeros_(self.conv2.weight)
        for conv in (self.conv1, self.conv2):
            nn.init.zeros_(conv.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    nn.init.zeros_(conv.bias)
    return conv


GRID_PATCH = 4  # cells of the stride-8 map per side of a grid token


class CameraStem(nn.Module):
    """(B, 3, h, w) in -1..1 -> (B, M + G, D): M keypoint tokens and G grid tokens of one camera."""

    def __init__(self, camera: CameraInput, hidden_dim: int):
        super().__init__()
        fine, coarse = camera.channels[1], camera.channels[2]
        self.down2 = _conv(3, camera.channels[0], 5, 2)
        self.down4 = _conv(camera.channels[0], fine, 3, 2)
        self.fine = ResidualBlock(fine)
        self.down8 = _conv(fine, coarse, 3, 2)
        self.coarse = ResidualBlock(coarse)
        self.lateral = nn.Conv2d(coarse, fine, 1)
        self.maps = nn.Conv2d(fine, camera.keypoints, 1)
        rows4, cols4 = _halved(camera.height, 2), _halved(camera.width, 2)
        rows8, cols8 = _halved(camera.height, 3), _halved(camera.width, 3)
        self.grid_size = (0, 0) if camera.to_head else (-(-rows8 // GRID_PATCH), -(-cols8 // GRID_PATCH))
        self.grid = None if camera.to_head else nn.Conv2d(coarse, hidden_dim, GRID_PATCH, GRID_PATCH)
        self.grid_padding = (0, self.grid_size[1] * GRID_PATCH - cols8, 0, self.grid_size[0] * GRID_PATCH - rows8)
        self.point_features = nn.Linear(fine, hidden_dim)
        self.point_position = nn.Linear(2 + 4 * FREQUENCIES, hidden_dim)
        self.token_embedding = nn.Parameter(
            0.02 * torch.randn(camera.keypoints + self.grid_size[0] * self.grid_size[1], hidden_dim)
        )
        self.project = None  # after the last sum; without it a token is linear in what was pooled
        if camera.to_head:
            self.project = nn.Sequential(nn.Linear(hidden_dim, 2 * hidden_dim), nn.GELU(), nn.Linear(2 * hidden_dim, hidden_dim))
        ys, xs = torch.meshgrid(torch.linspace(-1, 1, rows4), torch.linspace(-1, 1, cols4), indexing="ij")
        self.register_buffer("cells", torch.stack([xs, ys], -1).reshape(-1, 2), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.fine(F.relu(self.down4(F.relu(self.down2(image)))))
        deep = self.coarse(F.relu(self.down8(F.relu(x))))
        context = F.interpolate(self.lateral(deep), size=x.shape[-2:], mode="nearest")
        fine = F.relu(x + context)
        weights = self.maps(fine).flatten(2).float().softmax(-1)  # (B, M, cells)
        pooled = weights.to(fine.dtype) @ fine.flatten(2).transpose(1, 2)  # (B, M, C)
        position = weights @ self.cells.float()  # (B, M, 2) in -1..1, x then y
        points = self.point_features(pooled) + self.point_position(position_code(position).to(fine.dtype))
        if self.project is not None:
            return self.project(points + self.token_embedding)
        grid = self.grid(F.pad(F.relu(deep), self.grid_padding)).flatten(2).transpose(1, 2)
        return torch.cat([points, grid], 1) + self.token_embedding


FREQUENCIES = 5


def position_code(position: torch.Tensor) -> torch.Tensor:
    """(..., 2) in -1..1 -> (..., 2 + 4 * FREQUENCIES): the position and sines and cosines of pi/2 * 2^i times it."""
    scale = 1.5707963 * 2.0 ** torch.arange(FREQUENCIES, dtype=position.dtype, device=position.device)
    angles = (position.unsqueeze(-1) * scale).flatten(-2)
    return torch.cat([position, angles.sin(), angles.cos()], -1)


def _halved(size: int, times: int) -> int:
    for _ in range(times):
        size = (size + 1) // 2
    return size


class TextPool(nn.Module):
    """(B, N) word ids (0 = padding) -> (B, T, D): T learned queries attend once over the words.

    beside: another pool with words of its own, whose tokens follow.
    """

    def __init__(
        self, vocabulary_size: int, max_words: int, tokens: int, hidden_dim: int, num_heads: int, beside: TextPool | None = None
    ):
        super().__init__()
        self.num_heads, self.beside = num_heads, beside
        self.words = nn.Embedding(vocabulary_size, hidden_dim)
        self.places = nn.Parameter(0.02 * torch.randn(max_words, hidden_dim))
        self.queries = nn.Parameter(0.02 * torch.randn(tokens, hidden_dim))
        self.key_value = nn.Linear(hidden_dim, 2 * hidden_dim)
        self.out = nn.Linear(hidden_dim, hidden_dim)
        nn.init.normal_(self.words.weight, std=0.5)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        batch, count = input_ids.shape
        words = self.words(input_ids) + self.places[:count]
        key, value = (_split_heads(part, self.num_heads) for part in self.key_value(words).chunk(2, -1))
        query = _split_heads(self.queries.to(key.dtype).expand(batch, -1, -1), self.num_heads)
        # An empty instruction still has one padding word to look at: a row without any key would be NaN.
        allowed = input_ids.ne(0)
        allowed = torch.cat([allowed[:, :1] | ~allowed.any(1, keepdim=True), allowed[:, 1:]], 1)
        pooled = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed[:, None, None])
        tokens = self.queries + self.out(_merge_heads(pooled))
        return tokens if self.beside is None else torch.cat([tokens, self.beside(input_ids)], 1)


def _split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _merge_heads(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).flatten(2)


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, training: bool) -> torch.Tensor:
    """(B, heads, T, d); in training written out, whose backward pass is five times as fast on a CPU at these sizes."""
    if not training:
        return F.scaled_dot_product_attention(query, key, value)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return scores.softmax(-1).to(value.dtype) @ value


class Block(nn.Module):
    """Pre-norm transformer layer over all tokens, bidirectional."""

    def __init__(self, hidden_dim: int, num_heads: int, mlp_ratio: float):
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden_dim), nn.LayerNorm(hidden_dim)
        self.qkv, self.out = nn.Linear(hidden_dim, 3 * hidden_dim), nn.Linear(hidden_dim, hidden_dim)
        inner = int(mlp_ratio * hidden_dim)
        self.up, self.down = nn.Linear(hidden_dim, inner), nn.Linear(inner, hidden_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (_split_heads(part, self.num_heads) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.out(_merge_heads(_attention(query, key, value, self.training)))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


@register_backbone("compact")
class CompactBackbone(Backbone):
    """Stems, text pool and transformer; see the module's docstring."""

    config_class = CompactConfig

    def __init__(self, config: CompactConfig):
        super().__init__()
        self.config = config
        self.hidden_dim, self.num_layers = config.hidden_dim, config.num_layers
        width = config.hidden_dim
        self.stems = nn.ModuleDict({camera.name: CameraStem(camera, width) for camera in config.cameras})
        words = config.vocabulary_size, config.max_words
        to_head = TextPool(*words, config.head_text_tokens, width, config.num_heads) if config.head_text_tokens else None
        self.text = TextPool(*words, config.text_tokens, width, config.num_heads, to_head)
        self.latents = nn.Parameter(0.02 * torch.randn(config.latent_queries, width))
        self.input_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList([Block(width, config.num_heads, config.mlp_ratio) for _ in range(config.num_layers)])
        self.final_norm = nn.LayerNorm(width)
        for block in self.blocks:
            for linear in (block.qkv, block.out, block.up, block.down):
                nn.init.trunc_normal_(linear.weight, std=(2.0 / (5.0 * width)) ** 0.5)
                nn.init.zeros_(linear.bias)
            for linear in (block.out, block.down):
                linear.weight.data.div_((2.0 * config.num_layers) ** 0.5)

    def forward(
        self, images: Mapping[str, torch.Tensor], input_ids: torch.Tensor, layers: tuple[int, ...]
    ) -> tuple[LayerStates, LayerStates]:
        vision = self.see(images)
        return self.fuse(vision, self.text(input_ids), layers)

    def see(self, images: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """view name -> (B, 3, h, w) uint8, or float already in -1..1 -> (B, P, D), the tokens to the head last."""
        tokens = []
        for camera in sorted(self.config.cameras, key=lambda camera: camera.to_head):
            image = images.get(camera.name)
            if image is None or tuple(image.shape[1:]) != (3, camera.height, camera.width):
                raise ObservationError(
                    f"Camera '{camera.name}': expected images of shape (batch, 3, {camera.height}, {camera.width}), "
                    f"got {'none' if image is None else tuple(image.shape)}."
                )
            if image.dtype == torch.uint8:
                image = image.to(self.latents.dtype) / 127.5 - 1.0
            tokens.append(self.stems[camera.name](image.contiguous(memory_format=torch.channels_last)))
        return torch.cat(tokens, 1)

    def fuse(self, vision: torch.Tensor, text: torch.Tensor, layers: tuple[int, ...]) -> tuple[LayerStates, LayerStates]:
        """vision (B, P, D) and text (B, T, D) tokens -> the states of the layers asked for."""
        count, words = self.config.head_tokens, self.config.text_tokens
        batch, patches = len(vision), vision.shape[1] - count
        to_head = [vision[:, patches:], text[:, words:].to(vision.dtype).expand(batch, -1, -1)]
        latents = self.latents.to(vision.dtype).expand(batch, -1, -1)
        x = self.input_norm(torch.cat([vision[:, :patches], text[:, :words].to(vision.dtype), latents], 1))
        states = {0: x}
        for index, block in enumerate(self.blocks[: max(layers)], start=1):
            x = block(x)
            states[index] = self.final_norm(x) if index == self.num_layers else x
        first_latent = x.shape[1] - latents.shape[1]
        task = {layer: states[layer][:, : patches or words] for layer in layers}  # where every view goes past: the text's
        return task, {layer: torch.cat([states[layer][:, first_latent:], *to_head], 1) for layer in layers}
