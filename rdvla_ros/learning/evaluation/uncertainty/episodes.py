"""Episodes of the study are run: any task, any kind of perturbation, with what a policy alone would not tell."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rdvla_ros.learning.evaluation.evaluate import EvaluationConfig, build_rollout
from rdvla_ros.learning.evaluation.rollout import EpisodeResult, Rollout, RolloutConfig
from rdvla_ros.learning.evaluation.uncertainty.kept import COLUMNS, Kept
from rdvla_ros.learning.evaluation.uncertainty.perturbations import Kind, Mover
from rdvla_ros.model.checkpoint import MANIFEST
from rdvla_ros.model.context import HeadContext
from rdvla_ros.model.halting import FixedDepth, make_halting
from rdvla_ros.model.policy import Policy
from rdvla_ros.sim.expert import Memory
from rdvla_ros.sim.scene import AlohaSim
from rdvla_ros.sim.tasks import MAX_STAGE
from rdvla_ros.types import Decision, Refinement

DRAWS, BEYOND = 4, 3  # initial scratchpads whose chunks are compared; iterations made beyond the stop


class ProbedPolicy(Policy):
    """Decides as Policy does, and looks besides at what more iterations and other scratchpads would have given."""

    iterate_variance = spread = float("nan")
    latent: np.ndarray

    def _refine(self, context: HeadContext, rule: Any, initial_state: Tensor | None, executed_steps: int | None) -> Refinement:
        refinement = super()._refine(context, rule, initial_state, executed_steps)
        head, depth = self.model.head, int(refinement.iterations[0])
        states = [refinement.state]
        for i in range(BEYOND):
            states.append(head.iterate(context, states[-1], depth + i))
        chunks = torch.stack([head.decode(context, state)[0] for state in states])
        self.iterate_variance = float(chunks.var(dim=0, correction=0).mean())
        drawn = torch.Generator(self.device).manual_seed(int(1e6 * float(refinement.actions[0, 0, 0])) & 0xFFFF)
        others = head.refine(context.select(torch.zeros(DRAWS - 1, dtype=torch.long)), FixedDepth(depth), generator=drawn)
        every = torch.cat([refinement.actions, others.actions])
        self.spread = float(every.var(dim=0, correction=0).mean())
        self.latent = refinement.state[0].mean(dim=0).float().cpu().numpy()
        return refinement


class Runner:
    """One checkpoint in the simulator, for any task and kind."""

    def __init__(self, checkpoint: Path, robot: Path, time_limit_s: float, latency_s: float):
        self._base = EvaluationConfig(checkpoint, "", robot, rollout=RolloutConfig(time_limit_s, latency_s))
        self._rollouts: dict[str, Rollout] = {}
        self.handover: Memory | None = None
        self.mover: Mover | None = None  # of the last episode
        self.manifest_sha256 = hashlib.sha256((Path(checkpoint) / MANIFEST).read_bytes()).hexdigest()

    def rollout(self, task: str) -> Rollout:
        """One for each task, with one policy for all."""
        if task not in self._rollouts:
            for known in self._rollouts.values():
                self._rollouts[task] = Rollout(known.policy, AlohaSim(task), known.robot, known.horizon, self._base.rollout)
                break
            else:
                self._rollouts[task] = build_rollout(replace(self._base, task=task), ProbedPolicy)
        return self._rollouts[task]

    def run(self, task: str, kind: Kind, seed: int, decisions: int | None = None) -> Kept:
        """One episode, or only as far as its first `decisions`; `handover` then says what the arms are told."""
        name = kind.task(task, seed)
        known = self.rollout(name)
        policy, sim = known.policy, known.sim
        config = replace(self._base.rollout, conditions=kind.conditions_of(seed), instruction=kind.instruction(name, seed))
        rollout = Rollout(policy, sim, known.robot, known.horizon, config)
        usual, rows = policy.halting, []
        self.mover = mover = Mover(seed) if kind.moves else None
        policy.halting = make_halting(kind.halting(policy.checkpoint.halting), action_std=policy.checkpoint.space.action_std)

        def watch(reference: np.ndarray, velocity: np.ndarray, decision: Decision | None) -> bool:
            if mover is not None:
                mover.look(sim)
            if decision is not None:
                rows.append(_row(decision, policy, rollout, sim))
                if len(rows) == decisions:
                    self.handover = Memory(reference, velocity)
                    return False
            return sim.max_stage < MAX_STAGE

        policy.reseed(seed)
        try:
            result = rollout.run(seed, watch)
        finally:
            rollout.eyes.end()
            policy.halting = usual
        for row, steps, phase in zip(rows, result.horizons, result.phases or [""] * len(rows), strict=True):
            row.update(horizon=steps, phase=phase)
        return Kept(self._about(task, kind, seed, result, rollout), {name: [row[name] for row in rows] for name in COLUMNS.names})

    def _about(self, task: str, kind: Kind, seed: int, result: EpisodeResult, rollout: Rollout) -> dict[str, Any]:
        return {
            "task": task,
            "kind": kind.name,
            "seed": seed,
            "success": result.success,
            "max_stage": result.max_stage,
            "stage_s": {str(stage): round(at_s, 3) for stage, at_s in result.stage_s.items()},
            "duration_s": round(rollout.sim.time_s, 3),
            "time_limit_s": rollout.config.time_limit_s,
            "latency_s": rollout.config.latency_s,
            "instruction": rollout.config.instruction or rollout.sim.instruction,
            "step_s": rollout.policy.contract.step_s,
            "arms": {arm.name: len(arm.joints) for arm in rollout.robot.arms},
            "manifest_sha256": self.manifest_sha256,
        }


def _row(decision: Decision, policy: ProbedPolicy, rollout: Rollout, sim: AlohaSim) -> dict[str, Any]:
    return {
        "stamp_s": decision.chunk.stamp_s,
        "iterations": decision.iterations,
        "limit": decision.limit,
        "threshold": decision.threshold,
        "stop_reason": int(decision.stop_reason),
        "converged": decision.converged,
        "change": [float(value) for value in decision.change],
        "chunk": decision.chunk.positions.ravel().tolist(),
        "measured": rollout.robot.to_policy(sim.positions).tolist(),
        "latent": policy.latent.tolist(),
        "iterate_variance": policy.iterate_variance,
        "spread": policy.spread,
        "stage": sim.stage(),
    }
