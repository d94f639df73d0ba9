"""Between ROS messages and the package's types; images are in images.py. Nothing here keeps state or reads a clock.

Input that cannot be trusted is refused with ObservationError: what was expected, what came. A = joints of the robot,
J = joints of one message, N = points of a trajectory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Duration, Time
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from rdvla_ros.control.motion.trajectory import Trajectory
from rdvla_ros.msg import Convergence
from rdvla_ros.robot import Joint, RobotDescription
from rdvla_ros.types import Decision, ObservationError, nearest_names

NANOSECONDS = 1_000_000_000
# A measured position may lie this share of the joint's range outside its limits (sag, encoder offsets); degrees do not.
RANGE_MARGIN = 0.1
LEAST_MARGIN = 0.05  # [rad or m] also a finger of small range, which gives by centimetres when a whole arm presses on it


def seconds(stamp: Time | Duration) -> float:
    return stamp.sec + stamp.nanosec / NANOSECONDS


def stamp(seconds_: float) -> Time:
    nanoseconds = round(seconds_ * NANOSECONDS)
    return Time(sec=nanoseconds // NANOSECONDS, nanosec=nanoseconds % NANOSECONDS)


def motion_stamp(seconds_: float) -> Time:
    """The stamp of a motion: on whole microseconds, as its points are. As a float a ROS time is no finer, and a motion that
    repeats another one would lie a fraction beside it."""
    microseconds = round(seconds_ * 1e6)
    return Time(sec=microseconds // 1_000_000, nanosec=microseconds % 1_000_000 * 1000)


def stamp_or_none(seconds_: float) -> Time:
    """0, which is no stamp, where the number is no time that a message can hold."""
    return stamp(seconds_) if 0.0 <= seconds_ < 2**31 else Time()


def duration(seconds_: float) -> Duration:
    nanoseconds = round(seconds_ * NANOSECONDS)
    return Duration(sec=nanoseconds // NANOSECONDS, nanosec=nanoseconds % NANOSECONDS)


@dataclass(frozen=True)
class JointGroup:
    """The joints of one arm, in its order, and the topic that brings them; other arms may share the topic.

    gripper: the joint that may come in messages of its own; empty: there is none. gripper_topic: where these come; empty: on
    `topic` as well.
    """

    arm: str
    topic: str
    joints: tuple[Joint, ...]
    gripper: str = ""
    gripper_topic: str = ""

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(filter(None, (self.topic, self.gripper_topic))))

    @property
    def lead(self) -> str:
        """The joint whose messages make the arm's samples, where it takes several messages to make one."""
        return next((name for name in self.names if name != self.gripper), self.names[0])

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(joint.name for joint in self.joints)


def joint_groups(robot: RobotDescription) -> tuple[JointGroup, ...]:
    """One group per arm, also on a shared topic: its messages may carry one arm each, when several drivers publish there."""
    return tuple(
        JointGroup(
            arm.name,
            arm.joint_states_topic,
            arm.joints,
            arm.gripper.joint if arm.gripper else "",
            arm.gripper.joint_states_topic if arm.gripper else "",
        )
        for arm in robot.arms
    )


class OtherJoints(ObservationError):
    """A message that names none of the group's joints: another arm's, or the wheels' on a combined topic."""


class Contradiction(ObservationError):
    """Input that is refused and shows besides that the robot is not the one described: moving arms are held."""


def joint_positions(message: JointState, group: JointGroup) -> np.ndarray:
    """(J,) positions in the group's order and the controller's units, found by name; joints of others are ignored.

    OtherJoints when the message has no joint of the group; ObservationError when it has, and they are in doubt.
    """
    found = named_positions(message, group)
    if missing := [name for name in group.names if name not in found]:
        raise Contradiction(lacks(group, missing[0], message.name))
    return np.array([found[name] for name in group.names], dtype=np.float64)


def lacks(group: JointGroup, name: str, names: Iterable[str]) -> str:
    """The sentence on a message that has other joints of the group, and not this one."""
    return f"{group.topic}: expected joint '{name}', which the message lacks. {nearest_names(name, names)}"


def named_positions(message: JointState, group: JointGroup) -> dict[str, float]:
    """Joint -> position, of those joints of the group that the message has; raises as `joint_positions` does."""
    names, positions = list(message.name), message.position
    if not set(names) & set(group.names):
        raise OtherJoints(
            f"{group.topic}: expected joints of arm '{group.arm}' such as '{group.names[0]}'. "
            f"{nearest_names(group.names[0], names)}"
        )
    if len(names) != len(positions):
        raise ObservationError(f"{group.topic}: expected as many positions as names, got {len(positions)} and {len(names)}.")
    if twice := next((name for name in group.names if names.count(name) > 1), ""):
        raise Contradiction(f"{group.topic}: joint '{twice}' stands {names.count(twice)} times in one message, expected once.")
    column = {name: i for i, name in enumerate(names)}
    found = {joint.name: positions[column[joint.name]] for joint in group.joints if joint.name in column}
    for joint in group.joints:
        if joint.name in found:
            _check_position(joint, found[joint.name], group.topic)
    return found


