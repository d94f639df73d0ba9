"""LeRobotDataset v3.0: what is written is read again, by us and by LeRobot; what is wrong with a dataset is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from policy_cases import INSTRUCTION, robot, tiny_config, write_episodes

from rdvla_ros import cli
from rdvla_ros.learning.config import DataSettings, TrainingError
from rdvla_ros.learning.data.dataset import Wanted, build_cache, open_cache
from rdvla_ros.learning.data.lerobot import DatasetError
from rdvla_ros.learning.data.lerobot.reader import LeRobotDataset
from rdvla_ros.learning.data.lerobot.writer import RecordedEpisode, write_dataset

FEATURES = {
    name: {"dtype": "float32", "shape": [14], "names": list(robot().joint_names)} for name in ("observation.state", "action")
}
DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
CAMERAS = ("top", "left_wrist", "right_wrist")


def _ramp(steps: int, seed: int) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).uniform(0.0, 0.01, (steps, 14)), axis=0).astype(np.float32)


def _write(folder: Path, lengths=(6, 9), fps: int = 10, size=(32, 48)) -> Path:
    """Plain demonstrations as another lab would have them: no expert, the action is the next state."""

    def episodes():
        for i, steps in enumerate(lengths):
            ramp = _ramp(steps + 1, i)
            level = np.linspace(20 * i, 200, steps).astype(np.uint8)[:, None, None, None]
            pictures = {name: np.broadcast_to(level, (steps, *size, 3)) for name in CAMERAS}
            yield RecordedEpisode(f"task {i}", {"observation.state": ramp[:-1], "action": ramp[1:]}, pictures, {})

    write_dataset(folder, episodes(), fps, "aloha_sim", FEATURES)
    return folder


@pytest.fixture
def folder(tmp_path):
    return _write(tmp_path / "set")


def _cache(folder: Path, rows: int = 8, **settings):
    config = tiny_config()
    wanted = Wanted(DataSettings(**settings), config.model.cameras, robot(), rows, 25)
    build_cache([folder], folder.parent / "cache", wanted)
    return open_cache(folder.parent / "cache", config.model.cameras)


def test_what_is_written_is_read(folder):
    data = LeRobotDataset(folder)
    assert [(data.tasks_of(e), len(e)) for e in data.episodes] == [(["task 0"], 6), (["task 1"], 9)] and data.fps == 10.0
    assert data.cameras == [f"observation.images.{name}" for name in CAMERAS]
    np.testing.assert_array_equal(data.numbers("action")[6:], _ramp(10, 1)[1:])
    pictures = list(data.pictures("observation.images.left_wrist", data.episodes[1]))
    assert len(pictures) == 9 and pictures[0].shape == (32, 48, 3)
    levels = [int(picture.mean()) for picture in pictures]
    np.testing.assert_allclose(levels, np.linspace(20, 200, 9), atol=3)


def test_files_are_those_of_the_format(folder):
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    videos = {f"videos/observation.images.{name}/chunk-000/file-000.mp4" for name in CAMERAS}
    assert files == {"meta/info.json", "meta/stats.json", "meta/tasks.parquet", DATA, EPISODES} | videos
    stats = json.loads((folder / "meta/stats.json").read_text())
    both = np.concatenate([_ramp(7, 0)[1:], _ramp(10, 1)[1:]])
    np.testing.assert_allclose(stats["action"]["mean"], both.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(stats["action"]["std"], both.std(axis=0), rtol=1e-4)


def test_actions_become_the_rows_of_a_chunk(folder):
    frames = _cache(folder)
    np.testing.assert_array_equal(frames.labels[6, 0], _ramp(10, 1)[1])
    np.testing.assert_array_equal(frames.labels[6, 7], _ramp(10, 1)[8])
    np.testing.assert_array_equal(frames.labels[-1], np.repeat(_ramp(10, 1)[9][None], 8, axis=0))  # rests at the end
    assert frames.instructions == ("task 0", "task 1")


def test_a_faster_recording_gives_the_same_action_steps(tmp_path):
    frames = _cache(_write(tmp_path / "fast", lengths=(50,), fps=50))
    assert len(frames) == 10  # one observation per action step of 0.1 s
    ramp = _ramp(51, 0)
    np.testing.assert_array_equal(frames.labels[2, 0], ramp[15])  # 0.1 s after frame 10
    np.testing.assert_array_equal(frames.labels[2, 3], ramp[30])


def test_our_own_demonstrations_carry_the_experts_chunks(tmp_path):
    data = LeRobotDataset(write_episodes(tmp_path / "ours", count=2))
    assert data.width("expert.chunk") == 12 * 14 and set(data.text("expert.phase")) == {"reach"}
    np.testing.assert_array_equal(data.numbers("expert.chunk")[:, :14], data.numbers("action"))
    assert data.tasks_of(data.episodes[1]) == [INSTRUCTION] and data.episodes[1].row["seed"] == 10001


def test_joints_are_taken_by_name(tmp_path, folder):
    info = json.loads((folder / "meta/info.json").read_text())
    for name in ("observation.state", "action"):
        info["features"][name]["names"] = None
    (folder / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(TrainingError, match="does not name its numbers.*data.joints"):
        _cache(folder)
    turned = robot().joint_names[::-1]
    frames = _cache(folder, joints=tuple(turned))
    np.testing.assert_array_equal(frames.positions[0], _ramp(7, 0)[0][::-1])
    with pytest.raises(TrainingError, match="no joint 'left_waist'"):
        _cache(folder, joints=("left_waits", *robot().joint_names[1:]))


def _edit_info(folder: Path, change) -> None:
    path = folder / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def _edit_table(path: Path, name: str, change) -> None:
    table = pq.ParquetFile(path).read()
    values = change(table.column(name).to_pylist())
    column = pa.array(values, table.schema.field(name).type)
    pq.write_table(table.set_column(table.column_names.index(name), table.schema.field(name), column), path)


def _nan(values):
    values[7][3] = float("nan")
    return values


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "version 2.1": (lambda f: _edit_info(f, lambda i: i.update(codebase_version="v2.1")), "convert_dataset_v21_to_v30"),
    "future version": (
        lambda f: _edit_info(f, lambda i: i.update(codebase_version="v9")),
        "expected LeRobot format v3.0, got v9",
    ),
    "no features": (lambda f: _edit_info(f, lambda i: i.pop("features")), "'features' is missing"),
    "no JSON": (lambda f: (f / "meta/info.json").write_text("{"), "info.json: expected JSON"),
    "no info": (lambda f: (f / "meta/info.json").unlink(), "expected a LeRobot dataset"),
    "missing camera": (
        lambda f: _edit_info(f, lambda i: i["features"].pop("observation.images.left_wrist")),
        "no camera 'left_wrist'.*data.cameras",
    ),
    "missing video": (
        lambda f: shutil.rmtree(f / "videos/observation.images.top"),
        "observation.images.top/chunk-000/file-000.mp4: expected a video with a camera's pictures, found no file",
    ),
    "truncated video": (
        lambda f: _truncate(f / "videos/observation.images.top/chunk-000/file-000.mp4"),
        "file-000.mp4: expected",
    ),
    "truncated data": (lambda f: _truncate(f / DATA), "file-000.parquet: expected a parquet table"),
    "no data": (lambda f: (f / DATA).unlink(), "found no file"),
    "no action": (lambda f: _edit_info(f, lambda i: i["features"].pop("action")), "the dataset has no 'action'"),
    "action width": (
        lambda f: _edit_info(f, lambda i: i["features"]["action"].update(shape=[7])),
        "'action' has 7 numbers per frame.*14 joints|'action': expected 7 numbers",
    ),
    "NaN": (lambda f: _edit_table(f / DATA, "action", _nan), "'action' is NaN or infinite in frame 1 of episode 1"),
    "empty episode": (
        lambda f: _edit_table(f / EPISODES, "dataset_to_index", lambda values: [0, values[1]]),
        "episode 0: expected frames.*empty",
    ),
    "gap": (
        lambda f: _edit_table(f / EPISODES, "dataset_to_index", lambda values: [5, values[1]]),
        "'length' of episode 0: expected 5",
    ),
    "gap between episodes": (
        lambda f: _edit_table(f / EPISODES, "dataset_from_index", lambda values: [0, values[1] + 1]),
        "'length' of episode 1: expected 8|follow one another",
    ),
    "foreign statistics": (
        lambda f: (f / "meta/stats.json").write_text(json.dumps({"action": {"min": [5.0] * 14, "max": [6.0] * 14}})),
        "statistics say 5 .. 6.*of another dataset",
    ),
    "statistics of another width": (
        lambda f: (f / "meta/stats.json").write_text(json.dumps({"action": {"min": [0.0] * 7, "max": [1.0] * 7}})),
        "expected min and max of 14 numbers, got 7",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_dataset_is_named_with_file_and_field(folder, name):
    damage, message = DAMAGE[name]
    damage(folder)
    with pytest.raises((DatasetError, TrainingError), match=message) as error:
        _cache(folder)
    assert "set" in str(error.value)  # the folder
    assert not (folder.parent / "cache" / "index.json").exists()


def test_writing_that_fails_leaves_the_dataset_that_was_there(folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def episodes():
        yield RecordedEpisode("x", {"observation.state": _ramp(4, 0), "action": _ramp(4, 0)}, {}, {})
        raise OSError(28, "No space left on device")

    with pytest.raises(DatasetError, match="No space left.*Nothing half-written"):
        write_dataset(folder, episodes(), 10, "aloha_sim", FEATURES)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    with pytest.raises(DatasetError, match="empty dataset"):
        write_dataset(folder, [], 10, "aloha_sim", FEATURES)


READ_BY_LEROBOT = """
import sys
from lerobot.datasets.lerobot_dataset import LeRobotDataset
data = LeRobotDataset("local/set", root=sys.argv[1], video_backend="pyav")
item = data[7]
print(len(data), data.num_episodes, item["task"], tuple(item["observation.images.top"].shape), float(item["action"][0]))
"""


@pytest.mark.ros_packages
def test_lerobot_itself_reads_it(folder):
    """With RDVLA_LEROBOT_PYTHON=<python of an environment with lerobot>; it needs another torch than this project's."""
    python = os.environ.get("RDVLA_LEROBOT_PYTHON")
    if not python:
        pytest.skip("set RDVLA_LEROBOT_PYTHON to the Python of an environment where lerobot 0.4 is installed")
    run = subprocess.run(
        [python, "-c", READ_BY_LEROBOT, str(folder)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[0].startswith("15 2 task 1 (3, 32, 48)")


WRITTEN = Path(__file__).parent / "data"


@pytest.mark.parametrize("name", ["lerobot_0_4_4", "lerobot_0_6_1"])
def test_what_lerobot_itself_wrote_is_read(tmp_path, name):
    """By LeRobotDataset.create, add_frame, save_episode, finalize: pictures in the rows (0.4.4), an AV1 film (0.6.1); episodes of
    7, 12 and 9 frames, the last with two tasks; frame i of episode e has brightness 20 e + 15 i and joints 0.1 e + 0.01 i."""
    folder = Path(shutil.copytree(WRITTEN / name, tmp_path / "set"))
    data = LeRobotDataset(folder)
    assert [(data.tasks_of(e), len(e)) for e in data.episodes] == [(["task 0"], 7), (["task 1"], 12), (["task 0", "task x"], 9)]
    for i, episode in enumerate(data.episodes):
        shades = [int(picture.mean()) for picture in data.pictures("observation.images.top", episode)]
        np.testing.assert_allclose(shades, 20 * i + 15 * np.arange(len(episode)), atol=1)
    state = data.numbers("observation.state")
    np.testing.assert_allclose(state[:, 3], np.concatenate([0.1 * i + 0.01 * np.arange(n) for i, n in enumerate((7, 12, 9))]))
    frames = _cache(folder, cameras=dict.fromkeys(("left_wrist", "right_wrist"), "observation.images.top"))
    assert [frames.instructions[i] for i in frames.instruction_index[-6:]] == ["task 0"] * 2 + ["task x"] * 4
    assert cli.main(["inspect", str(folder), "--contact-sheet", str(tmp_path / "sheet.png")]) == 1  # two cameras are not there
