"""The monitor over DDS: an uncertainty per decision, and diagnostics that say which part is silent or unwell."""

import contextlib
import math
import time

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from gate_rig import ROBOT, ROBOT_FILE
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from rdvla_ros.control.supervision.calibration import Calibration, Instruction, digest_of
from rdvla_ros.msg import ControllerState, Convergence, GateStatus, Uncertainty
from rdvla_ros.nodes.common import conversions, names
from rdvla_ros.nodes.common.parameters import ParameterError
from rdvla_ros.nodes.monitor import diagnostics
from rdvla_ros.nodes.monitor.diagnostics import Heard
from rdvla_ros.nodes.monitor.node import MonitorNode
from rdvla_ros.srv import Hold

PATIENCE_S = 20.0


class MonitorRig:
    """The monitor and everything that it listens to, spun together."""

    def __init__(self, **parameters):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        values = {"robot": str(ROBOT_FILE), "diagnostics_hz": 20.0, "stale_s": 0.3, **parameters}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        self.monitor = MonitorNode(context=self.context, parameter_overrides=overrides)
        self.node = node = Node("others", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.monitor)
        self.executor.add_node(node)
        self.scores, self.diagnostics, self.holds, self.sequence = [], [], [], 0
        node.create_subscription(Uncertainty, "/monitor/uncertainty", self.scores.append, 10)
        node.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, 10)
        node.create_service(Hold, "/gate/hold", self._on_hold)
        self.decisions = node.create_publisher(Convergence, "/policy/convergence", 10)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.gate = node.create_publisher(GateStatus, "/gate/status", latched)
        self.controllers = {
            arm.name: node.create_publisher(ControllerState, arm.controller_state_topic, 10) for arm in ROBOT.arms
        }
        topic = names.camera_info(ROBOT.cameras[0].topic)
        self.camera = node.create_publisher(CameraInfo, topic, 10)
        self.chunks = {arm.name: node.create_publisher(JointTrajectory, names.chunk(arm.name), 10) for arm in ROBOT.arms}
        publishers = (self.decisions, self.gate, *self.controllers.values(), self.camera, *self.chunks.values())
        self.until(lambda: all(p.get_subscription_count() for p in publishers), "the monitor to listen")

    def _on_hold(self, request, response):
        self.holds.append(request)
        return response

    def until(self, condition, what):
        end = time.monotonic() + PATIENCE_S
        while not (value := condition()):
            assert time.monotonic() < end, f"waited for {what}"
            self.executor.spin_once(timeout_sec=0.02)
        return value

    def decide(self, change, observed_s=None, **fields):
        """Publish a decision with this trace and return the monitor's answer."""
        self.sequence += 1
        now_s = self.node.get_clock().now().nanoseconds * 1e-9
        values = {"limit": 32, "stop_reason": 1, "converged": True, "threshold": 1e-3, "published": True, "horizon": 6}
        message = Convergence(
            sequence=self.sequence, iterations=len(change), change=change, chunk_length=8, **{**values, **fields}
        )
        observed_s = now_s - 0.08 if observed_s is None else observed_s
        message.header.stamp, message.observation_stamp = conversions.stamp(now_s), conversions.stamp(observed_s)
        message.timing_names, message.timings_s = ["vision", "head", "total"], [0.03, 0.01, 0.04]
        count = len(self.scores)
        self.decisions.publish(message)
        return self.until(lambda: len(self.scores) > count, "a score") and self.scores[-1]

    def part(self, name):
        """The newest status of one part."""
        found = [s for s in self.diagnostics[-1].status if s.name == f"rdvla: {name}"] if self.diagnostics else []
        return found[0] if found else None

    def until_level(self, name, level):
        return self.until(lambda: (s := self.part(name)) is not None and s.level == level and s, f"{name} at level {level}")

    def close(self):
        self.executor.shutdown(timeout_sec=1.0)
        self.monitor.destroy_node()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def rig():
    with contextlib.closing(MonitorRig()) as rig:
        yield rig


def values(status):
    return {item.key: item.value for item in status.values}


