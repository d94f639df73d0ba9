"""The published way of running the head, written plainly: what `rdvla bench head` compares with.

Every iteration projects the whole context again in every layer, evaluates the coda and waits for the host; one coda more
runs after the stop. One matrix per map, no packing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.layers import HeadLayer


class BaselineLayer(nn.Module):
    def __init__(self, layer: HeadLayer) -> None:
        super().__init__()
        self.heads = layer.num_heads
        self.norm1, self.norm2, self.norm3, self.gate = layer.norm1, layer.norm2, layer.norm3, layer.gate
        self.q_self, self.k_self, self.v_self = _split(layer.qkv_self, 3)
        self.k_latents, self.v_latents = _split(layer.kv_latents, 2)
        self.k_vision, self.v_vision = _split(layer.kv_vision, 2)
        self.ffn_gate, self.ffn_up = _split(layer.ffn_in, 2)
        self.o_self, self.q_cross, self.o_cross, self.ffn_down = layer.o_self, layer.q_cross, layer.o_cross, layer.ffn_down

    def forward(self, x: Tensor, latents: Tensor, vision: Tensor, rotary: nn.Module) -> Tensor:
        rows = self.norm1(x)
        q, k, v = (self._heads(m(rows)) for m in (self.q_self, self.k_self, self.v_self))
        x = x + self.o_self(self._attend([rotary(q) @ rotary(k).transpose(2, 3)], [v]))
        q = self._heads(self.q_cross(self.norm2(x)))
        scores = [
            q @ self._heads(self.k_latents(latents)).transpose(2, 3),
            q @ self._heads(self.k_vision(vision)).transpose(2, 3) * torch.tanh(self.gate),
        ]
        x = x + self.o_cross(self._attend(scores, [self._heads(self.v_latents(latents)), self._heads(self.v_vision(vision))]))
        rows = self.norm3(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(rows)) * self.ffn_up(rows))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _attend(self, scores: list[Tensor], values: list[Tensor]) -> Tensor:
        width = values[0].shape[-1]
        weights = torch.softmax(torch.cat(scores, -1) / math.sqrt(width), -1)
        return (weights @ torch.cat(values, 2)).transpose(1, 2).flatten(2)


class Baseline(nn.Module):
    """The same weights as `head` (shared or sliced, before it is packed), run the published way."""

    def __init__(self, head: RDVLAHead) -> None:
        super().__init__()
        self.config, self.rotary, self.proprio, self.queries = head.config, head.rotary, head.proprio, head.action_queries
        self.prelude, self.core, self.coda = (
            nn.ModuleList(BaselineLayer(layer) for layer in stack) for stack in (head.prelude, head.core, head.coda)
        )
        adapter = torch.cat([head.adapter_state.weight, head.adapter_plan.weight], 1)
        self.adapter = _linear(adapter)
        self.gamma, self.adapter_norm, self.core_norm = head.gamma_adapt, head.adapter_norm, head.core_norm
        self.output_norm, self.output = head.output_norm, head.output

    @torch.no_grad()
    def run(
        self,
        task_states: dict[int, Tensor],
        latent_states: dict[int, Tensor],
        proprio: Tensor,
        state: Tensor,
        limit: int,
        threshold: float | None = None,
    ) -> tuple[Tensor, int]:
        """-> (chunk (B, H, A), iterations): at most `limit`, fewer where the change falls below `threshold`."""
        token = self.proprio(proprio).unsqueeze(1)
        latents = {i: torch.cat([states, token], 1) for i, states in latent_states.items()}

        def stack(layers: nn.ModuleList, indices: tuple[int, ...], x: Tensor) -> Tensor:
            for layer, i in zip(layers, indices, strict=True):
                x = layer(x, latents[i], task_states[i], self.rotary)
            return x

        def coda(x: Tensor) -> Tensor:
            return self.output(self.output_norm(stack(self.coda, self.config.coda_layers, x)))

        plan = stack(self.prelude, self.config.prelude_layers, self.queries.expand(len(proprio), -1, -1))
        previous, made = None, 0
        while made < limit:
            made += 1
            x = self.adapter_norm(self.gamma * self.adapter(torch.cat([state, plan], -1)))
            state = self.core_norm(stack(self.core, self.config.core_layers, x))
            actions = coda(state)
            if previous is not None:
                change = (actions - previous).float().square().mean().item()
                if threshold is not None and change < threshold:
                    break
            previous = actions
        return coda(state), made


def _split(linear: nn.Linear, parts: int) -> list[nn.Linear]:
    return [_linear(weight) for weight in linear.weight.chunk(parts, dim=0)]


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    return linear
