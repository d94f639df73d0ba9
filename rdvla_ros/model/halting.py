"""When the recurrent core may stop: objects, chosen by name in a configuration.

A rule says which chunks it must see and whether a row of the batch is done; the loop in `refine.py` knows no rule by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rdvla_ros.types import RdvlaError, StopReason


class HaltingError(RdvlaError):
    """A halting rule that cannot be made."""


@dataclass(frozen=True)
class FixedDepth:
    """Make a number of iterations and decode once."""

    iterations: int

    reads_actions = False
    threshold = math.nan
    patience = 1
    limit_reason = StopReason.FIXED_DEPTH

    def __post_init__(self) -> None:
        _whole("iterations", self.iterations, 1)

    @property
    def max_iterations(self) -> int:
        return self.iterations

    @property
    def min_iterations(self) -> int:
        return self.iterations


@dataclass(frozen=True)
class ActionChange:
    """Stop when the chunk's mean-squared change from one iteration to the next falls below threshold."""

    threshold: float
    max_iterations: int = 32
    min_iterations: int = 2

    reads_actions = True
    patience = 1
    limit_reason = StopReason.ITERATION_LIMIT

    def __post_init__(self) -> None:
        _whole("max_iterations", self.max_iterations, 1)
        _whole("min_iterations", self.min_iterations, 2)
        if not self.threshold >= 0:
            raise HaltingError(f"threshold: expected a number of at least 0, got {self.threshold!r}")

    def measure(self, previous: Tensor, current: Tensor) -> Tensor:
        """(N, H, A) twice -> (N,) float32"""
        return (current.float() - previous.float()).square().mean(dim=(1, 2))

    def hit(self, measure: Tensor) -> Tensor:
        return measure < self.threshold


def _whole(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise HaltingError(f"{name}: expected a whole number of at least {least}, got {value!r}")
