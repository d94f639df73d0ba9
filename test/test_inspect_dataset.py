"""`rdvla inspect DATASET`: what is in it, and all that is wrong with it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot_cases import (
    COLUMNS,
    DATA,
    EPISODES,
    PLACES,
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

from rdvla_ros import cli
from rdvla_ros.learning.config import TrainingError
from rdvla_ros.learning.data.lerobot import DatasetError

ROOT = Path(__file__).parent.parent
STATS = "meta/stats.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("inspect") / "set", lengths=(4, 5))


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "set"))


def _inspect(folder: Path, *options: str) -> int:
    return cli.main(["inspect", str(folder), "--contact-sheet", str(folder.parent / "sheet.png"), *options])


def test_inspect_prints_what_a_dataset_contains(folder, capsys):
    assert _inspect(folder) == 0
    out = capsys.readouterr().out
    for text in ("episodes         2, of 4 to 5 frames", "10 by the time stamps, 10 by info.json", '4 frames  "task 0"',
                 f"{TOP}  [32, 48, 3] video, camera top", "left_waist", "-3.142", "No problems found."):  # fmt: skip
        assert text in out
    sheet = cv2.imread(str(folder.parent / "sheet.png"))
    assert sheet is not None and sheet.shape[0] > 3 * 100 and sheet.std() > 20


def test_inspect_names_every_problem(folder, capsys):
    """Nine kinds at once; a training names the first of them."""
    edit_info(folder, lambda info: info.update(total_frames=77, total_episodes=3))
    edit_info(folder, lambda info: info["features"][TOP].update(shape=[32, 48, 1]))
    edit_info(folder, lambda info: info["features"].pop("observation.images.left_wrist"))
    key = "videos/observation.images.right_wrist/to_timestamp"
    edit_table(folder / EPISODES, key, lambda v: [v[0] + 1.0, v[1] + 1.0])
    edit_table(folder / DATA, "timestamp", lambda v: [*v[:3], v[3] + 1.0, *v[4:]])
    edit_table(folder / DATA, "task_index", lambda v: [1, *v[1:]])
    edit_table(folder / DATA, "action", lambda v: [[90.0, *row[1:5], 90.0, *row[6:]] for row in v])
    (folder / STATS).unlink()
    assert _inspect(folder) == 1
    captured = capsys.readouterr()
    problems = [line for line in captured.err.splitlines() if line.startswith("problem: ")]
    for text in ("'total_frames'", "'total_episodes'", "'shape': expected", "no camera 'left_wrist'", "'timestamp' of frame 3",
                 "'tasks' of episode 0", "'left_waist'", "'left_wrist_rotate'"):  # fmt: skip
        assert sum(text in line for line in problems) == 1, text
    assert sum(key in line for line in problems) == 2
    assert f"{len(problems)} problems" in captured.out and "Traceback" not in captured.err
    with pytest.raises((DatasetError, TrainingError)):
        cache(folder)


def test_inspect_goes_on_where_the_rows_cannot_be_used(folder, capsys):
    edit_table(folder / DATA, "index", lambda v: [0] * len(v))
    edit_info(folder, lambda info: info["features"]["action"].update(shape=None))
    assert _inspect(folder) == 1
    problems = [line for line in capsys.readouterr().err.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 2 and "'index'" in problems[0] and "'shape'" in problems[1]


def test_inspect_decodes_what_a_training_would(folder, capsys):
    store_pictures(folder)
    edit_table(folder / DATA, TOP, lambda cells: [*cells[:6], {"bytes": b"", "path": None}, *cells[7:]])
    assert _inspect(folder) == 1
    assert (
        "'observation.images.top' of frame 2 of episode 1: expected a PNG or JPEG picture, found 0 bytes"
        in capsys.readouterr().err
    )


def test_inspect_reads_as_the_given_configuration_says(folder, tmp_path, capsys):
    edit_table(folder / DATA, "timestamp", lambda v: [2 * x for x in v])
    assert _inspect(folder) == 1 and "data.resample" in capsys.readouterr().err
    (tmp_path / "train.yaml").write_text("data: {resample: true, step_s: 0.2}")
    assert _inspect(folder, "--config", str(tmp_path / "train.yaml")) == 0
    assert "5 by the time stamps, 10 by info.json" in capsys.readouterr().out


def test_inspect_lists_sensors_with_the_range_of_those_that_are_used(folder, tmp_path, capsys):
    (tmp_path / "train.yaml").write_text("data: {sensors: {left_force: observation.state}}")
    assert _inspect(folder, "--config", str(tmp_path / "train.yaml")) == 0
    out = capsys.readouterr().out
    assert "sensors          1" in out and "observation.state  [14] float32, sensor left_force, " in out
    (tmp_path / "train.yaml").write_text("data: {sensors: {left_force: observation.stat, right_force: action, same: action}}")
    assert _inspect(folder, "--config", str(tmp_path / "train.yaml")) == 1
    printed = capsys.readouterr()
    assert "no sensor 'left_force'" in printed.err
    assert "action  [14] float32, sensor right_force, " in printed.out and "; sensor same, " in printed.out
    edit_table(folder / DATA, "action", lambda v: [[float("nan")] * 14, *v[1:]])
    assert _inspect(folder, "--config", str(tmp_path / "train.yaml")) == 1


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(COLUMNS), st.sampled_from(PLACES), VALUES)
def test_inspect_never_breaks(original, column, place, value):
    """Two damages at once: always an answer, never a traceback."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(shutil.copytree(original, Path(home) / "set"))
        drop_column(folder / column[0], column[1])

        edit_info(folder, lambda info: put(info, place, value))
        assert cli.main(["inspect", str(folder), "--contact-sheet", str(Path(home) / "sheet.png")]) in (0, 1)


def test_inspecting_a_robot_needs_no_learning():
    """Neither torch nor pyarrow is loaded for a robot description."""
    code = (
        "import sys; from rdvla_ros import cli; cli.main(['inspect', 'config/aloha_sim.yaml']); "
        "print([name for name in ('torch', 'pyarrow', 'pandas', 'cv2') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout.strip().endswith("[]"), out.stdout + out.stderr
