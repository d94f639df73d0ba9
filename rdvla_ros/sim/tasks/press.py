"""Follow a trail, as the expert does it: the hand on the end's side goes over the end and presses it; the other hand rests.

The strategy is a function of the measured state and of the end, which the simulator tells it: it need not see. The hand goes at a
height over the other pads, and lower only where it is above the end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rdvla_ros.sim.grasping import moving
from rdvla_ros.sim.motion import Goal
from rdvla_ros.sim.tasks.follow_trail import COLOURS, PAD_HALF_THICKNESS_M, PAD_HEIGHT_M, pad_body
from rdvla_ros.sim.view import UP, View, approach, hand_rotation

TOP_M = PAD_HEIGHT_M + PAD_HALF_THICKNESS_M  # of a pad that nobody presses
TIP_M = 0.014  # the fingertips lie this much further along the hand than the tool
PUSH_M = 0.012  # the tool's goal lies this deep: the arm gives way a little
DOWN_M = 0.004  # a pad this far down is pressed
ABOVE_M = 0.03  # sideways error with which the hand counts as above the end
REST_M = {"left": np.array([-0.178, 0.5, 0.306]), "right": np.array([0.178, 0.5, 0.306])}  # tools at the start pose
REST_PITCH = -0.09  # [rad] of the hands there


@dataclass(frozen=True)
class PressStyle:
    """Ways of doing it. The defaults are the nominal expert, whose actions are the labels."""

    speed: float = 1.0
    pitch: float = np.deg2rad(80.0)  # of the pressing hand [rad]
    clearance: float = 0.08  # [m] over the pads on the way
    aside: tuple[float, float] = (0.0, 0.0)  # [m] where the hand presses, from the middle of the pad

    @classmethod
    def sample(cls, rng: np.random.Generator) -> PressStyle:
        nominal = cls()
        return replace(
            nominal,
            speed=float(rng.uniform(0.75, 1.2)),
            pitch=float(nominal.pitch + rng.uniform(-0.12, 0.08)),
            clearance=float(rng.uniform(0.06, 0.11)),
            aside=tuple(rng.uniform(-0.01, 0.01, 2)),
        )


class PressStrategy:
    """Goals of both hands for a view of the scene."""

    objects = tuple(pad_body(colour) for colour in COLOURS)
    style_class = PressStyle

    def __init__(self, style: PressStyle):
        self.style = style

    def goals(self, view: View) -> tuple[dict[str, Goal], str]:
        """Goals of both arms and the name of the phase."""
        pad, _ = view.objects[view.target]
        pressing = "left" if pad[0] < 0.0 else "right"
        result = {arm: self._rest(arm) for arm in REST_M}
        result[pressing], phase = self._press(view, pressing, pad)
        return result, phase

    def finished(self, view: View) -> bool:
        """The end is down."""
        return bool(view.objects[view.target][0][2] < PAD_HEIGHT_M - DOWN_M + 1e-4)

    def _rest(self, arm: str) -> Goal:
        return moving(REST_M[arm], hand_rotation(arm, REST_PITCH), 0.0, 0.2, self.style.speed)

    def _press(self, view: View, arm: str, pad: np.ndarray) -> tuple[Goal, str]:
        tool = view.tools[arm]
        rotation = hand_rotation(arm, self.style.pitch)
        place = np.array([pad[0] + self.style.aside[0], pad[1] + self.style.aside[1], TOP_M - PUSH_M])
        place = place - TIP_M * rotation[:, 0]
        position = approach(tool, place, rotation, self.style.clearance)
        above = float(np.linalg.norm((tool[0] + TIP_M * tool[1][:, 0] - pad)[:2])) < ABOVE_M
        low = tool[0] @ UP < place[2] + 0.03
        goal = moving(position, rotation, 0.0, 0.12 if low else 0.26, self.style.speed, exact=True)
        return goal, "press" if above else "reach"
