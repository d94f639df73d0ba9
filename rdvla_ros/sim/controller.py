"""One arm's trajectory controller with the behaviour of ros2_control's joint_trajectory_controller.

What it rejects, how it interpolates, what a new trajectory does to a running one, that the last point is held for ever,
and that the sender is told nothing. It works in updates, a period apart, and a message counts from the next one on. The
distributions differ in three things (read in their sources; 'jazzy' is compared with recordings of the real one):

    rule     the state before a message, from which it goes to a first point that lies ahead     the command of an update
    humble   the last command, taken as that of now: the arm stalls for one period               the path now
    jazzy    the last command, taken as that of the last update: a double step, then a crawl      the path one period on
    master   as jazzy, on a path that goes on with the old one up to the new one's stamp          the path one period on

Kilted is 'jazzy', and so is master with allow_trajectory_replacement switched off. Where the first point lies before the update
that takes the message, the state before plays no part (except on master, where nothing is skipped, and a past stamp means now).
Times are seconds on the ROS clock and come in as arguments. J joints, N points.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from rdvla_ros.robot import CONTROLLER_RULES as RULES
from rdvla_ros.sim import SimulationError
from rdvla_ros.sim.interpolation import Desired, Segment, Waypoint

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
    """What is followed: the state `before` leads to the first point, the points to one another."""

    before: Waypoint
    points: tuple[Waypoint, ...]

    @property
    def end_s(self) -> float:
        return self.points[-1].time_s

    @cached_property
    def _times(self) -> list[float]:
        return [point.time_s for point in self.points]

    @cached_property
    def _segments(self) -> dict[int, Segment]:
        return {}

    def at(self, now_s: float) -> Desired:
        if now_s >= self.end_s:
            return _standing(self.points[-1])
        index = bisect_right(self._times, now_s)  # points[index] is ahead; before it lies a point, or the state before
        if index == 0 and now_s < self.before.time_s:  # the clock went back: stay where the path began
            return _standing(self.before)
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
    """`accept` takes or rejects a trajectory, `update` goes on to the next period; neither reads a clock.

    rule: see above. update_rate_hz: of the controller manager; whoever calls `update` keeps to it.
    interpolate_from_desired_state (Humble: open_loop_control): a new path starts from the last command (True) or from the
    measured state.
    allow_nonzero_velocity_at_trajectory_end: false by default on Jazzy and later, true on Humble.
    """

    def __init__(
        self,
        joint_names: Sequence[str],
        position: np.ndarray,
        *,
        rule: str = "jazzy",
        update_rate_hz: float = 100.0,
        interpolate_from_desired_state: bool = True,
        allow_partial_joints_goal: bool = False,
        allow_nonzero_velocity_at_trajectory_end: bool = False,
    ):
        if rule not in RULES:
            raise SimulationError(f"Controller rule: expected one of {', '.join(RULES)}, got '{rule}'.")
        if not update_rate_hz > 0.0:
            raise SimulationError(f"update_rate_hz: expected above 0, got {update_rate_hz:g}.")
        self.joint_names = tuple(joint_names)
        self.rule, self.period_s = rule, 1.0 / update_rate_hz
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
        self.reference = self.command = Desired(position, zero, zero)
        self._updated_s: float | None = None
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
        """One period: sets `command`, what the joints are given, and `reference`, what is reported, and returns the latter.

        measured: (position, velocity), needed where paths start from the measured state.
        """
        if self._waiting is not None:
            self._begin(*self._waiting, now_s, measured)
            self._waiting = None
        if self._path is not None:
            self.reference = self._path.at(now_s)
            self.command = self.reference if self.rule == "humble" else self._path.at(now_s + self.period_s)
        self._updated_s = now_s
        return self.reference

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
        before = self._state_before(now_s, measured)
        if self.rule == "master" and self._path is not None and len(self._path.points) > 1:
            self._path = _Path(before, self._blended(stamp_s, points, now_s))
        else:  # the old path is forgotten at once; points whose time has passed are skipped by `_Path.at`
            begin_s = stamp_s or now_s
            self._path = _Path(before, tuple(replace(point, time_s=begin_s + point.time_s) for point in points))

    def _state_before(self, now_s: float, measured: tuple[np.ndarray, np.ndarray] | None) -> Waypoint:
        if self._from_desired:
            at_s = now_s if self.rule == "humble" or self._updated_s is None else min(self._updated_s, now_s)
            return Waypoint(at_s, self.command.position, self.command.velocity, self.command.acceleration)
        if measured is None:
            raise SimulationError("A path is to start from the measured state: expected position and velocity, got none.")
        return Waypoint(now_s, *(np.array(value, dtype=np.float64) for value in measured))

    def _blended(self, stamp_s: float, points: tuple[Waypoint, ...], now_s: float) -> tuple[Waypoint, ...]:
        """As blend_with_active_trajectory: the old path's points up to the stamp, a point of it at the stamp, the new points.

        The old path is read where the last update stood and put where this one stands, which makes it one period late.
        """
        cursor_s = now_s if self._updated_s is None else min(self._updated_s, now_s)
        begin_s, late_s = max(stamp_s, now_s), now_s - cursor_s
        old = [point for point in self._path.points if cursor_s < point.time_s < begin_s - late_s]
        bridge = self._path.at(begin_s - late_s)
        joined = [replace(point, time_s=point.time_s + late_s) for point in old]
        if points[0].time_s > 0.0:
            joined.append(Waypoint(begin_s, bridge.position, bridge.velocity, bridge.acceleration))
        return (*joined, *(replace(point, time_s=begin_s + point.time_s) for point in points))

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
        rests = (self.command.position, np.zeros(len(self.joint_names)), np.zeros(len(self.joint_names)))

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
