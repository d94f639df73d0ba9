"""The adaptive loop: iterate the core on the rows that are not done, decode where the halting rule must see a chunk.

Per block of iterations the device is asked once (finite? how far did the state move?) and, where chunks were decoded, once
more for the rule's measure. A chunk is decoded when it may matter: when the latent change, scaled by the ratio of the two
changes seen last, is not far above the rule's level, and at the end.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rdvla_ros.model.context import HeadContext, check_state
from rdvla_ros.model.halting import Stopwatch, step_change
from rdvla_ros.model.runner import EagerRunner
from rdvla_ros.types import Refinement, StopReason

if TYPE_CHECKING:
    from rdvla_ros.model.head import RDVLAHead

SKIP_MARGIN = 4.0  # a chunk is not decoded while its predicted change is this many times the rule's level
RECHECK = 8  # iterations after which the ratio of action change to latent change is measured anew


@dataclass
class _Row:
    """One batch row under way."""

    index: int
    rule: Any
    hits: int = 0
    ratio: float | None = None  # measure per latent change, when both were last seen
    measured_at: int = 0
    chunk: Tensor | None = None  # (H, A), decoded at iteration chunk_at
    chunk_at: int = 0
    change: list[float] = field(default_factory=list)  # per iteration
    step_change: Tensor | None = None
    state: Tensor | None = None
    reason: StopReason | None = None

    def wants(self, k: int, latent: float, last: bool) -> bool:
        """Whether the change of the chunk at iteration k may matter."""
        rule = self.rule
        if not rule.compares or k < 2:
            return False
        if last or rule.evaluate == "every":
            return True
        if k <= rule.min_iterations - rule.patience:
            return False
        if self.ratio is None or self.hits or k - self.measured_at >= RECHECK:
            return True
        return self.ratio * latent <= SKIP_MARGIN * rule.level

    def see(self, k: int, latent: float, measure: float, change: float, steps: Tensor) -> None:
        """The chunk at iteration k was compared with the one before."""
        self.change[k - 1], self.step_change = change, steps
        self.measured_at = k
        self.ratio = measure / latent if latent > 0 else None
        self.hits = self.hits + 1 if measure < self.rule.level else 0
        if self.hits >= self.rule.patience and k >= self.rule.min_iterations:
            self.reason = StopReason.CONVERGED
            del self.change[k:]  # the block may have gone on


@torch.no_grad()
def refine(head: RDVLAHead, context: HeadContext, halting: Any, initial_state: Tensor | None = None,
           generator: torch.Generator | None = None, runner: EagerRunner | None = None) -> Refinement:
    """See RDVLAHead.refine. `runner`: how blocks are run (default: the head's choice)."""
    watch = halting.begin()
    if initial_state is None:
        initial_state = head.initial_state(context.batch, generator)
    check_state(head, initial_state, context.batch)
    if halting.evaluate == "every" and halting.compares:
        context = head.project_coda(context)
    runner = runner or head.runner(context)
    pace = _Pace(head, watch)
    rows = [_Row(i, halting) for i in range(context.batch)]
    done: list[_Row] = []
    state, k = initial_state, 0
    while rows:
        count = 1 if watch.timed and k == 0 else max(1, min(runner.block, halting.max_iterations - k, pace.affordable()))
        with pace.iterating(count):
            states = runner.iterate(state, count)
            latents = _latent_change(state, states).tolist()  # (count, rows): waits for the device
        limit = halting.limit_reason if k + count >= halting.max_iterations else None
        if limit is None and not pace.affordable():
            limit = StopReason.DEADLINE
        block = _Block(rows, state, states, k, latents)
        block.plan(last=limit is not None)
        with pace.decoding(bool(block.jobs)):
            block.look(runner)
        k += count
        if limit is None and not pace.affordable():  # the look took what was left
            limit = StopReason.DEADLINE
            _decode_rest(rows, runner, k)
        for row in rows:
            if row.reason is None:
                row.reason = limit
        done += [row for row in rows if row.reason is not None]
        going = [i for i, row in enumerate(rows) if row.reason is None]
        state = states[-1]
        if going and len(going) < len(rows):
            runner.keep(going)
            state = state[torch.tensor(going, device=state.device)]
        rows = [rows[i] for i in going]
    return _result(head, done)


def _latent_change(state: Tensor, states: Tensor) -> Tensor:
    """(count, B): mean-squared change of the scratchpad per iteration; not finite exactly where the scratchpad is not."""
    before = state.unsqueeze(0) if len(states) == 1 else torch.cat([state.unsqueeze(0), states[:-1]])
    return (states - before).float().square().mean(dim=(2, 3))


class _Block:
    """The states after iterations k + 1 ... k + count of the rows under way, and what is decoded of them.

    before (B, K, D): the state at iteration k; states (count, B, K, D).
    """

    def __init__(self, rows: list[_Row], before: Tensor, states: Tensor, k: int, latents: list[list[float]]) -> None:
        self.rows, self.before, self.states, self.k, self.latents = rows, before, states, k, latents
        self.jobs: dict[tuple[int, int], int] = {}  # (row, iteration) -> place among the decoded
        self.pairs: dict[tuple[int, int], int] = {}  # (row, iteration) to compare with the one before -> place among them
        self.broken: dict[int, int] = {}  # row -> iteration whose state is not finite

    def state(self, i: int, at: int) -> Tensor:
        return self.before[i] if at == self.k else self.states[at - self.k - 1, i]

    def plan(self, last: bool) -> None:
        """Choose what to decode: what a rule may need, and the final chunks where this is the last block."""
        count = len(self.states)
        for i, row in enumerate(self.rows):
            for at in range(self.k + 1, self.k + count + 1):
                row.change.append(math.nan)
                latent = self.latents[at - self.k - 1][i]
                if not math.isfinite(latent):
                    self.broken[i] = at
                    break
                final = last and at == self.k + count
                # In a longer block every state is decoded: one batched decode costs less than one more wait.
                wanted = row.wants(at, latent, final) or (count > 1 and row.rule.compares and at >= 2)
                if wanted and at >= 2:
                    self.pairs[i, at] = len(self.pairs)
                    if row.chunk_at != at - 1:
                        self.jobs.setdefault((i, at - 1), len(self.jobs))
                if wanted or final:
                    self.jobs.setdefault((i, at), len(self.jobs))

    def look(self, runner: EagerRunner) -> None:
        """Decode what was chosen and tell the rows, in the order of the iterations; a row that is met hears no more."""
        if self.jobs:
            chosen = torch.stack([self.state(i, at) for i, at in self.jobs])
            chunks = runner.decode(chosen, [i for i, _ in self.jobs])
            self._tell(chunks)
        for i, at in self.broken.items():
            self._break(self.rows[i], at)
        for i, row in enumerate(self.rows):
            row.state = self.state(i, len(row.change))

    def _tell(self, chunks: Tensor) -> None:
        numbers = torch.isfinite(chunks).flatten(1).all(dim=1).double()
        steps = None
        if self.pairs:
            current = chunks[[self.jobs[pair] for pair in self.pairs]]
            previous = torch.stack([chunks[self.jobs[i, at - 1]] if (i, at - 1) in self.jobs else self.rows[i].chunk
                                    for i, at in self.pairs])
            steps = step_change(previous, current)
            measures = self.rows[0].rule.measure(previous, current)
            numbers = torch.cat([numbers, measures.double(), steps.mean(dim=1).double()])
        numbers = numbers.tolist()  # waits for the device
        finite, compared = numbers[: len(self.jobs)], numbers[len(self.jobs):]
        for (i, at), place in sorted(self.jobs.items(), key=lambda job: job[0][1]):
            row = self.rows[i]
            if row.reason is not None:
                continue
            if not finite[place]:
                self._break(row, at)
                continue
            if (i, at) in self.pairs:
                n = self.pairs[i, at]
                row.see(at, self.latents[at - self.k - 1][i], compared[n], compared[len(self.pairs) + n], steps[n])
            row.chunk, row.chunk_at = chunks[place], at

    @staticmethod
    def _break(row: _Row, at: int) -> None:
        if row.reason is None:
            row.change[at - 1:] = [math.inf]
            row.reason = StopReason.NON_FINITE


def _decode_rest(rows: list[_Row], runner: EagerRunner, k: int) -> None:
    """The time is up after a look: rows whose newest state was not decoded get their chunk."""
    late = [i for i, row in enumerate(rows) if row.reason is None and row.chunk_at != k]
    if late:
        for i, chunk in zip(late, runner.decode(torch.stack([rows[i].state for i in late]), late)):
            rows[i].chunk, rows[i].chunk_at = chunk, k


def _result(head: RDVLAHead, rows: list[_Row]) -> Refinement:
    rows = sorted(rows, key=lambda row: row.index)
    config, device = head.config, head.device
    nothing = torch.full((config.chunk_length, config.action_dim), math.nan, dtype=head.dtype, device=device)
    unseen = torch.full((config.chunk_length,), math.nan, device=device)
    broken = [row.reason == StopReason.NON_FINITE for row in rows]
    longest = max(len(row.change) for row in rows)
    return Refinement(
        actions=torch.stack([nothing if bad else row.chunk for row, bad in zip(rows, broken)]),
        iterations=torch.tensor([len(row.change) for row in rows]),
        change=torch.tensor([row.change + [math.nan] * (longest - len(row.change)) for row in rows]),
        halted=torch.tensor([row.reason in (StopReason.CONVERGED, StopReason.FIXED_DEPTH) for row in rows]),
        state=torch.stack([row.state for row in rows]),
        stop_reason=torch.tensor([int(row.reason) for row in rows]),
        step_change=torch.stack([unseen if bad or row.step_change is None else row.step_change.float()
                                 for row, bad in zip(rows, broken)]))


class _Pace:
    """What an iteration and a decode took at most in this run [s], where the run is timed."""

    def __init__(self, head: RDVLAHead, watch: Stopwatch) -> None:
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
    def decoding(self, happens: bool) -> Iterator[None]:
        start = self._watch.elapsed_s()
        yield
        if happens:
            self._decode_s = max(self._decode_s, self._watch.elapsed_s() - start)
