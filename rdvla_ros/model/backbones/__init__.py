"""Backbones by the name that a checkpoint's manifest gives."""

from rdvla_ros.model.backbones import compact, prismatic, vlm  # noqa: F401  each registers its name
from rdvla_ros.model.backbones.base import BACKBONES, Backbone, backbone_class

__all__ = ["BACKBONES", "Backbone", "backbone_class"]
