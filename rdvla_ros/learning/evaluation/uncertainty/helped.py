"""What asking is worth: a scripted operator takes over with the expert when the robot asks, and brings the task to its end.

    rdvla study help --study runs/uncertainty --calibration checkpoints/compact_aloha/calibration.json

The episodes are those of the study's test part, with their seeds and perturbations. Up to its first ask a run is the run of the
study, so only what follows an ask is run anew. Compared: nobody asks; the calibrated monitor asks; as many asks at random, at
moments of the monitor's; an oracle asks in exactly the runs that will fail, after its third decision.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from rdvla_ros.control.supervision.calibration import FILE, Calibration, CalibrationError, digest_of, threshold_of
from rdvla_ros.control.supervision.interventions import AlarmState, make_intervention
from rdvla_ros.control.supervision.uncertainty import Assessment, Threshold
from rdvla_ros.learning.evaluation.evaluate import DEFAULT_CHECKPOINT, DEFAULT_ROBOT
from rdvla_ros.learning.evaluation.rates import wilson_interval
from rdvla_ros.learning.evaluation.uncertainty.episodes import Runner
from rdvla_ros.learning.evaluation.uncertainty.kept import EPISODES, Kept, load_all
from rdvla_ros.learning.evaluation.uncertainty.passages import metered
from rdvla_ros.learning.evaluation.uncertainty.perturbations import FIRST_TEST, KINDS, pattern_of
from rdvla_ros.learning.evaluation.uncertainty.scores import arm_columns, seen_decisions
from rdvla_ros.robot import RobotDescription
from rdvla_ros.sim.expert import PERIOD_S, Expert
from rdvla_ros.sim.tasks import MAX_STAGE

HELP_S, ORACLE_AFTER, NAME = 10.0, 3, "help"
NONE, ASKS, CHANCE, ORACLE = "nobody asks", "the monitor asks", "random asks", "oracle"


@dataclass(frozen=True)
class Ended:
    success: bool
    duration_s: float


def first_ask(kept: Kept, calibration: Calibration, alpha: float, begin_after: int) -> int | None:
    """Number of decisions after which the monitor asks, by its own rules; None: it never does."""
    known = calibration.instruction(pattern_of(kept.about["task"]))
    if known is None:
        return None
    limit = Threshold(threshold_of(known, alpha), True)
    alarm = AlarmState(make_intervention({"do": "hold_and_ask", "begin_after": begin_after}))
    scores: list[float] = []
    for i, signals in enumerate(metered(seen_decisions(kept), arm_columns(kept.about["arms"]))):
        scores.append(calibration.score(signals, known))
        worst = max(scores[-calibration.window :])
        judged = Assessment(i + 1, scores[-1], worst, 1, limit, worst > limit.value, "")
        if alarm.see(judged, kept.rows["stamp_s"][i], ""):
            return i + 1
    return None


class Operator:
    """Takes over where a run of the study has come to, and does the rest as the expert."""

    def __init__(self, runner: Runner, robot: RobotDescription):
        self._runner, self._robot = runner, robot
        self._done: dict[tuple, Ended] = {}

    def help(self, kept: Kept, decisions: int) -> Ended:
        about = kept.about
        key = (about["task"], about["kind"], about["seed"], decisions)
        if key not in self._done:
            self._done[key] = self._help(KINDS[about["kind"]], *key[:1], *key[2:])
        return self._done[key]

    def _help(self, kind, task: str, seed: int, decisions: int) -> Ended:
        part = self._runner.run(task, kind, seed, decisions)
        if len(part.rows["stamp_s"]) < decisions or part.about["success"]:
            return Ended(bool(part.about["success"]), part.about["duration_s"])
        sim = self._runner.rollout(kind.task(task, seed)).sim
        expert, memory = Expert(sim.task, self._robot), self._runner.handover
        end_s = part.about["time_limit_s"] + HELP_S
        while sim.time_s < end_s and sim.max_stage < MAX_STAGE:
            if self._runner.mover is not None:
                self._runner.mover.look(sim)
            memory, _ = expert.step(sim, memory)
            sim.set_reference(self._robot.from_policy(memory.reference))
            sim.step(round(PERIOD_S / sim.timestep_s))
        return Ended(sim.max_stage >= MAX_STAGE, sim.time_s)


def asks_of(found: Sequence[Kept], calibration: Calibration, alpha: float, begin_after: int) -> dict[str, dict[int, int]]:
    """way of asking -> number of the run -> decisions after which is asked."""
    asked = {i: n for i, kept in enumerate(found) if (n := first_ask(kept, calibration, alpha, begin_after)) is not None}
    rng = np.random.default_rng(0)
    drawn = rng.permutation(len(found))[: len(asked)].tolist()
    moments = rng.permutation(list(asked.values())).tolist()
    chance = {i: min(n, len(found[i].rows["stamp_s"])) for i, n in zip(drawn, moments, strict=True)}
    oracle = {i: min(ORACLE_AFTER, len(kept.rows["stamp_s"])) for i, kept in enumerate(found) if kept.failed}
    return {NONE: {}, ASKS: asked, CHANCE: chance, ORACLE: oracle}


def measure(found: Sequence[Kept], asks: Mapping[str, Mapping[int, int]], operator: Operator) -> list[dict[str, Any]]:
    rows = []
    for way, when in asks.items():
        ended = []
        for i, kept in enumerate(tqdm(found, desc=way, unit="run", disable=not when)):
            unhelped = Ended(bool(kept.about["success"]), kept.about["duration_s"])
            ended.append(operator.help(kept, when[i]) if i in when else unhelped)
        wins = sum(one.success for one in ended)
        rows.append(
            {
                "way": way,
                "success": [wins, len(ended)],
                "wilson95": wilson_interval(wins, len(ended)),
                "asked": [len(when), len(ended)],
                "needless": sum(not found[i].failed for i in when),
                "mean_s": float(np.mean([one.duration_s for one in ended])),
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| | success | asked | of these would have succeeded | mean time of a run |", "|---|---|---|---|---|"]
    for row in rows:
        (wins, of), (low, high) = row["success"], row["wilson95"]
        lines.append(
            f"| {row['way']} | {wins} of {of} ({100 * low:.0f}..{100 * high:.0f} %) | {row['asked'][0] / of:.0%} "
            f"| {row['needless']} | {row['mean_s']:.1f} s |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="rdvla study help", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, required=True, help="output of 'rdvla study uncertainty'")
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT)
    parser.add_argument("--robot", type=Path, default=DEFAULT_ROBOT)
    parser.add_argument("--calibration", type=Path, help="default: that of the checkpoint")
    parser.add_argument("--alpha", type=float, default=0.1, help="share of false alarms of the threshold")
    parser.add_argument("--after", type=int, default=1, help="decisions in a row with an alarm until the robot asks")
    parser.add_argument("--runs", type=int, default=10**6, help="of the test part at most, evenly drawn")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    path = arguments.calibration or arguments.checkpoint / FILE
    calibration = Calibration.load(path, digest_of(arguments.checkpoint))
    found = [kept for kept in load_all(arguments.study / EPISODES) if kept.about["seed"] >= FIRST_TEST]
    if not found:
        raise CalibrationError(f"{arguments.study}: expected episodes of the test part (seeds from {FIRST_TEST} on), found none.")
    order = np.random.default_rng(1).permutation(len(found))[: arguments.runs]
    found = [found[i] for i in sorted(order)]
    first = found[0].about
    runner = Runner(arguments.checkpoint, arguments.robot, first["time_limit_s"], first["latency_s"])
    operator = Operator(runner, RobotDescription.load(arguments.robot))
    rows = measure(found, asks_of(found, calibration, arguments.alpha, arguments.after), operator)
    about = {"alpha": arguments.alpha, "after": arguments.after, "rows": rows}
    (arguments.study / f"{NAME}.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    (arguments.study / f"{NAME}.md").write_text(table(rows), encoding="utf-8")
    print(table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
