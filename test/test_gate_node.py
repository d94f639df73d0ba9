"""The gate over DDS: what passes, what holds, and that a hold always wins."""

import contextlib

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from gate_rig import HOME, LIMITS, MOVES, ROBOT, SLICES, GateRig, motion, stops

from rdvla_ros.control.motion import cubic
from rdvla_ros.control.motion.trajectory import Trajectory
from rdvla_ros.msg import GateStatus
from rdvla_ros.nodes.common import conversions
from rdvla_ros.srv import Hold, Resume, SetMode


@pytest.fixture
def rig():
    """A gate that holds with hold 1, as after its start, and a robot that is there."""
    with contextlib.closing(GateRig()) as rig:
        yield rig


@pytest.fixture
def moving(rig):
    """The gate in AUTO, and a motion on the wire that still lasts half a second."""
    rig.go()
    rig.sent_motion = motion(change=0.3)
    rig.sent_stamp_s = conversions.seconds(rig.pass_motion(rig.sent_motion))
    rig.spin_for(0.25)
    return rig


ROBOT_ARMS = {arm.name: arm for arm in ROBOT.arms}


# -- passing


def test_after_its_start_the_gate_holds_and_nothing_passes(rig):
    assert rig.status.mode == GateStatus.HOLD and rig.status.hold_id == 1 and "start-up" in rig.status.reason
    rig.send(motion())
    rig.until(lambda: rig.status.refused == 1, "the refusal to be counted")
    assert "HOLD" in rig.status.last_refusal and not any(rig.received.values())


def begins_before(message, now_s):
    """On the motion that is followed: no controller makes a step of it (control/motion/handover)."""
    return conversions.seconds(message.header.stamp) + conversions.seconds(message.points[0].time_from_start) < now_s


def test_a_motion_passes_to_both_arms_after_the_resume_and_repeats_before_what_they_do_already(rig):
    rig.go()
    trajectory = motion()
    sent_s = conversions.seconds(rig.pass_motion(trajectory))
    for arm in ROBOT.arms:
        (message,) = rig.received[arm.name]
        passed, sent = conversions.trajectory(message), trajectory.select(arm.joint_names)
        assert begins_before(message, sent_s)
        np.testing.assert_array_equal(passed.positions[0], HOME[SLICES[arm.name]])
        np.testing.assert_array_equal(passed.positions[-8:], sent.positions[-8:])
        ends_s = conversions.seconds(message.header.stamp) + passed.duration_s
        assert ends_s == pytest.approx(sent_s + sent.duration_s, abs=2e-6)
    rig.until(lambda: rig.status.passed == 1, "the pass to be counted")


def test_only_what_was_checked_reaches_the_controllers(rig):
    """A controller would interpolate with the accelerations, and so follow another motion than the one that was checked."""

    def add(message):
        for point in message.points:
            point.accelerations = [1000.0] * len(message.joint_names)
            point.effort = [500.0] * len(message.joint_names)

    rig.go()
    trajectory = motion()
    rig.pass_motion(trajectory, change=add)
    for arm in ROBOT.arms:
        (message,) = rig.received[arm.name]
        assert not any(len(point.accelerations) or len(point.effort) for point in message.points)
        passed, sent = conversions.trajectory(message), trajectory.select(arm.joint_names)
        np.testing.assert_array_equal(passed.positions[-8:], sent.positions[-8:])


def test_joint_order_within_a_message_is_free(rig):
    def reverse(message):
        message.joint_names.reverse()
        for point in message.points:
            point.positions, point.velocities = point.positions[::-1], point.velocities[::-1]

    rig.go()
    rig.pass_motion(motion(), change=reverse)


def test_the_next_motion_passes_when_it_leaves_the_one_before_where_it_is(moving):
    base_s = moving.now_s()
    start = moving.sent_motion.at(base_s + 0.04 - moving.sent_stamp_s)
    moving.pass_motion(motion(start.position, 0.05, velocity=start.velocity), stamp_s=base_s)


def test_one_arms_part_alone_is_refused_and_moves_nothing(rig):
    rig.go()
    rig.send(motion(), arms=["left"])
    rig.until(lambda: rig.status.refused == 1, "the refusal")
    assert "right" in rig.status.last_refusal and "both arms or none" in rig.status.last_refusal
    assert rig.status.mode == GateStatus.AUTO and not any(rig.received.values())


@pytest.mark.parametrize(("offset_s", "word"), [(-0.3, "old"), (0.3, "future")])
def test_a_motion_from_another_time_is_refused_without_a_hold(rig, offset_s, word):
    rig.go()
    rig.send(motion(), stamp_s=rig.now_s() + offset_s)
    rig.until(lambda: rig.status.refused == 1, "the refusal")
    assert word in rig.status.last_refusal and rig.status.mode == GateStatus.AUTO and not any(rig.received.values())


