"""Where the iteration starts: objects, chosen by name in a configuration.

    start = make_start({"start": "drawn"})
    refinement = start.refine(head, context, halting, generator=generator, previous=Previous(state, executed_steps))

`previous` is used by "warm" and "carried". Only "averaged" runs several scratchpads; its result carries their spread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rdvla_ros.model.context import HeadContext
from rdvla_ros.types import RdvlaError, Refinement, StopReason, make_by_name

if TYPE_CHECKING:
    from rdvla_ros.model.head import RDVLAHead


class StartError(RdvlaError):
    """An initial scratchpad that cannot be made."""


@dataclass(frozen=True)
class Previous:
    """The decision before: its final state (B, K, D), and how many steps of its chunk have been executed since."""

    state: Tensor
    executed_steps: int


@dataclass(frozen=True)
class Drawn:
    """A fresh draw per decision, as in training."""

    def refine(
        self,
        head: RDVLAHead,
        context: HeadContext,
        halting: Any,
        *,
        generator: torch.Generator | None = None,
        previous: Previous | None = None,
    ) -> Refinement:
        return head.refine(context, halting, generator=generator)


@dataclass(frozen=True)
class Seeded:
    """The same draw at every decision: equal observations give equal chunks."""

    seed: int = 0

    def refine(
        self,
        head: RDVLAHead,
        context: HeadContext,
        halting: Any,
        *,
        generator: torch.Generator | None = None,
        previous: Previous | None = None,
    ) -> Refinement:
        one = head.initial_state(1, torch.Generator(head.device).manual_seed(self.seed))
        return head.refine(context, halting, one.expand(context.batch, -1, -1).detach())


@dataclass(frozen=True)
class Zeros:
    """The mean of the distribution."""

    def refine(
        self,
        head: RDVLAHead,
        context: HeadContext,
        halting: Any,
        *,
        generator: torch.Generator | None = None,
        previous: Previous | None = None,
    ) -> Refinement:
        zeros = torch.zeros(context.batch, head.config.rows, head.config.hidden_dim, dtype=head.dtype, device=head.device)
        return head.refine(context, halting, zeros)


@dataclass(frozen=True)
class Averaged:
    """The mean chunk over `draws` scratchpads, each refined on its own (as a batch), and the spread of the chunks."""

    draws: int = 4

    def __post_init__(self) -> None:
        if isinstance(self.draws, bool) or not isinstance(self.draws, int) or self.draws < 2:
            raise StartError(f"draws: expected a whole number of at least 2, got {self.draws!r}")

    def refine(
        self,
        head: RDVLAHead,
        context: HeadContext,
        halting: Any,
        *,
        generator: torch.Generator | None = None,
        previous: Previous | None = None,
    ) -> Refinement:
        every = torch.arange(context.batch, device=head.device).repeat_interleave(self.draws)
        return _mean(head.refine(context.select(every), halting, generator=generator), self.draws)


@dataclass(frozen=True)
class Warm:
    """The previous decision's state, its plan shifted by the executed steps; a fresh draw where there is none.

    Rows of the plan that have run out are drawn anew.
    """

    def refine(
        self,
        head: RDVLAHead,
        context: HeadContext,
        halting: Any,
        *,
        generator: torch.Generator | None = None,
        previous: Previous | None = None,
    ) -> Refinement:
        fresh = head.initial_state(context.batch, generator).detach()
        usable = previous is not None and bool(torch.isfinite(previous.state).all())
        return head.refine(context, halting, shift_plan(head, previous, fresh) if usable else fresh)


@dataclass(frozen=True)
class Carried:
    """The previous decision's state as it is: for a scratchpad that holds a goal, not a plan of steps; a fresh draw where there
    is none. (A head of one row cannot shift its plan: "warm" keeps the row, or loses all of it once its steps have run out.)"""

    def refine(
        self,
        head: RDVLAHead,
        context: HeadContext,
        halting: Any,
        *,
        generator: torch.Generator | None = None,
        previous: Previous | None = None,
    ) -> Refinement:
        if previous is None or not bool(torch.isfinite(previous.state).all()):
            return head.refine(context, halting, generator=generator)
        return head.refine(context, halting, previous.state)


def shift_plan(head: RDVLAHead, previous: Previous, fresh: Tensor) -> Tensor:
    """Scratchpad (B, K, D) whose row i holds what row i + executed held; rows that have run out come from `fresh`.

    Rows beyond the chunk (working memory) stay where they are.
    """
    if previous.executed_steps < 0:
        raise StartError(f"executed_steps: expected at least 0, got {previous.executed_steps}")
    if previous.state.shape != fresh.shape:
        raise StartError(f"previous state: expected shape {tuple(fresh.shape)}, got {tuple(previous.state.shape)}")
    plan_rows = min(head.config.rows, head.config.chunk_length)
    shift = min(previous.executed_steps // head.config.steps_per_row, plan_rows)
    return torch.cat(
        [previous.state[:, shift:plan_rows], fresh[:, plan_rows - shift : plan_rows], previous.state[:, plan_rows:]], dim=1
    )


def _mean(all_draws: Refinement, draws: int) -> Refinement:
    """(B * draws) rows -> B: the mean chunk, the state of the draw nearest to it, the slowest draw's iterations.

    Converged only where every draw did; a draw that went non-finite spoils its row.
    """
    grouped = replace(
        all_draws, **{name: value.unflatten(0, (-1, draws)) for name, value in vars(all_draws).items() if value is not None}
    )
    chunks = grouped.actions.float()
    mean = chunks.mean(dim=1)
    distance = (chunks - mean.unsqueeze(1)).square().mean(dim=(2, 3))  # (B, draws)
    rows = torch.arange(len(mean), device=mean.device)
    severity = [
        StopReason.FIXED_DEPTH,
        StopReason.CONVERGED,
        StopReason.ITERATION_LIMIT,
        StopReason.DEADLINE,
        StopReason.DIVERGED,
        StopReason.NON_FINITE,
    ]  # the worst draw's reason stands for all
    worst = [max((StopReason(r) for r in reasons), key=severity.index) for reasons in grouped.stop_reason.tolist()]
    step_change = None if grouped.step_change is None else grouped.step_change.mean(dim=1)
    return Refinement(
        actions=mean.to(all_draws.actions.dtype),
        iterations=grouped.iterations.amax(dim=1),
        change=grouped.change.nanmean(dim=1),
        halted=grouped.halted.all(dim=1),
        state=grouped.state[rows, distance.nan_to_num(torch.inf).argmin(dim=1)],
        stop_reason=torch.tensor([int(reason) for reason in worst]),
        spread=distance.mean(dim=1),
        step_change=step_change,
    )


STARTS: dict[str, Callable[..., Any]] = {
    "drawn": Drawn,
    "seeded": Seeded,
    "zeros": Zeros,
    "averaged": Averaged,
    "warm": Warm,
    "carried": Carried,
}


def make_start(settings: Mapping[str, Any]) -> Any:
    """The start that a configuration names; the other keys are its arguments."""
    return make_by_name(settings, "start", STARTS, "initial scratchpad", StartError)
