"""Metadata that is not what it should be ends in one line: file, field, what was expected, what was found."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lerobot_cases import (
    COLUMNS,
    DATA,
    EPISODES,
    PLACES,
    TASKS,
    TOP,
    VALUES,
    cache,
    drop_column,
    edit_info,
    edit_table,
    put,
    store_pictures,
    write_set,
)

from rdvla_ros.learning.config import TrainingError
from rdvla_ros.learning.data.lerobot import DatasetError

ROOT = Path(__file__).parent.parent
INFO, STATS = "meta/info.json", "meta/stats.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("malformed") / "set", lengths=(4, 5))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return store_pictures(write_set(tmp_path_factory.mktemp("malformed") / "set", lengths=(4, 5)))


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "set"))


def _info(change):
    return lambda folder: edit_info(folder, change)


def _rewrite(path: Path, name: str, values: list, kind: pa.DataType | None = None) -> None:
    table = pq.ParquetFile(path).read()
    pq.write_table(table.set_column(table.column_names.index(name), name, pa.array(values, kind)), path)


MALFORMED = {
    "fps null": (_info(lambda i: i.update(fps=None)), f"{INFO}: 'fps': expected a number above 0, found nothing"),
    "fps 0": (_info(lambda i: i.update(fps=0)), f"{INFO}: 'fps': expected a number above 0, found 0"),
    "fps text": (_info(lambda i: i.update(fps="10")), f"{INFO}: 'fps': expected a number above 0, found '10'"),
    "fps true": (_info(lambda i: i.update(fps=True)), f"{INFO}: 'fps': expected a number above 0, found True"),
    "features null": (_info(lambda i: i.update(features=None)), f"{INFO}: 'features': expected a mapping, found nothing"),
    "a feature null": (
        _info(lambda i: i["features"].update(action=None)),
        f"{INFO}: features: 'action': expected a mapping, found nothing",
    ),
    "no shape": (
        _info(lambda i: i["features"]["action"].pop("shape")),
        f"{INFO}: features: action: 'shape' is missing: expected a list",
    ),
    "shape null": (
        _info(lambda i: i["features"][TOP].update(shape=None)),
        f"{INFO}: features: {TOP}: 'shape': expected a list, found nothing",
    ),
    "shape of text": (_info(lambda i: i["features"]["action"].update(shape=["14"])), "'shape': expected a list of whole numbers"),
    "no data_path": (_info(lambda i: i.update(data_path=None)), f"{INFO}: 'data_path': expected text, found nothing"),
    "a foreign data_path": (
        _info(lambda i: i.update(data_path="{episode}.parquet")),
        f"{INFO}: 'data_path': expected a path with",
    ),
    "no video_path": (_info(lambda i: i.update(video_path=None)), f"{INFO}: 'video_path': expected text, found nothing"),
    "a list": (lambda f: (f / INFO).write_text("[1]"), f"{INFO}: expected JSON with a mapping"),
    "total_frames null": (_info(lambda i: i.update(total_frames=None)), "'total_frames': expected a whole number, found nothing"),
    "statistics no mapping": (lambda f: (f / STATS).write_text("[]"), f"{STATS}: 'observation.state': expected JSON"),
    "no index in tasks": (
        lambda f: drop_column(f / TASKS, "task_index"),
        f"{TASKS}: expected instructions with their task_index",
    ),
    "a task null": (
        lambda f: _rewrite(f / TASKS, "__index_level_0__", ["task 0", None], pa.string()),
        f"{TASKS}: '__index_level_0__': expected text in every row, found nothing in row 1",
    ),
    "no dataset_from_index": (
        lambda f: drop_column(f / EPISODES, "dataset_from_index"),
        f"{EPISODES}: expected a column 'dataset_from_index'",
    ),
    "dataset_to_index null": (
        lambda f: edit_table(f / EPISODES, "dataset_to_index", lambda v: [None, *v[1:]]),
        f"{EPISODES}: 'dataset_to_index': expected a number in every row, found nothing in row 0",
    ),
    "a file index that is NaN": (  # lerobot#2283
        lambda f: edit_table(f / EPISODES, "data/file_index", lambda v: [0.0, float("nan")], pa.float64()),
        f"{EPISODES}: 'data/file_index' of episode 1: expected a finite number, found nan",
    ),
    "no from_timestamp": (
        lambda f: drop_column(f / EPISODES, f"videos/{TOP}/from_timestamp"),
        f"{EPISODES}: expected a column 'videos/{TOP}/from_timestamp'",
    ),
    "to_timestamp null": (
        lambda f: edit_table(f / EPISODES, f"videos/{TOP}/to_timestamp", lambda v: [v[0], None]),
        f"'videos/{TOP}/to_timestamp' of episode 1: expected a finite number, found nothing",
    ),
    "no index": (lambda f: drop_column(f / DATA, "index"), f"{DATA}: expected a column 'index'"),
    "no action": (lambda f: drop_column(f / DATA, "action"), f"{DATA}: expected a column 'action'"),
    "index null": (
        lambda f: edit_table(f / DATA, "index", lambda v: [*v[:3], None, *v[4:]]),
        f"{DATA}: 'index': expected a number in every row, found nothing in row 3",
    ),
    "an action null": (
        lambda f: edit_table(f / DATA, "action", lambda v: [*v[:5], None, *v[6:]]),
        f"{DATA}: row 5: 'action': expected 14 numbers as meta/info.json says, found nothing",
    ),
    "an action too short": (
        lambda f: edit_table(f / DATA, "action", lambda v: [*v[:5], v[5][:6], *v[6:]], pa.list_(pa.float32())),
        f"{DATA}: row 5: 'action': expected 14 numbers",
    ),
    "actions of text": (
        lambda f: _rewrite(f / DATA, "action", ["x"] * 9),
        "data: 'action': expected a column of numbers, found string",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_metadata_is_one_line(folder, name):
    """lerobot#2429, lerobot#2283: None, absent columns, fps null or 0, features without shape."""
    damage, message = MALFORMED[name]
    damage(folder)
    with pytest.raises((DatasetError, TrainingError)) as error:
        cache(folder)
    text = str(error.value)
    assert message in text and str(folder) in text and "\n" not in text


