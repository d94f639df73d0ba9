"""What every task of the simulated ALOHA offers: its scene, what lies where for a seed, and how far an episode has come."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

import mujoco
import numpy as np

MAX_STAGE = 4


class Meter(Protocol):
    """How far an episode has come. `look` is called after every call of `AlohaSim.step`; what a meter must remember of it (a pad
    that was pressed) is part of a snapshot."""

    memory: Hashable

    def begin(self, seed: int) -> None:
        """An episode with the scene of this seed begins."""

    def look(self) -> None:
        """Note what the present state shows."""

    def stage(self) -> int:
        """0..MAX_STAGE, of the present state and what was noted."""

    def reached(self) -> bool:
        """A gripper touches what the task is about."""

    def contacts(self) -> set[tuple[str, str]]:
        """Names of the geoms that touch, in MuJoCo's order."""


class Task(Protocol):
    """name: of the task. stages: what stage 0..MAX_STAGE means."""

    name: str
    stages: tuple[str, ...]

    def spec(self) -> mujoco.MjSpec:
        """The scene, arms included, for programs that change it."""

    def model(self) -> mujoco.MjModel:
        """The scene, compiled."""

    def instruction_of(self, seed: int) -> str:
        """What the policy is told in the scene of this seed."""

    def place(self, seed: int, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Put the objects where they are at the start of an episode; they may still fall."""

    def target(self, seed: int) -> str:
        """The body that the instruction means, where it does not say so itself; empty: it does."""

    def meter(self, model: mujoco.MjModel, data: mujoco.MjData) -> Meter: ...


def contact_names(names: list[str], data: mujoco.MjData) -> set[tuple[str, str]]:
    pairs = data.contact.geom[: data.ncon].tolist()
    return {(names[first], names[second]) for first, second in pairs}


def geom_names(model: mujoco.MjModel) -> list[str]:
    return [model.geom(i).name for i in range(model.ngeom)]


def free_qpos(model: mujoco.MjModel) -> int:
    """Where the free joints' positions begin: they are the scene's last."""
    return int(model.nq) - 7 * int(np.sum(model.jnt_type == mujoco.mjtJoint.mjJNT_FREE))
