"""What the adaptive loop remembers of each batch row, and which chunks it decodes for the halting rule.

Decoding is nearly as dear as an iteration, so a chunk is decoded only when its change may matter. A sketch of it without the
coda's layers costs next to nothing, and the change of the sketches, times the ratio of the two changes (of earlier decisions,
or of this one where both were seen), predicts that of the chunks. Predicted more than a margin above the rule's level: not
decoded. About at the level: decoded at once. Between: put off, and decoded with the next one as one batch, which costs far
less than one by one; a stop that is found late is still the stop, with its own state and chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rdvla_ros.model.halting import step_change
from rdvla_ros.model.head_protocol import Runner
from rdvla_ros.model.sketch_ratio import Expectation, expectation
from rdvla_ros.types import StopReason

NEAR = 0.15  # power of the margin, times the level: a change predicted below is looked at now
PUT_OFF = 5  # chunks that wait at most
DIVERGES = 100.0  # times the smallest move so far, and the level (mean squares: ten times as far): it runs away
RECHECK = 12  # iterations after which a ratio that is not firm is measured anew


@dataclass(frozen=True)
class Visit:
    """A state on the way: (K, D) after iteration `at`; moved: how far its sketch is from the one before."""

    at: int
    state: Tensor
    moved: float


@dataclass
class Row:
    """One batch row under way. change: per iteration made, as in Refinement."""

    index: int
    rule: Any
    trail: list[Visit] = field(default_factory=list)
    open: list[int] = field(default_factory=list)  # iterations whose change may matter and was not looked at yet
    due: bool = False
    broken_at: int | None = None
    broken_by: StopReason = StopReason.NON_FINITE
    least_move: float = math.inf
    hits: int = 0
    expected: Expectation | None = None
    ratio: float | None = None
    ratios: list[float] = field(default_factory=list)  # seen in this refinement
    measured_at: int = 0  # iteration of the last comparison
    chunk: Tensor | None = None  # (H, A), of iteration chunk_at
    chunk_at: int = 0
    change: list[float] = field(default_factory=list)
    step_change: Tensor | None = None
    reason: StopReason | None = None
    state: Tensor | None = None

    def __post_init__(self) -> None:
        if self.expected is None:
            self.expected = expectation(self.rule)
        self.ratio = self.expected.ratio

    def visit(self, visit: Visit, in_block: bool) -> None:
        """The next iteration was made; in_block: it will be looked at together with others anyway."""
        if self.broken_at is not None:
            return
        self.trail.append(visit)
        self.change.append(math.nan)
        if not math.isfinite(visit.moved):
            self.broken_at, self.due = visit.at, True
        elif self.rule.compares and self._diverges(visit):
            self.broken_at, self.broken_by, self.due = visit.at, StopReason.DIVERGED, True
        elif self.rule.compares and visit.at >= 2:
            self._consider(visit, in_block)

    def _diverges(self, visit: Visit) -> bool:
        self.least_move = min(self.least_move, visit.moved)
        return visit.moved > DIVERGES * self.least_move and (self.ratio or 1.0) * visit.moved > DIVERGES * self.rule.level

    def _consider(self, visit: Visit, in_block: bool) -> None:
        now = in_block or self.rule.evaluate == "every" or self.hits > 0
        if not now and visit.at <= self.rule.min_iterations - self.rule.patience:
            return
        margin, level = self.expected.margin, self.rule.level
        if not now and self.ratio is not None and (self.expected.firm or visit.at - self.measured_at < RECHECK):
            predicted = self.ratio * visit.moved
            if predicted > margin * level:
                return
            now = predicted <= margin**NEAR * level
        else:
            now = True
        self.open.append(visit.at)
        self.due |= now or len(self.open) >= PUT_OFF

    def finish(self, limit: StopReason) -> None:
        """No further iteration will be made: the last chunk is needed, and what it changed if the rule compares."""
        if self.broken_at is not None:
            return
        self.due = True
        at = self.trail[-1].at
        if limit == StopReason.DEADLINE:
            self.open = []  # no time for what was put off
        if self.rule.compares and at >= 2 and at not in self.open:
            self.open.append(at)

    def wanted(self, final: bool) -> list[int]:
        """Iterations to decode now."""
        ats = {at for k in self.open for at in (k - 1, k)}
        if final and self.broken_at is None:
            ats.add(self.trail[-1].at)
        return sorted(ats - {self.chunk_at})

    def at(self, k: int) -> Visit:
        return self.trail[k - self.trail[0].at]

    def compared(self, k: int, measure: float, change: float, steps: Tensor) -> None:
        """The chunk of iteration k was compared with the one before."""
        moved = self.at(k).moved
        self.change[k - 1], self.step_change = change, steps
        self.ratio = measure / moved if moved > 0 else None
        if self.ratio is not None:
            self.ratios.append(self.ratio)
        if self.measured_at != k - 1:
            self.hits = 0
        self.hits = self.hits + 1 if measure < self.rule.level else 0
        self.measured_at = k
        if self.hits >= self.rule.patience and k >= self.rule.min_iterations:
            self.stop(k, StopReason.CONVERGED)

    def stop(self, k: int, reason: StopReason) -> None:
        if self.reason is None:
            self.reason, self.state = reason, self.at(k).state
            del self.change[k:]
            if reason.unusable:
                self.change[-1] = math.inf

    def looked(self) -> None:
        """Everything open was looked at."""
        self.due, self.open = False, []
        if self.broken_at is not None:
            self.stop(self.broken_at, self.broken_by)

    def forget(self) -> None:
        """Keep of the trail what a later look can ask for."""
        if self.reason is not None:
            self.trail = []
            return
        first = min(self.open, default=self.trail[-1].at + 1) - 1
        self.trail = [visit for visit in self.trail if visit.at >= first]


def look(rows: list[Row], runner: Runner, final: bool) -> None:
    """Decode what the due rows want, as one batch, and tell them in the order of the iterations."""
    due = {i: row for i, row in enumerate(rows) if row.due}
    jobs = {job: place for place, job in enumerate((i, at) for i, row in due.items() for at in row.wanted(final))}
    if jobs:
        chunks = runner.decode(torch.stack([rows[i].at(at).state for i, at in jobs]), [i for i, _ in jobs])
        pairs = [(i, at) for i, row in due.items() for at in row.open]
        _tell(rows, chunks, jobs, pairs)
    for row in due.values():
        row.looked()


def _tell(rows: list[Row], chunks: Tensor, jobs: dict[tuple[int, int], int], pairs: list[tuple[int, int]]) -> None:
    """chunks (M, H, A) in the order of `jobs`; pairs: (row, iteration) to be compared with the iteration before."""
    numbers = torch.isfinite(chunks).flatten(1).all(dim=1).double()
    steps = None
    if pairs:
        current = torch.stack([_chunk(rows, chunks, jobs, i, at) for i, at in pairs])
        previous = torch.stack([_chunk(rows, chunks, jobs, i, at - 1) for i, at in pairs])
        steps = step_change(previous, current)
        measures = rows[0].rule.measure(previous, current)
        numbers = torch.cat([numbers, measures.double(), steps.mean(dim=1).double()])
    numbers = numbers.tolist()  # waits for the device
    finite, measures, changes = numbers[: len(jobs)], numbers[len(jobs) : -len(pairs) or None], numbers[len(jobs) + len(pairs) :]
    places = {pair: n for n, pair in enumerate(pairs)}
    for i, at in sorted({*jobs, *places}, key=lambda job: job[1]):
        row = rows[i]
        if row.reason is not None:
            continue
        if (i, at) in jobs and not finite[jobs[i, at]]:
            row.stop(at, StopReason.NON_FINITE)
            continue
        if (i, at) in jobs:
            row.chunk, row.chunk_at = chunks[jobs[i, at]], at
        if (i, at) in places:
            n = places[i, at]
            row.compared(at, measures[n], changes[n], steps[n])


def _chunk(rows: list[Row], chunks: Tensor, jobs: dict[tuple[int, int], int], i: int, at: int) -> Tensor:
    return chunks[jobs[i, at]] if (i, at) in jobs else rows[i].chunk
