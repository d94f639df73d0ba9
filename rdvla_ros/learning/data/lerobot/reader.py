"""Read a LeRobotDataset v3.0 of any robot, and say clearly what is wrong with one that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rdvla_ros.learning.data.lerobot import INFO, STATS, DatasetError, metadata
from rdvla_ros.learning.data.lerobot.fields import AGAIN, found
from rdvla_ros.learning.data.lerobot.films import CameraFilms
from rdvla_ros.learning.data.lerobot.metadata import EpisodeEntry
from rdvla_ros.learning.data.lerobot.pictures import check_feature, decode
from rdvla_ros.learning.data.lerobot.problems import Problems
from rdvla_ros.learning.data.lerobot.rows import Rows

STATISTICS_SLACK = 1e-3  # of a feature's range: rounding, not another dataset


class LeRobotDataset:
    """A dataset below `folder`. Opening it reads meta/ and the rows' own columns and checks them; other columns and pictures are
    read when asked for. resample: time stamps that contradict fps are the truth. problems: where to collect what is wrong."""

    def __init__(self, folder: str | Path, resample: bool = False, problems: Problems | None = None):
        self.folder, self.resample = Path(folder), resample
        self.problems = Problems() if problems is None else problems
        self.info = metadata.read_info(self.folder, self.problems)
        self.features: dict[str, Any] = self.info["features"]
        self.fps = float(self.info["fps"])
        self._films: dict[str, CameraFilms] = {}
        for check in (lambda: self.tasks, lambda: self.rows, self._check_rows):
            with self.problems.caught():
                check()

    @cached_property
    def tasks(self) -> dict[int, str]:
        """task_index -> instruction."""
        return metadata.read_tasks(self.folder)

    @cached_property
    def episodes(self) -> list[EpisodeEntry]:
        return metadata.read_episodes(self.folder, self.info, self.problems)

    @cached_property
    def rows(self) -> Rows:
        return Rows(self.folder, self.info, self.episodes)

    def _check_rows(self) -> None:
        self.rows.check_times(self.fps, self.resample, self.problems)
        self.rows.check_tasks(self.tasks)

    def __len__(self) -> int:
        return self.episodes[-1].end

    @property
    def cameras(self) -> list[str]:
        """Features that hold pictures."""
        entries = self.features.items()
        return [name for name, entry in entries if isinstance(entry, dict) and entry.get("dtype") in ("video", "image")]

    @cached_property
    def true_fps(self) -> float:
        """Frames per second by the time stamps (median); that of info.json where no episode has two frames."""
        steps = [np.diff(self.rows.timestamp[episode.begin : episode.end]) for episode in self.episodes]
        steps = np.concatenate(steps)
        return float(1.0 / np.median(steps)) if len(steps) and np.median(steps) > 0 else self.fps

    def feature(self, key: str) -> dict[str, Any]:
        return metadata.feature(self.info, key, self.folder / INFO)

    def width(self, key: str) -> int:
        """Numbers per frame of a feature."""
        return metadata.width(self.feature(key))

    def names(self, key: str) -> list[str] | None:
        """The names of a feature's numbers; None where the dataset gives none."""
        return metadata.names(self.feature(key))

    def tasks_of(self, episode: EpisodeEntry) -> list[str]:
        """Its instructions, in the order in which its frames have them."""
        numbers, first = np.unique(self.rows.task_index[episode.begin : episode.end], return_index=True)
        return [self.tasks.get(int(number), f"task_index {number}") for number in numbers[np.argsort(first)]]

    def instructions(self) -> np.ndarray:
        """(N,) the instruction of every frame."""
        numbers, inverse = np.unique(self.rows.task_index, return_inverse=True)
        return np.array([self.tasks[int(number)] for number in numbers])[inverse]

    def numbers(self, key: str) -> np.ndarray:
        """(N, A) float32 of all frames; DatasetError names the episode and frame of a number that is not finite."""
        width, column = self.width(key), self._column(key)
        kind = column.type
        nested = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        inner = kind.value_type if nested else kind
        if not (pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_boolean(inner)):
            raise DatasetError(f"{self.folder / 'data'}: '{key}': expected a column of numbers, found {kind}. {AGAIN}")
        lengths = pc.fill_null(pc.list_value_length(column), 0) if nested else pc.cast(pc.is_valid(column), pa.int32())
        wrong = np.flatnonzero(np.asarray(lengths) != width)
        if len(wrong):
            row = int(wrong[0])
            raise DatasetError(
                f"{self.rows.where(row)}: '{key}': expected {width} numbers as {INFO} says, found {found(column[row].as_py())} "
                f"({len(wrong)} such rows). {AGAIN}"
            )
        flat = pc.list_flatten(column) if nested else column
        values = np.asarray(pc.cast(flat, pa.float32(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float32)
        values = values.reshape(len(self), -1)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            episode = self.rows.episode_at(bad[0])
            raise DatasetError(
                f"{self.folder}: '{key}' is NaN or infinite in frame {bad[0] - episode.begin} of episode {episode.index} (and in "
                f"{len(bad) - 1} more frames). Remove the episode, or record it again."
            )
        self._check_statistics(key, values)
        return values

    def text(self, key: str) -> np.ndarray:
        """(N,) text of all frames."""
        return np.array([str(value) for value in self._column(key).to_pylist()])

    def check_camera(self, key: str, problems: Problems | None = None) -> None:
        """Every frame has a colour picture, as far as that shows without decoding. problems: instead of the dataset's."""
        entry = self.feature(key)
        check_feature(f"{self.folder / INFO}: features: {key}", entry)
        if entry["dtype"] == "image":
            self.rows.check_column(key)
        elif key not in self._films:
            problems = self.problems if problems is None else problems
            self._films[key] = CameraFilms(key, self.rows, self.fps, self.resample, problems)

    def has_pictures(self, key: str, episode: EpisodeEntry) -> bool:
        """False where `check_camera` found that the episode's cannot be had."""
        return self.feature(key)["dtype"] == "image" or (key in self._films and self._films[key].has(episode))

    def pictures(self, key: str, episode: EpisodeEntry, frames: Sequence[int] | None = None) -> Iterator[np.ndarray]:
        """(height, width, 3) uint8 RGB of the episode's frames, or of some (0: its first; rising)."""
        self.check_camera(key)
        frames = range(len(episode)) if frames is None else frames
        if self.feature(key)["dtype"] == "video":
            film, chosen = self._films[key].chosen(episode)
            yield from film.pictures(chosen[np.asarray(frames, dtype=int)].tolist())
            return
        cells = self._stored(key).slice(episode.begin, len(episode))
        for frame in frames:
            yield self._stored_picture(key, episode, int(frame), cells[int(frame)].as_py())

    def _stored(self, key: str) -> pa.ChunkedArray:
        """The column of pictures; one at a time is kept."""
        if getattr(self, "_stored_key", None) != key:
            self._stored_key, self._stored_column = key, self._column(key)
        return self._stored_column

    def _stored_picture(self, key: str, episode: EpisodeEntry, frame: int, cell: Any) -> np.ndarray:
        place = f"{self.rows.where(episode.begin + frame)}: '{key}' of frame {frame} of episode {episode.index}"
        data = cell.get("bytes") if isinstance(cell, dict) else None
        if data is None and isinstance(cell, dict) and isinstance(cell.get("path"), str) and cell["path"]:
            path = self.folder / cell["path"]
            try:
                data = path.read_bytes()
            except OSError as error:
                raise DatasetError(f"{place}: expected the picture {path}, found none ({error.strerror}). {AGAIN}") from error
        if not isinstance(data, bytes):
            raise DatasetError(f"{place}: expected PNG or JPEG pictures, found {found(cell)}. {AGAIN}")
        return decode(data, place)

    def _column(self, key: str) -> pa.ChunkedArray:
        self.feature(key)
        return self.rows.column(key)

    def _check_statistics(self, key: str, values: np.ndarray) -> None:
        """meta/stats.json, where there is one, must be of these numbers: other tools scale by it."""
        path = self.folder / STATS
        if not path.is_file():
            return
        try:
            every = json.loads(path.read_text(encoding="utf-8"))
            stats = every.get(key)
            low, high = (np.asarray((stats or {}).get(name, ()), dtype=np.float64).reshape(-1) for name in ("min", "max"))
        except (ValueError, TypeError, AttributeError, OSError, RecursionError) as error:
            raise DatasetError(f"{path}: '{key}': expected JSON with numbers min and max, found {error}. {AGAIN}") from error
        if stats is None:
            return
        if low.shape != (values.shape[1],) or high.shape != low.shape:
            raise DatasetError(
                f"{path}: '{key}': expected min and max of {values.shape[1]} numbers, got {len(low)} and {len(high)}. Compute "
                "the statistics again."
            )
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise DatasetError(
                f"{path}: '{key}': expected finite min and max, found NaN or infinity. Compute the statistics again."
            )
        slack = STATISTICS_SLACK * (1.0 + np.abs(high - low))
        outside = (values < low - slack).any(axis=0) | (values > high + slack).any(axis=0)
        if outside.any():
            column = int(np.flatnonzero(outside)[0])
            raise DatasetError(
                f"{path}: '{key}' number {column}: statistics say {low[column]:.4g} .. {high[column]:.4g}, the frames go from "
                f"{values[:, column].min():.4g} to {values[:, column].max():.4g}: of another dataset. Compute them again."
            )
