"""Laws of the motions that go on the wire: continuous, inside the limits, faithful to the chunk, at rest at the end."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdvla_ros.control.motion import cubic
from rdvla_ros.control.motion.limits import JointLimits, Tolerances, check_trajectory
from rdvla_ros.control.motion.stop import Onward, stop
from rdvla_ros.control.motion.trajectory import LONGEST_STOP_S, PlanOptions, Reference, Trajectory, plan
from rdvla_ros.control.supervision.motion_check import MotionCheckOptions
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import TrajectoryError

ROBOT = RobotDescription.load(Path(__file__).parent.parent / "config" / "aloha_sim.yaml")
LIMITS = JointLimits.of_robot(ROBOT)
MIDDLE = (LIMITS.lower + LIMITS.upper) / 2
ARM = np.array([name not in ROBOT.gripper_joints for name in ROBOT.joint_names])
OPTIONS = PlanOptions(may_lag=ROBOT.gripper_joints)
STEP_S, LEAD_S = 0.1, 0.04
JERK = Tolerances(velocity=0.0, acceleration=0.0, jerk=1e-3)  # the plan keeps a reserve, so there is nothing to tolerate
seeds = st.integers(0, 2**32 - 1)


def line(speed=0.3, rows=8, start=MIDDLE):
    """Rows of all arm joints at `speed` rad/s from the start; grippers stay."""
    return start + speed * STEP_S * (np.arange(rows) + 1)[:, None] * ARM


def plan_(targets, **changes):
    values = {"step_s": STEP_S, "elapsed_s": 0.0, "horizon": 8, "limits": LIMITS, "lead_s": LEAD_S, "options": OPTIONS}
    return plan(targets, **{**values, "start": Reference.at_rest(MIDDLE), **changes})


def at_500_hz(trajectory):
    return trajectory.sample(np.arange(trajectory.times_s[0], trajectory.duration_s + 0.01, 0.002))


def assert_legal(trajectory):
    """By the exact extremes, and again by what a controller at 500 Hz puts out."""
    check_trajectory(
        trajectory.joint_names, trajectory.times_s, trajectory.positions, trajectory.velocities, LIMITS, tolerances=JERK
    )
    position, velocity, acceleration = at_500_hz(trajectory)
    slack = 1e-6 + 0.02 * LIMITS.range  # as check_trajectory: a measured gripper rests a little outside
    assert ((position >= LIMITS.lower - slack) & (position <= LIMITS.upper + slack)).all()
    assert (np.abs(velocity) <= LIMITS.velocity * (1 + 1e-6)).all()
    assert (np.abs(acceleration) <= LIMITS.acceleration * (1 + 1e-6)).all()
    assert (np.abs(np.diff(acceleration, axis=0)) <= LIMITS.jerk * 0.002 * 1.01 + 1e-9).all()
    assert not velocity[-1].any()


def test_a_motion_longer_than_the_gate_passes_is_not_planned():
    """Rows that need twice their time: 0.8 s and a stop become more than 1.7 s, which is too long here."""
    waist = np.array([name.endswith("waist") for name in LIMITS.names])
    far = MIDDLE + np.arange(1, 9)[:, None] * 0.12 * LIMITS.velocity * waist
    assert 1.7 < plan_(far).duration_s < OPTIONS.longest_s
    with pytest.raises(TrajectoryError, match="horizon"):
        plan_(far, options=replace(OPTIONS, longest_s=1.7))
    assert OPTIONS.longest_s == MotionCheckOptions().longest_s


@st.composite
def chunks(draw):
    """A chunk from calm to wild, and a legal state from which its motion begins."""
    rng = np.random.default_rng(draw(seeds))
    wildness = draw(st.sampled_from([0.0, 0.01, 0.03, 0.1]))
    slope = rng.uniform(-0.7, 0.7, len(MIDDLE)) * LIMITS.velocity
    centre = LIMITS.lower + rng.uniform(0.1, 0.9, len(MIDDLE)) * LIMITS.range
    rows = (np.arange(8) + 1)[:, None] * STEP_S
    targets = LIMITS.clip(centre + slope * rows + wildness * rng.standard_normal((8, len(MIDDLE))) * LIMITS.velocity)
    elapsed_s = rng.uniform(0.0, 0.35)
    start = Reference(
        LIMITS.clip(centre + slope * (elapsed_s + LEAD_S) + wildness * rng.standard_normal(len(MIDDLE)) * LIMITS.velocity),
        slope * rng.uniform(0.0, 1.0, len(MIDDLE)),
        rng.uniform(-0.3, 0.3, len(MIDDLE)) * LIMITS.acceleration,
    )
    return targets, {"elapsed_s": elapsed_s, "start": start, "horizon": int(rng.integers(1, 9))}


@settings(max_examples=150, deadline=None)
@given(chunks())
def test_whatever_is_planned_is_legal_begins_where_it_should_and_ends_at_rest(chunk):
    targets, values = chunk
    try:
        trajectory = plan_(targets, **values)
    except TrajectoryError:
        return  # refusing is allowed; how often is judged below
    assert_legal(trajectory)
    assert trajectory.times_s[0] == pytest.approx(LEAD_S)
    np.testing.assert_allclose(trajectory.positions[0], values["start"].position, atol=1e-9)
    np.testing.assert_allclose(trajectory.velocities[0], values["start"].velocity, atol=1e-9)
    _, _, acceleration = trajectory.sample(trajectory.times_s[:1])
    np.testing.assert_allclose(acceleration[0], values["start"].acceleration, atol=1e-4)


def test_calm_chunks_are_never_refused_and_never_slowed():
    for seed in range(100):
        rng = np.random.default_rng(seed)
        slope = rng.uniform(-0.4, 0.4, len(MIDDLE)) * LIMITS.velocity
        slope[~ARM] = 0.0
        elapsed_s, horizon = rng.uniform(0.0, 0.3), int(rng.integers(1, 9))
        targets = MIDDLE + slope * (np.arange(8) + 1)[:, None] * STEP_S + 0.003 * rng.standard_normal((8, 1)) * ARM
        start = Reference(MIDDLE + slope * (elapsed_s + LEAD_S), slope, np.zeros_like(slope))
        trajectory = plan_(targets, elapsed_s=elapsed_s, horizon=horizon, start=start)
        due = [d for i in range(8) if (d := (i + 1) * STEP_S - elapsed_s) >= LEAD_S + STEP_S / 2]
        assert trajectory.duration_s == pytest.approx(due[min(horizon, len(due)) - 1] + OPTIONS.stop_s, abs=1e-5)


def test_the_executed_rows_are_met_at_their_times():
    slope = 0.5 * ARM
    start = Reference(MIDDLE, slope, np.zeros_like(slope))
    targets = MIDDLE + slope * ((np.arange(8) + 1) * STEP_S - LEAD_S)[:, None]
    trajectory = plan_(targets, start=start, horizon=5)
    position, velocity, _ = trajectory.sample((np.arange(5) + 1) * STEP_S)
    np.testing.assert_allclose(position, targets[:5], atol=1e-3)
    np.testing.assert_allclose(velocity, np.broadcast_to(slope, velocity.shape), atol=0.03)


def test_rows_that_have_passed_are_dropped():
    late, early = line(), line()
    late[:3] = MIDDLE - 0.5 * ARM  # due at 0.1, 0.2, 0.3 s; the motion begins 0.25 s after the observation
    start = Reference(early[2], 0.3 * ARM, np.zeros(len(MIDDLE)))
    np.testing.assert_array_equal(
        plan_(late, elapsed_s=0.28, start=start).positions, plan_(early, elapsed_s=0.28, start=start).positions
    )


def test_the_stop_goes_on_along_the_later_rows():
    trajectory = plan_(line(0.5), start=Reference(MIDDLE + 0.02 * ARM, 0.5 * ARM, np.zeros(len(MIDDLE))), horizon=4)
    end, last_row = trajectory.positions[-1][ARM], line(0.5)[3][ARM]
    assert (end > last_row + 0.03).all() and (end < line(0.5)[7][ARM]).all()
    _, velocity, _ = at_500_hz(trajectory)
    assert velocity[:, ARM].min() > -0.02  # no swing back


def test_a_new_motion_joins_the_running_one_without_a_step_in_position_velocity_or_acceleration():
    first = plan_(line(0.5), horizon=8)
    begun_s = 0.3
    now, start = first.at(begun_s), first.at(begun_s + LEAD_S)
    second = plan_(line(0.7), elapsed_s=begun_s, start=start, now=now, horizon=3)
    for new, old in ((second.at(LEAD_S), start), (second.at(0.0), now)):
        np.testing.assert_allclose(new.position, old.position, atol=1e-9)
        np.testing.assert_allclose(new.velocity, old.velocity, atol=1e-9)
    np.testing.assert_allclose(second.at(LEAD_S).acceleration, start.acceleration, atol=1e-4)


def test_a_chunk_that_is_too_fast_is_spread_over_more_time_and_all_joints_wait_for_the_slowest():
    targets = line(0.3)
    targets[3:, 0] += 0.5  # one joint leaps by 0.5 rad within a row; its limit is 2 rad/s
    trajectory = plan_(targets)
    assert trajectory.duration_s > 0.8 + OPTIONS.stop_s + 0.1
    gone = (trajectory.positions - MIDDLE)[:, ARM]
    others = np.delete(gone, 0, axis=1)
    np.testing.assert_allclose(others, others[:, :1].repeat(others.shape[1], axis=1), atol=0.02)
    assert np.abs(trajectory.at(trajectory.duration_s - OPTIONS.stop_s).position[0] - targets[-1, 0]) < 0.02
    assert_legal(trajectory)


def test_nobody_waits_for_a_gripper():
    targets = line(0.3, start=replace_grippers(MIDDLE, 0.057))
    targets[2:, ~ARM] = 0.021  # 36 mm at once; the limit is 0.1 m/s
    trajectory = plan_(targets, start=Reference.at_rest(replace_grippers(MIDDLE, 0.057)))
    assert trajectory.duration_s == pytest.approx(0.8 + OPTIONS.stop_s)
    np.testing.assert_allclose(trajectory.positions[-1, ~ARM], 0.021, atol=5e-4)


def replace_grippers(positions, value):
    return np.where(ARM, positions, value)


def test_a_row_a_little_outside_the_limits_is_moved_onto_the_limit():
    targets = line(0.0)
    targets[:, ~ARM] = LIMITS.upper[~ARM] + 0.05 * LIMITS.range[~ARM]
    assert plan_(targets).positions[:, ~ARM].max() <= LIMITS.upper[~ARM].max() + 1e-6


def test_rows_that_are_not_executed_may_lie_far_outside():
    targets = line()
    targets[6:, 8] = 3.0
    assert plan_(targets, horizon=4).positions[:, 8].max() <= LIMITS.upper[8] + 1e-6
    with pytest.raises(TrajectoryError, match="executed row 6"):
        plan_(targets, horizon=7)


def spoiled(row, column, value):
    targets = line()
    targets[row, column] = value
    return targets


@pytest.mark.parametrize(
    ("targets", "values", "words"),
    [
        (spoiled(7, 2, np.nan), {}, ["left_elbow", "row 7", "finite"]),
        (spoiled(0, 1, -np.inf), {}, ["left_shoulder", "row 0"]),
        (spoiled(4, 8, 3.0), {}, ["right_shoulder", "row 4", "expected within -1.85 .. 1.257"]),
        (line()[:, :13], {}, ["14 joints", "(8, 13)"]),
        (line()[:0], {}, ["14 joints"]),
        (line(), {"horizon": 0}, ["Nothing", "horizon 0"]),
        (line(), {"elapsed_s": 0.75}, ["Nothing", "0.750 s"]),
        (line(start=MIDDLE + 1.2 * ARM), {}, ["left_waist", "begins at 1.23", "apart"]),
    ],
)
def test_what_cannot_be_used_is_refused_with_joint_expected_and_got(targets, values, words):
    with pytest.raises(TrajectoryError) as error:
        plan_(targets, **values)
    assert all(word in str(error.value) for word in words), error.value


def test_what_no_stretching_makes_legal_is_refused():
    rng = np.random.default_rng(0)
    wild = MIDDLE + rng.choice([-0.5, 0.5], (8, 1)) * ARM
    with pytest.raises(TrajectoryError, match="limits allow"):
        plan_(wild, start=Reference.at_rest(wild[0]), options=replace(OPTIONS, longest_stretch=1.5))


def test_arms_at_rest_that_begin_late_arrive_late_at_the_speed_of_the_chunk():
    """Rows dropped for latency leave a jump that the arms cannot make; slowing down the whole chunk for it would take seconds."""
    ramp = MIDDLE + 0.1 * np.arange(1, 17)[:, None] * 0.8 * ARM
    late = plan_(ramp, start=Reference.at_rest(MIDDLE), elapsed_s=0.3, horizon=14)
    middle = late.sample(np.array([1.1]))[1][0]
    assert np.allclose(middle[ARM], 0.8, atol=0.05)
    assert late.duration_s <= 1.3 + 0.3 + LONGEST_STOP_S + 1e-9  # the last row is due after 1.3 s, and comes 0.3 s later


def test_a_stop_longer_than_half_a_second_is_no_option():
    with pytest.raises(TrajectoryError, match="stop_s"):
        PlanOptions(stop_s=0.6)


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_a_joint_that_rests_on_the_end_of_its_range_can_begin(seed):
    """Wide joints with little acceleration too: they cannot leave the end of their range within one segment."""
    rng = np.random.default_rng(seed)
    names = ("turn", "lift", "finger")
    span = rng.choice([0.05, 0.8, 6.0], 3)
    limits = JointLimits(names, np.zeros(3), span, rng.uniform(0.2, 2.0, 3) * np.maximum(span, 0.3),
                         rng.choice([0.3, 2.0, 10.0], 3) * np.maximum(span, 0.3), 200.0 * np.maximum(span, 0.3))  # fmt: skip
    ends = rng.choice([0.0, 0.0005, 1.0, 0.9995, -0.01, 1.01, 0.5], 3)
    begin = ends * span
    inward = np.where(ends < 0.5, 1.0, -1.0) * 0.02 * limits.velocity
    moves = rng.choice([0.0, 1.0], 3)
    rows = begin + moves * inward * (np.arange(8) + 1)[:, None] * 0.1
    options = PlanOptions(may_lag=("finger",))
    motion = plan(rows, step_s=0.1, elapsed_s=0.0, horizon=8, start=Reference.at_rest(begin), limits=limits, options=options)
    position, *_ = motion.sample(np.arange(motion.times_s[0], motion.duration_s, 0.001))
    slack = 1.1e-5 * span
    assert (position >= np.minimum(0.0, begin) - slack).all() and (position <= np.maximum(span, begin) + slack).all()


# -- stop


@settings(max_examples=150, deadline=None)
@given(seeds)
def test_a_stop_from_any_legal_state_is_legal_short_and_common_to_all_joints(seed):
    rng = np.random.default_rng(seed)
    velocity = rng.uniform(-1, 1, len(MIDDLE)) * LIMITS.velocity
    acceleration = rng.uniform(-0.5, 0.5, len(MIDDLE)) * LIMITS.acceleration
    wide = replace(LIMITS, lower=LIMITS.lower - 10, upper=LIMITS.upper + 10)  # positions are the plan's business
    start = Reference(MIDDLE, velocity, acceleration)
    trajectory = stop(start, limits=wide)
    check_trajectory(
        wide.names,
        trajectory.times_s,
        trajectory.positions,
        trajectory.velocities,
        wide,
        tolerances=Tolerances(velocity=0.3, acceleration=1e-3, jerk=1e-3),  # an accelerating start first gains speed
    )
    assert trajectory.duration_s - trajectory.times_s[0] <= LONGEST_STOP_S + 1e-9
    np.testing.assert_allclose(trajectory.at(trajectory.times_s[0]).acceleration, acceleration, atol=1e-5)


def test_a_joint_that_turns_at_the_end_of_its_range_follows_its_motion_until_it_can_rest_inside():
    span = replace(LIMITS, lower=MIDDLE - 0.05, upper=MIDDLE + 0.05)
    turn = -0.999 * LIMITS.acceleration  # braking, through rest at 0.1 mm from the end, and back
    begin_s, end_s = -0.06, 0.1
    times_s = np.array([begin_s, end_s])
    motion = Trajectory(
        LIMITS.names,
        times_s - begin_s,
        span.upper - 1e-4 + turn * times_s[:, None] ** 2 / 2,
        turn * times_s[:, None],
    )
    start, onward = motion.at(0.0), Onward(motion.at, motion.times_s)
    reached = [stop(start, limits=span, onward=way).sample(np.arange(0.0, 0.6, 0.001))[0].max(axis=0) for way in (None, onward)]
    assert (reached[0] > span.upper + 1e-5)[ARM].all(), "at once they cannot: the test would show nothing"
    assert (reached[1] <= span.upper + 1e-9).all()
    stopped = stop(start, limits=span, onward=onward)
    exact = Tolerances(position=1e-9, velocity=1e-9, acceleration=1e-6, jerk=1e-3)
    check_trajectory(span.names, stopped.times_s, stopped.positions, stopped.velocities, span, tolerances=exact)
    assert not stopped.velocities[-1].any()


def test_arms_slow_down_along_their_path():
    velocity = np.linspace(-1.0, 1.0, len(MIDDLE)) * 0.09
    trajectory = stop(Reference(MIDDLE, velocity, np.zeros_like(velocity)), limits=LIMITS)
    _, v, _ = at_500_hz(trajectory)
    share = v @ velocity / (velocity @ velocity)
    np.testing.assert_allclose(v, share[:, None] * velocity, atol=1e-9)
    assert (np.diff(share) <= 1e-12).all() and share[0] == pytest.approx(1.0) and share[-1] == 0.0


def test_a_stop_takes_little_longer_than_the_limits_need():
    speed = 1.0 * ARM
    trajectory = stop(Reference(MIDDLE, speed, np.zeros_like(speed)), limits=LIMITS, lead_s=0.02)
    least = 1.0 / 10.0 + 10.0 / 500.0  # v / a and a / jerk
    rests_s = trajectory.times_s[np.flatnonzero(~trajectory.velocities.any(axis=1))[0]]
    assert rests_s - 0.02 <= least + 0.011


def test_a_resting_start_stays_where_it_is():
    trajectory = stop(Reference.at_rest(MIDDLE), limits=LIMITS)
    assert len(trajectory.times_s) >= 2 and (trajectory.positions == MIDDLE).all() and not trajectory.velocities.any()


def test_a_stop_is_taken_also_by_a_controller_that_hears_of_it_late():
    """A message whose last point has passed is rejected whole, and the arms would go on."""
    speed = 0.1 * ARM
    for start in (Reference.at_rest(MIDDLE), Reference(MIDDLE, speed, np.zeros_like(speed))):
        trajectory = stop(start, limits=LIMITS, lead_s=0.02)
        assert trajectory.duration_s == pytest.approx(0.02 + LONGEST_STOP_S)
        assert not trajectory.velocities[-2:].any() and (trajectory.positions[-2] == trajectory.positions[-1]).all()


# -- sampling


def test_samples_agree_with_finite_differences():
    trajectory = plan_(line(0.5))
    times_s = np.arange(0.05, trajectory.duration_s - 0.01, 0.0131)
    position, velocity, acceleration = trajectory.sample(times_s)
    ahead, faster, _ = trajectory.sample(times_s + 1e-6)
    np.testing.assert_allclose((ahead - position) / 1e-6, velocity, atol=1e-4)
    np.testing.assert_allclose((faster - velocity) / 1e-6, acceleration, atol=2e-3)


def test_after_the_end_the_last_point_at_rest_and_before_the_start_the_state_before():
    now = Reference(MIDDLE - 0.02, np.full(14, 0.5), np.zeros(14))
    trajectory = plan_(line(0.5), start=Reference(MIDDLE, np.full(14, 0.05), np.zeros(14)), now=now)
    end = trajectory.at(100.0)
    assert (end.position == trajectory.positions[-1]).all() and not end.velocity.any() and not end.acceleration.any()
    np.testing.assert_array_equal(trajectory.at(0.0).position, now.position)
    np.testing.assert_array_equal(trajectory.at(-1.0).position, now.position)


def test_selecting_the_arms_splits_the_motion_without_changing_it():
    trajectory = plan_(line(0.5), now=Reference.at_rest(MIDDLE))
    parts = [trajectory.select(arm.joint_names) for arm in ROBOT.arms]
    for time_s in (0.0, 0.02, 0.33, 5.0):
        joined = np.concatenate([part.at(time_s).position for part in parts])
        np.testing.assert_array_equal(joined, trajectory.at(time_s).position)


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_the_exact_extremes_are_those_of_dense_sampling(seed):
    rng = np.random.default_rng(seed)
    times_s = np.cumsum(rng.uniform(0.05, 0.3, 6))
    positions, velocities = rng.standard_normal((6, 3)), rng.standard_normal((6, 3)) * 5
    peaks = cubic.peaks(times_s, positions, velocities)
    q, v, a = Trajectory(("a", "b", "c"), times_s, positions, velocities).sample(np.linspace(times_s[0], times_s[-1], 20001)[:-1])
    for name, sampled in (("velocity", np.abs(v)), ("acceleration", np.abs(a)), ("upper", q), ("lower", -q)):
        exact = -peaks[name] if name == "lower" else peaks[name]
        assert (exact >= sampled.max(axis=0) - 1e-9).all()
        np.testing.assert_allclose(exact, sampled.max(axis=0), rtol=5e-3, atol=5e-3)
