"""Pictures of the task's scenes from its top camera, and the same scenes as symbols."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rdvla_ros.learning.config import TrainingError
from rdvla_ros.learning.evaluation.symbols.scenes import HANDS, SymbolScenes
from rdvla_ros.model.backbones.compact import CameraInput
from rdvla_ros.model.images import prepare_image
from rdvla_ros.sim.scene import AlohaSim
from rdvla_ros.sim.tasks.follow_trail import COLUMNS_M, JITTER_M, ROWS_M, FollowTrail, TrailScene, trail_scene
from rdvla_ros.sim.trails import PADS, hops_to_end

# The part of the table on which pads lie, 5 mm per pixel: a pad is 12, its mark 7 pixels wide. One keypoint per colour.
TOP = CameraInput("top", 104, 88, crop=(0.34375, 0.3458, 0.65625, 0.7042), keypoints=PADS, channels=(16, 32, 64))
CAMERA_SIZE = (640, 480)  # [px] as the robot publishes it
MIDDLE_M = np.array([(COLUMNS_M[0] + COLUMNS_M[-1]) / 2, (ROWS_M[0] + ROWS_M[-1]) / 2])
HALF_M = np.array([COLUMNS_M[-1], (ROWS_M[-1] - ROWS_M[0]) / 2]) + JITTER_M  # of what is -1..1 as symbols
SAVE_EVERY = 200


@dataclass(frozen=True)
class Pictures:
    """N scenes. Pad i has colour i. images (N, 3, height, width) uint8. places (N, 10, 2): in -1..1. following (N, 10)."""

    images: Tensor
    places: Tensor
    following: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def hops(self) -> np.ndarray:
        """(N, 10): from every pad to its end."""
        return hops_to_end(self.following.numpy())

    def symbols(self, indices: np.ndarray, starts: np.ndarray) -> SymbolScenes:
        """What pictures (B,) show, with a start pad each (B,)."""
        following, places = self.following[indices], self.places[indices]
        rows, hand = np.arange(len(indices)), (places[..., 0] > 0).long()
        route = [torch.from_numpy(starts)]
        for _ in range(PADS - 1):
            route.append(following[rows, route[-1]])
        press = torch.zeros(len(indices), PADS, HANDS, 2)
        press.scatter_(2, hand[..., None, None].expand(-1, -1, 1, 2), places.unsqueeze(2))
        own = torch.arange(PADS).expand(len(indices), -1)
        lengths = torch.from_numpy(hops_to_end(following.numpy())[rows, starts])
        return SymbolScenes(own, following, places, hand, route[0], lengths, press.flatten(2), torch.stack(route, 1))


def normalised(places_m: np.ndarray) -> np.ndarray:
    """(.., 2) metres on the table -> -1..1."""
    return ((places_m - MIDDLE_M) / HALF_M).astype(np.float32)


def render(sim: AlohaSim, task: FollowTrail, seed: int) -> np.ndarray:
    """(height, width, 3) uint8, as a policy sees the start of the episode."""
    sim.task = task
    sim.reset(seed)
    return prepare_image(sim.render("top", *CAMERA_SIZE), TOP)


def pictures_of(seeds: Sequence[int], path: Path, length: int | None = None) -> Pictures:
    """One picture per seed; those that `path` holds are not made again."""
    task, images = FollowTrail(length), []
    if path.is_file():
        with np.load(path) as data:
            images = list(data["images"])
            found = data["seeds"].tolist()
        if found[: len(seeds)] != list(seeds)[: len(found)]:
            raise TrainingError(f"{path}: expected pictures of the seeds {seeds[0]}.., got others. Choose another --output.")
    left = list(seeds)[len(images) :]
    if left:
        sim = AlohaSim(task)
        for i, seed in enumerate(tqdm(left, desc=f"pictures, {path.stem}", unit="picture", mininterval=2.0)):
            images.append(render(sim, task, seed))
            if (i + 1) % SAVE_EVERY == 0 or i + 1 == len(left):
                _save(path, images, seeds)
        sim.close()
    scenes = [trail_scene(seed, length) for seed in seeds]
    tensor = torch.from_numpy(np.stack(images[: len(seeds)])).permute(0, 3, 1, 2)
    return Pictures(tensor, *_labels(scenes))


def _labels(scenes: Sequence[TrailScene]) -> tuple[Tensor, Tensor]:
    places = normalised(np.stack([scene.places for scene in scenes]))
    return torch.from_numpy(places), torch.from_numpy(np.stack([scene.following for scene in scenes]))


def _save(path: Path, images: list[np.ndarray], seeds: Sequence[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}")
    with part.open("wb") as file:
        np.savez(file, images=np.stack(images), seeds=np.array(list(seeds)[: len(images)]))
    os.replace(part, path)
