"""What the gate lets pass, without ROS: time, place and legality of both arms' motions, and from where it stops."""

from pathlib import Path

import numpy as np
import pytest

from rdvla_ros.control.motion import cubic
from rdvla_ros.control.motion.followed import Present
from rdvla_ros.control.motion.handover import handover
from rdvla_ros.control.motion.limits import JointLimits
from rdvla_ros.control.motion.schedule import Latency, Schedule
from rdvla_ros.control.motion.trajectory import Reference, Trajectory, plan
from rdvla_ros.control.supervision.motion_check import JumpError, LateError, MotionCheck
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import TrajectoryError

ROBOT = RobotDescription.load(Path(__file__).parent.parent / "config" / "aloha_sim.yaml")
LIMITS = JointLimits.of_robot(ROBOT)
MIDDLE = (LIMITS.lower + LIMITS.upper) / 2
NOW_S = 1.8e9  # as large as a ROS time is
ARMS = {arm.name: arm.joint_names for arm in ROBOT.arms}


def motion(start=MIDDLE, change=0.05, velocity=None):
    begin = Reference.at_rest(start) if velocity is None else Reference(start, velocity, np.zeros_like(start))
    rows = start + change * LIMITS.range * np.linspace(0.1, 1.0, 8)[:, None]
    return plan(rows, step_s=0.1, elapsed_s=0.0, horizon=8, start=begin, limits=LIMITS, now=begin)


def parts(trajectory):
    return {arm: trajectory.select(names) for arm, names in ARMS.items()}


@pytest.fixture
def motion_check():
    """Both arms measured in the middle of their range a moment ago."""
    motion_check = MotionCheck(ROBOT)
    for arm, columns in ROBOT.arm_slices.items():
        motion_check.report_measured(arm, MIDDLE[columns], NOW_S - 0.01)
    return motion_check


def test_a_motion_from_where_the_arms_are_passes(motion_check):
    checked = motion_check.check(parts(motion()), NOW_S, NOW_S + 0.005)
    assert set(checked.motions) == set(ARMS)


def test_one_illegal_arm_refuses_both(motion_check):
    both = parts(motion())
    both["right"].positions[2, 3] = np.nan
    with pytest.raises(TrajectoryError, match="right_forearm_roll"):
        motion_check.check(both, NOW_S, NOW_S)


@pytest.mark.parametrize(("age_s", "word"), [(0.21, "0.210 s old"), (-0.06, "future"), (1e9, "old"), (-3600.0, "future")])
def test_a_motion_for_another_time_is_late(motion_check, age_s, word):
    with pytest.raises(LateError, match=word):
        motion_check.check(parts(motion()), NOW_S - age_s, NOW_S)


def test_a_motion_that_would_run_on_for_long_is_refused(motion_check):
    slow = motion()
    long = Trajectory(slow.joint_names, slow.times_s * 3, slow.positions, slow.velocities / 3)
    with pytest.raises(LateError, match="lasts"):  # refused, but no reason to hold
        motion_check.check(parts(long), NOW_S, NOW_S)


def test_nothing_passes_while_an_arm_is_unknown():
    with pytest.raises(JumpError, match="Nothing is known"):
        MotionCheck(ROBOT).check(parts(motion()), NOW_S, NOW_S)


def test_an_old_report_is_no_report(motion_check):
    with pytest.raises(JumpError, match="Nothing is known"):
        motion_check.check(parts(motion()), NOW_S + 5, NOW_S + 5)


def test_a_motion_from_elsewhere_is_a_jump(motion_check):
    with pytest.raises(JumpError, match="would jump"):
        motion_check.check(parts(motion(MIDDLE + 0.1 * LIMITS.range)), NOW_S, NOW_S)


@pytest.mark.parametrize(("first_s", "gap_rad"), [(0.001, 0.095), (0.02, 0.06), (0.1, 0.095)])
def test_a_first_point_that_cannot_be_reached_in_time_is_a_jump(motion_check, first_s, gap_rad):
    legal = motion(MIDDLE + gap_rad * (LIMITS.velocity == 2.0))
    hasty = Trajectory(legal.joint_names, legal.times_s - legal.times_s[0] + first_s, legal.positions, legal.velocities)
    with pytest.raises(JumpError, match="would jump: from where"):
        motion_check.check(parts(hasty), NOW_S, NOW_S + 1e-5)


def test_a_first_point_a_few_milliradians_away_is_none(motion_check):
    motion_check.check(parts(motion(MIDDLE + 0.002 * LIMITS.velocity)), NOW_S, NOW_S + 0.01)


