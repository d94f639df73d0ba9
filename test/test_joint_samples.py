"""Samples of a whole arm out of joint state messages: parts merged, two sources found out, one source never suspected."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from sensor_msgs.msg import JointState

from rdvla_ros.control.supervision.input_quality import SameStamp
from rdvla_ros.nodes.common import conversions
from rdvla_ros.nodes.common.conversions import Contradiction, JointGroup, OtherJoints
from rdvla_ros.nodes.common.joint_samples import ArmSamples, Part
from rdvla_ros.robot import Joint
from rdvla_ros.types import ObservationError

SPEED, MERGE_S = 2.0, 0.1
NAMES = ("finger", "base", "elbow", "wrist")
GROUP = JointGroup("left", "/joint_states", tuple(Joint(name, -1.0, 1.0, SPEED, 10.0, 500.0) for name in NAMES), "finger")
ARM, FINGER = NAMES[1:], NAMES[:1]


def samples(jump_factor=0.0, merge_s=MERGE_S):
    return ArmSamples(GROUP, jump_factor=jump_factor, merge_s=merge_s, publishers=lambda topic: "/broadcaster, /simulator")


def message(names, positions, stamp_s):
    state = JointState(name=list(names), position=[float(p) for p in positions])
    state.header.stamp = conversions.stamp(stamp_s)
    return state


# a gripper driver of its own


def test_the_arm_and_its_gripper_come_in_messages_of_their_own():
    arm = samples()
    with pytest.raises(Part, match="joint 'finger' of arm 'left' has not come yet"):
        arm.take(message(ARM, (0.1, 0.2, 0.3), 10.0), 0.0)
    with pytest.raises(Part, match="no sample of arm 'left' by itself"):
        arm.take(message(FINGER, (0.9,), 10.01), 0.01)
    assert arm.take(message(ARM[::-1], (0.3, 0.2, 0.1), 10.02), 0.02).tolist() == [0.9, 0.1, 0.2, 0.3]
    with pytest.raises(
        ObservationError, match=r"'finger' of arm 'left' comes in messages of its own, and the newest lies 0\.190 s"
    ) as caught:
        arm.take(message(ARM, (0.1, 0.2, 0.3), 10.2), 0.2)
    assert not isinstance(caught.value, Contradiction), "a pause, which ends when the gripper's driver goes on"
    with pytest.raises(Part):
        arm.take(message(FINGER, (0.8,), 10.3), 0.3)
    assert arm.take(message(ARM, (0.1, 0.2, 0.3), 10.31), 0.31)[0] == 0.8


def test_a_joint_that_no_message_brings_contradicts_the_robot():
    arm = samples()
    for at_s in (0.0, MERGE_S / 2):
        with pytest.raises(OtherJoints):
            arm.take(message(ARM[:2], (0.1, 0.2), 10.0 + at_s), at_s)
    with pytest.raises(Contradiction, match="expected joint 'finger', which the message lacks"):
        arm.take(message(ARM[:2], (0.1, 0.2), 10.2), 0.2)
    whole = samples()
    whole.take(message(NAMES, (0.0,) * 4, 10.0), 0.0)
    with pytest.raises(Contradiction, match="lacks"):
        whole.take(message(ARM, (0.0,) * 3, 10.02), 0.02)


def test_the_parts_of_a_message_in_doubt_are_not_kept():
    arm = samples()
    for bad in (np.nan, 57.0):
        with pytest.raises(ObservationError, match="joint 'finger'"):
            arm.take(message(FINGER, (bad,), 10.0), 0.0)
    with pytest.raises(Part, match="has not come yet"):
        arm.take(message(ARM, (0.1, 0.2, 0.3), 10.0), 0.0)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.floats(0.001, 0.15), st.integers(-100, 100)), min_size=1, max_size=40),
    st.permutations(NAMES),
    st.integers(1, 3),
)
def test_a_merged_sample_holds_the_newest_of_each_joint_within_the_tolerance(arrivals, order, cut):
    """However the arm's joints are divided among two drivers, and whichever comes when; kind 2: all joints in one message."""
    parts, arm, now_s = (order[:cut], order[cut:], order), samples(), 0.0
    newest: dict[str, tuple[float, float]] = {}  # of the parts
    for kind, gap_s, value in arrivals:
        now_s += gap_s
        stamp_s = conversions.seconds(conversions.stamp(100.0 + now_s))
        place, names = value / 100, parts[kind]
        if kind < 2:
            newest |= dict.fromkeys(names, (stamp_s, place))
        try:
            taken = arm.take(message(names, [place] * len(names), stamp_s), now_s)
        except ObservationError as error:
            if isinstance(error, Part):
                assert kind < 2 and ("base" not in names or len(newest) < 4)
            continue
        if kind == 2:
            assert taken.tolist() == [place] * 4
        else:
            assert "base" in names and all(stamp_s - newest[name][0] <= MERGE_S + 1e-9 for name in NAMES)
            assert taken.tolist() == [newest[name][1] for name in NAMES]


