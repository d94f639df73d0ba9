"""What the arms' controllers say that they command, whichever message type they say it with.

ros2_control publishes control_msgs/JointTrajectoryControllerState, the simulated robot our own ControllerState; the
fields read here have the same names in both. The type is taken from the topic's publisher, once there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from rdvla_ros.compat import control_msgs
from rdvla_ros.control.trajectory import Reference
from rdvla_ros.msg import ControllerState
from rdvla_ros.nodes.inputs import sensor_qos
from rdvla_ros.robot import Arm, RobotDescription

LOOK_PERIOD_S = 0.2
_TYPES: dict[str, type] = {"rdvla_ros/msg/ControllerState": ControllerState}
if control_msgs is not None:
    _TYPES["control_msgs/msg/JointTrajectoryControllerState"] = control_msgs.JointTrajectoryControllerState


class ControllerStates:
    """Calls on_state(arm, message) for every state of every arm whose description names a topic for it."""

    def __init__(self, node: Node, robot: RobotDescription, on_state: Callable[[Arm, Any], None]):
        self._node, self._on_state = node, on_state
        self._waiting = {arm.name: arm for arm in robot.arms if arm.controller_state_topic}
        self._subscriptions: list[Any] = []
        self._foreign: set[str] = set()
        self._timer = node.create_timer(LOOK_PERIOD_S, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

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
                        f"{arm.controller_state_topic}: expected a publisher of {' or '.join(_TYPES)}, got one of {info.topic_type}."
                    )
        if not self._waiting:
            self._timer.cancel()

    def _subscribe(self, arm: Arm, message_type: type) -> None:
        callback = partial(self._on_state, arm)
        self._subscriptions.append(self._node.create_subscription(message_type, arm.controller_state_topic, callback, sensor_qos(5)))
        del self._waiting[arm.name]


def commanded(message: Any, arm: Arm) -> Reference | None:
    """(J,) what the controller commands, in the arm's order; None when the message does not hold it."""
    point, column = message.reference, {name: i for i, name in enumerate(message.joint_names)}
    if any(name not in column for name in arm.joint_names) or len(point.positions) != len(message.joint_names):
        return None
    order = [column[name] for name in arm.joint_names]
    position = np.array(point.positions, dtype=np.float64)[order]
    velocity = np.array(point.velocities, dtype=np.float64)[order] if len(point.velocities) == len(message.joint_names) else np.zeros(len(order))
    if not (np.isfinite(position).all() and np.isfinite(velocity).all()):
        return None
    return Reference(position, velocity, np.zeros(len(order)))
