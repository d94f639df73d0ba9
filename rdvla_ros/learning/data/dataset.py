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

from rdvla_ros.learning.config import TrainingError
from rdvla_ros.learning.data.lerobot.metadata import EpisodeEntry
from rdvla_ros.learning.data.source import Source, Wanted
from rdvla_ros.model.backbones.compact import CameraInput
from rdvla_ros.types import RdvlaError


@dataclass(frozen=True)
class Frames:
    """N observations of all episodes. images: camera -> (N, h, w, 3) uint8 (memory-mapped); positions (N, A);
    labels (N, R, A): joint targets of the next R action steps, absolute policy units; instruction_index (N,) into
    instructions; phase_index (N,) into phases (the expert's); held_out (N,) bool: never trained on; readings (N, W) of the
    sensors, whose numbers stand one after the other as sensor_widths says."""

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
    readings: np.ndarray
    sensor_widths: dict[str, int]

    def __len__(self) -> int:
        return len(self.positions)


def build_cache(folders: Sequence[Path], cache: Path, wanted: Wanted) -> None:
    """Write the observations of all datasets below `cache`, unless exactly these are there already."""
    if not folders:
        raise TrainingError("Expected at least one dataset (--data), got none. Record one with 'rdvla demonstrate'.")
    described = [[str(folder), _stamps(folder)] for folder in folders]
    key = hashlib.sha256(json.dumps([described, repr(wanted)]).encode()).hexdigest()
    index_file = cache / "index.json"
    if _key_of(index_file) == key:
        return
    sources = [Source(Path(folder), wanted) for folder in folders]
    episodes = [(source, episode) for source in sources for episode in source.data.episodes]
    columns = [_rest(source, episode) for source, episode in episodes]
    if not any(len(part["positions"]) for part in columns):
        raise TrainingError(
            f"{', '.join(map(str, folders))}: expected observations, found none between the pauses of time stamps."
        )
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    try:
        for camera in wanted.cameras:
            with (cache / f"{camera.name}.u8").open("wb") as stream:
                for source, episode in tqdm(episodes, desc=f"reading camera {camera.name}", unit="episode"):
                    frames = source.frames(episode) - episode.begin
                    for picture in source.data.pictures(wanted.camera_key(camera.name), episode, frames):
                        stream.write(wanted.picture(picture, camera).tobytes())
        np.savez(cache / "rest.npz", **{name: np.concatenate([part[name] for part in columns]) for name in columns[0]})
        index = {"key": key, "joint_names": wanted.robot.joint_names, "step_s": wanted.settings.step_s, "episodes": len(episodes)}
        index["sensor_widths"] = _same_widths(sources)
        index_file.write_text(json.dumps(index))
    except RdvlaError:
        shutil.rmtree(cache, ignore_errors=True)  # half of the pictures are of no use
        raise
    except OSError as error:
        shutil.rmtree(cache, ignore_errors=True)
        raise TrainingError(f"{cache} could not be written: {error}. Make room, or choose another --output.") from error


def _same_widths(sources: Sequence[Source]) -> dict[str, int]:
    widths = sources[0].sensor_widths
    for source in sources[1:]:
        if source.sensor_widths != widths:
            raise TrainingError(
                f"{source.data.folder}: expected sensors {widths} as in {sources[0].data.folder}, got {source.sensor_widths}."
            )
    return widths


def _stamps(folder: Path) -> list:
    """Every file of a dataset with its size and time: any of them changed, and the cache is of other data."""
    parts = (path for name in ("meta", "data", "videos", "images") for path in sorted((Path(folder) / name).rglob("*.*")))
    return [[str(path.relative_to(folder)), (stat := path.stat()).st_size, stat.st_mtime_ns] for path in parts if path.is_file()]


def _key_of(index_file: Path) -> str | None:
    try:
        return json.loads(index_file.read_text())["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _rest(source: Source, episode: EpisodeEntry) -> dict[str, np.ndarray]:
    frames, every = source.frames(episode), source.wanted.held_out_every
    return {
        "positions": source.positions[frames],
        "readings": source.readings[frames],
        "labels": source.labels(episode),
        "instruction": source.instructions[frames],
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
        sensor_widths=index["sensor_widths"],
        **rest,
    )


def shuffled_batch(count: int, step: int, batch_size: int, seed: int) -> np.ndarray:
    """Indices of the batch of one step: epoch after epoch in a new order, the same for whoever asks."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // count
    orders = {epoch: np.random.default_rng((seed, int(epoch))).permutation(count) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][position % count] for epoch, position in zip(epochs, positions, strict=True)])
