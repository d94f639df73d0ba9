"""Follow a trail of coloured pads and press its end.

Ten flat pads of ten colours lie on the table. Each bears a mark in the colour of the pad to go to next; a pad whose mark has its
own colour is an end. The instruction names the start. Success: the end of that trail is the first pad that is pressed down.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import mujoco
import numpy as np

from rdvla_ros.sim import SimulationError
from rdvla_ros.sim.tasks.aloha import ALOHA_TASKS
from rdvla_ros.sim.tasks.base import MAX_STAGE, contact_names, geom_names
from rdvla_ros.sim.trails import PADS, check_length, draw_trails
from rdvla_ros.types import nearest_names

COLOURS = {  # of a pad and of marks that lead to it; the scene's lights make them half as bright again
    "red": (0.60, 0.03, 0.03),
    "green": (0.03, 0.40, 0.06),
    "blue": (0.04, 0.10, 0.62),
    "yellow": (0.60, 0.56, 0.03),
    "orange": (0.62, 0.25, 0.00),
    "purple": (0.30, 0.03, 0.42),
    "cyan": (0.03, 0.52, 0.58),
    "pink": (0.62, 0.30, 0.46),
    "white": (0.60, 0.60, 0.60),
    "brown": (0.25, 0.12, 0.03),
}
PAD_HALF_M, MARK_HALF_M, FRAME_HALF_M = 0.032, 0.0175, 0.0205  # half widths: pad, mark, dark frame around the mark
PAD_HALF_THICKNESS_M, PAD_HEIGHT_M, TRAVEL_M = 0.004, 0.011, 0.006  # PAD_HEIGHT_M: of the pad's centre over the table
PRESSED_M = 0.0025  # a pad that is pushed down this far by a finger is pressed
SPRING_N_PER_M, PRELOAD_M, DAMPING = 300.0, 0.004, 3.0  # 1.2 N to move it, 3 N all the way down
PAD_MASS_KG = 0.02
COLUMNS_M = (-0.220, -0.132, -0.044, 0.044, 0.132, 0.220)  # the left three are the left hand's
ROWS_M = (0.410, 0.515, 0.620, 0.725)
JITTER_M = 0.009
LONGEST_DRAWN = 5  # hops, where no length is given: what a policy is trained on
ABOVE_M, NEAR_M = 0.025, 0.080  # a fingertip this near to the middle of the end, seen from above
FINGERTIP_M = 0.154  # from the body gripper_link along its x axis
INSTRUCTION = "follow the trail from the {} pad and press its end"


@dataclass(frozen=True)
class TrailScene:
    """Pad i has colours[i]. places (10, 2): x, y of its centre [m]. following (10,): the pad that its mark's colour names.
    start, end: pads. length: hops between them."""

    colours: tuple[str, ...]
    places: np.ndarray
    following: np.ndarray
    start: int
    end: int
    length: int

    def __post_init__(self) -> None:
        for colour in self.colours:
            if colour not in COLOURS:
                raise SimulationError(f"Pads: unknown colour '{colour}'. {nearest_names(colour, COLOURS)}")
        twice = sorted({colour for colour in self.colours if self.colours.count(colour) > 1})
        if twice:
            raise SimulationError(f"Pads: expected {len(self.colours)} different colours, got two pads in {', '.join(twice)}.")

    @property
    def instruction(self) -> str:
        return INSTRUCTION.format(self.colours[self.start])

    @property
    def sides(self) -> tuple[str, ...]:
        """The arm that presses each pad."""
        return tuple("left" if x < 0.0 else "right" for x in self.places[:, 0])


def start_pad(instruction: str, colours: Sequence[str]) -> int:
    """The pad that an instruction begins with; SimulationError where it names none of the pads on the table."""
    named = re.fullmatch(re.escape(INSTRUCTION).replace(r"\{\}", r"(\w+)"), instruction.strip().lower())
    if named is None:
        raise SimulationError(f"Instruction: expected '{INSTRUCTION.format('<colour>')}', got '{instruction}'.")
    if named[1] not in colours:
        raise SimulationError(f"Instruction: no pad on the table is {named[1]}. {nearest_names(named[1], colours)}")
    return list(colours).index(named[1])


@lru_cache(maxsize=4096)
def trail_scene(seed: int, length: int | None = None) -> TrailScene:
    """The scene of a seed. length None: drawn, 0 to 5 hops; the same length when given makes the same scene."""
    if length is None:
        length = int(np.random.default_rng((seed, 1)).integers(LONGEST_DRAWN + 1))
    rng = np.random.default_rng((seed, 2, check_length(length)))
    trails = draw_trails(rng, np.array([length]))
    cells = rng.permutation(len(COLUMNS_M) * len(ROWS_M))[:PADS]
    centres = np.stack([np.array(COLUMNS_M)[cells % len(COLUMNS_M)], np.array(ROWS_M)[cells // len(COLUMNS_M)]], 1)
    places = centres + rng.uniform(-JITTER_M, JITTER_M, centres.shape)
    return TrailScene(tuple(COLOURS), places, trails.following[0], int(trails.start[0]), int(trails.end[0]), length)


def pad_body(colour: str) -> str:
    return f"{colour}_pad"


@dataclass(frozen=True)
class FollowTrail:
    """length: hops of every scene's trail; None: drawn from the seed."""

    length: int | None = None

    name = "follow_trail"
    instruction = INSTRUCTION.format("<colour>")
    stages = ("start", "hand near the end", "hand above the end", "end touched", "end pressed first")

    def scene(self, seed: int) -> TrailScene:
        return trail_scene(int(seed), self.length)

    def instruction_of(self, seed: int) -> str:
        return self.scene(seed).instruction

    def target(self, seed: int) -> str:
        scene = self.scene(seed)
        return pad_body(scene.colours[scene.end])

    def place(self, seed: int, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        arrange(self.scene(seed), model)

    def spec(self) -> mujoco.MjSpec:
        """The arms and table of gym-aloha's first scene, with pads instead of its cube."""
        spec = ALOHA_TASKS[0].spec()
        for body in [body for body in spec.bodies if any(joint.type == mujoco.mjtJoint.mjJNT_FREE for joint in body.joints)]:
            spec.delete(body)
        for key in list(spec.keys):
            spec.delete(key)
        for i, colour in enumerate(COLOURS):
            _add_pad(spec, colour, (COLUMNS_M[i % len(COLUMNS_M)], ROWS_M[i // len(COLUMNS_M)]))
        return spec

    def model(self) -> mujoco.MjModel:
        return self.spec().compile()

    def meter(self, model: mujoco.MjModel, data: mujoco.MjData) -> PressMeter:
        return PressMeter(self, model, data)


def arrange(scene: TrailScene, model: mujoco.MjModel) -> None:
    """Put the pads of a scene on the table, and colour their marks."""
    for i, colour in enumerate(scene.colours):
        model.body(pad_body(colour)).pos[:2] = scene.places[i]
        model.geom(f"{colour}_mark").rgba[:3] = COLOURS[scene.colours[scene.following[i]]]


def _add_pad(spec: mujoco.MjSpec, colour: str, place: tuple[float, float]) -> None:
    """A pad on a spring; frame and mark lie on it and touch nothing."""
    inertia = PAD_MASS_KG * PAD_HALF_M**2  # any: it does not turn
    body = spec.worldbody.add_body(
        name=pad_body(colour), pos=[*place, PAD_HEIGHT_M], mass=PAD_MASS_KG, inertia=[inertia] * 3, explicitinertial=True
    )
    body.add_joint(
        name=f"{colour}_press",
        type=mujoco.mjtJoint.mjJNT_SLIDE,
        axis=[0, 0, 1],
        limited=True,
        range=[-TRAVEL_M, 0.0],
        stiffness=SPRING_N_PER_M,
        springref=PRELOAD_M,
        damping=DAMPING,
    )
    layers = (  # name, half width, half thickness, height over the pad's centre [m], colour
        ("pad", PAD_HALF_M, PAD_HALF_THICKNESS_M, 0.0, COLOURS[colour]),
        ("frame", FRAME_HALF_M, 0.0002, PAD_HALF_THICKNESS_M, (0.02, 0.02, 0.02)),
        ("mark", MARK_HALF_M, 0.0004, PAD_HALF_THICKNESS_M, COLOURS[colour]),
    )
    for name, half, thickness, height, rgb in layers:
        touches = int(name == "pad")
        body.add_geom(
            name=f"{colour}_{name}",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[half, half, thickness],
            pos=[0.0, 0.0, height],
            rgba=[*rgb, 1.0],
            contype=touches,
            conaffinity=touches,
        )


class PressMeter:
    """Which pad was pressed first, measured by contact and by how far it went down."""

    def __init__(self, task: FollowTrail, model: mujoco.MjModel, data: mujoco.MjData):
        self._task, self._data, self._names = task, data, geom_names(model)
        self.memory: int | None = None  # the pad that was pressed first
        self._travel = np.array([model.joint(f"{colour}_press").qposadr[0] for colour in COLOURS])
        self._pad_of = {model.geom(f"{colour}_pad").id: i for i, colour in enumerate(COLOURS)}
        bodies = [model.body(int(body)).name for body in model.geom_bodyid]
        self._of_arm = {geom for geom, body in enumerate(bodies) if body.startswith("vx300s_")}
        self._end, self._side, self._place = 0, "left", np.zeros(2)

    def begin(self, seed: int) -> None:
        scene = self._task.scene(seed)
        self._end, self._side, self._place = scene.end, scene.sides[scene.end], scene.places[scene.end]
        self.memory = None

    def look(self) -> None:
        if self.memory is not None:
            return
        down = np.flatnonzero(self._data.qpos[self._travel] < -PRESSED_M)
        if len(down) == 0:
            return
        pressed = sorted(self._touched() & set(down.tolist()), key=lambda pad: pad == self._end)  # at once: the wrong one counts
        if pressed:
            self.memory = pressed[0]

    def stage(self) -> int:
        if self.memory is not None:
            return MAX_STAGE if self.memory == self._end else 0
        if self.reached():
            return 3
        hand = self._data.body(f"vx300s_{self._side}/gripper_link")
        tip = hand.xpos + FINGERTIP_M * hand.xmat[::3]
        distance = float(np.linalg.norm(tip[:2] - self._place))
        return 2 if distance < ABOVE_M else 1 if distance < NEAR_M else 0

    def reached(self) -> bool:
        """An arm touches the end."""
        return self._end in self._touched()

    def contacts(self) -> set[tuple[str, str]]:
        return contact_names(self._names, self._data)

    def _touched(self) -> set[int]:
        """Pads that an arm touches."""
        found = set()
        for pair in self._data.contact.geom[: self._data.ncon].tolist():
            for pad, other in (pair, pair[::-1]):
                if pad in self._pad_of and other in self._of_arm:
                    found.add(self._pad_of[pad])
        return found
