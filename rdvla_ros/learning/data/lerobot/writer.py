"""Write a LeRobotDataset v3.0: whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rdvla_ros.learning.data.lerobot import (
    CODEBASE_VERSION,
    DATA_PATH,
    EPISODES_PATH,
    IMAGES,
    INDEX_FEATURES,
    INFO,
    STATS,
    TASKS,
    VIDEO_PATH,
    DatasetError,
)
from rdvla_ros.learning.data.lerobot.statistics import Statistics, of_pictures, of_vectors, pooled
from rdvla_ros.learning.data.lerobot.video import describe
from rdvla_ros.video import VideoFile

VIDEO_LIMIT_MB, DATA_LIMIT_MB, CHUNK_FILES = 200, 100, 1000
STATISTICS_FRAMES = 24  # pictures of an episode that its statistics are taken from
ARROW = {"float32": pa.float32(), "int64": pa.int64(), "string": pa.string()}


@dataclass(frozen=True)
class RecordedEpisode:
    """T frames. columns: feature -> (T, ...) values; pictures: camera -> (T, height, width, 3) uint8 RGB; notes: extra columns
    of the episodes' table."""

    task: str
    columns: Mapping[str, np.ndarray]
    pictures: Mapping[str, np.ndarray]
    notes: Mapping[str, Any]


