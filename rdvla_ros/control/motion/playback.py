"""What controllers put out for motions that are sent one after the other, all updates of a span at once.

The same semantics as sim/controller (a test compares them), for one arm or the whole robot: a motion that arrives replaces the
path at the next update. J joints, M updates. Times are seconds on one clock.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rdvla_ros.control.motion import cubic
from rdvla_ros.control.motion.limits import JointLimits
from rdvla_ros.control.motion.trajectory import Trajectory

RATE_HZ = 1000.0


@dataclass(frozen=True)
class Samples:
    """One row for each update: position, velocity, acceleration (M, J) of the command, by the controller's interpolation, and
    the times_s (M,) of the path that it is for (a period after the update on Jazzy)."""

    times_s: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray

    @classmethod
    def joined(cls, parts: list[Samples]) -> Samples:
        return cls(*(np.concatenate([getattr(p, f) for p in parts]) for f in cls.__dataclass_fields__))

    @classmethod
    def side_by_side(cls, parts: list[Samples]) -> Samples:
        """The joints of several controllers that were sampled at the same times."""
        fields = ("position", "velocity", "acceleration")
        return cls(parts[0].times_s, *(np.concatenate([getattr(p, f) for p in parts], axis=1) for f in fields))

    def jerk(self) -> np.ndarray:
        """(M-1, J) the change of the acceleration from one update to the next, over the time between them, or the third
        difference of the positions, whatever is larger: a step at a seam counts as a jerk of a step per update."""
        own = np.diff(self.acceleration, axis=0) / np.diff(self.times_s)[:, None]
        return _larger(own, self._differences(3))

    def _differences(self, order: int) -> np.ndarray:
        """(M, J) of the commanded positions alone: what the joints are given, whatever the interpolation says of its derivatives.

        By the mean value theorem none exceeds the largest derivative of a smooth motion; a step shows in all of them.
        """
        period_s = (self.times_s[-1] - self.times_s[0]) / max(1, len(self.times_s) - 1)
        return np.diff(self.position, n=order, axis=0) / period_s**order

    def largest(self) -> dict[str, np.ndarray]:
        """(J,) the largest speed, acceleration and jerk."""
        own = {"velocity": self.velocity, "acceleration": self.acceleration, "jerk": self.jerk()}
        return {
            what: np.maximum(np.abs(values).max(axis=0), np.abs(self._differences(order)).max(axis=0, initial=0.0))
            for order, (what, values) in enumerate(own.items(), start=1)
        }

    def shares(self, limits: JointLimits) -> dict[str, float]:
        """The largest share of each limit that is used: above 1 is a violation. Position: of the range, from its middle."""
        middle = (limits.upper + limits.lower) / 2
        used = {"position": np.abs(self.position - middle).max(axis=0) / (limits.range / 2)}
        used |= {what: values / getattr(limits, what) for what, values in self.largest().items()}
        return {what: float(share.max()) for what, share in used.items()}


def _larger(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of two arrays (M, J) and (fewer, J), element by element the value that is larger in size."""
    other = np.concatenate([np.zeros((len(one) - len(other), one.shape[1])), other])
    return np.where(np.abs(other) > np.abs(one), other, one)


class Playback:
    """rule: 'humble' or 'jazzy', as in sim/controller. rate_hz: of the updates."""

    def __init__(self, position: np.ndarray, *, begin_s: float = 0.0, rule: str = "jazzy", rate_hz: float = RATE_HZ):
        position = np.asarray(position, dtype=np.float64)
        self._times_s, self._positions = np.array([begin_s]), position[None]
        self._velocities = np.zeros_like(self._positions)
        self._begin_s, self._rule, self._rate_hz = begin_s, rule, rate_hz
        self._ahead_s = 0.0 if rule == "humble" else 1.0 / rate_hz  # a command is the path so long after its update
        self._tick = 0

    @property
    def period_s(self) -> float:
        return 1.0 / self._rate_hz

    @property
    def due_s(self) -> float:
        """Of the next update."""
        return self._at_tick(self._tick)

    def _ticks_before(self, at_s: float) -> int:
        return max(self._tick, int(np.ceil((at_s - self._begin_s) * self._rate_hz - 1e-6)))

    def _at_tick(self, tick: int) -> float:
        return self._begin_s + tick / self._rate_hz

    def advance(self, until_s: float) -> Samples:
        """What is commanded from the last call up to until_s (not including it)."""
        last = self._ticks_before(until_s)
        times_s = self._begin_s + np.arange(self._tick, last) / self._rate_hz + self._ahead_s
        self._tick = last
        return Samples(times_s, *self._at(times_s))

    def accept(self, motion: Trajectory, stamp_s: float) -> None:
        """A motion has arrived, after what `advance` gave last: from the next update on it counts."""
        now_s, last_s = self._at_tick(self._tick), self._at_tick(self._tick - 1)
        due_s = stamp_s + motion.times_s
        if due_s[0] <= now_s:
            self._times_s, self._positions, self._velocities = due_s, motion.positions, motion.velocities
            return
        position, velocity, _ = self._at(np.array([last_s + self._ahead_s]))
        self._times_s = np.concatenate([[now_s if self._rule == "humble" else last_s], due_s])
        self._positions = np.concatenate([position, motion.positions])
        self._velocities = np.concatenate([velocity, motion.velocities])

    def at(self, at_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Position and velocity (J,) that the controller reports for a time not long ago."""
        position, velocity, _ = self._at(np.array([at_s]))
        return position[0], velocity[0]

    def _at(self, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        times_s = np.maximum(times_s, self._times_s[0])
        if len(self._times_s) == 1:
            rest = np.repeat(self._positions, len(times_s), axis=0)
            return rest, np.zeros_like(rest), np.zeros_like(rest)
        position, velocity, acceleration = cubic.sample(self._times_s, self._positions, self._velocities, times_s)
        over = times_s >= self._times_s[-1]
        acceleration[over] = 0.0
        velocity[over] = self._velocities[-1]
        return position, velocity, acceleration
