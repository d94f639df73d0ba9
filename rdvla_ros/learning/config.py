"""What a training run is made of: one YAML file, checked before anything is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rdvla_ros.model.backbones.compact import CameraInput
from rdvla_ros.model.normalization import REPRESENTATIONS
from rdvla_ros.types import RdvlaError, nearest_names


class TrainingError(RdvlaError):
    """A training run that cannot start or go on."""


def default_cameras() -> tuple[CameraInput, ...]:
    """The simulated ALOHA: the top camera cut to the table, where the objects are; the wrists smaller."""
    wrist = {"width": 80, "height": 60, "keypoints": 12, "channels": (16, 32, 64)}
    return (
        CameraInput("top", 120, 72, crop=(0.125, 0.2, 0.875, 0.8), keypoints=16, channels=(16, 32, 64)),
        CameraInput("left_wrist", **wrist),
        CameraInput("right_wrist", **wrist),
    )


@dataclass(frozen=True)
class ModelSettings:
    """Sizes of the compact backbone and of the head on it."""

    cameras: tuple[CameraInput, ...] = field(default_factory=default_cameras)
    hidden_dim: int = 192
    num_heads: int = 6
    backbone_layers: int = 2
    mlp_ratio: float = 2.0
    latent_queries: int = 8
    text_tokens: int = 2
    max_words: int = 48
    prelude_layers: tuple[int, ...] = (1,)
    core_layers: tuple[int, ...] = (2,)
    coda_layers: tuple[int, ...] = (2,)
    chunk_length: int = 8
    ffn_multiple: int = 2


@dataclass(frozen=True)
class Augmentation:
    """shift_px: largest random shift of each camera's picture; brightness, contrast: largest relative change;
    proprio_noise: standard deviation on the measured positions the network sees [rad]; word_dropout: probability."""

    shift_px: Mapping[str, int] = field(default_factory=lambda: {"top": 1, "left_wrist": 2, "right_wrist": 2})
    brightness: float = 0.1
    contrast: float = 0.1
    proprio_noise: float = 0.01
    word_dropout: float = 0.05


@dataclass(frozen=True)
class DepthSampler:
    """Draws the number of core iterations of a batch.

    With probability shallow_fraction uniform in 1..shallow_limit: the log-normal Poisson mixture hardly ever draws those,
    and a head that never saw them fails there. Otherwise tau ~ N(log(mean) - sigma^2 / 2, sigma) and
    Poisson(min(exp(tau), 100)) + 1, clamped to 1..limit. fixed: always so many instead (0: drawn).
    """

    mean: float = 8.0
    sigma: float = 0.5
    shallow_fraction: float = 0.5
    shallow_limit: int = 4
    limit: int = 64
    fixed: int = 0

    def draw(self, rng: np.random.Generator) -> int:
        if self.fixed:
            return self.fixed
        if rng.random() < self.shallow_fraction:
            return int(rng.integers(1, self.shallow_limit + 1))
        rate = min(math.exp(rng.normal(math.log(self.mean) - 0.5 * self.sigma**2, self.sigma)), 100.0)
        return min(max(int(rng.poisson(rate)) + 1, 1), self.limit)


GRIPPER_UNITS = ("policy", "controller")
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class DataSettings:
    """How the datasets are read.

    state, action: features of measured and commanded joint positions. cameras: camera of the model -> feature of the dataset
    (default observation.images.<camera>). joints: the robot's joint names in the dataset's order, where the dataset does not
    name them so. gripper_units: policy (0 closed .. 1 open) or controller (as the robot description drives it). step_s: time
    between the rows of a chunk [s]. frame_stride: frames from one observation to the next (0: one per action step).
    expert_chunks: learn from the feature expert.chunk where a dataset has it, else from the recorded actions.
    """

    state: str = "observation.state"
    action: str = "action"
    cameras: Mapping[str, str] = field(default_factory=dict)
    joints: tuple[str, ...] = ()
    gripper_units: str = "policy"
    step_s: float = 0.1
    frame_stride: int = 0
    expert_chunks: bool = True

    def __post_init__(self) -> None:
        if self.gripper_units not in GRIPPER_UNITS:
            found = nearest_names(self.gripper_units, GRIPPER_UNITS)
            raise TrainingError(f"data: gripper_units: '{self.gripper_units}'. {found}")
        if not (isinstance(self.step_s, int | float) and 0.0 < self.step_s <= 5.0):
            raise TrainingError(f"data: step_s: expected seconds between 0 and 5, got {self.step_s!r}.")
        if isinstance(self.frame_stride, bool) or not isinstance(self.frame_stride, int) or self.frame_stride < 0:
            raise TrainingError(f"data: frame_stride: expected a whole number of at least 0, got {self.frame_stride!r}.")


@dataclass(frozen=True)
class TrainConfig:
    """steps: optimiser steps in all. schedule: of the learning rate after the warm-up: 'constant' until the last decay_steps, in
    which it falls to zero; 'cosine' over all of them.
    batch_size: observations per step over all processes. average_every: 1 averages the gradients of the processes in every
    step (the same as one process with the whole batch); n lets each go n steps on its own share and then averages weights
    and moments, which wastes no time on waiting where other programs use the processors too.
    early_weight: loss of one shallower state against the last one's. auxiliary_weight: see auxiliary.py. precision: bfloat16
    pays only where the processor multiplies it (AVX-512 BF16, AMX, a GPU); elsewhere it is ten times as slow. label_rows: rows
    of the labels that are read (the last is foretold by the auxiliary head). held_out_every: every so-manieth episode is for
    validation only. save_every_s: [s] between saves."""

    representation: str = "relative"
    seed: int = 0
    steps: int = 10000
    schedule: str = "constant"
    decay_steps: int = 2000
    warmup_steps: int = 150
    batch_size: int = 48
    average_every: int = 1
    learning_rate: float = 8e-4
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    backprop_depth: int = 4
    early_weight: float = 0.3
    auxiliary_weight: float = 0.3
    label_rows: int = 12
    precision: str = "float32"
    held_out_every: int = 25
    evaluate_every: int = 500
    log_every: int = 20
    save_every_s: float = 180.0
    depth: DepthSampler = field(default_factory=DepthSampler)
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.representation not in REPRESENTATIONS:
            raise TrainingError(f"representation: '{self.representation}'. {nearest_names(self.representation, REPRESENTATIONS)}")
        if self.precision not in ("bfloat16", "float32"):
            raise TrainingError(f"precision: expected bfloat16 or float32, got '{self.precision}'.")
        if self.schedule not in SCHEDULES:
            raise TrainingError(f"schedule: '{self.schedule}'. {nearest_names(self.schedule, SCHEDULES)}")
        for name in (
            "steps",
            "batch_size",
            "backprop_depth",
            "evaluate_every",
            "log_every",
            "held_out_every",
            "average_every",
        ):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name}: expected a whole number of at least 1, got {getattr(self, name)}.")
        if not 0 <= self.decay_steps <= self.steps:
            raise TrainingError(f"decay_steps: expected 0 .. steps ({self.steps}), got {self.decay_steps}.")

    @classmethod
    def load(cls, path: Path | None, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
        """From a YAML file (None: the defaults), with single values of the top level replaced."""
        data: dict[str, Any] = {}
        if path is not None:
            if not path.is_file():
                raise TrainingError(f"Training configuration {path}: expected a YAML file, found nothing.")
            data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if not isinstance(data, Mapping):
            raise TrainingError(f"{path}: expected a mapping, got {type(data).__name__}.")
        data.update(overrides or {})
        return _build(cls, data, str(path or "training configuration"))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then as `schedule` says.

        Constant in the middle lets a run be lengthened (more data, more time) without having decayed already.
        """
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.schedule == "cosine":
            done = min(1.0, max(0.0, step - self.warmup_steps) / max(1, self.steps - self.warmup_steps))
            return self.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * done))
        left = (self.steps - step) / max(1, self.decay_steps)
        return self.learning_rate * warm * min(1.0, max(0.0, left))


_NESTED = {"depth": DepthSampler, "data": DataSettings, "model": ModelSettings, "augmentation": Augmentation}


def _build(cls: type, data: Any, place: str):
    """Mapping -> dataclass, refusing keys it does not have; lists become tuples."""
    if not isinstance(data, Mapping):
        raise TrainingError(f"{place}: expected a mapping, got {type(data).__name__}.")
    known = {item.name: item for item in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in known:
            raise TrainingError(f"{place}: unknown key '{key}'. {nearest_names(key, known)}")
        if key in _NESTED:
            value = _build(_NESTED[key], value, f"{place}: {key}")
        elif key == "cameras" and cls is ModelSettings:  # those of `data` are names
            value = tuple(_build(CameraInput, camera, f"{place}: cameras[{i}]") for i, camera in enumerate(value))
        elif isinstance(value, list):
            value = tuple(value)
        values[key] = value
    return cls(**values)
