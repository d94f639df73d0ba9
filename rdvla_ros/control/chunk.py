"""When the next decision begins, and what a new chunk joins: the arms keep moving while the policy thinks.

A decision is made from an observation at time o, its rows are due at o + (i + 1) * step. It begins while the chunk before is
executed, so early that its motion can take over before the executed rows of that one end. Times are seconds on the ROS
clock and come in as arguments. A = joints of the robot, in controller units.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from rdvla_ros.control.trajectory import Reference, Trajectory


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


@dataclass(frozen=True)
class Sent:
    """One decision's motion of all arms on the wire. base_s: its time base (header.stamp). until_s: when its last executed
    row is due; what follows is the stop."""

    trajectory: Trajectory
    base_s: float
    until_s: float

    def reference(self, at_s: float) -> Reference:
        return self.trajectory.at(at_s - self.base_s)


class Schedule:
    """What is on the wire, and when the next decision must begin.

    lead_s: from a trajectory's time base to its first point. margin_s: reserve on top of the measured latency.
    observation_period_s: distance of the observations; a decision can only begin with one.
    """

    def __init__(self, latency: Latency, *, lead_s: float, observation_period_s: float, margin_s: float = 0.02):
        self.latency = latency
        self._lead_s, self._observation_period_s, self._margin_s = lead_s, observation_period_s, margin_s
        self._sent: list[Sent] = []  # the newest last; the one before it counts again when the newest is refused

    def due(self, now_s: float) -> bool:
        """Whether a decision from the observation that just arrived may not wait for the next one."""
        if not self._sent:
            return True
        latest_start_s = self._sent[-1].until_s - self._lead_s - self.latency.estimate_s - self._margin_s
        return now_s + self._observation_period_s > latest_start_s

    def sent(self, trajectory: Trajectory, base_s: float, stop_s: float) -> None:
        """A motion went out whose last stop_s seconds are its stop."""
        self._sent = [*self._sent[-1:], Sent(trajectory, base_s, base_s + trajectory.duration_s - stop_s)]

    def refused(self) -> None:
        """The newest motion did not reach the controllers: they still follow the one before."""
        self._sent = self._sent[:-1]

    def forget(self) -> None:
        """The controllers follow something else, or nothing, since a hold or a start: only the measured state counts."""
        self._sent = []

    def reference(self, at_s: float, measured: np.ndarray, tolerance: np.ndarray) -> Reference:
        """What the controllers follow at at_s; the next motion leaves it there.

        It is the motion sent last, or its last point at rest. Once that has ended and the measured positions (A,) are not
        within the tolerance (A,) of it, somebody else moved the arms: then it is the measured state at rest.
        """
        if not self._sent:
            return Reference.at_rest(measured)
        newest = self._sent[-1]
        reference = newest.reference(at_s)
        ended = at_s > newest.base_s + newest.trajectory.duration_s
        if ended and (np.abs(reference.position - measured) > tolerance).any():
            return Reference.at_rest(measured)
        return reference

    def resting(self, now_s: float) -> bool:
        """Nothing of what was sent moves the arms any more."""
        return not self._sent or now_s >= self._sent[-1].base_s + self._sent[-1].trajectory.duration_s
