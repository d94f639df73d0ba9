"""How many bytes are alive at the same time, and how many operations are made, while a function runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class Alive(TorchDispatchMode):
    """Bytes of all storages that `hold` was given or an operation made, until they die. peak: the most so far; at_peak: what
    `ask` said then."""

    def __init__(self, ask: Callable[[], int] = lambda: 0) -> None:
        super().__init__()
        self.now, self.peak, self.at_peak, self._ask = 0, 0, 0, ask
        self._sizes: dict[int, int] = {}

    def hold(self, tensors: Iterable[Tensor]) -> int:
        """-> the bytes of those that were not there before."""
        before = self.now
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._sizes:
                self._sizes[key] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, key)
        if self.now > self.peak:
            self.peak, self.at_peak = self.now, self._ask()
        return self.now - before

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        self.hold(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result


def counted(
    function: Callable[[], None], model: torch.nn.Module, optimiser: torch.optim.Optimizer | None, rounds: int
) -> tuple[dict[str, int], int]:
    """(bytes by kind when most are alive, operations of one call). rounds: two show the moments that the first step makes."""
    parameters = list(model.parameters())
    alive = Alive(lambda: sum(p.grad.nbytes for p in parameters if p.grad is not None))
    weights = alive.hold([*parameters, *model.buffers()])
    with alive:
        for _ in range(rounds):
            alive.peak = 0  # the last round counts
            function()
    operations = FlopCounterMode(display=False)
    with operations:  # not together: its hooks keep what checkpointing computes again
        function()
    states = optimiser.state.values() if optimiser is not None else ()
    moments = sum(value.nbytes for state in states for value in state.values() if isinstance(value, Tensor))
    rest = alive.peak - weights - moments - alive.at_peak
    found = {"weights": weights, "gradients": alive.at_peak, "moments": moments, "activations and temporary": rest}
    return found, operations.get_total_flops()
