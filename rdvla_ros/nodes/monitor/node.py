"""monitor_node: from the decisions to an uncertainty and what follows from an alarm; the state of everything on /diagnostics."""

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
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.control.supervision.interventions import AlarmState, make_intervention, question
from rdvla_ros.control.supervision.uncertainty import Assessment, Threshold
from rdvla_ros.msg import Convergence, GateStatus, Uncertainty
from rdvla_ros.nodes.common import conversions, names, qos
from rdvla_ros.nodes.common.controller_states import ControllerStates
from rdvla_ros.nodes.common.gate_client import GateClient
from rdvla_ros.nodes.common.graph import alternating
from rdvla_ros.nodes.common.guard import Guard
from rdvla_ros.nodes.common.hooks import NodeHooks
from rdvla_ros.nodes.common.parameters import Schema, declare, parameter
from rdvla_ros.nodes.common.run import leave, run
from rdvla_ros.nodes.monitor import diagnostics
from rdvla_ros.nodes.monitor.diagnostics import Heard
from rdvla_ros.nodes.monitor.judge import Judge, find_calibration
from rdvla_ros.nodes.monitor.plain_numbers import PlainNumbers
from rdvla_ros.nodes.monitor.thumbnails import Thumbnails
from rdvla_ros.robot import Arm, RobotDescription
from rdvla_ros.srv import Hold
from rdvla_ros.types import ObservationError

RESTS = 0.01  # [rad/s] an arm that is commanded slower on average does nothing


@dataclass(frozen=True)
class MonitorParameters(Schema):
    robot: str = parameter("", "robot description, a YAML file", unit="path")
    window: int = parameter(5, "the alarm judges the largest score of this number of decisions", low=1, high=1000)
    checkpoint: str = parameter("", "folder of the policy's weights: the calibration must be for it", unit="path")
    calibration: str = parameter("", "calibration file; empty: calibration.json of the checkpoint, where it is", unit="path")
    false_alarms: float = parameter(
        0.05, "share of successful runs that may have an alarm; the calibration has thresholds for some", low=0.001, high=0.5
    )
    alarm_threshold: float = parameter(
        0.0, "score above which there is an alarm where nothing is calibrated; 0: no alarm", low=0.0, high=1e6
    )
    default_threshold: float = parameter(
        1e-3, "mean-squared change that counts as settled where the halting rule has no threshold", low=1e-12, high=1e3
    )
    on_alarm: str = parameter(
        "warn",
        "warn: tell, in the log and /diagnostics; hold_and_ask: also hold the arms and ask a person",
        choices=("warn", "hold_and_ask"),
    )
    alarm_after: int = parameter(2, "decisions in a row with an alarm until it counts", low=1, high=100)
    diagnostics_hz: float = parameter(1.0, "rate of /diagnostics", unit="Hz", low=0.1, high=50.0)
    stale_s: float = parameter(
        2.0, "a part is reported as stale after it is silent for this duration", unit="s", low=0.1, high=600.0
    )


