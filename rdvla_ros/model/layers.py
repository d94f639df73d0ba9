"""One head layer: self-attention over the scratchpad, gated cross-attention to the context, gated feed-forward.

The context side is prepared once per decision; `forward` touches K rows only. Maps that read the same input are one matrix:
fewer kernels, each streaming more weights.
"""

from __future__ import annotations

import math
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
        wide = torch.promote_types(x.dtype, torch.float32)
        if torch.is_grad_enabled():
            return F.rms_norm(x.to(wide), self.weight.shape, self.weight.to(wide), self.eps).to(x.dtype)
        # The same in fewer kernels than rms_norm takes on a CPU; they are a fifth of a small head's iteration.
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        return (x * norm.square_().div_(x.shape[-1]).add_(self.eps).rsqrt_()).mul_(self.weight).to(x.dtype)


@dataclass(frozen=True)
class ProjectedContext:
    """Keys and values of one head layer over the T = Q + 1 + P context rows: each (B, heads, T, d).

    Vision keys carry the factor tanh(gate), which multiplies their scores; all carry 1 / sqrt(d).
    """

    keys: Tensor
    values: Tensor

    def attend(self, query: Tensor) -> Tensor:
        """(M, heads, K, d) -> the same; M = B, or any M where B = 1 (several states of one decision)."""
        if len(query) != len(self.keys):
            return _one_batch(self, query)
        # Plain products: for a handful of rows faster than the fused attention kernel, which is made for long queries.
        return torch.matmul(torch.matmul(query, self.keys.transpose(2, 3)).softmax(-1), self.values)

    def select(self, rows: Tensor) -> ProjectedContext:
        """The batch rows that go on."""
        return ProjectedContext(self.keys.index_select(0, rows), self.values.index_select(0, rows))


@dataclass(frozen=True)
class FoldedContext:
    """The context itself, with the key and value maps applied on the side of the K rows: W_k h . q = h . W_k^T q.

    Projecting costs 2 T C D multiplications, folding about 4 K C D + 2 heads K C T per use: ten times less at full size,
    so a layer that is evaluated once or a few times per decision (prelude, coda) never projects its context.
    latents (B, Q + 1, C), vision (B, P, C); key_maps, value_maps: for latents and vision, each (heads, d, C).
    """

    latents: Tensor
    vision: Tensor
    key_maps: tuple[Tensor, Tensor]
    value_maps: tuple[Tensor, Tensor]
    gate: Tensor

    def attend(self, query: Tensor) -> Tensor:
        """See ProjectedContext.attend."""
        if len(query) != len(self.latents):
            return _one_batch(self, query)
        groups = (self.latents, self.vision)
        factors = (1.0, torch.tanh(self.gate))
        query = query / math.sqrt(query.shape[-1])
        # h . (W_k^T q) with the long side first, which the matrix kernels prefer: (B, T, heads * K).
        scores = [
            torch.matmul(group, torch.matmul(query, maps).flatten(1, 2).transpose(1, 2)) * factor
            for group, maps, factor in zip(groups, self.key_maps, factors, strict=True)
        ]
        weights = torch.cat(scores, 1).transpose(1, 2).softmax(-1).split([group.shape[1] for group in groups], -1)
        read = [torch.matmul(part, group).unflatten(1, query.shape[1:3]) for part, group in zip(weights, groups, strict=True)]
        return sum(torch.matmul(rows, maps.transpose(1, 2)) for rows, maps in zip(read, self.value_maps, strict=True))

    def select(self, rows: Tensor) -> FoldedContext:
        return FoldedContext(
            self.latents.index_select(0, rows), self.vision.index_select(0, rows), self.key_maps, self.value_maps, self.gate
        )


def _one_batch(context: ProjectedContext | FoldedContext, query: Tensor) -> Tensor:
    """Rows attend to the context independently, so M states of one decision are M * K rows of one attention."""
    heads, rows, width = query.shape[1:]
    merged = query.transpose(0, 1).reshape(1, heads, -1, width)
    return context.attend(merged).reshape(heads, -1, rows, width).transpose(0, 1)