def test_a_calm_decision_scores_low_and_the_numbers_are_in_the_diagnostics(rig):
    score = rig.decide([math.nan, 0.01, 5e-4])
    assert score.sequence == 1 and 0.0 < score.score < 0.1 and score.window == 1
    assert not score.alarm and not score.calibrated and score.alarm_threshold == math.inf and not score.reason
    status = rig.until_level("policy", DiagnosticStatus.OK)
    numbers = values(status)
    assert (numbers["iterations"], numbers["horizon"], numbers["stop_reason"]) == ("3", "6", "CONVERGED")
    assert float(numbers["latency_s"]) == pytest.approx(0.04) and float(numbers["vision_s"]) == pytest.approx(0.03)
    assert float(numbers["observation_age_s"]) == pytest.approx(0.08, abs=1e-4)
    assert status.hardware_id == ROBOT.name


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ([math.nan, 0.1, math.inf], {"stop_reason": 4, "converged": False}),
        ([math.nan, 0.0], {}),
        ([], {}),
        ([math.nan, 1e-4], {"stop_reason": 99}),
    ],
)
def test_what_cannot_be_trusted_never_looks_certain(rig, change, fields):
    score = rig.decide(change, **fields)
    assert score.score == math.inf and score.alarm and score.reason
    assert rig.until(lambda: (s := rig.part("policy")) and s.level != DiagnosticStatus.STALE and s, "a level").level in (
        DiagnosticStatus.WARN,
        DiagnosticStatus.ERROR,
    )


def test_an_alarm_asks_the_gate_to_hold_once_where_that_is_configured():
    with contextlib.closing(MonitorRig(alarm_threshold=0.5, on_alarm="hold_and_ask", alarm_after=2)) as rig:
        hard = [math.nan, *[0.1] * 29, 0.2, 0.3]
        assert rig.decide(hard, converged=False, stop_reason=2).alarm
        rig.decide([math.nan, 5e-4])  # still in the window
        rig.until(lambda: rig.holds, "the hold")
        rig.decide([math.nan, 4e-4])
        (request,) = rig.holds
        assert request.who == "monitor" and "alarm" in request.reason and "asks for help" in request.reason


def test_while_a_person_drives_nobody_is_asked():
    with contextlib.closing(MonitorRig(alarm_threshold=0.5, on_alarm="hold_and_ask", alarm_after=1)) as rig:
        rig.gate.publish(GateStatus(mode=GateStatus.TAKEOVER, reason="test"))
        rig.until(lambda: (heard := rig.monitor._gate.message) and heard.mode == GateStatus.TAKEOVER, "the takeover to be heard")
        hard = [math.nan, *[0.1] * 29, 0.2, 0.3]
        assert rig.decide(hard, converged=False, stop_reason=2).alarm and rig.decide([math.nan, 5e-4]).alarm
        assert not rig.holds
        rig.gate.publish(GateStatus(mode=GateStatus.AUTO, reason="test"))
        rig.until(lambda: rig.monitor._gate.message.mode == GateStatus.AUTO, "the resume to be heard")
        assert rig.decide([math.nan, 4e-4]).window == 1, "what was before a resume does not count"


def test_what_follows_an_alarm_is_one_of_the_names():
    with pytest.raises(ParameterError, match="on_alarm"):
        MonitorRig(on_alarm="sing")


@pytest.fixture
def calibrated(tmp_path):
    """A checkpoint folder with a calibration: more than a tenth of reversals is unusual."""
    (tmp_path / "manifest.json").write_text("{}")
    known = Instruction(19, 20, {"direction_reversals": 0.0}, {"direction_reversals": 0.1}, {"0.05": math.e})
    Calibration(digest_of(tmp_path), "2026-11-30", "a test", 3, {"direction_reversals": 1.0}, {"wave": known}).save(
        tmp_path / "calibration.json"
    )
    return tmp_path


def chunks(rig, columns, observed_s):
    """What the policy predicts for both arms; columns: 9 positions of every joint."""
    for arm in ROBOT.arms:
        message = JointTrajectory(joint_names=list(arm.joint_names))
        message.header.stamp = conversions.stamp(observed_s)
        message.points = [JointTrajectoryPoint(positions=[p] * 6 + [0.03], velocities=[0.0] * 7) for p in columns]
        rig.chunks[arm.name].publish(message)


