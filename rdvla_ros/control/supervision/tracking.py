"""Do the controllers do what was sent to them? A topic gives no answer; their reports of what they command do.

Reports carry times of the ROS clock, how long something has lasted is counted on a steady one; both come in as arguments [s].
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rdvla_ros.control.motion.followed import Present, StampedMotion
from rdvla_ros.control.motion.trajectory import Trajectory

# A controller that is silent while another one reports is dead, however patient the time-outs are with a machine that is kept
# waiting. The other must have reported so often since, over so long a time: what waited in a queue comes at once.
ALONE_S, ALONE_OVER_S, ALONE_REPORTS = 0.2, 0.15, 5
USUAL, USUAL_OF = 4.0, 16  # times its usual distance, the median of its last reports', that a controller must be silent
KEPT, APART_S = 64, 0.005  # of the times of reports: enough for ALONE_OVER_S at any rate
SLOW = 0.1  # share of the joints' largest speed below which the time along a motion cannot be told from a position


@dataclass(frozen=True)
class TrackingOptions:
    """follow_s: a controller may be off what was sent for so long. silence_s: between two reports. skew_s: how far apart in
    time the arms may be on the motion that they began together."""

    follow_s: float = 0.2
    silence_s: float = 0.25
    skew_s: float = 0.05


class ArmTracking:
    """One arm. velocity (J,): the joints' largest speeds. expected: the controller is known to report. controller: its node."""

    def __init__(self, arm: str, velocity: np.ndarray, options: TrackingOptions, *, expected: bool, controller: str = ""):
        self._who = f"The controller of arm '{arm}'" + (f" ({controller})" if controller else "")
        self._velocity, self._options, self.expected = velocity, options, expected
        self._reports: deque[float] = deque(maxlen=KEPT)  # when they came, at least APART_S from each other
        self._sent: StampedMotion | None = None
        self._off_since_s: float | None = None
        self._heard_s: float | None = None
        self._accepted = 0
        self._distance = 0.0
        self.lag: tuple[float, float] | None = None  # (how late the arm is on the motion, steady time of that report)
        self.restarts = 0

    def sent(self, motion: Trajectory, stamp_s: float) -> None:
        self._sent, self.lag = StampedMotion(motion, stamp_s), None

    def begin_anew(self) -> None:
        """What follows is judged by itself: a controller that was off the motion before has its time again."""
        self._off_since_s = self.lag = None

    def forget(self) -> None:
        """What was sent before is not expected of the controller any more."""
        self._sent = self._off_since_s = self.lag = None

    def reported(self, present: Present, accepted: int | None, steady_s: float) -> None:
        """accepted: motions that the controller has taken since its start, where it says so."""
        self._heard_s = steady_s
        if not self._reports or steady_s - self._reports[-1] >= APART_S:
            self._reports.append(steady_s)
        if accepted is not None:
            if accepted < self._accepted:
                self.restarts += 1
            self._accepted = accepted
        if self._sent is None:
            return
        if present.at_s < self._sent.begin_s:
            return  # on its way to the first point: nothing can be said
        planned = self._sent.trajectory.at(present.at_s - self._sent.stamp_s)
        self.lag = self._late(planned.position, planned.velocity, present, steady_s)
        if not present.departs(self._sent):
            self._off_since_s = None
        elif self._off_since_s is None:
            self._off_since_s = steady_s
        self._distance = float(np.abs(planned.position - present.position).max())

    def problem(self, steady_s: float) -> str:
        """One sentence when the controller cannot be relied on; empty when it can."""
        if self.expected and self._heard_s is None:
            return f"{self._who} has reported no state yet: is it active?"
        if self.expected and steady_s - self._heard_s > self._options.silence_s:
            return self._silent(steady_s)
        return ""

    def dead_beside(self, other: ArmTracking, steady_s: float) -> str:
        """One sentence when this controller is silent while the other goes on reporting; empty otherwise."""
        if self._heard_s is None or steady_s - self._heard_s < max(ALONE_S, USUAL * self._usual_s()):
            return ""
        since = [at_s for at_s in list(other._reports) if at_s > self._heard_s]
        if len(since) < ALONE_REPORTS or since[-1] - since[0] < ALONE_OVER_S:
            return ""
        return self._silent(steady_s)

    def _usual_s(self) -> float:
        """Between two of its reports: the median of the last."""
        reports = list(self._reports)[-USUAL_OF:]
        return float(np.median(np.diff(reports))) if len(reports) > 2 else 0.0

    def _silent(self, steady_s: float) -> str:
        return f"{self._who} has reported no state for {steady_s - self._heard_s:.2f} s: has it been stopped or deactivated?"

    def deviates(self, steady_s: float) -> str:
        """One sentence when it does not follow what was sent. It is no lasting cause: after a hold nothing is expected of it."""
        if self._off_since_s is None or steady_s - self._off_since_s <= self._options.follow_s:
            return ""
        return (
            f"{self._who} does not follow what was sent: it is {self._distance:.3g} away from it. "
            "Its log says whether it rejected the trajectory."
        )

    def _late(self, position: np.ndarray, velocity: np.ndarray, present: Present, steady_s: float) -> tuple[float, float] | None:
        """To first order: the distance along the direction of motion over the speed; None where the arm hardly moves."""
        scaled = velocity / self._velocity
        if np.abs(scaled).max() < SLOW:
            return None
        behind = (position - present.position) / self._velocity
        return float(behind @ scaled / (scaled @ scaled)), steady_s


def silent_one(arms: Mapping[str, ArmTracking], steady_s: float) -> str:
    """One sentence when an arm's controller has fallen silent and another's has not; empty otherwise."""
    pairs = ((arm, other) for arm in arms.values() for other in arms.values() if arm is not other)
    return next(filter(None, (arm.dead_beside(other, steady_s) for arm, other in pairs)), "")


def skew(arms: Mapping[str, ArmTracking], steady_s: float, limit_s: float) -> str:
    """One sentence when arms that began together are further apart in time than limit_s; empty when they are not."""
    lags = {name: arm.lag[0] for name, arm in arms.items() if arm.lag and steady_s - arm.lag[1] < 0.1}
    if len(lags) < 2:
        return ""
    first, last = min(lags, key=lags.get), max(lags, key=lags.get)
    apart_s = lags[last] - lags[first]
    if apart_s <= limit_s:
        return ""
    return f"Arm '{last}' is {apart_s:.3f} s behind arm '{first}' on one motion, expected at most {limit_s:g} s."
