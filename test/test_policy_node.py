"""The policy node, real over DDS in one process: what it sends, and everything from which it sends nothing.

The policy is a tiny one with random weights, written as a checkpoint folder; the robot is a node of this test.
"""

import array
import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rclpy
import yaml
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from policy_cases import INSTRUCTION, ROBOT_FILE, robot, tiny_checkpoint
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rdvla_ros.msg import ControllerState, Convergence, GateStatus
from rdvla_ros.srv import SetInstruction
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.model.checkpoint import save_checkpoint
from rdvla_ros.model.normalization import Scaler
from rdvla_ros.nodes import conversions
from rdvla_ros.nodes.policy_node import PolicyNode
from rdvla_ros.nodes.worker import ThreadWorker
from rdvla_ros.types import ObservationError, StopReason

ROBOT = robot()
HOME = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.03])
UNCONFIGURED, INACTIVE, ACTIVE = 1, 2, 3


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Actions of a few hundredths of a radian, so that every chunk is a legal motion."""
    tiny = tiny_checkpoint()
    grippers = np.isin(ROBOT.joint_names, ROBOT.gripper_joints)
    action = Scaler(np.where(grippers, 0.2, -0.03), np.where(grippers, 0.3, 0.03))
    tiny = dataclasses.replace(tiny, space=dataclasses.replace(tiny.space, action=action))
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny", tiny)


class Rig:
    """The policy node and a robot for it, spun together."""

    def __init__(self, capfd, remappings=(), **parameters):
        self.capfd, self.log = capfd, ""
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        values = {"robot": str(ROBOT_FILE), "instruction": INSTRUCTION, "gate": False, **parameters}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        arguments = ["--ros-args", *(word for pair in remappings for word in ("-r", ":=".join(pair)))]
        self.policy = PolicyNode(context=self.context, parameter_overrides=overrides, cli_args=arguments)
        self.robot = node = Node("robot", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.policy)
        self.executor.add_node(node)
        self.decisions, self.sent = [], {arm.name: [] for arm in ROBOT.arms}
        self.silent, self.positions, self.delay_s = set(), {arm.name: HOME.copy() for arm in ROBOT.arms}, 0.0
        self.images = {camera.topic: node.create_publisher(Image, camera.topic, 1) for camera in ROBOT.cameras}
        self.joints = {
            arm.joint_states_topic: node.create_publisher(JointState, arm.joint_states_topic, 10) for arm in ROBOT.arms
        }
        for arm in ROBOT.arms:
            node.create_subscription(JointTrajectory, f"/policy/{arm.name}/joint_trajectory", self.sent[arm.name].append, 10)
        node.create_subscription(Convergence, "/policy/convergence", self.decisions.append, 10)
        node.create_timer(0.1, self.publish_images)
        node.create_timer(0.02, self.publish_joints)
        self.pixels = array.array("B", np.random.default_rng(0).integers(0, 255, 320 * 240 * 3, dtype=np.uint8).tobytes())

    def stamp(self):
        return conversions.stamp(self.robot.get_clock().now().nanoseconds / 1e9 - self.delay_s)

    def publish_images(self):
        stamp = self.stamp()
        for camera in ROBOT.cameras:
            if camera.topic not in self.silent:
                message = Image(height=240, width=320, step=960, encoding="rgb8", data=self.pixels)
                message.header.stamp, message.header.frame_id = stamp, camera.frame_id
                self.images[camera.topic].publish(message)

    def publish_joints(self):
        for arm in ROBOT.arms:
            if arm.joint_states_topic not in self.silent:
                message = JointState(name=list(arm.joint_names), position=self.positions[arm.name].tolist())
                message.header.stamp = self.stamp()
                self.joints[arm.joint_states_topic].publish(message)

    def spin(self, seconds):
        self.until(lambda: False, seconds)

    def until(self, condition, seconds=10.0):
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)
        return condition()

    def call(self, kind, name, request, seconds=5.0):
        client = self.robot.create_client(kind, name)
        assert self.until(client.service_is_ready, seconds)
        future = client.call_async(request)
        assert self.until(future.done, seconds), f"{name} was not answered"
        return future.result()

    def change(self, transition):
        return self.call(ChangeState, "/policy/change_state", ChangeState.Request(transition=Transition(id=transition))).success

    def start(self):
        assert self.change(Transition.TRANSITION_CONFIGURE), self.logs
        assert self.change(Transition.TRANSITION_ACTIVATE)
        return self

    def state(self):
        return self.policy._state_machine.current_state[0]

    def said(self, words, severity=""):
        """Whether a line of the log contains the words."""
        return any(words in line for line in self.lines() if line.startswith(f"[{severity}"))

    def lines(self):
        self.log += self.capfd.readouterr().err
        return self.log.splitlines()

    def close(self):
        self.policy.close()
        self.executor.shutdown(timeout_sec=0.5)
        for node in (self.policy, self.robot):
            node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture()
def make_rig(checkpoint, capfd):
    rigs = []

    def make(**parameters):
        rigs.append(Rig(capfd, **{"checkpoint": str(checkpoint), **parameters}))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


# what it sends


def test_every_decision_moves_both_arms_together_and_ends_at_rest(make_rig):
    rig = make_rig().start()
    assert rig.until(lambda: min(len(s) for s in rig.sent.values()) >= 3 and len(rig.decisions) >= 3)
    for left, right in zip(rig.sent["left"], rig.sent["right"], strict=True):
        assert left.header.stamp == right.header.stamp and left.header.frame_id == right.header.frame_id == ""
        assert [p.time_from_start for p in left.points] == [p.time_from_start for p in right.points]
    for arm in ROBOT.arms:
        for message in rig.sent[arm.name]:
            motion = conversions.trajectory(message)
            assert motion.joint_names == arm.joint_names and len(motion.times_s) >= 2
            assert motion.times_s[0] > 0.0 and (np.diff(motion.times_s) > 0.0).all()
            assert np.isfinite(motion.velocities).all() and not motion.velocities[-1].any()
            assert motion.duration_s <= 8 * 0.1 + 0.5 + 1e-6
    first = conversions.trajectory(rig.sent["left"][0])
    assert first.positions[0] == pytest.approx(HOME, abs=1e-6), "the first motion begins where the arm is"
    assert [d.sequence for d in rig.decisions[:3]] == [1, 2, 3]
    for decision in rig.decisions:
        assert decision.published and decision.note == "" and 1 <= decision.horizon <= 8 and decision.timing_names[-1] == "total"
        assert decision.instruction == INSTRUCTION and 1 <= decision.iterations <= decision.limit
        assert 0.0 < conversions.seconds(decision.header.stamp) - conversions.seconds(decision.observation_stamp) < 1.0


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


def test_halting_and_horizon_are_overridden_by_name(make_rig):
    rig = make_rig(halting_rule="fixed", max_iterations=3, horizon_rule="fixed").start()
    assert rig.until(lambda: len(rig.decisions) >= 1)
    assert (rig.decisions[0].iterations, rig.decisions[0].limit, rig.decisions[0].stop_reason) == (3, 3, Convergence.FIXED_DEPTH)
    assert rig.decisions[0].horizon == 5


def test_without_a_gate_the_motions_can_go_straight_to_the_controllers(make_rig):
    rig = make_rig(remappings=[(f"/policy/{arm.name}/joint_trajectory", arm.trajectory_topic) for arm in ROBOT.arms])
    received = []
    for arm in ROBOT.arms:
        rig.robot.create_subscription(JointTrajectory, arm.trajectory_topic, received.append, 10)
    rig.start()
    assert rig.until(lambda: len(received) >= 4) and not rig.sent["left"]


# what is refused at configure


def refused(rig, words):
    assert not rig.change(Transition.TRANSITION_CONFIGURE)
    assert rig.until(lambda: rig.said(words, "ERROR"), 3.0), rig.log
    assert sum("Not configured" in line for line in rig.lines()) == 1, "one line says it"
    assert rig.state() == UNCONFIGURED and not rig.change(Transition.TRANSITION_ACTIVATE) and rig.state() == UNCONFIGURED


def test_row_66_a_robot_file_with_an_unknown_key_is_refused(make_rig, tmp_path):
    data = yaml.safe_load(ROBOT_FILE.read_text())
    data["cameras"][0]["topik"] = data["cameras"][0].pop("topic")
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(data))
    refused(make_rig(robot=str(tmp_path / "robot.yaml")), "unknown key 'topik'")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"robot": "/nowhere/robot.yaml"}, "expected a YAML file, found nothing"),
        ({"robot": ""}, "robot: expected a robot description file, got none"),
        ({"checkpoint": "/nowhere/checkpoint"}, "expected manifest.json and model.safetensors"),
        ({"checkpoint": ""}, "checkpoint: expected a folder"),
    ],
)
def test_a_missing_file_is_refused(make_rig, parameters, words):
    refused(make_rig(**parameters), words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data["arms"].reverse(), "Checkpoint for another robot: joint 0"),
        (lambda data: data["arms"].pop(), "Checkpoint for another robot: it has 14 joints"),
        (lambda data: data["cameras"].pop(), "The checkpoint needs camera 'right_wrist'"),
        (lambda data: data["actions"].update(representation="absolute"), "The checkpoint's actions are relative"),
    ],
)
def test_row_72_a_checkpoint_for_another_robot_is_refused(make_rig, tmp_path, change, words):
    data = yaml.safe_load(ROBOT_FILE.read_text())
    change(data)
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(data))
    refused(make_rig(robot=str(tmp_path / "robot.yaml")), words)


def test_row_67_an_observation_age_longer_than_the_chunk_is_refused(make_rig):
    refused(make_rig(max_observation_age_s=0.8), "max_observation_age_s: expected less than the chunk's 0.8 s")


def test_an_unknown_halting_rule_is_refused(make_rig):
    refused(make_rig(halting_rule="action_chnge"), "Did you mean 'action_change'")


def test_after_a_refusal_the_parameter_can_be_corrected(make_rig, checkpoint):
    rig = make_rig(checkpoint="")
    refused(rig, "checkpoint: expected a folder")
    assert rig.policy.set_parameters([Parameter("checkpoint", value=str(checkpoint))])[0].successful
    rig.start()
    assert rig.until(lambda: len(rig.decisions) >= 1)
    assert not rig.policy.set_parameters([Parameter("checkpoint", value="")])[0].successful, "not while it is configured"


# input in doubt


@pytest.mark.parametrize("topic", ["/cameras/left_wrist/image_raw", "/right/joint_states"])
def test_a_missing_stream_makes_no_decision_and_is_named(make_rig, topic):
    rig = make_rig()
    rig.silent.add(topic)
    rig.start()
    assert rig.until(lambda: rig.said(f"Waiting for {topic}: nothing received in"), 5.0)
    assert "publishers: 1" in next(line for line in rig.lines() if topic in line)
    assert not rig.decisions and not rig.sent["left"] and not rig.sent["right"]
    rig.silent.clear()
    assert rig.until(lambda: rig.sent["left"]), "it goes on when the stream comes back"


def test_row_2_a_stream_that_falls_silent_ends_the_decisions(make_rig):
    rig = make_rig().start()
    assert rig.until(lambda: rig.sent["left"])
    rig.silent.add("/cameras/top/image_raw")
    rig.spin(0.5)
    count = len(rig.decisions)
    rig.spin(1.5)
    assert len(rig.decisions) == count and rig.said("Waiting for /cameras/top/image_raw")


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda rig: rig.positions["left"].__setitem__(2, np.nan), "joint 'left_elbow': expected a finite position, got nan"),
        (lambda rig: rig.positions["left"].__setitem__(2, 66.0), "Degrees"),
    ],
)
def test_row_10_and_14_a_joint_in_doubt_makes_no_decision(make_rig, break_it, words):
    rig = make_rig()
    break_it(rig)
    rig.start()
    assert rig.until(lambda: rig.said(words), 5.0)
    rig.spin(0.5)
    assert not rig.decisions and not rig.sent["left"] and not rig.sent["right"]


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

    def submit(self, observation, deadline_s=None):
        altered, inner = Future(), self._worker.submit(observation, deadline_s)
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
    rig.policy._worker = Altered(rig.policy._worker, alter)
    assert rig.until(lambda: any(words in d.note for d in rig.decisions)), [d.note for d in rig.decisions]
    rig.spin(0.3)
    assert not any(d.published for d in rig.decisions) and all(d.horizon == 0 for d in rig.decisions)
    assert not rig.sent["left"] and not rig.sent["right"]


def test_row_30_an_unsettled_decision_moves_nothing_where_that_is_asked_for(make_rig):
    rig = make_rig(halting_threshold=1e-30, max_iterations=2, publish_unconverged=False).start()
    assert rig.until(lambda: rig.decisions)
    assert "Not settled within 2 iterations" in rig.decisions[0].note and not rig.decisions[0].converged
    assert rig.policy.set_parameters([Parameter("publish_unconverged", value=True)])[0].successful
    assert rig.until(lambda: any(d.published and not d.converged for d in rig.decisions))


class Leaving:
    def decide(self, observation, *, deadline=None):
        raise SystemExit("a library gives up")


def leave():
    raise SystemExit("a library gives up")


@pytest.mark.parametrize("load", [Leaving, leave])
def test_what_would_end_a_process_is_a_failed_decision(load):
    worker = ThreadWorker(load)
    asked = worker.loaded if load is leave else worker.submit(None)
    with pytest.raises(RuntimeError, match="SystemExit: a library gives up"):
        asked.result(timeout=5.0)
    assert worker.close(1.0)


def test_a_decision_that_raises_is_reported_and_the_next_one_is_made(make_rig):
    rig = make_rig(instruction="a word " * 9).start()
    assert rig.until(lambda: rig.said("A decision failed and nothing is published: ObservationError", "ERROR"))
    assert not rig.decisions
    assert rig.call(SetInstruction, "/policy/set_instruction", SetInstruction.Request(instruction=INSTRUCTION)).accepted
    assert rig.until(lambda: rig.sent["left"])


# gate


@pytest.fixture()
def gate(make_rig):
    rig = make_rig(gate=True)
    qos = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.RELIABLE, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    publisher = rig.robot.create_publisher(GateStatus, "/gate/status", qos)
    rig.status = GateStatus(mode=GateStatus.HOLD, hold_id=1, reason="start-up")
    rig.heartbeat = rig.robot.create_timer(0.05, lambda: publisher.publish(rig.status))
    return rig


def test_while_the_gate_holds_nothing_is_sent_and_after_it_the_arms_start_from_where_they_are(gate):
    gate.start()
    gate.spin(0.7)
    assert not gate.sent["left"] and not gate.decisions
    gate.status = GateStatus(mode=GateStatus.AUTO, hold_id=1)
    assert gate.until(lambda: len(gate.sent["left"]) >= 2)
    gate.status = GateStatus(mode=GateStatus.HOLD, hold_id=2, reason="operator")
    gate.spin(0.3)
    count = len(gate.sent["left"])
    gate.positions["left"] = HOME + 0.01 * np.array([10, 10, -10, 10, 10, 10, 0])  # moved by hand meanwhile
    gate.spin(0.7)
    assert len(gate.sent["left"]) == count
    gate.status = GateStatus(mode=GateStatus.AUTO, hold_id=2)
    assert gate.until(lambda: len(gate.sent["left"]) > count)
    assert conversions.trajectory(gate.sent["left"][count]).positions[0] == pytest.approx(gate.positions["left"], abs=1e-6)


def test_while_held_the_policy_may_go_on_deciding_slowly(gate):
    assert gate.policy.set_parameters([Parameter("while_held", value="decide"), Parameter("held_period_s", value=0.3)])
    gate.start()
    assert gate.until(lambda: len(gate.decisions) >= 2)
    assert not gate.sent["left"] and all("the gate holds (start-up)" in d.note for d in gate.decisions)


def test_row_57_without_the_gate_s_heartbeat_nothing_is_sent(gate):
    gate.status = GateStatus(mode=GateStatus.AUTO)
    gate.start()
    assert gate.until(lambda: gate.sent["left"])
    gate.heartbeat.cancel()
    gate.spin(1.3)
    count = len(gate.sent["left"])
    gate.spin(1.0)
    assert len(gate.sent["left"]) == count and gate.said("Waiting for /gate/status")


def test_row_40_a_publisher_with_another_quality_of_service_is_named(make_rig):
    rig = make_rig(gate=True).start()
    rig.robot.create_publisher(GateStatus, "/gate/status", QoSProfile(depth=1, durability=QoSDurabilityPolicy.VOLATILE))
    assert rig.until(lambda: rig.said("/gate/status: a publisher offers a quality of service", "ERROR"), 5.0), rig.log


# operator and lifecycle


@pytest.mark.parametrize("text", ["", "  ", "x" * 513, "x" * 1_000_000, "pick up\nthe cube", "pick\x1b[31m up"])
def test_row_46_an_instruction_in_doubt_is_refused_and_the_old_one_stays(make_rig, text):
    rig = make_rig()
    answer = rig.call(SetInstruction, "/policy/set_instruction", SetInstruction.Request(instruction=text))
    assert not answer.accepted and answer.instruction == INSTRUCTION and "expected" in answer.message


def test_an_accepted_instruction_is_also_the_parameter(make_rig):
    rig = make_rig()
    answer = rig.call(SetInstruction, "/policy/set_instruction", SetInstruction.Request(instruction="pick up the cube"))
    assert answer.accepted and rig.policy.get_parameter("instruction").value == "pick up the cube"


def test_row_64_transitions_in_any_order_are_answered_and_nothing_is_sent_while_inactive(make_rig):
    rig = make_rig()
    choices = [
        Transition.TRANSITION_CONFIGURE,
        Transition.TRANSITION_ACTIVATE,
        Transition.TRANSITION_DEACTIVATE,
        Transition.TRANSITION_CLEANUP,
        99,
    ]
    rng = random.Random(1)
    assert not rig.change(Transition.TRANSITION_ACTIVATE)
    for _ in range(40):
        rig.change(rng.choice(choices))
        assert rig.state() in (UNCONFIGURED, INACTIVE, ACTIVE)
        if rig.state() != ACTIVE:
            rig.executor.spin_once(timeout_sec=0.0)
            rig.spin(0.05)
            assert not rig.policy._active
    while rig.state() != ACTIVE:
        rig.change(Transition.TRANSITION_CONFIGURE if rig.state() == UNCONFIGURED else Transition.TRANSITION_ACTIVATE)
    count = len(rig.sent["left"])
    assert rig.until(lambda: len(rig.sent["left"]) > count), "it still works"
    rig.change(Transition.TRANSITION_DEACTIVATE)
    rig.spin(0.2)
    count = len(rig.sent["left"])
    rig.spin(0.5)
    assert len(rig.sent["left"]) == count


# the process


def start_process(*parameters):
    command = [sys.executable, "-m", "rdvla_ros.nodes.policy_node", "--ros-args", "-p", f"robot:={ROBOT_FILE}"]
    command += [word for parameter in parameters for word in ("-p", parameter)]
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_row_59_a_signal_ends_the_process_with_code_0_within_two_seconds(checkpoint, number):
    process = start_process(f"checkpoint:={checkpoint}", "autostart:=true", "gate:=false")
    try:
        line = ""
        while "Configured for" not in line:
            line = process.stdout.readline()
            assert line, "the process ended before it was configured"
        begun = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=10) == 0
        assert time.monotonic() - begun < 2.0
    finally:
        process.kill()
        process.stdout.close()


def test_row_66_a_misspelt_parameter_ends_the_process_with_one_line():
    process = start_process("instrction:=go")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "Unknown parameter 'instrction'" in output and "Did you mean 'instruction'" in output
    assert "Traceback" not in output


def test_a_parameter_file_that_cannot_be_read_ends_the_process_with_one_line(tmp_path):
    (tmp_path / "parameters.yaml").write_text("policy: [")
    command = [
        sys.executable,
        "-m",
        "rdvla_ros.nodes.policy_node",
        "--ros-args",
        "--params-file",
        str(tmp_path / "parameters.yaml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).resolve().parents[1])
    assert done.returncode == 1 and "[ERROR] The arguments were not understood" in done.stderr and "Traceback" not in done.stderr