def test_a_calibrated_monitor_asks_with_a_sentence_and_names_what_it_does_not_know(calibrated):
    with contextlib.closing(MonitorRig(checkpoint=str(calibrated), on_alarm="hold_and_ask", alarm_after=2)) as rig:
        even, zigzag = [0.05 * i for i in range(9)], [0.05 * (i % 2) for i in range(9)]
        for number, (columns, alarm) in enumerate([(even, False), (zigzag, True), (zigzag, True)]):
            now_s = 100.0 + number
            chunks(rig, columns, now_s)
            change = [math.nan, 1e-4 * (1 + number)]
            score = rig.decide(change, observed_s=now_s, instruction="wave", step_s=0.1, horizon=8)
            assert score.calibrated and score.alarm is alarm and score.alarm_threshold == pytest.approx(math.e), number
        (request,) = rig.until(lambda: rig.holds, "the hold")
        assert all(words in request.reason for words in ("moving left and right", "direction reversals", "'wave'"))
        assert len(request.reason) <= 300
        other = rig.decide([math.nan, 5e-4], instruction="another", observed_s=110.0)
        assert not other.calibrated and other.reason == "Not calibrated for this instruction."
        lost = rig.decide([math.nan, 6e-4], instruction="wave", observed_s=120.0)  # its chunks never came
        assert lost.score == math.inf and "could be computed" in lost.reason


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "{",
        lambda text: text.replace('"wave"', '"x": 1, "y"'),
        lambda text: text.replace('"n": 19', '"n": 3'),
        lambda text: text[: len(text) // 2],
    ],
    ids=["no JSON", "other fields", "too few runs", "half"],
)
def test_a_damaged_calibration_is_named_and_the_monitor_lives_on(calibrated, spoil):
    file = calibrated / "calibration.json"
    file.write_text(spoil(file.read_text()))
    with contextlib.closing(MonitorRig(checkpoint=str(calibrated))) as rig:
        assert not rig.decide([math.nan, 5e-4], instruction="wave").calibrated
        assert "Uncalibrated: " in rig.until(lambda: (s := rig.part("policy")) and values(s).get("calibration"), "the word")


def test_a_calibration_of_another_checkpoint_is_named_and_not_used(calibrated):
    (calibrated / "manifest.json").write_text("{} ")
    with contextlib.closing(MonitorRig(checkpoint=str(calibrated))) as rig:
        assert not rig.decide([math.nan, 5e-4], instruction="wave").calibrated
        said = rig.until(lambda: (s := rig.part("policy")) and values(s).get("calibration"), "the word")
        assert "expected a calibration of this checkpoint" in said


def test_damaged_chunks_and_numbers_that_go_back_are_survived(calibrated):
    def spoil(message, **fields):
        for name, value in fields.items():
            setattr(message, name, value)
        return message

    even, arm = [0.05 * i for i in range(9)], ROBOT.arms[0]
    with contextlib.closing(MonitorRig(checkpoint=str(calibrated))) as rig:
        for fields in (
            {"points": []},
            {"joint_names": ["x"]},
            {"points": [JointTrajectoryPoint(positions=[math.nan] * 7, velocities=[0.0] * 7)] * 9},
            {"points": [JointTrajectoryPoint(positions=[0.0] * 3), JointTrajectoryPoint()]},
        ):
            message = JointTrajectory(joint_names=list(arm.joint_names))
            message.header.stamp = conversions.stamp(90.0)
            rig.chunks[arm.name].publish(spoil(message, **fields))
        for number in range(2):
            chunks(rig, even, 100.0 + number)
            score = rig.decide([math.nan, 1e-4 * (1 + number)], observed_s=100.0 + number, instruction="wave", step_s=0.1)
        assert score.window == 2 and math.isfinite(score.score) and not score.alarm
        rig.sequence = 0  # the policy was started anew
        chunks(rig, even, 110.0)
        score = rig.decide([math.nan, 5e-4], observed_s=110.0, instruction="wave", step_s=0.1)
        assert (score.sequence, score.window) == (1, 1) and math.isfinite(score.score)


def test_silent_parts_are_stale_and_a_silent_policy_is_well_while_the_gate_holds(rig):
    rig.until_level("policy", DiagnosticStatus.STALE)
    rig.until_level("gate", DiagnosticStatus.STALE)
    rig.until_level(f"controller {ROBOT.arms[0].name}", DiagnosticStatus.STALE)
    rig.gate.publish(GateStatus(mode=GateStatus.HOLD, hold_id=1, reason="test"))
    assert "HOLD" in rig.until_level("policy", DiagnosticStatus.OK).message


def test_the_gates_mode_and_causes_are_reported(rig):
    rig.gate.publish(GateStatus(mode=GateStatus.AUTO, reason="hold 1 lifted", passed=7))
    assert values(rig.until_level("gate", DiagnosticStatus.OK))["passed"] == "7"
    rig.gate.publish(GateStatus(mode=GateStatus.HOLD, reason="a hand in the way\n\x1b[31m", hold_id=3))
    status = rig.until_level("gate", DiagnosticStatus.WARN)
    assert "a hand in the way" in status.message and "\n" not in status.message and "\x1b" not in status.message
    rig.gate.publish(GateStatus(mode=GateStatus.HOLD, reason="silent", causes=["Nothing has come on /left/joint_states."]))
    assert "/left/joint_states" in values(rig.until_level("gate", DiagnosticStatus.ERROR))["cause_0"]


