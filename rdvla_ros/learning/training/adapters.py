"""Which parameters of a backbone learn; LoRA by peft: a low-rank change beside linear maps, added in at the end."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from rdvla_ros.learning.config import TrainingError
from rdvla_ros.learning.tuning import FULL, LORA, PARTS, Tuning
from rdvla_ros.model.backbones.base import Backbone

ADVICE = "expected the Python package 'peft' for LoRA, found none. Install it: pip install -r requirements-finetune.txt"


def part_of(name: str, parts: Mapping[str, tuple[str, ...]]) -> str:
    """The part that a parameter or module of this name is of; '' for none (the latent queries)."""
    found = [(len(prefix), part) for part, names in parts.items() for prefix in names if f"{name}.".startswith(f"{prefix}.")]
    return max(found)[1] if found else ""


def adapt(backbone: Backbone, tuning: Tuning, narrow: bool = False) -> None:
    """In place: LoRA beside the linear maps of the chosen parts, requires_grad as `tuning` says.

    narrow: linear maps that do not learn are kept in bfloat16, in which mixed precision multiplies them anyway.
    """
    ways = {part: getattr(tuning, part) for part in PARTS}
    if tuning.plain:
        return
    absent = [part for part in PARTS if ways[part] != FULL and part not in backbone.parts]
    if absent:
        raise TrainingError(f"tuning: {absent[0]}: expected a backbone with such a part, {type(backbone).__name__} has none.")
    names = [name for name, _ in backbone.named_parameters()]
    ways_of = {name: ways.get(part_of(name, backbone.parts), FULL) for name in names}
    if LORA in ways.values():
        _inject(backbone, tuning, ways)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(".lora_" in name or ways_of[name.replace(".base_layer.", ".")] == FULL)
    if narrow:
        for module in backbone.modules():
            if isinstance(module, nn.Linear) and not any(p.requires_grad for p in module.parameters(recurse=False)):
                for name, parameter in module.named_parameters(recurse=False):
                    setattr(module, name, nn.Parameter(parameter.to(torch.bfloat16), requires_grad=False))


def _inject(backbone: Backbone, tuning: Tuning, ways: Mapping[str, str]) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise TrainingError(f"tuning: {ADVICE} ({error}).") from error
    targets = [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and ways.get(part_of(name, backbone.parts)) == LORA
    ]
    settings = dict(r=tuning.rank, lora_alpha=tuning.alpha, lora_dropout=tuning.dropout, target_modules=targets)
    inject_adapter_in_model(LoraConfig(**settings), backbone)


def merged(backbone: Backbone) -> Backbone:
    """A copy in float32 whose linear maps hold what LoRA added to them: the module and the names that a checkpoint wants."""
    backbone = copy.deepcopy(backbone).float()
    for name, module in list(backbone.named_modules()):
        if hasattr(module, "base_layer") and hasattr(module, "merge"):
            module.merge(safe_merge=True)
            backbone.set_submodule(name, module.get_base_layer())
    return backbone


def learning(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of what learns."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def fingerprint(model: nn.Module) -> float:
    """Of what does not learn: another number where a run is resumed on another pretrained folder."""
    return sum(float(p.detach().double().abs().sum()) for p in model.parameters() if not p.requires_grad)
