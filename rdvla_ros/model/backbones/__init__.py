"""Backbones by the name that a checkpoint's manifest gives."""

from rdvla_ros.model.backbones import compact, prismatic  # noqa: F401  registers 'compact' and 'prismatic'
from rdvla_ros.model.backbones.base import BACKBONES, Backbone, backbone_class

__all__ = ["BACKBONES", "Backbone", "backbone_class"]