class MonitorNode(NodeHooks, Node):
    def __init__(self, **node_options: Any) -> None:
        super().__init__(names.MONITOR, **node_options)
        self._values = values = declare(self, MonitorParameters)
        self._robot = robot = RobotDescription.load(values.robot).in_namespace(self.get_namespace())
        threshold = Threshold(values.alarm_threshold) if values.alarm_threshold else Threshold()
        calibration, self._calibration = find_calibration(values.calibration, values.checkpoint, values.false_alarms)
        log = self.get_logger()
        (log.info if calibration or not values.calibration else log.warning)(conversions.printable(self._calibration))
        self._judge = Judge(
            robot,
            self._on_judged,
            window=values.window,
            threshold=threshold,
            default_threshold=values.default_threshold,
            calibration=calibration,
            alpha=values.false_alarms,
        )
        self._alarm = AlarmState(make_intervention({"do": values.on_alarm, "begin_after": values.alarm_after}))
        self._assessment: Assessment | None = None
        self._instruction = ""  # of the last assessment
        self._decisions, self._gate = Heard(), Heard()
        self._controllers = {arm.name: Heard() for arm in robot.arms if arm.controller_state_topic}
        self._rejected = dict.fromkeys(self._controllers, 0)
        self._cameras = {camera.name: Heard() for camera in robot.cameras}
        self._joints = {arm.joint_states_topic: Heard() for arm in robot.arms}
        self._uncertainty = self.create_publisher(Uncertainty, "~/uncertainty", 10)
        self._diagnostics = self.create_publisher(DiagnosticArray, names.DIAGNOSTICS, 10)
        self._gate_client = GateClient(self, (Hold,), self._on_gate)
        self.create_subscription(Convergence, names.POLICY_CONVERGENCE, self._on_decision, 10)
        guard = Guard(self)
        for arm in robot.arms:
            heard = guard.wrap(partial(self._on_chunk, arm))
            self.create_subscription(JointTrajectory, names.chunk(arm.name), heard, 10)
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

    def _on_gate(self, status: GateStatus) -> None:
        before = self._gate.message
        self._hear(self._gate, status)
        if status.mode == GateStatus.AUTO and before is not None and before.mode != GateStatus.AUTO:
            self._judge.reset()
            self._alarm.reset()

    def _on_chunk(self, arm: Arm, message: JointTrajectory) -> None:
        try:
            self._judge.on_chunk(arm, message)
        except ObservationError as error:
            self.get_logger().warning(f"Ignored: {conversions.printable(str(error))}", throttle_duration_sec=10.0)

    def _on_decision(self, message: Convergence) -> None:
        self._hear(self._decisions, message)
        self._judge.on_decision(message)

    def _on_judged(self, assessment: Assessment, decision: Convergence, moving: dict[str, float]) -> None:
        if self._assessment is not None and decision.instruction != self._instruction:
            self._alarm.reset()  # what was at another task does not count
        self._assessment, self._instruction = assessment, decision.instruction
        self._uncertainty.publish(_uncertainty(assessment, decision))
        self._plain.send(decision, assessment.window_score)
        stamp_s = conversions.seconds(decision.header.stamp)
        if self._alarm.see(assessment, stamp_s, decision.instruction):
            self.get_logger().warning(f"Alarm: {conversions.printable(assessment.reason)}")
            if self._alarm.rule.asks:
                self._ask(question(self._alarm.active, stamp_s, doing(moving)))

    def _ask(self, sentence: str) -> None:
        """While somebody drives or the arms rest already, nobody is asked. No waiting in a callback: whether the gate heard it is
        seen in its status."""
        gate = self._gate.message
        if gate is None or gate.mode in (GateStatus.AUTO, GateStatus.PAUSE):
            self._gate_client.hold(sentence, self.get_name())

    def _publish_diagnostics(self) -> None:
        self._judge.flush()
        now_s, stale_s = time.monotonic(), self._values.stale_s
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [
            diagnostics.policy_status(self._decisions, self._assessment, self._gate, now_s, stale_s, self._calibration),
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


def doing(moving: dict[str, float]) -> str:
    """What the arms are at, for a person; empty where it is not known."""
    if not moving:
        return ""
    arms = [name for name, speed in moving.items() if speed > RESTS]
    return f"moving {' and '.join(arms)}" if arms else "the arms hardly move"


def _uncertainty(assessment: Assessment, decision: Convergence) -> Uncertainty:
    message = Uncertainty(
        sequence=assessment.sequence,
        score=float(assessment.score),
        window_score=float(assessment.window_score),
        window=assessment.window,
        alarm_threshold=float(assessment.threshold.value),
        alarm=bool(assessment.alarm),
        calibrated=assessment.threshold.calibrated,
        arms=list(assessment.arm_scores),
        arm_scores=[float(value) for value in assessment.arm_scores.values()],
        reason=assessment.reason,
    )
    message.header.stamp = decision.header.stamp
    return message


def main(args: list[str] | None = None) -> None:
    leave(run(MonitorNode, args))


if __name__ == "__main__":
    main()
