"""Which picture belongs to which row, and which pictures are none of a colour camera."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot_cases import (
    DATA,
    EPISODES,
    SIZE,
    TOP,
    VIDEO,
    cache,
    depth_film,
    edit_info,
    edit_table,
    film,
    level,
    png,
    store_pictures,
    write_set,
)

from rdvla_ros.learning.config import TrainingError
from rdvla_ros.learning.data.lerobot import DatasetError
from rdvla_ros.learning.data.lerobot.pictures import decode
from rdvla_ros.learning.data.lerobot.reader import LeRobotDataset

LENGTHS, FPS = (8, 9, 10), 10
ROWS = sum(LENGTHS)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("films") / "set", LENGTHS, FPS)


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "set"))


def _shades(folder: Path) -> list[int]:
    data = LeRobotDataset(folder)
    return [int(picture.mean()) for e in data.episodes for picture in data.pictures(TOP, e)]


def _right(shades: list[int]) -> bool:
    return len(shades) == ROWS and np.abs(np.array(shades) - [level(row) for row in range(ROWS)]).max() <= 2


def _spans(folder: Path, counts: list[int]) -> None:
    """The table of episodes as a writer leaves it that takes what its encoder made for the truth."""
    ends = np.cumsum(counts) / FPS
    edit_table(folder / EPISODES, f"videos/{TOP}/from_timestamp", lambda _: [0.0, *ends[:-1].tolist()])
    edit_table(folder / EPISODES, f"videos/{TOP}/to_timestamp", lambda _: ends.tolist())


def _episode_of(row: int) -> int:
    return int(np.searchsorted(np.cumsum(LENGTHS), row, side="right"))


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.integers(0, ROWS - 1), min_size=1, max_size=5),
    st.sampled_from(["missing", "surplus"]),
    st.sampled_from(["times tell", "table follows", "nobody knows"]),
)
def test_missing_or_surplus_pictures_are_never_read_as_others(original, rows, kind, sign):
    """OpenDriveLab/AgiBot-World#149: pictures and rows out of step. Read right, or refused; never one row's picture for
    another's."""
    shades, ticks, counts = [], [], list(LENGTHS)
    for row in range(ROWS):
        hit = row in rows
        if hit:
            counts[_episode_of(row)] += 1 if kind == "surplus" else -1
        if hit and kind == "missing":
            continue
        shades.append(level(row))
        ticks.append(2 * row)
        if hit:
            shades.append(250)
            ticks.append(2 * row + 1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(original, Path(place) / "set"))
        film(folder / VIDEO, shades, ticks if sign == "times tell" else [2 * i for i in range(len(shades))], FPS)
        if sign == "table follows":
            _spans(folder, counts)
        try:
            found = _shades(folder)
        except DatasetError as error:
            assert str(folder) in str(error) and "\n" not in str(error)
            assert not (kind == "surplus" and sign == "times tell"), "their times tell which pictures the rows mean"
            return
        assert _right(found)
        assert sign == "times tell" and kind == "surplus"


