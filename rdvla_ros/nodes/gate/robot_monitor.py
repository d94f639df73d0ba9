"""What the gate hears of the robot: where its joints are, what its controllers command, and what stands in the way of moving.

Heard causes (streams, controllers) cost nothing and are looked at a hundred times a second. Seen ones (who publishes, who
listens, and whether they can hear each other) are looked up in the graph on `look` and kept.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import JointState

from rdvla_ros.control.supervision.tracking import silent_one, skew
from rdvla_ros.control.supervision.watchdog import StreamWatch
from rdvla_ros.nodes.common import conversions, qos
from rdvla_ros.nodes.common.controller_states import (
    ControllerStates,
    commanded,
    incredible,
    reported_at_s,
    stands_still,
    unreadable,
)
from rdvla_ros.nodes.common.graph import alternating, node_names, unheard
from rdvla_ros.nodes.common.guard import Guard
from rdvla_ros.nodes.common.joint_samples import ArmSamples
from rdvla_ros.nodes.common.throttle import throttled
from rdvla_ros.nodes.gate.arms import GateArms
from rdvla_ros.nodes.gate.controller_settings import ControllerSettings
from rdvla_ros.nodes.gate.parameters import GateParameters
from rdvla_ros.robot import Arm, RobotDescription
from rdvla_ros.types import ObservationError

CONTRADICTED_S = 0.5  # joint states that cannot be of this robot are a cause for this long
SKEWED_S = 0.06  # the arms' reports must be apart for so long: each controller reports in its own rhythm


class RobotMonitor:
    """Subscribes on construction and tells the arms what it hears. guard: of the node's callbacks; lock: of the arms."""

    def __init__(
        self,
        node: Node,
        robot: RobotDescription,
        values: GateParameters,
        arms: GateArms,
        guard: Guard,
        lock: Any,
    ):
        self._node, self._robot, self._values = node, robot, values
        self._arms, self._lock = arms, lock
        self._streams = {}
        self._seen: tuple[str, ...] = ()
        self._warned_of: set[str] = set()
        self._hosts: dict[str, frozenset[bytes]] = {}  # arm -> who published its controller's state
        self._skewed_since_s: float | None = None
        self._positions: dict[str, tuple[Any, float]] = {}  # arm -> where its joints were, and when [steady s]
        self._last: dict[str, tuple[float, Any]] = {}  # arm -> ROS time and positions of its controller's last report
        self._incredible: dict[str, str] = {}  # arm -> why its controller's last report is not believed
        self._unreadable: dict[str, str] = {}  # arm -> why its controller's last report says nothing
        self._contradicted: dict[str, tuple[float, str]] = {}  # arm -> when its joints were none of this robot's, and how
        self._groups = conversions.joint_groups(robot)
        self._samples = {group.arm: self._arm_samples(group) for group in self._groups}
        topics = [group.topic for group in self._groups]
        for group in self._groups:
            name = group.topic if topics.count(group.topic) == 1 else f"{group.topic} of arm '{group.arm}'"
            self._streams[group.arm] = StreamWatch(name, timeout_s=values.joint_timeout_s, bad_s=values.bad_joint_s)
        self._joint_topics = tuple(dict.fromkeys(topic for group in self._groups for topic in group.topics))
        for topic in self._joint_topics:
            callback, events = guard.wrap(throttled(JointState, partial(self._on_joints, topic))), qos.log_mismatch(node, topic)
            node.create_subscription(JointState, topic, callback, qos.sensor(5), event_callbacks=events, raw=True)
        self._settings = ControllerSettings(node, robot, guard)
        self._controllers = ControllerStates(node, robot, self._on_controller, guard)

    def causes(self) -> list[str]:
        """What stands in the way of moving now; one sentence each. The controllers first: one that dies takes the joint states
        with it where its process dies, and where it does not, other reasons follow from its silence."""
        now_s = time.monotonic()
        heard = []
        for name, arm in self._arms.tracking.items():
            problem = arm.problem(now_s)
            heard.append(problem and self._unreadable.get(name) or problem)
        doubted = any(self._unreadable.values()) or any(self._incredible.values())  # what these say is not taken as a report
        if not any(heard) and not doubted:
            heard.append(silent_one(self._arms.tracking, now_s))
        heard += [text for at_s, text in self._contradicted.values() if now_s - at_s <= CONTRADICTED_S]
        heard += [stream.problem(now_s) for stream in self._streams.values()]
        return [*filter(None, [*heard, *list(self._incredible.values())]), *self._seen, *self._settings.causes()]

    def deviation(self) -> str:
        """Why what was sent is not what the arms do; no lasting cause, but one to hold."""
        now_s = time.monotonic()
        for arm in self._arms.tracking.values():
            if problem := arm.deviates(now_s):
                return problem
        problem = skew(self._arms.tracking, now_s, self._values.skew_s)
        self._skewed_since_s = (self._skewed_since_s or now_s) if problem else None
        return problem if problem and now_s - self._skewed_since_s > SKEWED_S else ""

    def look(self) -> str:
        """Look up the graph; returns which controller began anew since the last time, one sentence or empty."""
        self._seen = tuple(self._graph_causes())
        self._settings.look()
        return self._restarted()

    def _graph_causes(self) -> list[str]:
        causes: list[str] = []
        rivals: list[str] = []
        for arm in self._robot.arms:
            topic, output = arm.trajectory_topic, self._arms.outputs[arm.name]
            publishers = self._node.get_publishers_info_by_topic(topic)
            if len(publishers) > 1:
                others = [p for p in publishers if p.node_name != self._node.get_name()]
                rivals.append(f"Another node publishes on {topic}: {node_names(others or publishers)}.")
            if output.get_subscription_count() == 0:
                listeners = self._node.get_subscriptions_info_by_topic(topic)
                causes += unheard(topic, [output.qos_profile], listeners) or [f"No controller listens on {topic}."]
        for topic in self._joint_topics:
            causes += unheard(topic, self._node.get_publishers_info_by_topic(topic), [qos.sensor(5)])
        cameras = (alternating(c.topic, self._node.get_publishers_info_by_topic(c.topic)) for c in self._robot.cameras)
        causes += filter(None, cameras)
        if self._values.other_publishers == "hold":
            return [*rivals, *causes]
        for rival in set(rivals) - self._warned_of:
            self._node.get_logger().warning(f"{rival} The arms obey whoever publishes last.")
        self._warned_of = set(rivals)
        return causes

    def _restarted(self) -> str:
        problem = ""
        for arm in self._robot.arms:
            if not arm.controller_state_topic:
                continue
            hosts = frozenset(bytes(p.endpoint_gid) for p in self._node.get_publishers_info_by_topic(arm.controller_state_topic))
            known = self._hosts.get(arm.name)
            if hosts:
                self._hosts[arm.name] = hosts
            if known and hosts and not hosts & known:
                self._settings.forget(arm.name)
                problem = f"The controller of arm '{arm.name}' was started anew."
            tracking = self._arms.tracking[arm.name]
            if tracking.restarts:
                tracking.restarts, problem = 0, f"The controller of arm '{arm.name}' was started anew."
        return problem

    def _on_joints(self, topic: str, message: JointState) -> None:
        for group in self._groups:
            if topic in group.topics:
                self._on_arm(group, message)

    def _arm_samples(self, group: conversions.JointGroup) -> ArmSamples:
        return ArmSamples(
            group,
            jump_factor=self._values.joint_jump_factor,
            merge_s=self._values.joint_merge_s,
            publishers=lambda topic: node_names(self._node.get_publishers_info_by_topic(topic)),
        )

    def _on_arm(self, group: conversions.JointGroup, message: JointState) -> None:
        stream = self._streams[group.arm]
        now_s = self._arms.ros_s()
        try:
            self._check_clock(group, message, now_s)
            positions = self._samples[group.arm].take(message, time.monotonic())
        except conversions.OtherJoints as error:
            stream.ignored(conversions.printable(str(error)))
            return
        except ObservationError as error:
            text = conversions.printable(str(error))  # it may quote names from the message
            if isinstance(error, conversions.Contradiction):
                self._contradicted[group.arm] = time.monotonic(), text
            stream.bad(text)
            return
        stream.good(time.monotonic())
        self._positions[group.arm] = positions, time.monotonic()
        with self._lock:
            self._arms.motion_check.report_measured(group.arm, positions, now_s)

    def _check_clock(self, group: conversions.JointGroup, message: JointState, now_s: float) -> None:
        difference_s = conversions.seconds(message.header.stamp) - now_s
        if abs(difference_s) > self._values.clock_tolerance_s and set(message.name) & set(group.names):
            raise ObservationError(
                f"{group.topic}: the stamp differs from this node's clock by {difference_s:.3g} s, expected at most "
                f"{self._values.clock_tolerance_s:g} s. Do all nodes agree on use_sim_time, and all hosts on the time?"
            )

    def _on_controller(self, arm: Arm, message: Any) -> None:
        reference = commanded(message, arm)
        self._unreadable[arm.name] = "" if reference else conversions.printable(unreadable(message, arm))
        if reference is None:
            return
        measured, measured_s = self._positions.get(arm.name, (None, -1e9))
        fresh = time.monotonic() - measured_s <= self._values.joint_timeout_s
        at_s, accepted = reported_at_s(message, self._arms.ros_s()), getattr(message, "accepted", None)
        follows = conversions.seconds(message.header.stamp), conversions.seconds(message.reference.time_from_start)
        before_s, before = self._last.get(arm.name, (at_s, reference.position))
        self._last[arm.name] = at_s, reference.position
        doubt = incredible(reference, arm, measured if fresh else None)
        self._incredible[arm.name] = doubt or stands_still(reference, arm, before, at_s - before_s)
        if not self._incredible[arm.name]:
            with self._lock:
                self._arms.reported(arm.name, reference, accepted, at_s, time.monotonic(), follows)
