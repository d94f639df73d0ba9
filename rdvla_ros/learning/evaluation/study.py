"""`rdvla study`: one checkpoint in closed loop under many settings; tables and plots of what depth, stopping and trouble do.

    rdvla study depth --data <dataset> ...    success and action error at r = 1, 2, 4, ... 64 iterations
    rdvla study adaptive                      halting rules and thresholds with every horizon rule, against fixed depths
    rdvla study robustness                    noise, dropped frames, a shifted camera, latency

Every setting has a folder of its own below --output, as `rdvla evaluate` writes it; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rdvla_ros.learning.config import Augmentation, DataSettings
from rdvla_ros.learning.data.augment import BatchMaker
from rdvla_ros.learning.data.dataset import Wanted, build_cache, open_cache
from rdvla_ros.learning.evaluation.conditions import Conditions
from rdvla_ros.learning.evaluation.evaluate import EvaluationConfig, EvaluationError, add_options, evaluate
from rdvla_ros.learning.evaluation.plots import plot_depth, plot_phases, plot_rates, plot_trade
from rdvla_ros.learning.evaluation.rates import summary_line
from rdvla_ros.learning.evaluation.rollout import RolloutConfig
from rdvla_ros.learning.training.validation import error_by_depth
from rdvla_ros.model.checkpoint import load_checkpoint
from rdvla_ros.robot import RobotDescription, shipped_policy
from rdvla_ros.sim.tasks import TASK_NAMES
from rdvla_ros.types import nearest_names

DEPTHS = (1, 2, 4, 8, 16, 32, 64)
THRESHOLDS = (1e-3, 1e-4, 1e-5, 1e-6)
HORIZONS: Mapping[str, Mapping[str, Any]] = {
    "fixed": {"rule": "fixed", "length": 8},  # the whole chunk, as the shipped policy does
    "binary": {"rule": "binary", "longest": 8, "shortest": 4, "threshold": 4},
    "linear_decay": {"rule": "linear_decay", "longest": 8, "shortest": 4, "full_until": 3},
    "running_buckets": {"rule": "running_buckets"},
    "settled_prefix": {"rule": "settled_prefix", "threshold": 1e-5, "shortest": 4},
}
STUDIED = ("insertion", "transfer_cube")  # what the shipped checkpoint can do
LIMIT = 32  # iterations an adaptive rule may make
HELD_OUT_FRAMES = 512


@dataclass(frozen=True)
class Setting:
    """One row of a table. family: what it is compared within."""

    name: str
    family: str
    config: EvaluationConfig
    notes: Mapping[str, Any]


def depth_settings(base: EvaluationConfig, depths: Sequence[int] = DEPTHS) -> list[Setting]:
    return [
        Setting(
            f"r={r}",
            "fixed",
            replace(base, halting={"rule": "fixed", "iterations": r}, horizon=HORIZONS["fixed"]),
            {"depth": r},
        )
        for r in depths
    ]


def adaptive_settings(base: EvaluationConfig) -> list[Setting]:
    """Every threshold of both rules with the fixed horizon, then every horizon rule at one threshold of each."""
    settings = depth_settings(base, (2, 4, 8, 12))
    for rule in ("action_change", "action_kl"):
        for threshold in THRESHOLDS:
            for name, horizon in HORIZONS.items():
                if name != "fixed" and threshold != THRESHOLDS[1]:
                    continue
                halting = {"rule": rule, "threshold": threshold, "max_iterations": LIMIT}
                notes = {"threshold": threshold, "horizon_name": name}
                label = f"{rule} {threshold:.0e}, {name}"
                settings.append(Setting(label, rule, replace(base, halting=halting, horizon=horizon), notes))
    return settings


def robustness_settings(base: EvaluationConfig) -> list[Setting]:
    def of(name: str, latency_s: float = 0.0, **conditions: float) -> Setting:
        rollout = replace(base.rollout, latency_s=latency_s, conditions=Conditions(**conditions))
        return Setting(name, "robustness", replace(base, rollout=rollout), {"latency_s": latency_s, **conditions})

    return [
        of("clean"),
        of("noise 10 of 255", noise=10.0),
        of("noise 25 of 255", noise=25.0),
        of("20 % of frames dropped", dropped=0.2),
        of("50 % of frames dropped", dropped=0.5),
        of("top camera shifted 1 cm", shift_m=0.01),
        of("top camera shifted 2 cm, turned 2 deg", shift_m=0.02, turn_deg=2.0),
        of("100 ms of latency", latency_s=0.1),
        of("200 ms of latency", latency_s=0.2),
    ]


STUDIES = {"depth": depth_settings, "adaptive": adaptive_settings, "robustness": robustness_settings}


def chosen(settings: Sequence[Setting], names: Sequence[str] | None) -> list[Setting]:
    """Those with the names, or all without any."""
    known = {setting.name: setting for setting in settings}
    for name in names or ():
        if name not in known:
            raise EvaluationError(f"--only '{name}': no such setting. {nearest_names(name, known)}")
    return [known[name] for name in names] if names else list(settings)


def run(settings: Sequence[Setting], seeds: Sequence[int], folder: Path, workers: int) -> list[dict[str, Any]]:
    """One row per setting: its rates, times and notes, without the episodes."""
    rows = []
    for setting in settings:
        place = (
            folder
            / setting.config.task.replace(":", "_")
            / "".join(c if c.isalnum() or c in "=-.,_" else "_" for c in setting.name)
        )
        data = evaluate(setting.config, seeds, workers, place)
        print(f"{setting.name}: {summary_line(setting.config.task, data)}", flush=True)
        rows.append(row_of(setting, data))
    return rows


def row_of(setting: Setting, data: Mapping[str, Any]) -> dict[str, Any]:
    """data: of `evaluate`; what it says of the settings stands beside the notes."""
    kept = {key: value for key, value in data.items() if key != "episodes"}
    return {"setting": setting.name, "family": setting.family, **setting.notes, **kept}


def action_errors(
    checkpoint: Path, datasets: Sequence[Path], robot: RobotDescription, cache: Path, depths: Sequence[int] = DEPTHS
) -> dict[str, float]:
    """depth -> mean absolute error of the normalised chunk on episodes that training held out (every 25th)."""
    loaded = load_checkpoint(checkpoint)
    cameras = loaded.model.backbone.config.cameras
    every = int(loaded.training.get("config", {}).get("held_out_every", 25))
    build_cache(datasets, cache, Wanted(DataSettings(), cameras, robot, loaded.contract.chunk_length, every))
    frames = open_cache(cache, cameras)
    held_out = np.flatnonzero(frames.held_out)
    chosen = np.sort(np.random.default_rng(0).permutation(held_out)[:HELD_OUT_FRAMES])
    maker = BatchMaker(frames, loaded.space, loaded.tokenizer, Augmentation(), loaded.contract.chunk_length)
    return {str(depth): error for depth, error in error_by_depth(loaded.model, maker, chosen, depths).items()}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| task | setting | success | 95 % interval | iterations | horizon | head per decision | head per episode |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        success = row["success"]
        low, high = (100 * bound for bound in success["wilson95"])
        lines.append(
            f"| {row['task']} | {row['setting']} | {success['count']} of {success['of']} | {low:.0f}..{high:.0f} % "
            f"| {row['iterations']['mean']:.1f} | {row['horizon_mean']:.1f} | {row['head_ms']['mean']:.1f} ms "
            f"| {row['head_ms_per_episode']:.0f} ms |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="rdvla study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=sorted(STUDIES))
    add_options(parser)
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=TASK_NAMES,
        metavar="TASK",
        default=STUDIED,
        help="of transfer_cube, insertion, follow_trail and follow_trail:0 .. follow_trail:8, a trail of that many hops",
    )
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument(
        "--data", type=Path, nargs="*", default=[], help="depth: demonstrations for the action error, one dataset per task"
    )
    parser.add_argument("--only", nargs="+", metavar="SETTING", help="some of the settings, by the names in the table")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.episodes)
    rollout, rows = RolloutConfig(arguments.time_limit), []
    for task in arguments.tasks:
        base = EvaluationConfig(arguments.checkpoint or shipped_policy(task), task, arguments.robot, rollout=rollout)
        settings = chosen(STUDIES[arguments.study](base), arguments.only)
        rows += run(settings, seeds, arguments.output, arguments.workers)
    robot = RobotDescription.load(arguments.robot)
    errors = {
        folder.name: action_errors(
            arguments.checkpoint or shipped_policy(""), [folder], robot, arguments.output / "cache" / folder.name
        )
        for folder in arguments.data
    }
    report(arguments.study, rows, errors, arguments.output)
    print((arguments.output / f"{arguments.study}.md").read_text(encoding="utf-8"))
    return 0


def report(study: str, rows: Sequence[Mapping[str, Any]], errors: Mapping[str, Any], folder: Path) -> None:
    """JSON, table and plots of a study."""
    (folder / f"{study}.json").write_text(
        json.dumps({"rows": list(rows), "action_error": errors}, indent=1) + "\n", encoding="utf-8"
    )
    text = table(rows)
    if errors:
        depths = list(next(iter(errors.values())))
        text += "\n| action error, held-out demonstrations | " + " | ".join(f"r={d}" for d in depths) + " |\n"
        text += "|---" * (len(depths) + 1) + "|\n"
        for name, values in errors.items():
            text += f"| {name} | " + " | ".join(f"{values[d]:.4f}" for d in depths) + " |\n"
    (folder / f"{study}.md").write_text(text, encoding="utf-8")
    if study == "depth":
        plot_depth(rows, errors, folder / "depth.png")
    elif study == "robustness":
        plot_rates(rows, folder / "robustness.png")
    else:
        plot_trade(rows, folder / "adaptive.png")
        _plot_thinking(rows, folder / "phases.png")


def _plot_thinking(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Iterations against the phase of the task, for the mean-squared-change rule with the fixed horizon."""
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure, all_axes = plt.subplots(1, len(tasks), figsize=(6 * len(tasks), 4), layout="constrained", squeeze=False)
    for axes, task in zip(all_axes[0], tasks, strict=True):
        chosen = {
            f"threshold {row['threshold']:.0e}": row["by_phase"]
            for row in rows
            if row["task"] == task and row["family"] == "action_change" and row["horizon_name"] == "fixed"
        }
        plot_phases(axes, chosen)
        axes.set(title=task)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    raise SystemExit(main())