def test_a_motion_with_too_much_jerk_is_illegal(motion_check):
    """Position, velocity and acceleration would do: 0.02 s to three quarters of the acceleration, and the other way."""
    jerky = motion(change=0.0)
    times_s = np.array([0.04, 0.05, 0.07, 0.08])
    positions, velocities = np.tile(jerky.positions[0], (4, 1)), np.zeros((4, len(MIDDLE)))
    speed = 0.005 * 7.5
    positions[1:, 0] += np.array([0.01 * speed / 3, 0.01 * speed / 3 + 0.02 * speed, 0.01 * speed * 2 / 3 + 0.02 * speed])
    velocities[1:3, 0] = speed
    with pytest.raises(TrajectoryError, match="waist.*jerk"):
        motion_check.check(parts(Trajectory(jerky.joint_names, times_s, positions, velocities)), NOW_S, NOW_S)


def test_motions_that_follow_each_other_pass_as_they_are_until_it_is_time_to_leave_the_one_before(motion_check):
    """As the policy plans and sends them: from where the last one will be, along a path that turns, 5 to 80 ms on the way."""
    rng = np.random.default_rng(0)
    schedule, late = Schedule(Latency(0.1), lead_s=0.06, observation_period_s=0.1), 0
    now_s = NOW_S
    report(motion_check, MIDDLE, now_s)
    for number in range(30):
        present = Present(MIDDLE, np.zeros(14), 0.05 * LIMITS.velocity, now_s - 2.0 if number else now_s, commanded=True)
        over = schedule.handover(now_s, present)
        begin = schedule.reference(over.switch_s, present)
        rows = begin.position + np.cumsum(rng.uniform(-0.06, 0.06, (8, 1)) * LIMITS.velocity, axis=0)
        rows = np.clip(rows, LIMITS.lower, LIMITS.upper)
        new = plan(rows, step_s=0.1, elapsed_s=0.0, horizon=8, start=begin, limits=LIMITS, lead_s=over.lead_s)
        new = schedule.message(new, over, present)
        for delay_s in (0.005, 0.03, 0.044):
            passed = motion_check.check(parts(new), over.stamp_s, now_s + delay_s)
            assert passed.stamp_s == over.stamp_s
            for arm, part in parts(new).items():
                np.testing.assert_array_equal(passed.motions[arm].positions, part.positions)
        try:
            motion_check.check(parts(new), over.stamp_s, now_s + 0.08)
        except LateError:
            late += 1
        motion_check.passed(parts(new), over.stamp_s, now_s + 0.044)
        schedule.sent(new, over.stamp_s, 0.5)
        now_s += rng.uniform(0.2, 1.0)
    assert late > 15, "a motion that comes after it should have begun needs more jerk than there is, as good as always"


def test_a_message_that_begins_ahead_is_given_the_running_motion_before_it(motion_check):
    """What a teleoperation source sends: no controller makes a step of it then."""
    report(motion_check, MIDDLE, NOW_S)
    first = motion(change=0.1)
    motion_check.passed(parts(first), NOW_S)
    at_s = NOW_S + 0.4
    start = first.at(0.4 + 0.06)
    new = motion(start.position, velocity=start.velocity)  # its first point comes 40 ms after its stamp
    out = motion_check.check(parts(new), at_s + 0.02, at_s)
    for arm, names in ARMS.items():
        part = out.motions[arm]
        assert out.stamp_s + part.times_s[0] == pytest.approx(at_s - 0.04, abs=0.002)
        for when_s in np.linspace(-0.03, 0.02, 11):
            expected = first.select(names).at(0.4 + when_s)
            np.testing.assert_allclose(part.at(at_s + when_s - out.stamp_s).position, expected.position, atol=1e-6)


@pytest.mark.parametrize("off_s", [0.0, 0.0005, 0.001, 0.002])
def test_the_way_to_a_motion_that_begins_a_little_aside_is_legal(motion_check, off_s):
    """Two nodes do not know the arms' state to the last digit. off_s: what the joints' largest speed covers in this time."""
    report(motion_check, MIDDLE, NOW_S)
    aside = motion(MIDDLE + off_s * LIMITS.velocity)
    out = motion_check.check(parts(aside), NOW_S, NOW_S)
    for arm, part in out.motions.items():
        peaks = cubic.peaks(part.times_s, part.positions, part.velocities)
        for what in ("velocity", "acceleration", "jerk"):
            assert (peaks[what] <= 1.05 * getattr(motion_check.limits[arm], what) + 1e-9).all(), what


