"""One arm's trajectory controller with the topic behaviour of ros2_control's joint_trajectory_controller.

What it rejects, how it interpolates, what a new trajectory does to a running one, that the last point is held for ever,
and that the sender is told nothing. Two variants: 'jazzy' (as Humble and Kilted: the old path is forgotten at once) and
'master' (allow_trajectory_replacement, its default: the old path is followed until the new one begins). Times are seconds
on the ROS clock and come in as arguments. J joints, N points.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from rdvla_ros.sim import SimulationError
from rdvla_ros.sim.interpolation import Desired, Segment, Waypoint

VARIANTS = ("jazzy", "master")
VELOCITY_EPSILON = float(np.finfo(np.float32).eps)  # a last velocity up to here counts as zero
FIELDS = ("positions", "velocities", "accelerations")


@dataclass(frozen=True)
class Points:
    """A JointTrajectory as plain data: times_s (N,) from the stamp; positions (N, J); the others (N, J) or None where absent.

    Lists of rows do as well as arrays; a row of velocities or accelerations may be empty, as in the message.
    """

    joint_names: tuple[str, ...]
    stamp_s: float  # 0: starts when it arrives
    times_s: Sequence[float]
    positions: Sequence[Sequence[float]]
    velocities: Sequence[Sequence[float]] | None = None
    accelerations: Sequence[Sequence[float]] | None = None


@dataclass(frozen=True)
class _Path:
    """What is followed: the state `before` leads to the first point; the predecessor is followed until begin_s."""

    begin_s: float
    before: Waypoint
    points: tuple[Waypoint, ...]
    predecessor: _Path | None = None

    @property
    def end_s(self) -> float:
        return self.points[-1].time_s

    @cached_property
    def _times(self) -> list[float]:
        return [self.before.time_s, *(point.time_s for point in self.points)]

    @cached_property
    def _segments(self) -> dict[int, Segment]:
        return {}

    def at(self, now_s: float) -> Desired:
        if self.predecessor is not None and now_s < self.begin_s:
            return self.predecessor.at(now_s)
        if now_s < self.before.time_s:  # the clock went back: stay where the path began
            return _standing(self.before)
        if now_s >= self.end_s:
            return _standing(self.points[-1])
        # points[index] is ahead; what lies before it is the point before, or the state before the message
        index = bisect_right(self._times, now_s, lo=1) - 1
        if index not in self._segments:
            previous = self.points[index - 1] if index else self.before
            self._segments[index] = Segment.between(previous, self.points[index])
        return self._segments[index].at(now_s)


def _standing(point: Waypoint) -> Desired:
    """A point put out as it is, with its own velocity."""
    zero = np.zeros_like(point.position)
    velocity = zero if point.velocity is None else point.velocity
    return Desired(point.position.copy(), velocity, zero if point.acceleration is None else point.acceleration)


class JointTrajectoryController:
    """`accept` takes or rejects a trajectory, `update` says what is commanded at a time; neither reads a clock.

    interpolate_from_desired_state: a new path starts from the last command (True) or from the measured state.
    allow_nonzero_velocity_at_trajectory_end: false by default on Jazzy and later, true on Humble.
    """

    def __init__(
        self,
        joint_names: Sequence[str],
        position: np.ndarray,
        *,
        variant: str = "jazzy",
        interpolate_from_desired_state: bool = True,
        allow_partial_joints_goal: bool = False,
        allow_nonzero_velocity_at_trajectory_end: bool = False,
    ):
        if variant not in VARIANTS:
            raise SimulationError(f"Controller variant: expected one of {', '.join(VARIANTS)}, got '{variant}'.")
        self.joint_names = tuple(joint_names)
        self.variant = variant
        self._from_desired = interpolate_from_desired_state
        self._allow_partial = allow_partial_joints_goal
        self._allow_moving_end = allow_nonzero_velocity_at_trajectory_end
        self.accepted = self.rejected = 0
        self.last_rejection = ""
        self.reset(position)

    def reset(self, position: np.ndarray) -> None:
        """Forget any trajectory and hold this position, as after a restart."""
        position = np.array(position, dtype=np.float64)
        zero = np.zeros_like(position)
        self._desired = Desired(position, zero, zero)
        self._path: _Path | None = None
        self._waiting: tuple[float, tuple[Waypoint, ...]] | None = None

    def accept(self, points: Points, now_s: float) -> bool:
        """Replace what is followed, from the next update on. A message is rejected whole; `last_rejection` says why."""
        reason = self._objection(points, now_s)
        if reason:
            self.rejected += 1
            self.last_rejection = reason
            return False
        self.accepted += 1
        self._waiting = (float(points.stamp_s or 0.0), self._in_own_order(points))
        return True

    def update(self, now_s: float, measured: tuple[np.ndarray, np.ndarray] | None = None) -> Desired:
        """The command at `now_s`. measured: (position, velocity), needed where paths start from the measured state."""
        if self._waiting is not None:
            self._begin(*self._waiting, now_s, measured)
            self._waiting = None
        if self._path is not None:
            if self._path.predecessor is not None and now_s >= self._path.begin_s:
                self._path = replace(self._path, predecessor=None)  # else the chain of old paths grows for ever
            self._desired = self._path.at(now_s)
        return self._desired

    def holding(self, now_s: float) -> bool:
        """No trajectory is being followed: the last point is held."""
        return self._waiting is None and (self._path is None or now_s >= self._path.end_s)

    def _begin(
        self,
        stamp_s: float,
        points: tuple[Waypoint, ...],
        now_s: float,
        measured: tuple[np.ndarray, np.ndarray] | None,
    ) -> None:
        """Put an accepted message in force; its times become absolute."""
        blends = self.variant == "master" and self._path is not None and len(self._path.points) > 1
        if blends:  # the old path is followed up to the beginning; a past stamp means now, and nothing is skipped
            begin_s = max(stamp_s, now_s)
            old = self._path.at(begin_s)
            before = Waypoint(begin_s, old.position, old.velocity, old.acceleration)
        else:  # the old path is forgotten at once; points whose time has passed are skipped by `_Path.at`
            begin_s = stamp_s or now_s
            before = self._state_before(now_s, measured)
        absolute = tuple(replace(point, time_s=begin_s + point.time_s) for point in points)
        self._path = _Path(begin_s, before, absolute, self._path if blends else None)

    def _state_before(self, now_s: float, measured: tuple[np.ndarray, np.ndarray] | None) -> Waypoint:
        if self._from_desired:
            desired = self._path.at(now_s) if self._path is not None else self._desired
            return Waypoint(now_s, desired.position, desired.velocity, desired.acceleration)
        if measured is None:
            raise SimulationError("A path is to start from the measured state: expected position and velocity, got none.")
        return Waypoint(now_s, *(np.array(value, dtype=np.float64) for value in measured))

    def _objection(self, points: Points, now_s: float) -> str:
        """Why a message is rejected; empty where it is not."""
        names, own = points.joint_names, ", ".join(self.joint_names)
        if not self._allow_partial and len(names) != len(self.joint_names):
            return f"expected {len(self.joint_names)} joint names ({own}), got {len(names)}"
        if not len(names):
            return f"the trajectory names no joint; expected some of {own}"
        if not len(points.times_s):
            return "the trajectory has no points; an empty message stops nothing"
        for name in names:
            if name not in self.joint_names:
                return f"joint '{name}' does not belong to this controller, which has {own}"
        if len(set(names)) != len(names):
            return "a joint name stands twice"  # a real controller does not look; it would leave a joint without a command
        reason = _shape_objection(len(names), points)
        if reason:
            return reason
        last_s, last_velocity = float(points.times_s[-1]), _row(points.velocities, len(points.times_s) - 1)
        if not self._allow_moving_end and last_velocity is not None and np.abs(last_velocity).max() > VELOCITY_EPSILON:
            return f"the velocity of the last point is {np.abs(last_velocity).max():.3g}, expected zero"
        if points.stamp_s and points.stamp_s + last_s < now_s:
            return f"the trajectory ended {now_s - points.stamp_s - last_s:.3f} s ago"
        return ""

    def _in_own_order(self, points: Points) -> tuple[Waypoint, ...]:
        """Points in the controller's joint order; joints left out of a partial goal stay at their present command."""
        columns = [self.joint_names.index(name) for name in points.joint_names]
        rests = (self._desired.position, np.zeros(len(self.joint_names)), np.zeros(len(self.joint_names)))

        def fill(field: str, rest: np.ndarray, index: int) -> np.ndarray | None:
            row = _row(getattr(points, field), index)
            if row is None:
                return None
            full = rest.copy()
            full[columns] = row
            return full

        return tuple(
            Waypoint(float(time_s), *(fill(field, rest, index) for field, rest in zip(FIELDS, rests, strict=True)))
            for index, time_s in enumerate(points.times_s)
        )


def _row(rows: Sequence[Sequence[float]] | None, index: int) -> np.ndarray | None:
    """One point's values; None where the message has none."""
    return None if rows is None or len(rows[index]) == 0 else np.asarray(rows[index], dtype=np.float64)


def _shape_objection(width: int, points: Points) -> str:
    """Times increase strictly; positions are needed, velocities and accelerations may be left out, per point."""
    if points.times_s[0] < 0.0 or any(after <= before for before, after in pairwise(points.times_s)):
        return f"the times do not increase: {', '.join(f'{float(time_s):g}' for time_s in points.times_s[:10])}"
    for field in FIELDS:
        rows = getattr(points, field)
        if rows is None and field != "positions":
            continue
        if len(rows) != len(points.times_s):
            return f"expected {field} of {len(points.times_s)} points, got {len(rows)}"
        for index, row in enumerate(rows):
            if len(row) != width and (len(row) or field == "positions"):
                return f"expected {width} {field} in point {index}, got {len(row)}"
            if not np.isfinite(np.asarray(row, dtype=np.float64)).all():
                return f"{field} are not finite"  # a real controller does not look; a simulation cannot go on
    return ""
