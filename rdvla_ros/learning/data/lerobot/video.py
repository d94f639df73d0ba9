"""Reading camera pictures of mp4 files that many episodes share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from rdvla_ros.learning.data.lerobot import DatasetError
from rdvla_ros.video import PIXELS


def describe(width: int, height: int, fps: int) -> dict:
    """The `info` of a video feature."""
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": "h264",
        "video.pix_fmt": PIXELS,
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
    }


def read_frames(path: Path, begin_s: float, count: int, fps: float) -> Iterator[np.ndarray]:
    """`count` pictures (height, width, 3) uint8 RGB from `begin_s` on. DatasetError where the file has fewer, or none there."""
    found = 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            container.seek(int(begin_s / stream.time_base), stream=stream)  # the key frame at or before it
            for frame in container.decode(stream):
                if frame.time < begin_s - 0.5 / fps:
                    continue
                if found == count:
                    return
                yield frame.to_ndarray(format="rgb24")
                found += 1
    except (OSError, av.FFmpegError, IndexError) as error:
        raise DatasetError(f"{path}: expected a video, got a file that cannot be read ({error}). Copy it again.") from error
    if found < count:
        raise DatasetError(
            f"{path}: expected {count} frames from {begin_s:.3f} s on, found {found}: truncated, or the episodes' table is of "
            "another recording. Copy the dataset again."
        )
