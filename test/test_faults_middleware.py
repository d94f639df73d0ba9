"""Faults between the nodes: the gate over DDS, with controllers that listen, report, reject and begin anew. One test per row."""

import contextlib

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from gate_rig import HOME, ROBOT, SLICES, GateRig, motion
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.control.motion.trajectory import Reference
from rdvla_ros.msg import GateStatus
from rdvla_ros.nodes.common.controller_states import incredible
from rdvla_ros.srv import Resume

RIGHT = ROBOT.arms[-1]


@pytest.fixture
def rig():
    with contextlib.closing(GateRig()) as rig:
        yield rig


def refused(rig, word):
    """A resume is refused, and a cause has the word in it."""
    cause = rig.until(lambda: rig.status and next((c for c in rig.status.causes if word in c), ""), f"a cause with '{word}'")
    answer = rig.call(Resume, hold_id=rig.status.hold_id, who="test")
    assert not answer.accepted and any(word in c for c in answer.causes), answer
    return cause


def test_row_40_a_controller_that_cannot_hear_is_named_with_the_reason():
    with contextlib.closing(GateRig(controllers=False, wait=False)) as rig:
        rig.start_controllers(QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))  # the gate offers volatile
        rig.send_reports = True
        cause = refused(rig, "quality of service")
        assert "/left_arm_controller/joint_trajectory" in cause and "/robot" in cause
        assert "durability" in cause.lower() or "volatile" in cause.lower()  # the words are the middleware's
        refused(rig, "/right_arm_controller/joint_trajectory")


def test_row_40_a_source_that_the_gate_cannot_hear_is_logged_with_its_topic(rig, capfd):
    """The gate asks for reliable motions; DDS would leave out a source that offers less without a word."""
    topic, log = f"teleop/{RIGHT.name}/joint_trajectory", []
    source = rig.node.create_publisher(JointTrajectory, topic, QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))

    def said():
        log.append(capfd.readouterr().err)
        return any("ERROR" in line and topic in line and "quality of service" in line for line in "".join(log).splitlines())

    rig.until(said, "the gate to say what it cannot hear")
    rig.node.destroy_publisher(source)


def test_row_41_another_publisher_on_a_controller_topic_holds_and_is_named(rig):
    rig.go()
    other = rig.node.create_publisher(JointTrajectory, ROBOT.arms[0].trajectory_topic, 10)
    status = rig.held()
    assert "Another node publishes" in status.reason and "/robot" in status.reason
    refused(rig, "Another node publishes")
    rig.node.destroy_publisher(other)
    rig.until(lambda: not rig.status.causes, "the cause to go")
    assert rig.status.mode == GateStatus.HOLD


def test_row_41_where_it_is_asked_for_another_publisher_is_only_told(capfd):
    log = []

    def said():
        log.append(capfd.readouterr().err)
        return "Another node publishes" in "".join(log)

    with contextlib.closing(GateRig(other_publishers="warn")) as rig:
        rig.go()
        other = rig.node.create_publisher(JointTrajectory, ROBOT.arms[0].trajectory_topic, 10)
        rig.until(said, "the warning")
        assert rig.status.mode == GateStatus.AUTO and not rig.status.causes
        rig.pass_motion(motion(change=0.05))
        rig.node.destroy_publisher(other)


def test_row_42_no_start_without_a_listening_active_controller_and_a_hold_when_one_goes():
    with contextlib.closing(GateRig(controllers=False, wait=False)) as rig:
        refused(rig, "No controller listens")
        rig.start_controllers()
        refused(rig, "has reported no state yet")  # loaded, but not active
        rig.send_reports = True
        rig.until(lambda: not rig.status.causes, "controllers")
        rig.go()
        rig.stop_controller(RIGHT.name)
        assert RIGHT.trajectory_topic in rig.held().reason


def test_row_43_a_chunk_that_both_controllers_reject_holds(rig):
    rig.go()
    rig.rejects = {arm.name for arm in ROBOT.arms}
    rig.pass_motion(motion(change=0.4))
    assert "does not follow what was sent" in rig.held().reason
    rig.until(lambda: not rig.status.causes, "causes to go")
    assert np.allclose(rig.positions, HOME, atol=1e-6)
    rig.rejects = set()
    rig.go()
    rig.pass_motion(motion(change=0.05))


