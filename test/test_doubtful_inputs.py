"""Inputs that look right one by one: two sources of one arm, a gripper's driver of its own, images that lost bytes. The real
nodes' callbacks under a clock of the test's own; over DDS in test_faults_joints.py and test_faults_sensors.py."""

import contextlib

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

import fuzz_messages as messages
import worker_cases
from fuzz_rig import FuzzedGate, FuzzedPolicy
from gate_rig import HOME, ROBOT, ROBOT_FILE, SLICES
from sensor_msgs.msg import CompressedImage, JointState

from rdvla_ros.control.supervision.modes import Mode
from rdvla_ros.msg import GateStatus
from rdvla_ros.nodes.common import conversions, images, names

LEFT, RIGHT = ROBOT.arms
FINGER = LEFT.gripper.joint
SLOW = {"deadline": None, "suppress_health_check": list(HealthCheck), "max_examples": 10}


@pytest.fixture(scope="module")
def gate():
    with contextlib.closing(FuzzedGate()) as gate:
        yield gate


def ready(gate):
    """In AUTO, with everything as it should be."""
    gate.call("hold", reason="a test", who="test")
    gate.by_hand(HOME)
    gate.run(1.0)
    gate.run(0.02, pressed=False)
    gate.run(0.02)
    answer = gate.call("resume", hold_id=gate.state.hold_id, who="test")
    assert answer.accepted, gate.node._robot_watch.causes()


def arm_state(gate, arm=LEFT, positions=None):
    where = gate.desired(arm).position if positions is None else positions
    return messages.joints(arm, where, gate.clock.ros_s)


@settings(**SLOW)
@given(st.integers(0, 5), st.floats(0.1, 0.4), st.sampled_from([-1, 1]), st.booleans())
def test_whichever_of_two_publishers_comes_first_the_gate_holds_and_refuses_a_resume(gate, joint, distance, sign, first):
    ready(gate)
    other = HOME[SLICES[LEFT.name]].copy()
    other[joint] += sign * distance
    for _ in range(3):
        gate.clock.steady_s += 0.02
        pair = [arm_state(gate), arm_state(gate, positions=other)]
        for message in pair if first else pair[::-1]:
            gate.on_joints(LEFT.joint_states_topic, message)
        gate.node._watch.watch(gate.clock.steady_s)
    assert gate.state.mode is Mode.HOLD and "two samples of one stamp" in gate.state.reason
    assert f"'{LEFT.joint_names[joint]}'" in gate.state.reason and "Publishers: " in gate.state.reason
    answer = gate.call("resume", hold_id=gate.state.hold_id, who="test")
    assert not answer.accepted and any("two samples of one stamp" in cause for cause in gate.node._robot_watch.causes())
    ready(gate)


def test_one_publisher_that_repeats_itself_is_no_fault(gate):
    ready(gate)
    for _ in range(10):
        gate.clock.steady_s += 0.02
        gate.feed(True)
        gate.on_joints(LEFT.joint_states_topic, arm_state(gate))
        gate.node._watch.watch(gate.clock.steady_s)
    assert gate.state.mode is Mode.AUTO and not gate.node._robot_watch.causes()


def feed_in_parts(gate, late_s, pressed=True):
    """As `gate.feed`, with the left arm's gripper in messages of its own. late_s: how far its stamps lie behind the arm's."""
    gate.clock.steady_s += 0.02
    state = dict(zip(LEFT.joint_names, gate.desired(LEFT).position, strict=True))
    for names_, late in (((FINGER,), late_s), ([name for name in LEFT.joint_names if name != FINGER], 0.0)):
        message = JointState(name=list(names_), position=[float(state[name]) for name in names_])
        message.header.stamp = conversions.stamp(gate.clock.ros_s - late)
        gate.on_joints(LEFT.joint_states_topic, message)
    gate.on_joints(RIGHT.joint_states_topic, arm_state(gate, RIGHT))
    for arm in ROBOT.arms:
        accepted = gate.outputs[arm.name].model.accepted
        gate.on_controller(arm, messages.controller_state(arm, gate.desired(arm), gate.clock.ros_s, accepted))
    gate.beats += 1
    gate.node._watch.heart._on_heard(names.POLICY_HEARTBEAT, messages.beat(gate.beats, gate.clock.ros_s))
    gate.on_joy(messages.joy(pressed, gate.clock.ros_s))
    gate.node._watch.heart._callbacks_run()
    gate.node._watch.watch(gate.clock.steady_s)


@pytest.mark.parametrize("late_s", [0.0, 0.05, 0.2])
def test_a_gripper_with_a_driver_of_its_own_is_the_arms_where_it_is_near_enough_in_time(gate, late_s):
    ready(gate)
    gate.call("hold", reason="a test", who="test")
    for _ in range(60):  # other drivers are started
        feed_in_parts(gate, late_s, pressed=False)
    feed_in_parts(gate, late_s)
    answer = gate.call("resume", hold_id=gate.state.hold_id, who="test")
    if late_s > 0.1:
        assert not answer.accepted
        assert any(f"'{FINGER}' of arm 'left' comes in messages of its own" in c for c in gate.node._robot_watch.causes())
        return
    assert answer.accepted, gate.node._robot_watch.causes()
    for _ in range(60):
        feed_in_parts(gate, late_s)
    assert gate.state.mode is Mode.AUTO, gate.state.reason


