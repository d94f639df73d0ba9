"""`rdvla calibrate`: where the monitor's alarm begins, for one checkpoint and each instruction.

    rdvla study uncertainty --output runs/uncertainty --rounds 20
    rdvla calibrate --study runs/uncertainty --first-seed 52000 --output checkpoints/compact_aloha/calibration.json
    rdvla calibrate --study runs/uncertainty --episodes runs/uncertainty runs/more --output <folder>/calibration.json
    rdvla calibrate --study runs/uncertainty --runs demo_runs/* --checkpoint <folder> --output <folder>/calibration.json

The score is that of the study (--score: its logistic combination, or one signal); the thresholds come from runs that succeeded
and chose nothing: of the study's nominal episodes those with seeds from --first-seed on, or recorded runs. With too few of them
it refuses. --check evaluates a calibration that is there on such runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rdvla_ros.control.supervision.calibration import (
    ALPHAS,
    Calibration,
    CalibrationError,
    Instruction,
    conformal_threshold,
    digest_of,
    least_runs,
    today,
)
from rdvla_ros.control.supervision.signals import OF_TOPICS, SIGNALS, window_maximum
from rdvla_ros.learning.evaluation.uncertainty.kept import EPISODES, load_all
from rdvla_ros.learning.evaluation.uncertainty.main import CHECKPOINT, NAME
from rdvla_ros.learning.evaluation.uncertainty.passages import Passage, of_episodes, of_run
from rdvla_ros.learning.evaluation.uncertainty.scores import LEAST_SCALE, WINDOW
from rdvla_ros.runs.reader import Run
from rdvla_ros.types import nearest_names

LOGISTIC = "logistic"
SHARE_FOR_SCALE = 3  # where the study knows no scale of an instruction, every third successful run gives it and nothing else


def weights_of(study: Mapping[str, Any], score: str) -> dict[str, float]:
    """Signal -> weight, of the study's logistic combination or of one signal in the direction that the study found."""
    if score == LOGISTIC:
        if not study.get("weights"):
            raise CalibrationError(
                "The study has no logistic combination: too few failures or successes. Choose --score <signal>."
            )
        return dict(study["weights"])
    signs = {row["score"]: row["sign"] for row in study["rows"]}
    if score.partition("/")[0] not in OF_TOPICS or score not in signs:
        raise CalibrationError(f"--score '{score}': no signal that a monitor hears. {nearest_names(score, OF_TOPICS)}")
    return {score: float(signs[score])}


