"""Faults of the joint states: the policy node (and the gate where it decides) over DDS, one test per row."""

import contextlib

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from gate_rig import GateRig
from lifecycle_msgs.msg import Transition
from policy_rig import HOME, QUICK, ROBOT, paused
from sensor_msgs.msg import JointState

from rdvla_ros.control.supervision.input_quality import JointJumps
from rdvla_ros.nodes.common import conversions
from rdvla_ros.types import ObservationError

TOP = ROBOT.cameras[0].topic
LEFT, RIGHT = ROBOT.arms


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_row_10_a_joint_that_is_not_finite_is_refused_and_holds_when_no_good_sample_follows(value):
    with contextlib.closing(GateRig()) as rig:
        rig.go()
        spoiled = HOME.copy()
        spoiled[3] = value
        rig.send_joints(RIGHT.name, RIGHT.joint_names, spoiled)  # one among good ones
        rig.spin_for(0.04)
        rig.send_states = False

        def report():
            for arm in ROBOT.arms:
                rig.send_joints(arm.name, arm.joint_names, HOME if arm is LEFT else spoiled)

        rig.node.create_timer(0.02, report)
        status = rig.held()
        assert "expected a finite position" in status.reason and RIGHT.joint_states_topic in status.reason


def test_row_10_the_policy_makes_no_decision_from_it(make_rig):
    rig = make_rig(**QUICK).moving()

    def spoil(arm, message):
        message.position[3] = float("nan") if arm.name == RIGHT.name else message.position[3]

    rig.spoil_joints = spoil
    assert paused(rig, "expected a finite position, got nan"), rig.log
    assert rig.rests()


def test_row_11_12_13_joints_are_found_by_name_to_the_last_bit_and_strangers_are_ignored():
    rng, (group, _) = np.random.default_rng(0), conversions.joint_groups(ROBOT)
    for _ in range(100):
        values = rng.uniform([j.lower for j in group.joints], [j.upper for j in group.joints])
        given = [*zip(group.names, values.tolist(), strict=True), ("wheel", 99.0), ("torso", float("nan"))]
        order = rng.permutation(len(given))
        message = JointState(name=[given[i][0] for i in order], position=[given[i][1] for i in order])
        assert not message.velocity and conversions.joint_positions(message, group).tobytes() == values.tobytes()


def test_row_11_permuted_names_give_identical_commands(make_rig):
    """Two runs from one seed, of which one hears the joints in another order in every message."""
    motions = []
    for shuffled in (False, True):
        rig, rng = make_rig(instruction="same"), np.random.default_rng(1)

        def spoil(arm, message, rng=rng, shuffled=shuffled):
            order = rng.permutation(len(message.name)) if shuffled else range(len(message.name))
            names, positions = list(message.name), list(message.position)
            message.name, message.position = [names[i] for i in order], [positions[i] for i in order]

        rig.spoil_joints = spoil
        rig.start()
        assert rig.until(lambda rig=rig: all(rig.sent.values())), rig.log
        motions.append([conversions.trajectory(rig.sent[arm.name][0]) for arm in ROBOT.arms])
        rig.change(Transition.TRANSITION_DEACTIVATE)
    for plain, shuffled in zip(*motions, strict=True):
        assert plain.joint_names == shuffled.joint_names
        assert plain.positions[0].tobytes() == shuffled.positions[0].tobytes()


LACKING = [
    (lambda n, p: (n[:-1], p[:-1]), "expected joint 'right_gripper', which the message lacks"),
    (lambda n, p: ([*n[:-1], n[0]], p), "joint 'right_waist' stands 2 times"),
    (lambda n, p: ([*n[:-1], "right_griper"], p), "expected joint 'right_gripper'.*Did you mean 'right_griper'"),
]


@pytest.mark.parametrize("change, words", LACKING, ids=["missing", "duplicated", "renamed"])
def test_row_12_a_missing_or_doubled_joint_is_refused_as_another_robot_s(change, words):
    group = conversions.joint_groups(ROBOT)[1]
    names, positions = change(list(group.names), HOME.tolist())
    with pytest.raises(conversions.Contradiction, match=words):
        conversions.joint_positions(JointState(name=names, position=positions), group)


def test_row_12_and_holds(make_rig):
    rig = make_rig().moving()

    def spoil(arm, message):
        if arm.name == RIGHT.name:
            message.name, message.position = LACKING[0][0](list(message.name), list(message.position))

    rig.spoil_joints = spoil
    assert rig.holds(LACKING[0][1])


