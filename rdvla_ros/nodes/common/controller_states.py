"""Where the arms are now: what their controllers command, or else what is measured.

ros2_control publishes control_msgs/JointTrajectoryControllerState, the simulated robot our own ControllerState; the
fields read here have the same names in both. The type is taken from the topic's publisher, once there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from rdvla_ros.compat import control_msgs
from rdvla_ros.control.motion.followed import MOVED_S, MOVED_SHARE, Present
from rdvla_ros.control.motion.trajectory import Reference
from rdvla_ros.msg import ControllerState
from rdvla_ros.nodes.common import conversions, qos
from rdvla_ros.nodes.common.guard import Guard
from rdvla_ros.nodes.common.throttle import throttled
from rdvla_ros.robot import Arm, RobotDescription
from rdvla_ros.types import nearest_names

LOOK_PERIOD_S = 0.2
FASTEST = 1.2  # times a joint's largest speed; more is no speed
APART_S = 0.5
STILL, STILL_SPEED, STILL_S = 0.1, 0.25, (0.005, 0.1)  # see `stands_still`
STATE_AGE_S = 0.5  # a controller's report of what it commands is good for this long
_TYPES: dict[str, type] = {"rdvla_ros/msg/ControllerState": ControllerState}
if control_msgs is not None:
    _TYPES["control_msgs/msg/JointTrajectoryControllerState"] = control_msgs.JointTrajectoryControllerState


class ControllerStates:
    """Calls on_state(arm, message) for every state of every arm whose description names a topic for it."""

    def __init__(
        self,
        node: Node,
        robot: RobotDescription,
        on_state: Callable[[Arm, Any], None],
        guard: Guard,
    ):
        self._node, self._on_state, self._guard = node, on_state, guard
        self._waiting = {arm.name: arm for arm in robot.arms if arm.controller_state_topic}
        self._subscriptions: list[Any] = []
        self._foreign: set[str] = set()
        self._timer = node.create_timer(LOOK_PERIOD_S, guard.wrap(self._look), clock=Clock(clock_type=ClockType.STEADY_TIME))

    def destroy(self) -> None:
        self._node.destroy_timer(self._timer)
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _look(self) -> None:
        for arm in list(self._waiting.values()):
            for info in self._node.get_publishers_info_by_topic(arm.controller_state_topic):
                if info.topic_type in _TYPES:
                    self._subscribe(arm, _TYPES[info.topic_type])
                    break
                if info.topic_type not in self._foreign:
                    self._foreign.add(info.topic_type)
                    self._node.get_logger().error(
                        f"{arm.controller_state_topic}: expected a publisher of {' or '.join(_TYPES)}, "
                        f"got one of {info.topic_type}."
                    )
        if not self._waiting:
            self._timer.cancel()

    def _subscribe(self, arm: Arm, message_type: type) -> None:
        callback = self._guard.wrap(throttled(message_type, partial(self._on_state, arm)))
        self._subscriptions.append(
            self._node.create_subscription(message_type, arm.controller_state_topic, callback, qos.sensor(5), raw=True)
        )
        del self._waiting[arm.name]


def commanded(message: Any, arm: Arm) -> Reference | None:
    """(J,) what the controller commands, in the arm's order; None when the message does not hold it (see `unreadable`)."""
    if unreadable(message, arm):
        return None
    point, order = message.reference, [list(message.joint_names).index(name) for name in arm.joint_names]
    position = np.array(point.positions, dtype=np.float64)[order]
    has_velocity = len(point.velocities) == len(message.joint_names)
    velocity = np.array(point.velocities, dtype=np.float64)[order] if has_velocity else np.zeros(len(order))
    return Reference(position, velocity, np.zeros(len(order)))


def unreadable(message: Any, arm: Arm) -> str:
    """Why a report does not say what the controller commands, in one sentence; empty where it does."""
    who, point, names = f"The controller of arm '{arm.name}'", message.reference, list(message.joint_names)
    if missing := [name for name in arm.joint_names if name not in names]:
        return f"{who} reports no joint '{missing[0]}'. {nearest_names(missing[0], names)}"
    if len(point.positions) != len(names):
        return f"{who} reports {len(point.positions)} reference positions for {len(names)} joints, expected one for each."
    for values, what in ((point.positions, "position"), (point.velocities, "speed")):
        if len(values) != len(names):
            continue
        wrong = [name for name in arm.joint_names if not math.isfinite(values[names.index(name)])]
        if wrong:
            joints = f"joint{'s' * (len(wrong) > 1)} {', '.join(map(repr, wrong))}"
            value = values[names.index(wrong[0])]
            return (
                f"{who} reports {value} as the {what} that it commands to {joints}, expected a finite number. Does its hardware "
                f"interface provide that {what}?"
            )
    return ""


