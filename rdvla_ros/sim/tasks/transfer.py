"""Cube transfer: the right arm picks the cube from the table and hands it to the left arm in mid-air.

The strategy is a function of the measured state alone (poses, gripper openings), so it can be asked from any state, a
dropped cube leads back to grasping it, and a policy without memory can imitate it: every phase shows in the pictures and
in the joint positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rdvla_ros.sim.grasping import lift_first, moving, reach_and_close
from rdvla_ros.sim.motion import Goal
from rdvla_ros.sim.view import View, aligned, hand_rotation, yaw_of

CLOSED_ON_CUBE = 0.66  # opening below which fingers around the cube hold it (they meet it at 0.59)
HELD_M = 0.025  # cube centre this near to the tool: between the fingers
RELEASED = 0.85  # opening at which the giving hand may leave
MEETING_M = 0.045  # cube this near to the meeting place: the taking hand comes
LOWEST_GRASP_M = 0.017  # the fingertips end 14 mm further along the hand
CUBE_REST_M = 0.02  # height of the centre of the cube on the table
AWAY_M = np.array([0.17, 0.0, 0.10])  # where the giving hand goes, from the meeting place


@dataclass(frozen=True)
class TransferStyle:
    """Ways of doing it. The defaults are the nominal expert, whose actions are the labels."""

    speed: float = 1.0
    pitch: float = np.deg2rad(75.0)  # of the picking hand [rad]; near 60 the wrist camera looks straight down and spins
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
            pitch=float(nominal.pitch + rng.uniform(-0.12, 0.12)),
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
        self._meet = np.array(style.meet)

    def goals(self, view: View) -> tuple[dict[str, Goal], str]:
        """Goals of both arms and the name of the phase."""
        right_holds, left_holds = (self._holds(view, arm) for arm in ("right", "left"))
        if left_holds:
            right, phase = self._let_go(view)
        elif right_holds:
            right, phase = self._carry(view)
        else:
            right, phase = self._pick(view)
        if left_holds:
            left, taking = self._keep(view), ""
        else:
            left, taking = self._take(view, right_holds)
        return {"right": right, "left": left}, taking or phase

    def finished(self, view: View) -> bool:
        """The left hand has the cube and the right hand has gone."""
        cube, _ = view.objects["box"]
        return self._holds(view, "left") and float(np.linalg.norm(view.tools["right"][0] - cube)) > 0.12

    def _holds(self, view: View, arm: str) -> bool:
        cube, _ = view.objects["box"]
        return float(np.linalg.norm(cube - view.tools[arm][0])) < HELD_M and view.openings[arm] < CLOSED_ON_CUBE

    def _pick(self, view: View) -> tuple[Goal, str]:
        cube, cube_rotation = view.objects["box"]
        rotation = hand_rotation("right", self.style.pitch, yaw=yaw_of(cube_rotation))
        grasp = cube + rotation @ np.array(self.style.grasp_offset)
        grasp[2] = max(grasp[2], LOWEST_GRASP_M)
        goal, closes = reach_and_close(view, "right", grasp, rotation, self.style.clearance, (0.26, 0.12), self.style.speed)
        return goal, "close" if closes else "reach"

    def _carry(self, view: View) -> tuple[Goal, str]:
        cube, tool = view.objects["box"][0], view.tools["right"][0]
        goal = lift_first(tool, self._meet + (tool - cube), cube[2] - CUBE_REST_M)
        return moving(goal, hand_rotation("right", self.style.pitch), 0.0, 0.22, self.style.speed), "carry"

    def _let_go(self, view: View) -> tuple[Goal, str]:
        rotation = hand_rotation("right", self.style.pitch)
        if view.openings["right"] < RELEASED:
            return moving(view.tools["right"][0], rotation, 1.0, 0.1, self.style.speed), "release"
        return moving(self._meet + AWAY_M, rotation, 1.0, 0.22, self.style.speed), "retreat"

    def _keep(self, view: View) -> Goal:
        position = self._meet + (view.tools["left"][0] - view.objects["box"][0])
        return moving(position, self._taking_rotation(), 0.0, 0.15, self.style.speed)

    def _take(self, view: View, right_holds: bool) -> tuple[Goal, str]:
        """The left hand waits beside the meeting place, and takes the cube when it is there."""
        cube, cube_rotation = view.objects["box"]
        rotation, distance = self._taking_rotation(), self.style.wait_distance
        if not right_holds or np.linalg.norm(cube - self._meet) > MEETING_M:
            return moving(self._meet - rotation[:, 0] * distance, rotation, 1.0, 0.24, self.style.speed), ""
        rotation = aligned(rotation, cube_rotation)
        goal, closes = reach_and_close(view, "left", cube, rotation, distance, (0.16, 0.16), self.style.speed)
        return goal, "take" if closes else "meet"

    def _taking_rotation(self) -> np.ndarray:
        """Level, the fingers above each other: they pass the giving hand's, which stand side by side."""
        return hand_rotation("left", 0.0, roll=np.pi / 2)
