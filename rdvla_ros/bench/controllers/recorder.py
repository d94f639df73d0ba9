"""Keeps every report of the controllers and every message to them. Reports are kept as they come, unread: two arms at 500 Hz are
a thousand a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.bench.controllers.states import States, nanoseconds
from rdvla_ros.bringup.processes import BringupError
from rdvla_ros.compat import control_msgs
from rdvla_ros.nodes.common.executor import make_executor, spin_until
from rdvla_ros.robot import Arm, RobotDescription

TELL_EVERY_S = 0.02  # of what is read at once and told on
DEPTH = QoSProfile(depth=2000)


class StateRecorder:
    """tell(arm, message): with one report in TELL_EVERY_S, from the recorder's thread."""

    def __init__(self, robot: RobotDescription, domain_id: int, tell: Callable[[Arm, Any], None]):
        if control_msgs is None:
            raise BringupError(
                "Expected the package control_msgs, in which controllers report, found none. It comes with ros2_controllers."
            )
        self._type, self._tell, self._told_s = control_msgs.JointTrajectoryControllerState, tell, {}
        self.reports: dict[str, list[bytes]] = {arm.name: [] for arm in robot.arms}
        self.sent: dict[str, list[tuple[int, JointTrajectory]]] = {arm.name: [] for arm in robot.arms}
        self._arms = {arm.name: arm for arm in robot.arms}
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain_id)
        self._node = Node("rdvla_bench_states", context=self._context)
        for arm in robot.arms:
            self._node.create_subscription(self._type, arm.controller_state_topic, partial(self._on_report, arm), DEPTH, raw=True)
            self._node.create_subscription(JointTrajectory, arm.trajectory_topic, partial(self._on_sent, arm.name), DEPTH)
        self._executor, self._ends = make_executor(self._context), threading.Event()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(
            target=spin_until, args=(self._executor, self._ends.is_set, lambda error: None, 0.2), daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._ends.set()
        self._thread.join(timeout=5.0)
        self._executor.shutdown(timeout_sec=2.0)
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def forget(self) -> None:
        for kept in (*self.reports.values(), *self.sent.values()):
            kept.clear()

    def states(self, arm: str) -> States:
        """All reports so far, read."""
        messages = [deserialize_message(data, self._type) for data in list(self.reports[arm])]
        return States.of_messages(messages, self._arms[arm].joint_names)

    def stamps_ns(self, arm: str) -> list[int]:
        """Of the messages to this arm that carry one."""
        return [stamp for stamp, _ in self.sent[arm] if stamp]

    def _on_report(self, arm: Arm, data: bytes) -> None:
        self.reports[arm.name].append(data)
        now_s = time.monotonic()
        if now_s - self._told_s.get(arm.name, 0.0) >= TELL_EVERY_S:
            self._told_s[arm.name] = now_s
            self._tell(arm, deserialize_message(data, self._type))

    def _on_sent(self, arm: str, message: JointTrajectory) -> None:
        self.sent[arm].append((nanoseconds(message.header.stamp), message))
