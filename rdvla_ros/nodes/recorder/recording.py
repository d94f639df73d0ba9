"""The thread that writes. Callbacks hand it work and never wait for the disk."""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
import time
from collections.abc import Callable

from rdvla_ros.runs.writer import RunWriter
from rdvla_ros.types import ObservationError

ITEMS, PICTURES = 5000, 60  # that wait at most: about 60 MB of 640x480 pictures
END_S = 1.2  # longest wait for the thread at the end of the process
Work = Callable[[RunWriter], None]


class DiskFull(OSError):
    """So little room is left that the recording ends before others lack it."""


class Recording:
    """Hand in work with `put`. on_end(why): called once, in the writer's thread, when the recording ended by itself.
    on_skipped(why): a message that cannot be recorded; the recording goes on."""

    def __init__(
        self,
        writer: RunWriter,
        flush_s: float,
        least_free_mb: int,
        on_end: Callable[[str], None],
        on_skipped: Callable[[str], None],
    ):
        self._writer, self._flush_s, self._least_free_mb = writer, flush_s, least_free_mb
        self._on_end, self._on_skipped = on_end, on_skipped
        self._queue: queue.SimpleQueue[tuple[Work, bool] | None] = queue.SimpleQueue()
        self._pictures = 0
        self._lock = threading.Lock()
        self.dropped, self.ended = 0, False
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        self._thread.start()

    def put(self, work: Work, picture: bool = False) -> None:
        """Never waits: what the disk is too slow for is dropped and counted."""
        if self.ended:
            return
        if self._queue.qsize() >= ITEMS or (picture and self._pictures >= PICTURES):
            self.dropped += 1
            self._on_skipped("The disk or the processor is too slow for the recording: messages are left out.")
            return
        if picture:
            with self._lock:
                self._pictures += 1
        self._queue.put((work, picture))

    def close(self) -> None:
        """Write what waits, for at most END_S, and end."""
        self._queue.put(None)
        self._thread.join(END_S)

    def _run(self) -> None:
        try:
            self._write()
            self._writer.about["dropped"] = self.dropped
            self._writer.close()
        except Exception as error:  # whatever it was, the robot goes on
            self._give_up(f"{type(error).__name__}: {error}")
        finally:
            self.ended = True

    def _write(self) -> None:
        due_s = time.monotonic() + self._flush_s
        self._check_room()
        while True:
            try:
                item = self._queue.get(timeout=max(0.01, due_s - time.monotonic()))
            except queue.Empty:
                item = ()
            if item is None:
                return
            if item:
                self._work(*item)
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + self._flush_s
                self._check_room()
                self._writer.flush()

    def _work(self, work: Work, picture: bool) -> None:
        if picture:
            with self._lock:
                self._pictures -= 1
        try:
            work(self._writer)
        except ObservationError as error:
            self._on_skipped(str(error))

    def _check_room(self) -> None:
        free_mb = shutil.disk_usage(self._writer.folder).free >> 20
        if free_mb < self._least_free_mb:
            raise DiskFull(f"expected at least {self._least_free_mb} MiB free (least_free_mb), found {free_mb}")

    def _give_up(self, why: str) -> None:
        self.ended = True
        with contextlib.suppress(Exception):  # nothing can be written any more: run.json then says that it was not ended
            self._writer.close(why)
        self._on_end(why)