def _check_position(joint: Joint, value: float, topic: str) -> None:
    margin = max(RANGE_MARGIN * (joint.upper - joint.lower), LEAST_MARGIN)
    if not math.isfinite(value):
        raise ObservationError(f"{topic}: joint '{joint.name}': expected a finite position, got {value}.")
    if not joint.lower - margin <= value <= joint.upper + margin:
        raise Contradiction(
            f"{topic}: joint '{joint.name}': expected a position within its limits {joint.lower:g} .. {joint.upper:g} "
            f"(rad or m), got {value:g}. Degrees, another zero, or wrong limits in the robot description?"
        )


def trajectory_message(trajectory: Trajectory, stamp_: Time) -> JointTrajectory:
    """One arm's motion as a message whose time base is stamp_."""
    message = JointTrajectory(joint_names=list(trajectory.joint_names))
    message.header.stamp = stamp_
    message.points = [
        JointTrajectoryPoint(positions=position.tolist(), velocities=velocity.tolist(), time_from_start=duration(time_s))
        for time_s, position, velocity in zip(
            trajectory.times_s.tolist(), trajectory.positions, trajectory.velocities, strict=True
        )
    ]
    return message


def trajectory(message: JointTrajectory) -> Trajectory:
    """Inverse of `trajectory_message`. Every point needs positions and velocities: without them the motion between is a guess."""
    joints, shape = len(message.joint_names), (len(message.points), len(message.joint_names))
    for number, point in enumerate(message.points):
        if joints and not len(point.velocities):
            raise ObservationError(f"Trajectory point {number} has no velocities; send positions and velocities.")
        if len(point.positions) != joints or len(point.velocities) != joints:
            raise ObservationError(
                f"Trajectory point {number}: expected {joints} positions and velocities, got {len(point.positions)} and "
                f"{len(point.velocities)}."
            )
    return Trajectory(
        joint_names=tuple(message.joint_names),
        times_s=np.array([seconds(point.time_from_start) for point in message.points]),
        positions=np.array([point.positions for point in message.points], dtype=np.float64).reshape(shape),
        velocities=np.array([point.velocities for point in message.points], dtype=np.float64).reshape(shape),
    )


def convergence_message(
    decision: Decision,
    *,
    sequence: int,
    now_s: float,
    instruction: str,
    horizon: int,
    published: bool,
    note: str,
    doubts: Sequence[str] = (),
) -> Convergence:
    """What became of one decision. horizon: rows to be executed; note: why nothing was published, empty when it was. doubts:
    about its images or its output."""
    message = Convergence(
        sequence=sequence,
        observation_stamp=stamp_or_none(decision.chunk.stamp_s),
        iterations=int(decision.iterations),
        limit=int(decision.limit),
        stop_reason=int(decision.stop_reason),
        converged=bool(decision.converged),
        threshold=float(decision.threshold),
        change=np.asarray(decision.change, dtype=np.float64).tolist(),
        spread=float(decision.spread),
        horizon=horizon if published else 0,
        chunk_length=len(decision.chunk.positions),
        step_s=float(decision.chunk.step_s),
        published=published,
        note=note,
        doubts=[printable(doubt) for doubt in doubts],
        instruction=instruction,
    )
    message.header.stamp = stamp(now_s)
    names = [name for name in decision.timings if name != "total"]
    total = decision.timings.get("total", sum(decision.timings.values()))
    message.timing_names = [*names, "total"]
    message.timings_s = [float(decision.timings[name]) for name in names] + [float(total)]
    return message


def printable(text: str, longest: int = 512) -> str:
    """Text from outside as it may stand in a log: no line breaks or control characters, not endless."""
    clean = "".join(c if c.isprintable() else "?" for c in text[:longest])
    return clean + ("..." if len(text) > longest else "")


def instruction_problem(text: str, longest: int = 512) -> str:
    """Why a text may not be the instruction; empty when it may."""
    if not text.strip():
        return f"expected 1 .. {longest} printable characters, got none"
    if len(text) > longest:
        return f"expected 1 .. {longest} printable characters, got {len(text)}"
    bad: Sequence[str] = [c for c in text if not c.isprintable()]
    return f"expected printable characters only, got {bad[0]!r}" if bad else ""