class HeadLayer(nn.Module):
    """The layer that prelude, core and coda are made of: (B, K, D) -> (B, K, D)."""

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

    def project_context(self, latents: Tensor, vision: Tensor) -> ProjectedContext:
        """latents (B, Q + 1, C), vision (B, P, C) -> keys and values, for a layer that is evaluated many times."""
        latent_keys, latent_values = self._heads(self.kv_latents(latents), groups=2).chunk(2, dim=1)
        vision_keys, vision_values = self._heads(self.kv_vision(vision), groups=2).chunk(2, dim=1)
        # (tanh(g) k) . q = tanh(g) (k . q): gate and scale are paid here once instead of on the scores of every iteration.
        scale = 1 / math.sqrt(latent_keys.shape[-1])
        return ProjectedContext(
            torch.cat([latent_keys * scale, vision_keys * (scale * torch.tanh(self.gate))], 2),
            torch.cat([latent_values, vision_values], 2),
        )

    def fold_context(self, latents: Tensor, vision: Tensor) -> FoldedContext:
        """The same context for a layer that is evaluated a few times."""
        maps = [module.weight.unflatten(0, (2, self.num_heads, -1)).unbind(0) for module in (self.kv_latents, self.kv_vision)]
        keys, values = zip(*maps, strict=True)
        return FoldedContext(latents, vision, keys, values, self.gate)

    def forward(self, x: Tensor, context: ProjectedContext | FoldedContext, rotary: Rotary) -> Tensor:
        return self.read(*self.ask(x, rotary), context)

    def ask(self, x: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
        """What needs no context: rows after self-attention (B, K, D), and their question to the context (B, heads, K, d)."""
        qkv = self._heads(self.qkv_self(self.norm1(x)), groups=3)
        query, key = rotary(qkv[:, : 2 * self.num_heads]).chunk(2, dim=1)
        value = qkv[:, 2 * self.num_heads :]
        x = x + self.o_self(self._rows(F.scaled_dot_product_attention(query, key, value)))
        return x, self._heads(self.q_cross(self.norm2(x)))

    def read(self, x: Tensor, query: Tensor, context: ProjectedContext | FoldedContext) -> Tensor:
        """The rest of the layer, from what `ask` returned."""
        x = x + self.o_cross(self._rows(context.attend(query)))
        gate, up = self.ffn_in(self.norm3(x)).chunk(2, dim=-1)
        return x + self.ffn_down(F.silu(gate) * up)

    def _heads(self, x: Tensor, groups: int = 1) -> Tensor:
        """(B, R, groups * D) -> (B, groups * heads, R, d)"""
        return x.unflatten(-1, (groups * self.num_heads, -1)).transpose(1, 2)

    @staticmethod
    def _rows(x: Tensor) -> Tensor:
        """(B, heads, R, d) -> (B, R, D)"""
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
        # x cos + turned sin, where `turned` is x with the numbers of each pair exchanged and the first one negated.
        if config.rotary_form == "published":
            partner = torch.arange(2 * half).view(-1, 2).flip(1).flatten()
            sign = torch.tensor([-1.0, 1.0]).repeat(half)
        else:
            partner = torch.arange(2 * half).roll(half)
            sign = torch.tensor([-1.0, 1.0]).repeat_interleave(half)
        self._exact = angle.cos(), angle.sin() * sign, partner
        self._rounded: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor, Tensor]] = {}

    def _tables(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Not buffers: a head in bfloat16 still turns by angles of full precision."""
        if (device, dtype) not in self._rounded:
            cos, sin, partner = self._exact
            with torch.inference_mode(False):  # a head that has decided once may still be trained
                self._rounded[device, dtype] = cos.to(device, dtype), sin.to(device, dtype), partner.to(device)
        return self._rounded[device, dtype]

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        cos, sin, partner = self._tables(wide.device, wide.dtype)
        return torch.addcmul(wide * cos, wide.index_select(-1, partner), sin).to(x.dtype)
