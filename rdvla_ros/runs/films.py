"""The film of one camera: mp4 files of limited length, each readable up to the moment at which its writer ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from rdvla_ros.video import FRAGMENTS, VideoFile

# A key frame, and so a fragment on the disk, every second or so. Intra-frame quality matters: networks are trained on these.
OPTIONS = {"crf": "20", "preset": "ultrafast", "threads": "1", "g": "10", "bf": "0", "tune": "zerolatency"}
FRAMES_PER_FILM = 6000  # ten minutes at 10 Hz: what a damaged disk can take, and what a player likes
NAME = "{camera}-{film:03d}.mp4"


class CameraFilm:
    """Pictures (height, width, 3) uint8 RGB of one size, one after the other."""

    def __init__(self, folder: Path, camera: str, size: tuple[int, int], fps: int):
        self._folder, self.camera, self._size, self._fps = Path(folder), camera, size, fps
        self._file: VideoFile | None = None
        self.film, self.frames = -1, 0

    def append(self, picture: np.ndarray) -> tuple[int, int]:
        """(number of the frame, number of the film it is in). OSError where it cannot be written."""
        if self._file is None or self._file.frames >= FRAMES_PER_FILM:
            self.close()
            self.film += 1
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / NAME.format(camera=self.camera, film=self.film)
            self._file = VideoFile(path, self._fps, *self._size, OPTIONS, FRAGMENTS)
        self._file.append(picture[None])
        self.frames += 1
        return self.frames - 1, self.film

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def read_film(path: Path) -> Iterator[np.ndarray]:
    """The pictures of one file, in order; up to the damage where its end is missing."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            for frame in container.decode(stream):
                yield frame.to_ndarray(format="rgb24")
    except (OSError, av.FFmpegError, IndexError):
        return
