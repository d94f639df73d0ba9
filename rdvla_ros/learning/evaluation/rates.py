"""Success rates and what goes with them: from episodes to one row of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rdvla_ros.learning.evaluation.rollout import EpisodeResult
from rdvla_ros.sim.tasks import MAX_STAGE

FAST_S = 8.0


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a rate: unlike the plain one it stays within 0..1 and does not vanish at 0 or all."""
    if trials == 0:
        return 0.0, 1.0
    rate, spread = successes / trials, z * z / trials
    middle = (rate + spread / 2) / (1 + spread)
    half = z * math.sqrt(rate * (1 - rate) / trials + spread / (4 * trials)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def rate(flags: Sequence[bool]) -> dict[str, Any]:
    low, high = wilson_interval(sum(flags), len(flags))
    return {
        "count": int(sum(flags)),
        "of": len(flags),
        "rate": sum(flags) / max(1, len(flags)),
        "wilson95": [round(low, 4), round(high, 4)],
    }


def plain(result: EpisodeResult) -> dict[str, Any]:
    """An episode as it stands in files."""
    return {
        "seed": result.seed,
        "success": result.success,
        "reached": result.reached,
        "max_stage": result.max_stage,
        "stage_s": {str(stage): round(seconds, 3) for stage, seconds in result.stage_s.items()},
        "refused": result.refused,
        "iterations": [int(i) for i in result.iterations],
        "horizons": [int(h) for h in result.horizons],
        "phases": list(result.phases),
        "head_ms": [round(1e3 * s, 2) for s in result.head_s],
        "decide_ms": [round(1e3 * s, 2) for s in result.decide_s],
    }


def summary(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rates, iterations and times over episodes (of `plain`)."""

    def pooled(name: str) -> np.ndarray:
        return np.concatenate([np.asarray(e[name], dtype=np.float64) for e in episodes])

    iterations, horizons, head, decide = (pooled(n) for n in ("iterations", "horizons", "head_ms", "decide_ms"))
    success = [e["success"] for e in episodes]
    return {
        "success": rate(success),
        "success_within_8_s": rate([e["success"] and e["stage_s"][str(MAX_STAGE)] <= FAST_S for e in episodes]),
        "reached": rate([e["reached"] for e in episodes]),
        "stages": {str(stage): rate([e["max_stage"] >= stage for e in episodes]) for stage in range(1, MAX_STAGE + 1)},
        "decisions": int(len(iterations)),
        "refused_chunks": int(sum(e["refused"] for e in episodes)),
        "iterations": {
            "mean": float(iterations.mean()),
            "p95": float(np.quantile(iterations, 0.95)),
            "max": int(iterations.max()),
        },
        "horizon_mean": float(horizons.mean()),
        "head_ms": {"mean": float(head.mean()), "p95": float(np.quantile(head, 0.95))},
        "head_ms_per_episode": float(head.sum() / len(episodes)),
        "decision_ms": {"mean": float(decide.mean()), "p95": float(np.quantile(decide, 0.95))},
        "by_phase": by_phase(episodes),
    }


def by_phase(episodes: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """phase -> decisions made in it, mean iterations and their standard error over decisions."""
    seen: dict[str, list[int]] = {}
    for episode in episodes:
        for phase, iterations in zip(episode["phases"], episode["iterations"], strict=False):
            seen.setdefault(phase, []).append(iterations)
    return {
        phase: {
            "decisions": len(values),
            "mean": float(np.mean(values)),
            "standard_error": float(np.std(values) / math.sqrt(len(values))),
        }
        for phase, values in sorted(seen.items())
    }


def summary_line(task: str, data: Mapping[str, Any]) -> str:
    success, reached = data["success"], data["reached"]
    low, high = (100 * bound for bound in success["wilson95"])
    stages = [data["stages"][str(stage)]["count"] for stage in range(1, MAX_STAGE + 1)]
    return (
        f"{task}: success {success['count']}/{success['of']} ({low:.0f}..{high:.0f} %), "
        f"reached {reached['count']}/{reached['of']}, stages {stages}, "
        f"{data['iterations']['mean']:.1f} iterations, horizon {data['horizon_mean']:.1f}, "
        f"head {data['head_ms']['mean']:.1f} ms, "
        f"{data['refused_chunks']} of {data['decisions']} chunks refused"
    )
