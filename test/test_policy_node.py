"""The policy node: what it sends, and everything from which it sends nothing."""

import dataclasses
from concurrent.futures import Future
from itertools import pairwise

import numpy as np
import pytest
import yaml
from lifecycle_msgs.msg import Transition
from policy_rig import HOME, INSTRUCTION, ROBOT, ROBOT_FILE, FakeGate
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.control.motion.handover import HISTORY_S
from rdvla_ros.control.motion.trajectory import LONGEST_STOP_S
from rdvla_ros.msg import ControllerState, Convergence, GateStatus
from rdvla_ros.nodes.common import conversions
from rdvla_ros.srv import SetInstruction
from rdvla_ros.types import ObservationError, StopReason

# what it sends


def test_every_decision_moves_both_arms_together_and_ends_at_rest(make_rig, checkpoint):
    rig = make_rig(checkpoint=str(checkpoint)).start()
    assert rig.until(lambda: min(len(s) for s in rig.sent.values()) >= 3 and len(rig.decisions) >= 3)
    for left, right in zip(rig.sent["left"], rig.sent["right"], strict=True):
        assert left.header.stamp == right.header.stamp and left.header.frame_id == right.header.frame_id == ""
        assert [p.time_from_start for p in left.points] == [p.time_from_start for p in right.points]
    for arm in ROBOT.arms:
        for message in rig.sent[arm.name]:
            motion = conversions.trajectory(message)
            assert motion.joint_names == arm.joint_names and len(motion.times_s) >= 2
            assert motion.times_s[0] >= 0.0 and (np.diff(motion.times_s) > 0.0).all()
            assert np.isfinite(motion.velocities).all() and not motion.velocities[-1].any()
            assert motion.duration_s <= 8 * 0.1 + 0.5 + HISTORY_S + 1e-6
    first = conversions.trajectory(rig.sent["left"][0])
    assert first.positions[0] == pytest.approx(HOME, abs=1e-6), "the first motion begins where the arm is"
    assert [d.sequence for d in rig.decisions[:3]] == [1, 2, 3]
    for decision in rig.decisions:
        assert decision.published and decision.note == "", decision.note
        assert 1 <= decision.horizon <= 8 and decision.timing_names[-1] == "total"
        assert decision.instruction == INSTRUCTION and 1 <= decision.iterations <= decision.limit
        assert 0.0 < conversions.seconds(decision.header.stamp) - conversions.seconds(decision.observation_stamp) < 1.0
    predicted = {(m.header.stamp.sec, m.header.stamp.nanosec): m for m in rig.predicted}
    for decision in rig.decisions[:3]:
        chunk = predicted[decision.observation_stamp.sec, decision.observation_stamp.nanosec]
        assert len(chunk.points) == 1 + decision.chunk_length and list(chunk.points[0].positions) == pytest.approx(HOME)


def test_a_motion_joins_the_one_before(make_rig):
    rig = make_rig().start()
    assert rig.until(lambda: len(rig.sent["left"]) >= 4)
    motions = [(conversions.seconds(m.header.stamp), conversions.trajectory(m)) for m in rig.sent["left"]]
    for (old_s, old), (new_s, new) in pairwise(motions):
        joined = old.at(new_s + new.times_s[0] - old_s)
        assert new.positions[0] == pytest.approx(joined.position, abs=1e-5) and new.velocities[0] == pytest.approx(
            joined.velocity, abs=1e-4
        )


def test_a_first_motion_begins_where_the_controllers_say_they_are(make_rig):
    """A gripper that holds something, or an arm that sags, is not where its controller commands it to be."""
    rig = make_rig()
    commanded = {arm.name: HOME + 0.01 * np.array([3, -3, 3, 3, -3, 3, -0.1]) for arm in ROBOT.arms}
    publishers = {arm.name: rig.robot.create_publisher(ControllerState, arm.controller_state_topic, 10) for arm in ROBOT.arms}

    def report():
        for arm in ROBOT.arms:
            message = ControllerState(joint_names=list(reversed(arm.joint_names)))
            message.reference.positions = commanded[arm.name][::-1].tolist()
            message.reference.velocities = [0.0] * len(HOME)
            publishers[arm.name].publish(message)

    rig.robot.create_timer(0.02, report)
    assert rig.change(Transition.TRANSITION_CONFIGURE)
    rig.spin(0.6)
    assert rig.change(Transition.TRANSITION_ACTIVATE)
    assert rig.until(lambda: all(rig.sent.values()))
    for name, messages in rig.sent.items():
        assert conversions.trajectory(messages[0]).positions[0] == pytest.approx(commanded[name], abs=1e-6)
    assert not rig.said("", "ERROR")