@settings(**SLOW)
@given(
    st.sets(st.integers(0, 6), min_size=1),
    st.sampled_from([np.nan, np.inf, -np.inf]),
    st.sampled_from(["positions", "velocities"]),
)
def test_a_controller_without_finite_numbers_is_named_with_all_its_joints(gate, joints, value, what):
    ready(gate)
    for _ in range(20):
        gate.clock.steady_s += 0.02
        for arm in ROBOT.arms:
            gate.on_joints(arm.joint_states_topic, arm_state(gate, arm))
            message = messages.controller_state(arm, gate.desired(arm), gate.clock.ros_s, 0)
            for joint in joints if arm is LEFT else ():
                getattr(message.reference, what)[joint] = value
            gate.on_controller(arm, message)
        gate.node._watch.watch(gate.clock.steady_s)
    causes = [cause for cause in gate.node._robot_watch.causes() if "expected a finite number" in cause]
    assert len(causes) == 1 and causes[0].startswith("The controller of arm 'left' reports")
    assert all((f"'{name}'" in causes[0]) == (index in joints) for index, name in enumerate(LEFT.joint_names))
    assert gate.state.mode is Mode.HOLD


# the policy


class CompressedPolicy(FuzzedPolicy):
    """Its top camera sends JPEGs; `spoil`: what becomes of them on the way."""

    def __init__(self, robot_file):
        self._robot_file = robot_file
        self.rng, self.spoil, self.format = np.random.default_rng(0), lambda data: data, "jpeg"
        super().__init__()

    def options(self, **values):
        return super().options(**{**values, "robot": str(self._robot_file)})

    def image(self, camera):
        if camera.name != ROBOT.cameras[0].name:
            return super().image(camera)
        picture = cv2.resize(self.rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (320, 240))
        message = CompressedImage(format=self.format, data=self.spoil(cv2.imencode(".jpg", picture)[1].tobytes()))
        message.header.stamp, message.header.frame_id = conversions.stamp(self.clock.ros_s), camera.frame_id
        return message

    def start(self):
        """Everything well, and motions sent."""
        self.spoil, self.format = lambda data: data, "jpeg"
        self.node.decider.next = worker_cases.calm
        self.status(GateStatus.HOLD, hold_id=self.beats + 1)
        self.run(0.1)
        count = self.sent()
        self.run(4.0)
        assert self.sent() >= count + 2, self.node._halts.why_not() or self.complaints[-5:]
        self.complaints.clear()


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    data = yaml.safe_load(ROBOT_FILE.read_text())
    data["cameras"][0]["transport"] = "compressed"
    path = tmp_path_factory.mktemp("robot") / "robot.yaml"
    path.write_text(yaml.safe_dump(data))
    with contextlib.closing(CompressedPolicy(path)) as policy:
        yield policy


def lossy(data):
    return data[: len(data) // 2] + data[len(data) // 2 + 700 :]


needs_simplejpeg = pytest.mark.skipif(images.jpeg_decoder() is None, reason="needs simplejpeg (requirements.txt)")


@needs_simplejpeg
def test_images_that_lost_bytes_pause_the_policy_and_good_ones_end_the_pause(policy):
    policy.start()
    policy.spoil = lossy
    policy.run(3.0)
    halts = policy.node._halts
    assert "of the last 10 images are corrupt, the newest one: " in halts.pausing + halts.holding
    assert any("the image of camera 'top' is corrupt (" in text for text in policy.complaints)
    policy.start()


@needs_simplejpeg
def test_a_single_image_that_lost_bytes_is_a_doubt_and_no_pause(policy):
    policy.start()
    count, damaged = [], {5 * k + k * (k - 1) // 2 for k in range(20)}  # ever further apart: in step with no rate of decisions

    def once(data):
        count.append(1)
        told = any("is corrupt" in text for text in policy.complaints)
        return data if told or len(count) not in damaged else lossy(data)

    policy.spoil = once
    policy.run(20.0)
    assert any("the image of camera 'top' is corrupt (" in text for text in policy.complaints)
    assert not policy.node._halts.pausing and not policy.node._halts.holding


def test_an_image_that_cannot_be_decoded_makes_no_decision_and_no_hold(policy):
    """Its header is right, so it is found out only where it is used."""
    policy.start()
    raised = policy.node._guard.exceptions
    policy.spoil = lambda data: data[: data.index(b"\xff\xda") + 2]
    policy.run(1.0)
    assert any(text.startswith("No decision: ") and "cannot be decoded" in text for text in policy.complaints)
    assert policy.node._guard.exceptions == raised and not policy.node._halts.holding
    policy.start()


def test_a_depth_image_in_the_place_of_a_colour_one_holds(policy):
    policy.start()
    policy.format = "16UC1; png compressed"
    policy.run(0.5)
    assert "16UC1" in policy.node._halts.holding


@settings(**SLOW)
@given(st.integers(0, 5), st.floats(0.1, 0.4), st.sampled_from([-1, 1]))
def test_two_publishers_of_one_arm_hold_the_policy(policy, joint, distance, sign):
    policy.start()
    other = HOME[SLICES[LEFT.name]].copy()
    other[joint] += sign * distance
    policy.clock.steady_s += 0.05
    for place in (policy.desired(LEFT).position, other):
        policy.sources[LEFT.joint_states_topic].callback(messages.joints(LEFT, place, policy.clock.ros_s))
    holding = policy.node._halts.holding
    assert "two samples of one stamp" in holding and f"'{LEFT.joint_names[joint]}'" in holding and "Publishers: " in holding
