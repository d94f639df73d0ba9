"""The folder meta/ of a LeRobotDataset v3.0: what the dataset says of itself, checked field by field."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from rdvla_ros.learning.data.lerobot import CODEBASE_VERSION, INFO, TASKS, DatasetError
from rdvla_ros.learning.data.lerobot.fields import AGAIN, found, get, listed, read_table, texts, whole_numbers
from rdvla_ros.learning.data.lerobot.problems import Problems
from rdvla_ros.types import nearest_names

CONVERTER = (
    "Convert it with LeRobot: 'python -m lerobot.datasets.v30.convert_dataset_v21_to_v30 --repo-id=<name>' (releases from "
    "0.5 on: lerobot.scripts.convert_dataset_v21_to_v30)."
)
MOST_NUMBERS = 1_000_000  # per frame of a feature: more is no list of joints


@dataclass(frozen=True)
class EpisodeEntry:
    """One episode: rows begin .. end of the dataset, its instructions as the table of episodes gives them (none: it does not),
    and its row of that table."""

    index: int
    begin: int
    end: int
    tasks: tuple[str, ...]
    row: dict[str, Any]
    file: Path

    def __len__(self) -> int:
        return self.end - self.begin


def read_info(folder: Path, problems: Problems) -> dict[str, Any]:
    """meta/info.json with the fields that everything else needs."""
    path = folder / INFO
    if not path.is_file():
        names = sorted(item.name for item in folder.iterdir())[:8] if folder.is_dir() else ["no such folder"]
        listed = ", ".join(names) or "an empty folder"
        raise DatasetError(
            f"{folder}: expected a LeRobot dataset ({INFO}), found {listed}. Record one with 'rdvla demonstrate', or "
            "download one."
        )
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise DatasetError(f"{path}: expected JSON, found {type(error).__name__}: {error}. {AGAIN}") from error
    if not isinstance(info, dict):
        raise DatasetError(f"{path}: expected JSON with a mapping of fields, found {found(info)}. {AGAIN}")
    version = get(info, "codebase_version", "text", path)
    if version != CODEBASE_VERSION:
        advice = CONVERTER if version.startswith("v2") else "Use a release of rdvla_ros that reads it."
        raise DatasetError(f"{path}: 'codebase_version': expected LeRobot format {CODEBASE_VERSION}, got {version}. {advice}")
    before = len(problems)
    for key, what in {"features": "a mapping", "fps": "a number above 0", "data_path": "text"}.items():
        with problems.caught():
            get(info, key, what, path)
    if len(problems) > before:
        raise DatasetError(problems[before])
    for key in ("total_frames", "total_episodes"):
        if key in info:
            with problems.caught():
                get(info, key, "a whole number", path)
    return info


def feature(info: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    """The entry of one feature, with dtype (text) and shape (whole numbers above 0)."""
    features = info["features"]
    if key not in features:
        raise DatasetError(f"{path}: 'features': the dataset has no '{key}'. {nearest_names(key, features)}")
    entry = get(features, key, "a mapping", f"{path}: features")
    place = f"{path}: features: {key}"
    get(entry, "dtype", "text", place)
    shape = get(entry, "shape", "a list", place)
    numbers = all(isinstance(size, int) and not isinstance(size, bool) and 0 < size <= MOST_NUMBERS * 4 for size in shape)
    if not numbers or len(shape) > 4:
        raise DatasetError(f"{place}: 'shape': expected a list of whole numbers above 0, found {found(shape)}. {AGAIN}")
    return entry


def width(entry: dict[str, Any]) -> int:
    """Numbers per frame."""
    product = 1
    for size in entry["shape"]:
        product *= size
    return product


def names(entry: dict[str, Any]) -> list[str] | None:
    """The names of a feature's numbers, in order; None where the dataset gives none, or not as many as numbers."""
    given = entry.get("names")
    while isinstance(given, dict):
        if given and all(isinstance(place, int) and not isinstance(place, bool) for place in given.values()):
            given = sorted(given, key=given.__getitem__)  # {"x": 0, "y": 1}
        else:
            given = next(iter(given.values()), None)  # {"motors": [...]}
    if not isinstance(given, list | tuple) or len(given) != width(entry):
        return None
    return [str(name) for name in given]


def path_of(folder: Path, info: dict[str, Any], key: str, **places: Any) -> Path:
    """A file by one of the patterns of info.json."""
    pattern = get(info, key, "text", folder / INFO)
    try:
        return folder / pattern.format(**places)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        wanted = ", ".join(f"{{{name}}}" for name in places)
        raise DatasetError(
            f"{folder / INFO}: '{key}': expected a path with {wanted}, found {found(pattern)} ({error}). {AGAIN}"
        ) from error


def place(episode: EpisodeEntry, column: str) -> int:
    """A whole number of the episode's row: which file of a kind holds it."""
    value = number_of(episode, column)
    if value != int(value) or value < 0:
        raise DatasetError(
            f"{episode.file}: '{column}' of episode {episode.index}: expected a whole number, found {value:g}. {AGAIN}"
        )
    return int(value)


