"""What the scripted expert knows of a moment, and the geometry its strategies share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import numpy as np

from rdvla_ros.sim.motion import rotation_matrix, rotation_vector

ANGLE_WEIGHT_M = 0.03  # [m/rad] how much a turn error counts against a position error
FUNNEL_SLOPE = 2.5  # height above the goal per metre of sideways error
FUNNEL_FREE_M = 0.006  # sideways error that needs no height
FORWARD = {"left": np.array([1.0, 0.0, 0.0]), "right": np.array([-1.0, 0.0, 0.0])}  # where each arm points
UP = np.array([0.0, 0.0, 1.0])
# the 24 rotations of a cube onto itself
CUBE_ROTATIONS = [
    matrix
    for order in permutations(range(3))
    for signs in product((-1.0, 1.0), repeat=3)
    if np.linalg.det(matrix := np.eye(3)[:, order] * signs) > 0
]
BAR_ROTATIONS = [turn for turn in CUBE_ROTATIONS if abs(turn[0, 0]) == 1.0]  # the 8 that keep its long axis x


@dataclass(frozen=True)
class View:
    """Measured state. tools: arm -> (position, rotation) of the tool frame; openings: arm -> gripper 0..1;
    objects: body name -> (position, rotation). target: the one that the instruction means, where it does not say so itself."""

    tools: dict[str, tuple[np.ndarray, np.ndarray]]
    openings: dict[str, float]
    objects: dict[str, tuple[np.ndarray, np.ndarray]]
    target: str = ""


@lru_cache(maxsize=64)
def _hand_at_rest(arm: str, pitch: float, roll: float) -> np.ndarray:
    level = np.column_stack([FORWARD[arm], np.cross(UP, FORWARD[arm]), UP])
    return level @ rotation_matrix(np.array([0.0, pitch, 0.0])) @ rotation_matrix(np.array([roll, 0.0, 0.0]))


def hand_rotation(arm: str, pitch: float, roll: float = 0.0, yaw: float = 0.0) -> np.ndarray:
    """(3, 3) tool rotation: pointing to the other arm, tipped down by `pitch`, rolled about its axis, turned by `yaw` [rad]."""
    return rotation_matrix(yaw * UP) @ _hand_at_rest(arm, pitch, roll)


def yaw_of(rotation: np.ndarray, axis: int | None = None, symmetry: float = np.pi / 2) -> float:
    """Turn about the vertical of a body on the table, in -symmetry/2 .. symmetry/2 [rad].

    axis: the body axis that decides; None takes the flattest one, so that a cube on any of its faces gives its sides' yaw.
    """
    direction = rotation[:, int(np.argmin(np.abs(rotation[2]))) if axis is None else axis]
    yaw = np.arctan2(direction[1], direction[0])
    return float((yaw + symmetry / 2) % symmetry - symmetry / 2)


def upright_turn(rotation: np.ndarray, upright: np.ndarray) -> np.ndarray:
    """(3, 3) smallest turn in the world that brings a square bar (long axis x) parallel to another one."""
    candidates = (upright @ turn for turn in BAR_ROTATIONS)
    return max((candidate @ rotation.T for candidate in candidates), key=np.trace)


def approach(
    tool: tuple[np.ndarray, np.ndarray], position: np.ndarray, rotation: np.ndarray, clearance: float, least: float = 0.0
) -> np.ndarray:
    """Where the tool is to go now, on its way to `position`: backed off along the hand's axis as far as it is off sideways.

    The distance is a function of the present error only, so no phase has to be remembered: far off, the tool aims at a
    point `clearance` before the goal; the better it is aligned, the deeper it may go (never deeper than `least`).
    """
    error = tool[0] - position
    axis = rotation[:, 0]
    sideways = float(np.linalg.norm(error - axis * (error @ axis)))
    sideways += ANGLE_WEIGHT_M * float(np.linalg.norm(rotation_vector(rotation @ tool[1].T)))
    back = min(clearance, FUNNEL_SLOPE * max(0.0, sideways - FUNNEL_FREE_M))
    return position - axis * max(back, least)


def centred(tool: tuple[np.ndarray, np.ndarray], position: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """`position`, but where the tool is along its finger axis: closing fingers centre the object or the hand themselves."""
    return position + rotation[:, 1] * ((tool[0] - position) @ rotation[:, 1])


def aligned(rotation: np.ndarray, cube_rotation: np.ndarray) -> np.ndarray:
    """The hand rotation nearest to `rotation` whose axes are square to the cube's faces."""
    return max((cube_rotation @ turn for turn in CUBE_ROTATIONS), key=lambda candidate: np.trace(candidate @ rotation.T))
