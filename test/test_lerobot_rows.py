"""What a row of a dataset is, its own columns say: order, episode, frame, task, time."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot_cases import DATA, EPISODES, TASKS, cache, drop_column, edit_info, edit_table, level, ramp, store_pictures, write_set

from rdvla_ros.learning.data.lerobot import DatasetError
from rdvla_ros.learning.data.lerobot.reader import LeRobotDataset
from rdvla_ros.model.tokenizer import WordTokenizer

ROWS = 27


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Episodes of 8, 9 and 10 frames, pictures in the rows."""
    return store_pictures(write_set(tmp_path_factory.mktemp("rows") / "set"))


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "set"))


def _shades(data: LeRobotDataset) -> list[int]:
    pictures = (picture for e in data.episodes for picture in data.pictures("observation.images.top", e))
    return [int(picture[0, 0, 0]) for picture in pictures]


def test_sets_without_tasks_in_the_table_of_episodes_are_read(folder):
    """lerobot#4519: the official lerobot/libero has no column 'tasks' in meta/episodes."""
    drop_column(folder / EPISODES, "tasks")
    frames = cache(folder)
    assert [frames.instructions[i] for i in frames.instruction_index] == ["task 0"] * 8 + ["task 1"] * 9 + ["task 0"] * 10


def test_an_episode_with_two_tasks_trains_each_frame_under_its_own(folder):
    """lerobot-dataset-visualizer#62: the frames of one episode may have several tasks; the vocabulary holds all of them."""
    edit_table(folder / DATA, "task_index", lambda values: [*values[:3], *[2] * 5, *values[8:]])
    tasks = pq.ParquetFile(folder / TASKS).read()
    row = pa.table({"task_index": [2], "__index_level_0__": ["wipe the table"]}).cast(tasks.schema)
    pq.write_table(pa.concat_tables([tasks, row]), folder / TASKS)
    edit_table(folder / EPISODES, "tasks", lambda values: [["task 0", "wipe the table"], *values[1:]])
    frames = cache(folder)
    assert [frames.instructions[i] for i in frames.instruction_index[:8]] == ["task 0"] * 3 + ["wipe the table"] * 5
    assert {"wipe", "table"} <= set(WordTokenizer.from_instructions(frames.instructions, 16).vocabulary)


def test_a_task_that_the_episode_does_not_name_is_refused(folder):
    edit_table(folder / DATA, "task_index", lambda values: [*values[:3], 1, *values[4:]])
    with pytest.raises(DatasetError, match=r"meta/episodes.*'tasks' of episode 0: expected 'task 1' among them.*\['task 0'\]"):
        LeRobotDataset(folder)


def test_an_unknown_task_is_refused(folder):
    edit_table(folder / DATA, "task_index", lambda values: [*values[:12], 7, *values[13:]])
    with pytest.raises(DatasetError, match="file-000.parquet: row 12: 'task_index': expected one of meta/tasks.parquet.*found 7"):
        LeRobotDataset(folder)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(ROWS)), st.sets(st.integers(1, ROWS - 1), max_size=3), st.randoms(use_true_random=False))
def test_rows_and_files_in_any_order_are_read_by_their_index(original, order, cuts, random):
    """ray-project/ray PR 63821: files are numbered in another order than their rows; here rows lie in any order besides."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(original, Path(place) / "set"))
        table = pq.ParquetFile(folder / DATA).read().take(pa.array(order))
        bounds = [0, *sorted(cuts), ROWS]
        numbers = random.sample(range(10), len(bounds) - 1)
        (folder / DATA).unlink()
        for number, begin, end in zip(numbers, bounds, bounds[1:], strict=False):
            pq.write_table(table.slice(begin, end - begin), folder / f"data/chunk-000/file-{number:03d}.parquet")
        edit_table(folder / EPISODES, "data/file_index", lambda values: [random.choice(numbers) for _ in values])
        data = LeRobotDataset(folder)
        np.testing.assert_array_equal(data.numbers("action"), ramp(ROWS, 14, 1))
        assert _shades(data) == [level(row) for row in range(ROWS)]
        assert data.instructions().tolist() == ["task 0"] * 8 + ["task 1"] * 9 + ["task 0"] * 10


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["index", "episode_index", "frame_index", "task_index", "timestamp"]),
    st.integers(0, ROWS - 1),
    st.integers(-3, 40),
)
def test_a_row_that_contradicts_the_others_is_refused(original, name, row, value):
    """Any number in any of these columns is the right one, or is named with its file and row."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "set"
        shutil.copytree(original, folder)
        before = pq.ParquetFile(folder / DATA).read().column(name)[row].as_py()
        edit_table(folder / DATA, name, lambda values: [*values[:row], value, *values[row + 1 :]])
        if before == value:
            LeRobotDataset(folder)
            return
        with pytest.raises(DatasetError) as error:
            LeRobotDataset(folder)
        text = str(error.value)
        assert str(folder) in text and ("\n" not in text) and (f"'{name}'" in text or "'tasks'" in text)


