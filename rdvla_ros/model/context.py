"""What one decision's iterations share."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from rdvla_ros.model.layers import FoldedContext, ProjectedContext


@dataclass(frozen=True)
class HeadContext:
    """Constants of a decision: anchor (B, K, D), the prelude's share of the adapter's output; one context per layer."""

    anchor: Tensor
    core: tuple[ProjectedContext, ...]
    coda: tuple[ProjectedContext | FoldedContext, ...]

    @property
    def batch(self) -> int:
        return self.anchor.shape[0]

    def select(self, rows: Tensor) -> HeadContext:
        """The batch rows that go on."""
        return replace(
            self.select_coda(rows), anchor=self.anchor.index_select(0, rows), core=tuple(c.select(rows) for c in self.core)
        )

    def select_coda(self, rows: Tensor) -> HeadContext:
        """For decoding states of these batch rows (any number, repeats allowed)."""
        return replace(self, coda=tuple(c.select(rows) for c in self.coda))
