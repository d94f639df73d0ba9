"""Stages of a checkpoint's whole decision, for `rdvla bench head --checkpoint`."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rdvla_ros.model.policy import Policy
from rdvla_ros.types import Observation


def decision_stages(folder: Path, rounds: int, device: torch.device) -> dict[str, Any]:
    """stages_ms: stage -> median, p10, p90 over `rounds` decisions on pictures of noise; iterations: mean."""
    policy = Policy.load(folder, device=str(device))
    policy.warm_up()
    generator = np.random.default_rng(0)
    cameras = policy.model.backbone.config.cameras
    positions = 0.5 * (policy.checkpoint.space.proprio.low + policy.checkpoint.space.proprio.high)
    instruction = " ".join(policy.checkpoint.tokenizer.vocabulary[:4]) or "move"
    decisions = []
    for _ in range(max(10, rounds)):
        images = {c.name: generator.integers(0, 256, (240, 320, 3), dtype=np.uint8) for c in cameras}
        decisions.append(policy.decide(Observation(images, positions, instruction)))
    stages = {}
    for stage in decisions[0].timings:
        ordered = sorted(1e3 * d.timings[stage] for d in decisions)
        last = len(ordered) - 1
        stages[stage] = {
            "median": statistics.median(ordered),
            "p10": ordered[round(0.1 * last)],
            "p90": ordered[round(0.9 * last)],
        }
    return {
        "checkpoint": str(folder),
        "stages_ms": stages,
        "iterations": round(statistics.mean(d.iterations for d in decisions), 1),
    }
