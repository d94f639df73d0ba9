"""From goals of the two tools to smooth joint references: bounded speed and acceleration, in tool space and per joint."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from rdvla_ros.sim.kinematics import JOINTS_PER_ARM, BimanualKinematics
from rdvla_ros.sim.scene import ARMS

TOOL_ACCELERATION = 0.9  # [m/s^2] braking towards a goal
TURN_ACCELERATION = 4.0  # [rad/s^2]
APPROACH_RATE = 6.0  # [1/s] exponential end of a braking: speed = rate * distance
JOINT_SPEED = 1.2  # [rad/s]
JOINT_ACCELERATION = 6.0  # [rad/s^2]
MAX_LEAD_RAD = 0.25  # the reference never leaves the measured joint further: a blocked arm must not wind up
MAX_SAG_M = 0.0035  # [m] of a tool below its reference
GRIPPER_SPEED = 2.2  # [1/s] policy units: 0.08 m/s of the finger


@dataclass(frozen=True)
class Goal:
    """Where one tool is to go. rotation: (3, 3). gripper: 0 closed .. 1 open. speed: [m/s], turning: [rad/s]."""

    position: np.ndarray
    rotation: np.ndarray
    gripper: float
    speed: float = 0.30
    turning: float = 1.3
    exact: bool = False  # the measured tool is to get there, not only the reference: what the arm sags is added


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """(3,) axis times angle of a rotation matrix; angles up to just below pi."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation.tolist()
    axis = (zy - yz, xz - zx, yx - xy)
    sine = math.sqrt(axis[0] ** 2 + axis[1] ** 2 + axis[2] ** 2) / 2.0
    factor = 0.5 if sine < 1e-9 else math.atan2(sine, (xx + yy + zz - 1.0) / 2.0) / (2.0 * sine)
    return np.array(axis) * factor


def rotation_matrix(vector: np.ndarray) -> np.ndarray:
    """(3, 3) rotation by |vector| about vector (Rodrigues, written out: it is called a thousand times a second)."""
    x, y, z = vector.tolist()
    angle = math.sqrt(x * x + y * y + z * z)
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = x / angle, y / angle, z / angle
    c, s = math.cos(angle), math.sin(angle)
    t = 1.0 - c
    return np.array(
        [
            [c + t * x * x, t * x * y - s * z, t * x * z + s * y],
            [t * x * y + s * z, c + t * y * y, t * y * z - s * x],
            [t * x * z - s * y, t * y * z + s * x, c + t * z * z],
        ]
    )


def _braked(distance: float, limit: float, acceleration: float) -> float:
    """Speed at which a goal at `distance` can still be met at rest."""
    return min(limit, math.sqrt(2.0 * acceleration * distance), APPROACH_RATE * distance)


def advance(pose: tuple[np.ndarray, np.ndarray], goal: Goal, period_s: float) -> tuple[np.ndarray, np.ndarray]:
    """The pose one period later on the way to the goal."""
    position, rotation = pose
    offset = goal.position - position
    distance = math.sqrt(offset @ offset)
    if distance > 1e-9:
        position = position + offset / distance * _braked(distance, goal.speed, TOOL_ACCELERATION) * period_s
    turn = rotation_vector(goal.rotation @ rotation.T)
    angle = math.sqrt(turn @ turn)
    if angle > 1e-9:
        step = _braked(angle, goal.turning, TURN_ACCELERATION) * period_s
        rotation = rotation_matrix(turn / angle * step) @ rotation
    return position, rotation


def _with_sag(goal: Goal, reference: np.ndarray, reached: np.ndarray) -> Goal:
    """The goal for the reference whose measured tool stands at `goal`; bounded, so that a blocked hand does not push on."""
    return replace(goal, position=goal.position + np.clip(reference - reached, -MAX_SAG_M, MAX_SAG_M))


class Motion:
    """Turns goals into the next joint reference, policy units (grippers 0..1), (14,)."""

    def __init__(self, kinematics: BimanualKinematics, period_s: float):
        self._kinematics = kinematics
        self._period_s = period_s
        self._grippers = {arm: JOINTS_PER_ARM * i + JOINTS_PER_ARM - 1 for i, arm in enumerate(ARMS)}
        self._is_gripper = np.isin(np.arange(JOINTS_PER_ARM * len(ARMS)), list(self._grippers.values()))

    def step(
        self, goals: dict[str, Goal], reference: np.ndarray, velocity: np.ndarray, measured: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Next reference and its velocity, from the present ones and the measured positions, all (14,) policy units."""
        lead = np.clip(reference - measured, -MAX_LEAD_RAD, MAX_LEAD_RAD)
        reference = np.where(self._is_gripper, reference, measured + lead)
        reached = self._kinematics.tool_poses(measured) if any(goal.exact for goal in goals.values()) else {}
        poses = self._kinematics.tool_poses(reference)
        goals = {arm: _with_sag(goal, poses[arm][0], reached[arm][0]) if goal.exact else goal for arm, goal in goals.items()}
        targets = {arm: advance(poses[arm], goals[arm], self._period_s) for arm in ARMS}
        wanted = self._kinematics.velocities(targets, self._period_s)
        change = wanted - velocity
        for i in range(len(ARMS)):  # scaled per arm, so that the tool's direction suffers least
            arm = slice(JOINTS_PER_ARM * i, JOINTS_PER_ARM * (i + 1) - 1)
            largest = np.abs(change[arm]).max() / (JOINT_ACCELERATION * self._period_s)
            change[arm] /= max(1.0, largest)
        new_velocity = np.where(self._is_gripper, 0.0, velocity + change)
        result = reference + new_velocity * self._period_s
        for arm, column in self._grippers.items():
            step = GRIPPER_SPEED * self._period_s
            result[column] = np.clip(goals[arm].gripper, reference[column] - step, reference[column] + step)
        return result, new_velocity