def test_the_next_motion_must_leave_the_one_that_passed(motion_check):
    first = motion()
    motion_check.passed(parts(first), NOW_S)
    start = first.at(0.3 + 0.04)
    motion_check.check(parts(motion(start.position, velocity=start.velocity)), NOW_S + 0.3, NOW_S + 0.3)
    with pytest.raises(JumpError):
        motion_check.check(parts(motion(MIDDLE)), NOW_S + 0.5, NOW_S + 0.5)


def test_where_only_the_joints_are_heard_the_controller_goes_to_the_next_point_by_itself(motion_check):
    """120 ms on the way: its first points have passed, and the arms rest where they are measured."""
    out = motion_check.check(parts(motion(change=0.002)), NOW_S - 0.12, NOW_S)
    assert all(out.stamp_s + part.times_s[0] > NOW_S + 0.01 for part in out.motions.values())
    with pytest.raises(JumpError):
        motion_check.check(parts(motion(change=0.2)), NOW_S - 0.19, NOW_S)


def test_a_motion_that_comes_after_it_should_have_begun_is_late_or_elsewhere(motion_check):
    report(motion_check, MIDDLE, NOW_S)
    with pytest.raises(LateError, match="should have left"):
        motion_check.check(parts(motion(change=0.03)), NOW_S - 0.12, NOW_S)
    with pytest.raises(JumpError):
        motion_check.check(parts(motion(MIDDLE + 0.1 * LIMITS.range)), NOW_S - 0.12, NOW_S)


def test_a_stop_begins_on_the_motion_that_is_followed_and_rests_in_half_a_second(motion_check):
    first = motion(change=0.2)
    motion_check.passed(parts(first), NOW_S)
    stop = motion_check.stop(NOW_S + 0.4, 0.02)
    for arm, names in ARMS.items():
        expected = first.select(names).at(0.42)
        held = stop.motions[arm]
        at_s = NOW_S + 0.42 - stop.stamp_s
        np.testing.assert_allclose(held.at(at_s).position, expected.position, atol=1e-6)
        np.testing.assert_allclose(held.at(at_s).velocity, expected.velocity, atol=1e-6)
        assert np.abs(expected.velocity).max() > 0.1 and stop.stamp_s + held.duration_s <= NOW_S + 0.4 + 0.52
    motion_check.check(stop.motions, stop.stamp_s, NOW_S + 0.4)  # it is itself a legal motion


def test_without_any_state_there_is_no_stop_to_send():
    assert MotionCheck(ROBOT).stop(NOW_S, 0.02) is None


def report(motion_check, position, at_s, velocity=None):
    for arm, columns in ROBOT.arm_slices.items():
        speed = np.zeros(7) if velocity is None else velocity[columns]
        motion_check.report_controller(arm, Reference(position[columns], speed, np.zeros(7)), at_s)


def measure(motion_check, position, at_s):
    for arm, columns in ROBOT.arm_slices.items():
        motion_check.report_measured(arm, position[columns], at_s)


def test_a_controllers_report_counts_more_than_the_measured_positions(motion_check):
    commanded = MIDDLE + 0.1 * LIMITS.range
    report(motion_check, commanded, NOW_S)
    np.testing.assert_array_equal(motion_check.reference("left", NOW_S).position, commanded[:7])


def test_a_motion_counts_more_than_a_report_from_before_it_began(motion_check):
    motion_check.passed(parts(motion()), NOW_S)
    report(motion_check, MIDDLE + 0.1 * LIMITS.range, NOW_S + 0.03)
    np.testing.assert_allclose(motion_check.reference("left", NOW_S + 0.04).position, MIDDLE[:7], atol=1e-9)


def test_a_controller_that_follows_the_motion_a_little_late_is_no_contradiction(motion_check):
    first = motion(change=0.2)
    motion_check.passed(parts(first), NOW_S)
    late = first.at(0.47)
    report(motion_check, late.position, NOW_S + 0.5, late.velocity)
    np.testing.assert_allclose(motion_check.reference("left", NOW_S + 0.52).position, first.at(0.52).position[:7], atol=1e-6)


@pytest.mark.parametrize("tell", [report, measure])
def test_a_stop_begins_where_the_arms_are_when_they_did_not_follow(motion_check, tell):
    """The controllers never took the motion: going to where it would be now would be the jump that a hold must prevent."""
    motion_check.passed(parts(motion(change=0.2)), NOW_S)
    tell(motion_check, MIDDLE, NOW_S + 0.7)
    stop = motion_check.stop(NOW_S + 0.71, 0.02)
    for arm, columns in ROBOT.arm_slices.items():
        held = stop.motions[arm]
        moves = ~np.isin(held.joint_names, ROBOT.gripper_joints)  # nor do measured grippers follow, but they may not
        np.testing.assert_allclose(held.positions[:, moves] - MIDDLE[columns][moves], 0.0, atol=1e-9)


