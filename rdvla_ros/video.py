"""Writing mp4 files: camera pictures of datasets, and films of episodes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

CODEC, PIXELS = "libx264", "yuv420p"
# To train on: nearly lossless. A key frame every other frame, so that any frame is quickly found.
EXACT = {"crf": "16", "g": "2", "bf": "0", "preset": "veryfast"}
# To watch: small, and one thread, so that the encoder takes no more than one core from the robot's processes.
FILM = {"crf": "23", "preset": "veryfast", "threads": "1"}
# Of the file: written in fragments, each with its own table, so that a film whose writer was killed can be seen up to there.
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}


class VideoFile:
    """One mp4 being written, in a folder that exists; frame i is shown at i / fps. width, height [px] are even, as the codec
    wants them. Every method raises OSError where the file cannot be written."""

    def __init__(
        self,
        path: Path,
        fps: int,
        width: int,
        height: int,
        options: dict[str, str] = EXACT,
        container: dict[str, str] | None = None,
    ):
        self.path, self.fps, self.frames = path, fps, 0
        with self._errors():
            self._container = av.open(str(path), "w", options=container or {})
            self._stream = self._container.add_stream(CODEC, rate=fps, options=options)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, PIXELS

    def append(self, pictures: np.ndarray) -> tuple[float, float]:
        """(N, height, width, 3) uint8 RGB; when they begin and end in the file [s]."""
        first = self.frames
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = self.frames
            with self._errors():
                self._container.mux(self._stream.encode(frame))
            self.frames += 1
        return first / self.fps, self.frames / self.fps

    def close(self) -> None:
        with self._errors():
            self._container.mux(self._stream.encode(None))
            self._container.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Only some of FFmpeg's errors are OSErrors by themselves."""
        try:
            yield
        except av.FFmpegError as error:
            raise OSError(error.errno, f"{self.path}: {error.strerror}") from error
