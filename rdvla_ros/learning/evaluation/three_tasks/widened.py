"""The head that follows trails, in more rows and a wider context: what it can do is kept, the chunk is learnt anew."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rdvla_ros.model.config import HeadConfig
from rdvla_ros.model.head import RDVLAHead

FRESH = 0.2  # of the usual initial size, for maps of tokens that the head did not know
QUERIES = 0.3


def wide_config(first: HeadConfig, width: int) -> HeadConfig:
    """A head of `width` that fits beside `first`."""
    return replace(
        first, hidden_dim=width, num_heads=width // first.head_dim, context_dim=first.context_width, scratchpad_rows=first.rows,
        mean_recurrence=1, backprop_depth=6,
    )  # fmt: skip


@torch.no_grad()
def widened(source: RDVLAHead, config: HeadConfig, directions: Tensor) -> RDVLAHead:
    """source: one row, any context. directions (C, S): where the source's context width lies in the new one.

    Every row of the new head begins as a copy of the source's row; width, attention and feed-forward maps beyond the source's
    read it from the start but do not write to it.
    """
    head, s = RDVLAHead(config), source.config
    old = s.hidden_dim
    residual = torch.arange(old)
    attention = torch.cat([h * config.head_dim + torch.arange(s.head_dim) for h in range(s.num_heads)])
    inner = torch.arange(s.ffn_multiple * old)
    new = head.state_dict()

    def put(name: str, groups: int, rows: Tensor, columns: Tensor, value: Tensor) -> None:
        for target, part in zip(new[name].chunk(groups), value.chunk(groups), strict=True):
            target[rows] = 0.0
            target[rows[:, None], columns[None]] = part

    for name, w in source.state_dict().items():
        leaf = name.split(".")[-2] if "." in name else name
        if name.startswith(("proprio.", "sensors.", "output.")):
            continue
        if w.dim() == 0:
            new[name].copy_(w)
        elif name == "action_queries":
            new[name].mul_(QUERIES)[:, residual] = w
        elif "norm" in name:
            new[name][residual] = w
        elif leaf == "qkv_self":
            put(name, 3, attention, residual, w)
        elif leaf == "q_cross":
            put(name, 1, attention, residual, w * (config.head_dim / s.head_dim) ** 0.5)  # scores are divided by the root of it
        elif leaf in ("o_self", "o_cross"):
            put(name, 1, residual, attention, w)
        elif leaf == "kv_latents":
            for target, part in zip(new[name].mul_(FRESH).chunk(2), w.chunk(2), strict=True):
                target[attention] = part @ directions.T + 0.01 * torch.randn(len(attention), len(directions))
        elif leaf == "kv_vision":
            new[name].mul_(FRESH)
        elif leaf == "ffn_in":
            put(name, 2, inner, residual, w)
        elif leaf == "ffn_down":
            put(name, 1, residual, inner, w)
        else:  # the adapter's halves
            put(name, 1, residual, residual, w)
    new["output.weight"].mul_(0.5)
    head.load_state_dict(new)
    return head