def test_a_motion_of_more_than_three_seconds_is_refused_without_a_hold(rig):
    rig.go()
    slow = motion()
    times_s = slow.times_s * 3.2 / slow.duration_s
    rig.send(Trajectory(slow.joint_names, times_s, slow.positions, slow.velocities * slow.duration_s / 3.2))
    rig.until(lambda: rig.status.refused == 1, "the refusal")
    assert "lasts 3.20 s" in rig.status.last_refusal and rig.status.mode == GateStatus.AUTO
    rig.pass_motion(motion())


# -- what holds


def nan(message):
    message.points[1].positions[2] = float("nan")


def infinite_velocity(message):
    message.points[1].velocities[2] = float("inf")


def misnamed(message):
    message.joint_names[0] = "elbow_of_another_robot"


def twice(message):
    message.joint_names[0] = message.joint_names[1]


def outside(message):
    message.points[1].positions[1] = 4.0


def infinite_acceleration(message):
    message.points[1].accelerations = [float("inf")] * len(message.joint_names)


def effort_that_is_no_number(message):
    message.points[1].effort = [float("nan")]


def moving_end(message):
    message.points[-1].velocities[0] = 0.1


def before_its_stamp(message):
    message.points[0].time_from_start.sec = -1


def no_velocities(message):
    for point in message.points:
        point.velocities = []


def one_point(message):
    message.points = message.points[-1:]


def endless(message):
    message.points = message.points * 200


SPOILED = {
    endless: "at most 1000 points",
    nan: "finite",
    infinite_velocity: "finite",
    misnamed: "elbow_of_another_robot",
    twice: "2 times",
    outside: "would go to",
    infinite_acceleration: "accelerations of point 1",
    effort_that_is_no_number: "effort of point 1",
    moving_end: "at rest",
    before_its_stamp: "0 or later",
    no_velocities: "has no velocities; send positions and velocities",
    one_point: "2 points",
}


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda f: f.__name__)
def test_an_illegal_motion_of_one_arm_stops_both(rig, spoil):
    rig.go()
    rig.send(motion(), change=lambda message: spoil(message) if message.joint_names[0].startswith("left") else None)
    status = rig.held()
    assert SPOILED[spoil] in status.reason and status.passed == 0 and status.refused == 1
    rig.until(lambda: all(rig.received.values()), "the hold on the wire")
    _, parts = stops(rig)
    for arm, part in parts.items():
        assert np.isfinite(part.positions).all()
        np.testing.assert_allclose(part.positions, np.broadcast_to(HOME[SLICES[arm]], part.positions.shape), atol=1e-9)


def test_text_from_a_message_reaches_logs_and_status_without_control_characters(rig):
    rig.go()
    rig.send(motion(), change=lambda message: message.joint_names.__setitem__(0, "\x1b[31m evil\n" + "x" * 100_000))
    status = rig.held()
    for text in (status.reason, status.last_refusal):
        assert "evil" in text and "\n" not in text and "\x1b" not in text and len(text) < 600


def test_three_motions_in_a_row_from_another_place_hold(rig):
    rig.go()
    for count in (1, 2, 3):
        assert rig.status.mode == GateStatus.AUTO
        rig.send(motion(HOME + 0.15 * MOVES))
        rig.until(lambda count=count: rig.status.refused == count, "the refusal")
    assert "jump" in rig.held().reason and rig.status.passed == 0


def test_a_hold_in_mid_motion_stops_both_arms_together_inside_their_limits(moving):
    answer = moving.call(Hold, reason="a hand in the way", who="operator")
    moving.until(lambda: min(len(m) for m in moving.received.values()) == 2, "the hold at both controllers")
    assert answer.accepted and answer.hold_id == 2
    stamp_s, parts = stops(moving)
    for arm, part in parts.items():
        before = moving.sent_motion.select(ROBOT_ARMS[arm].joint_names)
        expected = before.at(stamp_s + part.times_s[0] - moving.sent_stamp_s)
        np.testing.assert_allclose(part.positions[0], expected.position, atol=1e-6)
        np.testing.assert_allclose(part.velocities[0], expected.velocity, atol=1e-5)
        assert np.abs(expected.velocity).max() > 0.2  # it was moving
        peaks = cubic.peaks(part.times_s, part.positions, part.velocities)
        assert (peaks["acceleration"] <= LIMITS.acceleration[SLICES[arm]] * 1.01).all()
    before_count = {arm: len(m) for arm, m in moving.received.items()}
    moving.send(motion(moving.sent_motion.positions[-1]))
    moving.until(lambda: moving.status.refused == 1, "the refusal")
    assert {arm: len(m) for arm, m in moving.received.items()} == before_count


