"""When the next decision begins, and what a new chunk joins: the arms keep moving while the policy thinks.

A decision is made from an observation at time o, its rows are due at o + (i + 1) * step. It begins while the chunk before is
executed, so early that its motion can take over before the executed rows of that one end. Times are seconds on the ROS
clock and come in as arguments. A = joints of the robot, in controller units.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rdvla_ros.control.motion.followed import Present, StampedMotion, followed
from rdvla_ros.control.motion.handover import Handover, handover
from rdvla_ros.control.motion.stop import Onward
from rdvla_ros.control.motion.trajectory import Reference, Trajectory


class Latency:
    """How long a decision takes from its beginning to its trajectories: a high quantile of the recent ones [s]."""

    def __init__(self, first_guess_s: float, window: int = 50, quantile: float = 0.95):
        self._seen: deque[float] = deque(maxlen=window)
        self._first_guess_s, self._quantile = first_guess_s, quantile

    def add(self, latency_s: float) -> None:
        self._seen.append(latency_s)

    @property
    def estimate_s(self) -> float:
        if not self._seen:
            return self._first_guess_s
        return float(np.quantile(np.array(self._seen), self._quantile, method="higher"))


LONGEST_PLANNING_S = 0.05


@dataclass(frozen=True)
class Sent(StampedMotion):
    """One decision's motion of all arms on the wire. until_s: when its last executed row is due; what follows is the stop."""

    until_s: float


def rows_left(chunk_length: int, step_s: float, elapsed_s: float, lead_s: float) -> int:
    """Rows of a chunk that can still be followed elapsed_s after their observation: those `plan` does not drop."""
    due_s = (np.arange(chunk_length) + 1) * step_s - elapsed_s
    return int((due_s >= lead_s + step_s / 2).sum())


class Schedule:
    """What is on the wire, and when the next decision must begin.

    lead_s: from when a motion is planned until it leaves the running one.
    delay_s: how much longer than usual the gate needs now to bring it to the controllers. It leaves the running motion so much
    later: one that they do not have by then is refused.
    margin_s: reserve on top of the measured latency. planning: how long it takes from a decision to its motion, if it takes time.
    observation_period_s: expected distance of the observations; a decision can only begin with one. Where they come more
    slowly, that counts.
    """

    def __init__(
        self,
        latency: Latency,
        *,
        lead_s: float,
        observation_period_s: float,
        margin_s: float = 0.02,
        planning: Latency | None = None,
        delay_s: Callable[[], float] = lambda: 0.0,
    ):
        self.delay_s = delay_s
        self.latency, self.planning = latency, planning or Latency(0.0)
        self._lead_s, self._expected_period_s, self._margin_s = lead_s, observation_period_s, margin_s
        self._observed: deque[float] = deque(maxlen=8)
        self._sent: list[Sent] = []  # the newest last; the one before it counts again when the newest is refused

    def observed(self, now_s: float) -> None:
        """An observation came."""
        if self._observed and now_s <= self._observed[-1]:
            self._observed.clear()  # the clock jumped back
        self._observed.append(now_s)

    @property
    def observation_period_s(self) -> float:
        gaps_s = np.diff(self._observed)
        return max(self._expected_period_s, float(np.median(gaps_s))) if len(gaps_s) else self._expected_period_s

    def due(self, now_s: float) -> bool:
        """Whether a decision from the observation that just arrived may not wait for the next one."""
        if not self._sent:
            return True
        latest_start_s = self._sent[-1].until_s - self.planning_s - self.lead_s - self.latency.estimate_s - self._margin_s
        return now_s + self.observation_period_s > latest_start_s

    def sent(self, trajectory: Trajectory, stamp_s: float, stop_s: float) -> None:
        """A motion went out whose last stop_s seconds are its stop."""
        self._sent = [*self._sent[-1:], Sent(trajectory, stamp_s, stamp_s + trajectory.duration_s - stop_s)]

    def refused(self) -> None:
        """The newest motion did not reach the controllers: they still follow the one before."""
        self._sent = self._sent[:-1]

    def forget(self) -> None:
        """The controllers follow something else, or nothing, since a hold or a start: only the measured state counts."""
        self._sent = []

    @property
    def lead_s(self) -> float:
        """From when a motion is planned until it leaves the running one: longer while the way to the controllers is slow."""
        return self._lead_s + self.delay_s()

    @property
    def planning_s(self) -> float:
        """One slow plan must not put off all that follow."""
        return min(self.planning.estimate_s, LONGEST_PLANNING_S)

    def handover(self, now_s: float, present: Present | None, lead_s: float | None = None) -> Handover:
        """Where the next motion, planned from now_s on, leaves what the controllers follow: when it is there, or after lead_s.

        present None: it is not known, and they are believed to follow what was sent; so in `reference`, while something was.
        """
        lead_s = self.planning_s + self.lead_s if lead_s is None else lead_s
        if self._sent and not (present and present.departs(self._sent[-1])):
            return handover(now_s, lead_s, self._sent[-1].points_s.tolist())
        return handover(now_s, lead_s, () if present.commanded else None)

    def message(self, motion: Trajectory, over: Handover, present: Present | None) -> Trajectory:
        """A motion whose times count from over.send_s as it goes out, with the stamp over.stamp_s."""
        if not over.history_s:
            motion = replace(motion, before=self.reference(over.send_s, present))
        return over.message(motion, [self.reference(at_s, present) for at_s in over.history_s])

    def reference(self, at_s: float, present: Present | None) -> Reference:
        """What the controllers follow at at_s; the next motion leaves it there.

        It is the motion sent last, or its last point at rest, unless the present says that something else moved the arms.
        """
        if not self._sent:
            return present.moved_to(at_s)
        return followed(self._sent[-1], present, at_s)

    def onward(self, begin_s: float, present: Present | None) -> Onward | None:
        """What the controllers follow from begin_s on; None where it is not what was sent."""
        if not self._sent or (present and present.departs(self._sent[-1])):
            return None
        return Onward(lambda after_s: self.reference(begin_s + after_s, present), self._sent[-1].points_s - begin_s)

    def joinable(self, present: Present) -> bool:
        """Whether it is known how the arms move. After `forget` (a hold that was lifted while they still slow down, say) their
        acceleration is not: what is sent must wait until they rest."""
        return bool(self._sent) or not present.moving

    def resting(self, now_s: float) -> bool:
        """Nothing of what was sent moves the arms any more."""
        return not self._sent or now_s >= self._sent[-1].end_s
