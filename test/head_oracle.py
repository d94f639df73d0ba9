"""The head's formulas written out plainly, uncached, from a dict of tensors under the published names.

Nothing here imports the package: it is what the fast path is held against. Shapes: rows (B, K, D), latents (B, Q, D),
vision (B, P, D), all in the dtype of the weights.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch


@dataclass
class OracleConfig:
    hidden_dim: int
    num_heads: int
    prelude: tuple[int, ...]
    core: tuple[int, ...]
    coda: tuple[int, ...]
    chunk_length: int
    action_dim: int
    proprio_dim: int
    published_rotary: bool = False
    eps: float = 1e-6
    rope_base: float = 10000.0
    ffn_multiple: int = 4


def random_weights(config: OracleConfig, seed: int, scale: float = 1.0) -> tuple[dict, dict]:
    """(head, projector) tensors of every published name, with weights large enough that every term matters."""
    generator = torch.Generator().manual_seed(seed)
    dim, inner = config.hidden_dim, config.ffn_multiple * config.hidden_dim

    def matrix(rows, columns):
        return torch.randn(rows, columns, generator=generator) * scale / math.sqrt(columns)

    def norm():
        return 1 + 0.2 * torch.randn(dim, generator=generator)

    head = {
        "action_queries": torch.randn(config.chunk_length, dim, generator=generator),
        "adapter.weight": matrix(dim, 2 * dim),
        "adapter_norm.weight": norm(),
        "gamma_adapt": torch.tensor(1.3),
        "gamma_init": torch.tensor(0.9),
        "recurrent_norm.weight": norm(),
        "output_norm.weight": norm(),
        "output_proj.weight": matrix(config.action_dim, dim),
        "output_proj.bias": torch.randn(config.action_dim, generator=generator),
    }
    for stack, layers in (("prelude", config.prelude), ("recurrent", config.core), ("coda", config.coda)):
        for i in range(len(layers)):
            for name in ("norm1", "norm2", "norm3"):
                head[f"{stack}.{i}.{name}.weight"] = norm()
            for name in (
                "q_self",
                "k_self",
                "v_self",
                "o_self",
                "q_cross",
                "k_latents",
                "v_latents",
                "k_vision",
                "v_vision",
                "o_cross",
            ):
                head[f"{stack}.{i}.{name}.weight"] = matrix(dim, dim)
            head[f"{stack}.{i}.gate"] = torch.randn(1, generator=generator)
            head[f"{stack}.{i}.ffn_gate.weight"] = matrix(inner, dim)
            head[f"{stack}.{i}.ffn_up.weight"] = matrix(inner, dim)
            head[f"{stack}.{i}.ffn_down.weight"] = matrix(dim, inner)
    projector = {
        "fc1.weight": matrix(dim, config.proprio_dim),
        "fc1.bias": torch.randn(dim, generator=generator),
        "fc2.weight": matrix(dim, dim),
        "fc2.bias": torch.randn(dim, generator=generator),
    }
    return head, projector


def rms_norm(x, weight, eps):
    wide = x.float() if x.dtype != torch.float64 else x
    return (wide / torch.sqrt((wide * wide).mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


@functools.cache
def rotation(position, width, published, base):
    """(d, d): what a rotary position does to one head's vector."""
    matrix = torch.zeros(width, width, dtype=torch.float64)
    for j in range(width):
        angle = position * base ** (-2 * (j % (width // 2)) / width)  # laid out for split halves in both forms
        if published:  # neighbours (x0, x1) -> (-x1, x0)
            partner, sign = (j + 1, -1) if j % 2 == 0 else (j - 1, 1)
        else:
            partner, sign = (j + width // 2, -1) if j < width // 2 else (j - width // 2, 1)
        matrix[j, j] = math.cos(angle)
        matrix[j, partner] = sign * math.sin(angle)
    return matrix


def rotate(x, config: OracleConfig):
    """x (B, K, d) of one head."""
    return torch.stack(
        [x[:, p] @ rotation(p, x.shape[-1], config.published_rotary, config.rope_base).to(x.dtype).T for p in range(x.shape[1])],
        1,
    )


def layer(w, prefix, x, latents, vision, config: OracleConfig):
    n, d = config.num_heads, config.hidden_dim // config.num_heads

    def linear(name, rows):
        return rows @ w[f"{prefix}.{name}.weight"].T

    def norm(name, rows):
        return rms_norm(rows, w[f"{prefix}.{name}.weight"], config.eps)

    rows = norm("norm1", x)
    q, k, v = linear("q_self", rows), linear("k_self", rows), linear("v_self", rows)
    heads = []
    for h in range(n):
        part = slice(h * d, (h + 1) * d)
        scores = rotate(q[..., part], config) @ rotate(k[..., part], config).transpose(1, 2) / math.sqrt(d)
        heads.append(scores.softmax(-1) @ v[..., part])
    x = x + linear("o_self", torch.cat(heads, -1))

    q = linear("q_cross", norm("norm2", x))
    groups = [
        (linear("k_latents", latents), linear("v_latents", latents), 1.0),
        (linear("k_vision", vision), linear("v_vision", vision), torch.tanh(w[f"{prefix}.gate"])),
    ]
    heads = []
    for h in range(n):
        part = slice(h * d, (h + 1) * d)
        scores = torch.cat(
            [factor * (q[..., part] @ keys[..., part].transpose(1, 2)) / math.sqrt(d) for keys, _, factor in groups], -1
        )
        heads.append(scores.softmax(-1) @ torch.cat([values[..., part] for _, values, _ in groups], 1))
    x = x + linear("o_cross", torch.cat(heads, -1))

    rows = norm("norm3", x)
    gate = linear("ffn_gate", rows)
    return x + linear("ffn_down", gate * torch.sigmoid(gate) * linear("ffn_up", rows))


class Oracle:
    """One observation's head: task_states and latent_states per layer index, proprio (B, proprio_dim)."""

    def __init__(self, head, projector, config, task_states, latent_states, proprio):
        self.w, self.config, self.task = head, config, task_states
        hidden = proprio @ projector["fc1.weight"].T + projector["fc1.bias"]
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
        token = (hidden @ projector["fc2.weight"].T + projector["fc2.bias"]).unsqueeze(1)
        self.latents = {i: torch.cat([states, token], 1) for i, states in latent_states.items()}
        self.batch = proprio.shape[0]

    def _stack(self, name, layers, x):
        for i, index in enumerate(layers):
            x = layer(self.w, f"{name}.{i}", x, self.latents[index], self.task[index], self.config)
        return x

    def prelude(self):
        return self._stack("prelude", self.config.prelude, self.w["action_queries"].repeat(self.batch, 1, 1))

    def iterate(self, state, plan):
        x = self.w["gamma_adapt"] * (torch.cat([state, plan], -1) @ self.w["adapter.weight"].T)
        x = self._stack("recurrent", self.config.core, rms_norm(x, self.w["adapter_norm.weight"], self.config.eps))
        return rms_norm(x, self.w["recurrent_norm.weight"], self.config.eps)

    def decode(self, state):
        x = self._stack("coda", self.config.coda, state)
        x = rms_norm(x, self.w["output_norm.weight"], self.config.eps)
        return x @ self.w["output_proj.weight"].T + self.w["output_proj.bias"]

    def fixed(self, state, iterations):
        """-> (actions, state) after so many iterations."""
        plan = self.prelude()
        for _ in range(iterations):
            state = self.iterate(state, plan)
        return self.decode(state), state

    def published_adaptive(self, state, threshold, limit=32):
        """The published loop: one change for the whole batch, all rows stop together. -> (actions, iterations)"""
        plan, previous = self.prelude(), None
        for k in range(1, limit + 1):
            state = self.iterate(state, plan)
            actions = self.decode(state)
            if previous is not None and float(((actions - previous) ** 2).mean()) < threshold:
                return actions, k
            previous = actions
        return self.decode(state), limit
