"""Recorded episodes of the simulator -> a LeRobotDataset. While episodes are being made each lies in a file of its own below
`.recording/`, so that many processes can work and any can be interrupted; the dataset is put together from all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rdvla_ros.learning.data.lerobot import ACTION, EXPERT_CHUNK, EXPERT_PHASE, SENSORS, STATE, TASK_STAGE
from rdvla_ros.learning.data.lerobot.writer import RecordedEpisode, write_dataset
from rdvla_ros.learning.recording.episodes import Episode, EpisodeError, load_episode

RECORDING = ".recording"


def recording_folder(folder: Path) -> Path:
    """Where the episodes of a dataset are collected."""
    path = Path(folder) / RECORDING
    path.mkdir(parents=True, exist_ok=True)
    return path


def assemble(folder: Path, robot_type: str) -> int:
    """Write the dataset of all episodes collected so far, in the order of their seeds; the number of episodes (0: none yet)."""
    files = sorted(recording_folder(folder).glob("episode_*.npz"))
    if not files:
        return 0
    first = load_episode(files[0])
    sizes = {name: values.shape[1] for name, values in first.sensors().items()}
    features = _features(first.joint_names.tolist(), first.labels.shape[1], sizes)
    write_dataset(folder, _episodes(files), round(1.0 / first.step_s), robot_type, features)
    return len(files)


def _episodes(files: Sequence[Path]) -> Iterator[RecordedEpisode]:
    expected: list[str] | None = None
    for file in tqdm(files, desc="writing the dataset", unit="episode"):
        episode = load_episode(file)
        sensors = list(episode.sensors())
        expected = sensors if expected is None else expected
        if sensors != expected:
            raise EpisodeError(
                f"{file}: expected sensors {expected} as in {files[0].name}, got {sensors}. Record the episodes of another robot "
                "description into another --folder."
            )
        yield recorded(episode)


def recorded(episode: Episode) -> RecordedEpisode:
    """`action`: what the undisturbed expert would command from this state, which the joints are to reach one frame later."""
    count = len(episode.positions)
    columns = {
        STATE: episode.positions,
        ACTION: episode.labels[:, 0],
        EXPERT_CHUNK: episode.labels.reshape(count, -1),
        EXPERT_PHASE: episode.phase,
        TASK_STAGE: episode.stage.astype(np.int64),
        **{SENSORS + name: values for name, values in episode.sensors().items()},
    }
    pictures = {str(name): episode.images[:, i] for i, name in enumerate(episode.camera_names)}
    return RecordedEpisode(episode.instruction, columns, pictures, {"seed": episode.seed})


def _features(joint_names: list[str], rows: int, sensor_sizes: dict[str, int]) -> dict:
    joints = {"dtype": "float32", "shape": [len(joint_names)], "names": joint_names}
    return {
        STATE: joints,
        ACTION: joints,
        EXPERT_CHUNK: {"dtype": "float32", "shape": [rows * len(joint_names)], "names": None},
        EXPERT_PHASE: {"dtype": "string", "shape": [1], "names": None},
        TASK_STAGE: {"dtype": "int64", "shape": [1], "names": None},
        **{SENSORS + name: {"dtype": "float32", "shape": [size], "names": None} for name, size in sensor_sizes.items()},
    }