def test_a_hold_moves_no_arm_whose_controller_did_not_follow(rig):
    """The controllers reject the motion, say: they report that they stayed where they were."""
    rig.go()
    rig.follow = False
    rig.pass_motion(motion(change=0.4))
    rig.until(lambda: min(len(m) for m in rig.received.values()) == 2, "the gate's own hold")
    assert "does not follow" in rig.held().reason
    _, parts = stops(rig)
    for arm, part in parts.items():
        np.testing.assert_allclose(part.positions, np.broadcast_to(HOME[SLICES[arm]], part.positions.shape), atol=1e-6)


def test_row_48_the_first_reason_is_kept_and_a_hundred_holds_are_one(moving):
    answers = [moving.call(Hold, reason=f"reason {i}", who="test") for i in range(100)]
    assert {answer.hold_id for answer in answers} == {2} and all(answer.accepted for answer in answers)
    moving.until(lambda: moving.status.mode == GateStatus.HOLD, "the status")
    assert moving.status.reason == "reason 0"
    assert all(len(messages) == 2 for messages in moving.received.values())  # the motion and one stop


def test_a_resume_must_name_the_hold_in_force_and_moves_nothing(moving):
    moving.call(Hold, reason="test", who="test")
    wrong = moving.call(Resume, hold_id=1, who="test")
    assert not wrong.accepted and "2" in wrong.message
    count = {arm: len(m) for arm, m in moving.received.items()}
    assert moving.call(Resume, hold_id=2, who="test").accepted
    moving.spin_for(0.1)
    assert {arm: len(m) for arm, m in moving.received.items()} == count
    assert not moving.call(Resume, hold_id=2, who="test").accepted


def test_row_52_after_a_long_hold_the_next_motion_starts_from_where_the_arms_were_moved_by_hand(rig):
    rig.go()
    rig.pass_motion(motion(change=0.02))
    rig.call(Hold, reason="a new pose by hand", who="test")
    rig.positions = HOME + 0.2 * MOVES
    rig.spin_for(0.7)
    rig.go()
    rig.pass_motion(motion(rig.positions, 0.02))


def test_a_controllers_report_goes_before_the_measured_positions(rig):
    rig.send_reports = False
    rig.report(HOME + 0.2 * MOVES, np.zeros_like(HOME))
    rig.spin_for(0.1)
    rig.go()
    rig.pass_motion(motion(HOME + 0.2 * MOVES, 0.02))


# -- supervision


def test_row_51_no_resume_before_the_robot_is_there_and_the_causes_are_named():
    with contextlib.closing(GateRig(states=False, controllers=False, wait=False)) as rig:
        rig.until(lambda: rig.status, "a status")
        answer = rig.call(Resume, hold_id=1, who="test")
        assert not answer.accepted
        assert {arm.joint_states_topic for arm in ROBOT.arms} <= {
            word.strip(".") for cause in answer.causes for word in cause.split()
        }
        assert any("No controller listens" in cause for cause in answer.causes)


def spoil_joints(rig, arm, names, positions):
    rig.send_states = False
    for _ in range(4):
        for other in ROBOT.arms:
            if other.name == arm:
                rig.send_joints(arm, names, positions)
            else:
                rig.send_joints(other.name, other.joint_names, HOME[SLICES[other.name]])
        rig.spin_for(0.03)


JOINT_FAULTS = {
    "nan": (lambda n, q: (n, [float("nan"), *q[1:]]), "finite"),
    "unknown name": (lambda n, q: (["shoulder_of_nobody", *n[1:]], q), "lacks"),
    "a joint twice": (lambda n, q: ([n[1], *n[1:]], q), "2 times"),
    "missing": (lambda n, q: (n[1:], q[1:]), "lacks"),
    "degrees": (lambda n, q: (n, np.degrees(q)), "Degrees"),
    "lengths differ": (lambda n, q: (n, q[1:]), "as many positions as names"),
}


@pytest.mark.parametrize("fault", JOINT_FAULTS)
def test_bad_joint_states_of_one_arm_hold_both(rig, fault):
    rig.go()
    right = ROBOT.arms[-1]
    spoil, word = JOINT_FAULTS[fault]
    spoil_joints(rig, right.name, *spoil(list(right.joint_names), HOME[SLICES[right.name]]))
    status = rig.held()
    assert word in status.reason and right.joint_states_topic in status.reason
    assert not rig.call(Resume, hold_id=status.hold_id, who="test").accepted
    rig.send_states = True
    rig.until(lambda: not rig.status.causes, "the cause to go")
    rig.go()


def test_silent_joint_states_hold(moving):
    moving.send_states = False
    assert "Nothing has come on" in moving.held().reason


