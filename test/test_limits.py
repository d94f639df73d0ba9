"""What may not be sent is refused with one sentence that names the joint, what was expected and what came."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdvla_ros.control.motion.limits import JointLimits, Tolerances, check_continuity, check_trajectory, joint_order
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import TrajectoryError

ROBOT = RobotDescription.load(Path(__file__).parent.parent / "config" / "aloha_sim.yaml")
LIMITS = JointLimits.of_joints(ROBOT.arms[0].joints)
NAMES = LIMITS.names
MIDDLE = (LIMITS.lower + LIMITS.upper) / 2
TIMES_S = np.array([0.1, 0.3, 0.6])


def calm():
    """Three points: a small motion of every joint, at rest at both ends."""
    way = np.array([0.0, 0.5, 1.0])[:, None] * 0.01 * LIMITS.range
    velocities = np.array([0.0, 1.0, 0.0])[:, None] * 0.02 * LIMITS.range
    return {"names": NAMES, "times_s": TIMES_S.copy(), "positions": MIDDLE + way, "velocities": velocities}


def check(values, **options):
    return check_trajectory(values["names"], values["times_s"], values["positions"], values["velocities"], LIMITS, **options)


def test_a_calm_motion_passes_in_any_joint_order():
    assert check(calm()).tolist() == list(range(len(NAMES)))
    shuffled, values = [6, 2, 0, 5, 1, 4, 3], calm()
    values = {
        **values,
        "names": [NAMES[i] for i in shuffled],
        "positions": values["positions"][:, shuffled],
        "velocities": values["velocities"][:, shuffled],
    }
    order = check(values)
    assert [values["names"][i] for i in order] == list(NAMES)


FAULTS = {
    "unknown name": (lambda v: v.update(names=("left_wasit", *NAMES[1:])), ["'left_wasit'", "Did you mean 'left_waist'"]),
    "name twice": (lambda v: v.update(names=(NAMES[1], *NAMES[1:])), ["'left_shoulder'", "2 times"]),
    "name missing": (lambda v: v.update(names=NAMES[:-1]), ["'left_gripper' is missing", "expected 7 joints, got 6"]),
    "no points": (lambda v: v.update(times_s=np.empty(0), positions=np.empty((0, 7))), ["at least 2 points", "got 0"]),
    "one point": (
        lambda v: v.update({k: v[k][-1:] for k in ("times_s", "positions", "velocities")}),
        ["at least 2 points", "got 1"],
    ),
    "positions too narrow": (lambda v: v.update(positions=v["positions"][:, :6]), ["positions", "3 points x 7 joints", "3 x 6"]),
    "no velocities": (lambda v: v.update(velocities=np.empty((0, 7))), ["velocities", "0 x 7"]),
    "nan position": (lambda v: v["positions"].__setitem__((1, 2), np.nan), ["'left_elbow'", "position of point 1 is nan"]),
    "infinite velocity": (lambda v: v["velocities"].__setitem__((0, 3), -np.inf), ["'left_forearm_roll'", "velocity of point 0"]),
    "nan time": (lambda v: v["times_s"].__setitem__(1, np.nan), ["time", "finite"]),
    "time below zero": (lambda v: v["times_s"].__setitem__(0, -0.01), ["first point lies at -0.01 s", "0 or later"]),
    "times equal": (lambda v: v["times_s"].__setitem__(1, 0.1), ["must increase", "point 1"]),
    "milliseconds": (lambda v: v.update(times_s=TIMES_S * 1000), ["600", "at most 60"]),
    "moving end": (lambda v: v["velocities"].__setitem__((2, 0), 1e-3), ["does not end at rest", "'left_waist'", "0.001"]),
    "outside": (lambda v: v["positions"].__setitem__((slice(None), 1), 1.5), ["'left_shoulder'", "1.498", "-1.85 .. 1.257"]),
    "too fast": (
        lambda v: v["positions"].__setitem__((slice(1, 3), 2), MIDDLE[2] + 0.9),
        ["'left_elbow'", "velocity", "at most 2"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_refused_in_one_sentence(fault):
    values = calm()
    spoil, words = FAULTS[fault]
    spoil(values)
    with pytest.raises(TrajectoryError) as error:
        check(values)
    assert all(word in str(error.value) for word in words), error.value


def test_limits_hold_between_the_points_too():
    values = calm()
    values["velocities"][1, 0] = 1.9  # legal itself, but the cubic to the next point swings
    with pytest.raises(TrajectoryError, match="acceleration"):
        check(values)


def test_jerk_is_looked_at_when_asked_for():
    values, low = calm(), replace(LIMITS, jerk=np.full(7, 1e-3))
    arguments = (values["names"], values["times_s"], values["positions"], values["velocities"], low)
    check_trajectory(*arguments)
    with pytest.raises(TrajectoryError, match="jerk"):
        check_trajectory(*arguments, tolerances=Tolerances(jerk=0.0))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_garbage_is_refused_and_never_crashes(seed):
    """Whatever passes is legal when it is sampled densely."""
    rng = np.random.default_rng(seed)
    values, target = calm(), rng.choice(["times_s", "positions", "velocities"])
    flat = values[target].reshape(-1)
    flat[rng.integers(len(flat))] = rng.choice([np.nan, np.inf, -np.inf, 1e308, -1e308, 1e-320, 0.0, -1.0, rng.normal()])
    values["names"] = [str(name) for name in rng.choice(NAMES, 7, replace=bool(rng.integers(2)))]
    with np.errstate(all="ignore"):
        try:
            check(values)
        except TrajectoryError as error:
            assert str(error).endswith((".", "?"))
            return
    assert np.isfinite(values["positions"]).all() and (np.diff(values["times_s"]) > 0).all()


def test_a_first_point_must_be_where_the_motion_being_followed_is():
    rest = np.zeros(7)
    check_continuity(MIDDLE + 0.04 * LIMITS.velocity, rest, MIDDLE, rest, LIMITS)
    with pytest.raises(TrajectoryError, match="'left_elbow' would jump"):
        check_continuity(MIDDLE + 0.2 * (np.arange(7) == 2), rest, MIDDLE, rest, LIMITS)
    with pytest.raises(TrajectoryError, match="'left_waist' would jerk"):
        check_continuity(MIDDLE, 0.8 * (np.arange(7) == 0), MIDDLE, rest, LIMITS)
    with pytest.raises(TrajectoryError):
        check_continuity(np.full(7, np.nan), rest, MIDDLE, rest, LIMITS)


def test_joint_order_is_the_inverse_of_any_permutation():
    rng = np.random.default_rng(0)
    for _ in range(20):
        shuffled = rng.permutation(7)
        names = [NAMES[i] for i in shuffled]
        assert [names[i] for i in joint_order(names, LIMITS)] == list(NAMES)
