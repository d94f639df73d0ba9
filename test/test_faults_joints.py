"""Faults of the joint states: the policy node (and the gate where it decides) over DDS, one test per row."""

import contextlib

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from gate_rig import GateRig
from lifecycle_msgs.msg import Transition
from policy_rig import HOME, QUICK, ROBOT, ROBOT_FILE, paused
from rclpy.node import Node
from sensor_msgs.msg import JointState

from rdvla_ros.control.supervision.input_quality import JointJumps
from rdvla_ros.msg import GateStatus
from rdvla_ros.nodes.common import conversions
from rdvla_ros.srv import Resume
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
        rig.close()
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


OFF = 0.4 * np.array([1, 1, -1, 1, 1, 1, 0])


def echo(node, publisher):
    """Every message of the left arm's topic once more with its stamp, and the joints elsewhere: as a joint_state_publisher does
    beside the broadcaster under simulated time."""

    def publish(message):
        if abs(message.position[0] - HOME[0]) < 0.3:
            again = JointState(name=message.name, position=(np.array(message.position) + OFF).tolist())
            again.header.stamp = message.header.stamp
            publisher.publish(again)

    return node.create_subscription(JointState, LEFT.joint_states_topic, publish, 10)


def test_row_81_two_publishers_of_one_arm_with_equal_stamps_hold_the_policy_and_are_named(make_rig):
    rig = make_rig().moving()
    other = Node("joint_state_publisher", context=rig.context)
    rig.executor.add_node(other)
    subscription = echo(other, other.create_publisher(JointState, LEFT.joint_states_topic, 10))
    assert rig.holds("two samples of one stamp")
    assert rig.line("Hold: ", LEFT.joint_states_topic, "/joint_state_publisher", "/robot", "disagree")
    assert rig.change(Transition.TRANSITION_DEACTIVATE) and rig.change(Transition.TRANSITION_ACTIVATE)
    assert rig.until(lambda: any("one stamp" in cause for cause in rig.policy._causes())), "no start while it lasts"
    other.destroy_subscription(subscription)
    rig.executor.remove_node(other)
    other.destroy_node()


def test_row_81_the_gate_holds_for_them_too_and_refuses_the_resume():
    with contextlib.closing(GateRig()) as rig:
        rig.go()
        other = Node("joint_state_publisher", context=rig.context)
        rig.executor.add_node(other)
        echo(other, other.create_publisher(JointState, LEFT.joint_states_topic, 10))
        status = rig.held()
        for words in ("two samples of one stamp", LEFT.joint_states_topic, "/joint_state_publisher", "/robot"):
            assert words in status.reason
        rig.spin_for(0.3)
        answer = rig.call(Resume, hold_id=rig.status.hold_id, who="test")
        assert not answer.accepted and any("two samples of one stamp" in cause for cause in rig.status.causes)
        rig.executor.remove_node(other)
        other.destroy_node()
        rig.until(lambda: not rig.status.causes, "the cause to go")
        rig.go()


def test_row_15_the_gate_refuses_jumps_as_the_policy_does():
    with contextlib.closing(GateRig(joint_jump_factor=1.0)) as rig:
        rig.go()
        rig.send_states = False

        def report():
            jumped = HOME + np.array([1.5, 0, 0, 0, 0, 0, 0]) * (rig.node.get_clock().now().nanoseconds // 20_000_000 % 2)
            for arm in ROBOT.arms:
                rig.send_joints(arm.name, arm.joint_names, jumped if arm is LEFT else HOME)

        rig.node.create_timer(0.02, report)
        assert "'left_waist' jumped by 1.5" in rig.held().reason


def with_gripper_topic(tmp_path, topic):
    data = yaml.safe_load(ROBOT_FILE.read_text())
    if topic:
        data["arms"][0]["gripper"]["joint_states_topic"] = topic
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


GRIPPER_TOPICS = ["", "/left/gripper/joint_states"]
FINGER = LEFT.gripper.joint


@pytest.mark.parametrize("topic", GRIPPER_TOPICS, ids=["on the arm's topic", "on a topic of its own"])
def test_row_85_a_gripper_with_a_driver_of_its_own_is_merged_and_its_silence_pauses(make_rig, tmp_path, topic):
    rig = make_rig(robot=str(with_gripper_topic(tmp_path, topic)), **QUICK)
    driver = rig.robot.create_publisher(JointState, topic or LEFT.joint_states_topic, 10)
    silent = []

    def without_gripper(arm, message):
        if arm.name == LEFT.name:
            keep = [i for i, name in enumerate(message.name) if name != FINGER]
            message.name, message.position = [message.name[i] for i in keep], [message.position[i] for i in keep]

    def publish():
        if not silent:
            message = JointState(name=[FINGER], position=[float(rig.positions["left"][-1])])
            message.header.stamp = rig.stamp()
            driver.publish(message)

    rig.spoil_joints = without_gripper
    rig.robot.create_timer(0.03, publish)
    rig.moving()
    assert not rig.line("Message refused")
    silent.append(1)
    assert paused(rig, LEFT.joint_states_topic, f"joint '{FINGER}' of arm 'left' comes in messages of its own"), rig.log
    assert rig.rests()
    silent.clear()
    rig.moving()
    assert not rig.line("Hold: ")


@pytest.mark.parametrize("topic", GRIPPER_TOPICS, ids=["on the arm's topic", "on a topic of its own"])
def test_row_85_the_gate_merges_it_too_and_holds_for_its_silence(tmp_path, topic):
    with contextlib.closing(GateRig(robot=str(with_gripper_topic(tmp_path, topic)), wait=False, states=False)) as rig:
        driver = rig.node.create_publisher(JointState, topic or LEFT.joint_states_topic, 10)
        silent = []

        def report():
            now = conversions.stamp(rig.now_s())
            for arm in ROBOT.arms:
                names = [name for name in arm.joint_names if arm is not LEFT or name != FINGER]
                known = dict(zip(arm.joint_names, rig.positions[ROBOT.arm_slices[arm.name]], strict=True))
                rig.send_joints(arm.name, names, [known[name] for name in names])
                if arm is LEFT and not silent:
                    message = JointState(name=[FINGER], position=[float(known[FINGER])])
                    message.header.stamp = now
                    driver.publish(message)

        rig.node.create_timer(0.02, report)
        rig.until(lambda: rig.status and not rig.status.causes, "a gate with nothing in the way")
        rig.go()
        rig.spin_for(0.5)
        assert rig.status.mode == GateStatus.AUTO
        silent.append(1)
        assert f"joint '{FINGER}' of arm 'left' comes in messages of its own" in rig.held().reason


def test_a_controller_that_reports_no_finite_speed_is_named_with_its_joints():
    with contextlib.closing(GateRig()) as rig:
        rig.go()
        report = rig.report

        def spoiled(position, velocity):
            velocity = velocity.copy()
            velocity[[1, 2]] = np.nan
            report(position, velocity)

        rig.report = spoiled
        status = rig.held()
        first, second = LEFT.joint_names[1:3]
        assert f"reports nan as the speed that it commands to joints '{first}', '{second}'" in status.reason
        assert not rig.call(Resume, hold_id=status.hold_id, who="test").accepted
