"""How a pretrained backbone is trained: which of its parts, in full or by LoRA, and what is done to save memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rdvla_ros.learning.schema import Choice, Count, Positive, Share, check_fields

FULL, LORA, FROZEN = "full", "lora", "frozen"
Way = Annotated[str, Choice((FULL, LORA, FROZEN))]
PARTS = ("vision", "projector", "language")


@dataclass(frozen=True)
class Tuning:
    """vision, projector, language: of the backbone's parameters 'full' trains all, 'lora' a low-rank change of each linear map,
    'frozen' none. The latent queries and the head are always trained in full.

    rank, alpha: W + alpha / rank * B A, with B (out, rank), A (rank, in). dropout: on the input of A.
    checkpointing: the backbone's blocks are computed again in the backward pass instead of remembered: less memory, more time.
    shard: the backbone's parameters, gradients and moments are divided among the processes (FSDP2).
    """

    vision: Way = FULL
    projector: Way = FULL
    language: Way = FULL
    rank: Count = 64
    alpha: Positive = 128.0
    dropout: Share = 0.0
    checkpointing: bool = False
    shard: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def plain(self) -> bool:
        """Everything is trained in full."""
        return {self.vision, self.projector, self.language} == {FULL}
