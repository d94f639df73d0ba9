"""How unsettled the policy's plans are, from the convergence of its decisions.

The score says how much work a decision was, not how good it is: 0 settled at once, between 0 and 1 settled within the limit,
1 at the threshold when the limit was reached, above 1 by the decades that were missing. A plan that settles at once and is
wrong scores 0. Without a calibration file the alarm threshold is only a setting. With one (calibration.py) the score is the one
that the file defines, from signals that were measured to say something, and the threshold is the file's.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from rdvla_ros.control.supervision.calibration import Calibration, Instruction, threshold_of
from rdvla_ros.types import RdvlaError, StopReason

FIRST_JUDGED = 2  # the change of the first iteration does not exist


@dataclass(frozen=True)
class Settling:
    """One decision as the monitor sees it (message Convergence). change[k - 1] belongs to iteration k."""

    sequence: int
    iterations: int
    limit: int
    stop_reason: StopReason
    converged: bool
    threshold: float
    change: tuple[float, ...]


@dataclass(frozen=True)
class Threshold:
    """Where the alarm begins. calibrated: the value comes from a calibration made for this checkpoint."""

    value: float = math.inf
    calibrated: bool = False

    def __post_init__(self) -> None:
        if math.isnan(self.value) or self.value <= 0.0:
            raise RdvlaError(f"Alarm threshold: expected a number above 0, got {self.value}.")


@dataclass(frozen=True)
class Assessment:
    """What the monitor publishes for a decision; see Uncertainty.msg."""

    sequence: int
    score: float
    window_score: float
    window: int
    threshold: Threshold
    alarm: bool
    reason: str
    arm_scores: Mapping[str, float] = field(default_factory=dict)


def score(settling: Settling, *, default_threshold: float) -> float:
    """0 .. 1 settled, above 1 not settled, +inf where there is nothing to trust.

    default_threshold judges decisions whose stopping rule has no threshold (fixed depth): they count as settled at the
    first iteration whose change was below it.
    """
    if distrusted(settling):
        return math.inf
    threshold = settling.threshold if math.isfinite(settling.threshold) and settling.threshold > 0.0 else default_threshold
    evaluated = _evaluated(settling)
    limit = max(settling.limit, settling.iterations, FIRST_JUDGED + 1)
    settled_at = settling.iterations if settling.converged else None
    if settling.stop_reason is StopReason.FIXED_DEPTH:
        settled_at = next((k for k, change in evaluated if change < threshold), None)
    if settled_at is not None:
        return max(0.0, (settled_at - FIRST_JUDGED) / (limit - FIRST_JUDGED))
    return 1.0 + max(0.0, math.log10(evaluated[-1][1] / threshold))


def distrusted(settling: Settling) -> str:
    """Why the trace says nothing about the plan, in one sentence; empty when it does."""
    if settling.stop_reason is StopReason.DIVERGED:
        return "The iterations moved the plan further and further."
    if settling.stop_reason is StopReason.NON_FINITE or any(math.isinf(c) for c in settling.change):
        return "The decision went through values that are not finite."
    evaluated = _evaluated(settling)
    if not evaluated:
        return "No change between iterations was evaluated."
    if any(change < 0.0 for _, change in evaluated):
        return "A mean-squared change is negative."
    if evaluated[0][1] == 0.0:
        return "The first iterations changed nothing at all: the network does not respond (dead weights or constant output)."
    if len(evaluated) >= 3 and len({change for _, change in evaluated}) == 1:
        return "Every iteration changed the plan by exactly the same amount: the network does not settle, it repeats."
    return ""


def _evaluated(settling: Settling) -> list[tuple[int, float]]:
    """(iteration, change) where the change was evaluated."""
    return [(k, float(c)) for k, c in enumerate(settling.change, start=1) if not math.isnan(c)]


class UncertaintyMonitor:
    """The last decisions: their largest score, the alarm, and whether successive traces are suspiciously equal.

    calibration: with the share of false alarms alpha that its threshold is for. For an instruction that it does not know the
    score and the threshold are those without one, and `reason` says so.
    """

    def __init__(
        self,
        *,
        window: int = 5,
        threshold: Threshold = Threshold(),
        default_threshold: float = 1e-3,
        repeats: int = 4,
        calibration: Calibration | None = None,
        alpha: float = 0.05,
    ):
        if window < 1 or repeats < 2:
            raise RdvlaError(f"Expected a window of at least 1 and repeats of at least 2, got {window} and {repeats}.")
        self.threshold = threshold
        self.calibration, self._alpha = calibration.for_alpha(alpha) if calibration else None, alpha
        self._default_threshold = default_threshold
        self._scores: deque[float] = deque(maxlen=calibration.window if calibration else window)
        self._traces: deque[tuple[float, ...]] = deque(maxlen=repeats)
        self._last_sequence = 0
        self._instruction = ""

    def reset(self) -> None:
        """Nothing before counts: a resume, a new activation, another instruction."""
        self._scores.clear()
        self._traces.clear()

    def add(self, settling: Settling, signals: Mapping[str, float] | None = None, instruction: str = "") -> Assessment:
        """Judge one decision. A sequence number that goes back means a new activation: the window begins anew.

        signals: of SignalMeter, for a calibrated score; None where they are not known.
        """
        if settling.sequence <= self._last_sequence or instruction != self._instruction:
            self.reset()
        self._last_sequence, self._instruction = settling.sequence, instruction
        known = self.calibration.instruction(instruction) if self.calibration else None
        threshold = Threshold(threshold_of(known, self._alpha), True) if known else self.threshold
        reason = distrusted(settling) or self._repeated(settling)
        if reason:
            value = math.inf
        elif known:
            value = self.calibration.score(signals or {}, known)
            reason = "" if math.isfinite(value) else "None of the signals that the calibration uses could be computed."
        else:
            value = score(settling, default_threshold=self._default_threshold)
        self._scores.append(value)
        worst = max(self._scores)
        alarm = worst > threshold.value or math.isinf(worst)
        if alarm and not reason:
            reason = self._unusual(signals or {}, worst, threshold) if known else self._unsettled(worst, threshold)
        elif not reason and self.calibration and not known:
            reason = "Not calibrated for this instruction."
        return Assessment(
            settling.sequence, value, worst, len(self._scores), threshold, alarm, reason, self._arms(signals, known)
        )

    def _unsettled(self, worst: float, threshold: Threshold) -> str:
        limit = f"alarm above {threshold.value:.2f}"
        return f"The plans do not settle: {worst:.2f} within {len(self._scores)} decisions, {limit}."

    def _unusual(self, signals: Mapping[str, float], worst: float, threshold: Threshold) -> str:
        """Which signal adds most to the score."""
        known = self.calibration.instruction(self._instruction)
        parts = self.calibration.parts(signals, known)
        name = max(parts, key=parts.get)
        plain, _, arm = name.partition("/")
        side = "unusually high" if self.calibration.weights[name] > 0 else "unusually low"
        verb = "are" if plain.endswith("s") else "is"
        of = f" of arm {arm}" if arm else ""
        return f"The {plain.replace('_', ' ')}{of} {verb} {side}: score {worst:.2g}, alarm above {threshold.value:.2g}."

    def _arms(self, signals: Mapping[str, float] | None, known: Instruction | None) -> dict[str, float]:
        """arm -> exp of what its own signals add to the score, where there are such."""
        if not known or not signals:
            return {}
        found: dict[str, float] = {}
        for name, part in self.calibration.parts(signals, known).items():
            if arm := name.partition("/")[2]:
                found[arm] = found.get(arm, 0.0) + part
        return {arm: math.exp(min(50.0, value)) for arm, value in found.items()}

    def _repeated(self, settling: Settling) -> str:
        """New pictures give new traces; the same numbers again and again mean that nothing reaches the output."""
        self._traces.append(tuple(c for _, c in _evaluated(settling)))
        full = len(self._traces) == self._traces.maxlen
        if full and len(set(self._traces)) == 1:
            count = len(self._traces)
            return f"The last {count} decisions settled with exactly the same numbers: the input does not reach the network."
        return ""