def test_a_controller_state_of_another_type_is_named(make_rig):
    rig = make_rig()
    rig.robot.create_publisher(JointState, ROBOT.arms[0].controller_state_topic, 10)
    assert rig.change(Transition.TRANSITION_CONFIGURE)
    words = f"{ROBOT.arms[0].controller_state_topic}: expected a publisher of rdvla_ros/msg/ControllerState"
    assert rig.until(lambda: rig.said(words, "ERROR"), 3.0)
    assert "got one of sensor_msgs/msg/JointState" in rig.log


def test_halting_and_horizon_are_overridden_by_name(make_rig, checkpoint):
    rig = make_rig(checkpoint=str(checkpoint), halting_rule="fixed", max_iterations=3, horizon_rule="fixed").start()
    assert rig.until(lambda: len(rig.decisions) >= 1)
    assert (rig.decisions[0].iterations, rig.decisions[0].limit, rig.decisions[0].stop_reason) == (3, 3, Convergence.FIXED_DEPTH)
    assert rig.decisions[0].horizon == 5, rig.decisions[0].note


def test_without_a_gate_the_motions_can_go_straight_to_the_controllers(make_rig):
    rig = make_rig(remappings=[(f"/policy/{arm.name}/joint_trajectory", arm.trajectory_topic) for arm in ROBOT.arms])
    received = []
    for arm in ROBOT.arms:
        rig.robot.create_subscription(JointTrajectory, arm.trajectory_topic, received.append, 10)
    rig.start()
    assert rig.until(lambda: len(received) >= 4) and not rig.sent["left"]


# input in doubt


@pytest.mark.parametrize("topic", ["/cameras/left_wrist/image_raw", "/right/joint_states"])
def test_a_missing_stream_makes_no_decision_and_is_named(make_rig, topic):
    rig = make_rig()
    rig.silent.add(topic)
    rig.start()
    assert rig.until(lambda: rig.said(f"Waiting for {topic}: nothing received in"), 5.0)
    assert "publishers: 1" in next(line for line in rig.lines() if f"Waiting for {topic}" in line)
    assert not rig.decisions and not rig.sent["left"] and not rig.sent["right"]
    rig.silent.clear()
    assert rig.until(lambda: rig.sent["left"]), "it goes on when the stream comes back"


def test_a_stream_that_falls_silent_ends_the_decisions(make_rig):
    rig = make_rig().start()
    assert rig.until(lambda: rig.sent["left"])
    rig.silent.add("/cameras/top/image_raw")
    assert rig.decides_no_more(1.5) and rig.said("Waiting for /cameras/top/image_raw")


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda rig: rig.positions["left"].__setitem__(2, np.nan), "joint 'left_elbow': expected a finite position, got nan"),
        (lambda rig: rig.positions["left"].__setitem__(2, 66.0), "Degrees"),
    ],
)
def test_a_joint_in_doubt_makes_no_decision(make_rig, break_it, words):
    rig = make_rig()
    break_it(rig)
    rig.start()
    assert rig.until(lambda: rig.said(words), 5.0)
    rig.spin(0.5)
    assert not rig.decisions and not rig.sent["left"] and not rig.sent["right"]


