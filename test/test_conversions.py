"""Between ROS messages and the package's types: by name, and refused in plain words. Images: test_images.py."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import JointState

from rdvla_ros.control.motion.trajectory import Trajectory
from rdvla_ros.nodes.common import conversions
from rdvla_ros.robot import Arm, Camera, Joint, Rates, RobotDescription
from rdvla_ros.types import ActionChunk, Decision, ObservationError, StopReason

CAMERA = Camera("top", "/cameras/top/image_raw", "raw", 6, 4, "top_camera")


def robot(shared_topic=False):
    def arm(name):
        joints = tuple(Joint(f"{name}_{i}", -1.0, 1.0, 2.0, 10.0, 500.0) for i in range(3))
        return Arm(
            name, joints, None, f"/{name}/joint_trajectory", "/joint_states" if shared_topic else f"/{name}/joint_states", ""
        )

    return RobotDescription("pair", (arm("one"), arm("two")), (CAMERA,), "absolute", Rates(10.0, 50.0, 0.25))


GROUP = conversions.joint_groups(robot())[0]


def joints(names=GROUP.names, positions=(0.1, 0.2, 0.3)):
    return JointState(name=list(names), position=[float(p) for p in positions])


# joint states


def test_permuted_joints_give_bit_equal_positions():
    values = dict(zip(GROUP.names, (0.1, 1 / 3, -0.7), strict=True))
    straight = conversions.joint_positions(joints(values.keys(), values.values()), GROUP)
    for order in ([2, 0, 1], [1, 2, 0]):
        names = [GROUP.names[i] for i in order]
        assert np.array_equal(conversions.joint_positions(joints(names, [values[n] for n in names]), GROUP), straight)


def test_joints_of_others_are_ignored_and_one_topic_may_carry_both_arms():
    one, two = conversions.joint_groups(robot(shared_topic=True))
    assert (one.arm, two.arm) == ("one", "two") and one.topic == two.topic and len(one.joints) == 3
    message = joints(["torso", *reversed(two.names), *reversed(one.names)], [9.0, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    for group, expected in ((one, [0.0, 0.1, 0.2]), (two, [0.3, 0.4, 0.5])):
        assert np.array_equal(conversions.joint_positions(message, group), expected)


def test_a_message_without_any_joint_of_the_arm_is_told_from_an_incomplete_one():
    one, two = conversions.joint_groups(robot(shared_topic=True))
    for names in (two.names, ("wheel_1", "wheel_2", "wheel_2"), ()):
        with pytest.raises(conversions.OtherJoints, match="expected joints of arm 'one' such as 'one_0'"):
            conversions.joint_positions(joints(names, [0.0] * len(names)), one)
    with pytest.raises(ObservationError, match="expected joint 'two_2', which the message lacks") as caught:
        conversions.joint_positions(joints((*one.names, *two.names[:2]), [0.0] * 5), two)
    assert not isinstance(caught.value, conversions.OtherJoints)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (joints(GROUP.names[:2], (0, 0)), "expected joint 'one_2', which the message lacks"),
        (joints((*GROUP.names, "one_0"), (0, 0, 0, 0)), "joint 'one_0' stands 2 times"),
        (joints(("one_0", "one_1", "one_x"), (0, 0, 0)), "expected joint 'one_2'.*Known: one_0, one_1, one_x"),
        (joints(positions=(0, 0)), "expected as many positions as names, got 2 and 3"),
        (JointState(), "expected joints of arm 'one' such as 'one_0'"),
        (joints(positions=(0, math.nan, 0)), "joint 'one_1': expected a finite position, got nan"),
        (joints(positions=(0, 0, -math.inf)), "joint 'one_2': expected a finite position"),
        (joints(positions=(45, 0, 0)), "expected a position within its limits -1 .. 1.*got 45. Degrees"),
    ],
)
def test_a_joint_state_in_doubt_is_refused(message, words):
    with pytest.raises(ObservationError, match=words):
        conversions.joint_positions(message, GROUP)


# whatever comes: a value that can be trusted, or ObservationError, nothing else

anything = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*GROUP.names, "torso", ""]), max_size=6), st.lists(anything, max_size=6))
def test_any_joint_state_is_taken_by_name_or_refused(names, values):
    try:
        taken = conversions.joint_positions(joints(names, values), GROUP)
    except ObservationError:
        return
    assert np.isfinite(taken).all() and [values[names.index(name)] for name in GROUP.names] == taken.tolist()


# trajectories, decisions, text


def test_a_trajectory_survives_the_wire():
    times = np.array([0.04, 0.1, 1.2, 2.000001])
    sent = Trajectory(("a", "b"), times, np.arange(8.0).reshape(4, 2) / 3, np.array([[1.0, 2.0], [1, 1], [1, 0.5], [0, 0]]))
    message = conversions.trajectory_message(sent, conversions.stamp(1234.5))
    back = conversions.trajectory(message)
    assert conversions.seconds(message.header.stamp) == 1234.5 and message.header.frame_id == ""
    assert back.joint_names == sent.joint_names and np.array_equal(back.positions, sent.positions)
    assert np.allclose(back.times_s, times, atol=1e-9) and not back.velocities[-1].any()
    message.points[0].velocities = []
    with pytest.raises(ObservationError, match="point 0 has no velocities; send positions and velocities"):
        conversions.trajectory(message)
    message.points[0].velocities = [1.0, 2.0]
    message.points[1].velocities = [0.0]
    with pytest.raises(ObservationError, match="point 1: expected 2 positions and velocities, got 2 and 1"):
        conversions.trajectory(message)


@pytest.mark.parametrize("seconds", [0.0, 0.1, 1.9999999996, 1764000000.123456])
def test_stamps_are_normalised_and_return(seconds):
    stamp = conversions.stamp(seconds)
    assert 0 <= stamp.nanosec < 10**9 and abs(conversions.seconds(stamp) - seconds) < 1e-6


def decision(**changes):
    fields = dict(
        chunk=ActionChunk(np.zeros((8, 6)), 0.1, 12.5),
        refinement=None,
        timings={"vision": 0.02, "head": 0.01, "total": 0.035},
        iterations=3,
        limit=16,
        threshold=1e-3,
        change=np.array([np.nan, 0.1, 1e-4]),
        step_change=np.zeros(8),
        stop_reason=StopReason.CONVERGED,
        converged=True,
    )
    return Decision(**{**fields, **changes})


def test_a_decision_becomes_a_convergence_message():
    m = conversions.convergence_message(decision(), sequence=7, now_s=13.0, instruction="go", horizon=5, published=True, note="")
    assert (m.sequence, m.iterations, m.limit, m.converged, m.stop_reason) == (7, 3, 16, True, m.CONVERGED)
    assert conversions.seconds(m.observation_stamp) == 12.5 and m.horizon == 5 and m.chunk_length == 8
    assert math.isnan(m.change[0]) and list(m.change)[1:] == [0.1, 1e-4]
    assert m.timing_names == ["vision", "head", "total"] and list(m.timings_s) == [0.02, 0.01, 0.035]
    unpublished = conversions.convergence_message(
        decision(), sequence=8, now_s=13.0, instruction="go", horizon=5, published=False, note="held"
    )
    assert unpublished.horizon == 0 and unpublished.note == "held"


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "got none"), ("  ", "got none"), ("x" * 513, "got 513"), ("a\nb", "printable"), ("a\x1b[0m", "printable")],
)
def test_an_instruction_in_doubt_is_refused(text, words):
    assert words in conversions.instruction_problem(text)
    assert conversions.instruction_problem("pick up the rote Würfel 红色") == ""