def scales(passages: Sequence[Passage], names: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and scale of each signal over the decisions."""
    mean, scale = {}, {}
    for name in names:
        values = np.array([signals.get(name, np.nan) for one in passages for signals in one.signals])
        values = values[np.isfinite(values)]
        mean[name] = float(values.mean()) if values.size else 0.0
        scale[name] = max(float(values.std()) if values.size else 0.0, LEAST_SCALE * abs(mean[name]), 1e-3)
    return mean, scale


def largest(passage: Passage, calibration: Calibration, known: Instruction) -> float:
    """The largest window score of a run."""
    scores = [calibration.score(signals, known) for signals in passage.signals]
    return float(window_maximum(scores, calibration.window).max()) if scores else 0.0


def calibrate(
    passages: Sequence[Passage],
    weights: Mapping[str, float],
    known_scales: Mapping[str, Mapping[str, Mapping[str, float]]],
    manifest_sha256: str,
    source: str,
    alphas: Sequence[float] = ALPHAS,
) -> tuple[Calibration, list[str]]:
    """The calibration, and what could not be calibrated, one sentence each; CalibrationError where that is everything.

    known_scales: instruction -> {"mean": ..., "scale": ...} from other runs.
    """
    instructions, refused = {}, []
    unknown = sum(one.succeeded is None for one in passages)
    empty = Calibration(manifest_sha256, today(), source, WINDOW, dict(weights), {})
    for text in dict.fromkeys(one.instruction for one in passages):
        runs = [one for one in passages if one.instruction == text and one.signals]
        good = [one for one in runs if one.succeeded]
        if text in known_scales:
            mean, scale = ({name: known_scales[text][part][name] for name in weights} for part in ("mean", "scale"))
        else:
            mean, scale = scales(good[::SHARE_FOR_SCALE], list(weights))
            good = [one for i, one in enumerate(good) if i % SHARE_FOR_SCALE]
        fresh = Instruction(len(good), len(runs), mean, scale, {})
        scores = [largest(one, empty, fresh) for one in good]
        found = {f"{alpha:g}": conformal_threshold(scores, alpha) for alpha in alphas if len(good) >= least_runs(alpha)}
        if missing := [alpha for alpha in alphas if f"{alpha:g}" not in found]:
            needed = ", ".join(f"{least_runs(alpha)} for {alpha:.0%}" for alpha in missing)
            refused.append(f"'{text}': {len(good)} successful runs of {len(runs)}, expected at least {needed} false alarms.")
        if found:
            instructions[text] = Instruction(len(good), len(runs), mean, scale, found)
    if unknown:
        refused.append(f"Of {unknown} stretches nobody knows whether they succeeded: --all-succeeded, where all of them did.")
    if not instructions:
        raise CalibrationError(f"Nothing can be calibrated. {' '.join(refused) or 'There are no runs.'} Run more episodes.")
    return Calibration(manifest_sha256, today(), source, WINDOW, dict(weights), instructions), refused


def check(passages: Sequence[Passage], calibration: Calibration) -> str:
    """Markdown: how often successful runs have an alarm, and failed ones."""
    from rdvla_ros.learning.evaluation.rates import wilson_interval  # brings torch

    lines = ["| instruction | asked for | successful runs with an alarm | failed runs with an alarm |", "|---|---|---|---|"]
    for text, known in calibration.instructions.items():
        runs = [one for one in passages if calibration.instruction(one.instruction) is known and one.signals]
        for alpha, threshold in known.thresholds.items():
            cells = []
            for succeeded in (True, False):
                over = [largest(one, calibration, known) > threshold for one in runs if one.succeeded is succeeded]
                low, high = wilson_interval(sum(over), len(over))
                cells.append(f"{sum(over)} of {len(over)} ({100 * low:.0f}..{100 * high:.0f} %)" if over else "-")
            lines.append(f"| {text} | {float(alpha):.0%} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def gather(arguments: argparse.Namespace) -> list[Passage]:
    if arguments.runs:
        return [one for path in arguments.runs for one in of_run(Run(path), arguments.all_succeeded)]
    kept = [one for folder in arguments.episodes or [arguments.study] for one in load_all(folder / EPISODES)]
    last = arguments.first_seed + arguments.seeds
    return of_episodes([one for one in kept if arguments.first_seed <= one.about["seed"] < last])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="rdvla calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, required=True, help=f"output of 'rdvla study uncertainty' ({NAME}.json, episodes)")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--score", default=LOGISTIC, help=f"'{LOGISTIC}', or one of {', '.join(SIGNALS)}")
    parser.add_argument("--first-seed", type=int, default=52000, help="of the study's nominal episodes; others chose the weights")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--episodes", type=Path, nargs="+", help="studies whose nominal episodes are used; without: --study")
    parser.add_argument("--runs", type=Path, nargs="+", help="recorded runs instead of the study's episodes")
    parser.add_argument("--all-succeeded", action="store_true", help="the recorded runs did, where no task stage was recorded")
    parser.add_argument("--alphas", type=float, nargs="+", default=ALPHAS, help="shares of false alarms")
    parser.add_argument("--check", type=Path, metavar="FILE", help="evaluate this calibration instead of making one")
    parser.add_argument("--output", type=Path, help="file to write")
    arguments = parser.parse_args(argv)
    manifest = digest_of(arguments.checkpoint)
    passages = gather(arguments)
    if arguments.check:
        print(check(passages, Calibration.load(arguments.check, manifest)))
        return 0
    if arguments.output is None:
        parser.error("--output: expected a file")
    file = arguments.study / f"{NAME}.json"
    try:
        study = json.loads(file.read_text(encoding="utf-8"))
        weights, known = weights_of(study, arguments.score), study["scalings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CalibrationError(f"{file}: expected the result of 'rdvla study uncertainty', got {error!r}.") from error
    source = f"{len(arguments.runs)} recorded runs" if arguments.runs else f"nominal episodes, seeds from {arguments.first_seed}"
    calibration, refused = calibrate(passages, weights, known, manifest, source, arguments.alphas)
    calibration.save(arguments.output)
    for text, made in calibration.instructions.items():
        levels = ", ".join(f"{float(alpha):.0%} at {value:.3g}" for alpha, value in made.thresholds.items())
        print(f"'{text}': from {made.n} successful runs of {made.runs}; false alarms {levels}")
    print("\n".join(f"[WARN] {sentence}" for sentence in refused), end="\n" if refused else "")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
