"""One head layer: self-attention over the scratchpad, gated cross-attention to the context, gated feed-forward.

The context side (keys and values) is projected by `project_context` once per decision; `forward` touches K rows only.
Maps that read the same input are one matrix: fewer kernels, each streaming more weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdvla_ros.model.config import HeadConfig


class RMSNorm(nn.Module):
    """x / rms(x) * weight, in float32 whatever the width of x."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps)
        return wide.to(x.dtype)


@dataclass(frozen=True)
class LayerContext:
    """Keys and values of one head layer over the T = Q + 1 + P context rows: each (B, heads, T, D/heads).

    Vision keys carry the factor tanh(gate), which multiplies their scores.
    """

    keys: Tensor
    values: Tensor

    def select(self, rows: Tensor) -> LayerContext:
        """The batch rows that go on."""
        return LayerContext(self.keys.index_select(0, rows), self.values.index_select(0, rows))


class HeadLayer(nn.Module):
    """The layer that prelude, core and coda are made of (rows (B, K, D) -> (B, K, D))."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        dim, inner, context = config.hidden_dim, config.ffn_multiple * config.hidden_dim, config.context_width
        self.num_heads = config.num_heads
        self.norm1 = RMSNorm(dim, config.rms_norm_eps)
        self.qkv_self = nn.Linear(dim, 3 * dim, bias=False)
        self.o_self = nn.Linear(dim, dim, bias=False)
        self.norm2 = RMSNorm(dim, config.rms_norm_eps)
        self.q_cross = nn.Linear(dim, dim, bias=False)
        self.kv_latents = nn.Linear(context, 2 * dim, bias=False)
        self.kv_vision = nn.Linear(context, 2 * dim, bias=False)
        self.gate = nn.Parameter(torch.zeros(()))
        self.o_cross = nn.Linear(dim, dim, bias=False)
        self.norm3 = RMSNorm(dim, config.rms_norm_eps)
        self.ffn_in = nn.Linear(dim, 2 * inner, bias=False)  # [gate; up]
        self.ffn_down = nn.Linear(inner, dim, bias=False)

    def project_context(self, latents: Tensor, vision: Tensor) -> LayerContext:
        """latents (B, Q + 1, C), vision (B, P, C) -> what stays the same over all iterations."""
        latent_keys, latent_values = self.kv_latents(latents).chunk(2, dim=-1)
        vision_keys, vision_values = self.kv_vision(vision).chunk(2, dim=-1)
        # (tanh(g) k) . q = tanh(g) (k . q): the gate is paid here once instead of on the scores of every iteration.
        vision_keys = vision_keys * torch.tanh(self.gate)
        return LayerContext(self._heads(torch.cat([latent_keys, vision_keys], 1)).contiguous(),
                            self._heads(torch.cat([latent_values, vision_values], 1)).contiguous())

    def forward(self, x: Tensor, context: LayerContext, rotary: Rotary) -> Tensor:
        query, key, value = (self._heads(part) for part in self.qkv_self(self.norm1(x)).chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(rotary(query), rotary(key), value)
        x = x + self.o_self(self._rows(attended))
        query = self._heads(self.q_cross(self.norm2(x)))
        x = x + self.o_cross(self._rows(F.scaled_dot_product_attention(query, context.keys, context.values)))
        gate, up = self.ffn_in(self.norm3(x)).chunk(2, dim=-1)
        return x + self.ffn_down(F.silu(gate) * up)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, R, D) -> (B, heads, R, D/heads)"""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    @staticmethod
    def _rows(x: Tensor) -> Tensor:
        """(B, heads, R, D/heads) -> (B, R, D)"""
        return x.transpose(1, 2).flatten(2)


class Rotary(nn.Module):
    """Rotary positions 0..K-1 for (B, heads, K, d).

    Pair j of d/2 turns by position * base^(-2j/d). "standard" pairs (x_j, x_{j + d/2}). "published" pairs the neighbours
    (x_2j, x_2j+1) but takes the angles of the other layout, [f, f]: the two numbers of a pair turn by different angles.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        half = config.head_dim // 2
        frequency = config.rope_base ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.outer(torch.arange(config.rows, dtype=torch.float64), frequency).repeat(1, 2)
        self.published = config.rotary_form == "published"
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.published:
            even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
            turned = torch.stack([-odd, even], -1).flatten(-2)
        else:
            first, second = x.chunk(2, dim=-1)
            turned = torch.cat([-second, first], -1)
        return (x * self.cos + turned * self.sin).to(x.dtype)