def test_both_arms_may_share_a_topic_that_several_drivers_feed(make_rig, tmp_path):
    """Each message is about one arm, or about neither."""
    data = yaml.safe_load(ROBOT_FILE.read_text())
    for arm in data["arms"]:
        arm["joint_states_topic"] = "/joint_states"
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(data))
    rig = make_rig(robot=str(tmp_path / "robot.yaml"))
    publisher = rig.robot.create_publisher(JointState, "/joint_states", 10)
    drivers = {arm.name: (arm.joint_names, HOME) for arm in ROBOT.arms} | {"base": (("wheel_1", "wheel_2"), np.zeros(2))}

    def publish():
        for names, positions in drivers.values():
            message = JointState(name=list(names), position=positions.tolist())
            message.header.stamp = rig.stamp()
            publisher.publish(message)

    rig.robot.create_timer(0.02, publish)
    rig.start()
    assert rig.until(lambda: all(rig.sent.values())) and not rig.said("Message refused")
    del drivers["right"]
    words = "Waiting for /joint_states: nothing usable received in"
    assert rig.until(lambda: rig.said(words), 5.0) and "expected joints of arm 'right'" in rig.log
    assert rig.decides_no_more(0.5)


def test_a_stale_observation_makes_no_decision(make_rig):
    rig = make_rig()
    rig.delay_s = 0.6
    rig.start()
    assert rig.until(lambda: rig.said("No decision: the observation is 0.6"), 5.0)
    assert not rig.decisions and not rig.sent["left"]


def test_joints_that_fell_silent_during_a_decision_are_no_present_state(make_rig):
    rig = make_rig().start()
    assert rig.until(lambda: len(rig.decisions) >= 1)
    assert rig.policy._arms.present().position == pytest.approx(np.tile(HOME, len(ROBOT.arms)))
    rig.silent.add(ROBOT.arms[1].joint_states_topic)
    rig.spin(ROBOT.rates.max_observation_age_s + 0.3)
    with pytest.raises(ObservationError, match=f"{ROBOT.arms[1].joint_states_topic}.* s old"):
        rig.policy._arms.present()


def test_without_an_instruction_there_is_no_decision(make_rig):
    rig = make_rig(instruction="").start()
    assert rig.until(lambda: rig.said("there is no instruction"), 5.0) and not rig.decisions
    assert rig.call(SetInstruction, "/policy/set_instruction", SetInstruction.Request(instruction=INSTRUCTION)).accepted
    assert rig.until(lambda: rig.sent["left"])


# decisions in doubt


class Altered:
    """The node's worker, with what it decides altered on the way."""

    def __init__(self, worker, alter):
        self._worker, self._alter = worker, alter

    def __getattr__(self, name):
        return getattr(self._worker, name)

    def submit(self, *asked):
        altered, inner = Future(), self._worker.submit(*asked)
        inner.add_done_callback(lambda done: altered.set_result(self._alter(done.result())))
        return altered


def with_positions(change):
    def alter(decision):
        positions = decision.chunk.positions.copy()
        change(positions)
        return dataclasses.replace(decision, chunk=dataclasses.replace(decision.chunk, positions=positions))

    return alter


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (with_positions(lambda p: p.__setitem__((3, 9), np.nan)), "not finite"),
        (lambda decision: dataclasses.replace(decision, stop_reason=StopReason.NON_FINITE), "not finite"),
        (with_positions(lambda p: p.__setitem__((slice(None), 1), 40.0)), "left_shoulder"),
        (
            lambda decision: dataclasses.replace(
                decision, chunk=dataclasses.replace(decision.chunk, stamp_s=decision.chunk.stamp_s - 2.0)
            ),
            "Nothing of the chunk is left",
        ),
    ],
)
def test_row_28_a_decision_in_doubt_moves_neither_arm_and_says_why(make_rig, alter, words):
    rig = make_rig().start()
    rig.policy._keeper._worker = Altered(rig.policy._keeper._worker, alter)
    assert rig.until(lambda: any(words in d.note for d in rig.decisions)), [d.note for d in rig.decisions]
    rig.spin(0.3)
    assert not any(d.published for d in rig.decisions) and all(d.horizon == 0 for d in rig.decisions)
    assert not rig.sent["left"] and not rig.sent["right"]


