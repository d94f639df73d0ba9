"""The adaptive loop: iterate the core on the rows that are not done, decode where the halting rule must see a chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rdvla_ros.model.context import HeadContext, check_state
from rdvla_ros.types import Refinement, StopReason

if TYPE_CHECKING:
    from rdvla_ros.model.head import RDVLAHead


@torch.no_grad()
def refine(head: RDVLAHead, context: HeadContext, halting, initial_state: Tensor | None,
           generator: torch.Generator | None) -> Refinement:
    """See RDVLAHead.refine."""
    batch, config, device = context.batch, head.config, head.device
    if initial_state is None:
        initial_state = head.initial_state(batch, generator)
    check_state(head, initial_state, batch)
    limit = halting.max_iterations
    actions = torch.zeros(batch, config.chunk_length, config.action_dim, dtype=head.dtype, device=device)
    iterations = torch.full((batch,), limit, dtype=torch.int64, device=device)
    change = torch.full((batch, limit), torch.nan, device=device)
    step_change = torch.full((batch, config.chunk_length), torch.nan, device=device)
    halted = torch.zeros(batch, dtype=torch.bool, device=device)
    reason = torch.full((batch,), int(halting.limit_reason), dtype=torch.int64, device=device)
    final = initial_state.clone()

    active = torch.arange(batch, device=device)
    state, previous = initial_state, None
    hits = torch.zeros(batch, dtype=torch.int64, device=device)
    for k in range(1, limit + 1):
        state = head.iterate(context, state)
        last = k == limit
        reads = halting.reads_actions and k >= halting.min_iterations - halting.patience
        if not (reads or last):
            continue
        chunk = head.decode(context, state)
        finite = torch.isfinite(state).all(dim=(1, 2)) & torch.isfinite(chunk).all(dim=(1, 2))
        met = torch.zeros_like(finite)
        actions[active], final[active] = chunk, state
        if previous is not None:
            squared = (chunk.float() - previous.float()).square()
            change[active, k - 1] = squared.mean(dim=(1, 2))
            step_change[active] = squared.mean(dim=2)
            hits = torch.where(halting.hit(halting.measure(previous, chunk)), hits + 1, 0)
            met = finite & (hits >= halting.patience) & (k >= halting.min_iterations)
        change[active[~finite], k - 1] = torch.inf
        reason[active[met]] = int(StopReason.CONVERGED)
        reason[active[~finite]] = int(StopReason.NON_FINITE)
        halted[active[met]] = True
        if last:
            halted[active] |= finite & (not halting.reads_actions)
        done = met | ~finite
        iterations[active[done]] = k
        previous = chunk
        if bool(done.any()):
            rest = (~done).nonzero().squeeze(1)
            active, hits, state, previous = active[rest], hits[rest], state[rest], chunk[rest]
            context = context.select(rest)
            if not len(rest):
                break
    change = change[:, : int(iterations.max())]
    return Refinement(actions, iterations, change, halted, final, reason, None, step_change)
