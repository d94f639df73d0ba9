"""A dataset's numbers are the robot's joints: found by name, in its units, within its limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot_cases import JOINTS, cache, ramp, write_set
from policy_cases import robot

from rdvla_ros.learning.config import DataSettings, TrainingError
from rdvla_ros.learning.data.joints import LEAST_MARGIN, RANGE_MARGIN, outside_limits, policy_units

ROWS = 27
ROBOT = robot()
LOWER, UPPER = ROBOT.limit("lower"), ROBOT.limit("upper")
GRIPPERS = np.isin(JOINTS, ROBOT.gripper_joints)


def _within(seed: int = 0, rows: int = ROWS) -> np.ndarray:
    """(N, A) policy units: arms all over their ranges, grippers 0 .. 1."""
    share = np.random.default_rng(seed).uniform(0.0, 1.0, (rows, len(JOINTS)))
    share[0], share[1] = 0.0, 1.0
    return np.where(GRIPPERS, share, LOWER + share * (UPPER - LOWER))


def _set(folder: Path, stored: np.ndarray, **options) -> Path:
    columns = {name: stored.astype(np.float32) for name in ("observation.state", "action")}
    return write_set(folder / "set", columns=columns, **options)


def _degrees(values: np.ndarray) -> np.ndarray:
    return np.where(GRIPPERS, values, np.rad2deg(values))


def _percent(values: np.ndarray) -> np.ndarray:
    return np.where(GRIPPERS, 100.0 * values, values)


def _normalised(values: np.ndarray) -> np.ndarray:
    """LeRobot's RANGE_M100_100 of every joint, grippers 0 .. 100."""
    return np.where(GRIPPERS, 100.0 * values, 200.0 * (values - LOWER) / (UPPER - LOWER) - 100.0)


STORED = {
    "degrees": (_degrees, "joint 'left_waist': expected positions.*-3.14158 .. 3.14158.*Degrees.*data.units to degrees"),
    "-100 .. 100": (_normalised, "'left_waist'.*-100 .. 100 of each joint's range.*calibration"),
    "servo ticks": (
        lambda v: np.where(GRIPPERS, v, np.round(2048 + v * 2048 / np.pi)),
        "'left_waist'.*Servo ticks, it seems",
    ),
    "gripper 0 .. 100": (_percent, r"joint 'left_gripper'.*found 0.021 .. 3.621.*data.gripper_range to \[0, 100\]"),
    "gripper 0 .. 255": (lambda v: np.where(GRIPPERS, 255 * v, v), r"'left_gripper'.*data.gripper_range to \[0, 255\]"),
    "another zero": (lambda v: np.where(GRIPPERS, v, v + 2.0), "'left_waist'.*Another zero"),
    "gripper in metres": (
        lambda v: ROBOT.from_policy(v),
        "gripper 'left_gripper': expected 0 .closed. .. 1 .open., found 0.021 .. 0.057.*data.gripper_units to controller",
    ),
}


@pytest.mark.parametrize("name", STORED)
def test_positions_in_other_units_are_refused_with_the_likely_unit(tmp_path, name):
    """Public sets of SO-100, Koch and ViperX arms store all of these."""
    stored, message = STORED[name]
    with pytest.raises(TrainingError, match=message) as error:
        cache(_set(tmp_path, stored(_within())))
    assert "observation.state" in str(error.value)


def test_expert_chunks_and_actions_are_held_against_the_limits_too(tmp_path):
    columns = {"observation.state": _within().astype(np.float32), "action": _degrees(_within()).astype(np.float32)}
    with pytest.raises(TrainingError, match="'action': joint 'left_waist'.*Degrees"):
        cache(write_set(tmp_path / "set", columns=columns))


READ = {
    "radians": (lambda v: v, {}),
    "degrees": (_degrees, {"units": "degrees"}),
    "gripper 0 .. 100": (_percent, {"gripper_range": (0, 100)}),
    "gripper 255 .. 0": (lambda v: np.where(GRIPPERS, 255 - 255 * v, v), {"gripper_range": (255, 0)}),
    "gripper in metres": (lambda v: ROBOT.from_policy(v), {"gripper_units": "controller"}),
    "degrees, gripper 0 .. 100": (lambda v: _percent(_degrees(v)), {"units": "degrees", "gripper_range": (0, 100)}),
}


@pytest.mark.parametrize("name", READ)
def test_units_that_are_named_are_read(tmp_path, name):
    stored, options = READ[name]
    frames = cache(_set(tmp_path, stored(_within())), **options)
    np.testing.assert_allclose(frames.positions, _within(), atol=2e-5)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 13), st.floats(-0.09, 0.09), st.floats(1.0, 50.0), st.booleans())