def test_row_30_an_unsettled_decision_moves_nothing_where_that_is_asked_for(make_rig, checkpoint):
    rig = make_rig(checkpoint=str(checkpoint), halting_threshold=1e-30, max_iterations=2, publish_unconverged=False).start()
    assert rig.until(lambda: rig.decisions)
    assert "Not settled within 2 iterations" in rig.decisions[0].note and not rig.decisions[0].converged
    assert rig.policy.set_parameters([Parameter("publish_unconverged", value=True)])[0].successful
    assert rig.until(lambda: any(d.published and not d.converged for d in rig.decisions))


def test_a_decision_that_raises_is_reported_and_the_next_one_is_made(make_rig):
    rig = make_rig(instruction="bad input").start()
    assert rig.until(lambda: rig.said("A decision failed and nothing is published: WorkerError", "ERROR"))
    assert not rig.decisions
    assert rig.call(SetInstruction, "/policy/set_instruction", SetInstruction.Request(instruction=INSTRUCTION)).accepted
    assert rig.until(lambda: rig.sent["left"])


# gate


@pytest.fixture()
def gate(make_rig):
    rig = make_rig(gate=True, gate_heartbeat_s=1.0)
    rig.gate = FakeGate(rig)
    yield rig
    rig.gate.close()


def test_while_the_gate_holds_nothing_is_sent_and_after_it_the_arms_start_from_where_they_are(gate):
    gate.start()
    gate.spin(0.7)
    assert not gate.sent["left"] and not gate.decisions
    gate.gate.status = GateStatus(mode=GateStatus.AUTO, hold_id=1)
    assert gate.until(lambda: len(gate.sent["left"]) >= 2)
    gate.gate.status = GateStatus(mode=GateStatus.HOLD, hold_id=2, reason="operator")
    gate.spin(0.3)
    count = len(gate.sent["left"])
    gate.positions["left"] = HOME + 0.01 * np.array([10, 10, -10, 10, 10, 10, 0])  # moved by hand meanwhile
    gate.spin(0.7)
    assert len(gate.sent["left"]) == count
    gate.gate.status = GateStatus(mode=GateStatus.AUTO, hold_id=2)
    assert gate.until(lambda: len(gate.sent["left"]) > count)
    assert conversions.trajectory(gate.sent["left"][count]).positions[0] == pytest.approx(gate.positions["left"], abs=1e-6)


def test_while_held_the_policy_may_go_on_deciding_slowly(gate):
    answers = gate.policy.set_parameters([Parameter("while_held", value="decide"), Parameter("held_period_s", value=0.3)])
    assert all(answer.successful for answer in answers), answers
    gate.start()
    assert gate.until(lambda: sum("the gate holds (start-up)" in d.note for d in gate.decisions) >= 2), gate.log
    assert not gate.sent["left"] and not any(d.published for d in gate.decisions)


def test_without_the_gate_s_heartbeat_nothing_is_sent(gate):
    gate.gate.status = GateStatus(mode=GateStatus.AUTO)
    gate.start()
    assert gate.until(lambda: gate.sent["left"])
    gate.gate.timer.cancel()
    gate.spin(1.3)
    count = len(gate.sent["left"])
    gate.spin(1.0)
    assert len(gate.sent["left"]) == count and gate.said("Waiting for /gate/status")


def test_row_40_a_publisher_with_another_quality_of_service_is_named(make_rig):
    rig = make_rig(gate=True).start()
    rig.robot.create_publisher(GateStatus, "/gate/status", QoSProfile(depth=1, durability=QoSDurabilityPolicy.VOLATILE))
    assert rig.until(lambda: rig.said("/gate/status: a publisher offers a quality of service", "ERROR")), rig.log


def test_row_59_without_a_gate_the_last_message_is_the_arms_stop(make_rig):
    rig = make_rig().moving()
    counts = {name: len(messages) for name, messages in rig.sent.items()}
    rig.policy.close()
    assert rig.until(lambda: all(len(messages) > counts[name] for name, messages in rig.sent.items()))
    for messages in rig.sent.values():
        last = conversions.trajectory(messages[-1])
        assert last.duration_s < LONGEST_STOP_S + 0.1 and not last.velocities[-1].any()
