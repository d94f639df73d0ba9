"""What a trained reader can do: right answers over hops and iterations, and where the stopping rules stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rdvla_ros.learning.evaluation.symbols.reader import SymbolReader
from rdvla_ros.learning.evaluation.symbols.scenes import SymbolScenes, draw_scenes
from rdvla_ros.model.halting import make_halting

DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 32)
LIMIT = 32
FIRST_SEED = 80_000_000  # of the scenes that nothing is trained on: training draws from (seed, step)
RULES: Mapping[str, Mapping[str, Any]] = {
    "change 1e-3": {"rule": "action_change", "threshold": 1e-3},
    "change 1e-4": {"rule": "action_change", "threshold": 1e-4},
    "change 1e-5": {"rule": "action_change", "threshold": 1e-5},
    "two-hit 1e-3": {"rule": "two_hit", "threshold": 1e-3},
    "two-hit 1e-4": {"rule": "two_hit", "threshold": 1e-4},
    "KL 1e-3": {"rule": "action_kl", "threshold": 1e-3},
    "cosine 0.999": {"rule": "action_cosine", "threshold": 0.999},
}
SHOWN_RULE = "change 1e-4"  # in the table of hops


def held_out(length: int, count: int, pads: int) -> SymbolScenes:
    """The same scenes for every reader."""
    return draw_scenes(np.random.default_rng(FIRST_SEED + length), np.full(count, length), pads)


@torch.no_grad()
def measure(reader: SymbolReader, count: int = 512, rules: Mapping[str, Mapping[str, Any]] = RULES) -> dict[str, Any]:
    """Plain values: `fixed`: hops -> iterations -> right answers; `rules`: rule -> hops -> right answers and iterations, with
    Spearman's correlation of iterations with hops. All from `count` scenes per length, drawn scratchpads."""
    reader.eval()
    pads = reader.config.pads
    scenes = {hops: held_out(hops, count, pads) for hops in range(pads - 1)}
    fixed = {hops: right_by_depth(reader, s) for hops, s in scenes.items()}
    spread = torch.cat([s.press.flatten(0, 1) for s in scenes.values()]).std(0).tolist()
    stops = {name: _stops(reader, scenes, settings, spread) for name, settings in rules.items()}
    reader.train()
    return {"of": count, "fixed": fixed, "rules": stops}


def right_by_depth(reader: SymbolReader, scenes: SymbolScenes, depths: Sequence[int] = DEPTHS) -> dict[int, int]:
    """iterations -> number of scenes in which the chunk then leads to the end."""
    head, context = reader.head, reader.encode(scenes)
    state, right = head.initial_state(len(scenes.own), torch.Generator().manual_seed(1)), {}
    for k in range(1, max(depths) + 1):
        state = head.iterate(context, state, k - 1)
        if k in depths:
            right[k] = int(scenes.right(head.decode(context, state)).sum())
    return right


def _stops(
    reader: SymbolReader, scenes: Mapping[int, SymbolScenes], settings: Mapping[str, Any], spread: Sequence[float]
) -> dict[str, Any]:
    """One rule on all lengths."""
    by_hops, all_hops, all_iterations = {}, [], []
    for hops, batch in scenes.items():
        # As a robot's single decisions would be stopped: every chunk is looked at, each row stops on its own.
        rule = make_halting({**settings, "max_iterations": LIMIT, "evaluate": "every"}, action_std=spread)
        generator = torch.Generator().manual_seed(1)
        result = reader.head.refine(reader.encode(batch), rule, generator=generator)
        iterations = result.iterations.numpy()
        by_hops[hops] = {
            "right": int(batch.right(result.actions).sum()),
            "iterations": float(iterations.mean()),
            "deviation": float(iterations.std()),
            "halted": int(result.halted.sum()),
        }
        all_hops.append(np.full(len(iterations), hops))
        all_iterations.append(iterations)
    return {"hops": by_hops, "spearman": spearman(np.concatenate(all_hops), np.concatenate(all_iterations))}


@torch.no_grad()
def second_decisions(reader: SymbolReader, count: int = 512) -> dict[str, dict[int, Any]]:
    """What a decision after the first one costs: hops -> right answers and mean iterations of

    cold        the first decision, from a drawn scratchpad
    warm        a second one in the same scene, from the scratchpad that the first one ended with
    cold_hidden, warm_hidden: the same where every pad of the trail but its end is hidden by then
    """
    reader.eval()
    found: dict[str, dict[int, Any]] = {name: {} for name in ("cold", "warm", "cold_hidden", "warm_hidden")}
    for hops in range(reader.config.pads - 1):
        scenes = held_out(hops, count, reader.config.pads)
        first = None
        for name, seen in (
            ("cold", None),
            ("warm", None),
            ("cold_hidden", _without_trail(scenes)),
            ("warm_hidden", _without_trail(scenes)),
        ):
            rule = make_halting({**RULES[SHOWN_RULE], "max_iterations": LIMIT, "evaluate": "every"})
            start = first.state if name.startswith("warm") else None
            result = reader.head.refine(reader.encode(scenes, seen), rule, start, torch.Generator().manual_seed(1))
            first = first or result
            found[name][hops] = {
                "right": int(scenes.right(result.actions).sum()),
                "iterations": float(result.iterations.float().mean()),
            }
    return found


def _without_trail(scenes: SymbolScenes) -> torch.Tensor:
    """(B, P - hops) pads that do not lie on the trail, and its end; all scenes have the same length."""
    on_trail = torch.zeros_like(scenes.own, dtype=torch.bool)
    on_trail.scatter_(1, scenes.route, True)
    on_trail[torch.arange(len(on_trail)), scenes.end] = False
    return on_trail.logical_not().nonzero()[:, 1].view(len(on_trail), -1)


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation, equal values with their mean rank; 0 where one of them is constant."""
    ranks = [_ranks(values) for values in (first, second)]
    if min(np.ptp(r) for r in ranks) == 0.0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[inverse]