def number_of(episode: EpisodeEntry, column: str) -> float:
    """A finite number of the episode's row."""
    if column not in episode.row:
        raise DatasetError(f"{episode.file}: expected a column '{column}', found no such column. {AGAIN}")
    value = episode.row[column]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DatasetError(
            f"{episode.file}: '{column}' of episode {episode.index}: expected a finite number, found {found(value)}. {AGAIN}"
        )
    return value


def read_tasks(folder: Path) -> dict[int, str]:
    """task_index -> instruction, of meta/tasks.parquet."""
    path = folder / TASKS
    table = read_table(path)
    others = [name for name in table.column_names if name != "task_index"]
    text = [n for n in others if pa.types.is_string(table.schema.field(n).type) or
            pa.types.is_large_string(table.schema.field(n).type)]  # fmt: skip
    column = next((name for name in ("task", "__index_level_0__", *text) if name in text), None)
    if "task_index" not in table.column_names or column is None:
        raise DatasetError(
            f"{path}: expected instructions with their task_index, found the columns {listed(table.column_names)}. {AGAIN}"
        )
    numbers = whole_numbers(table.column("task_index"), "task_index", path).tolist()
    tasks = dict(zip(numbers, texts(table.column(column), column, path), strict=True))
    if len(tasks) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise DatasetError(
            f"{path}: 'task_index': expected each number once, found {twice} {numbers.count(twice)} times. {AGAIN}"
        )
    return tasks


def read_episodes(folder: Path, info: dict[str, Any], problems: Problems) -> list[EpisodeEntry]:
    """The table of episodes, in the order of their rows: they follow one another from row 0 on, and agree with info.json."""
    files = sorted((folder / "meta/episodes").glob("*/*.parquet"))
    if not files:
        raise DatasetError(f"{folder}: expected tables in meta/episodes, found none. {AGAIN}")
    entries = [entry for file in files for entry in _episodes_of(file)]
    entries.sort(key=lambda entry: entry.begin)
    place = f"{folder / 'meta/episodes'}"
    if not entries:
        raise DatasetError(f"{place}: expected at least one episode, found none. {AGAIN}")
    due, known = 0, set()
    for entry in entries:
        if entry.begin != due:
            raise DatasetError(
                f"{entry.file}: 'dataset_from_index' of episode {entry.index}: expected {due}, since episodes follow one another "
                f"from frame 0 on, found {entry.begin}. {AGAIN}"
            )
        if entry.index in known:
            raise DatasetError(f"{entry.file}: 'episode_index': expected each number once, found {entry.index} twice. {AGAIN}")
        due, known = entry.end, known | {entry.index}
    for key, counted in (("total_frames", entries[-1].end), ("total_episodes", len(entries))):
        with problems.caught():
            if isinstance(info.get(key), int) and info[key] != counted:
                raise DatasetError(
                    f"{folder / INFO}: '{key}': expected {counted} as meta/episodes says, found {info[key]}. A part is "
                    f"missing, or belongs to another dataset. {AGAIN}"
                )
    return entries


def _episodes_of(file: Path) -> list[EpisodeEntry]:
    table = read_table(file)
    table = table.select([name for name in table.column_names if not name.startswith("stats/")])
    columns = {}
    for name in ("episode_index", "dataset_from_index", "dataset_to_index", "length"):
        if name not in table.column_names:
            if name == "length":
                continue
            raise DatasetError(f"{file}: expected a column '{name}', found {listed(table.column_names)}. {AGAIN}")
        columns[name] = whole_numbers(table.column(name), name, file).tolist()
    entries = []
    for i, row in enumerate(table.to_pylist()):
        index, begin, end = (columns[name][i] for name in ("episode_index", "dataset_from_index", "dataset_to_index"))
        if end <= begin or index < 0:
            raise DatasetError(
                f"{file}: episode {index}: expected frames dataset_from_index .. dataset_to_index, found {begin} .. {end}: it is "
                f"empty. {AGAIN}"
            )
        if "length" in columns and columns["length"][i] != end - begin:
            raise DatasetError(
                f"{file}: 'length' of episode {index}: expected {end - begin} as its range {begin} .. {end} says, found "
                f"{columns['length'][i]}. {AGAIN}"
            )
        entries.append(EpisodeEntry(index, begin, end, _tasks_of(row, index, file), row, file))
    return entries


def _tasks_of(row: dict[str, Any], index: int, file: Path) -> tuple[str, ...]:
    """lerobot#4519: official datasets have no such column; rows name their task themselves."""
    tasks = row.get("tasks")
    if tasks is None:
        return ()
    tasks = [tasks] if isinstance(tasks, str) else tasks
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise DatasetError(f"{file}: 'tasks' of episode {index}: expected a list of texts, found {found(tasks)}. {AGAIN}")
    return tuple(tasks)