class DatasetWriter:
    """Appends episodes to a new dataset below `folder` (which must not hold one yet); `close` finishes it."""

    def __init__(self, folder: Path, fps: int, robot_type: str, features: Mapping[str, Mapping[str, Any]]):
        """features: feature -> {dtype: float32, int64 or string, shape, names}, of the columns; cameras need no entry."""
        self.folder, self.fps, self.robot_type = folder, fps, robot_type
        self.features = {name: dict(feature) for name, feature in features.items()}
        self._tasks: dict[str, int] = {}
        self._episodes: list[dict[str, Any]] = []
        self._stats: list[dict[str, Statistics]] = []
        self._tables: list[pa.Table] = []
        self._videos: dict[str, VideoFile] = {}
        self._files: dict[str, int] = {}
        self._frames = 0

    def add(self, episode: RecordedEpisode) -> None:
        count = {len(values) for values in (*episode.columns.values(), *episode.pictures.values())}
        if len(count) != 1 or 0 in count:
            raise DatasetError(f"Episode {len(self._episodes)}: expected columns of one length above 0, got {sorted(count)}.")
        length, index = count.pop(), len(self._episodes)
        row: dict[str, Any] = {
            "episode_index": index,
            "tasks": [episode.task],
            "length": length,
            "data/chunk_index": 0,
            "data/file_index": 0,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + length,
            **episode.notes,
        }
        stats = {name: of_vectors(values.reshape(length, -1)) for name, values in episode.columns.items()
                 if self.features[name]["dtype"] != "string"}  # fmt: skip
        for camera, pictures in episode.pictures.items():
            key = IMAGES + camera
            row.update(self._film(key, pictures))
            stats[key] = of_pictures(pictures[:: max(1, length // STATISTICS_FRAMES), ::2, ::2])
        self._tables.append(self._table(episode, index, length))
        self._episodes.append(row)
        self._stats.append(stats)
        self._frames += length

    def _film(self, key: str, pictures: np.ndarray) -> dict[str, Any]:
        height, width = pictures.shape[1:3]
        self.features.setdefault(key, {"dtype": "video", "shape": [height, width, 3],
                                       "names": ["height", "width", "channels"],
                                       "info": describe(width, height, self.fps)})  # fmt: skip
        video = self._videos.get(key)
        if video is not None and video.path.stat().st_size > VIDEO_LIMIT_MB << 20:
            video.close()
            self._files[key] += 1
            video = None
        chunk, file = divmod(self._files.setdefault(key, 0), CHUNK_FILES)
        if video is None:
            path = self.folder / VIDEO_PATH.format(video_key=key, chunk_index=chunk, file_index=file)
            path.parent.mkdir(parents=True, exist_ok=True)
            video = self._videos[key] = VideoFile(path, self.fps, width, height)
        begin_s, end_s = video.append(pictures)
        values = {"chunk_index": chunk, "file_index": file, "from_timestamp": begin_s, "to_timestamp": end_s}
        return {f"videos/{key}/{name}": value for name, value in values.items()}

    def _table(self, episode: RecordedEpisode, index: int, length: int) -> pa.Table:
        task = self._tasks.setdefault(episode.task, len(self._tasks))
        steps = np.arange(length)
        standard = {
            "timestamp": (steps / self.fps).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(length, index),
            "index": self._frames + steps,
            "task_index": np.full(length, task),
        }
        features = {**self.features, **INDEX_FEATURES}
        columns = {name: _column(values, features[name]) for name, values in {**episode.columns, **standard}.items()}
        return pa.table(columns)

    def close(self) -> None:
        """Finish the files."""
        if not self._episodes:
            raise DatasetError(f"{self.folder}: no episode was added; an empty dataset is of no use.")
        for video in self._videos.values():
            video.close()
        self._write_data()
        rows = [{**row, **_flat_stats(stats), "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
                for row, stats in zip(self._episodes, self._stats, strict=True)]  # fmt: skip
        path = self.folder / EPISODES_PATH.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
        tasks = pd.DataFrame({"task_index": list(self._tasks.values())}, index=list(self._tasks))
        tasks.to_parquet(self.folder / TASKS)
        stats = {name: pooled([part[name] for part in self._stats]) for name in self._stats[0]}
        plain = {name: {key: value.tolist() for key, value in part.items()} for name, part in stats.items()}
        (self.folder / STATS).write_text(json.dumps(plain, indent=1), encoding="utf-8")
        (self.folder / INFO).write_text(json.dumps(self._info(), indent=4), encoding="utf-8")

    def _write_data(self) -> None:
        """Rows of all episodes, in files of bounded size; an episode is never divided."""
        tables, file, size = [], 0, 0

        def write() -> None:
            chunk, number = divmod(file, CHUNK_FILES)
            path = self.folder / DATA_PATH.format(chunk_index=chunk, file_index=number)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.concat_tables(tables), path)

        for row, table in zip(self._episodes, self._tables, strict=True):
            if tables and size + table.nbytes > DATA_LIMIT_MB << 20:
                write()
                tables, file, size = [], file + 1, 0
            row["data/chunk_index"], row["data/file_index"] = divmod(file, CHUNK_FILES)
            tables.append(table)
            size += table.nbytes
        write()

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": CODEBASE_VERSION,
            "robot_type": self.robot_type,
            "total_episodes": len(self._episodes),
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK_FILES,
            "data_files_size_in_mb": DATA_LIMIT_MB,
            "video_files_size_in_mb": VIDEO_LIMIT_MB,
            "fps": self.fps,
            "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH,
            "features": {**self.features, **INDEX_FEATURES},
        }


def write_dataset(
    folder: Path, episodes: Iterable[RecordedEpisode], fps: int, robot_type: str, features: Mapping[str, Mapping[str, Any]]
) -> None:
    """A dataset below `folder`; one that is there is replaced when the new one is complete, and kept where writing fails."""
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder))
    try:
        writer = DatasetWriter(part, fps, robot_type, features)
        for episode in episodes:
            writer.add(episode)
        writer.close()
        for name in ("meta", "data", "videos"):
            if (folder / name).exists():
                (folder / name).rename(part / f"old-{name}")
            if (part / name).exists():
                (part / name).rename(folder / name)
    except OSError as error:
        raise DatasetError(f"Dataset {folder} could not be written: {error}. Nothing half-written was left.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _column(values: np.ndarray, feature: Mapping[str, Any]) -> pa.Array:
    """(T, n) -> lists of fixed length; shape [1] -> plain numbers or text."""
    kind, width = ARROW[feature["dtype"]], int(np.prod(feature["shape"]))
    if kind == pa.string():
        return pa.array([str(value) for value in values], kind)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind)
    return flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)


def _flat_stats(stats: Mapping[str, Statistics]) -> dict[str, Any]:
    return {f"stats/{name}/{key}": value.tolist() for name, part in stats.items() for key, value in part.items()}