@pytest.mark.parametrize("count", [0, 6, 8])
def test_row_13_positions_that_do_not_fit_the_names_are_refused(count):
    group = conversions.joint_groups(ROBOT)[0]
    message = JointState(name=list(group.names), position=[0.0] * count)
    with pytest.raises(ObservationError, match=f"expected as many positions as names, got {count} and 7"):
        conversions.joint_positions(message, group)


@pytest.mark.parametrize("value", [57.3, -2.5, 1.7])
def test_row_14_degrees_and_places_out_of_reach_are_refused(value):
    """left_shoulder is limited to -1.85 .. 1.26: a little beyond is believed as it is, and never clipped."""
    group = conversions.joint_groups(ROBOT)[0]
    positions = [0.0, value, *HOME[2:].tolist()]
    with pytest.raises(conversions.Contradiction, match="expected a position within its limits -1.85005 .. 1.25664"):
        conversions.joint_positions(JointState(name=list(group.names), position=positions), group)


def test_row_14_and_hold(make_rig):
    rig = make_rig().moving()
    rig.positions["left"][1] = 57.3
    assert rig.holds("expected a position within its limits")


def test_row_14_a_little_beyond_the_limits_is_believed_unclipped():
    group = conversions.joint_groups(ROBOT)[0]
    values = np.array([0.0, 1.3, 1.16, 0.0, -0.3, 0.0, 0.03])
    message = JointState(name=list(group.names), position=values.tolist())
    assert conversions.joint_positions(message, group).tobytes() == values.tobytes()


def test_row_15_a_single_jump_is_refused_and_three_hold(make_rig):
    rig = make_rig(joint_jump_factor=1.0).moving()  # after a gap of a second and a half it could have moved so far
    once = []

    def spoil(arm, message):
        if arm.name == LEFT.name and not once:
            once.append(1)
            message.position[0] += 3.0

    rig.spoil_joints = spoil
    assert rig.until(lambda: rig.line("jumped by 3 from one sample to the next", severity="WARN")), rig.log
    rig.moving()
    assert not rig.line("Hold: ")
    rig.positions["left"][0] += 3.0  # an encoder that lost its place
    assert rig.holds("joint 'left_waist' jumped by 3")


def test_row_15_motion_at_full_speed_is_no_jump():
    speed = np.array([2.0, 2.5])
    jumps, rng, position, stamp = JointJumps(speed, factor=2.0), np.random.default_rng(0), np.zeros(2), 0.0
    for _ in range(1000):
        period = rng.uniform(0.002, 0.05)
        stamp, position = stamp + period, position + speed * period * rng.choice([-1, 1], 2)
        assert jumps.check(position, stamp) is None


def test_row_16_two_sources_of_one_arm_that_disagree_hold(make_rig):
    rig = make_rig().moving()
    other = rig.robot.create_publisher(JointState, LEFT.joint_states_topic, 10)

    def publish():
        message = JointState(name=list(LEFT.joint_names), position=(HOME + 0.4 * np.array([1, 1, -1, 1, 1, 1, 0])).tolist())
        message.header.stamp = rig.stamp()
        other.publish(message)

    timer = rig.robot.create_timer(0.02, publish)
    assert rig.holds("two publishers of the same joint?")
    assert rig.change(Transition.TRANSITION_DEACTIVATE) and rig.change(Transition.TRANSITION_ACTIVATE)
    assert rig.until(lambda: any("two publishers" in cause for cause in rig.policy._causes())), "no start while it lasts"
    timer.cancel()
    rig.robot.destroy_publisher(other)


def test_row_17_the_joints_of_one_arm_stop_and_both_arms_are_held():
    with contextlib.closing(GateRig()) as rig:
        rig.go()
        rig.send_states = False

        def report():
            rig.send_joints(LEFT.name, LEFT.joint_names, HOME[: len(LEFT.joint_names)])

        rig.node.create_timer(0.02, report)
        status = rig.held()
        assert RIGHT.joint_states_topic in status.reason and LEFT.joint_states_topic not in status.reason
        rig.until(lambda: status.mode == status.HOLD, "a hold of both arms")


def test_row_17_the_policy_pauses_both_arms_for_it(make_rig):
    rig = make_rig(**QUICK).moving()
    rig.silent.add(RIGHT.joint_states_topic)
    assert paused(rig, RIGHT.joint_states_topic), rig.log
    assert rig.rests()