def test_row_44_one_arms_message_that_gets_lost_holds_both(rig):
    rig.go()
    rig.rejects = {RIGHT.name}
    rig.pass_motion(motion(change=0.4))
    status = rig.held()
    assert f"'{RIGHT.name}'" in status.reason
    rig.until(lambda: all(len(m) == 2 for m in rig.received.values()), "the stop at both controllers")
    assert all(not message.points[-1].velocities[0] for m in rig.received.values() for message in m[-1:])
    assert np.allclose(rig.positions[SLICES[RIGHT.name]], HOME[SLICES[RIGHT.name]], atol=1e-6)


@pytest.mark.parametrize(("joint", "value", "words"), [(0, 100.0, "within"), (1, 0.5, "where it is measured")])
def test_row_43_what_a_controller_cannot_command_is_not_believed_and_no_stop_begins_from_it(rig, joint, value, words):
    rig.go()
    rig.send_reports = False
    lie = HOME.copy()
    lie[joint] = value
    rig.report(lie, np.zeros_like(HOME))
    assert words in rig.held().reason and ROBOT.joint_names[joint] in rig.status.reason
    rig.until(lambda: all(rig.received.values()), "the stop")
    for arm, messages in rig.received.items():
        positions = np.array([point.positions for message in messages for point in message.points])
        assert np.allclose(positions, HOME[SLICES[arm]], atol=1e-6)
    rig.send_reports = True
    rig.until(lambda: not rig.status.causes, "the cause to go")


def test_row_43_a_gripper_that_holds_something_is_believed_wherever_it_was_sent():
    at_rest = np.zeros(len(RIGHT.joints))
    grippers = np.array([joint.name == RIGHT.gripper.joint for joint in RIGHT.joints])
    measured = HOME[SLICES[RIGHT.name]]
    opened, closed = (np.where(grippers, value, measured) for value in (RIGHT.gripper.open, RIGHT.gripper.closed - 0.015))
    assert not incredible(Reference(opened, at_rest, at_rest), RIGHT, closed)
    assert "where it is measured" in incredible(Reference(measured + 0.5 * ~grippers * 3.0, at_rest, at_rest), RIGHT, measured)


def test_row_61_a_controller_manager_that_restarts_holds_and_is_sent_nothing_old(rig):
    rig.go()
    rig.pass_motion(motion(change=0.3))
    rig.spin_for(0.2)
    for arm in ROBOT.arms:
        rig.stop_controller(arm.name)
    where = rig.positions
    rig.positions = where  # the new controllers hold what they find, and know of no motion
    rig.start_controllers()
    rig.held()
    rig.until(lambda: not rig.status.causes, "the controllers to be back")
    rig.spin_for(0.3)
    count = {arm: len(messages) for arm, messages in rig.received.items()}
    rig.spin_for(0.5)
    assert rig.status.mode == GateStatus.HOLD and {arm: len(m) for arm, m in rig.received.items()} == count
    rig.go()
    rig.pass_motion(motion(where, change=0.02))


def test_row_61_a_restart_so_short_that_nothing_falls_silent_holds_as_well(rig):
    rig.go()
    rig.start_controllers()
    assert "started anew" in rig.held().reason


@pytest.mark.parametrize("who", ["policy", "joints"])
def test_row_69_a_clock_of_another_kind_is_refused(rig, who):
    if who == "policy":
        rig.policy.offset_s = -1.7e9  # as with use_sim_time on its side only
    else:
        rig.now_s = lambda: 12.0
    assert "use_sim_time" in refused(rig, "clock")


def test_row_23_a_gate_that_waits_for_a_simulated_clock_says_so():
    with contextlib.closing(GateRig(wait=False, use_sim_time=True)) as rig:
        rig.until(lambda: rig.status and any("/clock" in cause for cause in rig.status.causes), "the cause")


def test_a_policy_that_pauses_is_resumed_only_where_that_is_allowed():
    for allowed in (True, False):
        with contextlib.closing(GateRig(auto_resume=allowed, longest_pause_s=2.0)) as rig:
            rig.go()
            rig.policy.causes = ["Nothing has come from camera 'top'."]
            rig.until(lambda rig=rig: rig.status.mode == GateStatus.PAUSE, "a pause")
            assert "'top'" in rig.status.reason and rig.status.who == "policy"
            rig.policy.causes = []
            expected = GateStatus.AUTO if allowed else GateStatus.HOLD
            rig.until(lambda rig=rig, mode=expected: rig.status.mode == mode, "the end of the pause")
