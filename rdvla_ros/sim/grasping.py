"""Reaching for an object, closing on it, lifting it: what the strategies of both tasks share, as functions of the view."""

from __future__ import annotations

import numpy as np

from rdvla_ros.sim.motion import Goal
from rdvla_ros.sim.view import View, approach, centred

NEAR_M = 0.012  # tool this near to its grasp: close
STILL_NEAR_M = 0.022  # once closing, the fingers may move the object so far
CLOSING = 0.93  # opening below which the hand is closing
OPEN_ENOUGH = 0.80  # opening with which the fingers pass around an object
TURN_SPEED = 1.2  # [rad/s] at speed 1
NEAR_SPEED_M = 0.06  # the hand slows down within this distance
LIFT_BEGIN_M, LIFT_HEIGHT_M = 0.015, 0.05  # sideways motion opens between these heights above the rest


def moving(position: np.ndarray, rotation: np.ndarray, gripper: float, speed: float, scale: float, exact: bool = False) -> Goal:
    """A goal whose speeds are scaled by the style."""
    return Goal(position, rotation, gripper, speed * scale, TURN_SPEED * scale, exact)


def reach_and_close(
    view: View,
    arm: str,
    grasp: np.ndarray,
    rotation: np.ndarray,
    clearance: float,
    speeds: tuple[float, float],
    scale: float,
    exact: bool = False,
) -> tuple[Goal, bool]:
    """Goal of a hand that is to hold at `grasp`, and whether it closes. speeds: [m/s] far from the grasp and near it."""
    tool, opening = view.tools[arm], view.openings[arm]
    distance = float(np.linalg.norm(tool[0] - grasp))
    if distance < (STILL_NEAR_M if opening < CLOSING else NEAR_M):
        return moving(centred(tool, grasp, rotation), rotation, 0.0, 0.10, scale, exact), True
    least = clearance if opening < OPEN_ENOUGH else 0.0
    position = approach(tool, grasp, rotation, clearance, least)
    return moving(position, rotation, 1.0, speeds[0] if distance > NEAR_SPEED_M else speeds[1], scale, exact), False


def lift_first(tool: np.ndarray, goal: np.ndarray, height: float) -> np.ndarray:
    """`goal`, but straight up while the object is low: the sideways part of the way opens with its height above its rest."""
    share = np.clip((height - LIFT_BEGIN_M) / LIFT_HEIGHT_M, 0.0, 1.0)
    result = goal.copy()
    result[:2] = tool[:2] + share * (goal[:2] - tool[:2])
    return result
