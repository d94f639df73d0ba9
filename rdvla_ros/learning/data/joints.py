"""A dataset's numbers as the robot's joints: taken by name, brought to policy units, held against the robot's limits.

Many sets are recorded in degrees, in LeRobot's -100 .. 100, in servo ticks, or with grippers of 0 .. 100. Scaling to -1 .. 1
would hide that: the policy would train without a word, and move the arms by other amounts than it has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rdvla_ros.learning.config import DataSettings, TrainingError
from rdvla_ros.learning.data.lerobot import INFO
from rdvla_ros.learning.data.lerobot.reader import LeRobotDataset
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import nearest_names

# The same as for measured positions on the robot (nodes/common/conversions.py): sag, encoder offsets; degrees lie further out.
RANGE_MARGIN = 0.1  # of a joint's range
LEAST_MARGIN = 0.05  # [rad or m]
MOST_RADIANS = 7.0  # a little over a turn: what goes further was hardly meant as radians
SMALL_SPAN = 0.3  # [m or rad] of a gripper: its controller's positions cannot be taken for a share of its opening
POSITION_SUFFIX = ".pos"  # LeRobot names a motor's position so
NAMES_ADVICE = "List the joints in the dataset's order under data.joints of the configuration, with the robot's names"


@dataclass(frozen=True)
class JointColumns:
    """Where each of the robot's joints stands among the numbers of some features. raw: (N, A), as the dataset has them."""

    features: tuple[str, ...]
    raw: np.ndarray

    @property
    def title(self) -> str:
        return "', '".join(self.features)


def joint_columns(data: LeRobotDataset, features: Sequence[str], settings: DataSettings, robot: RobotDescription) -> JointColumns:
    """The robot's joints among the features' numbers, in the robot's order."""
    widths = [data.width(feature) for feature in features]
    title, total = "', '".join(features), sum(widths)
    if total < len(robot.joints):
        raise TrainingError(
            f"{data.folder}: '{title}' has {total} numbers per frame, the robot '{robot.name}' {len(robot.joints)} joints "
            f"({', '.join(robot.joint_names)}). Choose the robot that the dataset was recorded with, or list further features "
            "under data.state and data.action."
        )
    if isinstance(settings.joints, tuple) and settings.joints:
        columns = _by_list(data, title, total, settings.joints, robot)
    else:
        columns = _by_name(data, features, settings.joints or {}, robot)
    values = np.concatenate([data.numbers(feature) for feature in features], axis=1)
    return JointColumns(tuple(features), values[:, columns])


def _by_list(data: LeRobotDataset, title: str, total: int, joints: Sequence[str], robot: RobotDescription) -> list[int]:
    if len(joints) != total:
        raise TrainingError(
            f"{data.folder}: '{title}' has {total} numbers per frame, data.joints lists {len(joints)}. Name each number in the "
            "dataset's order (any other name for what is no joint of the robot), or give data.joints as a mapping from the "
            "robot's joints to the dataset's names."
        )
    for name in robot.joint_names:
        _require_once(data, title, name, list(joints), f"{NAMES_ADVICE}.")
    return [list(joints).index(name) for name in robot.joint_names]


def _by_name(data: LeRobotDataset, features: Sequence[str], renamed: Mapping[str, str], robot: RobotDescription) -> list[int]:
    short, full = [], []
    for feature in features:
        names = data.names(feature)
        if names is None:
            raise TrainingError(
                f"{data.folder}: '{feature}' does not name its numbers ({INFO}: names). {NAMES_ADVICE}: "
                f"{', '.join(robot.joint_names)}."
            )
        short += names
        full += [f"{feature}/{name}" for name in names]
    for name in renamed:
        if name not in robot.joint_names:
            raise TrainingError(f"data: joints: the robot has no joint '{name}'. {nearest_names(name, robot.joint_names)}")
    return [_column(data, features, renamed.get(joint, joint), short, full) for joint in robot.joint_names]


def _column(data: LeRobotDataset, features: Sequence[str], wanted: str, short: list[str], full: list[str]) -> int:
    """The one number with this name, with LeRobot's suffix, or as 'feature/name' ('left/waist' for action.left)."""
    if "/" in wanted:
        places = [i for i, place in enumerate(full) if place == wanted or place.endswith(f".{wanted}")]
        if len(places) == 1:
            return places[0]
    name = wanted if wanted in short else wanted + POSITION_SUFFIX if wanted + POSITION_SUFFIX in short else wanted
    advice = f"{NAMES_ADVICE}."
    if short.count(name) > 1:
        places = [place.rsplit(".", 1)[-1] for place, other in zip(full, short, strict=True) if other == name]
        advice = f"Say which one under data.joints of the configuration, as a mapping: {', '.join(places)}."
    _require_once(data, "', '".join(features), name, short, advice)
    return short.index(name)


def _require_once(data: LeRobotDataset, title: str, name: str, names: list[str], advice: str) -> None:
    count = names.count(name)
    if count == 0:
        raise TrainingError(f"{data.folder}: '{title}' has no joint '{name}'. {nearest_names(name, names)} {advice}")
    if count > 1:
        raise TrainingError(f"{data.folder}: '{title}': joint '{name}' stands {count} times, expected once. {advice}")


