"""A training-only helper of the backbone: from its latents alone, predict where the arms will be and name the phase.

The head reaches the vision tokens through gates that open from zero, so the backbone hears of its errors late. Two linear
maps on the mean latent give it a short way: the joints at the end of the labels (further ahead than the chunk), which
needs the object's place, and the expert's phase. Nothing of this is in the checkpoint.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class AuxiliaryHead(nn.Module):
    """latents (B, Q, D) -> losses of the far joints (L1) and the phase (cross entropy)."""

    def __init__(self, hidden_dim: int, action_dim: int, phases: int):
        super().__init__()
        self.hidden = nn.Linear(hidden_dim, hidden_dim)
        self.far = nn.Linear(hidden_dim, action_dim)
        self.phase = nn.Linear(hidden_dim, max(1, phases))

    def forward(self, latents: Tensor, far: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
        x = F.gelu(self.hidden(latents.mean(1)))
        return (self.far(x).float() - far).abs().mean(), F.cross_entropy(self.phase(x).float(), phase)


def auxiliary_loss(head: AuxiliaryHead, latents: Tensor, far: Tensor, phase: Tensor) -> Tensor:
    joints, naming = head(latents, far, phase)
    return joints + 0.2 * naming