# two publishers of one arm


def test_two_samples_of_one_stamp_that_disagree_are_two_publishers():
    arm = samples(jump_factor=2.0)
    for number in range(5):
        arm.take(message(NAMES, (0.0, 0.1, 0.2, 0.3), 10.0 + 0.02 * number), 0.02 * number)
    with pytest.raises(
        Contradiction, match=r"disagree: joint 'wrist' is at 0\.3 and at 0\.7 .* Publishers: /broadcaster, /simulator\."
    ):
        arm.take(message(NAMES, (0.0, 0.1, 0.2, 0.7), 10.08), 0.081)
    arm.take(message(NAMES, (0.0, 0.1, 0.2, 0.3), 10.08), 0.082)  # the same once more is no contradiction


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 1.0), st.integers(0, 3), st.booleans(), st.integers(0, 3))
def test_whichever_publisher_comes_first_a_second_one_is_found_out(seed, distance, joint, first, behind):
    """Interleaved by up to three stamps, in either order, at rest or in motion."""
    rng = np.random.default_rng(seed)
    arm, events = samples(), []
    offset = np.zeros(4)
    offset[joint] = distance * rng.choice([-1, 1])
    for number in range(12):
        stamp_s, place = 10.0 + 0.02 * number, np.full(4, 0.2 * np.sin(0.02 * number))
        events.append((0.02 * number, place, stamp_s))
        events.append((0.02 * (number + behind) + (0.001 if first else -0.001), np.clip(place + offset, -1.0, 1.0), stamp_s))
    found = 0
    for received_s, place, stamp_s in sorted(events, key=lambda event: event[0]):
        try:
            arm.take(message(NAMES, place, stamp_s), received_s)
        except Contradiction as error:
            found += "two samples of one stamp" in str(error)
    least = SPEED * (0.02 * behind + 0.011) + 1e-4  # so far the joint could have moved meanwhile
    assert found >= 12 or distance <= least + 1e-6


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.001, 0.01, 0.1]))
def test_one_publisher_at_full_speed_is_never_taken_for_two(seed, clock_step_s):
    """Also where its stamps come from a simulated clock that stands between ticks, and after a burst."""
    rng, same = np.random.default_rng(seed), SameStamp(np.full(2, SPEED))
    now_s, place = 0.0, np.zeros(2)
    for _ in range(300):
        period_s = rng.uniform(0.001, 0.02)
        now_s, place = now_s + period_s, place + SPEED * period_s * rng.choice([-1, 1], 2)
        stamp_s = now_s // clock_step_s * clock_step_s if clock_step_s else now_s
        late_s = rng.uniform(0.0, 0.004)  # of delivery
        assert same.check(place, round(1e9 * stamp_s), now_s + late_s) is None


def test_without_stamps_nothing_is_compared():
    arm = samples()
    arm.take(message(NAMES, (0.0,) * 4, 0.0), 0.0)
    assert arm.take(message(NAMES, (0.5,) * 4, 0.0), 0.001).tolist() == [0.5] * 4


def test_a_flood_of_contradictions_asks_the_graph_only_now_and_then():
    asked = []
    arm = ArmSamples(GROUP, jump_factor=0.0, merge_s=MERGE_S, publishers=lambda topic: asked.append(topic) or "/a, /b")
    arm.take(message(NAMES, (0.0,) * 4, 10.0), 0.0)
    for number in range(1000):
        with pytest.raises(Contradiction, match="/a, /b"):
            arm.take(message(NAMES, (0.9,) * 4, 10.0), 0.0001 * number)
    assert asked == ["/joint_states"]
