"""What the adaptive loop and the checks need of a head, so that head.py can import them and not they head.py.

B batch, K scratchpad rows, D width, H chunk steps, A action dimensions; see head.RDVLAHead for what each call computes.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Protocol

import torch
from torch import Tensor

from rdvla_ros.model.config import HeadConfig
from rdvla_ros.model.context import HeadContext


class Runner(Protocol):
    """How blocks of iterations are run; see runner.EagerRunner."""

    block: int

    def iterate(self, state: Tensor, count: int) -> Tensor: ...
    def sketch(self, states: Tensor) -> Tensor: ...
    def decode(self, states: Tensor, rows: list[int]) -> Tensor: ...
    def keep(self, rows: list[int]) -> None: ...


class Head(Protocol):
    """RDVLAHead, as its own helpers see it."""

    config: HeadConfig
    core: Sized
    coda: Sized

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...

    def initial_state(self, batch: int, generator: torch.Generator | None = None) -> Tensor: ...
    def project_coda(self, context: HeadContext) -> HeadContext: ...
    def iterate(self, context: HeadContext, state: Tensor, k: int) -> Tensor: ...
    def decode(self, context: HeadContext, state: Tensor) -> Tensor: ...
    def sketch(self, state: Tensor) -> Tensor: ...
    def runner(self, context: HeadContext) -> Runner: ...
