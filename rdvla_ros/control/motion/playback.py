"""What controllers put out for motions that are sent one after the other, all samples of a span at once.

The same semantics as sim/controller (a test compares them), for one arm or the whole robot: a motion that arrives replaces the
path at the next update. J joints, M samples. Times are seconds on one clock.
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
    """times_s (M,); position, velocity, acceleration (M, J) by the controller's own interpolation."""

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
        """(M-1, J) the change of the commanded acceleration from one update to the next, over the time between them.

        So a step of the acceleration at a seam counts as a jerk of a step per update, however short it is. Inside a cubic it
        is the cubic's third derivative.
        """
        return np.diff(self.acceleration, axis=0) / np.diff(self.times_s)[:, None]

    def shares(self, limits: JointLimits) -> dict[str, float]:
        """The largest share of each limit that is used: above 1 is a violation. Position: of the range, from its middle."""
        middle = (limits.upper + limits.lower) / 2
        used = {
            "position": np.abs(self.position - middle) / (limits.range / 2),
            "velocity": np.abs(self.velocity) / limits.velocity,
            "acceleration": np.abs(self.acceleration) / limits.acceleration,
            "jerk": np.abs(self.jerk()) / limits.jerk,
        }
        return {what: float(share.max(initial=0.0)) for what, share in used.items()}


class Playback:
    """follows: the old path, where there is one, is followed until the new one's time base, as on master; otherwise it is
    forgotten at once, as on Humble, Jazzy and Kilted."""

    def __init__(self, position: np.ndarray, *, begin_s: float = 0.0, follows: bool = False, rate_hz: float = RATE_HZ):
        position = np.asarray(position, dtype=np.float64)
        self._times_s, self._positions = np.array([begin_s]), position[None]
        self._velocities = np.zeros_like(self._positions)
        self._begin_s, self._follows, self._rate_hz = begin_s, follows, rate_hz
        self._tick = 0

    def _ticks_before(self, at_s: float) -> int:
        return max(self._tick, int(np.ceil((at_s - self._begin_s) * self._rate_hz - 1e-6)))

    def advance(self, until_s: float) -> Samples:
        """What is put out from the last call up to until_s (not including it)."""
        last = self._ticks_before(until_s)
        times_s = self._begin_s + np.arange(self._tick, last) / self._rate_hz
        self._tick = last
        return Samples(times_s, *self._at(times_s))

    def accept(self, motion: Trajectory, base_s: float) -> None:
        """A motion has arrived, after what `advance` gave last: from the next update on it counts."""
        now_s = self._begin_s + self._tick / self._rate_hz
        begin_s, offset_s = now_s, base_s
        if self._follows and len(self._times_s) > 1:  # a stamp that has passed means now, and nothing is skipped
            begin_s = offset_s = max(base_s, now_s)
        due_s = offset_s + motion.times_s
        ahead = due_s > begin_s
        position, velocity, _ = self._at(np.array([begin_s]))
        kept = (self._times_s > now_s) & (self._times_s < begin_s)
        kept[max(0, int(np.searchsorted(self._times_s, now_s, side="right")) - 1)] |= begin_s > now_s  # the point before now
        self._times_s = np.concatenate([self._times_s[kept], [begin_s], due_s[ahead]])
        self._positions = np.concatenate([self._positions[kept], position, motion.positions[ahead]])
        self._velocities = np.concatenate([self._velocities[kept], velocity, motion.velocities[ahead]])

    def at(self, at_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Position and velocity (J,) that are commanded at a time not before the last motion came."""
        position, velocity, _ = self._at(np.array([at_s]))
        return position[0], velocity[0]

    def _at(self, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        position, velocity, acceleration = cubic.sample(self._times_s, self._positions, self._velocities, times_s)
        over = times_s >= self._times_s[-1]
        acceleration[over] = 0.0
        velocity[over] = self._velocities[-1]
        return position, velocity, acceleration
