"""The nominal expert's motion from the start pose to any pad, over time: where the arms are, and the chunk from there."""

from __future__ import annotations

import torch
from torch import Tensor

from rdvla_ros.learning.evaluation.pictures.motions import ROWS, STEP_S, ExpertMotions

END_S = ROWS * STEP_S


class PressPaths:
    """rest (A,): references at the start [policy units]. motions: fitted to the expert (see pictures.motions)."""

    def __init__(self, motions: ExpertMotions, rest: Tensor):
        self._motions = motions
        self.rest = rest.float()
        self._middle, self._width = (torch.from_numpy(part).float() for part in (motions.middle, motions.width))

    def rows(self, places: Tensor, hand: Tensor) -> Tensor:
        """places (B, P, 2) in -1..1, hand (B, P) -> (B, P, ROWS + 1, A) references 0, 0.1, .. s after it [policy units]."""
        found = self._motions.of(places, hand).unflatten(-1, (ROWS, -1)) * self._width + self._middle
        return torch.cat([self.rest.expand(*found.shape[:2], 1, -1), found], 2)

    @staticmethod
    def at(rows: Tensor, time_s: Tensor) -> Tensor:
        """rows (B, P, ROWS + 1, A), time_s (B,) or (B, H) -> (B, P, A) or (B, P, H, A); the last row is held for ever."""
        times = time_s if time_s.dim() == 2 else time_s[:, None]
        place = (times / STEP_S).clamp(0.0, ROWS - 1e-4)
        before = place.long()
        share = (place - before)[:, None, :, None]
        index = before[:, None, :, None].expand(-1, rows.shape[1], -1, rows.shape[-1])
        found = torch.lerp(rows.gather(2, index), rows.gather(2, index + 1), share)
        return found if time_s.dim() == 2 else found.squeeze(2)

    def chunk(self, rows: Tensor, time_s: Tensor, length: int) -> Tensor:
        """(B, P, length, A): references 0.1, 0.2, .. s after time_s (B,) [policy units]."""
        return self.at(rows, time_s[:, None] + STEP_S * torch.arange(1, length + 1))
