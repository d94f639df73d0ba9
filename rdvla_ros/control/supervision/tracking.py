"""Do the controllers do what was sent to them? A topic gives no answer; their reports of what they command do.

Reports carry times of the ROS clock, how long something has lasted is counted on a steady one; both come in as arguments [s].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rdvla_ros.control.motion.followed import Present, StampedMotion
from rdvla_ros.control.motion.trajectory import Trajectory

SLOW = 0.1  # share of the joints' largest speed below which the time along a motion cannot be told from a position


@dataclass(frozen=True)
class TrackingOptions:
    """follow_s: a controller may be off what was sent for so long. silence_s: between two reports. skew_s: how far apart in
    time the arms may be on the motion that they began together."""

    follow_s: float = 0.2
    silence_s: float = 0.25
    skew_s: float = 0.05


class ArmTracking:
    """One arm. velocity (J,): the joints' largest speeds. expected: the controller is known to report."""

    def __init__(self, arm: str, velocity: np.ndarray, options: TrackingOptions, *, expected: bool):
        self._arm, self._velocity, self._options, self.expected = arm, velocity, options, expected
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
            return f"The controller of arm '{self._arm}' has reported no state yet: is it active?"
        if self.expected and steady_s - self._heard_s > self._options.silence_s:
            silence_s = steady_s - self._heard_s
            return f"The controller of arm '{self._arm}' has reported no state for {silence_s:.2f} s: has it been stopped?"
        return ""

    def deviates(self, steady_s: float) -> str:
        """One sentence when it does not follow what was sent. It is no lasting cause: after a hold nothing is expected of it."""
        if self._off_since_s is None or steady_s - self._off_since_s <= self._options.follow_s:
            return ""
        return (
            f"The controller of arm '{self._arm}' does not follow what was sent: it is {self._distance:.3g} away from it. "
            "Its log says whether it rejected the trajectory."
        )

    def _late(self, position: np.ndarray, velocity: np.ndarray, present: Present, steady_s: float) -> tuple[float, float] | None:
        """To first order: the distance along the direction of motion over the speed; None where the arm hardly moves."""
        scaled = velocity / self._velocity
        if np.abs(scaled).max() < SLOW:
            return None
        behind = (position - present.position) / self._velocity
        return float(behind @ scaled / (scaled @ scaled)), steady_s


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
