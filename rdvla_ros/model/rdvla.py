"""A backbone and the recurrent head on top of it: the whole model of a policy."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from rdvla_ros.model.context import HeadContext
from rdvla_ros.model.head import RDVLAHead


class RDVLA(nn.Module):
    """backbone: see backbones.base. head: reads the layers of the backbone that its configuration names."""

    def __init__(self, backbone: nn.Module, head: RDVLAHead):
        super().__init__()
        self.backbone = backbone
        self.head = head

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def encode(
        self,
        images: Mapping[str, torch.Tensor],
        input_ids: torch.Tensor,
        proprio: torch.Tensor,
        sensors: torch.Tensor | None = None,
    ) -> HeadContext:
        """camera name -> (B, 3, h, w), word ids (B, N), normalised proprioception (B, A) and readings (B, W) -> what the head
        iterates on."""
        task, latent = self.backbone(images, input_ids, self.head.config.context_layers)
        return self.head.encode(task, latent, proprio, sensors)
