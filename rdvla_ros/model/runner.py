"""How the loop runs the head: a block of iterations, then the decoding of some of its states.

`EagerRunner` calls the head. `GraphRunner` replays the same calls as recorded CUDA graphs: one launch per block instead
of some forty per iteration. Both return the same tensors, and nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor

from rdvla_ros.model.context import HeadContext
from rdvla_ros.model.head_protocol import Head

DEVICE_BLOCK = 4  # iterations given to a device at once: a stop is noticed at most this many less one too late


class EagerRunner:
    """`block`: iterations that are run between two looks at the result."""

    def __init__(self, head: Head, context: HeadContext) -> None:
        self.head, self.context = head, context
        self.block = 1 if head.device.type == "cpu" else DEVICE_BLOCK
        self._made = 0

    def iterate(self, state: Tensor, count: int) -> Tensor:
        """(B, K, D) -> (count, B, K, D), the states after 1 .. count iterations."""
        states = []
        for _ in range(count):
            state = self.head.iterate(self.context, state, self._made)
            self._made += 1
            states.append(state)
        return torch.stack(states) if count > 1 else state.unsqueeze(0)

    def sketch(self, states: Tensor) -> Tensor:
        """(count, B, K, D) -> (count, B, H, A), see RDVLAHead.sketch."""
        return self.head.sketch(states.flatten(0, 1)).unflatten(0, states.shape[:2])

    def decode(self, states: Tensor, rows: list[int]) -> Tensor:
        """(M, K, D), states of the batch rows `rows` -> (M, H, A)."""
        context = self.context
        if context.batch > 1 and rows != list(range(context.batch)):
            context = context.select_coda(torch.tensor(rows, device=states.device))
        return self.head.decode(context, states)

    def keep(self, rows: list[int]) -> None:
        """Go on with these batch rows only."""
        self.context = self.context.select(torch.tensor(rows, device=self.context.anchor.device))


class GraphRunner(EagerRunner):
    """For a batch of one on a CUDA device: the context is copied to where the recorded graphs read it."""

    def __init__(self, head: Head, context: HeadContext, graphs: GraphCache) -> None:
        super().__init__(head, graphs.hold(context))
        self.block = DEVICE_BLOCK
        self._graphs = graphs

    def iterate(self, state: Tensor, count: int) -> Tensor:
        return self._graphs.call(("iterate", count), lambda s: EagerRunner.iterate(self, s, count), state)

    def sketch(self, states: Tensor) -> Tensor:
        return self._graphs.call(("sketch", len(states)), lambda s: EagerRunner.sketch(self, s), states)

    def decode(self, states: Tensor, rows: list[int]) -> Tensor:
        return self._graphs.call(("decode", len(rows)), lambda s: self.head.decode(self.context, s), states)


class GraphCache:
    """Recorded calls on static memory, for one shape of context; a context of another shape starts anew.

    record(function, static input) -> (replay, static output) makes a recording; the default makes CUDA graphs.
    """

    def __init__(self, record: Callable | None = None) -> None:
        self._record = record or record_cuda_graph
        self._held: HeadContext | None = None
        self._calls: dict[tuple, tuple] = {}

    def hold(self, context: HeadContext) -> HeadContext:
        """The static context, with the numbers of `context`."""
        new = list(_tensors(context))
        old = list(_tensors(self._held)) if self._held is not None else []
        if [(t.shape, t.dtype) for t in new] != [(t.shape, t.dtype) for t in old]:
            self._calls.clear()
            self._held = map_tensors(context, torch.clone)
        else:
            for target, source in zip(old, new, strict=True):
                if target is not source:
                    target.copy_(source)
        return self._held

    def call(self, key: tuple, function: Callable[[Tensor], Tensor], argument: Tensor) -> Tensor:
        if key not in self._calls:
            static = argument.clone()
            self._calls[key] = (static, *self._record(function, static))
        static, replay, output = self._calls[key]
        static.copy_(argument)
        replay()
        return output.clone()  # the next replay writes here


def record_cuda_graph(function: Callable[[Tensor], Tensor], static: Tensor) -> tuple[Callable[[], None], Tensor]:
    """Warm up on a side stream, as capturing asks for, then record."""
    stream = torch.cuda.Stream(static.device)
    stream.wait_stream(torch.cuda.current_stream(static.device))
    with torch.cuda.stream(stream):
        for _ in range(2):
            function(static)
    torch.cuda.current_stream(static.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = function(static)
    return graph.replay, output


def _tensors(value):
    """Every tensor of nested dataclasses and tuples, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _tensors(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))


def map_tensors(value, function):
    """Nested dataclasses, tuples and mappings with `function` of every tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(map_tensors(item, function) for item in value)
    if isinstance(value, Mapping):
        return {key: map_tensors(item, function) for key, item in value.items()}
    return type(value)(**{f.name: map_tensors(getattr(value, f.name), function) for f in fields(value)})
