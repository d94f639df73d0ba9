"""The two tasks of gym-aloha: what lies where for a seed, and how far an episode has come (its own reward, 0..4)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import mujoco
import numpy as np

from rdvla_ros.sim import SimulationError
from rdvla_ros.sim.tasks.base import contact_names, free_qpos, geom_names


@dataclass(frozen=True)
class AlohaTask:
    """One task. objects: seed -> the free joints' positions (7 per object: x y z, quaternion w x y z)."""

    name: str
    instruction: str
    scene_file: str
    reward_class: str
    objects: Callable[[int], np.ndarray]
    reach_geom: str  # the right gripper touching this geom counts as 'reached'
    stages: tuple[str, ...]  # what stage 0..4 means

    def spec(self) -> mujoco.MjSpec:
        return mujoco.MjSpec.from_file(str(scene_path(self)))

    def model(self) -> mujoco.MjModel:
        return mujoco.MjModel.from_xml_path(str(scene_path(self)))

    def instruction_of(self, seed: int) -> str:
        return self.instruction

    def place(self, seed: int, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        data.qpos[free_qpos(model) :] = self.objects(int(seed))

    def target(self, seed: int) -> str:
        return ""

    def meter(self, model: mujoco.MjModel, data: mujoco.MjData) -> StageMeter:
        return StageMeter(self, model, data)


def _place_box(seed: int) -> np.ndarray:
    return _utils().sample_box_pose(seed)


def _place_peg_and_socket(seed: int) -> np.ndarray:
    return np.concatenate(_utils().sample_insertion_pose(seed))


ALOHA_TASKS = (
    AlohaTask(
        name="transfer_cube",
        instruction="pick up the red cube with the right arm and hand it to the left arm",
        scene_file="bimanual_viperx_transfer_cube.xml",
        reward_class="TransferCubeTask",
        objects=_place_box,
        reach_geom="red_box",
        stages=("start", "right touches", "right lifted", "left touches", "transferred"),
    ),
    AlohaTask(
        name="insertion",
        instruction="pick up the peg and the socket and insert the peg into the socket",
        scene_file="bimanual_viperx_insertion.xml",
        reward_class="InsertionTask",
        objects=_place_peg_and_socket,
        reach_geom="red_peg",
        stages=("start", "both touched", "both lifted", "peg meets socket", "inserted"),
    ),
)


def scene_path(task: AlohaTask) -> Path:
    """The scene file inside the installed package gym-aloha."""
    path = Path(_utils().__file__).parent / "assets" / task.scene_file
    if not path.is_file():
        raise SimulationError(f"Scene of task '{task.name}': expected {path} in the package gym-aloha, found nothing.")
    return path


KNOWN_CONTACTS = 4096


class StageMeter:
    """gym-aloha's reward of the present state, computed by gym-aloha's own task class.

    That class looks for one order of each contact pair, (object, finger) and (object, table). MuJoCo puts the geom of the
    lower type first, so boxes (the objects) come before meshes (fingers, table), and two boxes in the order of the scene
    file: the orders asked for are the ones that occur, every stage is attainable, and nothing has to be mended.
    test_sim_tasks.py holds it for the installed version.
    """

    memory = None  # the stage follows from the present contacts alone

    def __init__(self, task: AlohaTask, model: mujoco.MjModel, data: mujoco.MjData):
        self._reward = getattr(_task_module(), task.reward_class)(random=False).get_reward
        names = geom_names(model)
        self._physics = SimpleNamespace(data=data, model=SimpleNamespace(id2name=lambda index, _: names[index]))
        self._names, self._data, self._task = names, data, task
        self._right_fingers = {i for i, name in enumerate(names) if name.startswith("vx300s_right/10_")}
        self._reach_geom = names.index(task.reach_geom)
        self._known: dict[bytes, int] = {}  # contacts -> stage

    def begin(self, seed: int) -> None: ...

    def look(self) -> None: ...

    def stage(self) -> int:
        """0..4."""
        contacts = self._data.contact.geom[: self._data.ncon].tobytes()  # all that gym-aloha looks at, in slow Python
        if contacts not in self._known:
            if len(self._known) >= KNOWN_CONTACTS:
                self._known.clear()
            self._known[contacts] = int(self._reward(self._physics))
        return self._known[contacts]

    def reached(self) -> bool:
        """A finger of the right gripper touches the task's object."""
        pairs = self._data.contact.geom[: self._data.ncon]
        return any(self._reach_geom in pair and not self._right_fingers.isdisjoint(pair) for pair in pairs.tolist())

    def contacts(self) -> set[tuple[str, str]]:
        return contact_names(self._names, self._data)


@lru_cache(maxsize=1)
def _utils():
    try:
        from gym_aloha import utils
    except ImportError as error:
        raise SimulationError(
            f"The simulated robot needs the package gym-aloha ({error}). Install it with 'pip install gym-aloha' or 'make setup'."
        ) from error
    return utils


@lru_cache(maxsize=1)
def _task_module():
    """gym_aloha.tasks.sim. It imports dm_control, whose renderer would open a second GL display at import: switched off."""
    previous = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "off"
    try:
        from gym_aloha.tasks import sim
    except ImportError as error:
        raise SimulationError(f"gym-aloha's success measure cannot be imported ({error}). 'pip install gym-aloha'.") from error
    finally:
        if previous is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = previous
    return sim
