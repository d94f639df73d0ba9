"""The adaptive loop: iterate the core on the rows that are not done, look where a stop is possible.

Per block of iterations the device is asked once (finite? how far did the state move?) and, where chunks were decoded, once
more for the rule's measure. Memory does not grow with the iterations.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rdvla_ros.model.checks import check_state
from rdvla_ros.model.context import HeadContext
from rdvla_ros.model.decode_plan import Row, Visit, look
from rdvla_ros.model.halting import Stopwatch
from rdvla_ros.model.head_protocol import Head, Runner
from rdvla_ros.model.sketch_ratio import Experience
from rdvla_ros.types import Refinement, StopReason

FREE_BLOCK = 8  # iterations between two questions whether all is finite, for a rule that looks at nothing else


@torch.no_grad()
def refine(
    head: Head,
    context: HeadContext,
    halting: Any,
    initial_state: Tensor | None = None,
    generator: torch.Generator | None = None,
    runner: Runner | None = None,
) -> Refinement:
    """See RDVLAHead.refine. `runner`: how blocks are run (default: the head's choice)."""
    watch = halting.begin()
    if initial_state is None:
        initial_state = head.initial_state(context.batch, generator)
    else:
        check_state(head, initial_state, context.batch)  # waits for the device
    if halting.evaluate == "every" and halting.compares:
        context = head.project_coda(context)
    runner = runner or head.runner(context)
    pace, gauge = _Pace(head, watch), _Gauge(runner, halting, initial_state)
    every = [Row(i, halting) for i in range(context.batch)]
    rows, state, k = list(every), initial_state, 0
    while rows:
        block = runner.block if halting.compares else FREE_BLOCK
        count = 1 if watch.timed and k == 0 else max(1, min(block, halting.max_iterations - k, pace.affordable()))
        with pace.iterating(count):
            states = runner.iterate(state, count)
            moved = gauge.moved(states)  # (count, rows): waits for the device
        for i, row in enumerate(rows):
            for j in range(count):
                row.visit(Visit(k + j + 1, states[j, i], moved[j][i]), in_block=count > 1)
        k += count
        limit = halting.limit_reason if k >= halting.max_iterations else None
        if limit is None and not pace.affordable():
            limit = StopReason.DEADLINE
        _look(rows, k, runner, pace, limit)
        if limit is None and not pace.affordable():  # the look took what was left
            limit = StopReason.DEADLINE
            _look(rows, k, runner, pace, limit)
        for row in rows:
            if limit is not None and row.reason is None:
                row.stop(k, limit)
            row.forget()
        going = [i for i, row in enumerate(rows) if row.reason is None]
        state = states[-1]
        if going and len(going) < len(rows):
            runner.keep(going)
            gauge.keep(going)
            state = state[torch.tensor(going, device=state.device)]
        rows = [rows[i] for i in going]
    if isinstance(halting.ratio, Experience):
        halting.ratio.add(ratio for row in every for ratio in row.ratios)
    return _result(head, every)


def _look(rows: list[Row], k: int, runner: Runner, pace: _Pace, limit: StopReason | None) -> None:
    """limit: why iteration k is the last; None: it need not be."""
    for row in rows:
        if limit is not None and row.reason is None and row.chunk_at != k:
            row.finish(limit)
    if any(row.due for row in rows):
        with pace.decoding():
            look(rows, runner, final=limit is not None)


@torch.no_grad()
def typical_ratio(
    head: Head,
    context: HeadContext,
    halting: Any,
    initial_state: Tensor | None = None,
    generator: torch.Generator | None = None,
    iterations: int = 8,
) -> float:
    """The `ratio` to configure for this head and rule: chunks' measure per sketches', median over rows and iterations."""
    state = head.initial_state(context.batch, generator) if initial_state is None else initial_state
    seen, chunk, sketch = [], None, None
    for k in range(iterations):
        state = head.iterate(context, state, k)
        before, chunk, last, sketch = chunk, head.decode(context, state), sketch, head.sketch(state)
        if before is not None:
            seen.append(halting.measure(before, chunk) / halting.measure(last, sketch))
    return float(torch.cat(seen).nanmedian())


class _Gauge:
    """How far each iteration moved the scratchpad, without the coda; not finite exactly where the scratchpad is not.

    For a rule that compares chunks: its measure on sketches. Otherwise any number that shows what is not finite.
    """

    def __init__(self, runner: Runner, halting: Any, state: Tensor) -> None:
        self._runner, self._halting = runner, halting
        self._last = runner.sketch(state.unsqueeze(0))[0] if halting.compares else None  # (B, H, A)

    def moved(self, states: Tensor) -> list[list[float]]:
        """states (count, B, K, D) -> (count, B)"""
        if self._last is None:
            return states.sum(dim=(2, 3), dtype=torch.promote_types(states.dtype, torch.float32)).tolist()
        sketches = self._runner.sketch(states)
        before = torch.cat([self._last.unsqueeze(0), sketches[:-1]])
        self._last = sketches[-1]
        return self._halting.measure(before.flatten(0, 1), sketches.flatten(0, 1)).unflatten(0, sketches.shape[:2]).tolist()

    def keep(self, rows: list[int]) -> None:
        """Go on with these batch rows only."""
        if self._last is not None:
            self._last = self._last[rows]


def _result(head: Head, rows: list[Row]) -> Refinement:
    config, device = head.config, head.device
    nothing = torch.full((config.chunk_length, config.action_dim), math.nan, dtype=head.dtype, device=device)
    unseen = torch.full((config.chunk_length,), math.nan, device=device)
    broken = [row.reason.unusable for row in rows]
    longest = max(len(row.change) for row in rows)
    return Refinement(
        actions=torch.stack([nothing if bad else row.chunk for row, bad in zip(rows, broken, strict=True)]),
        iterations=torch.tensor([len(row.change) for row in rows]),
        change=torch.tensor([row.change + [math.nan] * (longest - len(row.change)) for row in rows]),
        halted=torch.tensor([row.reason in (StopReason.CONVERGED, StopReason.FIXED_DEPTH) for row in rows]),
        state=torch.stack([row.state for row in rows]),
        stop_reason=torch.tensor([int(row.reason) for row in rows]),
        step_change=torch.stack(
            [unseen if bad or row.step_change is None else row.step_change.float() for row, bad in zip(rows, broken, strict=True)]
        ),
    )


class _Pace:
    """What an iteration and a decode took at most in this run [s], where the run is timed."""

    def __init__(self, head: Head, watch: Stopwatch) -> None:
        self._watch = watch
        self._decode_per_iteration = 2 * len(head.coda) / len(head.core)  # of two states; until one was measured
        self._iteration_s = self._decode_s = 0.0

    def affordable(self) -> int:
        """Iterations that the time allows before the last decode."""
        fits = self._watch.affordable(self._iteration_s, self._decode_s or self._decode_per_iteration * self._iteration_s)
        return sys.maxsize if fits is None else fits

    @contextmanager
    def iterating(self, count: int) -> Iterator[None]:
        start = self._watch.elapsed_s()
        yield
        self._iteration_s = max(self._iteration_s, (self._watch.elapsed_s() - start) / count)

    @contextmanager
    def decoding(self) -> Iterator[None]:
        start = self._watch.elapsed_s()
        yield
        self._decode_s = max(self._decode_s, self._watch.elapsed_s() - start)
