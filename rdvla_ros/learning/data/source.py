"""One dataset as a run reads it: joints in the robot's order and policy units, one observation per action step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rdvla_ros.learning.config import DataSettings, TrainingError
from rdvla_ros.learning.data.joints import (
    JointColumns,
    check_gripper_units,
    joint_columns,
    outside_limits,
    policy_units,
)
from rdvla_ros.learning.data.lerobot import EXPERT_CHUNK, EXPERT_PHASE, IMAGES
from rdvla_ros.learning.data.lerobot.metadata import EpisodeEntry
from rdvla_ros.learning.data.lerobot.problems import Problems
from rdvla_ros.learning.data.lerobot.reader import LeRobotDataset
from rdvla_ros.learning.data.resampling import even_frames, timed_labels
from rdvla_ros.model.backbones.compact import CameraInput
from rdvla_ros.model.images import prepare_image
from rdvla_ros.model.resample import resize
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import nearest_names


@dataclass(frozen=True)
class Wanted:
    """What a run takes from its datasets. rows: of each label; every held_out_every-th episode is for validation only. kernel: of
    resample.KERNELS, for pictures that become squares as a published model takes them ('': area averaging)."""

    settings: DataSettings
    cameras: tuple[CameraInput, ...]
    robot: RobotDescription
    rows: int
    held_out_every: int
    kernel: str = ""

    def picture(self, image: np.ndarray, camera: CameraInput) -> np.ndarray:
        """(height, width, 3) uint8 -> (camera.height, camera.width, 3) uint8."""
        return resize(image, camera.width, self.kernel).astype(np.uint8) if self.kernel else prepare_image(image, camera)

    def camera_key(self, camera: str) -> str:
        return self.settings.cameras.get(camera, IMAGES + camera)


class Source:
    """positions, actions: (N, A) float32, policy units. instructions: (N,) text. chunks: (N, R, A) of the expert, or None.
    phases: (N,) text, or None. readings: (N, W) float32 of the sensors.

    The first thing wrong with the dataset is raised; with problems to collect in, the others are looked for too, and what could
    not be read is missing here.
    """

    def __init__(self, folder: Path, wanted: Wanted, problems: Problems | None = None):
        self.wanted, self.problems = wanted, Problems() if problems is None else problems
        settings = wanted.settings
        self.data = LeRobotDataset(folder, settings.resample, self.problems)
        self.columns: dict[str, JointColumns] = {}
        self.sensor_widths: dict[str, int] = {}
        for camera in wanted.cameras:
            with self.problems.caught():
                self._check_camera(camera.name)
        for name, features in (("positions", settings.state_features), ("actions", settings.action_features)):
            with self.problems.caught():
                setattr(self, name, self._joints(features))
        with self.problems.caught():
            self.readings, self.sensor_widths = self._readings()
        with self.problems.caught():
            self._set_steps()
        with self.problems.caught():
            self.chunks = self._expert_chunks()
        with self.problems.caught():
            self.phases = self.data.text(EXPERT_PHASE) if EXPERT_PHASE in self.data.features else None
        with self.problems.caught():
            self.instructions = self.data.instructions()

    def _check_camera(self, camera: str) -> None:
        key, data = self.wanted.camera_key(camera), self.data
        if key not in data.features:
            raise TrainingError(
                f"{data.folder}: no camera '{camera}' ({key}). {nearest_names(key, data.cameras)} Name its feature under "
                "data.cameras of the configuration."
            )
        data.check_camera(key)

    def _joints(self, features: tuple[str, ...]) -> np.ndarray:
        """(N, A) in the robot's joint order, policy units, within the robot's limits."""
        settings, robot = self.wanted.settings, self.wanted.robot
        columns = joint_columns(self.data, features, settings, robot)
        self.columns[columns.title] = columns
        values = policy_units(columns.raw, settings, robot)
        self._check_limits(columns.title, values, columns.raw)
        check_gripper_units(columns, settings, robot, self.data.folder)
        return values

    def _readings(self) -> tuple[np.ndarray, dict[str, int]]:
        """(N, W) float32 of all sensors, one after the other; name -> how many numbers are its."""
        parts: dict[str, np.ndarray] = {}
        for name, feature in self.wanted.settings.sensors.items():
            with self.problems.caught():
                if feature not in self.data.features:
                    raise TrainingError(
                        f"{self.data.folder}: no sensor '{name}' ({feature}). {nearest_names(feature, self.data.features)} Name "
                        "its feature under data.sensors of the configuration."
                    )
                parts[name] = self.data.numbers(feature)
        readings = np.concatenate(list(parts.values()), 1) if parts else np.zeros((len(self.data), 0))
        return readings.astype(np.float32), {name: part.shape[1] for name, part in parts.items()}

    def _check_limits(self, title: str, values: np.ndarray, raw: np.ndarray) -> None:
        for outside in outside_limits(values, raw, self.wanted.robot):
            with self.problems.caught():
                episode = self.data.rows.episode_at(outside.frame)
                raise TrainingError(
                    f"{self.data.folder}: '{title}': {outside.text} Furthest out in frame {outside.frame - episode.begin} of "
                    f"episode {episode.index}."
                )

    def _set_steps(self) -> None:
        data, settings = self.data, self.wanted.settings
        fps = data.true_fps if settings.resample else data.fps
        self._frames_per_step = fps * settings.step_s
        self.stride = settings.frame_stride or max(1, round(self._frames_per_step))
        if self._frames_per_step < 0.99:
            raise TrainingError(
                f"{data.folder}: {fps:g} frames per second are fewer than the action steps of data.step_s = "
                f"{settings.step_s:g} s. Choose data.step_s of at least {1 / fps:g}."
            )

    def _expert_chunks(self) -> np.ndarray | None:
        data, robot = self.data, self.wanted.robot
        if not self.wanted.settings.expert_chunks or EXPERT_CHUNK not in data.features:
            return None
        values, joints = data.numbers(EXPERT_CHUNK), len(robot.joints)
        if values.shape[1] % joints:
            raise TrainingError(
                f"{data.folder}: '{EXPERT_CHUNK}': expected rows of {joints} joints, got {values.shape[1]} numbers. Choose "
                "the robot that the dataset was recorded with, or set data.expert_chunks to false."
            )
        chunks = values.reshape(len(data), -1, joints)
        if chunks.shape[1] < self.wanted.rows:
            raise TrainingError(
                f"{data.folder}: '{EXPERT_CHUNK}' has {chunks.shape[1]} rows, the run reads {self.wanted.rows}. Lower "
                "label_rows, or set data.expert_chunks to false to learn from the recorded actions."
            )
        for row in range(chunks.shape[1]):
            self._check_limits(f"{EXPERT_CHUNK} row {row}", chunks[:, row], chunks[:, row])
        return chunks[:, : self.wanted.rows]

    def frames(self, episode: EpisodeEntry) -> np.ndarray:
        """Rows of the dataset that become observations."""
        if not self.wanted.settings.resample:
            return np.arange(episode.begin, episode.end, self.stride)
        return episode.begin + even_frames(self._times(episode), self._step_s(), self._horizon_s())

    def labels(self, episode: EpisodeEntry) -> np.ndarray:
        """(T, R, A): row i is the target that the joints are to reach (i + 1) steps later; the last one stays after the end."""
        frames = self.frames(episode)
        if self.chunks is not None:
            return self.chunks[frames]
        if self.wanted.settings.resample:
            actions = self.actions[episode.begin : episode.end]
            times, due_s = self._times(episode), (np.arange(self.wanted.rows) + 1) * self.wanted.settings.step_s
            return timed_labels(times, actions, frames - episode.begin, due_s - 1.0 / self.data.true_fps)
        # The action of frame t is reached at frame t + 1, so what is due after s frames was commanded s - 1 frames from now.
        ahead = np.round((np.arange(self.wanted.rows) + 1) * self._frames_per_step).astype(int) - 1
        return self.actions[np.minimum(frames[:, None] + ahead, episode.end - 1)]

    def _times(self, episode: EpisodeEntry) -> np.ndarray:
        return self.data.rows.timestamp[episode.begin : episode.end]

    def _step_s(self) -> float:
        """Between observations."""
        return self.stride / self.data.true_fps if self.wanted.settings.frame_stride else self.wanted.settings.step_s

    def _horizon_s(self) -> float:
        """How far a label reaches beyond its observation; an expert's chunk needs nothing of what was recorded after it."""
        return 0.0 if self.chunks is not None else self.wanted.rows * self.wanted.settings.step_s
