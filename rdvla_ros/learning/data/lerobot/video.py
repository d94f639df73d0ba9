"""Reading camera pictures of mp4 files that many episodes share."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Film:
    """What a video file holds, by its packets: times (M,) float64, when each picture is shown [s], rising."""

    path: Path
    times: np.ndarray

    @classmethod
    def open(cls, path: Path) -> Film:
        """Nothing is decoded. DatasetError where the file is no colour video."""
        if not path.is_file():
            raise DatasetError(f"{path}: expected a video with a camera's pictures, found no file. Download the videos too.")
        with _reading(path), av.open(str(path)) as container:
            stream = container.streams.video[0]
            pixels = stream.codec_context.format
            if pixels is not None and len(pixels.components) < 3:
                raise DatasetError(f"{path}: expected a colour video, found {pixels.name}. Choose a colour camera.")
            base = float(stream.time_base)
            stamps = [packet.pts for packet in container.demux(stream) if packet.pts is not None and packet.size]
        times = np.unique(np.asarray(stamps, dtype=np.float64) * base)
        if not len(times):
            raise DatasetError(f"{path}: expected a video with pictures, found none. Copy it again.")
        return cls(path, times)

    def nearest(self, moments: np.ndarray) -> np.ndarray:
        """(N,) moments [s] -> which picture is shown nearest to each."""
        after = np.clip(np.searchsorted(self.times, moments), 1, max(1, len(self.times) - 1))
        before = after - 1
        after = np.minimum(after, len(self.times) - 1)
        return np.where(moments - self.times[before] <= self.times[after] - moments, before, after)

    def pictures(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        """(height, width, 3) uint8 RGB of each chosen picture; their numbers rise."""
        waiting = deque(chosen)
        if not waiting:
            return
        with _reading(self.path), av.open(str(self.path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            container.seek(int(self.times[waiting[0]] / stream.time_base), stream=stream)  # the key frame at or before it
            for frame in container.decode(stream):
                place = int(self.nearest(np.array([frame.time]))[0]) if frame.time is not None else -1
                if place < waiting[0]:
                    continue
                if place > waiting[0] or frame.is_corrupt:
                    break
                yield frame.to_ndarray(format="rgb24")
                waiting.popleft()
                if not waiting:
                    return
        raise DatasetError(
            f"{self.path}: expected a picture at {self.times[waiting[0]]:.3f} s, found one that cannot be decoded. Copy it again."
        )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, av.FFmpegError, IndexError, ValueError, OverflowError) as error:
        text = " ".join(str(error).split())
        raise DatasetError(f"{path}: expected a video, found a file that cannot be read ({text}). Copy it again.") from error


def read_frames(path: Path, begin_s: float, count: int, fps: float) -> Iterator[np.ndarray]:
    """`count` pictures (height, width, 3) uint8 RGB of an even film, from `begin_s` on. DatasetError where one is missing."""
    film = Film.open(path)
    moments = begin_s + np.arange(count) / fps
    chosen = film.nearest(moments)
    if (np.abs(film.times[chosen] - moments) > 0.5 / fps).any():
        raise DatasetError(f"{path}: expected {count} frames from {begin_s:.3f} s on, found fewer. Copy it again.")
    yield from film.pictures(chosen)
