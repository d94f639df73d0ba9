"""What the gate hears of the robot: where its joints are, what its controllers command, and what stands in the way of moving."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import JointState

from rdvla_ros.control.passage import Passage
from rdvla_ros.control.watchdog import StreamWatch
from rdvla_ros.nodes import conversions
from rdvla_ros.nodes.controller_states import ControllerStates, commanded, reported_at_s
from rdvla_ros.nodes.gate_parameters import GateParameters
from rdvla_ros.nodes.inputs import sensor_qos
from rdvla_ros.robot import Arm, RobotDescription
from rdvla_ros.types import ObservationError


class RobotWatch:
    """Subscribes on construction and tells the passage what it hears. safe: wraps callbacks of the node."""

    def __init__(
        self,
        node: Node,
        robot: RobotDescription,
        values: GateParameters,
        passage: Passage,
        outputs: Mapping[str, Publisher],
        safe: Callable[[Callable], Callable],
    ):
        self._node, self._robot, self._values = node, robot, values
        self._passage, self._outputs = passage, outputs
        self._streams = {}
        self._groups = conversions.joint_groups(robot)
        topics = [group.topic for group in self._groups]
        for group in self._groups:
            name = group.topic if topics.count(group.topic) == 1 else f"{group.topic} of arm '{group.arm}'"
            self._streams[group.arm] = StreamWatch(name, timeout_s=values.joint_timeout_s, bad_s=values.bad_joint_s)
        for topic in dict.fromkeys(topics):
            node.create_subscription(JointState, topic, safe(partial(self._on_joints, topic)), sensor_qos(5))
        self._controllers = ControllerStates(node, robot, safe(self._on_controller))

    def causes(self) -> list[str]:
        """What stands in the way of moving now; one sentence each."""
        now_s = time.monotonic()
        causes = [problem for stream in self._streams.values() if (problem := stream.problem(now_s))]
        for arm in self._robot.arms:
            if self._node.count_publishers(arm.trajectory_topic) > 1:
                publishers = self._node.get_publishers_info_by_topic(arm.trajectory_topic)
                others = [p for p in publishers if p.node_name != self._node.get_name()]
                causes.append(f"Another node publishes on {arm.trajectory_topic}: {node_names(others or publishers)}.")
            if self._outputs[arm.name].get_subscription_count() == 0:
                causes.append(f"No controller listens on {arm.trajectory_topic}.")
        return causes

    def _on_joints(self, topic: str, message: JointState) -> None:
        for group in self._groups:
            if group.topic == topic:
                self._on_arm(group, message)

    def _on_arm(self, group: conversions.JointGroup, message: JointState) -> None:
        stream = self._streams[group.arm]
        now_s = self._ros_s()
        try:
            positions = conversions.joint_positions(message, group)
            self._check_clock(group.topic, conversions.seconds(message.header.stamp) - now_s)
        except conversions.OtherJoints as error:
            stream.ignored(conversions.printable(str(error)))
            return
        except ObservationError as error:
            stream.bad(conversions.printable(str(error)))  # it may quote names from the message
            return
        stream.good(time.monotonic())
        self._passage.report_measured(group.arm, positions, now_s)

    def _check_clock(self, topic: str, difference_s: float) -> None:
        if abs(difference_s) > self._values.clock_tolerance_s:
            raise ObservationError(
                f"{topic}: the stamp differs from this node's clock by {difference_s:.3g} s, expected at most "
                f"{self._values.clock_tolerance_s:g} s. Do all nodes agree on use_sim_time, and all hosts on the time?"
            )

    def _on_controller(self, arm: Arm, message: Any) -> None:
        reference = commanded(message, arm)
        if reference is not None:
            self._passage.report_controller(arm.name, reference, reported_at_s(message, self._ros_s()))

    def _ros_s(self) -> float:
        return self._node.get_clock().now().nanoseconds / conversions.NANOSECONDS


def node_names(publishers: list) -> str:
    """A publisher is discovered before the name of its node."""
    names = {f"{p.node_namespace.rstrip('/')}/{p.node_name}" for p in publishers if "UNKNOWN" not in p.node_name}
    return ", ".join(sorted(names)) or "a node whose name is not known yet"