def incredible(reference: Reference, arm: Arm, measured: np.ndarray | None) -> str:
    """Why a report cannot be true, in one sentence; empty when it can. A stop that began from it would throw the arm.

    measured: (J,) where the joints are, None where that is not known. Between it and what is commanded lies no more than APART_S
    at full speed, or the controller does not control the arm. Not so for a gripper: what it holds, or presses on, stops it.
    """
    gripper = arm.gripper.joint if arm.gripper else None
    for index, joint in enumerate(arm.joints):
        position, velocity = float(reference.position[index]), float(reference.velocity[index])
        margin = max(conversions.RANGE_MARGIN * (joint.upper - joint.lower), conversions.LEAST_MARGIN)
        if not joint.lower - margin <= position <= joint.upper + margin:
            what, expected = f"{position:.4g}", f"within {joint.lower:.4g} .. {joint.upper:.4g}"
        elif not abs(velocity) <= FASTEST * joint.velocity:
            what, expected = f"a speed of {velocity:.4g}", f"at most {joint.velocity:.4g}"
        elif measured is not None and joint.name != gripper and not abs(position - measured[index]) <= APART_S * joint.velocity:
            what, expected = f"{position:.4g}", f"about {measured[index]:.4g}, where it is measured"
        else:
            continue
        return f"The controller of arm '{arm.name}' says that it commands joint '{joint.name}' to {what}, expected {expected}."
    return ""


def stands_still(reference: Reference, arm: Arm, before: np.ndarray, passed_s: float) -> str:
    """Why a report's speed cannot be true, given the positions (J,) of the report passed_s before it: a joint that is said to
    move at a quarter of its largest speed or more has hardly moved. A stop that began with that speed would throw it."""
    if not STILL_S[0] <= passed_s <= STILL_S[1]:
        return ""
    speed, moved = np.abs(reference.velocity), np.abs(reference.position - before)
    still = (speed > STILL_SPEED * np.array([j.velocity for j in arm.joints])) & (moved < STILL * speed * passed_s)
    if not still.any():
        return ""
    joint = int(np.argmax(still))
    return (
        f"The controller of arm '{arm.name}' says that joint '{arm.joint_names[joint]}' moves at {speed[joint]:.3g}, and that it "
        f"has moved by {moved[joint]:.2g} in {passed_s:.3f} s."
    )


def reported_at_s(message: Any, now_s: float) -> float:
    """When a report was true: its stamp, or now where that makes no sense (no stamp, another clock)."""
    stamp_s = conversions.seconds(message.header.stamp)
    return stamp_s if 0.0 <= now_s - stamp_s <= STATE_AGE_S else now_s


class ArmStates:
    """The present state of all arms of a robot. now_s() is the ROS clock; measured() gives (A,) joint positions, or raises."""

    def __init__(
        self,
        node: Node,
        robot: RobotDescription,
        now_s: Callable[[], float],
        measured: Callable[[], np.ndarray],
        guard: Guard,
    ):
        self._robot, self._now_s, self._measured = robot, now_s, measured
        self._reports: dict[str, tuple[float, Reference]] = {}
        self._guard = guard
        self._states = ControllerStates(node, robot, self._on_state, guard)

    def destroy(self) -> None:
        self._states.destroy()

    def present(self) -> Present:
        """As all controllers report it, or, where one does not, as it is measured (ObservationError: not even that)."""
        now_s, tolerance = self._now_s(), MOVED_S * self._robot.limit("velocity")
        reports = [self._reports.get(arm.name) for arm in self._robot.arms]
        if all(report is not None and abs(now_s - report[0]) <= STATE_AGE_S for report in reports):
            position = np.concatenate([reference.position for _, reference in reports])
            velocity = np.concatenate([reference.velocity for _, reference in reports])
            return Present(position, velocity, tolerance, min(at_s for at_s, _ in reports), commanded=True)
        measured = self._measured()
        grippers = np.isin(
            self._robot.joint_names, self._robot.gripper_joints
        )  # one that holds something is not where it was sent
        tolerance = np.maximum(tolerance, MOVED_SHARE * (self._robot.limit("upper") - self._robot.limit("lower")))
        return Present(measured, np.zeros_like(measured), np.where(grippers, np.inf, tolerance), now_s, commanded=False)

    def _on_state(self, arm: Arm, message: Any) -> None:
        reference = commanded(message, arm)
        if reference is None:
            self._guard.report(f"state of {arm.name}", conversions.printable(unreadable(message, arm)))
        elif not incredible(reference, arm, None):
            self._reports[arm.name] = (reported_at_s(message, self._now_s()), reference)
