"""The dashboard's end of the wire: one node with an executor and a thread of its own, the same alone and inside rqt.

Subscriptions are made once and live as long as the node. Callbacks write into the model and do nothing else; most of what comes
is thrown away before it is read (nodes/common/throttle.py), since nobody sees fifty joint states a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, JointState
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.dashboard import convert
from rdvla_ros.dashboard.acts import Acts
from rdvla_ros.dashboard.model import Model
from rdvla_ros.msg import Convergence, GateStatus, Heartbeat, Uncertainty
from rdvla_ros.nodes.common import conversions, names, qos
from rdvla_ros.nodes.common.executor import make_executor, spin_until
from rdvla_ros.nodes.common.gate_client import GateClient
from rdvla_ros.nodes.common.guard import Guard
from rdvla_ros.nodes.common.throttle import throttled
from rdvla_ros.robot import RobotDescription
from rdvla_ros.srv import Hold, Resume, SetMode

LOOK_S = 1.0  # how often the publishers are counted
POLL_S = 0.1  # how often acts are looked after
JOIN_S = 1.0
READ_HZ = {"beats": 5.0, "joints": 10.0, "chunks": 5.0, "decisions": 50.0, "pictures": 10.0, "parts": 5.0}


class Station:
    """spectator: no service is called and no heartbeat sent.

    heartbeat_topic: where the operator's sign goes, see `beat`; empty: there is none.
    """

    def __init__(self, node: Node, robot: RobotDescription, *, spectator: bool = False, heartbeat_topic: str = ""):
        self.node, self.robot, self.spectator = node, robot, spectator
        self.model = Model({arm.name: len(arm.joints) for arm in robot.arms}, robot.camera_names)
        self._topics: dict[str, list[str]] = {}
        self._guard = Guard(node)
        self._positions: dict[str, dict[str, float]] = {arm.name: {} for arm in robot.arms}
        self._listen()
        calls = () if spectator else (Hold, Resume, SetMode)
        self._gate = GateClient(node, calls, self._guard.wrap(self._on_gate))
        self._topics["gate"] = [self._gate.status_topic]
        self.acts = None if spectator else Acts(node, self.model, self._gate)
        topic = "" if spectator else heartbeat_topic
        self._beats = node.create_publisher(Heartbeat, topic, qos.HEARTBEAT) if topic else None
        self._count = 0
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(LOOK_S, self._guard.wrap(self._look), clock=steady)
        if self.acts:
            node.create_timer(POLL_S, self._guard.wrap(self.acts.poll), clock=steady)
        self._ends = threading.Event()
        self._executor = make_executor(node.context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, name="dashboard", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """The node is destroyed when nothing spins it any more. Safe to call twice."""
        if self._ends.is_set():
            return
        self._ends.set()
        self._executor.shutdown(timeout_sec=JOIN_S)
        if self._thread.is_alive():
            self._thread.join(JOIN_S)
        self.node.destroy_node()

    def beat(self) -> None:
        """The operator's sign of life; called by the window's own thread, so that a window that hangs gives none."""
        if self._beats is None or self._ends.is_set():
            return
        self._count += 1
        message = Heartbeat(count=self._count)
        message.header.stamp = self.node.get_clock().now().to_msg()
        self._beats.publish(message)

    @property
    def beats(self) -> bool:
        return self._beats is not None

    def _spin(self) -> None:
        spin_until(self._executor, self._ended, self._escaped)

    def _ended(self) -> bool:
        return self._ends.is_set() or not self.node.context.ok()

    def _escaped(self, error: Exception) -> None:
        """The window goes on."""
        if not self._ended():
            self._guard.raised("a callback", error)
            self._ends.wait(0.01)  # what raises at once every time must not take the processor

    # -- what comes

    def _listen(self) -> None:
        model = self.model
        self._hear("policy", Heartbeat, names.POLICY_HEARTBEAT, "beats", lambda now_s, m: model.on_policy_beat(now_s, m.causes))
        self._hear("monitor", DiagnosticArray, names.DIAGNOSTICS, "parts", self._on_parts)
        decided = partial(self._converted, convert.decision, model.on_decision)
        self._hear("decisions", Convergence, names.POLICY_CONVERGENCE, "decisions", decided)
        judged = partial(self._converted, convert.uncertainty, model.on_uncertainty)
        self._hear("", Uncertainty, names.MONITOR_UNCERTAINTY, "decisions", judged)
        for arm in self.robot.arms:
            self._hear(f"joints {arm.name}", JointState, arm.joint_states_topic, "joints", partial(self._on_joints, arm))
            self._hear("", JointTrajectory, names.motions(names.POLICY, arm.name), "chunks", partial(self._on_chunk, arm))
        for name in self.robot.camera_names:
            received = partial(self._on_picture, name)
            self._hear(f"camera {name}", CompressedImage, names.thumbnail(name), "pictures", received)

    def _hear(self, source: str, kind: type, topic: str, rate: str, receive: Callable[[float, Any], None]) -> None:
        """Best effort hears reliable publishers too; what was sent before the window was there comes again soon enough."""

        def heard(message: Any) -> None:
            receive(time.monotonic(), message)

        callback = self._guard.wrap(throttled(kind, heard, READ_HZ[rate]))
        self.node.create_subscription(kind, topic, callback, qos.sensor(5), raw=True)
        if source:
            self._topics.setdefault(source, []).append(self.node.resolve_topic_name(topic))

    def _on_gate(self, message: GateStatus) -> None:
        self.model.on_gate(time.monotonic(), convert.gate(message))

    @staticmethod
    def _converted(make: Callable, take: Callable, now_s: float, message: Any) -> None:
        take(now_s, make(now_s, message))

    def _on_parts(self, now_s: float, message: DiagnosticArray) -> None:
        if parts := convert.parts(message):
            self.model.on_parts(now_s, parts)

    def _on_joints(self, arm: Any, now_s: float, message: JointState) -> None:
        positions = convert.positions(message, arm, self._positions[arm.name])
        if positions is not None:
            self.model.on_joints(now_s, arm.name, conversions.seconds(message.header.stamp), positions)

    def _on_chunk(self, arm: Any, now_s: float, message: JointTrajectory) -> None:
        if (chunk := convert.chunk(message, arm)) is not None:
            self.model.on_chunk(arm.name, chunk)

    def _on_picture(self, camera: str, now_s: float, message: CompressedImage) -> None:
        self.model.on_picture(now_s, camera, bytes(message.data))

    def _look(self) -> None:
        for source, topics in self._topics.items():
            if source != "monitor":  # many publish on /diagnostics
                self.model.on_publishers(source, sum(self.node.count_publishers(topic) for topic in topics))


def make_node(context: Context, *, name: str, namespace: str = "") -> Node:
    """Without parameter services: a window has nothing to be set from outside."""
    return Node(name, context=context, namespace=namespace or None, start_parameter_services=False)
