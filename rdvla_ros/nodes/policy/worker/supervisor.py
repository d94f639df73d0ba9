"""Always one decision process: one that hangs or ends is given up at once and followed by the next.

Times are seconds of a clock that nobody can set and come in as arguments; nothing here blocks.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from concurrent.futures import Future

from rdvla_ros.nodes.policy.worker.client import ProcessWorker
from rdvla_ros.nodes.policy.worker.protocol import Loaded, WorkerLost
from rdvla_ros.types import Observation

LONGEST_WAIT_S = 30.0  # between two starts, when they fail again and again


class WorkerSupervisor:
    """start() makes a worker; call everything here in the thread that may make one (see ProcessWorker).

    timeout_s: a decision that takes longer hangs. load_timeout_s: so does a load. The first worker must load for the node to
    be configured, and every later one must load the same: a checkpoint that changed on disk meanwhile is not taken.
    """

    def __init__(self, start: Callable[[], ProcessWorker], *, timeout_s: float, load_timeout_s: float, now_s: float):
        self._start, self._timeout_s, self._load_timeout_s = start, timeout_s, load_timeout_s
        self._dying: list[subprocess.Popen] = []
        self._asked: tuple[float, Future] | None = None
        self._failures, self._restart_s, self._refused = 0, 0.0, ""
        self._worker: ProcessWorker | None = start()
        self._started_s = now_s
        self.first = self._worker.loaded
        self.starts = 1

    def loaded(self, timeout_s: float) -> Loaded:
        """Waits for the first load: WorkerError says why it failed, WorkerLost that it ended or takes too long."""
        try:
            return self.first.result(timeout_s)
        except TimeoutError:
            raise WorkerLost(
                f"Loading the policy was expected to take at most {timeout_s:g} s (parameter load_timeout_s) and has not ended."
            ) from None

    def why_not(self) -> str:
        """Why no decision can be asked for now, in one sentence; empty when one can."""
        if self._refused:
            return self._refused
        if self._worker is None or not self._worker.alive:
            return "The decision process is gone; another one will be started."
        if not self._worker.loaded.done():
            return "The decision process is loading the policy."
        return ""

    def submit(
        self,
        observation: Observation,
        now_s: float,
        deadline_s: float | None = None,
        executed_steps: int | None = None,
        factor: int = 1,
    ) -> Future:
        """Ask for a decision; only while `why_not` says nothing, and one at a time."""
        future = self._worker.submit(observation, deadline_s, executed_steps, factor)
        self._asked = (now_s, future)
        return future

    def watch(self, now_s: float) -> str:
        """To be called every few milliseconds: one sentence when the worker was lost since the last call, otherwise empty."""
        self._dying = [process for process in self._dying if process.poll() is None]
        if self._worker is None:
            if now_s >= self._restart_s and not self._refused:
                self._worker, self._started_s = self._start(), now_s
                self.starts += 1
            return ""
        why = self._overdue(now_s) or self._unfit()
        if not why:
            return ""
        self._worker.kill(why)
        self._dying.append(self._worker.process)
        self._worker, self._asked = None, None
        self._restart_s = now_s + (min(LONGEST_WAIT_S, 2.0 ** (self._failures - 1)) if self._failures else 0.0)
        self._failures += 1
        return why

    def close(self, timeout_s: float) -> None:
        if self._worker is not None:
            self._worker.close(timeout_s)
            self._worker = None
        self._refused = "The node ends."

    def _overdue(self, now_s: float) -> str:
        if not self._worker.loaded.done() and now_s - self._started_s > self._load_timeout_s:
            return f"The decision process has been loading for {now_s - self._started_s:.1f} s and is given up."
        if self._asked is None:
            return ""
        begun_s, future = self._asked
        if future.done():
            self._asked = None
            if not future.exception():
                self._failures = 0
        elif now_s - begun_s > self._timeout_s:
            return f"A decision was expected within {self._timeout_s:g} s and has not come: its process is given up."
        return ""

    def _unfit(self) -> str:
        loaded = self._worker.loaded
        if loaded.done() and loaded.exception():
            return f"The decision process has no policy: {loaded.exception()}"
        if not self._worker.alive:
            return "The decision process ended by itself."
        if loaded.done() and not self._is_first(loaded.result()):
            self._refused = (
                "The checkpoint on disk is another one than this node was configured with. Clean the node up and configure it "
                "again to take it."
            )
            return self._refused
        return ""

    def _is_first(self, loaded: Loaded) -> bool:
        return loaded == self.first.result()
