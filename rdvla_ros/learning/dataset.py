"""Demonstrations as flat arrays of observations: pictures at the network's size on disk (memory-mapped), the rest in memory.

The cache is made once per set of episodes; several training processes share its pages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rdvla_ros.learning.config import TrainingError
from rdvla_ros.learning.episodes import Episode, load_episode
from rdvla_ros.model.backbones.compact import CameraInput
from rdvla_ros.model.images import prepare_image
from rdvla_ros.types import nearest_names


def read_episode(path: Path, camera_names: Sequence[str], joint_names: Sequence[str] | None, rows: int) -> Episode:
    """Load one file and check it against what the run needs; TrainingError names the file and the field."""
    episode = load_episode(path)
    count, cameras, joints = (
        len(episode.positions),
        list(map(str, episode.camera_names)),
        list(map(str, episode.joint_names)),
    )
    for name in camera_names:
        if name not in cameras:
            raise TrainingError(f"{path}: no camera '{name}'. {nearest_names(name, cameras)}")
    if joint_names is not None and joints != list(joint_names):
        raise TrainingError(
            f"{path}: joint_names: expected {', '.join(joint_names)}; got {', '.join(joints)}. Do not mix robots."
        )
    if count == 0:
        raise TrainingError(f"{path}: positions: expected at least one step, got none.")
    if episode.positions.shape != (count, len(joints)):
        raise TrainingError(f"{path}: positions: expected shape (T, {len(joints)}), got {episode.positions.shape}.")
    shape = episode.labels.shape
    if len(shape) != 3 or shape[::2] != (count, len(joints)) or shape[1] < rows:
        raise TrainingError(f"{path}: labels: expected shape ({count}, at least {rows}, {len(joints)}), got {shape}.")
    if (
        episode.images.dtype != np.uint8
        or episode.images.shape[:2] != (count, len(cameras))
        or episode.images.shape[-1] != 3
    ):
        raise TrainingError(
            f"{path}: images: expected ({count}, {len(cameras)}, h, w, 3) uint8, got "
            f"{episode.images.shape} {episode.images.dtype}."
        )
    return episode


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


def episode_files(folders: Sequence[Path]) -> list[Path]:
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.npz"))]
    if not files:
        raise TrainingError(f"No episodes (*.npz) in {', '.join(map(str, folders))}. Record some with 'rdvla demonstrate'.")
    return files


def build_cache(files: Sequence[Path], cache: Path, cameras: Sequence[CameraInput], rows: int, held_out_every: int) -> None:
    """Write the frames of all files below `cache`, unless exactly these are there already."""
    described = [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    key = hashlib.sha256(json.dumps([described, [repr(c) for c in cameras], rows, held_out_every]).encode()).hexdigest()
    index_file = cache / "index.json"
    if index_file.is_file() and json.loads(index_file.read_text())["key"] == key:
        return
    cache.mkdir(parents=True, exist_ok=True)
    index_file.unlink(missing_ok=True)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("positions", "labels", "instruction", "phase", "held_out")}
    joint_names, step_s = None, 0.0
    streams = {camera.name: (cache / f"{camera.name}.u8").open("wb") for camera in cameras}
    try:
        for file in files:
            episode = read_episode(file, [c.name for c in cameras], joint_names, rows)
            joint_names, step_s = tuple(map(str, episode.joint_names)), episode.step_s
            for camera in cameras:
                pictures = episode.images[:, list(episode.camera_names).index(camera.name)]
                streams[camera.name].write(b"".join(prepare_image(picture, camera).tobytes() for picture in pictures))
            count = len(episode.positions)
            columns["positions"].append(episode.positions)
            columns["labels"].append(episode.labels[:, :rows])
            columns["instruction"].append(np.full(count, episode.instruction))
            columns["phase"].append(episode.phase)
            columns["held_out"].append(np.full(count, episode.seed % held_out_every == held_out_every - 1))
    finally:
        for stream in streams.values():
            stream.close()
    np.savez(cache / "rest.npz", **{name: np.concatenate(parts) for name, parts in columns.items()})
    index_file.write_text(json.dumps({"key": key, "joint_names": joint_names, "step_s": step_s, "episodes": len(files)}))


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
