"""Where decisions are made: in a process of its own, which may hang, crash, run out of memory or be killed.

`ProcessWorker` is one such process, `worker_keeper.WorkerSupervisor` has always one.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any

from rdvla_ros.nodes.policy.worker.protocol import (
    Failure,
    Images,
    Loaded,
    Order,
    Packet,
    WorkerError,
    WorkerLost,
    decision_from_dict,
    receive,
)
from rdvla_ros.robot import import_path
from rdvla_ros.types import Observation

PROCESS = "rdvla_ros.nodes.policy.worker.main"


class ProcessWorker:
    """One process that loads a policy and then decides, one observation at a time.

    load: 'module:function', called there with the settings; it returns the policy (its `decide` is called) and a Loaded.
    settings: what JSON can hold. cameras: (name, height, width) of the images that `submit` may bring.

    `loaded` becomes a Loaded or a WorkerError. Nothing here blocks except `close`. A thread waits for the answers, and a
    process that ends is noticed at once; that one hangs only the caller can know, who then calls `kill`. Make it in a thread
    that lives as long as the worker may: the kernel ends the process with it.
    """

    def __init__(self, load: str, settings: Mapping[str, Any], cameras: Sequence[tuple[str, int, int]]):
        self.loaded: Future[Loaded] = Future()
        self._lock = threading.Lock()
        self._answers: dict[int, Future] = {}
        self._sequence = 0
        self._why_lost = ""
        self._images: Images | None = Images(cameras)
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        text = json.dumps({**settings, "load": load, "cameras": self._images.cameras})
        descriptors = (theirs.fileno(), self._images.descriptor)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", PROCESS, str(os.getpid()), *map(str, descriptors), text],
                env={**os.environ, "PYTHONPATH": import_path()},
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                start_new_session=True,  # a Ctrl-C in the terminal is for the node
            )
        self._images.close()
        self._thread = threading.Thread(target=self._listen, name="answers", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return not self._why_lost and self.process.poll() is None

    def submit(
        self, observation: Observation, deadline_s: float | None = None, executed_steps: int | None = None, factor: int = 1
    ) -> Future:
        """Copies the images the policy looks at. The future becomes a Decision, or a WorkerError or WorkerLost."""
        future: Future = Future()
        images = self._images
        if images is None:
            future.set_exception(WorkerLost(self._why_lost))
            return future
        loaded = self.loaded.result(0)
        names = loaded.camera_names
        with self._lock:
            self._sequence += 1
            sequence = self._sequence
            self._answers[sequence] = future
        try:
            images.put({name: observation.images[name] for name in names})
            order = Order(
                sequence,
                tuple(map(float, observation.positions)),
                observation.instruction,
                float(observation.stamp_s),
                names,
                deadline_s,
                executed_steps,
                factor,
                {name: tuple(map(float, observation.sensors[name])) for name in loaded.sensor_names},
            )
            Packet(order=vars(order)).send(self._channel)
        except Exception as error:
            with self._lock:
                self._answers.pop(sequence, None)
            gone = isinstance(error, OSError)
            _settle(future, error=WorkerLost(f"The decision process is gone: {error}.") if gone else error)
        return future

    def kill(self, why: str) -> None:
        """Now, whatever it is doing. What it was asked fails with `why`."""
        self._why_lost = self._why_lost or why
        self.process.kill()
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        self._give_up(why)

    def close(self, timeout_s: float) -> bool:
        """Lets a running decision end, then ends the process; False when it had to be killed."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)
        try:
            self.process.wait(timeout_s)
            return True
        except subprocess.TimeoutExpired:
            return False
        finally:
            self.kill("The node ends.")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.5)
            self._thread.join(0.5)

    def _listen(self) -> None:
        try:
            while (packet := receive(self._channel)) is not None:
                self._take(packet)
        except OSError:  # the channel was shut
            pass
        except Exception as error:
            self.kill(f"The decision process said something that is no message ({type(error).__name__}: {error}).")
        self._give_up(self._why_lost or f"The decision process ended{self._code()}.")
        self._channel.close()

    def _take(self, packet: Packet) -> None:
        if packet.loaded is not None:
            _settle(self.loaded, Loaded.of(packet.loaded))
            return
        error = WorkerError(Failure(**packet.failure)) if packet.failure else None
        if error is not None and not packet.sequence:
            _settle(self.loaded, error=error)
            return
        with self._lock:
            future = self._answers.pop(packet.sequence, None)
        if future is not None:  # otherwise of a decision that was given up
            _settle(future, error=error) if error else _settle(future, decision_from_dict(packet.decision))

    def _give_up(self, why: str) -> None:
        self._why_lost = self._why_lost or why
        with self._lock:
            answers, self._answers, self._images = list(self._answers.values()), {}, None
        for future in (self.loaded, *answers):
            _settle(future, error=WorkerLost(self._why_lost))

    def _code(self) -> str:
        """Its exit code, which comes a moment after the end of its channel; negative: the signal that ended it."""
        end_s = time.monotonic() + 0.2
        while (code := self.process.poll()) is None and time.monotonic() < end_s:
            time.sleep(0.005)
        return "" if code is None else f" with code {code}"


def _settle(future: Future, value: Any = None, error: Exception | None = None) -> None:
    with contextlib.suppress(InvalidStateError):  # it was settled already: the first word counts
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)
