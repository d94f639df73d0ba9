"""The vision transformers of the published backbone: DINOv2 with registers and SigLIP, up to the features that are read.

One class for both: they differ in sizes, in the prefix tokens and in LayerScale. Names are those of the published weights, so
that a checkpoint needs no table.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

EPS = 1e-6


@dataclass(frozen=True)
class VitConfig:
    """width W, heads, inner width of the MLP, blocks that are run, patch side [px], image side [px].

    registers: register tokens after the class token; class_token: whether there is one. layer_scale: see Block.
    """

    width: int
    heads: int
    inner: int
    blocks: int
    patch: int
    image: int
    class_token: bool = False
    registers: int = 0
    layer_scale: bool = False

    @property
    def prefix(self) -> int:
        return int(self.class_token) + self.registers

    @property
    def patches(self) -> int:
        return (self.image // self.patch) ** 2


class Attention(nn.Module):
    """(B, T, W), bidirectional."""

    def __init__(self, config: VitConfig):
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, config: VitConfig):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(config.width, config.inner), nn.Linear(config.inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_factor


class Block(nn.Module):
    """Pre-norm layer; with LayerScale each branch has a learned factor per channel."""

    def __init__(self, config: VitConfig):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(config.width, eps=EPS) for _ in range(2))
        self.attn, self.mlp = Attention(config), Mlp(config)
        self.ls1, self.ls2 = (LayerScale(config.width) if config.layer_scale else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbedding(nn.Module):
    def __init__(self, config: VitConfig):
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch, config.patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class VisionTower(nn.Module):
    """(B, 3, image, image) normalised -> (B, patches, W) after the last block that is run, without norm or prefix tokens."""

    def __init__(self, config: VitConfig):
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, config.patches, config.width))
        if config.class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        if config.registers:
            self.reg_token = nn.Parameter(torch.zeros(1, config.registers, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.checkpointing = False  # in training: each block is computed again in the backward pass instead of remembered

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images) + self.pos_embed
        prefix = [getattr(self, name).expand(len(x), -1, -1) for name in ("cls_token", "reg_token") if hasattr(self, name)]
        x = torch.cat([*prefix, x], 1) if prefix else x
        for block in self.blocks:
            again = self.checkpointing and self.training and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
        return x[:, self.config.prefix :]
