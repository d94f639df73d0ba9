"""Demonstrations as flat arrays of observations: pictures at the network's size on disk (memory-mapped), the rest in memory.

The cache is made once per set of datasets; several training processes share its pages.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rdvla_ros.learning.config import DataSettings, TrainingError
from rdvla_ros.learning.data.lerobot import EXPERT_CHUNK, EXPERT_PHASE, IMAGES, INFO
from rdvla_ros.learning.data.lerobot.reader import EpisodeEntry, LeRobotDataset
from rdvla_ros.model.backbones.compact import CameraInput
from rdvla_ros.model.images import prepare_image
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import nearest_names


@dataclass(frozen=True)
class Frames:
    """N observations of all episodes. images: camera -> (N, h, w, 3) uint8 (memory-mapped); positions (N, A);
    labels (N, R, A): joint targets of the next R action steps, absolute policy units; instruction_index (N,) into
    instructions; phase_index (N,) into phases (the expert's); held_out (N,) bool: never trained on."""

    images: dict[str, np.ndarray]
    positions: np.ndarray
    labels: np.ndarray
    instruction_index: np.ndarray
    instructions: tuple[str, ...]
    phase_index: np.ndarray
    phases: tuple[str, ...]
    held_out: np.ndarray
    joint_names: tuple[str, ...]
    step_s: float

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class Wanted:
    """What a run takes from its datasets. rows: of each label; every held_out_every-th episode is for validation only."""

    settings: DataSettings
    cameras: tuple[CameraInput, ...]
    robot: RobotDescription
    rows: int
    held_out_every: int

    def camera_key(self, camera: str) -> str:
        return self.settings.cameras.get(camera, IMAGES + camera)


class _Source:
    """One dataset as this run reads it: joints in the robot's order and policy units, one observation per action step."""

    def __init__(self, folder: Path, wanted: Wanted):
        self.data, self.wanted = LeRobotDataset(folder), wanted
        settings = wanted.settings
        for camera in wanted.cameras:
            key = wanted.camera_key(camera.name)
            if key not in self.data.cameras:
                raise TrainingError(
                    f"{folder}: no camera '{camera.name}' ({key}). {nearest_names(key, self.data.cameras)} Name its "
                    "feature under data.cameras of the configuration."
                )
        self.positions = self._joints(settings.state)
        self.actions = self._joints(settings.action)
        frames_per_step = self.data.fps * settings.step_s
        self.stride = settings.frame_stride or max(1, round(frames_per_step))
        self._frames_per_step = frames_per_step
        if frames_per_step < 0.99:
            raise TrainingError(
                f"{folder}: {self.data.fps:g} frames per second are fewer than the action steps of data.step_s = "
                f"{settings.step_s:g} s. Choose data.step_s of at least {1 / self.data.fps:g}."
            )
        self.chunks = self._expert_chunks()
        self.phases = self.data.text(EXPERT_PHASE) if EXPERT_PHASE in self.data.features else None

    def _joints(self, key: str) -> np.ndarray:
        """(N, A) in the robot's joint order, policy units."""
        settings, robot, data = self.wanted.settings, self.wanted.robot, self.data
        width = data.width(key)
        names = list(settings.joints) or data.names(key)
        if width != len(robot.joints):
            raise TrainingError(
                f"{data.folder}: '{key}' has {width} numbers per frame, the robot '{robot.name}' {len(robot.joints)} joints "
                f"({', '.join(robot.joint_names)}). Choose the robot that the dataset was recorded with."
            )
        if names is None:
            raise TrainingError(
                f"{data.folder}: '{key}' does not name its numbers ({INFO}: names). List the joints in the dataset's order under "
                f"data.joints of the configuration, with the robot's names: {', '.join(robot.joint_names)}."
            )
        for name in robot.joint_names:
            if name not in names:
                raise TrainingError(
                    f"{data.folder}: '{key}' has no joint '{name}'. {nearest_names(name, names)} List the joints in the "
                    "dataset's order under data.joints of the configuration, with the robot's names."
                )
        values = data.numbers(key)[:, [names.index(name) for name in robot.joint_names]]
        return robot.to_policy(values).astype(np.float32) if settings.gripper_units == "controller" else values

    def _expert_chunks(self) -> np.ndarray | None:
        if not self.wanted.settings.expert_chunks or EXPERT_CHUNK not in self.data.features:
            return None
        chunks = self.data.numbers(EXPERT_CHUNK).reshape(len(self.data), -1, len(self.wanted.robot.joints))
        if chunks.shape[1] < self.wanted.rows:
            raise TrainingError(
                f"{self.data.folder}: '{EXPERT_CHUNK}' has {chunks.shape[1]} rows, the run reads {self.wanted.rows}. Lower "
                "label_rows, or set data.expert_chunks to false to learn from the recorded actions."
            )
        return chunks[:, : self.wanted.rows]

    def frames(self, episode: EpisodeEntry) -> np.ndarray:
        return np.arange(episode.begin, episode.end, self.stride)

    def labels(self, episode: EpisodeEntry) -> np.ndarray:
        """(T, R, A): row i is the target that the joints are to reach (i + 1) steps later; the last one stays after the end."""
        frames = self.frames(episode)
        if self.chunks is not None:
            return self.chunks[frames]
        # The action of frame t is reached at frame t + 1, so what is due after s frames was commanded s - 1 frames from now.
        ahead = np.round((np.arange(self.wanted.rows) + 1) * self._frames_per_step).astype(int) - 1
        return self.actions[np.minimum(frames[:, None] + ahead, episode.end - 1)]


def build_cache(folders: Sequence[Path], cache: Path, wanted: Wanted) -> None:
    """Write the observations of all datasets below `cache`, unless exactly these are there already."""
    if not folders:
        raise TrainingError("Expected at least one dataset (--data), got none. Record one with 'rdvla demonstrate'.")
    described = [[str(folder), (folder / INFO).stat().st_mtime_ns if (folder / INFO).is_file() else 0] for folder in folders]
    key = hashlib.sha256(json.dumps([described, repr(wanted)]).encode()).hexdigest()
    index_file = cache / "index.json"
    if index_file.is_file() and json.loads(index_file.read_text())["key"] == key:
        return
    sources = [_Source(Path(folder), wanted) for folder in folders]
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    episodes = [(source, episode) for source in sources for episode in source.data.episodes]
    columns = [_rest(source, episode) for source, episode in episodes]
    try:
        for camera in wanted.cameras:
            with (cache / f"{camera.name}.u8").open("wb") as stream:
                for source, episode in tqdm(episodes, desc=f"reading camera {camera.name}", unit="episode"):
                    pictures = source.data.pictures(wanted.camera_key(camera.name), episode)
                    for i, picture in enumerate(pictures):
                        if i % source.stride == 0:
                            stream.write(prepare_image(picture, camera).tobytes())
        np.savez(cache / "rest.npz", **{name: np.concatenate([part[name] for part in columns]) for name in columns[0]})
        index = {"key": key, "joint_names": wanted.robot.joint_names, "step_s": wanted.settings.step_s, "episodes": len(episodes)}
        index_file.write_text(json.dumps(index))
    except OSError as error:
        shutil.rmtree(cache, ignore_errors=True)
        raise TrainingError(f"{cache} could not be written: {error}. Make room, or choose another --output.") from error


def _rest(source: _Source, episode: EpisodeEntry) -> dict[str, np.ndarray]:
    frames, every = source.frames(episode), source.wanted.held_out_every
    return {
        "positions": source.positions[frames],
        "labels": source.labels(episode),
        "instruction": np.full(len(frames), episode.task),
        "phase": source.phases[frames] if source.phases is not None else np.full(len(frames), ""),
        "held_out": np.full(len(frames), episode.index % every == every - 1),
    }


def open_cache(cache: Path, cameras: Sequence[CameraInput]) -> Frames:
    index = json.loads((cache / "index.json").read_text())
    with np.load(cache / "rest.npz", allow_pickle=False) as data:
        rest = {name: data[name] for name in data.files}
    count = len(rest["positions"])
    images = {
        camera.name: np.memmap(cache / f"{camera.name}.u8", np.uint8, "r", shape=(count, camera.height, camera.width, 3))
        for camera in cameras
    }
    instructions, instruction_index = np.unique(rest.pop("instruction"), return_inverse=True)
    phases, phase_index = np.unique(rest.pop("phase"), return_inverse=True)
    return Frames(
        images,
        instructions=tuple(map(str, instructions)),
        instruction_index=instruction_index,
        phases=tuple(map(str, phases)),
        phase_index=phase_index,
        joint_names=tuple(index["joint_names"]),
        step_s=index["step_s"],
        **rest,
    )


def shuffled_batch(count: int, step: int, batch_size: int, seed: int) -> np.ndarray:
    """Indices of the batch of one step: epoch after epoch in a new order, the same for whoever asks."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // count
    orders = {epoch: np.random.default_rng((seed, int(epoch))).permutation(count) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][position % count] for epoch, position in zip(epochs, positions, strict=True)])