def test_a_controllers_rejection_is_an_error_once(rig):
    arm = ROBOT.arms[0]
    rig.controllers[arm.name].publish(ControllerState(accepted=3, rejected=2))
    rig.until_level(f"controller {arm.name}", DiagnosticStatus.OK)  # rejections before its time are not news
    rig.controllers[arm.name].publish(ControllerState(accepted=3, rejected=3, last_rejection="the times do not increase"))
    status = rig.until_level(f"controller {arm.name}", DiagnosticStatus.ERROR)
    assert "Rejected 1" in status.message and "times do not increase" in status.message
    rig.controllers[arm.name].publish(ControllerState(accepted=4, rejected=3))
    rig.until_level(f"controller {arm.name}", DiagnosticStatus.OK)


def test_a_camera_that_falls_silent_is_stale(rig):
    name = f"camera {ROBOT.cameras[0].name}"
    rig.node.create_publisher(Image, ROBOT.cameras[0].topic, 1)
    rig.until(lambda: "nothing has come" in rig.part(name).message, "the image's publisher to be seen")
    for _ in range(3):
        rig.camera.publish(CameraInfo())
    rig.until(lambda: "Hz" in rig.part(name).message, "a rate")
    rig.until_level(name, DiagnosticStatus.STALE)


def test_row_82_several_publishers_of_one_camera_are_an_error_that_names_them(rig):
    camera = ROBOT.cameras[1]
    rig.node.create_publisher(Image, camera.topic, 1)
    assert "expected one" not in rig.until_level(f"camera {camera.name}", DiagnosticStatus.OK).message
    second = Node("second_driver", context=rig.context)
    second.create_publisher(Image, camera.topic, 1)
    message = rig.until_level(f"camera {camera.name}", DiagnosticStatus.ERROR).message
    assert all(words in message for words in (camera.topic, "expected one publisher, got 2", "/others", "/second_driver"))
    second.destroy_node()
    rig.until_level(f"camera {camera.name}", DiagnosticStatus.OK)


def test_a_camera_that_never_came_is_a_warning_which_names_its_topic(rig):
    first, second, *_ = ROBOT.cameras
    for camera in (first, second):
        assert f"Nothing publishes {camera.topic}" in rig.until_level(f"camera {camera.name}", DiagnosticStatus.WARN).message
    rig.node.create_publisher(Image, first.topic, 1)  # a camera_info publisher is there and silent
    rig.until(lambda: "nothing has come" in rig.part(f"camera {first.name}").message, "the silent camera to be named")
    assert rig.part(f"camera {first.name}").level == DiagnosticStatus.WARN
    rig.node.create_publisher(Image, second.topic, 1)  # a driver that knows no camera_info
    assert "not known" in rig.until_level(f"camera {second.name}", DiagnosticStatus.OK).message


def test_joint_states_that_never_came_or_stopped_are_reported(rig):
    topic = ROBOT.arms[0].joint_states_topic
    name = f"joint states {topic}"
    assert f"Nothing publishes {topic}" in rig.until_level(name, DiagnosticStatus.WARN).message
    publisher = rig.node.create_publisher(JointState, topic, 10)
    rig.until(lambda: "nothing has come" in rig.part(name).message, "the silent publisher to be named")
    timer = rig.node.create_timer(0.01, lambda: publisher.publish(JointState()))
    assert "Hz" in rig.until_level(name, DiagnosticStatus.OK).message
    timer.cancel()
    rig.until_level(name, DiagnosticStatus.STALE)


@pytest.mark.parametrize("mode", [0, 1, 2, 3, 200])
def test_every_mode_of_the_gate_has_a_name_in_the_diagnostics(mode):
    gate, nothing = Heard(), Heard()
    gate.hear(GateStatus(mode=mode, reason="a test"), 0.0)
    assert diagnostics.gate_status(gate, 0.1, 2.0).message.endswith(": a test.")
    assert diagnostics.policy_status(nothing, None, gate, 0.1, 2.0).message


def test_row_05_what_is_doubtful_about_the_images_of_a_decision_is_a_warning():
    decisions, gate = Heard(), Heard()
    flawed = Convergence(published=True, converged=True, iterations=3, limit=16, doubts=["the image of camera 'top' is black"])
    decisions.hear(flawed, 0.0)
    status = diagnostics.policy_status(decisions, None, gate, 0.1, 2.0)
    assert status.level == DiagnosticStatus.WARN and "camera 'top' is black" in status.message
