"""The simulated controllers do what ros2_control's joint_trajectory_controller does with a message."""

import numpy as np
import pytest

from rdvla_ros.sim import SimulationError
from rdvla_ros.sim.controller import JointTrajectoryController, Points

NAMES = ("waist", "elbow", "gripper")
START = np.array([0.1, -0.2, 0.03])


def controller(**options) -> JointTrajectoryController:
    """Updated so often that the period plays no part; what it changes, test_controller_recordings and below hold."""
    return JointTrajectoryController(NAMES, START, **{"update_rate_hz": 1e9, **options})


def points(times=(0.5, 1.0), stamp_s=0.0, names=NAMES, goal=(1.0, 2.0, 0.05), still=True, **fields) -> Points:
    """A ramp to `goal`, at rest at every point unless `still` is False (then without velocities)."""
    n, width = len(times), len(goal)
    positions = [np.array(goal) * (i + 1) / n for i in range(n)]
    velocities = [np.zeros(width)] * n if still else None
    return Points(names, stamp_s, list(times), **{"positions": positions, "velocities": velocities, **fields})


REJECTED = {
    "names_missing": (points(names=NAMES[:2], goal=(1.0, 2.0)), "expected 3 joint names"),
    "names_empty": (Points((), 0.0, [1.0], [[]]), "expected 3 joint names"),
    "points_empty": (Points(NAMES, 0.0, [], []), "no points"),
    "name_unknown": (points(names=("waist", "elbow", "claw")), "'claw'"),
    "name_twice": (points(names=("waist", "elbow", "elbow")), "twice"),
    "moving_at_the_end": (points(velocities=[[0, 0, 0], [0, 1e-3, 0]]), "velocity of the last point"),
    "past": (points(stamp_s=8.0), "ended 1.000 s ago"),
    "times_equal": (points(times=(0.5, 0.5)), "do not increase"),
    "times_decreasing": (points(times=(0.5, 0.4)), "do not increase"),
    "positions_short": (points(positions=[[1, 2, 3], [1, 2]]), "expected 3 positions in point 1, got 2"),
    "positions_left_out": (points(positions=[[], []]), "expected 3 positions in point 0, got 0"),
    "velocities_short": (points(velocities=[[0, 0], [0, 0, 0]]), "expected 3 velocities in point 0, got 2"),
    "accelerations_long": (points(accelerations=[[0] * 4, [0] * 3]), "expected 3 accelerations in point 0, got 4"),
    "not_finite": (points(goal=(1.0, np.nan, 0.0)), "not finite"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_a_message_is_rejected_whole_and_the_motion_goes_on(name):
    message, expected = REJECTED[name]
    arm = controller()
    assert arm.accept(points(times=(1.0, 20.0)), 0.0)
    arm.update(0.0)
    duplicate = controller()
    duplicate.accept(points(times=(1.0, 20.0)), 0.0)
    duplicate.update(0.0)
    assert not arm.accept(message, 10.0)
    assert expected in arm.last_rejection
    assert (arm.accepted, arm.rejected) == (1, 1)
    np.testing.assert_array_equal(arm.update(10.5).position, duplicate.update(10.5).position)


def test_one_point_stamped_now_is_past_on_arrival_and_one_with_time_left_is_not():
    arm = controller()
    assert not arm.accept(points(times=(0.0,), stamp_s=5.0), 5.001)
    assert arm.accept(points(times=(0.1,), stamp_s=5.0), 5.001)


def test_the_end_may_move_where_the_parameter_allows_it():
    arm = controller(allow_nonzero_velocity_at_trajectory_end=True)
    assert arm.accept(points(velocities=[[0, 0, 0], [0.3, 0, 0]]), 0.0)
    arm.update(0.0)
    np.testing.assert_allclose(arm.update(9.0).velocity, [0.3, 0, 0])


def test_joint_order_of_the_message_is_free():
    arm = controller()
    assert arm.accept(points(names=("gripper", "waist", "elbow"), goal=(0.05, 1.0, 2.0)), 0.0)
    arm.update(0.0)
    np.testing.assert_allclose(arm.update(5.0).position, [1.0, 2.0, 0.05])


def test_cubic_between_points_with_velocities():
    """On x(t) = t^3 - t the cubic through values and slopes is the function itself."""
    times = np.array([0.5, 1.1, 2.0])
    x, v = times**3 - times, 3 * times**2 - 1
    velocities = np.repeat(v[:, None], 3, 1)
    arm = controller(allow_nonzero_velocity_at_trajectory_end=True)
    arm.accept(Points(NAMES, 0.0, times, np.repeat(x[:, None], 3, 1), velocities), 0.0)
    arm.update(0.0)
    for t in (0.5, 0.7, 1.05, 1.1, 1.9):
        desired = arm.update(t)
        np.testing.assert_allclose(desired.position, t**3 - t, atol=1e-12)
        np.testing.assert_allclose(desired.velocity, 3 * t**2 - 1, atol=1e-12)
        np.testing.assert_allclose(desired.acceleration, 6 * t, atol=1e-11)


def test_quintic_between_points_with_accelerations():
    """On x(t) = t^5 - 2 t^2 likewise."""
    times = np.array([0.4, 0.9, 1.5])
    columns = (times**5 - 2 * times**2, 5 * times**4 - 4 * times, 20 * times**3 - 4)
    arm = controller(allow_nonzero_velocity_at_trajectory_end=True)
    arm.accept(Points(NAMES, 0.0, times, *(np.repeat(c[:, None], 3, 1) for c in columns)), 0.0)
    arm.update(0.0)
    for t in (0.4, 0.6, 1.2, 1.49):
        desired = arm.update(t)
        np.testing.assert_allclose(desired.position, t**5 - 2 * t**2, atol=1e-11)
        np.testing.assert_allclose(desired.velocity, 5 * t**4 - 4 * t, atol=1e-10)
        np.testing.assert_allclose(desired.acceleration, 20 * t**3 - 4, atol=1e-9)


def test_linear_without_velocities_steps_in_speed_at_each_point():
    arm = controller()
    arm.accept(points(times=(1.0, 2.0), still=False), 0.0)
    arm.update(0.0)
    np.testing.assert_allclose(arm.update(0.5).position, (START + [0.5, 1.0, 0.025]) / 2)
    np.testing.assert_allclose(arm.update(1.5).position, [0.75, 1.5, 0.0375])
    np.testing.assert_allclose(arm.update(1.5).velocity, [0.5, 1.0, 0.025])


def test_the_last_point_is_held_for_ever():
    arm = controller()
    assert arm.holding(0.0)
    arm.accept(points(), 0.0)
    arm.update(0.0)
    assert not arm.holding(0.99)
    assert arm.holding(1.0)
    held = arm.update(1e6)
    np.testing.assert_array_equal(held.position, [1.0, 2.0, 0.05])
    np.testing.assert_array_equal(held.velocity, 0.0)


def test_stamp_zero_begins_at_the_next_update():
    arm = controller()
    arm.accept(points(times=(1.0, 2.0)), 3.0)
    np.testing.assert_allclose(arm.update(3.5).position, START)
    np.testing.assert_allclose(arm.update(4.5).position, [0.5, 1.0, 0.025])


def test_a_first_point_at_once_is_a_step():
    arm = controller()
    arm.accept(points(times=(0.0, 1.0)), 3.0)
    np.testing.assert_allclose(arm.update(3.0).position, [0.5, 1.0, 0.025])


def test_a_future_stamp_drops_the_old_path_at_once_on_jazzy_and_follows_it_on_master():
    moving = Points(NAMES, 0.0, [0.0, 10.0], [START, START + 1.0])  # 0.1 per second
    arms = {rule: controller(rule=rule) for rule in ("jazzy", "master")}
    for arm in arms.values():
        arm.accept(moving, 0.0)
        arm.update(0.0)
        arm.update(2.0)
        arm.accept(Points(NAMES, 4.0, [1.0, 2.0], [START, START]), 2.0)
        arm.update(2.0)
    np.testing.assert_allclose(arms["jazzy"].update(3.5).position, START + 0.1)  # half of the ramp from 0.2 at 2 s to 0 at 5 s
    np.testing.assert_allclose(arms["master"].update(3.5).position, START + 0.35)  # still the old path
    np.testing.assert_allclose(arms["master"].update(4.5).position, START + 0.2)  # half of the bridge from 0.4 at 4 s to 0 at 5 s
    for arm in arms.values():
        np.testing.assert_allclose(arm.update(5.0).position, START)


def test_a_past_stamp_skips_what_has_passed_on_jazzy_and_starts_now_on_master():
    path = Points(NAMES, 1.0, [0.0, 2.0], [START, START + 2.0])
    arms = {rule: controller(rule=rule) for rule in ("jazzy", "master")}
    for arm in arms.values():
        arm.accept(Points(NAMES, 0.0, [0.1, 9.0], [START, START]), 0.0)
        arm.update(0.0)
        arm.update(2.0)
        assert arm.accept(path, 2.0)
    np.testing.assert_allclose(arms["jazzy"].update(2.0).position, START + 1.0)
    np.testing.assert_allclose(arms["master"].update(2.0).position, START)
    np.testing.assert_allclose(arms["master"].update(3.0).position, START + 1.0)


def test_replacing_a_one_point_path_is_the_same_on_master():
    arms = [controller(rule=rule) for rule in ("jazzy", "master")]
    for arm in arms:
        arm.accept(points(times=(4.0,)), 0.0)
        arm.update(0.0)
        arm.update(2.0)
        arm.accept(points(times=(1.0, 2.0), stamp_s=3.0, goal=(0.0, 0.0, 0.03)), 2.0)
        arm.update(2.0)
    for t in (2.5, 3.5, 4.5):
        np.testing.assert_array_equal(arms[0].update(t).position, arms[1].update(t).position)


def test_a_replacement_continues_position_and_velocity_from_the_command():
    arm = controller()
    arm.accept(points(times=(1.0, 2.0)), 0.0)
    arm.update(0.0)
    before = arm.update(1.5)
    arm.accept(points(times=(0.5, 1.0), goal=(0.0, 0.0, 0.03)), 1.5)
    after = arm.update(1.5)
    np.testing.assert_allclose(after.position, before.position)
    np.testing.assert_allclose(after.velocity, before.velocity)
    assert np.abs(before.velocity).max() > 0.1


def test_without_interpolate_from_desired_state_a_path_starts_from_the_measured_state():
    arm = controller(interpolate_from_desired_state=False)
    arm.accept(points(times=(1.0, 2.0)), 0.0)
    with pytest.raises(SimulationError, match="measured"):
        arm.update(0.0)
    measured = (START + 0.3, np.full(3, 0.2))
    desired = arm.update(0.0, measured)
    np.testing.assert_allclose(desired.position, measured[0])
    np.testing.assert_allclose(desired.velocity, measured[1])


def test_a_partial_goal_leaves_the_other_joints_where_they_are():
    arm = controller(allow_partial_joints_goal=True)
    assert arm.accept(points(names=("elbow",), goal=(2.0,)), 0.0)
    arm.update(0.0)
    np.testing.assert_allclose(arm.update(5.0).position, [START[0], 2.0, START[2]])


def test_reset_holds_and_forgets():
    arm = controller()
    arm.accept(points(), 0.0)
    arm.update(0.2)
    arm.reset(START)
    assert arm.holding(0.2)
    np.testing.assert_array_equal(arm.update(0.8).position, START)


def test_a_clock_that_goes_back_does_not_move_the_arm_away():
    arm = controller()
    arm.accept(points(), 10.0)
    arm.update(10.0)
    np.testing.assert_allclose(arm.update(9.0).position, START)


def test_an_unknown_rule_is_refused():
    with pytest.raises(SimulationError, match="humble, jazzy, master"):
        controller(rule="foxy")


@pytest.mark.parametrize(("rule", "ahead", "past"), [("humble", 0.0, 1.0), ("jazzy", 2.0, 1.0), ("master", 2.0, -3.0)])
def test_what_a_path_that_is_replaced_by_itself_costs(rule, ahead, past):
    """1 unit/s; the step of the command at the update that takes the message, in periods of the path, for a first point 100 ms
    ahead and 40 ms past. Master replays what is past: four periods late."""
    for first_s, expected in ((0.1, ahead), (-0.04, past)):
        arm = controller(rule=rule, update_rate_hz=100.0)
        arm.accept(Points(NAMES, 1.0, [0.0, 10.0], [START, START + 10.0]), 0.0)
        for tick in range(200):
            arm.update(0.01 * tick)
        before = arm.command.position
        begin_s = 2.0 + first_s
        arm.accept(Points(NAMES, begin_s, [0.0, 5.0], [START + begin_s - 1.0, START + begin_s + 4.0]), 2.0)
        arm.update(2.0)
        np.testing.assert_allclose((arm.command.position - before) / 0.01, expected, atol=0.2)
