"""How far the chunks of held-out observations are from their targets, over the number of iterations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from rdvla_ros.learning.data.augment import BatchMaker
from rdvla_ros.model.context import HeadContext
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.rdvla import RDVLA


def error_by_depth(model: RDVLA, maker: BatchMaker, indices: np.ndarray, depths: Sequence[int]) -> dict[int, float]:
    """Mean absolute error (normalised) of the chunks after each number of iterations, from drawn scratchpads."""

    def contexts() -> Iterator[tuple[HeadContext, Tensor]]:
        for part in np.array_split(indices, max(1, len(indices) // 64)):
            batch = maker.make(part).to(model.head.device)
            yield model.encode(batch.images, batch.input_ids, batch.proprio, batch.sensors), batch.target

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
