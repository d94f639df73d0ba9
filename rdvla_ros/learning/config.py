"""What a training run is made of: one YAML file, checked before anything is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml

from rdvla_ros.learning.schema import (
    AtLeastZero,
    Choice,
    Count,
    Positive,
    Range,
    Share,
    TrainingError,
    Whole,
    build,
    check_fields,
)
from rdvla_ros.learning.tuning import Tuning
from rdvla_ros.model.backbones.compact import CameraInput
from rdvla_ros.model.normalization import REPRESENTATIONS
from rdvla_ros.robot_schema import read_yaml
from rdvla_ros.types import nearest_names

GRIPPER_UNITS = ("policy", "controller")
UNITS = ("radians", "degrees")
SCHEDULES = ("constant", "cosine")
PRECISIONS = ("bfloat16", "float32")
COMPACT, PRISMATIC = "compact", "prismatic"


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
    """Sizes of the compact backbone and of the head on it.

    backbone: 'compact', or a family of model.backbones.families (smolvlm2, qwen2.5-vl, qwen3-vl, paligemma2) whose model lies
    in the folder `pretrained`; the cameras are then squares of the size that the model takes, and the compact sizes mean nothing.
    'prismatic': `pretrained` is a checkpoint that `rdvla import-checkpoint` wrote, of whose head the training goes on too.
    """

    backbone: str = COMPACT
    pretrained: str = ""
    cameras: tuple[CameraInput, ...] = field(default_factory=default_cameras)
    hidden_dim: Count = 192
    num_heads: Count = 6
    backbone_layers: Count = 2
    mlp_ratio: Positive = 2.0
    latent_queries: Count = 8
    text_tokens: Count = 2
    max_words: Count = 48
    prelude_layers: tuple[Whole, ...] = (1,)
    core_layers: tuple[Whole, ...] = (2,)
    coda_layers: tuple[Whole, ...] = (2,)
    chunk_length: Count = 8
    ffn_multiple: Count = 2

    def __post_init__(self) -> None:
        check_fields(self)
        names = [camera.name for camera in self.cameras]
        if not names or len(set(names)) < len(names):
            raise TrainingError(f"cameras: expected at least one, each name once, got {', '.join(names) or 'none'}.")
        for i, camera in enumerate(self.cameras):
            for key in ("keypoints", "channels"):
                if np.min(getattr(camera, key)) < 1:
                    raise TrainingError(f"cameras[{i}]: {key}: expected at least 1, got {getattr(camera, key)}.")
        if self.hidden_dim % (2 * self.num_heads):
            raise TrainingError(
                f"hidden_dim: expected a multiple of 2 * num_heads ({2 * self.num_heads}), got {self.hidden_dim}."
            )
        for name in ("prelude_layers", "core_layers", "coda_layers"):
            layers = getattr(self, name)
            if (self.backbone == COMPACT and max(layers, default=0) > self.backbone_layers) or (
                not layers and name != "prelude_layers"
            ):
                raise TrainingError(
                    f"{name}: expected layers of the backbone, 0 .. {self.backbone_layers}, got {list(layers) or 'none'}."
                )


@dataclass(frozen=True)
class Augmentation:
    """shift_px: largest random shift of each camera's picture; brightness, contrast: largest relative change;
    proprio_noise: standard deviation on the measured positions the network sees [rad]; word_dropout: probability."""

    shift_px: Mapping[str, Whole] = field(default_factory=lambda: {"top": 1, "left_wrist": 2, "right_wrist": 2})
    brightness: AtLeastZero = 0.1
    contrast: Share = 0.1
    proprio_noise: AtLeastZero = 0.01
    word_dropout: Share = 0.05

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class DepthSampler:
    """Draws the number of core iterations of a batch.

    With probability shallow_fraction uniform in 1..shallow_limit: the log-normal Poisson mixture hardly ever draws those,
    and a head that never saw them fails there. Otherwise tau ~ N(log(mean) - sigma^2 / 2, sigma) and
    Poisson(min(exp(tau), 100)) + 1, clamped to 1..limit. fixed: always this number instead (0: drawn).
    """

    mean: Positive = 8.0
    sigma: AtLeastZero = 0.5
    shallow_fraction: Share = 0.5
    shallow_limit: Count = 4
    limit: Count = 64
    fixed: Whole = 0

    def __post_init__(self) -> None:
        check_fields(self)

    def draw(self, rng: np.random.Generator) -> int:
        if self.fixed:
            return self.fixed
        if rng.random() < self.shallow_fraction:
            return int(rng.integers(1, self.shallow_limit + 1))
        rate = min(math.exp(rng.normal(math.log(self.mean) - 0.5 * self.sigma**2, self.sigma)), 100.0)
        return min(max(int(rng.poisson(rate)) + 1, 1), self.limit)


@dataclass(frozen=True)
class DataSettings:
    """How the datasets are read.

    state, action: feature of the measured and of the commanded joint positions, or a list of features, whose numbers stand one
        after the other in that order (one feature per arm).
    cameras: camera of the model -> feature of the dataset (default observation.images.<camera>).
    joints: where the dataset does not use the robot's joint names. A list: names for all numbers of state and of action, in
        the dataset's order; names that are none of the robot's joints are left out. A mapping: the robot's joint -> the
        dataset's name, or 'left/waist' for the number 'waist' of the features that end in '.left'.
    units: of the arms' joints in the dataset: radians or degrees (sliding joints: m).
    gripper_units: policy (0 closed .. 1 open) or controller (as the robot description drives it).
    gripper_range: the dataset's numbers for a closed and an open gripper, for example [0, 100]; gripper_units is not used then.
    step_s: time between the rows of a chunk [s]. frame_stride: frames from one observation to the next (0: one per action
        step).
    resample: recordings whose time stamps jitter, pause or contradict fps are read by their time stamps instead of refused.
    sensors: further readings that the network sees, in the order of its context tokens: name -> feature of the dataset.
    expert_chunks: learn from the feature expert.chunk where a dataset has it, else from the recorded actions.
    """

    state: str | tuple[str, ...] = "observation.state"
    action: str | tuple[str, ...] = "action"
    cameras: Mapping[str, str] = field(default_factory=dict)
    joints: tuple[str, ...] | Mapping[str, str] = ()
    units: Annotated[str, Choice(UNITS)] = "radians"
    gripper_units: Annotated[str, Choice(GRIPPER_UNITS)] = "policy"
    gripper_range: tuple[float, float] | None = None
    step_s: Annotated[float, Range(0.0, 5.0, above=True)] = 0.1
    frame_stride: Whole = 0
    resample: bool = False
    expert_chunks: bool = True
    sensors: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("state", "action"):
            features = getattr(self, f"{name}_features")
            if not all(features) or not features or len(set(features)) < len(features):
                raise TrainingError(f"{name}: expected features of the dataset, each once, got {features}.")
        if self.gripper_range is not None and self.gripper_range[0] == self.gripper_range[1]:
            raise TrainingError(f"gripper_range: expected two different numbers, closed and open, got {self.gripper_range}.")
        if self.gripper_range is not None and self.gripper_units != "policy":
            raise TrainingError("gripper_range: expected no gripper_units beside it, got controller. Remove one of them.")

    @property
    def state_features(self) -> tuple[str, ...]:
        return (self.state,) if isinstance(self.state, str) else self.state

    @property
    def action_features(self) -> tuple[str, ...]:
        return (self.action,) if isinstance(self.action, str) else self.action


Momentum = Annotated[float, Range(0.0, 0.9999)]


@dataclass(frozen=True)
class TrainConfig:
    """steps: optimiser steps in all. schedule: of the learning rate after the warm-up: 'constant' until the last decay_steps, in
    which it falls to zero; 'cosine' over all of them.
    batch_size: observations per step over all processes. average_every: 1 averages the gradients of the processes in every
    step (the same as one process with the whole batch); n lets each go n steps on its own share and then averages weights
    and moments, which wastes no time on waiting where other programs use the processors too.
    early_weight: loss of one shallower state against the last one's. auxiliary_weight: see auxiliary.py. precision: bfloat16
    pays only where the processor multiplies it (AVX-512 BF16, AMX, a GPU); elsewhere it is ten times as slow. label_rows: rows
    of the labels that are read (the last is the target of the auxiliary head). held_out_every: every n-th episode is for
    validation only. save_every_s: [s] between saves."""

    representation: Annotated[str, Choice(REPRESENTATIONS)] = "relative"
    seed: Whole = 0
    steps: Count = 10000
    schedule: Annotated[str, Choice(SCHEDULES)] = "constant"
    decay_steps: Whole = 2000
    warmup_steps: Whole = 150
    batch_size: Count = 48
    average_every: Count = 1
    learning_rate: AtLeastZero = 8e-4
    weight_decay: AtLeastZero = 0.02
    betas: tuple[Momentum, Momentum] = (0.9, 0.95)
    clip_norm: Positive = 1.0
    ema_decay: Share = 0.998
    backprop_depth: Count = 4
    early_weight: AtLeastZero = 0.3
    auxiliary_weight: AtLeastZero = 0.3
    label_rows: Count = 12
    precision: Annotated[str, Choice(PRECISIONS)] = "float32"
    held_out_every: Count = 25
    evaluate_every: Count = 500
    log_every: Count = 20
    save_every_s: Positive = 180.0
    depth: DepthSampler = field(default_factory=DepthSampler)
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    augmentation: Augmentation = field(default_factory=Augmentation)
    tuning: Tuning = field(default_factory=Tuning)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.tuning != Tuning() and self.model.backbone == COMPACT:
            raise TrainingError("tuning: expected nothing for the compact backbone, which is trained whole. Remove the section.")
        if self.tuning.shard and self.average_every > 1:
            raise TrainingError(
                f"tuning: shard: expected average_every 1, since no process has all weights, got {self.average_every}."
            )
        if self.decay_steps > self.steps:
            raise TrainingError(f"decay_steps: expected 0 .. steps ({self.steps}), got {self.decay_steps}.")
        if self.label_rows < self.model.chunk_length:
            raise TrainingError(
                f"label_rows: expected at least model.chunk_length ({self.model.chunk_length}), got {self.label_rows}."
            )
        cameras = [camera.name for camera in self.model.cameras]
        for name in self.data.cameras:
            if name not in cameras:
                raise TrainingError(f"data: cameras: the model has no camera '{name}'. {nearest_names(name, cameras)}")

    @classmethod
    def load(cls, path: Path | None, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
        """From a YAML file (None: the defaults), with single values of the top level replaced."""
        data: dict[str, Any] = {}
        if path is not None:
            if not path.is_file():
                raise TrainingError(f"Training configuration {path}: expected a YAML file, found nothing.")
            try:
                data = read_yaml(path.read_text(encoding="utf-8"))
            except (yaml.YAMLError, ValueError, RecursionError) as error:
                raise TrainingError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from None
            data = {} if data is None else data
        if isinstance(data, Mapping):
            data = {**data, **(overrides or {})}
        return build(cls, data, str(path or "training configuration"))

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
