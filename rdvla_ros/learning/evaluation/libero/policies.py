"""What acts in LIBERO: a published checkpoint, chance, or a script that knows where the objects are."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from rdvla_ros.learning.evaluation.libero.client import LiberoError, Seen
from rdvla_ros.model.halting import make_halting
from rdvla_ros.model.prompt_tokenizer import PromptTokenizer, qwen_tokenizer
from rdvla_ros.model.published import load_model
from rdvla_ros.model.published_statistics import load_scalers

HALTING = {"rule": "fixed", "iterations": 12}
STEP_M = 0.05  # of robosuite's OSC_POSE: an action of 1 is a step of so many metres


class LiberoPolicy(Protocol):
    def begin(self, instruction: str, seed: int) -> None: ...

    def act(self, seen: Seen) -> np.ndarray:
        """(n, 7) actions to execute before the next look."""


class PublishedPolicy:
    """A published folder, as its authors evaluate it: JPEG round trip, Lanczos, centre crop; the first `execute` of a chunk."""

    def __init__(self, folder: Path, dataset: str | None, execute: int = 5, halting: dict | None = None):
        self._model = load_model(folder, kernel="lanczos3", jpeg=True)
        self._tokenizer, self._execute = PromptTokenizer(qwen_tokenizer(folder)), execute
        self._proprio, self._action = load_scalers(folder, dataset=dataset)
        widths = (len(self._proprio.low), len(self._action.low))
        if widths != (8, 7):
            raise LiberoError(f"{folder}: expected a LIBERO checkpoint (8 numbers of state, 7 of action), its data has {widths}.")
        self._rule = make_halting(halting or HALTING)
        self._generator = torch.Generator()

    def begin(self, instruction: str, seed: int) -> None:
        self._generator.manual_seed(seed)
        self._ids = torch.tensor([self._tokenizer.encode(instruction)])

    @torch.inference_mode()
    def act(self, seen: Seen) -> np.ndarray:
        model, head = self._model, self._model.head
        prepared = [model.backbone.config.preprocessing(seen.images[name]) for name in ("agentview", "wrist")]
        pixels = torch.from_numpy(np.concatenate(prepared))[None]
        task, latents = model.backbone(pixels, self._ids)
        proprio = torch.from_numpy(self._proprio.normalise(libero_state(seen)).clip(-1.0, 1.0).astype(np.float32))[None]
        start = head.initial_state(1, self._generator)
        actions = head.refine(head.encode(task, latents, proprio), self._rule, start).actions[0].double().numpy()
        return gripper_command(self._action.denormalise(actions))[: self._execute]


class RandomPolicy:
    """Uniform actions, one at a time."""

    def begin(self, instruction: str, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def act(self, seen: Seen) -> np.ndarray:
        return self._rng.uniform(-1.0, 1.0, (1, 7))


class ScriptedPolicy:
    """Takes the first object of interest from above and puts it on the second one, by their true positions: a check of the
    simulator and of the way to it, not a policy. It turns no knob and opens no drawer."""

    HIGH_M, LIFTED_M, NEAR_M, CLOSE_STEPS = 0.12, 0.2, 0.01, 12

    def begin(self, instruction: str, seed: int) -> None:
        self._phase, self._count = 0, 0
        self._grasp: np.ndarray | None = None

    def act(self, seen: Seen) -> np.ndarray:
        if not seen.objects:
            return np.array([[0, 0, 0, 0, 0, 0, -1.0]])
        places = list(seen.objects.values())
        thing, goal = places[0], places[-1]
        hand, up = seen.position, np.array([0, 0, 1.0])
        closed, target = self._phase in (2, 3, 4), hand
        if self._phase == 0:  # above it
            target = thing + self.HIGH_M * up
        elif self._phase == 1:  # down to it
            target = thing + 0.005 * up
        elif self._phase == 3:  # up
            target = np.array([*self._grasp[:2], self._grasp[2] + self.LIFTED_M])
        elif self._phase == 4:  # over the goal
            target = np.array([*goal[:2], goal[2] + self.LIFTED_M])
        self._count += 1
        waits = self._phase in (2, 5)
        if self._count >= self.CLOSE_STEPS if waits else np.linalg.norm(target - hand) < self.NEAR_M or self._count > 80:
            self._phase, self._count, self._grasp = min(self._phase + 1, 5), 0, hand.copy() if self._phase == 2 else self._grasp
        step = np.clip((target - hand) / STEP_M * 1.5, -1.0, 1.0)
        return np.array([[*step, 0.0, 0.0, 0.0, 1.0 if closed else -1.0]])


def libero_state(seen: Seen) -> np.ndarray:
    """(8,) position, rotation vector and fingers, as LIBERO's data has them."""
    return np.concatenate([seen.position, rotation_vector(seen.quaternion), seen.fingers])


def rotation_vector(quaternion: np.ndarray) -> np.ndarray:
    """(4,) x y z w -> (3,) axis times angle 0 .. 2 pi: w is not made positive, as in robosuite."""
    w = float(np.clip(quaternion[3], -1.0, 1.0))
    sine = np.sqrt(1.0 - w * w)
    return np.zeros(3) if sine < 1e-9 else quaternion[:3] * 2.0 * np.arccos(w) / sine


def gripper_command(actions: np.ndarray) -> np.ndarray:
    """The data's gripper (0 closed .. 1 open) as robosuite's (1 closed, -1 open); the rest as it is."""
    actions = actions.copy()
    actions[:, 6] = np.where(actions[:, 6] > 0.5, -1.0, 1.0)
    return actions
