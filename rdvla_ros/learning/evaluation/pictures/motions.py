"""The expert's motions to every pad of some scenes, and a smooth map from a pad's place to the motion.

All episodes begin at the same pose of the arms, so the motion to a pad follows from its place and hand alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rdvla_ros.learning.evaluation.pictures.scenes import normalised
from rdvla_ros.robot import RobotDescription
from rdvla_ros.sim.expert import PERIOD_S, Expert
from rdvla_ros.sim.scene import AlohaSim
from rdvla_ros.sim.tasks.follow_trail import COLOURS, pad_body, trail_scene

ROWS, STEP_S = 24, 0.1  # of a motion: the pad is down after about two seconds
DEGREE = 4  # of the polynomial in x and y


@dataclass(frozen=True)
class ExpertMotions:
    """place (2,) in -1..1 -> motion (ROWS, A), normalised: position = middle + width * motion, policy units.
    weights: (hand, features, ROWS * A); residual: of the fit, the largest error [policy units]."""

    weights: np.ndarray
    middle: np.ndarray
    width: np.ndarray
    residual: float

    def of(self, places: Tensor, hand: Tensor) -> Tensor:
        """(B, P, 2), (B, P) -> (B, P, ROWS * A)"""
        features = torch.from_numpy(_features(places.numpy()))
        found = torch.einsum("bpf,hfa->bpha", features, torch.from_numpy(self.weights))
        return torch.take_along_dim(found, hand[..., None, None], 2).squeeze(2).float()

    def positions(self, chunk: np.ndarray) -> np.ndarray:
        """(ROWS, A) normalised -> policy units."""
        return self.middle + self.width * chunk


def motions_of(seeds: Sequence[int], robot: RobotDescription, path: Path) -> ExpertMotions:
    """Fitted to the nominal expert's motions to every pad of the scenes of `seeds`; what `path` holds is not run again."""
    places, sides, rows = _recorded(seeds, robot, path)
    middle, width = (rows.max((0, 1)) + rows.min((0, 1))) / 2, np.maximum((rows.max((0, 1)) - rows.min((0, 1))) / 2, 1e-3)
    targets, features = ((rows - middle) / width).reshape(len(rows), -1), _features(places)
    weights = np.stack([np.linalg.lstsq(features[sides == hand], targets[sides == hand], rcond=None)[0] for hand in (0, 1)])
    fitted = np.einsum("nf,nfa->na", features, weights[sides]).reshape(rows.shape)
    return ExpertMotions(weights, middle, width, float(np.abs(fitted * width + middle - rows).max()))


def _recorded(seeds: Sequence[int], robot: RobotDescription, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    done: dict[str, np.ndarray] = {}
    if path.is_file():
        with np.load(path) as data:
            done = {name: data[name] for name in data.files}
    left = [seed for seed in seeds if str(seed) not in done]
    if left:
        sim = AlohaSim("follow_trail")
        expert = Expert(sim.task, robot)
        for seed in tqdm(left, desc="motions", unit="scene"):
            done[str(seed)] = np.stack([_motion(sim, expert, robot, seed, colour) for colour in COLOURS])
            _save(path, done)
    scenes = [trail_scene(seed) for seed in seeds]
    places = normalised(np.concatenate([scene.places for scene in scenes]))
    return places, (places[:, 0] > 0).astype(np.int64), np.concatenate([done[str(seed)] for seed in seeds])


def _motion(sim: AlohaSim, expert: Expert, robot: RobotDescription, seed: int, colour: str) -> np.ndarray:
    """(ROWS, A) references of the expert that is told to press the pad of a colour."""
    sim.reset(seed)
    sim.target = pad_body(colour)
    memory, rows = expert.begin(sim), []
    for _ in range(ROWS):
        for _ in range(round(STEP_S / PERIOD_S)):
            memory, _ = expert.step(sim, memory)
            sim.set_reference(robot.from_policy(memory.reference))
            sim.step(round(PERIOD_S / sim.timestep_s))
        rows.append(memory.reference)
    return np.stack(rows)


def _features(places: np.ndarray) -> np.ndarray:
    """(.., 2) -> (.., 15): the monomials of x and y up to the degree."""
    x, y = places[..., 0].astype(np.float64), places[..., 1].astype(np.float64)
    return np.stack([x**i * y**j for i in range(DEGREE + 1) for j in range(DEGREE + 1 - i)], -1)


def _save(path: Path, done: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}")
    with part.open("wb") as file:
        np.savez(file, **done)
    os.replace(part, path)
