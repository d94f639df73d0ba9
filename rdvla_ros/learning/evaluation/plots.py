"""Pictures of evaluations: one report, and studies over many settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np


def whiskers(rates: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Rates [%] and (2, n) distances to the ends of their 95 % intervals."""
    middle = np.array([100.0 * entry["rate"] for entry in rates])
    ends = np.array([[100.0 * bound for bound in entry["wilson95"]] for entry in rates]).T
    return middle, np.maximum(0.0, np.stack([middle - ends[0], ends[1] - middle]))


def plot_report(data: Mapping[str, Any], path: Path) -> Path:
    """Stages reached, iterations per decision, iterations by phase of the task."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    names = [*data["stages"], "success"]
    values, errors = whiskers([*data["stages"].values(), data["success"]])
    left.bar(range(len(names)), values, yerr=errors, capsize=4, color=["tab:blue"] * (len(names) - 1) + ["tab:green"])
    left.set(
        xticks=range(len(names)), ylim=(0, 102), ylabel="episodes [%], 95 % interval", xlabel="stage reached",
        title=f"{data['task']}: {data['success']['count']} of {data['success']['of']}",
    )  # fmt: skip
    left.set_xticklabels(names)
    iterations = np.concatenate([episode["iterations"] for episode in data["episodes"]])
    middle.hist(iterations, bins=np.arange(0.5, iterations.max() + 1.5), color="tab:blue")
    middle.set(xlabel="iterations of a decision", ylabel="decisions", title=f"mean {iterations.mean():.2f}")
    plot_phases(right, {"": data["by_phase"]})
    right.set(title="iterations by phase")
    return _save(figure, path)


def plot_phases(axes: plt.Axes, by_phase: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """label -> phase -> mean iterations with its standard error, as grouped bars."""
    phases = list(dict.fromkeys(phase for values in by_phase.values() for phase in values))
    width = 0.8 / len(by_phase)
    for i, (label, values) in enumerate(by_phase.items()):
        places = [phases.index(phase) + (i - (len(by_phase) - 1) / 2) * width for phase in values]
        axes.bar(
            places,
            [v["mean"] for v in values.values()],
            width,
            yerr=[v["standard_error"] for v in values.values()],
            capsize=2,
            label=label or None,
        )
    axes.set(ylabel="iterations (mean, standard error)", xticks=range(len(phases)))
    axes.set_xticklabels(phases, rotation=35, ha="right")
    if any(by_phase):
        axes.set_ylim(0.0, 1.35 * axes.get_ylim()[1])  # room for the legend above the bars
        axes.legend(frameon=False, ncols=2, loc="upper center", fontsize=8)


def plot_depth(rows: Sequence[Mapping[str, Any]], errors: Mapping[str, Mapping[str, float]], path: Path) -> Path:
    """rows: {"task", "depth", "success"}; errors: task -> depth -> mean absolute error on held-out demonstrations."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for i, task in enumerate(dict.fromkeys(row["task"] for row in rows)):
        chosen = [row for row in rows if row["task"] == task]
        values, spread = whiskers([row["success"] for row in chosen])
        depth = np.array([row["depth"] for row in chosen]) * 1.03**i  # side by side, so that whiskers stay apart
        left.errorbar(depth, values, spread, marker="o", capsize=3, label=f"{task} ({chosen[0]['success']['of']} episodes)")
    right.set_ylim(0.0, 1.15 * max((e for by_depth in errors.values() for e in by_depth.values()), default=1.0))
    for task, by_depth in errors.items():
        right.plot([int(depth) for depth in by_depth], list(by_depth.values()), "o-", label=task)
    left.set(xscale="log", xlabel="iterations", ylabel="success [%], 95 % interval", ylim=(0, 102))
    right.set(xscale="log", xlabel="iterations", ylabel="mean absolute error (normalised)", title="held-out demonstrations")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return _save(figure, path)


def plot_rates(rows: Sequence[Mapping[str, Any]], path: Path, label: str = "setting") -> Path:
    """Horizontal bars of success, one per row and task."""
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.28 * len(rows)), layout="constrained")
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    values, errors = whiskers([row["success"] for row in rows])
    colours = [f"C{tasks.index(row['task'])}" for row in rows]
    places = np.arange(len(rows))[::-1]
    axes.barh(places, values, xerr=errors, capsize=2, color=colours)
    axes.set(yticks=places, xlabel="success [%], 95 % interval", xlim=(0, 102))
    axes.set_yticklabels([f"{row[label]} ({row['task']})" for row in rows], fontsize=8)
    return _save(figure, path)


def plot_trade(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Success against the head's measured time per episode, one marker per setting."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure, all_axes = plt.subplots(1, len(tasks), figsize=(5.5 * len(tasks), 4), layout="constrained", squeeze=False)
    for axes, task in zip(all_axes[0], tasks, strict=True):
        for family, marker in (("fixed", "s"), ("action_change", "o"), ("action_kl", "^")):
            chosen = [row for row in rows if row["task"] == task and row["family"] == family]
            if chosen:
                values, errors = whiskers([row["success"] for row in chosen])
                times = [row["head_ms"]["mean"] for row in chosen]
                axes.errorbar(times, values, errors, fmt=marker, capsize=2, label=family, alpha=0.8)
        axes.set(xlabel="head [ms per decision]", ylabel="success [%], 95 % interval", title=task, ylim=(0, 102))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
