"""Backbones by the name that a checkpoint's manifest gives."""

from rdvla_ros.model.backbones import compact  # noqa: F401  registers 'compact'
from rdvla_ros.model.backbones.base import BACKBONES, Backbone, backbone_class

__all__ = ["BACKBONES", "Backbone", "backbone_class"]