def test_nothing_repeats_a_motion_that_the_controller_has_left(motion_check):
    """It holds since its tolerance was exceeded, say: 80 ms of way from where it was sent. To repeat that would be a step."""
    first = motion(change=0.15)
    motion_check.passed(parts(first), NOW_S)
    stays = first.at(0.42).position
    report(motion_check, stays, NOW_S + 0.5)
    over = handover(NOW_S + 0.51, 0.06, (NOW_S + first.times_s).tolist())
    start = first.at(0.57)
    new = plan(start.position + np.zeros((8, 1)), step_s=0.1, elapsed_s=0.0, horizon=8, start=start, limits=LIMITS, lead_s=0.06)
    new = over.message(new, [first.at(round(at_s - NOW_S, 6)) for at_s in over.history_s])
    with pytest.raises(JumpError):
        motion_check.check(parts(new), over.stamp_s, NOW_S + 0.515)
    stop = motion_check.stop(NOW_S + 0.51, 0.02)
    for arm, columns in ROBOT.arm_slices.items():
        np.testing.assert_allclose(stop.motions[arm].positions - stays[columns], 0.0, atol=1e-9)


def test_measured_joints_that_lag_are_no_contradiction_nor_is_a_gripper_that_holds_something(motion_check):
    first = motion(change=0.1)
    motion_check.passed(parts(first), NOW_S)
    lagging = first.at(0.35).position
    lagging[np.isin(first.joint_names, ROBOT.gripper_joints)] = 0.021
    measure(motion_check, lagging, NOW_S + 0.5)
    np.testing.assert_allclose(motion_check.reference("right", NOW_S + 0.52).position, first.at(0.52).position[7:], atol=1e-6)


def test_a_hold_keeps_the_grip_where_only_the_joints_are_heard(motion_check):
    """What holds an object is measured far from where it was sent; to command the measured place would let it fall."""
    sent = motion(change=-0.3)
    out = motion_check.check(parts(sent), NOW_S, NOW_S)
    motion_check.passed(out.motions, out.stamp_s, NOW_S)
    later_s = NOW_S + sent.duration_s + 0.5
    grippers = np.isin(LIMITS.names, ROBOT.gripper_joints)
    aside = sent.positions[-1] + np.where(grippers, 0.5, 0.05) * LIMITS.range  # an arm was pushed too
    for forgotten in (False, True):
        for arm, columns in ROBOT.arm_slices.items():
            motion_check.report_measured(arm, aside[columns], later_s)
        stop = motion_check.stop(later_s, 0.02)
        for arm, columns in ROBOT.arm_slices.items():
            first, hand = stop.motions[arm].positions[0], grippers[columns]
            np.testing.assert_allclose(first[hand], sent.positions[-1][columns][hand], atol=1e-9)
            np.testing.assert_allclose(first[~hand], aside[columns][~hand], atol=1e-9)
        if not forgotten:
            motion_check.forget()


def test_a_hold_of_arms_of_which_only_joints_are_heard_begins_with_their_speed(motion_check):
    motion_check.forget(reports=True)
    assert motion_check.stop(NOW_S, 0.02) is None, "nothing is known after a jump of the clock"
    speed = 0.5 * LIMITS.velocity
    for after_s in np.arange(0.0, 0.1, 0.01):
        for arm, columns in ROBOT.arm_slices.items():
            motion_check.report_measured(arm, (MIDDLE + after_s * speed * 0.5)[columns], NOW_S + after_s)
    stop = motion_check.stop(NOW_S + 0.09, 0.02)
    for arm, columns in ROBOT.arm_slices.items():
        np.testing.assert_allclose(stop.motions[arm].velocities[0], 0.5 * speed[columns], rtol=1e-3)
        assert (stop.motions[arm].positions[0] > (MIDDLE + 0.09 * 0.5 * speed)[columns]).all()


def test_a_report_from_the_future_alone_is_nothing_to_start_from():
    motion_check = MotionCheck(ROBOT)
    for arm, columns in ROBOT.arm_slices.items():
        motion_check.report_controller(arm, Reference.at_rest(MIDDLE[columns]), NOW_S + 0.52)
    with pytest.raises(JumpError, match="Nothing is known"):
        motion_check.check(parts(motion()), NOW_S, NOW_S)


def test_a_last_velocity_that_is_nearly_zero_goes_out_as_zero(motion_check):
    nearly = motion()
    nearly.velocities[-1] = 9e-8
    assert not any(part.velocities[-1].any() for part in motion_check.check(parts(nearly), NOW_S, NOW_S).motions.values())
