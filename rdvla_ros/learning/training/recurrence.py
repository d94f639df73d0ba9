"""Recurrent-depth training: how deep each batch goes, and through how many iterations the gradient flows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rdvla_ros.model.context import HeadContext
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.rdvla import RDVLA

if TYPE_CHECKING:
    from rdvla_ros.learning.data.augment import BatchMaker


@dataclass(frozen=True)
class DepthSampler:
    """Draws the number of core iterations of a batch.

    With probability shallow_fraction uniform in 1..shallow_limit: the log-normal Poisson mixture hardly ever draws those,
    and a head that never saw them fails there. Otherwise tau ~ N(log(mean) - sigma^2 / 2, sigma) and
    Poisson(min(exp(tau), 100)) + 1, clamped to 1..limit. fixed: always so many instead (0: drawn).
    """

    mean: float = 8.0
    sigma: float = 0.5
    shallow_fraction: float = 0.5
    shallow_limit: int = 4
    limit: int = 64
    fixed: int = 0

    def draw(self, rng: np.random.Generator) -> int:
        if self.fixed:
            return self.fixed
        if rng.random() < self.shallow_fraction:
            return int(rng.integers(1, self.shallow_limit + 1))
        rate = min(math.exp(rng.normal(math.log(self.mean) - 0.5 * self.sigma**2, self.sigma)), 100.0)
        return min(max(int(rng.poisson(rate)) + 1, 1), self.limit)


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


def error_by_depth(model: RDVLA, maker: BatchMaker, indices: np.ndarray, depths: Sequence[int]) -> dict[int, float]:
    """Mean absolute error (normalised) of the chunks after so many iterations, from drawn scratchpads."""

    def contexts() -> Iterator[tuple[HeadContext, Tensor]]:
        for part in np.array_split(indices, max(1, len(indices) // 64)):
            batch = maker.make(part).to(model.head.device)
            yield model.encode(batch.images, batch.input_ids, batch.proprio), batch.target

    return head_error_by_depth(model.head, contexts(), depths)


@torch.no_grad()
def head_error_by_depth(
    head: RDVLAHead, batches: Iterable[tuple[HeadContext, Tensor]], depths: Sequence[int]
) -> dict[int, float]:
    """The same for a head alone, over (context, target (B, H, A)); contexts are made while nothing is differentiated."""
    sums, count = dict.fromkeys(depths, 0.0), 0
    generator = torch.Generator(head.device).manual_seed(0)
    for context, target in batches:
        state = head.initial_state(len(target), generator)
        count += len(target)
        for depth in range(1, max(depths) + 1):
            state = head.iterate(context, state, depth - 1)
            if depth in sums:
                sums[depth] += float((head.decode(context, state).float() - target).abs().mean()) * len(target)
    return {depth: total / count for depth, total in sums.items()}
