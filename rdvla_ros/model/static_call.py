"""A function of tensors whose shapes do not change, called as a recorded CUDA graph or compiled.

Recording leaves out what the host does between the kernels. The function must ask the device nothing (no `if` on a tensor's
value) and must not depend on anything but its arguments and the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rdvla_ros.model.runner import map_tensors, record_cuda_graph
from rdvla_ros.types import CheckpointError, nearest_names

RUNS = ("eager", "graph", "compile")


class StaticCall:
    """Calls `function` through one recording per shapes and number formats of its arguments.

    record(function of one ignored tensor, tensor) -> (replay, static output): see runner.record_cuda_graph, the default.
    """

    def __init__(self, function: Callable[..., Any], record: Callable | None = None) -> None:
        self._function, self._record = function, record or record_cuda_graph
        self._calls: dict[tuple, tuple] = {}

    def __call__(self, *arguments: Tensor) -> Any:
        key = tuple((tuple(x.shape), x.dtype, x.device) for x in arguments)
        if key not in self._calls:
            held = [x.clone() for x in arguments]
            self._calls[key] = (held, *self._record(lambda _: self._function(*held), held[0]))
        held, replay, output = self._calls[key]
        for target, source in zip(held, arguments, strict=True):
            target.copy_(source)
        replay()
        return map_tensors(output, torch.clone)  # the next replay writes here

    @property
    def recordings(self) -> int:
        return len(self._calls)


def chosen_run(name: str | None, device: torch.device, static: bool) -> str:
    """The way a backbone is run: as named, else a graph on a GPU where the backbone allows it."""
    if name is None:
        return "graph" if static and device.type == "cuda" else "eager"
    if name not in RUNS:
        raise CheckpointError(f"run: '{name}'. {nearest_names(name, RUNS)}")
    if name != "eager" and not static:
        raise CheckpointError(f"run: '{name}': this backbone asks the device in every call and cannot be recorded. Use 'eager'.")
    if name == "graph" and device.type != "cuda":
        raise CheckpointError(f"run: 'graph' needs a CUDA device, got '{device}'. Use 'eager' or 'compile'.")
    return name


def made_static(function: Callable[..., Any], run: str, **options: Any) -> Callable[..., Any]:
    """options: of StaticCall or torch.compile."""
    return StaticCall(function, **options) if run == "graph" else torch.compile(function, dynamic=False, **options)
