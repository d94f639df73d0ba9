"""Read a LeRobotDataset v3.0 of any robot, and say clearly what is wrong with one that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rdvla_ros.learning.data.lerobot import CODEBASE_VERSION, INFO, STATS, TASKS, DatasetError
from rdvla_ros.learning.data.lerobot.video import read_frames
from rdvla_ros.types import nearest_names

CONVERTER = (
    "Convert it with LeRobot: 'python -m lerobot.datasets.v30.convert_dataset_v21_to_v30 --repo-id=<name>' (releases from "
    "0.5 on: lerobot.scripts.convert_dataset_v21_to_v30)."
)
STATISTICS_SLACK = 1e-3  # of a feature's range: rounding, not another dataset


@dataclass(frozen=True)
class EpisodeEntry:
    """One episode: rows begin .. end of the dataset, its instruction, and its row of the episodes' table."""

    index: int
    begin: int
    end: int
    task: str
    row: dict[str, Any]

    def __len__(self) -> int:
        return self.end - self.begin


class LeRobotDataset:
    """A dataset below `folder`. Opening it reads the tables and checks them; pictures are decoded when asked for."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.info = self._info()
        self.features: dict[str, dict] = self.info["features"]
        self.fps = float(self.info["fps"])
        self.episodes = self._episodes()
        self._table: pa.Table | None = None

    def __len__(self) -> int:
        return self.episodes[-1].end

    @property
    def cameras(self) -> list[str]:
        """Features that hold pictures."""
        return [name for name, feature in self.features.items() if feature["dtype"] in ("video", "image")]

    def width(self, key: str) -> int:
        """Numbers per frame of a feature."""
        return int(np.prod(self._feature(key)["shape"]))

    def names(self, key: str) -> list[str] | None:
        """The names of a feature's numbers; None where the dataset gives none."""
        names = self._feature(key).get("names")
        while isinstance(names, dict):  # {"motors": [...]}
            names = next(iter(names.values()), None)
        return [str(name) for name in names] if names and len(names) == self.width(key) else None

    def numbers(self, key: str) -> np.ndarray:
        """(N, A) float32 of all frames; DatasetError names the episode and frame of a number that is not finite."""
        self._feature(key)
        column = self._column(key)
        nested = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
        flat = pc.list_flatten(column) if nested else column
        values = np.asarray(flat.to_numpy(zero_copy_only=False), dtype=np.float32)
        if values.size != len(self) * self.width(key):
            raise DatasetError(
                f"{self.folder}: '{key}': expected {self.width(key)} numbers in each of {len(self)} frames as {INFO} says, got "
                f"{values.size} in all."
            )
        values = values.reshape(len(self), -1)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            episode = next(e for e in self.episodes if e.begin <= bad[0] < e.end)
            raise DatasetError(
                f"{self.folder}: '{key}' is NaN or infinite in frame {bad[0] - episode.begin} of episode {episode.index} (and in "
                f"{len(bad) - 1} more frames). Remove the episode, or record it again."
            )
        self._check_statistics(key, values)
        return values

    def text(self, key: str) -> np.ndarray:
        """(N,) text of all frames."""
        return np.array([str(value) for value in self._column(key).to_pylist()])

    def pictures(self, key: str, episode: EpisodeEntry) -> Iterator[np.ndarray]:
        """(height, width, 3) uint8 RGB, one per frame of the episode, in order."""
        feature = self._feature(key)
        if feature["dtype"] == "image":
            for cell in self._column(key).slice(episode.begin, len(episode)).to_pylist():
                yield self._stored_picture(key, episode, cell)
            return
        try:
            chunk, file = (episode.row[f"videos/{key}/{part}"] for part in ("chunk_index", "file_index"))
            begin_s = float(episode.row[f"videos/{key}/from_timestamp"])
        except KeyError as error:
            raise DatasetError(f"{self.folder}: meta/episodes has no column {error}: camera '{key}' has no videos.") from error
        path = self.folder / self.info["video_path"].format(video_key=key, chunk_index=chunk, file_index=file)
        if not path.is_file():
            raise DatasetError(f"{path}: expected the pictures of camera '{key}', found no file. Download the videos too.")
        yield from read_frames(path, begin_s, len(episode), self.fps)

    def _stored_picture(self, key: str, episode: EpisodeEntry, cell: Any) -> np.ndarray:
        data = cell.get("bytes") if isinstance(cell, dict) else None
        if data is None and isinstance(cell, dict) and cell.get("path"):
            path = self.folder / cell["path"]
            data = path.read_bytes() if path.is_file() else None
        picture = None if data is None else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            raise DatasetError(f"{self.folder}: '{key}' of episode {episode.index}: expected PNG or JPEG pictures, found none.")
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)

    def _info(self) -> dict[str, Any]:
        path = self.folder / INFO
        if not path.is_file():
            names = sorted(item.name for item in self.folder.iterdir())[:8] if self.folder.is_dir() else ["no such folder"]
            found = ", ".join(names) or "an empty folder"
            raise DatasetError(
                f"{self.folder}: expected a LeRobot dataset ({INFO}), found {found}. Record one with 'rdvla demonstrate', or "
                "download one."
            )
        try:
            info = json.loads(path.read_text(encoding="utf-8"))
            version = str(info["codebase_version"])
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{path}: expected JSON with 'codebase_version', got {type(error).__name__}: {error}.") from error
        if version != CODEBASE_VERSION:
            advice = CONVERTER if version.startswith("v2") else "Use a release of rdvla_ros that reads it."
            raise DatasetError(f"{path}: expected LeRobot format {CODEBASE_VERSION}, got {version}. {advice}")
        for key in ("features", "fps", "data_path"):
            if key not in info:
                raise DatasetError(f"{path}: '{key}' is missing. Download the dataset again.")
        return info

    def _episodes(self) -> list[EpisodeEntry]:
        tasks = self._read(self.folder / TASKS)
        index_column = next((name for name in tasks.column_names if name != "task_index"), None)
        if index_column is None or "task_index" not in tasks.column_names:
            raise DatasetError(f"{self.folder / TASKS}: expected instructions with their task_index, got {tasks.column_names}.")
        files = sorted((self.folder / "meta/episodes").glob("*/*.parquet"))
        if not files:
            raise DatasetError(f"{self.folder}: expected tables in meta/episodes, found none.")
        entries = []
        for file in files:
            table = self._read(file)
            table = table.select([name for name in table.column_names if not name.startswith("stats/")])
            for row in table.to_pylist():
                begin, end = int(row["dataset_from_index"]), int(row["dataset_to_index"])
                if end <= begin:
                    where = f"{file}: episode {row['episode_index']}"
                    raise DatasetError(f"{where}: expected frames, got {begin} .. {end}: it is empty.")
                task = (row.get("tasks") or [""])[0]
                entries.append(EpisodeEntry(int(row["episode_index"]), begin, end, str(task), row))
        entries.sort(key=lambda entry: entry.begin)
        if not entries or entries[0].begin != 0 or any(a.end != b.begin for a, b in zip(entries, entries[1:], strict=False)):
            raise DatasetError(f"{self.folder}: meta/episodes: expected episodes that follow one another from frame 0 on.")
        return entries

    def _column(self, key: str) -> pa.ChunkedArray:
        if self._table is None:
            places = sorted({(e.row["data/chunk_index"], e.row["data/file_index"]) for e in self.episodes})
            pattern = self.info["data_path"]
            files = [pattern.format(chunk_index=chunk, file_index=file) for chunk, file in places]
            self._table = pa.concat_tables([self._read(self.folder / file) for file in files], promote_options="permissive")
            if self._table.num_rows != len(self):
                raise DatasetError(
                    f"{self.folder}: data: expected {len(self)} frames as meta/episodes says, got {self._table.num_rows}. "
                    "Copy it again."
                )
        if key not in self._table.column_names:
            raise DatasetError(f"{self.folder}: data has no column '{key}'. {nearest_names(key, self._table.column_names)}")
        return self._table.column(key)

    def _read(self, path: Path) -> pa.Table:
        if not path.is_file():
            raise DatasetError(f"{path}: expected a table of the dataset, found no file. Download the dataset again.")
        try:
            return pq.ParquetFile(path).read()
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{path}: expected a parquet table, got a file that cannot be read ({error}).") from error

    def _feature(self, key: str) -> dict:
        if key not in self.features:
            raise DatasetError(f"{self.folder}: the dataset has no '{key}'. {nearest_names(key, self.features)}")
        return self.features[key]

    def _check_statistics(self, key: str, values: np.ndarray) -> None:
        """meta/stats.json, where there is one, must be of these numbers: other tools scale by it."""
        path = self.folder / STATS
        if not path.is_file():
            return
        stats = json.loads(path.read_text(encoding="utf-8")).get(key)
        if stats is None:
            return
        low, high = (np.asarray(stats.get(name, ()), dtype=np.float64).reshape(-1) for name in ("min", "max"))
        if low.shape != (values.shape[1],) or high.shape != low.shape:
            raise DatasetError(
                f"{path}: '{key}': expected min and max of {values.shape[1]} numbers, got {len(low)} and {len(high)}. Compute "
                "the statistics again."
            )
        slack = STATISTICS_SLACK * (1.0 + np.abs(high - low))
        outside = (values < low - slack).any(axis=0) | (values > high + slack).any(axis=0)
        if outside.any():
            column = int(np.flatnonzero(outside)[0])
            raise DatasetError(
                f"{path}: '{key}' number {column}: statistics say {low[column]:.4g} .. {high[column]:.4g}, the frames go from "
                f"{values[:, column].min():.4g} to {values[:, column].max():.4g}: of another dataset. Compute them again."
            )


def open_datasets(folders: Sequence[Path]) -> list[LeRobotDataset]:
    return [LeRobotDataset(folder) for folder in folders]
