"""Scenes of pads as symbols, and what the hands are to do in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rdvla_ros.sim.trails import PADS, draw_trails

HANDS = 2
ACTION_DIM = 2 * HANDS  # x, y of the left hand, then of the right hand


@dataclass(frozen=True)
class SymbolScenes:
    """B scenes of P pads, every pad of another colour.

    own, following (B, P): a pad's colour, and the colour of its mark. place (B, P, 2): in -1..1. hand (B, P): 0 where the left
    hand reaches it, 1 the right one. start (B,): colour that the instruction names. lengths (B,): hops to the end.
    press (B, P, 4): what the hands do to press each pad. route (B, P): the pad after 0, 1, .. hops, the end repeated.
    """

    own: Tensor
    following: Tensor
    place: Tensor
    hand: Tensor
    start: Tensor
    lengths: Tensor
    press: Tensor
    route: Tensor

    @property
    def end(self) -> Tensor:
        """(B,) the pad to press."""
        return self.route[:, -1]

    def pad_after(self, hops: int) -> Tensor:
        """(B,) the pad after that number of hops, or the end where it comes first."""
        return self.route[:, min(hops, self.route.shape[1] - 1)]

    def target(self, hops: int) -> Tensor:
        """(B, 1, 4): the chunk that leads to that pad."""
        pads = self.pad_after(hops)
        return self.press[torch.arange(len(pads)), pads].unsqueeze(1)

    def pressed(self, chunk: Tensor) -> Tensor:
        """(B, 1, 4) -> (B,): the pad that a chunk comes nearest to."""
        return (chunk - self.press).norm(dim=-1).argmin(1)

    def right(self, chunk: Tensor) -> Tensor:
        """(B, 1, 4) -> (B,) bool: the chunk leads to the end."""
        return self.pressed(chunk) == self.end


def draw_scenes(rng: np.random.Generator, lengths: np.ndarray, pads: int = PADS) -> SymbolScenes:
    """One random scene per entry of `lengths`. Each hand reaches its half; the other hand rests at (0, 0)."""
    trails, scenes = draw_trails(rng, lengths, pads), np.arange(len(lengths))[:, None]
    own = np.argsort(rng.random((len(lengths), pads)), axis=1)
    place = rng.uniform(-1.0, 1.0, (len(lengths), pads, 2)).astype(np.float32)
    hand = (place[..., 0] > 0.0).astype(np.int64)
    press = np.zeros((len(lengths), pads, HANDS, 2), np.float32)
    press[scenes, np.arange(pads), hand] = place
    values = own, own[scenes, trails.following], place, hand, own[scenes[:, 0], trails.start], trails.lengths
    tensors = [torch.from_numpy(np.ascontiguousarray(value)) for value in values]
    return SymbolScenes(*tensors, torch.from_numpy(press).flatten(2), torch.from_numpy(trails.route))