def test_a_clock_that_differs_holds(rig):
    rig.go()
    rig.node.get_clock()
    rig.now_s = lambda: 12.0  # as with use_sim_time on one side only
    assert "use_sim_time" in rig.held().reason


def fail(*_):
    raise RuntimeError("a bug")


# where a bug may be: in a subscription's callback, in the node's timer, in what watches beside the callbacks
BUGS = {
    "subscription": lambda gate: setattr(gate._arms.motion_check, "check", fail),
    "timer": lambda gate: setattr(gate._robot_watch, "look", fail),
    "watch": lambda gate: setattr(gate._robot_watch, "deviation", fail),
}


@pytest.mark.parametrize("where", BUGS)
def test_row_60_an_exception_in_a_callback_is_counted_and_holds_and_the_gate_lives(moving, where):
    BUGS[where](moving.gate)
    if where == "subscription":
        moving.send(motion())
    status = moving.held()
    assert "a bug" in status.reason and status.exceptions > 0
    moving.until(lambda: all(len(m) == 2 for m in moving.received.values()), "the stop")
    assert moving.call(Hold, reason="again", who="test").accepted
    count = len(moving.statuses)
    moving.until(lambda: len(moving.statuses) > count + 1, "a status: the timer still runs")


def test_row_60_a_hold_whose_stop_cannot_be_computed_is_accepted_by_its_number(moving):
    moving.gate._arms.motion_check.stop = fail
    answer = moving.call(Hold, reason="a hand in the way", who="operator")
    assert answer.accepted and answer.hold_id == 2 and "No stop was sent" in answer.message
    assert "a hand in the way" in moving.held().reason
    assert all(len(m) == 1 for m in moving.received.values())


def test_a_teleoperation_source_that_streams_in_auto_passes_nothing_and_counts_as_no_refusal(rig):
    rig.go()
    for _ in range(5):
        rig.send(motion(), source="/teleop")
        rig.send(motion(), source="/teleop", arms=["left"], stamp_s=rig.now_s() + 0.001)
        rig.spin_for(0.05)
    rig.spin_for(0.2)
    assert rig.status.refused == 0 and rig.status.mode == GateStatus.AUTO and not any(rig.received.values())
    rig.pass_motion(motion())


def test_takeover_passes_the_teleoperation_source_only_and_ends_with_a_resume(rig):
    rig.go()
    assert rig.call(SetMode, mode=GateStatus.TAKEOVER, who="operator", reason="").accepted
    rig.until(lambda: rig.status.mode == GateStatus.TAKEOVER, "TAKEOVER")
    count = {arm: len(m) for arm, m in rig.received.items()}
    rig.send(motion())
    rig.until(lambda: rig.status.refused == 1, "the policy's motion to be refused")
    assert rig.status.last_refusal == "The mode is TAKEOVER: the teleoperation source's motions pass."
    assert {arm: len(m) for arm, m in rig.received.items()} == count
    rig.pass_motion(motion(), source="/teleop")
    back = rig.call(SetMode, mode=GateStatus.AUTO, who="operator", reason="")
    assert not back.accepted and "resume" in back.message
    assert rig.call(SetMode, mode=GateStatus.HOLD, who="operator", reason="enough").accepted
    rig.held()
    rig.go()


# -- what the controllers are set to


def test_controllers_of_another_kind_than_described_are_a_cause_until_they_are_set_right():
    """The gate reads it over their parameter services, as `ros2 param get` does."""
    with contextlib.closing(GateRig(wait=False, settings={"open_loop_control": True, "update_rate": 250})) as rig:
        rig.until(lambda: rig.status and sum("update_rate_hz" in cause for cause in rig.status.causes) == 2, "what was read")
        assert sum("'humble'" in cause and "{rule: humble}" in cause for cause in rig.status.causes) == 2
        answer = rig.call(Resume, hold_id=rig.status.hold_id, who="test")
        assert not answer.accepted and "250 Hz, expected 500" in answer.message
        rig.settings = {"interpolate_from_desired_state": True, "update_rate": 500}
        rig.start_controllers()  # set right, and begun anew
        rig.until(lambda: not rig.status.causes, "a gate with nothing in the way")
        rig.go()


def test_controllers_that_agree_or_have_no_parameters_stand_in_no_way():
    for settings in ({"interpolate_from_desired_state": True, "update_rate": 500}, {"gains": 1}, None):
        with contextlib.closing(GateRig(settings=settings)) as rig:
            rig.go()
            rig.pass_motion(motion())


def test_trajectory_replacement_blocks_a_resume():
    with contextlib.closing(GateRig(wait=False, settings={"allow_trajectory_replacement": True})) as rig:
        rig.until(lambda: rig.status and any("allow_trajectory_replacement" in c for c in rig.status.causes), "what was read")
        assert not rig.call(Resume, hold_id=rig.status.hold_id, who="test").accepted