def _ends_well(folder: Path) -> None:
    """Read as a training does, or refused in one line that names the folder."""
    try:
        frames = cache(folder)
    except (DatasetError, TrainingError) as error:
        assert str(folder) in str(error) and "\n" not in str(error)
    else:
        assert np.isfinite(frames.positions).all()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PLACES), VALUES | st.just(...))
def test_any_value_in_info_is_read_or_named(stored, place, value):
    with tempfile.TemporaryDirectory() as home:
        folder = Path(shutil.copytree(stored, Path(home) / "set"))

        edit_info(folder, lambda info: put(info, place, value))
        _ends_well(folder)


CELLS = [
    (st.integers(-(2**62), 2**62) | st.none(), pa.int64()),
    (st.floats() | st.none(), pa.float64()),
    (st.text(max_size=5) | st.none(), pa.string()),
    (st.booleans(), pa.bool_()),
    (st.lists(st.integers(-3, 3), max_size=3) | st.none(), pa.list_(pa.int64())),
    (st.none(), pa.null()),
    (st.binary(max_size=3), pa.binary()),
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(COLUMNS), st.sampled_from(CELLS).flatmap(lambda c: st.tuples(st.just(c[1]), st.lists(c[0], min_size=9,
       max_size=9))), st.booleans())  # fmt: skip
def test_any_column_of_any_table_is_read_or_named(original, place, cells, dropped):
    path, name = place
    with tempfile.TemporaryDirectory() as home:
        folder = Path(shutil.copytree(original, Path(home) / "set"))
        table = pq.ParquetFile(folder / path).read()
        if dropped:
            table = table.drop_columns([name])
        else:
            kind, values = cells
            column = pa.array(values[: table.num_rows], kind)
            table = table.set_column(table.column_names.index(name), name, column)
        pq.write_table(table, folder / path)
        _ends_well(folder)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([INFO, STATS, TASKS, EPISODES, DATA]), st.integers(0, 4000), st.binary(max_size=20), st.booleans())
@example(EPISODES, 140, b"\x80", False)  # text that is no UTF-8
def test_any_bytes_in_any_file_are_read_or_named(stored, name, at, noise, cut):
    with tempfile.TemporaryDirectory() as home:
        folder = Path(shutil.copytree(stored, Path(home) / "set"))
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:at] + noise + (b"" if cut else data[at + len(noise) :]))
        _ends_well(folder)


def test_with_two_processes_a_refusal_is_one_line(folder, tmp_path):
    """As the command prints it: no traceback of any process, nothing but the reason."""
    edit_info(folder, lambda info: info.update(total_frames=77))
    command = [sys.executable, "-m", "rdvla_ros.cli", "train", "--data", str(folder), "--output", str(tmp_path / "run")]
    run = subprocess.run([*command, "--processes", "2"], capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert run.returncode == 1 and run.stdout == ""
    lines = run.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("rdvla train: ") and "'total_frames': expected 9" in lines[0]


def test_a_changed_file_is_read_again(folder):
    """The cache of a run is of these very files: not only info.json counts."""
    (folder / STATS).unlink()
    before = cache(folder).positions.copy()
    edit_table(folder / DATA, "observation.state", lambda values: [[x / 2 for x in row] for row in values])
    np.testing.assert_allclose(cache(folder).positions, before / 2, rtol=1e-6)
