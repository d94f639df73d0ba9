"""Insertion: the right arm picks the peg, the left arm the socket; in mid-air the peg goes into the socket up to its pin.

As in transfer.py the strategy is a function of the measured state alone; either hand that loses its part picks it again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rdvla_ros.sim.grasping import lift_first, moving, reach_and_close
from rdvla_ros.sim.motion import Goal
from rdvla_ros.sim.view import View, hand_rotation, upright_turn, yaw_of

PART = {"right": "peg", "left": "socket"}
CLOSED_ON = {"right": 0.40, "left": 0.73}  # openings below which the part is held (met at 0.32 and 0.65)
REST_M = {"right": 0.01, "left": 0.022}  # height of the part's centre on the table
HELD_ACROSS_M, HELD_ALONG_M = 0.02, 0.045  # how far the tool may be from the part's centre
LOWEST_GRASP_M = 0.017  # the fingertips end 14 mm further along the hand
INSERTED_M = 0.10  # between the centres when the peg meets the pin: two half lengths of 0.06, 0.02 overlap
APART_M = 0.145  # between the centres before the insertion
INSIDE_M, HOLE_M = 0.116, 0.0085  # the peg's end is in the hole below this distance, its axis this near to the socket's
TOUCH_M, LEAN_M = 0.0008, 0.0040  # within it the hand only leans on the pin, by a little more than the arm gives way
PRESS_M = 0.0010  # the goal lies this much beyond the pin
MEETING_M = 0.03  # socket this near to its place: the peg is aligned with the socket itself
SLOPE, FREE_M, TURN_WEIGHT_M = 6.0, 0.0025, 0.05  # distance to keep per sideways error, as in view.approach


@dataclass(frozen=True)
class InsertionStyle:
    """Ways of doing it. The defaults are the nominal expert, whose actions are the labels."""

    speed: float = 1.0
    pitch: float = np.deg2rad(75.0)  # of both hands [rad]; near 60 the wrist cameras look straight down and spin
    along: tuple[float, float] = (0.0, 0.0)  # [m] where the right and left hands grasp, along the part
    meet: tuple[float, float, float] = (-0.06, 0.5, 0.18)  # [m] place of the socket
    clearance: float = 0.09  # [m] before a grasp, along the hand

    @classmethod
    def sample(cls, rng: np.random.Generator) -> InsertionStyle:
        nominal = cls()
        return replace(
            nominal,
            speed=float(rng.uniform(0.75, 1.2)),
            pitch=float(nominal.pitch + rng.uniform(-0.12, 0.12)),
            along=tuple(rng.uniform(-0.01, 0.01, 2)),
            meet=tuple(np.array(nominal.meet) + rng.uniform(-0.02, 0.02, 3)),
            clearance=float(rng.uniform(0.06, 0.11)),
        )


class InsertionStrategy:
    """Goals of both hands for a view of the scene."""

    objects = tuple(PART.values())
    style_class = InsertionStyle

    def __init__(self, style: InsertionStyle):
        self.style = style
        self._places = {"left": np.array(style.meet), "right": np.array(style.meet) + [APART_M, 0.0, 0.0]}

    def goals(self, view: View) -> tuple[dict[str, Goal], str]:
        """Goals of both arms and the name of the phase."""
        holds = {arm: self._holds(view, arm) for arm in PART}
        result, phases = {}, {}
        for arm in PART:
            if not holds[arm]:
                result[arm], phases[arm] = self._pick(view, arm)
            elif arm == "right" and holds["left"] and self._socket_ready(view):
                result[arm], phases[arm] = self._insert(view)
            else:
                result[arm], phases[arm] = self._carry(view, arm, self._places[arm], np.eye(3)), "carry"
        order = ("reach", "close", "carry", "insert")
        return result, min(phases.values(), key=order.index) if "insert" not in phases.values() else "insert"

    def finished(self, view: View) -> bool:
        """Both parts are held and the peg stands at the pin."""
        gap, across, _ = self._gap(view)
        return all(self._holds(view, arm) for arm in PART) and gap < INSERTED_M + 0.004 and across < 0.012

    def _holds(self, view: View, arm: str) -> bool:
        part, rotation = view.objects[PART[arm]]
        offset = rotation.T @ (view.tools[arm][0] - part)
        across = float(np.hypot(offset[1], offset[2]))
        return abs(offset[0]) < HELD_ALONG_M and across < HELD_ACROSS_M and view.openings[arm] < CLOSED_ON[arm]

    def _pick(self, view: View, arm: str) -> tuple[Goal, str]:
        part, part_rotation = view.objects[PART[arm]]
        rotation = hand_rotation(arm, self.style.pitch, yaw=yaw_of(part_rotation, axis=0, symmetry=np.pi))
        grasp = part + part_rotation[:, 0] * self.style.along[arm == "left"]
        grasp[2] = max(grasp[2], LOWEST_GRASP_M)
        goal, closes = reach_and_close(
            view, arm, grasp, rotation, self.style.clearance, (0.26, 0.12), self.style.speed, exact=True
        )
        return goal, "close" if closes else "reach"

    def _carry(self, view: View, arm: str, place: np.ndarray, upright: np.ndarray, speed: float = 0.22) -> Goal:
        """Bring the held part to `place`, its axes along those of `upright`."""
        (tool, tool_rotation), (part, part_rotation) = view.tools[arm], view.objects[PART[arm]]
        turn = upright_turn(part_rotation, upright)
        goal = lift_first(tool, place + turn @ (tool - part), part[2] - REST_M[arm])
        return moving(goal, turn @ tool_rotation, 0.0, speed, self.style.speed, exact=True)

    def _socket_ready(self, view: View) -> bool:
        return float(np.linalg.norm(view.objects["socket"][0] - self._places["left"])) < MEETING_M

    def _gap(self, view: View) -> tuple[float, float, float]:
        """Peg against socket: distance along the socket's axis, sideways error [m], angle between the axes [rad]."""
        (peg, peg_rotation), (socket, socket_rotation) = view.objects["peg"], view.objects["socket"]
        axis = socket_rotation[:, 0] * np.sign(socket_rotation[0, 0])
        offset = peg - socket
        along = float(offset @ axis)
        angle = float(np.arccos(np.clip(abs(peg_rotation[:, 0] @ axis), 0.0, 1.0)))
        return along, float(np.linalg.norm(offset - along * axis)), angle

    def _insert(self, view: View) -> tuple[Goal, str]:
        """As deep as the alignment allows, along the socket's own axis; inside, straight on; at the pin, lean on it."""
        socket, socket_rotation = view.objects["socket"]
        axis = socket_rotation[:, 0] * np.sign(socket_rotation[0, 0])
        along, across, angle = self._gap(view)
        if along < INSERTED_M + TOUCH_M and across < HOLE_M:  # correcting on against contact would make the peg slip
            goal = self._carry(view, "right", socket + (INSERTED_M - LEAN_M) * axis, socket_rotation, speed=0.05)
            return replace(goal, exact=False), "insert"
        apart = INSERTED_M - PRESS_M
        if along > INSIDE_M or across > HOLE_M:
            apart = min(APART_M, apart + SLOPE * max(0.0, across + TURN_WEIGHT_M * angle - FREE_M))
        return self._carry(view, "right", socket + apart * axis, socket_rotation, speed=0.10), "insert"
