"""Where decisions are made, outside the callbacks. The node knows only `Worker`; this one is a thread of the same process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from rdvla_ros.types import Decision, Observation


class Decider(Protocol):
    """What a worker runs, and what it is bound to."""

    def decide(self, observation: Observation, *, deadline: float | None = None) -> Decision: ...


class Worker(Protocol):
    """submit never blocks; its future becomes a Decision or the error that came instead. close gives up what is running."""

    def submit(self, observation: Observation, deadline_s: float | None = None) -> Future: ...

    def close(self, timeout_s: float) -> bool: ...


class ThreadWorker:
    """One daemon thread that loads the policy and then decides, one observation at a time.

    load() runs in the thread, so that settings of torch which belong to a thread are made where they count; `loaded` becomes
    the policy or the error. Torch releases the interpreter lock inside its kernels; between them callbacks and this thread
    take turns.
    """

    def __init__(self, load: Callable[[], Decider]):
        self.loaded: Future = Future()
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(load,), name="decisions", daemon=True)
        self._thread.start()

    def submit(self, observation: Observation, deadline_s: float | None = None) -> Future:
        future: Future = Future()
        self._jobs.put((future, observation, deadline_s))
        return future

    def close(self, timeout_s: float) -> bool:
        """Ends the thread after the decision it is at; False when that takes longer than timeout_s."""
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self, load: Callable[[], Decider]) -> None:
        try:
            policy = load()
        except BaseException as error:
            self.loaded.set_exception(_reportable(error))
            return
        self.loaded.set_result(policy)
        while (job := self._jobs.get()) is not None:
            future, observation, deadline_s = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(policy.decide(observation, deadline=deadline_s))
            except BaseException as error:  # the thread outlives whatever a decision raises, out of memory included
                future.set_exception(_reportable(error))


def _reportable(error: BaseException) -> Exception:
    """What ends a process (SystemExit and the like) would end the node that asks for the result; there it is a failure."""
    return error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
