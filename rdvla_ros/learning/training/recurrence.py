"""Recurrent-depth training: through how many iterations the gradient flows, and what the loss is."""

from __future__ import annotations

import torch
from torch import Tensor

from rdvla_ros.model.context import HeadContext
from rdvla_ros.model.head import RDVLAHead


def unroll(head: RDVLAHead, context: HeadContext, state: Tensor, depth: int, backprop_depth: int) -> list[Tensor]:
    """S_0 -> the last min(depth, backprop_depth) states; only these carry gradient, so memory does not grow with depth."""
    with torch.no_grad():
        for k in range(depth - backprop_depth):
            state = head.iterate(context, state, k)
    states = []
    for k in range(max(0, depth - backprop_depth), depth):
        state = head.iterate(context, state, k)
        states.append(state)
    return states


def chunk_loss(
    head: RDVLAHead, context: HeadContext, states: list[Tensor], target: Tensor, early: int | None, early_weight: float
) -> tuple[Tensor, Tensor]:
    """Mean absolute error of the chunk decoded from the last state -> (loss, that error alone).

    early: index into states of one more state to supervise (a shallower answer), weighted by early_weight.
    """
    last = (head.decode(context, states[-1]).float() - target).abs().mean()
    if early is None or early >= len(states) - 1:
        return last, last.detach()
    sooner = (head.decode(context, states[early]).float() - target).abs().mean()
    return (last + early_weight * sooner) / (1.0 + early_weight), last.detach()
