"""Stretches of decisions with their end, for a calibration: episodes of the study, and recorded runs of the nodes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rdvla_ros.control.supervision.signals import Seen, SignalMeter
from rdvla_ros.learning.evaluation.uncertainty.kept import Kept
from rdvla_ros.learning.evaluation.uncertainty.perturbations import KINDS, pattern_of
from rdvla_ros.learning.evaluation.uncertainty.scores import arm_columns, seen_decisions
from rdvla_ros.runs import signals as run_signals
from rdvla_ros.runs.reader import Run

MAX_STAGE = 4


@dataclass(frozen=True)
class Passage:
    """source: where it is from, for messages. succeeded: None where nobody knows. signals: one dict per decision."""

    source: str
    instruction: str
    succeeded: bool | None
    signals: Sequence[dict[str, float]] = field(default=())


def of_episodes(kept: Sequence[Kept]) -> list[Passage]:
    """Nominal episodes only: a threshold is made from runs in which nothing was wrong."""
    found = []
    for one in kept:
        if KINDS[one.about["kind"]].nominal:
            source = f"{one.about['task']}, seed {one.about['seed']}"
            signals = metered(seen_decisions(one), arm_columns(one.about["arms"]))
            found.append(Passage(source, pattern_of(one.about["task"]), bool(one.about["success"]), signals))
    return found


def metered(seen: Sequence[Seen], columns: dict[str, slice]) -> list[dict[str, float]]:
    meter = SignalMeter(columns)
    with np.errstate(all="ignore"):
        return [meter.add(one) for one in seen]


def of_run(run: Run, all_succeeded: bool) -> Iterator[Passage]:
    """One for each episode of a simulated robot; on another one for each stretch of one instruction without a hold or a takeover.

    all_succeeded: the caller vouches for it, where no task stage was recorded.
    """
    decisions, gate, task = (run.table(name) for name in ("decisions", "gate", "task"))
    chunks = _chunks(run)
    times_s = decisions["stamp_s"].to_numpy()
    modes = run_signals.values_in_force(gate, "mode", times_s, lambda: 0)
    holds = run_signals.values_in_force(gate, "hold_id", times_s, lambda: 0)
    rows = run_signals.in_force(task, times_s)
    episode = task["episode"].to_numpy()
    columns = arm_columns({arm.name: len(arm.joints) for arm in run.robot.arms})
    groups: dict[tuple, list[int]] = {}
    for i, text in enumerate(decisions["instruction"]):
        if modes[i] == 0 and decisions["published"][i]:
            key = (int(episode[rows[i]]) if rows[i] >= 0 else -1, str(text), -1 if len(task) else int(holds[i]))
            groups.setdefault(key, []).append(i)
    for (number, text, _), chosen in groups.items():
        seen = [_seen(decisions.iloc[i], chunks) for i in chosen]
        best = task["best_stage"][task["episode"] == number] if number >= 0 else []
        succeeded = bool(max(best) >= MAX_STAGE) if len(best) else (True if all_succeeded else None)
        yield Passage(f"{run.folder.name}, {times_s[chosen[0]]:.1f} s", text, succeeded, metered(seen, columns))


def _chunks(run: Run) -> dict[int, np.ndarray]:
    """Stamp [us] -> (1 + H, A) policy units, of observations of which every arm's chunk was recorded."""
    table, parts = run.table("trajectories"), {}
    for row in table[table["source"] == "chunk"].to_dict("records"):
        count, joints = len(row["times_s"]), len(row["joint_names"])
        if count > 1 and joints and len(row["positions"]) == count * joints:
            shaped = np.asarray(row["positions"], dtype=np.float64).reshape(count, joints)
            parts.setdefault(round(1e6 * row["stamp_s"]), {})[row["arm"]] = (tuple(row["joint_names"]), shaped)
    whole = {}
    for stamp, arms in parts.items():
        ordered = [arms.get(arm.name) for arm in run.robot.arms]
        fits = all(p and p[0] == arm.joint_names for p, arm in zip(ordered, run.robot.arms, strict=True))
        if fits and len({len(p[1]) for p in ordered}) == 1:
            whole[stamp] = run.robot.to_policy(np.concatenate([p[1] for p in ordered], axis=1))
    return whole


def _seen(row: Any, chunks: dict[int, np.ndarray]) -> Seen:
    chunk = chunks.get(round(1e6 * row["observation_stamp_s"]))
    return Seen(
        stamp_s=float(row["observation_stamp_s"]),
        iterations=int(row["iterations"]),
        change=tuple(row["change"]),
        chunk=None if chunk is None else chunk[1:],
        step_s=float(row["step_s"]) if row["step_s"] > 0.0 else math.nan,
        horizon=int(row["horizon"]),
        measured=None if chunk is None else chunk[0],
        spread=float(row["spread"]),
    )
