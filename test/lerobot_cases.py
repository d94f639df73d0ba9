"""LeRobotDatasets made on the spot, and the ways to damage them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from policy_cases import robot, tiny_config

from rdvla_ros.learning.config import DataSettings
from rdvla_ros.learning.data.dataset import Frames, Wanted, build_cache, open_cache
from rdvla_ros.learning.data.lerobot.writer import RecordedEpisode, write_dataset

JOINTS = list(robot().joint_names)
CAMERAS = ("top", "left_wrist", "right_wrist")
TOP = "observation.images.top"
DATA, EPISODES, TASKS = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet", "meta/tasks.parquet"
VIDEO = f"videos/{TOP}/chunk-000/file-000.mp4"
SIZE = (32, 48)


def features(names: Sequence[str] = JOINTS) -> dict[str, dict]:
    return {name: {"dtype": "float32", "shape": [len(names)], "names": list(names)} for name in ("observation.state", "action")}


def level(row: int) -> int:
    """Brightness of the picture of a row: neighbours can be told apart after compression."""
    return 20 + 5 * row % 230


def ramp(steps: int, width: int = 14, seed: int = 0) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).uniform(0.0, 0.01, (steps, width)), axis=0).astype(np.float32)


def write_set(folder: Path, lengths: Sequence[int] = (8, 9, 10), fps: int = 10, columns: dict | None = None, **options) -> Path:
    """Plain demonstrations: no expert. Every picture shows its row (`level`). columns: feature -> (N, A) of all rows."""
    names = options.get("names", JOINTS)
    rows = sum(lengths)
    whole = columns or {"observation.state": ramp(rows, len(names)), "action": ramp(rows, len(names), 1)}
    begins = np.cumsum([0, *lengths])

    def episodes():
        for i, (begin, end) in enumerate(zip(begins, begins[1:], strict=False)):
            shades = np.array([level(row) for row in range(begin, end)], np.uint8)[:, None, None, None]
            pictures = {name: np.broadcast_to(shades, (end - begin, *SIZE, 3)) for name in options.get("cameras", CAMERAS)}
            part = {name: values[begin:end] for name, values in whole.items()}
            yield RecordedEpisode(f"task {i % 2}", part, pictures, {})

    write_dataset(folder, episodes(), fps, "aloha_sim", options.get("features") or features(names))
    return folder


def store_pictures(folder: Path, encode: Callable[[int], bytes | None] | None = None) -> Path:
    """The same set with its pictures in the rows instead of videos."""
    path = folder / DATA
    table = pq.ParquetFile(path).read()
    cells = [{"bytes": (encode or png)(row), "path": None} for row in range(table.num_rows)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for name in CAMERAS:
        table = table.append_column(f"observation.images.{name}", pa.array(cells, kind))
    pq.write_table(table, path)
    edit_info(folder, lambda info: [info["features"][f"observation.images.{n}"].update(dtype="image") for n in CAMERAS])
    return folder


def png(row: int, picture: np.ndarray | None = None, kind: str = ".png") -> bytes:
    picture = np.full((*SIZE, 3), level(row), np.uint8) if picture is None else picture
    return cv2.imencode(kind, picture)[1].tobytes()


def cache(folder: Path, rows: int = 8, robot_=None, **settings: Any) -> Frames:
    """As a training reads it."""
    config = tiny_config()
    wanted = Wanted(DataSettings(**settings), config.model.cameras, robot_ or robot(), rows, 25)
    build_cache([folder], folder.parent / "cache", wanted)
    return open_cache(folder.parent / "cache", config.model.cameras)


def edit_info(folder: Path, change: Callable[[dict], Any]) -> None:
    path = folder / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def edit_table(path: Path, name: str, change: Callable[[list], list], kind: pa.DataType | None = None) -> None:
    table = pq.ParquetFile(path).read()
    column = pa.array(change(table.column(name).to_pylist()), kind or table.schema.field(name).type)
    pq.write_table(table.set_column(table.column_names.index(name), name, column), path)


def drop_column(path: Path, name: str) -> None:
    pq.write_table(pq.ParquetFile(path).read().drop_columns([name]), path)


def film(path: Path, shades: Sequence[int], ticks: Sequence[int], fps: int) -> None:
    """A video of flat pictures, picture i shown at ticks[i] / (2 fps)."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=2 * fps, options={"crf": "10", "g": "2", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 2 * fps)
        for shade, tick in zip(shades, ticks, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((*SIZE, 3), shade, np.uint8), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 2 * fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path.write_bytes(buffer.getvalue())


def depth_film(path: Path, count: int, fps: int) -> None:
    """A lossless video of 16 bit depth."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "gray16le"
        for _ in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full(SIZE, 1200, np.uint16), format="gray16le")))
        container.mux(stream.encode(None))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["{", "{video_key}", "../x", "v3.0", "video", "uint16"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)
PLACES = [
    *([key] for key in ("codebase_version", "fps", "features", "data_path", "video_path")),
    *([key] for key in ("total_frames", "total_episodes", "splits")),
    *(["features", feature] for feature in ("observation.state", "action", TOP, "timestamp", "index")),
    *(["features", f, key] for f in ("observation.state", "action", TOP) for key in ("dtype", "shape", "names", "info")),
    ["features", TOP, "shape", 2],
    ["features", "action", "shape", 0],
]  # fmt: skip
COLUMNS = [
    *((TASKS, name) for name in ("task_index", "__index_level_0__")),
    *((EPISODES, name) for name in ("episode_index", "tasks", "length", "data/chunk_index", "data/file_index",
                                    "dataset_from_index", "dataset_to_index")),
    *((EPISODES, f"videos/{TOP}/{name}") for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")),
    *((DATA, name) for name in ("index", "episode_index", "frame_index", "task_index", "timestamp", "action")),
]  # fmt: skip


def put(info: dict, place: list, value) -> None:
    """A value of info.json replaced, or (...) removed."""
    *parents, last = place
    for key in parents:
        info = info[key]
    if value is ... and isinstance(info, dict):
        info.pop(last, None)
    else:
        info[last] = None if value is ... else value