def test_only_what_lies_beyond_the_margin_is_refused(seed, joint, inside, beyond, above):
    """Sag and encoder offsets pass, one frame of one joint beyond them is found, by name."""
    values = _within(seed, 8)
    width = UPPER - LOWER
    assert not outside_limits(values, values, ROBOT)
    margin = max(RANGE_MARGIN * width[joint], LEAST_MARGIN)
    end = UPPER[joint] if above else LOWER[joint]
    controller = ROBOT.from_policy(values)
    for offset, expected in ((abs(inside) * width[joint], []), (margin * (1.0 + beyond / 10), [JOINTS[joint]])):
        controller[3, joint] = end + offset if above else end - offset
        moved = ROBOT.to_policy(controller)
        found = outside_limits(moved, moved, ROBOT)
        assert [outside.joint for outside in found] == expected and all(outside.frame == 3 for outside in found)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["radians", "degrees"]), st.floats(-300, 300), st.floats(1.0, 300), st.booleans(), st.integers(0, 99))
def test_units_are_undone_exactly(units, closed, width, turned, seed):
    """policy_units inverts how the set was stored, whatever the gripper's range."""
    opened = closed - width if turned else closed + width
    values = _within(seed, 5)
    stored = np.where(GRIPPERS, closed + values * (opened - closed), np.rad2deg(values) if units == "degrees" else values)
    found = policy_units(stored, DataSettings(units=units, gripper_range=(closed, opened)), ROBOT)
    np.testing.assert_allclose(found, values, atol=1e-4)


def _feature(names: list[str]) -> dict:
    return {"dtype": "float32", "shape": [len(names)], "names": names}


def test_several_state_features_are_put_together_in_the_named_order(tmp_path):
    """One feature per arm, as many recorders of two arms write them."""
    values, names = _within().astype(np.float32), ["waist", "shoulder", "elbow", "roll", "wrist", "rotate", "gripper"]
    arms = {"left": slice(0, 7), "right": slice(7, 14)}
    columns = {f"{kind}.{arm}": values[:, part] for kind in ("observation.state", "action") for arm, part in arms.items()}
    folder = write_set(tmp_path / "set", columns=columns, features={name: _feature(names) for name in columns})
    state, action = ([f"{kind}.{arm}" for arm in ("right", "left")] for kind in ("observation.state", "action"))
    short = dict(zip(JOINTS, names * 2, strict=True))
    with pytest.raises(TrainingError, match="stands 2 times.*as a mapping: right/waist, left/waist"):
        cache(folder, state=state, action=action, joints=short)
    listed = [*JOINTS[7:], *JOINTS[:7]]  # in the order of the features
    np.testing.assert_array_equal(cache(folder, state=state, action=action, joints=listed).positions, values)
    where = {joint: f"{'left' if i < 7 else 'right'}/{short[joint]}" for i, joint in enumerate(JOINTS)}
    np.testing.assert_array_equal(cache(folder, state=state, action=action, joints=where).positions, values)


def test_a_wrong_list_of_state_features_is_named(tmp_path):
    folder = _set(tmp_path, _within())
    with pytest.raises(Exception, match="the dataset has no 'observation.state.left'.*observation.state"):
        cache(folder, state=["observation.state.left"])


def test_actions_with_more_than_the_joints_are_picked_by_name(tmp_path):
    """A base's speed and a torso beside the joints, in any order, with LeRobot's suffix."""
    names = ["base.vel", *(f"{name}.pos" for name in JOINTS[::-1]), "torso.pos", *(f"{name}.vel" for name in JOINTS)]
    values = _within()
    wide = np.full((ROWS, len(names)), 77.0)
    for i, name in enumerate(JOINTS):
        wide[:, names.index(f"{name}.pos")] = values[:, i]
    columns = {"observation.state": values.astype(np.float32), "action": wide.astype(np.float32)}
    folder = write_set(
        tmp_path / "set", columns=columns, features={"observation.state": _feature(JOINTS), "action": _feature(names)}
    )
    frames = cache(folder)
    np.testing.assert_allclose(frames.labels[0, 0], values[0], atol=1e-6)


def test_joints_are_renamed_one_by_one(tmp_path):
    names = [f"j{i}" for i in range(14)]
    folder = _set(tmp_path, ramp(ROWS), names=names)
    with pytest.raises(TrainingError, match="has no joint 'left_waist'"):
        cache(folder)
    frames = cache(folder, joints=dict(zip(JOINTS, names[::-1], strict=True)))
    np.testing.assert_array_equal(frames.positions, ramp(ROWS)[:, ::-1])
    with pytest.raises(TrainingError, match="the robot has no joint 'left_waits'.*Did you mean 'left_waist'"):
        cache(folder, joints={"left_waits": "j0"})


def test_too_few_numbers_and_names_twice_are_refused(tmp_path):
    columns = {name: ramp(ROWS, 7) for name in ("observation.state", "action")}
    with pytest.raises(TrainingError, match="has 7 numbers per frame.*14 joints.*further features"):
        cache(write_set(tmp_path / "few", columns=columns, names=JOINTS[:7]))
    names = [*JOINTS[:13], JOINTS[0]]
    with pytest.raises(TrainingError, match="joint 'left_waist' stands 2 times"):
        cache(_set(tmp_path, _within(), names=names))
