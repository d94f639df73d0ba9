"""Demonstration episodes on disk: one compressed .npz per episode, written whole or not at all."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from rdvla_ros.types import RdvlaError

FORMAT_VERSION = 1
LATER_FIELDS = ("readings", "sensor_names", "sensor_sizes")


class EpisodeError(RdvlaError):
    """A demonstration file that cannot be used."""


@dataclass(frozen=True)
class Episode:
    """T steps of 0.1 s. C cameras, A joints in policy order and units, L label rows.

    images: (T, C, height, width, 3) uint8 RGB. positions: (T, A) float32, measured.
    labels: (T, L, A) float32, row i is the joint target at (step time) + (i + 1) * step_s, from the undisturbed expert.
    executed: (T, A) float32, the (disturbed) reference in force at the step. stage: (T,) int8, present task stage.
    phase: (T,) text, the expert's phase. camera_names: (C,). seed: of the object placement. max_stage: best reached.
    readings: (T, W) float32 of the sensors sensor_names (S,), one after the other, each sensor_sizes (S,) numbers; absent from
    older files.
    """

    images: np.ndarray
    positions: np.ndarray
    labels: np.ndarray
    executed: np.ndarray
    stage: np.ndarray
    phase: np.ndarray
    camera_names: np.ndarray
    joint_names: np.ndarray
    task: str
    instruction: str
    seed: int
    step_s: float
    max_stage: int
    version: int = FORMAT_VERSION
    readings: np.ndarray | None = None
    sensor_names: np.ndarray = field(default_factory=lambda: np.array([], str))
    sensor_sizes: np.ndarray = field(default_factory=lambda: np.array([], np.int64))

    def sensors(self) -> dict[str, np.ndarray]:
        """Sensor name -> (T, w) float32."""
        if not len(self.sensor_names):
            return {}
        parts = np.split(self.readings, np.cumsum(self.sensor_sizes)[:-1], axis=1)
        return dict(zip(map(str, self.sensor_names), parts, strict=True))


def episode_path(folder: str | Path, seed: int) -> Path:
    return Path(folder) / f"episode_{seed:06d}.npz"


def save_episode(folder: str | Path, episode: Episode) -> Path:
    """Write under the episode's seed; the file appears when it is complete."""
    path = episode_path(folder, episode.seed)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    values = {item.name: getattr(episode, item.name) for item in fields(episode) if getattr(episode, item.name) is not None}
    try:
        with part.open("wb") as file:
            np.savez_compressed(file, **values)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise EpisodeError(f"Episode {path} could not be written: {error}. Nothing half-written was left.") from error
    return path


def load_episode(path: str | Path) -> Episode:
    """Read one file; EpisodeError names the file and the field that is wrong."""
    try:
        with np.load(path, allow_pickle=False) as data:
            values = {key: data[key] for key in data.files}
    except (OSError, ValueError, EOFError) as error:
        raise EpisodeError(f"{path}: expected an episode (.npz), got a file that cannot be read: {error}") from error
    names = [item.name for item in fields(Episode)]
    missing = [name for name in names if name not in values and name not in LATER_FIELDS]
    if missing:
        raise EpisodeError(f"{path}: field '{missing[0]}' is missing. Expected: {', '.join(names)}.")
    if int(values["version"]) != FORMAT_VERSION:
        raise EpisodeError(f"{path}: expected format version {FORMAT_VERSION}, got {int(values['version'])}.")
    scalars = {"task": str, "instruction": str, "seed": int, "step_s": float, "max_stage": int, "version": int}
    for name, convert in scalars.items():
        values[name] = convert(values[name])
    episode = Episode(**{name: values[name] for name in names if name in values})
    for name in ("positions", "labels", "readings"):
        if getattr(episode, name) is not None and not np.isfinite(getattr(episode, name)).all():
            raise EpisodeError(f"{path}: field '{name}' contains NaN or infinity.")
    return episode
