"""Symbols -> the context of an `RDVLAHead`: one token per pad and one for the instruction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rdvla_ros.learning.evaluation.symbols.scenes import ACTION_DIM, HANDS, SymbolScenes
from rdvla_ros.model.config import HeadConfig
from rdvla_ros.model.context import HeadContext
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.sim.trails import PADS

LAYER = 0  # the head reads one layer of the "backbone"


@dataclass(frozen=True)
class ReaderConfig:
    """width D, core_layers, rows K, head: more of the head's configuration. shared_colours: one embedding for a pad's own colour,
    its mark and the colour in the instruction. pads_as: "latents", or "vision" behind the head's gates, which open from 0."""

    pads: int = PADS
    width: int = 64
    heads: int = 4
    core_layers: int = 1
    rows: int = 1
    shared_colours: bool = True
    pads_as: str = "latents"
    head: dict[str, Any] = field(default_factory=dict)

    def head_config(self, backprop_depth: int) -> HeadConfig:
        values: dict[str, Any] = {
            "hidden_dim": self.width,
            "num_heads": self.heads,
            "prelude_layers": (LAYER,),
            "core_layers": (LAYER,) * self.core_layers,
            "coda_layers": (LAYER,),
            "chunk_length": 1,
            "action_dim": ACTION_DIM,
            "proprio_dim": 1,
            "scratchpad_rows": self.rows,
            "mean_recurrence": 1,  # in the scale of the first output maps: small ones cost hundreds of steps here
            "backprop_depth": backprop_depth,
            "ffn_multiple": 2,
        }
        return HeadConfig(**{**values, **self.head})


class SymbolReader(nn.Module):
    """Embeddings of the symbols, and the package's head on them."""

    def __init__(self, config: ReaderConfig, head_config: HeadConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.colours = nn.Embedding(config.pads, width)
        self.others = None if config.shared_colours else nn.ModuleList(nn.Embedding(config.pads, width) for _ in range(2))
        self.mark = nn.Linear(width, width)  # tells a mark's colour from the pad's own
        self.hands = nn.Embedding(HANDS, width)
        nn.init.normal_(self.hands.weight, std=0.3)
        self.place = nn.Sequential(nn.Linear(2, width), nn.GELU(), nn.Linear(width, width))
        self.instruction = nn.Parameter(0.5 * torch.randn(width))
        self.nothing = nn.Parameter(torch.zeros(1, 1, width))  # the token of a context group that has no other
        self.head = RDVLAHead(head_config)

    def pads(self, scenes: SymbolScenes) -> Tensor:
        """(B, P, D): one token per pad."""
        marks = self.colours if self.others is None else self.others[0]
        colours = self.colours(scenes.own) + self.mark(marks(scenes.following))
        return colours + self.place(scenes.place) + self.hands(scenes.hand)

    def encode(self, scenes: SymbolScenes, seen: Tensor | None = None) -> HeadContext:
        """seen (B, S): the pads that there are tokens of; None: all."""
        names = self.colours if self.others is None else self.others[1]
        pads, start = self.pads(scenes), (names(scenes.start) + self.instruction).unsqueeze(1)
        pads = pads if seen is None else torch.take_along_dim(pads, seen.unsqueeze(-1), 1)
        nothing = self.nothing.expand(len(start), -1, -1)
        if self.config.pads_as == "vision":
            task, latents = pads, start
        else:
            task, latents = nothing, torch.cat([pads, start], 1)
        return self.head.encode({LAYER: task}, {LAYER: latents}, self._proprio(len(start)))

    @staticmethod
    def _proprio(batch: int) -> Tensor:
        return torch.zeros(batch, 1)
