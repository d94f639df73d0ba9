"""An alarm and what follows from it, with gate, policy and monitor as processes over DDS around a robot in this test.

The policy finds dark pictures hard: it needs nearly all iterations that it may make, and the calibration calls that unusual.
"""

import array
import contextlib
import math

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

import rclpy
from gate_rig import ROBOT, ROBOT_FILE
from process_rig import ProcessRig
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from worker_cases import LIMIT

from rdvla_ros.control.supervision.calibration import FILE, Calibration, Instruction, digest_of
from rdvla_ros.control.supervision.interventions import ShortenHorizon, ThinkLonger
from rdvla_ros.msg import Convergence, GateStatus, Uncertainty
from rdvla_ros.nodes.common import conversions
from rdvla_ros.nodes.common.guard import Guard
from rdvla_ros.nodes.policy.alarm_response import AlarmResponse
from rdvla_ros.srv import Hold, Resume, SetInstruction, SetMode

PATIENT = {
    "pause_after_s": 10.0,
    "longest_pause_s": 20.0,
    "max_observation_age_s": 1.2,
}  # this machine may stand still for a moment
WIDTH, HEIGHT = 80, 60
HORIZON, AFTER, END_AFTER, WINDOW = 5, 2, 2, 2  # rows; decisions: until an alarm counts, until it is over, of the calibration


