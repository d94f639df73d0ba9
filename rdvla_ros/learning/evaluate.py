"""`rdvla evaluate`: a checkpoint in closed loop in the simulator, over many seeds; rates with 95 % Wilson intervals."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from rdvla_ros.control.horizon import make_horizon
from rdvla_ros.learning.rollout import EpisodeResult, Rollout, RolloutConfig
from rdvla_ros.model.policy import Policy
from rdvla_ros.robot import RobotDescription, shipped
from rdvla_ros.sim.scene import AlohaSim
from rdvla_ros.sim.tasks import MAX_STAGE, TASKS

DEFAULT_ROBOT = shipped("config/aloha_sim.yaml")
DEFAULT_CHECKPOINT = shipped("checkpoints/compact_aloha")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """halting, horizon: settings by name, None for the checkpoint's own. seed_offset: of the scratchpads that are drawn."""

    checkpoint: Path
    task: str
    robot: Path = DEFAULT_ROBOT
    halting: Mapping[str, Any] | None = None
    horizon: Mapping[str, Any] | None = None
    rollout: RolloutConfig = RolloutConfig()
    seed_offset: int = 0


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a rate: unlike the plain one it stays within 0..1 and does not vanish at 0 or all."""
    if trials == 0:
        return 0.0, 1.0
    rate, spread = successes / trials, z * z / trials
    middle = (rate + spread / 2) / (1 + spread)
    half = z * math.sqrt(rate * (1 - rate) / trials + spread / (4 * trials)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


_worker: Rollout | None = None  # one per process: the scene, the GL context and the weights take seconds to load


def build_rollout(config: EvaluationConfig) -> Rollout:
    torch.set_num_threads(1)
    robot = RobotDescription.load(config.robot)
    policy = Policy.load(config.checkpoint, halting=config.halting, seed=config.seed_offset)
    policy.require_robot(robot.joint_names, robot.camera_names, robot.representation, robot.gripper_joints)
    horizon = make_horizon(config.horizon or policy.horizon_config)
    return Rollout(policy, AlohaSim(config.task), robot, horizon, config.rollout)


def _start_worker(config: EvaluationConfig) -> None:
    global _worker
    _worker = build_rollout(config)


def _run_one(seed: int) -> EpisodeResult:
    _worker.policy.reseed(seed)
    return _worker.run(seed)


def evaluate(config: EvaluationConfig, seeds: Sequence[int], workers: int = 1) -> dict[str, Any]:
    """One episode per seed, in parallel processes; the report as plain values."""
    if workers == 1:
        _start_worker(config)
        results = [_run_one(seed) for seed in tqdm(seeds, desc=config.task, unit="episode")]
    else:
        for name in ("OMP_NUM_THREADS", "LP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, "1")
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(config,)) as pool:
            results = list(tqdm(pool.map(_run_one, seeds), total=len(seeds), desc=config.task, unit="episode"))
    return report(config, results)


def _rate(flags: Sequence[bool]) -> dict[str, Any]:
    low, high = wilson_interval(sum(flags), len(flags))
    return {
        "count": int(sum(flags)),
        "of": len(flags),
        "rate": sum(flags) / max(1, len(flags)),
        "wilson95": [round(low, 4), round(high, 4)],
    }


def report(config: EvaluationConfig, results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Rates over the episodes, and the episodes themselves."""
    iterations = np.concatenate([r.iterations for r in results])
    horizons = np.concatenate([r.horizons for r in results])
    head_s, decide_s = (np.concatenate([getattr(r, name) for r in results]) for name in ("head_s", "decide_s"))
    return {
        "task": config.task,
        "checkpoint": config.checkpoint.name,
        "halting": dict(config.halting) if config.halting else "the checkpoint's",
        "horizon": dict(config.horizon) if config.horizon else "the checkpoint's",
        "time_limit_s": config.rollout.time_limit_s,
        "latency_s": config.rollout.latency_s,
        "success": _rate([r.success for r in results]),
        "success_within_8_s": _rate([r.success and r.stage_s[MAX_STAGE] <= 8.0 for r in results]),
        "reached": _rate([r.reached for r in results]),
        "stages": {str(stage): _rate([r.max_stage >= stage for r in results]) for stage in range(1, MAX_STAGE + 1)},
        "decisions": int(len(iterations)),
        "refused_chunks": int(sum(r.refused for r in results)),
        "iterations": {
            "mean": float(iterations.mean()),
            "p95": float(np.quantile(iterations, 0.95)),
            "max": int(iterations.max()),
        },
        "horizon_mean": float(horizons.mean()),
        "head_ms": {"mean": 1e3 * float(head_s.mean()), "p95": 1e3 * float(np.quantile(head_s, 0.95))},
        "decision_ms": {"mean": 1e3 * float(decide_s.mean()), "p95": 1e3 * float(np.quantile(decide_s, 0.95))},
        "episodes": [_episode(r) for r in results],
    }


