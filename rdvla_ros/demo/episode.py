"""What is remembered of an episode, and what it comes to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

MAX_STAGE = 4


@dataclass(frozen=True)
class DecisionRecord:
    """One decision as the demo saw it.

    latency_s: from the oldest part of the observation to the trajectory, on the ROS clock (transport, waiting for the other
    inputs, computation); computation_s: the policy alone, on the wall's clock.
    """

    iterations: int
    limit: int
    change: float
    horizon: int
    chunk_length: int
    latency_s: float
    computation_s: float
    published: bool
    converged: bool


@dataclass
class Episode:
    """One episode while it runs and afterwards. elapsed_s is simulated time."""

    number: int
    task: str
    seed: int
    decisions: list[DecisionRecord] = field(default_factory=list)
    best_stage: int = 0
    stage_name: str = ""
    reached: bool = False
    elapsed_s: float = 0.0
    success_s: float | None = None
    uncertainties: list[float] = field(default_factory=list)
    alarms: int = 0
    holds: list[str] = field(default_factory=list)
    video: str | None = None
    finished: bool = False

    def note_stage(self, best_stage: int, stage_name: str, reached: bool, elapsed_s: float) -> None:
        self.best_stage, self.stage_name, self.reached, self.elapsed_s = best_stage, stage_name, reached, elapsed_s
        if best_stage >= MAX_STAGE and self.success_s is None:
            self.success_s = elapsed_s

    @property
    def success(self) -> bool:
        return self.best_stage >= MAX_STAGE

    def result(self) -> dict[str, Any]:
        """The episode's row of summary.json."""
        return {
            "episode": self.number,
            "task": self.task,
            "seed": self.seed,
            "finished": self.finished,
            "stage_reached": self.best_stage,
            "stage_name": self.stage_name,
            "gripper_reached_object": self.reached,
            "success": self.success,
            "success_after_s": self.success_s,
            "duration_s": self.elapsed_s,
            "decisions": len(self.decisions),
            "decisions_published": sum(d.published for d in self.decisions),
            "decisions_converged": sum(d.converged for d in self.decisions),
            "iterations": [d.iterations for d in self.decisions],
            "iterations_mean": mean([d.iterations for d in self.decisions]),
            "latency_mean_s": mean([d.latency_s for d in self.decisions]),
            "latency_max_s": max((d.latency_s for d in self.decisions), default=None),
            "computation_mean_s": mean([d.computation_s for d in self.decisions]),
            "uncertainty_mean": mean([u for u in self.uncertainties if math.isfinite(u)]),
            "alarms": self.alarms,
            "holds": list(self.holds),
            "video": self.video,
        }


def aggregate(episodes: Sequence[Episode]) -> dict[str, Any]:
    """The totals of summary.json, over the episodes that ran to their end."""
    done = [episode for episode in episodes if episode.finished]
    decisions = [d for episode in done for d in episode.decisions]
    return {
        "episodes_finished": len(done),
        "successes": sum(episode.success for episode in done),
        "gripper_reached_object": sum(episode.reached for episode in done),
        "stage_mean": mean([episode.best_stage for episode in done]),
        "decisions": len(decisions),
        "iterations_mean": mean([d.iterations for d in decisions]),
        "latency_mean_s": mean([d.latency_s for d in decisions]),
        "computation_mean_s": mean([d.computation_s for d in decisions]),
        "holds": sum(len(episode.holds) for episode in done),
    }


def mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