class AlarmRig(ProcessRig):
    """Bright pictures, and a robot that moves. `decisions` and `scores`: what policy and monitor publish."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.decisions, self.scores = str(folder), [], []
        self.node.create_subscription(Convergence, "/policy/convergence", self.decisions.append, 10)
        self.node.create_subscription(Uncertainty, "/monitor/uncertainty", self.scores.append, 10)
        name = "/policy/set_instruction"
        self.clients[SetInstruction] = self.node.create_client(SetInstruction, name, qos_profile=QoSProfile(depth=10))
        self.robot = folder / "robot.yaml"  # small pictures: a busy machine loses large ones
        self.robot.write_text(ROBOT_FILE.read_text().replace("width: 320, height: 240", f"width: {WIDTH}, height: {HEIGHT}"))
        self.light(True)

    def publish_images(self):
        for camera in ROBOT.cameras:
            message = Image(height=HEIGHT, width=WIDTH, step=3 * WIDTH, encoding="rgb8", data=self._pixels)
            message.header.stamp, message.header.frame_id = conversions.stamp(self.now_s()), camera.frame_id
            self._images[camera.name].publish(message)

    def light(self, bright):
        low, high = (60, 255) if bright else (5, 40)
        pixels = np.random.default_rng(0).integers(low, high, HEIGHT * WIDTH * 3, dtype=np.uint8)
        self._pixels = array.array("B", pixels.tobytes())
        return len(self.decisions)

    def run(self, policy_does, monitor_does):
        self.start("gate", robot=self.robot)
        self.start("thoughtful policy", again="policy", robot=self.robot, on_alarm=policy_does, alarm_after=AFTER, **PATIENT)
        self.start("monitor", robot=self.robot, checkpoint=self.folder, on_alarm=monitor_does, alarm_after=AFTER)
        self.move()
        self.until(lambda: self.scores and self.usual(self.decisions[-1]), "decisions that are judged")

    def usual(self, decision):
        return decision.published and decision.limit == LIMIT and decision.horizon == HORIZON

    def asked(self):
        """Dark, and the robot asks: its sentence."""
        self.light(False)
        self.until(lambda: self.status.mode == GateStatus.HOLD, "the robot to ask")
        assert self.status.who == "monitor", self.status.reason
        return self.status.reason

    def moves_on(self, decisions=2):
        assert self.status.mode == GateStatus.AUTO
        count, received = len(self.decisions), self.received_count()
        self.until(lambda: len(self.decisions) >= count + decisions and self.received_count() > received, "motions")
        assert self.status.mode == GateStatus.AUTO, self.status.reason

    def resume(self, who="Anna"):
        self.until(lambda: not self.status.causes, "a hold that can be lifted")
        answer = self.call(Resume, hold_id=self.status.hold_id, who=who)
        assert answer.accepted, answer
        self.until(lambda: self.status.mode == GateStatus.AUTO, "AUTO")
        assert self.status.who == who


@pytest.fixture
def rig(tmp_path):
    """With a calibration for the instruction 'calm': more than some ten iterations are unusual."""
    (tmp_path / "manifest.json").write_text("{}")
    known = Instruction(19, 20, {"iterations": 3.0}, {"iterations": 3.0}, {"0.05": math.e**2})
    Calibration(digest_of(tmp_path), "2026-11-30", "a test", WINDOW, {"iterations": 1.0}, {"calm": known}).save(tmp_path / FILE)
    with contextlib.closing(AlarmRig(tmp_path)) as rig:
        yield rig


@pytest.mark.parametrize(
    ("does", "changed"),
    [
        ("shorten_horizon", lambda d: d.horizon == ShortenHorizon().longest and d.limit == LIMIT),
        ("think_longer", lambda d: d.horizon == HORIZON and d.limit == LIMIT * ThinkLonger().factor),
    ],
)
def test_an_alarm_changes_the_next_decisions_until_it_is_over(rig, does, changed):
    rig.run(does, "warn")
    dark = rig.light(False)
    rig.until(lambda: any(changed(d) for d in rig.decisions[dark:]), f"{does} during the alarm")
    before = next(i for i, d in enumerate(rig.decisions) if changed(d))
    hard = [d.sequence for d in rig.decisions if d.iterations > LIMIT / 2]
    assert rig.decisions[before].sequence >= hard[0] + AFTER, "not with the first alarm"
    bright = rig.light(True)
    rig.until(lambda: rig.usual(rig.decisions[-1]) and len(rig.decisions) > bright + 1, "the usual decisions after the alarm")
    easy = next(i for i in range(bright, len(rig.decisions)) if rig.decisions[i].iterations == 3)
    calm = next(score for score in rig.scores if score.sequence >= rig.decisions[easy].sequence and not score.alarm)
    back = next(d for d in rig.decisions[easy:] if rig.usual(d))
    assert back.sequence >= calm.sequence + END_AFTER, "not with the first calm decision"
    assert all(changed(d) for d in rig.decisions[easy:] if d.published and d.sequence < back.sequence)
    assert rig.status.mode == GateStatus.AUTO and does in rig.log("policy")


def test_an_ask_says_why_and_waits_for_a_resume_a_takeover_or_another_instruction(rig):
    rig.run("warn", "hold_and_ask")
    sentence = rig.asked()
    for words in ("asks for help while moving left and right", "iterations are unusually high", "for ", " s, at 'calm'"):
        assert words in sentence, sentence
    hold = rig.status.hold_id
    rig.spin_for(0.5)
    assert (rig.status.mode, rig.status.hold_id, rig.status.reason) == (GateStatus.HOLD, hold, sentence), "it waits"
    assert rig.resting()

    rig.light(True)
    rig.resume()
    rig.moves_on()

    assert rig.asked().startswith("The robot asks for help")
    assert rig.call(SetMode, mode=GateStatus.TAKEOVER, who="Bob", reason="I do it").accepted
    rig.until(lambda: rig.status.mode == GateStatus.TAKEOVER, "the takeover")
    rig.spin_for(0.5)
    assert (rig.status.mode, rig.status.who) == (GateStatus.TAKEOVER, "Bob"), "nobody is asked while a person drives"
    assert rig.call(Hold, who="Bob", reason="done").accepted
    rig.light(True)
    rig.until(lambda: rig.status.mode == GateStatus.HOLD, "the hold")
    rig.resume("Bob")
    rig.moves_on()

    assert rig.asked().startswith("The robot asks for help")
    assert rig.call(SetInstruction, instruction="do as always", who="Anna").accepted
    rig.spin_for(0.5)
    assert rig.status.mode == GateStatus.HOLD, "words alone move no arm"
    rig.resume()
    rig.moves_on(4)  # dark still: nothing that was at the task before counts
    assert rig.decisions[-1].instruction == "do as always"
    assert "Instruction 'do as always' by Anna" in rig.log("policy")


def test_an_alarm_of_before_a_resume_or_another_instruction_does_not_count():
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("alone", context=context)
    response = AlarmResponse(node, "think_longer", 1, Guard(node))
    alarm = Uncertainty(sequence=1, score=9.0, window_score=9.0, window=1, alarm_threshold=1.0, calibrated=True, alarm=True)
    response._hear(alarm)
    assert response.factor() == ThinkLonger().factor
    response.reset()
    assert response.factor() == 1
    node.destroy_node()
    context.try_shutdown()
