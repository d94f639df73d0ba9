"""What a controller follows: the motion that was sent to it, unless what is heard of the arm says something else.

Times are seconds on the ROS clock. A = joints, of one arm or of the robot, in controller units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rdvla_ros.control.motion.trajectory import Reference, Trajectory

LONGEST_AHEAD_S = 0.1  # a reported state is carried on, or back, by its velocity for no longer than this
MOVED_S = 0.05  # joints further off than their largest speed takes them in this time were moved by something else
MOVED_SHARE = 0.01  # and, where only the joints themselves are heard of, further than this share of their range
RESTING_SHARE = 4e-4  # [1/s] times the tolerance: arms that are slower rest within milliseconds, and have hardly any way to go
LAG_S = 0.3  # joints that follow a motion are where it was at most this long ago


@dataclass(frozen=True)
class StampedMotion:
    """A motion that went to the controllers. stamp_s: its time base, the message's header.stamp."""

    trajectory: Trajectory
    stamp_s: float

    def at(self, at_s: float) -> Reference:
        """Where it is at a time of the ROS clock; both may be ROS times, which as floats are whole microseconds at best."""
        return self.trajectory.at(round(at_s - self.stamp_s, 6))

    @property
    def points_s(self) -> np.ndarray:
        """(N,) times of its points on the ROS clock."""
        return self.stamp_s + self.trajectory.times_s

    @property
    def begin_s(self) -> float:
        return self.stamp_s + float(self.trajectory.times_s[0])

    @property
    def end_s(self) -> float:
        return self.stamp_s + self.trajectory.duration_s


@dataclass(frozen=True)
class Present:
    """What is known of the arms without knowing what was sent: position, velocity and tolerance (A,), at time at_s.

    commanded: the controllers' own reference, otherwise the measured state. tolerance: what may differ without meaning
    that something else moved the arms.
    """

    position: np.ndarray
    velocity: np.ndarray
    tolerance: np.ndarray
    at_s: float
    commanded: bool

    @property
    def moving(self) -> bool:
        """As far as the report says; measured joints are reported without their velocity."""
        return bool((np.abs(self.velocity) > RESTING_SHARE * self.tolerance).any())

    def moved_to(self, at_s: float) -> Reference:
        """Carried on, or back, to at_s, though not far: a report is recent, or it would not have been used."""
        ahead_s = min(max(at_s - self.at_s, -LONGEST_AHEAD_S), LONGEST_AHEAD_S)
        return Reference(self.position + ahead_s * self.velocity, self.velocity, np.zeros_like(self.position))

    def departs(self, motion: StampedMotion, share: float = 1.0) -> bool:
        """Whether it shows that the motion is not what is followed. share: of the tolerance.

        Until the motion has begun nothing does. A controller's reference lies on it from its first point on; measured joints
        lie where it was within the last LAG_S, which is not known before it has lasted that long.
        """
        if self.commanded:
            if self.at_s < motion.begin_s:
                return False
            path = motion.trajectory.at(self.at_s - motion.stamp_s).position[None]
        else:
            if self.at_s < motion.begin_s + LAG_S:
                return False
            path = motion.trajectory.sample(self.at_s - motion.stamp_s - np.linspace(0.0, LAG_S, 16))[0]
        below, above = path.min(axis=0) - self.position, self.position - path.max(axis=0)
        return bool((np.maximum(below, above) > share * self.tolerance).any())


def followed(motion: StampedMotion, present: Present | None, at_s: float) -> Reference:
    """What the controllers follow at at_s, having been sent the motion: a motion that begins there leaves them smoothly."""
    planned = motion.at(at_s)
    if present is None or not present.departs(motion):
        return planned
    return present.moved_to(at_s).with_joints(np.isinf(present.tolerance), planned)  # a gripper is not where it was sent
