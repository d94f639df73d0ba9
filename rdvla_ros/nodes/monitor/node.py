"""monitor_node: from the convergence of the decisions to an uncertainty, and the state of everything on /diagnostics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, JointState

from rdvla_ros.control.supervision.uncertainty import Assessment, Settling, Threshold, UncertaintyMonitor
from rdvla_ros.msg import Convergence, Uncertainty
from rdvla_ros.nodes.common import names, qos
from rdvla_ros.nodes.common.controller_states import ControllerStates
from rdvla_ros.nodes.common.gate_client import GateClient
from rdvla_ros.nodes.common.graph import alternating
from rdvla_ros.nodes.common.guard import Guard
from rdvla_ros.nodes.common.hooks import NodeHooks
from rdvla_ros.nodes.common.parameters import Schema, declare, parameter
from rdvla_ros.nodes.common.run import leave, run
from rdvla_ros.nodes.monitor import diagnostics
from rdvla_ros.nodes.monitor.diagnostics import Heard
from rdvla_ros.nodes.monitor.plain_numbers import PlainNumbers
from rdvla_ros.nodes.monitor.thumbnails import Thumbnails
from rdvla_ros.robot import Arm, RobotDescription
from rdvla_ros.srv import Hold
from rdvla_ros.types import StopReason


@dataclass(frozen=True)
class MonitorParameters(Schema):
    robot: str = parameter("", "robot description, a YAML file", unit="path")
    window: int = parameter(5, "the alarm judges the largest score of this number of decisions", low=1, high=1000)
    alarm_threshold: float = parameter(0.0, "score above which there is an alarm; 0: no alarm", low=0.0, high=1e6)
    default_threshold: float = parameter(
        1e-3, "mean-squared change that counts as settled where the halting rule has no threshold", low=1e-12, high=1e3
    )
    hold_on_alarm: bool = parameter(False, "true: ask the gate for a hold when the alarm begins")
    diagnostics_hz: float = parameter(1.0, "rate of /diagnostics", unit="Hz", low=0.1, high=50.0)
    stale_s: float = parameter(
        2.0, "a part is reported as stale after it is silent for this duration", unit="s", low=0.1, high=600.0
    )

    def problems(self):
        if self.hold_on_alarm and self.alarm_threshold == 0.0:
            yield "hold_on_alarm: expected false while alarm_threshold is 0 (no alarm is configured)."


class MonitorNode(NodeHooks, Node):
    def __init__(self, **node_options: Any) -> None:
        super().__init__(names.MONITOR, **node_options)
        self._values = values = declare(self, MonitorParameters)
        self._robot = robot = RobotDescription.load(values.robot).in_namespace(self.get_namespace())
        threshold = Threshold(values.alarm_threshold) if values.alarm_threshold else Threshold()
        self._judge = UncertaintyMonitor(window=values.window, threshold=threshold, default_threshold=values.default_threshold)
        self._assessment: Assessment | None = None
        self._decisions, self._gate = Heard(), Heard()
        self._controllers = {arm.name: Heard() for arm in robot.arms if arm.controller_state_topic}
        self._rejected = dict.fromkeys(self._controllers, 0)
        self._cameras = {camera.name: Heard() for camera in robot.cameras}
        self._joints = {arm.joint_states_topic: Heard() for arm in robot.arms}
        self._uncertainty = self.create_publisher(Uncertainty, "~/uncertainty", 10)
        self._diagnostics = self.create_publisher(DiagnosticArray, names.DIAGNOSTICS, 10)
        self._gate_client = GateClient(self, (Hold,), partial(self._hear, self._gate))
        self.create_subscription(Convergence, names.POLICY_CONVERGENCE, self._on_decision, 10)
        for camera in robot.cameras:
            topic = names.camera_info(camera.topic)
            self.create_subscription(CameraInfo, topic, partial(self._hear, self._cameras[camera.name]), qos.sensor(1))
        for topic, heard in self._joints.items():  # raw: only counted, at up to hundreds a second
            self.create_subscription(JointState, topic, partial(self._hear, heard), qos.sensor(1), raw=True)
        self._states = ControllerStates(self, robot, self._on_controller, Guard(self))
        self._plain, self._thumbnails = PlainNumbers(self), Thumbnails(self, robot, Guard(self).wrap)
        self.create_timer(1.0 / values.diagnostics_hz, self._publish_diagnostics, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _hear(self, heard: Heard, message: Any) -> None:
        heard.hear(message, time.monotonic())

    def _on_controller(self, arm: Arm, message: Any) -> None:
        heard = self._controllers[arm.name]
        if heard.message is None:
            self._rejected[arm.name] = getattr(message, "rejected", 0)
        self._hear(heard, message)

    def _on_decision(self, message: Convergence) -> None:
        self._hear(self._decisions, message)
        alarmed = self._assessment is not None and self._assessment.alarm
        self._assessment = assessment = self._judge.add(_settling(message))
        self._uncertainty.publish(_uncertainty(assessment, message))
        self._plain.send(message, assessment.window_score)
        if assessment.alarm and not alarmed:
            self.get_logger().warning(f"Alarm: {assessment.reason}")
            if self._values.hold_on_alarm:
                # no waiting in a callback; whether the gate heard it is seen in its status
                self._gate_client.hold(f"the monitor's alarm: {assessment.reason}", self.get_name())

    def _publish_diagnostics(self) -> None:
        now_s, stale_s = time.monotonic(), self._values.stale_s
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [
            diagnostics.policy_status(self._decisions, self._assessment, self._gate, now_s, stale_s),
            diagnostics.gate_status(self._gate, now_s, stale_s),
            *(
                diagnostics.controller_status(arm, heard, self._rejected[arm], now_s, stale_s)
                for arm, heard in self._controllers.items()
            ),
            *self._sensors(now_s, stale_s),
        ]
        for status in message.status:
            status.hardware_id = self._robot.name
        for arm, heard in self._controllers.items():
            self._rejected[arm] = getattr(heard.message, "rejected", 0)
        self._diagnostics.publish(message)

    def _sensors(self, now_s: float, stale_s: float) -> Iterator[DiagnosticStatus]:
        rates = self._robot.rates
        for camera in self._robot.cameras:
            images = self.get_publishers_info_by_topic(camera.topic)
            publishers = len(images), self.count_publishers(names.camera_info(camera.topic))
            several = alternating(camera.topic, images)
            heard = self._cameras[camera.name]
            yield diagnostics.camera_status(camera, heard, publishers, rates.camera_hz, now_s, stale_s, several)
        for topic, heard in self._joints.items():
            publishers = self.count_publishers(topic)
            yield diagnostics.joints_status(topic, heard, publishers, rates.joint_states_hz, now_s, stale_s)


def _settling(message: Convergence) -> Settling:
    """A stop reason that this version does not know is treated as the worst one."""
    known = message.stop_reason in set(StopReason)
    return Settling(
        sequence=message.sequence,
        iterations=message.iterations,
        limit=message.limit,
        stop_reason=StopReason(message.stop_reason) if known else StopReason.NON_FINITE,
        converged=message.converged,
        threshold=message.threshold,
        change=tuple(message.change),
    )


def _uncertainty(assessment: Assessment, decision: Convergence) -> Uncertainty:
    message = Uncertainty(
        sequence=assessment.sequence,
        score=float(assessment.score),
        window_score=float(assessment.window_score),
        window=assessment.window,
        alarm_threshold=float(assessment.threshold.value),
        alarm=bool(assessment.alarm),
        calibrated=assessment.threshold.calibrated,
        reason=assessment.reason,
    )
    message.header.stamp = decision.header.stamp
    return message


def main(args: list[str] | None = None) -> None:
    leave(run(MonitorNode, args))


if __name__ == "__main__":
    main()