def policy_units(raw: np.ndarray, settings: DataSettings, robot: RobotDescription) -> np.ndarray:
    """(N, A) as the dataset has them -> (N, A) float32 in policy units."""
    values = np.asarray(raw, dtype=np.float64)
    grippers = np.isin(robot.joint_names, robot.gripper_joints)
    if settings.units == "degrees":
        values = np.where(grippers, values, np.deg2rad(values))
    if settings.gripper_range is not None:
        closed, opened = settings.gripper_range
        values = np.where(grippers, (values - closed) / (opened - closed), values)
    elif settings.gripper_units == "controller":
        values = robot.to_policy(values)
    return values.astype(np.float32)


@dataclass(frozen=True)
class Outside:
    """One joint beyond its limits. raw: (least, greatest) as the dataset has it; frame: the row that lies furthest out."""

    joint: str
    text: str
    frame: int


def outside_limits(values: np.ndarray, raw: np.ndarray, robot: RobotDescription) -> list[Outside]:
    """values (N, A) in policy units, raw (N, A) as stored -> the joints that leave the robot's limits, each with a sentence."""
    lower, upper = robot.limit("lower"), robot.limit("upper")
    margin = np.maximum(RANGE_MARGIN * (upper - lower), LEAST_MARGIN)
    controller = robot.from_policy(values)
    beyond = np.maximum(lower - margin - controller, controller - upper - margin)
    worst = beyond.argmax(axis=0)
    found = []
    for i in np.flatnonzero(beyond.max(axis=0) > 0.0):
        name = robot.joint_names[i]
        found.append(
            Outside(
                name,
                f"joint '{name}': expected positions within its limits {lower[i]:g} .. {upper[i]:g} (rad or m), found "
                f"{controller[:, i].min():.4g} .. {controller[:, i].max():.4g} (stored: {raw[:, i].min():.4g} .. "
                f"{raw[:, i].max():.4g}). {likely_unit(raw, i, robot)}",
                int(worst[i]),
            )
        )
    return found


def check_gripper_units(columns: JointColumns, settings: DataSettings, robot: RobotDescription, folder: object) -> None:
    """Metres taken for 0 .. 1 lie within every limit: a gripper that would hardly open in all the recordings."""
    if settings.gripper_units != "policy" or settings.gripper_range is not None:
        return
    index = [robot.joint_names.index(name) for name in robot.gripper_joints]
    ends = robot.from_policy(np.array([np.zeros(len(robot.joints)), np.ones(len(robot.joints))]))[:, index]
    low, high = ends.min(axis=0), ends.max(axis=0)
    span, values = high - low, columns.raw[:, index]
    inside = (values >= low - RANGE_MARGIN * span).all() and (values <= high + RANGE_MARGIN * span).all()
    moves = np.ptp(values, axis=0) > 0.6 * span
    if index and (span < SMALL_SPAN).all() and inside and moves.any():
        i = int(np.argmax(moves))
        raise TrainingError(
            f"{folder}: '{columns.title}': gripper '{robot.gripper_joints[i]}': expected 0 (closed) .. 1 (open), found "
            f"{values[:, i].min():.4g} .. {values[:, i].max():.4g}, the positions that its controller takes ({low[i]:g} .. "
            f"{high[i]:g}). Set data.gripper_units to controller."
        )


def likely_unit(raw: np.ndarray, joint: int, robot: RobotDescription) -> str:
    """What a joint beyond its limits was probably recorded in, and what to do."""
    grippers = np.isin(robot.joint_names, robot.gripper_joints)
    if grippers[joint]:
        return _likely_gripper(raw[:, joint])
    arms = raw[:, ~grippers]
    low, high = arms.min(), arms.max()
    if high > 400.0 and (arms == np.round(arms)).all():
        return "Servo ticks, it seems: convert them to radians with the robot's calibration."
    lower, upper = robot.limit("lower")[~grippers], robot.limit("upper")[~grippers]
    margin = np.maximum(RANGE_MARGIN * (upper - lower), LEAST_MARGIN)
    turned = np.deg2rad(arms)
    fits = ((turned >= lower - margin) & (turned <= upper + margin)).all()
    normalised = low >= -100.5 and high <= 100.5 and max(-low, high) > 95.0
    if normalised and (not fits or _touches_both_ends(arms)):
        return "LeRobot's -100 .. 100 of each joint's range, it seems: convert it to radians with the robot's calibration."
    if max(-low, high) > MOST_RADIANS:
        return "Degrees, it seems: set data.units to degrees."
    return "Another zero, another robot, or wrong limits in the robot description?"


def _touches_both_ends(arms: np.ndarray) -> bool:
    """Several joints end exactly at 100 or -100: a range that is normalised and cut, not an angle."""
    return int((np.abs(np.abs(arms).max(axis=0) - 100.0) < 0.01).sum()) > 1


def _likely_gripper(values: np.ndarray) -> str:
    low, high = float(values.min()), float(values.max())
    if low >= -0.05 and high <= 1.05:
        return "A gripper of 0 .. 1, it seems: set data.gripper_units to policy, and leave out data.gripper_range."
    for top in (100.0, 255.0, 1000.0):
        if low >= -0.05 * top and high <= 1.05 * top:
            return f"A gripper of 0 .. {top:g}, it seems: set data.gripper_range to [0, {top:g}], closed and open."
    return "A gripper in other units: set data.gripper_range to the dataset's numbers for closed and open."
