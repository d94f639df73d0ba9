"""What a backbone that stands still makes of observations: kept, so that a step of the head costs a fraction of a decision."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rdvla_ros.control.motion.horizon import make_horizon
from rdvla_ros.learning.evaluation.rollout import Rollout
from rdvla_ros.learning.evaluation.trail_policy.paths import PressPaths
from rdvla_ros.learning.evaluation.trail_policy.sights import moments
from rdvla_ros.model.backbones.compact import CameraInput
from rdvla_ros.model.images import prepare_image
from rdvla_ros.model.policy import Policy
from rdvla_ros.robot import RobotDescription
from rdvla_ros.sim.scene import AlohaSim
from rdvla_ros.types import Decision, Observation

SAVE_EVERY = 100


@dataclass
class Observed:
    """N observations of some backbone.

    task (N, L, P, C), latents (N, L, Q, C): float16, of the L layers that heads read. positions (N, A): measured [policy units].
    before (N,): row of the decision before; of an episode's first one, its own. views (N, 3, h, w): uint8, until they have been
    made tokens of the latents.
    """

    task: Tensor
    latents: Tensor
    positions: Tensor
    before: Tensor
    views: Tensor | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def states(self, rows: Tensor, layers: Sequence[int]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """As `RDVLAHead.encode` takes them."""
        task, latents = self.task[rows].float(), self.latents[rows].float()
        return tuple({layer: part[:, i] for i, layer in enumerate(layers)} for part in (task, latents))

    def with_tokens(self, tokens: Tensor) -> Observed:
        """tokens (N, T, C): of the views, and of the instruction; they stand beside the latent queries in every layer."""
        beside = tokens.half().unsqueeze(1).expand(-1, self.latents.shape[1], -1, -1)
        return replace(self, latents=torch.cat([self.latents, beside], 2), views=None)


def joined(parts: Sequence[Observed]) -> Observed:
    firsts = np.cumsum([0, *map(len, parts)])
    before = torch.cat([part.before + int(first) for part, first in zip(parts, firsts, strict=False)])
    rest = (torch.cat([getattr(part, name) for part in parts]) for name in ("task", "latents", "positions"))
    return Observed(*rest, before)


class RecordingPolicy(Policy):
    """A policy that keeps what its backbone saw. view: of a camera, kept as a picture beside it (None: none)."""

    view: CameraInput | None = None

    def __init__(self, *arguments: object, **options: object):
        super().__init__(*arguments, **options)
        self._see, self._states = self._states, self._seen
        self.begin()

    def begin(self) -> None:
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []
        self._views: list[Tensor] = []

    def decide(self, observation: Observation, **options: object) -> Decision:
        self._now = torch.from_numpy(np.asarray(observation.positions, np.float32))
        if self.view is not None:
            picture = prepare_image(observation.images[self.view.source], self.view)
            self._views.append(torch.from_numpy(picture).permute(2, 0, 1))
        return super().decide(observation, **options)

    def _seen(self, images: dict[str, Tensor], text: Tensor) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        states = self._see(images, text)
        task, latents = (torch.cat([part[layer] for layer in sorted(part)]).half() for part in states)
        self._kept.append((task, latents, self._now))
        return states

    def kept(self) -> Observed:
        columns = [torch.stack(column) for column in zip(*self._kept, strict=True)]
        views = torch.stack(self._views) if self._views else None
        return Observed(*columns, (torch.arange(len(columns[0])) - 1).clamp(min=0), views)


def episodes(
    checkpoint: Path, robot: RobotDescription, task: str, seeds: Sequence[int], folder: Path, view: CameraInput | None = None
) -> list[Observed]:
    """One per seed, each in a file of its own: what lies there is not run again."""
    paths = [folder / f"{task}_{seed}.pt" for seed in seeds]
    left = [(seed, path) for seed, path in zip(seeds, paths, strict=True) if not path.is_file()]
    if left:
        folder.mkdir(parents=True, exist_ok=True)
        policy = RecordingPolicy.load(checkpoint)
        policy.view = view
        rollout = Rollout(policy, AlohaSim(task), robot, make_horizon(policy.horizon_config))
        for seed, path in tqdm(left, desc=f"{task}, observed", unit="episode"):
            policy.begin()
            policy.reseed(seed)
            rollout.run(seed)
            _save(vars(policy.kept()), path)
        rollout.sim.close()
    return [Observed(**torch.load(path, weights_only=True)) for path in paths]


def of_trails(checkpoint: Path, robot: RobotDescription, paths: PressPaths, seeds: Sequence[int], path: Path) -> Observed:
    """The scenes of `trail_policy.sights`, two observations of each, in its order."""
    rows = torch.load(path, weights_only=True) if path.is_file() else []
    left = list(seeds)[len(rows) // 2 :]
    if left:
        policy, sim = RecordingPolicy.load(checkpoint), AlohaSim("follow_trail")
        rollout = Rollout(policy, sim, robot, make_horizon(policy.horizon_config))
        for count, seed in enumerate(tqdm(left, desc="trails, observed", unit="scene")):
            policy.begin()
            rollout.eyes.begin(seed)
            for _ in moments(robot, paths, sim, seed):
                policy.decide(Observation(rollout.eyes.look(), robot.to_policy(sim.positions), sim.instruction, sim.time_s))
            kept = policy.kept()
            rows += [(kept.task[i], kept.latents[i], kept.positions[i]) for i in range(len(kept))]
            if count % SAVE_EVERY == SAVE_EVERY - 1 or seed == left[-1]:
                _save(rows, path)
        sim.close()
    columns = [torch.stack(column) for column in zip(*rows[: 2 * len(seeds)], strict=True)]
    return Observed(*columns, torch.arange(len(columns[0])))


def _save(value: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    torch.save(value, part)
    os.replace(part, path)
