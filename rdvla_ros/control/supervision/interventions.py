"""What follows from an alarm: objects, chosen by name in a configuration.

    make_intervention({"do": "hold_and_ask", "begin_after": 2})

Each says when its alarm counts as begun and as over (debounce, hysteresis), and what is done meanwhile. The monitor asks
("hold_and_ask"); the policy shortens its horizon or thinks longer; "warn" only tells. Pure: nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rdvla_ros.control.supervision.uncertainty import Assessment
from rdvla_ros.types import RdvlaError, make_by_name


class InterventionError(RdvlaError):
    """An intervention that cannot be made."""


@dataclass(frozen=True)
class Warn:
    """Tell, and go on.

    begin_after: decisions in a row with an alarm until it counts (debounce). end_below: share of the threshold that the window's
    largest score must be under, for end_after decisions in a row, until it is over (hysteresis).
    """

    begin_after: int = 2
    end_below: float = 0.8
    end_after: int = 2

    asks = False
    name = "warn"

    def __post_init__(self) -> None:
        for name in ("begin_after", "end_after"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InterventionError(f"{name}: expected a whole number of at least 1, got {value!r}.")
        if not 0.0 < self.end_below <= 1.0:
            raise InterventionError(f"end_below: expected a share above 0 and at most 1, got {self.end_below!r}.")

    def horizon(self, steps: int) -> int:
        """Rows of a chunk to execute during an alarm, of those that the horizon rule says."""
        return steps

    def limit(self, iterations: int) -> int:
        """Iterations that a decision may make during an alarm, of those that the halting rule allows."""
        return iterations


@dataclass(frozen=True)
class ShortenHorizon(Warn):
    """Execute less of each chunk, so that the next look comes sooner."""

    longest: int = 4

    name = "shorten_horizon"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.longest, bool) or not isinstance(self.longest, int) or self.longest < 1:
            raise InterventionError(f"longest: expected a whole number of rows of at least 1, got {self.longest!r}.")

    def horizon(self, steps: int) -> int:
        return min(steps, self.longest)


@dataclass(frozen=True)
class ThinkLonger(Warn):
    """Allow `factor` times as many iterations; a rule that has settled before stops before."""

    factor: int = 4

    name = "think_longer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.factor, bool) or not isinstance(self.factor, int) or self.factor < 1:
            raise InterventionError(f"factor: expected a whole number of at least 1, got {self.factor!r}.")

    def limit(self, iterations: int) -> int:
        return self.factor * iterations


@dataclass(frozen=True)
class HoldAndAsk(Warn):
    """Hold the arms and ask a person: resume, take over, or give another instruction and resume."""

    asks = True
    name = "hold_and_ask"


INTERVENTIONS: dict[str, Callable[..., Warn]] = {rule.name: rule for rule in (Warn, ShortenHorizon, ThinkLonger, HoldAndAsk)}


def make_intervention(settings: Mapping[str, Any]) -> Warn:
    """The one that a configuration names under "do"; the other keys are its arguments."""
    return make_by_name(settings, "do", INTERVENTIONS, "intervention", InterventionError)


ASKS = "The robot asks for help"  # how every question begins


@dataclass(frozen=True)
class Since:
    """The alarm in force: number of decisions and time [s] since its first decision, with the first one's assessment."""

    assessment: Assessment
    stamp_s: float
    instruction: str


class AlarmState:
    """Whether an intervention is in force, decision by decision."""

    def __init__(self, rule: Warn):
        self.rule = rule
        self.reset()

    def reset(self) -> None:
        """A resume, a new instruction, a new activation: what was before does not count."""
        self._over, self._under = 0, 0
        self._first: Since | None = None
        self.active: Since | None = None

    def see(self, assessment: Assessment, stamp_s: float, instruction: str) -> bool:
        """Whether the intervention begins with this decision."""
        if assessment.alarm:
            self._first = self._first if self._over else Since(assessment, stamp_s, instruction)
            self._over, self._under = self._over + 1, 0
        else:
            self._over = 0
            calm = assessment.window_score < self.rule.end_below * assessment.threshold.value
            self._under = self._under + 1 if calm else 0
        if self.active is None and self._over >= self.rule.begin_after:
            self.active = self._first
            return True
        if self.active is not None and self._under >= self.rule.end_after:
            self.active = None
        return False


def question(since: Since, stamp_s: float, doing: str = "") -> str:
    """What the robot asks a person, in one sentence: what is unusual, since when, at what, and which answers there are.

    doing: what the robot was at, in words, where that is known.
    """
    what = since.assessment.reason.rstrip(".") or "the plans are unusual"
    ago_s = max(0.0, stamp_s - since.stamp_s)
    at = f" while {doing}" if doing else ""
    return (
        f"{ASKS}{at}: {what[:1].lower()}{what[1:]}; for {ago_s:.1f} s, at '{since.instruction[:80]}'. "
        "Resume, take over, or give another instruction and resume"
    )
