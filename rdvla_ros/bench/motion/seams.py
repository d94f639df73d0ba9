"""`rdvla bench seams`: how chunks are joined, method against method: speed kept, tracking error, acceleration, jerk."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from rdvla_ros.bench.machine import machine
from rdvla_ros.bench.motion.policy_loop import Loop, LoopOptions, Run
from rdvla_ros.control.motion.limits import JointLimits
from rdvla_ros.control.motion.seam import METHODS, make_seam
from rdvla_ros.robot import RobotDescription, shipped

RULES = ("humble", "jazzy")
LATENCIES_S = (0.05, 0.2, 0.4)
BEFORE_S, AFTER_S = 0.05, 0.35  # around a boundary
COLUMNS = (
    ("method", "method", "s"),
    ("inference_ms", "inference ms", ".0f"),
    ("rms_error_mrad", "rms error mrad", ".2f"),
    ("worst_error_mrad", "worst mrad", ".1f"),
    ("least_speed_share", "least speed", ".2f"),
    ("acceleration_share", "acceleration / limit", ".2f"),
    ("jerk_p99_share", "jerk p99 / limit", ".2f"),
    ("jerk_share", "jerk max / limit", ".2f"),
    ("refused_share", "gate refuses", ".0%"),
)


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    robot = RobotDescription.load(options.robot)
    rows, examples = [], {}
    for inference_s in LATENCIES_S:
        for method in METHODS:
            settings = LoopOptions(
                inference_s, rows=options.rows, disagreement_s=options.disagreement, rule=options.rule, rate_hz=options.rate
            )
            loop = Loop(robot, make_seam({"method": method}), settings, gated=method != "replace")
            done = loop.run(options.boundaries)
            rows.append({"method": method, "inference_ms": 1e3 * inference_s, **measures(done, loop.limits)})
            examples[method, inference_s] = done
    print(table(rows))
    options.out.mkdir(parents=True, exist_ok=True)
    command = f"rdvla bench seams --boundaries {options.boundaries} --rows {options.rows}"
    result = {"command": command, "options": asdict(settings), "methods": rows, "machine": machine()}
    (options.out / "seams.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plot(rows, examples, JointLimits.of_robot(robot), options.out / "seams.png")
    print(f"saved in {options.out}/seams.json and seams.png")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("rdvla bench seams", description=__doc__)
    parser.add_argument("--boundaries", type=int, default=100, help="chunk boundaries per method and inference time")
    parser.add_argument("--rows", type=int, default=12, help="rows of 0.1 s in a chunk")
    parser.add_argument("--disagreement", type=float, default=0.005, help="how far decisions differ [s of largest speed]")
    parser.add_argument("--rule", choices=RULES, default="jazzy", help="controllers of this distribution (Kilted: jazzy)")
    parser.add_argument("--rate", type=float, default=1000.0, help="update rate of the controllers [Hz]")
    parser.add_argument("--robot", type=Path, default=shipped("config/aloha_sim.yaml"), help="robot description")
    parser.add_argument("--out", type=Path, default=Path("docs/bench"), help="folder of the results")
    return parser


def measures(done: Run, limits: JointLimits) -> dict[str, float]:
    """Of the joints that move. Errors against the ideal motion; jerk as the step of the acceleration from update to update."""
    moves = np.abs(done.ideal.velocity).max(axis=0) > 0.0
    error = np.abs(done.samples.position - done.ideal.position)[:, moves]
    jerk = (np.abs(done.samples.jerk()) / limits.jerk)[:, moves]
    near = _near(done)
    speeds = [np.linalg.norm(samples.velocity[:, moves], axis=1) for samples in (done.samples, done.ideal)]
    shares = done.samples.shares(limits)
    return {
        "boundaries": len(done.boundaries_s),
        "rms_error_mrad": 1e3 * float(np.sqrt((error**2).mean())),
        "worst_error_mrad": 1e3 * float(error.max()),
        "least_speed_share": float((speeds[0] / speeds[1]).min()),
        "acceleration_share": shares["acceleration"],
        "jerk_p99_share": float(np.quantile(jerk[near[1:]].max(axis=1), 0.99)),
        "jerk_share": shares["jerk"],
        "refused_share": done.refused_by_gate / max(1, done.planned),
    }


def _near(done: Run) -> np.ndarray:
    """(M,) whether a sample lies around a boundary."""
    since_s = done.samples.times_s[:, None] - done.boundaries_s[None]
    return ((since_s > -BEFORE_S) & (since_s < AFTER_S)).any(axis=1)


def table(rows: list[dict]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(title for _, title, _ in COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(format(row[key], spec) for key, _, spec in COLUMNS) + " |" for row in rows]
    return "\n".join(lines)


def plot(rows: list[dict], examples: dict, limits: JointLimits, path: Path) -> None:
    """Above: one joint around a boundary, by method. Below: tracking error and jerk over the inference time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 7), constrained_layout=True)
    colours = dict(zip(METHODS, ("tab:blue", "tab:green", "tab:red"), strict=True))
    _example(axes[0], {method: examples[method, LATENCIES_S[1]] for method in METHODS}, limits, colours)
    for axis, key, title in (
        (axes[1, 0], "rms_error_mrad", "rms tracking error [mrad]"),
        (axes[1, 1], "jerk_share", "largest jerk / limit"),
    ):
        for method in METHODS:
            mine = [row for row in rows if row["method"] == method]
            axis.plot([r["inference_ms"] for r in mine], [r[key] for r in mine], "o-", color=colours[method], label=method)
        axis.set(xlabel="inference time [ms]", ylabel=title, ylim=(0, 1.15 * max(row[key] for row in rows)))
        axis.grid(alpha=0.3)
    axes[1, 1].set(yscale="log", ylim=(0.05, 2000.0))
    axes[1, 1].axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _example(axes: Sequence, runs: dict[str, Run], limits: JointLimits, colours: dict[str, str]) -> None:
    """Velocity and acceleration of the first joint around the second boundary of every method's run."""
    for method, done in runs.items():
        t = done.samples.times_s - done.boundaries_s[1]
        kept = (t > -0.3) & (t < 0.7)
        axes[0].plot(t[kept], done.samples.velocity[kept, 0] - done.ideal.velocity[kept, 0], color=colours[method], label=method)
        axes[1].plot(t[kept], done.samples.acceleration[kept, 0], color=colours[method], linewidth=0.9)
    largest = limits.acceleration[0]
    axes[0].set(ylabel=f"{limits.names[0]}: velocity - ideal [rad/s]", xlabel="time since a boundary [s]")
    axes[1].set(ylabel="acceleration [rad/s$^2$]", xlabel="time since a boundary [s]", ylim=(-2 * largest, 2 * largest))
    axes[1].axhline(largest, color="black", linewidth=0.8, linestyle=":")
    axes[1].axhline(-largest, color="black", linewidth=0.8, linestyle=":")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend()
