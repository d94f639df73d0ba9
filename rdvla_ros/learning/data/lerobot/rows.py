"""The rows of a LeRobotDataset: put in the order that they give themselves, and held against everything else it says.

What a row is, its own columns say: index (its place in the dataset), episode_index, frame_index (its place in the episode),
task_index and timestamp [s]. Files and rows may lie in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rdvla_ros.learning.data.lerobot import INFO, TASKS, DatasetError
from rdvla_ros.learning.data.lerobot.fields import AGAIN, listed, numbers, read_table, whole_numbers
from rdvla_ros.learning.data.lerobot.metadata import EpisodeEntry, path_of, place
from rdvla_ros.learning.data.lerobot.problems import Problems

WHOLE = ("index", "episode_index", "frame_index", "task_index")
TIME = "timestamp"
STEP_SLACK = 0.5  # of a frame: by this much a time between two frames may differ; a frame left out differs by a whole one
RATE_SLACK = 0.02  # of the rate, over all episodes
DRIFT = 0.01  # of the time since the episode began: a clock, not another frame rate
RESAMPLE = "Record it again, or set data.resample to true: then frames are taken by their time stamps."


class Rows:
    """N rows in the order of their index. task_index (N,) int64; timestamp (N,) float64 [s], since the episode's begin."""

    def __init__(self, folder: Path, info: Mapping[str, Any], episodes: Sequence[EpisodeEntry]):
        self.folder, self.info, self.episodes = folder, dict(info), list(episodes)
        self.files = self._files()
        tables = [read_table(file, [*WHOLE, TIME]) for file in self.files]
        self._begins = np.cumsum([0, *(table.num_rows for table in tables)])
        expected = self.episodes[-1].end
        if self._begins[-1] != expected:
            raise DatasetError(
                f"{folder / 'data'}: expected {expected} frames as meta/episodes says, found {self._begins[-1]}. Copy it again."
            )
        columns = {name: np.concatenate([whole_numbers(t.column(name), name, f) for t, f in zip(tables, self.files, strict=True)])
                   for name in WHOLE}  # fmt: skip
        stamps = np.concatenate([numbers(t.column(TIME), TIME, f) for t, f in zip(tables, self.files, strict=True)])
        self._order = self._sorted(columns["index"])
        taken = {name: values if self._order is None else values[self._order] for name, values in columns.items()}
        self.timestamp = stamps if self._order is None else stamps[self._order]
        self.task_index = taken["task_index"]
        self._check("episode_index", taken["episode_index"], np.repeat([e.index for e in episodes], [len(e) for e in episodes]))
        self._check("frame_index", taken["frame_index"], np.concatenate([np.arange(len(e)) for e in episodes]))

    def __len__(self) -> int:
        return len(self.timestamp)

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of all rows, in order."""
        try:
            table = pa.concat_tables([read_table(file, [name]) for file in self.files], promote_options="permissive")
        except pa.ArrowException as error:
            text = " ".join(str(error).split())
            raise DatasetError(
                f"{self.folder / 'data'}: '{name}': expected one type in all files, found several ({text}). {AGAIN}"
            ) from error
        column = table.column(name)
        return column if self._order is None else column.take(pa.array(self._order))

    def check_column(self, name: str) -> None:
        """Every file has it."""
        for file in self.files:
            names = pq.read_schema(file).names
            if name not in names:
                raise DatasetError(f"{file}: expected a column '{name}' as {INFO} says, found {listed(names)}. {AGAIN}")

    def where(self, row: int) -> str:
        """File of a row, in the order of `column`, with its place there."""
        stored = int(row if self._order is None else self._order[row])
        file = int(np.searchsorted(self._begins, stored, side="right")) - 1
        return f"{self.files[file]}: row {stored - self._begins[file]}"

    def episode_at(self, row: int) -> EpisodeEntry:
        return next(episode for episode in self.episodes if episode.begin <= row < episode.end)

    def check_tasks(self, tasks: Mapping[int, str]) -> None:
        """Every row's task is known, and one of those that its episode names, where it names some."""
        unknown = np.flatnonzero(~np.isin(self.task_index, list(tasks)))
        if len(unknown):
            known = ", ".join(map(str, sorted(tasks)[:8]))
            raise DatasetError(
                f"{self.where(unknown[0])}: 'task_index': expected one of {TASKS} ({known}), found "
                f"{self.task_index[unknown[0]]} ({len(unknown)} such rows). {AGAIN}"
            )
        for episode in self.episodes:
            of_rows = {tasks[number] for number in np.unique(self.task_index[episode.begin : episode.end]).tolist()}
            if episode.tasks and not of_rows <= set(episode.tasks):
                raise DatasetError(
                    f"{episode.file}: 'tasks' of episode {episode.index}: expected '{sorted(of_rows - set(episode.tasks))[0]}' "
                    f"among them, which its rows' task_index means, found {list(episode.tasks)}. {AGAIN}"
                )

    def check_times(self, fps: float, resample: bool, problems: Problems) -> None:
        """Time rises in every episode; unless resampled, frame i comes i / fps after the first."""
        for episode in self.episodes:
            with problems.caught():
                self._check_times(episode, fps, resample)
        if not resample:
            with problems.caught():
                self._check_rate(fps)

    def _check_rate(self, fps: float) -> None:
        """Short episodes at a rate a few percent off: no frame is half a frame late, all of them together are no jitter."""
        steps = np.concatenate([np.diff(self.timestamp[episode.begin : episode.end]) for episode in self.episodes]) * fps
        off = abs(float(steps.mean()) - 1.0) if len(steps) else 0.0
        if off > RATE_SLACK and off > 6.0 * float(steps.std()) / np.sqrt(len(steps)):
            longest = max(self.episodes, key=len)
            raise DatasetError(
                f"{self.folder / 'data'}: '{TIME}': expected {fps:g} frames per second as {INFO} says, found "
                f"{fps / steps.mean():.4g}, for example up to frame {len(longest) - 1} of episode {longest.index}. Correct "
                "fps, or set data.resample to true: then frames are taken by their time stamps."
            )

    def _check_times(self, episode: EpisodeEntry, fps: float, resample: bool) -> None:
        times = self.timestamp[episode.begin : episode.end]
        steps, due = np.diff(times) * fps, np.arange(len(times))
        if (bad := np.flatnonzero(steps <= 0.0)).size:
            frame, expected, advice = bad[0] + 1, "a later time", "Record it again, or remove the episode."
        elif resample:
            return
        elif (bad := np.flatnonzero(np.abs(steps - 1.0) > STEP_SLACK)).size:
            frame, expected, advice = bad[0] + 1, f"{times[bad[0]] + 1 / fps:.4f} s ({INFO}: fps {fps:g})", RESAMPLE
        elif (bad := np.flatnonzero(np.abs((times - times[0]) * fps - due) > STEP_SLACK + DRIFT * due)).size:
            frame, expected, advice = bad[0], f"{times[0] + bad[0] / fps:.4f} s ({INFO}: fps {fps:g})", RESAMPLE
        else:
            return
        raise DatasetError(
            f"{self.where(episode.begin + frame)}: '{TIME}' of frame {frame} of episode {episode.index}: expected {expected}, "
            f"found {times[frame]:.4f} s, {(times[frame] - times[frame - 1]) * 1e3:.1f} ms after the frame before. {advice}"
        )

    def _files(self) -> list[Path]:
        """Those that episodes name and those that lie beside them: LeRobot's converter writes an episode at the border of two
        files into the second and names the first (lerobot#2401)."""
        named = set()
        for episode in self.episodes:
            chunk, file = (place(episode, f"data/{part}_index") for part in ("chunk", "file"))
            named.add(path_of(self.folder, self.info, "data_path", chunk_index=chunk, file_index=file))
        return sorted(named | set((self.folder / "data").glob("*/*.parquet")))

    def _sorted(self, index: np.ndarray) -> np.ndarray | None:
        """(N,) the order of the rows by their index; None where they lie so."""
        due = np.arange(len(index))
        if np.array_equal(index, due):
            return None
        order = np.argsort(index, kind="stable")
        wrong = np.flatnonzero(index[order] != due)
        if len(wrong):
            self._order = order
            raise DatasetError(
                f"{self.where(wrong[0])}: 'index': expected each number from 0 to {len(due) - 1} once, found "
                f"{index[order][wrong[0]]} where {wrong[0]} was due. {AGAIN}"
            )
        return order

    def _check(self, name: str, values: np.ndarray, due: np.ndarray) -> None:
        wrong = np.flatnonzero(values != due)
        if len(wrong):
            row = int(wrong[0])
            raise DatasetError(
                f"{self.where(row)}: '{name}': expected {due[row]} as meta/episodes says of the frame with index {row}, found "
                f"{values[row]} ({len(wrong)} such rows). {AGAIN}"
            )
