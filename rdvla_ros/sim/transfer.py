"""Cube transfer: the right arm picks the cube from the table and hands it to the left arm in mid-air.

The strategy is a function of the measured state alone (poses, gripper openings), so it can be asked from any state, a
dropped cube leads back to grasping it, and a policy without memory can imitate it: every phase shows in the pictures and
in the joint positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rdvla_ros.sim.motion import Goal
from rdvla_ros.sim.view import View, aligned, approach, centred, hand_rotation, yaw_of

CLOSED_ON_CUBE = 0.66  # opening below which fingers around the cube hold it (they meet it at 0.59)
HELD_M = 0.025  # cube centre this near to the tool: between the fingers
NEAR_M = 0.012  # tool this near to its grasp: close
STILL_NEAR_M = 0.022  # once closing, the fingers may move the cube so far
MEETING_M = 0.045  # cube this near to the meeting place: the taking hand comes
OPEN_ENOUGH = 0.80  # opening with which the fingers pass around the cube
RELEASED = 0.85  # opening at which the giving hand may leave


@dataclass(frozen=True)
class TransferStyle:
    """Ways of doing it. The defaults are the nominal expert, whose actions are the labels."""

    speed: float = 1.0
    pitch: float = np.deg2rad(60.0)  # of the picking hand [rad]
    grasp_offset: tuple[float, float, float] = (0.0, 0.0, 0.0)  # [m] in the tool frame of the nominal grasp
    meet: tuple[float, float, float] = (0.0, 0.5, 0.23)  # [m] where the cube changes hands
    clearance: float = 0.09  # [m] before the grasp, along the hand
    wait_distance: float = 0.12  # [m] of the taking hand before the meeting place

    @classmethod
    def sample(cls, rng: np.random.Generator) -> TransferStyle:
        nominal = cls()
        return replace(
            nominal,
            speed=float(rng.uniform(0.75, 1.2)),
            pitch=float(nominal.pitch + rng.uniform(-0.17, 0.17)),
            grasp_offset=tuple(rng.uniform(-0.006, 0.006, 3) * (1.0, 0.0, 1.0)),  # the fingers centre y by closing
            meet=tuple(np.array(nominal.meet) + rng.uniform(-0.025, 0.025, 3)),
            clearance=float(rng.uniform(0.06, 0.11)),
        )


class TransferStrategy:
    """Goals of both hands for a view of the scene."""

    objects = ("box",)
    style_class = TransferStyle

    def __init__(self, style: TransferStyle):
        self.style = style

    def goals(self, view: View) -> tuple[dict[str, Goal], str]:
        """Goals of both arms and the name of the phase."""
        cube, cube_rotation = view.objects["box"]
        right_holds, left_holds = (self._holds(view, arm, cube) for arm in ("right", "left"))
        meet = np.array(self.style.meet)
        if left_holds:
            right, phase = self._let_go(view)
        elif right_holds:
            right, phase = self._carry(view, cube, meet)
        else:
            right, phase = self._pick(view)
        left, taking = self._take(view, cube, cube_rotation, meet, right_holds, left_holds)
        return {"right": right, "left": left}, taking or phase

    def finished(self, view: View) -> bool:
        """The left hand has the cube and the right hand has gone."""
        cube, _ = view.objects["box"]
        return self._holds(view, "left", cube) and float(np.linalg.norm(view.tools["right"][0] - cube)) > 0.12

    def _holds(self, view: View, arm: str, cube: np.ndarray) -> bool:
        return float(np.linalg.norm(cube - view.tools[arm][0])) < HELD_M and view.openings[arm] < CLOSED_ON_CUBE

    def _goal(self, position: np.ndarray, rotation: np.ndarray, gripper: float, speed: float) -> Goal:
        return Goal(position, rotation, gripper, speed * self.style.speed, 1.2 * self.style.speed)

    def _pick(self, view: View) -> tuple[Goal, str]:
        cube, cube_rotation = view.objects["box"]
        tool, opening = view.tools["right"], view.openings["right"]
        rotation = hand_rotation("right", self.style.pitch, yaw=yaw_of(cube_rotation))
        grasp = cube + rotation @ np.array(self.style.grasp_offset)
        grasp[2] = max(grasp[2], 0.017)  # the fingertips end 14 mm further along the hand
        distance = float(np.linalg.norm(tool[0] - grasp))
        if distance < (STILL_NEAR_M if opening < 0.93 else NEAR_M):
            return self._goal(centred(tool, grasp, rotation), rotation, 0.0, 0.10), "close"
        least = self.style.clearance if opening < OPEN_ENOUGH else 0.0
        position = approach(tool, grasp, rotation, self.style.clearance, least)
        return self._goal(position, rotation, 1.0, 0.26 if distance > 0.06 else 0.12), "reach"

    def _carry(self, view: View, cube: np.ndarray, meet: np.ndarray) -> tuple[Goal, str]:
        """Straight up first, then over: the sideways part of the way opens with height."""
        tool = view.tools["right"][0]
        rotation = hand_rotation("right", self.style.pitch)
        goal = meet + (tool - cube)
        lifted = np.clip((cube[2] - 0.035) / 0.05, 0.0, 1.0)
        goal[:2] = tool[:2] + lifted * (goal[:2] - tool[:2])
        return self._goal(goal, rotation, 0.0, 0.22), "carry"

    def _let_go(self, view: View) -> tuple[Goal, str]:
        tool, rotation = view.tools["right"]
        meet = np.array(self.style.meet)
        away = meet + np.array([0.17, 0.0, 0.10])
        nominal = hand_rotation("right", self.style.pitch)
        if view.openings["right"] < RELEASED:
            return self._goal(tool, nominal, 1.0, 0.1), "release"
        return self._goal(away, nominal, 1.0, 0.22), "retreat"

    def _take(
        self, view: View, cube: np.ndarray, cube_rotation: np.ndarray, meet: np.ndarray, right_holds: bool, left_holds: bool
    ) -> tuple[Goal, str]:
        """The left hand waits beside the meeting place, takes the cube when it is there, and keeps it."""
        tool, opening = view.tools["left"], view.openings["left"]
        rotation = hand_rotation("left", 0.0, roll=np.pi / 2)
        if left_holds:
            return self._goal(meet + (tool[0] - cube), rotation, 0.0, 0.15), ""
        wait = self._goal(meet - rotation[:, 0] * self.style.wait_distance, rotation, 1.0, 0.24)
        if not right_holds or np.linalg.norm(cube - meet) > MEETING_M:
            return wait, ""
        rotation = aligned(rotation, cube_rotation)
        distance = float(np.linalg.norm(tool[0] - cube))
        if distance < (STILL_NEAR_M if opening < 0.93 else NEAR_M):
            return self._goal(centred(tool, cube, rotation), rotation, 0.0, 0.10), "take"
        least = self.style.wait_distance if opening < OPEN_ENOUGH else 0.0
        position = approach(tool, cube, rotation, self.style.wait_distance, least)
        return self._goal(position, rotation, 1.0, 0.16), "meet"