def _episode(result: EpisodeResult) -> dict[str, Any]:
    return {
        "seed": result.seed,
        "success": result.success,
        "reached": result.reached,
        "max_stage": result.max_stage,
        "stage_s": {str(stage): round(seconds, 3) for stage, seconds in result.stage_s.items()},
        "decisions": result.decisions,
        "refused": result.refused,
        "mean_iterations": float(np.mean(result.iterations)),
    }


def summary_line(data: Mapping[str, Any]) -> str:
    success, reached = data["success"], data["reached"]
    low, high = (100 * bound for bound in success["wilson95"])
    stages = [data["stages"][str(stage)]["count"] for stage in range(1, MAX_STAGE + 1)]
    return (
        f"{data['task']}: success {success['count']}/{success['of']} ({low:.0f}..{high:.0f} %), "
        f"reached {reached['count']}/{reached['of']}, stages {stages}, "
        f"{data['iterations']['mean']:.1f} iterations, horizon {data['horizon_mean']:.1f}, "
        f"head {data['head_ms']['mean']:.1f} ms, "
        f"{data['refused_chunks']} of {data['decisions']} chunks refused"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rdvla evaluate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT)
    parser.add_argument("--task", choices=sorted(TASKS), default="transfer_cube")
    parser.add_argument("--robot", type=Path, default=DEFAULT_ROBOT)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument(
        "--first-seed", type=int, default=0, help="seeds 0..99 are held out: no training data comes from them"
    )
    parser.add_argument("--iterations", type=int, help="fixed depth instead of the checkpoint's halting rule")
    parser.add_argument("--threshold", type=float, help="stop when the mean-squared change falls below this")
    parser.add_argument("--max-iterations", type=int, default=16, help="limit of --threshold")
    parser.add_argument(
        "--execute", type=int, help="rows of each chunk to execute, instead of the checkpoint's horizon rule"
    )
    parser.add_argument("--latency", type=float, default=0.0, help="from an observation to its trajectory [s]")
    parser.add_argument("--time-limit", type=float, default=15.0, help="of an episode [s]")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, help="JSON file for the report")
    arguments = parser.parse_args(argv)
    halting = horizon = None
    if arguments.iterations is not None:
        halting = {"rule": "fixed", "iterations": arguments.iterations}
    elif arguments.threshold is not None:
        halting = {"rule": "action_change", "threshold": arguments.threshold, "max_iterations": arguments.max_iterations}
    if arguments.execute is not None:
        horizon = {"rule": "fixed", "length": arguments.execute}
    config = EvaluationConfig(
        arguments.checkpoint,
        arguments.task,
        arguments.robot,
        halting,
        horizon,
        RolloutConfig(arguments.time_limit, arguments.latency),
    )
    data = evaluate(config, range(arguments.first_seed, arguments.first_seed + arguments.episodes), arguments.workers)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(summary_line(data))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
