"""How many steps of a chunk are executed before the next decision: objects, chosen by name in a configuration.

    make_horizon({"rule": "linear_decay", "longest": 8, "shortest": 2, "full_until": 6})

A decision that needed many iterations is trusted for fewer steps. A rule is asked once per decision:
`rule.steps(iterations, chunk_length, step_change)` -> 1 ... chunk_length.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from rdvla_ros.types import RdvlaError, make_by_name


class HorizonError(RdvlaError):
    """An execution horizon that cannot be made or asked."""


class Horizon(Protocol):
    """What every rule offers."""

    def steps(self, iterations: int, chunk_length: int, step_change: np.ndarray | None = None) -> int:
        """Steps of the chunk to execute.

        iterations: core iterations of the decision. chunk_length H: steps in the chunk.
        step_change: (H,) mean-squared change of each step at the last iteration, NaN where unknown.
        """


@dataclass(frozen=True)
class Fixed:
    """The first `length` steps, whatever the decision cost."""

    length: int = 5

    def __post_init__(self) -> None:
        _at_least_one(self, "length")

    def steps(self, iterations: int, chunk_length: int, step_change: np.ndarray | None = None) -> int:
        return _within(self.length, iterations, chunk_length)


@dataclass(frozen=True)
class Binary:
    """`longest` steps up to `threshold` iterations, `shortest` above."""

    longest: int = 8
    shortest: int = 4
    threshold: int = 8

    def __post_init__(self) -> None:
        _at_least_one(self, "longest", "shortest", "threshold")
        _ordered(self.shortest, self.longest)

    def steps(self, iterations: int, chunk_length: int, step_change: np.ndarray | None = None) -> int:
        return _within(self.longest if iterations <= self.threshold else self.shortest, iterations, chunk_length)


@dataclass(frozen=True)
class LinearDecay:
    """One step less per iteration beyond `full_until`: max(shortest, longest - max(0, r - full_until))."""

    longest: int = 8
    shortest: int = 2
    full_until: int = 6

    def __post_init__(self) -> None:
        _at_least_one(self, "longest", "shortest", "full_until")
        _ordered(self.shortest, self.longest)

    def steps(self, iterations: int, chunk_length: int, step_change: np.ndarray | None = None) -> int:
        return _within(max(self.shortest, self.longest - max(0, iterations - self.full_until)), iterations, chunk_length)


@dataclass(frozen=True)
class PublishedDecay:
    """The published table: 8 steps for r <= 6, 7 for r <= 8, then max(2, 7 - (r - 8))."""

    def steps(self, iterations: int, chunk_length: int, step_change: np.ndarray | None = None) -> int:
        table = 8 if iterations <= 6 else max(2, 7 - max(0, iterations - 8))
        return _within(table, iterations, chunk_length)


@dataclass
class RunningBuckets:
    """Lengths from long to short, bounded by the mean and standard deviation of the last `window` decisions' iterations.

    With n lengths the bounds lie at mean + z * deviation for n - 1 evenly spaced z in [-1, 1]; the default is
    8 below mean - deviation, 6 below the mean, 4 below mean + deviation, 2 above. Until `warm_up` decisions were seen the
    longest but one is executed. `reset()` forgets (a new episode, a new task).
    """

    lengths: Sequence[int] = (8, 6, 4, 2)
    window: int = 50
    warm_up: int = 5
    _seen: deque[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.lengths = tuple(self.lengths)
        _at_least_one(self, "window", "warm_up")
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in self.lengths)
        if len(self.lengths) < 2 or not whole or list(self.lengths) != sorted(self.lengths, reverse=True):
            raise HorizonError(f"lengths: expected two or more whole numbers from long to short, got {self.lengths!r}")
        self._seen = deque(maxlen=self.window)

    def reset(self) -> None:
        self._seen.clear()

    def steps(self, iterations: int, chunk_length: int, step_change: np.ndarray | None = None) -> int:
        if len(self._seen) < self.warm_up:
            length = self.lengths[1]
        else:
            mean, deviation = float(np.mean(self._seen)), float(np.std(self._seen))
            bounds = [mean + z * deviation for z in self._z_scores()]
            length = self.lengths[sum(iterations > bound for bound in bounds)]
        executed = _within(length, iterations, chunk_length)
        self._seen.append(iterations)
        return executed

    def _z_scores(self) -> list[float]:
        count = len(self.lengths) - 1
        return [0.0] if count == 1 else [float(z) for z in np.linspace(-1, 1, count)]


@dataclass(frozen=True)
class SettledPrefix:
    """The steps from the start of the chunk that have stopped changing, at least `shortest`.

    A step has settled when its mean-squared change at the last iteration is below `threshold`; where no change is known
    (a fixed depth that did not report it) only `shortest` steps are executed.
    """

    threshold: float = 1e-3
    shortest: int = 2
    longest: int | None = None

    def __post_init__(self) -> None:
        _at_least_one(self, "shortest")
        if isinstance(self.threshold, bool) or not isinstance(self.threshold, (int, float)) or not self.threshold > 0:
            raise HorizonError(f"threshold: expected a number above 0, got {self.threshold!r}")
        if self.longest is not None:
            _at_least_one(self, "longest")
            _ordered(self.shortest, self.longest)

    def steps(self, iterations: int, chunk_length: int, step_change: np.ndarray | None = None) -> int:
        settled = 0
        if step_change is not None:
            change = np.asarray(step_change, dtype=np.float64)
            if change.shape != (chunk_length,):
                raise HorizonError(f"step_change: expected {chunk_length} numbers, one per step, got shape {change.shape}")
            moving = np.flatnonzero(~(change < self.threshold))  # NaN counts as moving
            settled = int(moving[0]) if len(moving) else chunk_length
        longest = chunk_length if self.longest is None else self.longest
        return _within(min(longest, max(self.shortest, settled)), iterations, chunk_length)


RULES: dict[str, Callable[..., Horizon]] = {
    "fixed": Fixed,
    "binary": Binary,
    "linear_decay": LinearDecay,
    "published_decay": PublishedDecay,
    "running_buckets": RunningBuckets,
    "settled_prefix": SettledPrefix,
}


def make_horizon(settings: Mapping[str, Any]) -> Horizon:
    """The rule that a configuration names under "rule"; the other keys are its arguments."""
    return make_by_name(settings, "rule", RULES, "horizon rule", HorizonError)


def _within(length: int, iterations: int, chunk_length: int) -> int:
    if iterations < 1 or chunk_length < 1:
        raise HorizonError(f"expected at least 1 iteration and 1 step, got {iterations} iterations, {chunk_length} steps")
    return max(1, min(int(length), chunk_length))


def _at_least_one(rule: Any, *names: str) -> None:
    for name in names:
        value = getattr(rule, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1 or not math.isfinite(value):
            raise HorizonError(f"{name}: expected a whole number of at least 1, got {value!r}")


def _ordered(shortest: int, longest: int) -> None:
    if shortest > longest:
        raise HorizonError(f"shortest: expected at most longest ({longest}), got {shortest}")
