"""One arm's trajectory controller with the topic behaviour of ros2_control's joint_trajectory_controller (Jazzy).

What it rejects, how it interpolates, that a new trajectory replaces the old one at once, that the last point is held for
ever, and that the sender is told nothing: as there, with its parameter interpolate_from_desired_state set. Times are
seconds on the ROS clock. J joints, N points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

VELOCITY_EPSILON = float(np.finfo(np.float32).eps)  # a last velocity up to here counts as zero


@dataclass(frozen=True)
class Points:
    """A JointTrajectory as arrays: times_s (N,) from the stamp; positions (N, J); the others (N, J) or None where absent."""

    joint_names: tuple[str, ...]
    stamp_s: float  # 0: starts when it arrives
    times_s: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray | None = None
    accelerations: np.ndarray | None = None


@dataclass(frozen=True)
class Desired:
    """What the controller commands at one moment; each (J,)."""

    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray


class JointTrajectoryController:
    """`accept` takes or rejects a trajectory, `update` says what is commanded at a time; neither reads a clock."""

    def __init__(self, joint_names: Sequence[str], position: np.ndarray):
        self.joint_names = tuple(joint_names)
        self.accepted = self.rejected = 0
        self.last_rejection = ""
        self.reset(position)

    def reset(self, position: np.ndarray) -> None:
        """Forget any trajectory and hold this position, as after a restart."""
        self._starts = np.empty(0)
        self._polynomials = np.empty((0, 6, len(self.joint_names)))
        self._end_s = -np.inf
        self._last = np.array(position, dtype=np.float64)

    def holding(self, now_s: float) -> bool:
        """No trajectory is being followed: the last point is held."""
        return now_s >= self._end_s

    def accept(self, points: Points, now_s: float) -> bool:
        """Replace what is followed. A message is rejected whole; `last_rejection` says why."""
        reason = self._rejection(points, now_s)
        if reason:
            self.rejected += 1
            self.last_rejection = reason
            return False
        order = [points.joint_names.index(name) for name in self.joint_names]
        self._follow(points, order, now_s)
        self.accepted += 1
        return True

    def update(self, now_s: float) -> Desired:
        if now_s >= self._end_s:
            return Desired(self._last.copy(), np.zeros_like(self._last), np.zeros_like(self._last))
        segment = max(int(np.searchsorted(self._starts, now_s, side="right")) - 1, 0)
        c = self._polynomials[segment]
        d = max(now_s - self._starts[segment], 0.0)
        return Desired(
            c[0] + d * (c[1] + d * (c[2] + d * (c[3] + d * (c[4] + d * c[5])))),
            c[1] + d * (2 * c[2] + d * (3 * c[3] + d * (4 * c[4] + d * 5 * c[5]))),
            2 * c[2] + d * (6 * c[3] + d * (12 * c[4] + d * 20 * c[5])),
        )

    def _rejection(self, points: Points, now_s: float) -> str:
        names, joints = points.joint_names, len(self.joint_names)
        if len(names) != joints:
            return f"expected {joints} joint names, got {len(names)}"
        if not len(points.times_s):
            return "the trajectory has no points"
        for name in names:
            if name not in self.joint_names:
                return f"joint '{name}' does not belong to this controller"
        if len(set(names)) != joints:
            return "a joint name stands twice"  # a real controller does not look; it would leave a joint without a command
        if (np.diff(points.times_s) <= 0.0).any() or points.times_s[0] < 0.0:
            return "the times do not increase"
        for what in ("positions", "velocities", "accelerations"):
            array = getattr(points, what)
            if array is not None and array.shape != (len(points.times_s), joints):
                return f"expected {what} of {len(points.times_s)} points x {joints} joints, got {array.shape}"
            if array is not None and not np.isfinite(array).all():
                return f"{what} are not finite"  # a real controller does not look; a simulation cannot go on
        if points.velocities is not None and (np.abs(points.velocities[-1]) > VELOCITY_EPSILON).any():
            return "the velocity of the last point is not zero"
        if points.stamp_s != 0.0 and points.stamp_s + points.times_s[-1] < now_s:
            return f"the trajectory ended {now_s - points.stamp_s - points.times_s[-1]:.3f} s ago"
        return ""

    def _follow(self, points: Points, order: list[int], now_s: float) -> None:
        """Cubic between points with velocities, quintic with accelerations too, linear without either."""
        base_s = points.stamp_s or now_s
        arrays = [a if a is None else a[:, order] for a in (points.positions, points.velocities, points.accelerations)]
        times_s, positions, velocities, accelerations = base_s + points.times_s, *arrays
        if now_s < times_s[0]:  # a ramp from what is commanded now; elapsed points are skipped by time
            before = self.update(now_s)
            times_s = np.concatenate([[now_s], times_s])
            positions = np.concatenate([before.position[None], positions])
            velocities = None if velocities is None else np.concatenate([before.velocity[None], velocities])
            accelerations = None if accelerations is None else np.concatenate([before.acceleration[None], accelerations])
        self._last = positions[-1].copy()
        self._end_s = times_s[-1]
        self._starts = times_s[:-1]
        self._polynomials = _polynomials(np.diff(times_s)[:, None], positions, velocities, accelerations)


def _polynomials(
    h: np.ndarray, q: np.ndarray, v: np.ndarray | None, a: np.ndarray | None
) -> np.ndarray:
    """(N-1, 6, J) coefficients by rising power of the time since each segment's start, from the values at both its ends."""
    c = np.zeros((len(h), 6, q.shape[1]))
    c[:, 0] = q[:-1]
    slope = np.diff(q, axis=0) / h
    if v is None:
        c[:, 1] = slope
    elif a is None:
        c[:, 1] = v[:-1]
        c[:, 2] = (3 * slope - 2 * v[:-1] - v[1:]) / h
        c[:, 3] = (v[:-1] + v[1:] - 2 * slope) / h**2
    else:
        c[:, 1], c[:, 2] = v[:-1], a[:-1] / 2
        gap, turn, bend = slope - v[:-1] - a[:-1] * h / 2, v[1:] - v[:-1] - a[:-1] * h, a[1:] - a[:-1]
        c[:, 3] = (10 * gap - 4 * turn + bend * h / 2) / h**2
        c[:, 4] = (-15 * gap + 7 * turn - bend * h) / h**3
        c[:, 5] = (6 * gap - 3 * turn + bend * h / 2) / h**4
    return c