DISAGREEMENT = {
    "frames": (lambda f: edit_info(f, lambda i: i.update(total_frames=26)), "info.json: 'total_frames': expected 27.*found 26"),
    "episodes": (
        lambda f: edit_info(f, lambda i: i.update(total_episodes=4)),
        "info.json: 'total_episodes': expected 3.*found 4",
    ),
    "length": (lambda f: edit_table(f / EPISODES, "length", lambda v: [8, 9, 9]), "'length' of episode 2: expected 10.*found 9"),
    "range": (lambda f: edit_table(f / EPISODES, "dataset_from_index", lambda v: [0, 7, 17]), "'length' of episode 1|expected 8"),
    "rows": (
        lambda f: pq.write_table(pq.ParquetFile(f / DATA).read().slice(0, 26), f / DATA),
        "data: expected 27 frames as meta/episodes says, found 26",
    ),
    "episode twice": (
        lambda f: edit_table(f / EPISODES, "episode_index", lambda v: [0, 1, 1]),
        "each number once, found 1 twice",
    ),
}


@pytest.mark.parametrize("name", DISAGREEMENT)
def test_ranges_counts_and_info_must_agree(folder, name):
    damage, message = DISAGREEMENT[name]
    damage(folder)
    with pytest.raises(DatasetError, match=message):
        LeRobotDataset(folder)


def _stamp(folder: Path, times) -> None:
    edit_table(folder / DATA, "timestamp", lambda values: list(np.asarray(times, dtype=float)))


def _times(pause_s: float = 0.0, at: int = 12, fps: float = 10.0) -> np.ndarray:
    times = np.concatenate([np.arange(n) / fps for n in (8, 9, 10)])
    times[at:17] += pause_s
    return times


@pytest.mark.parametrize(
    "times, message",
    [
        (
            _times(pause_s=2.0),
            r"'timestamp' of frame 4 of episode 1: expected 0.4000 s.*found 2.4000 s, 2100.0 ms.*data.resample",
        ),
        (_times(pause_s=0.1), "frame 4 of episode 1"),  # one frame left out
        (_times(fps=5.0), r"frame 1 of episode 0: expected 0.1000 s \(meta/info.json: fps 10\), found 0.2000"),
        (_times(fps=10.7), "expected 10 frames per second as meta/info.json says, found 10.7"),
        (_times()[::-1], "frame 1 of episode 0: expected a later time"),
    ],
    ids=["a pause", "a frame left out", "another rate", "a rate 7 % off", "backwards"],
)
def test_time_stamps_that_contradict_fps_or_pause_are_refused(folder, times, message):
    _stamp(folder, times)
    with pytest.raises(DatasetError, match=message):
        LeRobotDataset(folder)


def test_jitter_and_rounding_are_no_contradiction(folder):
    jitter = np.random.default_rng(0).uniform(-0.02, 0.02, ROWS)
    jitter[[0, 8, 17]] = 0.0
    _stamp(folder, (_times() + jitter).astype(np.float32))
    assert _shades(LeRobotDataset(folder)) == [level(row) for row in range(ROWS)]


def test_resampled_targets_are_those_of_the_time_and_none_lies_in_a_pause(folder):
    """A recording at 5 frames per second that calls itself 10, with a pause of 3 s in its second episode."""
    times = _times(fps=5.0)
    times[13:17] += 3.0
    position = np.concatenate([times[:8], times[8:17], times[17:]])
    path = np.repeat(position[:, None], 14, axis=1).astype(np.float32) * 0.05
    edit_table(folder / DATA, "action", lambda values: [row.tolist() for row in path])
    (folder / "meta/stats.json").unlink()
    _stamp(folder, times)
    with pytest.raises(DatasetError, match="data.resample"):
        cache(folder)
    frames = cache(folder, rows=3, resample=True, step_s=0.2)
    assert len(frames) == 8 + (9 - 3) + 10  # without those whose three rows would reach beyond the pause
    np.testing.assert_allclose(frames.labels[0, :, 0], np.array([0.0, 0.2, 0.4]) * 0.05, atol=1e-6)
    kept = [*range(8), 8, 9, *range(13, 27)]  # frames 2, 3, 4 of episode 1 are the last before the pause
    assert [int(frames.images["top"][i, 0, 0, 0]) for i in range(len(frames))] == [level(row) for row in kept]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.02, 0.3), min_size=3, max_size=40), st.floats(0.05, 0.4), st.integers(1, 6))
def test_even_frames_never_look_into_a_pause_and_interpolate_a_straight_line(steps, step_s, rows):
    from rdvla_ros.learning.data.resampling import PAUSE_STEPS, even_frames, timed_labels

    times = np.cumsum([0.0, *steps])
    frames = even_frames(times, step_s, rows * step_s)
    assert (np.diff(frames) > 0).all()
    longest = max(step_s, PAUSE_STEPS * float(np.median(np.diff(times))))
    for frame in frames:
        reached = times[frame] + rows * step_s
        inside = np.diff(times[frame:][times[frame:] < reached]) if frame + 1 < len(times) else np.empty(0)
        assert (inside <= longest).all()
    ahead = np.arange(1, rows + 1) * step_s
    labels = timed_labels(times, np.repeat(times[:, None], 2, axis=1), frames, ahead)
    due = np.minimum(times[frames][:, None] + ahead, times[-1])
    np.testing.assert_allclose(labels[..., 0], due, atol=1e-5)
