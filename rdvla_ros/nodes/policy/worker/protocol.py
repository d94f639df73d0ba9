"""What a node and its decision process say to each other: one JSON text per packet, and images in memory that both see.

JSON carries every float64 exactly (Python writes the shortest text that reads back as the same number) and runs nothing when
it is read. A = joints of the robot, H = steps of a chunk.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rdvla_ros.types import ActionChunk, Decision, Observation, ObservationError, RdvlaError, StopReason

LONGEST_PACKET = 1 << 18  # [bytes] more than any decision; longer texts are cut where they are made
LONGEST_TEXT = 4000  # characters of an error


@dataclass(frozen=True)
class Loaded:
    """What a node must know of the policy that its process has loaded.

    identity: of the files it was read from, so that another checkpoint under the same name is noticed. horizon: settings of
    control.horizon.make_horizon. chunk_length H rows of step_s [s] each. camera_names: the images it looks at. sensor_names: the
    sensors that it reads.
    """

    name: str
    identity: str
    chunk_length: int
    step_s: float
    horizon: Mapping[str, Any]
    camera_names: tuple[str, ...]
    sensor_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Loaded:
        return cls(**{**data, **{key: tuple(data[key]) for key in ("camera_names", "sensor_names")}})


@dataclass(frozen=True)
class Failure:
    """What was raised in the process. kind: name of its class. ours: one of the package's, whose text says it all. input: what
    the policy was given is at fault. fatal: the process can decide nothing any more."""

    text: str
    kind: str
    ours: bool = False
    input: bool = False
    fatal: bool = False

    @classmethod
    def of(cls, error: BaseException, fatal: bool = False) -> Failure:
        ours, by_input = isinstance(error, RdvlaError), isinstance(error, ObservationError)
        return cls(str(error)[:LONGEST_TEXT], type(error).__name__, ours, by_input, fatal)


class WorkerError(RdvlaError):
    """A decision or a load failed in the process: the text of what was raised there."""

    def __init__(self, failure: Failure):
        super().__init__(failure.text if failure.ours else f"{failure.kind}: {failure.text}")
        self.failure = failure


class WorkerLost(RdvlaError):
    """The process ended, hangs, or is not there: what it was asked comes to nothing."""


class Images:
    """Memory for one image of each camera, shared by file descriptor. cameras: (name, height, width) of each [px]."""

    def __init__(self, cameras: Sequence[tuple[str, int, int]], descriptor: int | None = None):
        self.cameras = [(str(name), int(height), int(width)) for name, height, width in cameras]
        sizes = [height * width * 3 for _, height, width in self.cameras]
        self.descriptor = os.memfd_create("images") if descriptor is None else descriptor
        if descriptor is None:
            os.ftruncate(self.descriptor, max(1, sum(sizes)))
        self._memory = mmap.mmap(self.descriptor, max(1, sum(sizes)))
        starts = np.cumsum([0, *sizes])
        self.views = {
            name: np.frombuffer(self._memory, np.uint8, height * width * 3, int(start)).reshape(height, width, 3)
            for (name, height, width), start in zip(self.cameras, starts, strict=False)
        }

    def put(self, images: Mapping[str, np.ndarray]) -> None:
        """The one copy that an image costs on its way to the process."""
        for name, image in images.items():
            if self.views[name].shape != image.shape:
                raise RdvlaError(f"Camera '{name}': expected an image of shape {self.views[name].shape}, got {image.shape}.")
            np.copyto(self.views[name], image)

    def close(self) -> None:
        """The descriptor; the memory goes with its last view."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


@dataclass(frozen=True)
class Order:
    """One decision that is asked for; its images lie in the shared memory."""

    sequence: int
    positions: tuple[float, ...]
    instruction: str
    stamp_s: float
    images: tuple[str, ...]
    deadline_s: float | None = None
    executed_steps: int | None = None
    factor: int = 1  # times as many iterations as usual
    sensors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def observation(self, images: Images) -> Observation:
        """Its images are the shared memory itself, valid until the answer is sent."""
        views = {name: images.views[name] for name in self.images}
        sensors = {name: np.array(values, dtype=np.float64) for name, values in self.sensors.items()}
        return Observation(views, np.array(self.positions, dtype=np.float64), self.instruction, self.stamp_s, sensors)


@dataclass(frozen=True)
class Packet:
    """One message, of which one part is set: order from the node; loaded, decision or failure from the process."""

    sequence: int = 0
    order: Mapping[str, Any] | None = None
    loaded: Mapping[str, Any] | None = None
    decision: Mapping[str, Any] | None = None
    failure: Mapping[str, Any] | None = None

    def send(self, channel: socket.socket) -> None:
        channel.send(json.dumps({key: value for key, value in asdict(self).items() if value is not None}).encode())


def receive(channel: socket.socket) -> Packet | None:
    """The next packet; None when the other end is gone."""
    data = channel.recv(LONGEST_PACKET)
    return Packet(**json.loads(data)) if data else None


def decision_to_dict(decision: Decision) -> dict[str, Any]:
    """All of it except the tensors: those stay in the process that made them."""
    return {
        "positions": np.asarray(decision.chunk.positions, dtype=np.float64).tolist(),
        "step_s": float(decision.chunk.step_s),
        "stamp_s": float(decision.chunk.stamp_s),
        "timings": {str(name): float(seconds) for name, seconds in decision.timings.items()},
        "iterations": int(decision.iterations),
        "limit": int(decision.limit),
        "threshold": float(decision.threshold),
        "change": np.asarray(decision.change, dtype=np.float64).tolist(),
        "step_change": np.asarray(decision.step_change, dtype=np.float64).tolist(),
        "stop_reason": int(decision.stop_reason),
        "converged": bool(decision.converged),
        "spread": float(decision.spread),
        "notes": [str(note) for note in decision.notes],
    }


def decision_from_dict(data: Mapping[str, Any]) -> Decision:
    """Inverse of `decision_to_dict`; refinement is None."""
    data = dict(data)
    positions = np.array(data.pop("positions"), dtype=np.float64)
    chunk = ActionChunk(positions, data.pop("step_s"), data.pop("stamp_s"))
    arrays = {name: np.array(data.pop(name), dtype=np.float64) for name in ("change", "step_change")}
    reason, notes = StopReason(data.pop("stop_reason")), tuple(data.pop("notes"))
    return Decision(chunk=chunk, refinement=None, stop_reason=reason, notes=notes, **arrays, **data)
