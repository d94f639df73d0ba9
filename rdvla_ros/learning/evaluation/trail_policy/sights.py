"""Pictures of the trail task: at the start of an episode, and with an arm on its way to a pad."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rdvla_ros.learning.evaluation.pictures.scenes import normalised
from rdvla_ros.learning.evaluation.pictures.seeing import picture_place
from rdvla_ros.learning.evaluation.trail_policy.paths import END_S, PressPaths
from rdvla_ros.model.backbones.compact import CameraInput
from rdvla_ros.model.images import prepare_image
from rdvla_ros.robot import RobotDescription
from rdvla_ros.sim.scene import AlohaSim
from rdvla_ros.sim.tasks.follow_trail import FollowTrail, trail_scene

PATCH_PX, CHANGE = 3, 25.0  # a pad is hidden where its middle changes by this much of 255
NOISE_RAD = 0.01  # of the arms' joints
SAVE_EVERY = 100


@dataclass
class Sights:
    """N pictures of N / 2 scenes: the start, and the arm on its way to `pad`. Pad i has colour i.

    views (N, 3, h, w) uint8. places (N, P, 2) in -1..1. following, hidden (N, P): the pad that each leads to; whether the arm
    hides it. pad, time_s (N,): where the arm goes, since when.
    """

    views: Tensor
    places: Tensor
    following: Tensor
    hidden: Tensor
    pad: Tensor
    time_s: Tensor

    def __len__(self) -> int:
        return len(self.pad)


def sights(robot: RobotDescription, view: CameraInput, paths: PressPaths, seeds: Sequence[int], path: Path) -> Sights:
    """Two pictures per seed; what `path` holds is not made again."""
    rows = torch.load(path, weights_only=True) if path.is_file() else []
    left = list(seeds)[len(rows) // 2 :]
    if left:
        sim = AlohaSim(FollowTrail())
        for count, seed in enumerate(tqdm(left, desc="sights", unit="scene")):
            rows += _of_scene(robot, view, paths, sim, seed)
            if count % SAVE_EVERY == SAVE_EVERY - 1 or seed == left[-1]:
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.save(rows, path.with_name(f".{path.name}"))
                os.replace(path.with_name(f".{path.name}"), path)
        sim.close()
    columns = [torch.stack(column) for column in zip(*rows[: 2 * len(seeds)], strict=True)]
    scenes = [trail_scene(seed) for seed in seeds for _ in range(2)]
    places = torch.from_numpy(normalised(np.stack([scene.places for scene in scenes])))
    following = torch.from_numpy(np.stack([scene.following for scene in scenes]))
    return Sights(columns[0], places, following, _hidden(columns[0], places), columns[1].long(), columns[2])


def _of_scene(robot: RobotDescription, view: CameraInput, paths: PressPaths, sim: AlohaSim, seed: int) -> list[tuple]:
    return [
        (_look(robot, view, sim), torch.tensor(pad), torch.tensor(time_s)) for pad, time_s in moments(robot, paths, sim, seed)
    ]


def moments(robot: RobotDescription, paths: PressPaths, sim: AlohaSim, seed: int) -> Iterator[tuple[int, float]]:
    """(pad, time_s) of a scene's two pictures; the simulator shows it until the next one is asked for."""
    rng, scene = np.random.default_rng((seed, 11)), trail_scene(seed)
    sim.reset(seed)
    ends = np.flatnonzero(scene.following == np.arange(len(scene.following)))
    pad, time_s = int(rng.choice(ends)), float(rng.uniform(0.1, END_S))
    yield pad, 0.0
    place = torch.from_numpy(normalised(scene.places[pad]))[None, None]
    position = PressPaths.at(paths.rows(place, (place[..., 0] > 0).long()), torch.tensor([time_s]))[0, 0].double().numpy()
    sim.put_arms(robot.from_policy(position + rng.normal(0.0, NOISE_RAD, position.shape)))
    yield pad, time_s


def _look(robot: RobotDescription, view: CameraInput, sim: AlohaSim) -> Tensor:
    """(3, h, w) uint8."""
    camera = next(camera for camera in robot.cameras if camera.name == view.source)
    picture = prepare_image(sim.render(camera.name, camera.width, camera.height), view)
    return torch.from_numpy(picture).permute(2, 0, 1)


def _hidden(views: Tensor, places: Tensor) -> Tensor:
    """(N, P) bool, by comparison with the picture of the start."""
    height, width = views.shape[-2:]
    at = (picture_place(places) * torch.tensor([width, height])).long()
    half = PATCH_PX // 2
    hidden = torch.zeros(places.shape[:2], dtype=torch.bool)
    for n in range(1, len(views), 2):
        change = (views[n].float() - views[n - 1].float()).abs().amax(0)
        for p, (x, y) in enumerate(at[n].tolist()):
            patch = change[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1]
            hidden[n, p] = bool(patch.mean() > CHANGE)
    return hidden