def test_a_film_at_another_rate_is_read_by_time(folder):
    """Twice as many pictures as rows, every second one of the right time."""
    shades = [level(row // 2) if row % 2 == 0 else 250 for row in range(2 * ROWS)]
    film(folder / VIDEO, shades, list(range(2 * ROWS)), FPS)
    assert _right(_shades(folder))


def test_a_picture_shown_too_late_is_no_picture_of_its_row(folder):
    """By 0.8 of a frame, while the next one is in time; by 0.4 it is still the nearest."""
    for late, right in ((4, True), (8, False)):
        ticks = [10 * row + (late if row == 11 else 0) for row in range(ROWS)]
        film(folder / VIDEO, [level(row) for row in range(ROWS)], ticks, 5 * FPS)
        if right:
            assert _right(_shades(folder))
        else:
            with pytest.raises(DatasetError, match="frame 3 of episode 1: expected a picture at 1.1000 s.*nearest one at 1.18"):
                _shades(folder)


def test_a_film_of_the_same_pictures_written_anew_is_read(folder):
    film(folder / VIDEO, [level(row) for row in range(ROWS)], [2 * row for row in range(ROWS)], FPS)
    assert _right(_shades(folder))


def test_episodes_of_one_film_may_not_overlap(folder):
    edit_table(folder / EPISODES, f"videos/{TOP}/from_timestamp", lambda v: [0.0, 0.5, v[2]])
    edit_table(folder / EPISODES, f"videos/{TOP}/to_timestamp", lambda v: [0.8, 1.4, v[2]])
    with pytest.raises(DatasetError, match="episode 1: expected its first picture after the last one of episode 0.*overlap"):
        _shades(folder)


def test_a_wrong_end_is_named_with_its_field(folder):
    edit_table(folder / EPISODES, f"videos/{TOP}/to_timestamp", lambda v: [v[0], v[1] + 0.3, v[2]])
    with pytest.raises(DatasetError, match=f"'videos/{TOP}/to_timestamp' of episode 1: expected 0.9000 s.*found 1.2000 s"):
        _shades(folder)


def test_an_episode_left_out_of_the_tables_may_stay_in_the_film(folder):
    """A whole episode of pictures that no row claims, after the others."""
    film(folder / VIDEO, [level(row) for row in range(ROWS + 12)], [2 * row for row in range(ROWS + 12)], FPS)
    assert _right(_shades(folder))


def test_pictures_are_checked_before_any_is_decoded(folder):
    """The last episode of the last camera: named at once, nothing half-written left."""
    key = "observation.images.right_wrist"
    edit_table(folder / EPISODES, f"videos/{key}/to_timestamp", lambda v: [*v[:2], v[2] + 1.0])
    with pytest.raises(DatasetError, match=f"videos/{key}/to_timestamp"):
        cache(folder)
    assert not (folder.parent / "cache").exists()


def _grey(values: np.ndarray, kind: str = ".png") -> bytes:
    return cv2.imencode(kind, values)[1].tobytes()


NO_COLOUR = {
    "depth of 16 bits": (_grey(np.full(SIZE, 1200, np.uint16)), "a PNG of 16 bits, grey"),
    "colour of 16 bits": (_grey(np.full((*SIZE, 3), 1200, np.uint16)), "a PNG of 16 bits, RGB"),
    "grey of 8 bits": (_grey(np.full(SIZE, 12, np.uint8)), "a PNG of 8 bits, grey"),
    "grey JPEG": (_grey(np.full(SIZE, 12, np.uint8), ".jpg"), "a JPEG of 1 components of 8 bits"),
    "TIFF depth": (_grey(np.full(SIZE, 1200, np.uint16), ".tiff"), "uint16 of 1 channels"),
    "0 bytes": (b"", "found 0 bytes"),
    "no picture": (b"not a picture", "13 bytes of another kind"),
    "half a PNG": (png(3)[: len(png(3)) // 2], "a PNG that ends too early"),
    "half a JPEG": (png(3, kind=".jpg")[:-40], "a JPEG"),
}


@pytest.mark.parametrize("name", NO_COLOUR)
def test_what_is_no_colour_picture_is_refused_when_stored(original, tmp_path, name):
    """lerobot#1144: uint16 depth in image features; lerobot#2429: pictures of 0 bytes."""
    data, message = NO_COLOUR[name]
    folder = Path(shutil.copytree(original, tmp_path / "set"))
    store_pictures(folder, lambda row: data if row == 10 else png(row))
    with pytest.raises(DatasetError, match=message) as error:
        cache(folder)
    assert "row 10" in str(error.value) and f"'{TOP}' of frame 2 of episode 1" in str(error.value)


@pytest.mark.parametrize("kind", [".png", ".jpg", ".bmp", ".webp"])
def test_colour_pictures_of_every_kind_are_read(kind):
    picture = np.zeros((*SIZE, 3), np.uint8)
    picture[..., 2] = 200  # red, in OpenCV's order
    found = decode(cv2.imencode(kind, picture)[1].tobytes(), "here")
    assert found.shape == (*SIZE, 3) and found[..., 0].mean() > 190 and found[..., 2].mean() < 10
    padded = cv2.imencode(kind, picture)[1].tobytes() + bytes(300)
    assert (decode(padded, "here") == found).all()


def test_transparency_is_left_out():
    picture = np.dstack([np.full((*SIZE, 3), 90, np.uint8), np.zeros(SIZE, np.uint8)])
    assert decode(cv2.imencode(".png", picture)[1].tobytes(), "here").mean() == 90


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([b"", png(1), png(1, kind=".jpg")]), st.integers(0, 600))
def test_any_bytes_are_a_picture_or_a_dataset_error(noise, start, cut):
    try:
        found = decode(start[:cut] + noise, "the place")
    except DatasetError as error:
        assert str(error).startswith("the place: expected") and "\n" not in str(error)
    else:
        assert found.ndim == 3 and found.dtype == np.uint8


DEPTH = {
    "marked": (lambda entry: entry["info"].update({"is_depth_map": True}), "found a depth map"),
    "marked, LeRobot 0.4": (lambda entry: entry["info"].update({"video.is_depth_map": True}), "found a depth map"),
    "one channel": (lambda entry: entry.update(shape=[*SIZE, 1]), "'shape': expected .height, width, 3."),
    "one channel, channels first": (
        lambda entry: entry.update(shape=[1, *SIZE], names=["channels", "height", "width"]),
        "'shape': expected",
    ),
    "numbers": (lambda entry: entry.update(dtype="uint16", shape=[*SIZE, 1]), "'dtype': expected video or image, found uint16"),
}


@pytest.mark.parametrize("name", DEPTH)
def test_a_depth_feature_is_no_camera(folder, name):
    """lerobot#1144, lerobot PR 3644."""
    change, message = DEPTH[name]
    edit_info(folder, lambda info: change(info["features"][TOP]))
    with pytest.raises((DatasetError, TrainingError), match=message):
        cache(folder)


def test_a_film_of_depth_is_no_colour_camera(folder):
    depth_film(folder / VIDEO, ROWS, FPS)
    with pytest.raises(DatasetError, match="file-000.mp4: expected a colour video, found gray16"):
        cache(folder)


def test_channels_first_is_colour_too(folder):
    edit_info(folder, lambda info: info["features"][TOP].update(shape=[3, *SIZE], names=["channels", "height", "width"]))
    assert _right(_shades(folder))


def test_a_picture_without_bytes_is_named(original, tmp_path):
    folder = Path(shutil.copytree(original, tmp_path / "set"))
    store_pictures(folder, lambda row: None if row == 0 else png(row))
    with pytest.raises(DatasetError, match="frame 0 of episode 0: expected PNG or JPEG pictures, found"):
        cache(folder)
    edit_table(folder / DATA, TOP, lambda cells: [str(cell) for cell in cells], pa.string())
    with pytest.raises(DatasetError, match="frame 0 of episode 0: expected PNG or JPEG pictures, found"):
        cache(folder)
