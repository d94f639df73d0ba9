"""The curves of a training run, drawn from its log."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from rdvla_ros.learning.config import TrainingError


def read_log(path: Path) -> list[dict]:
    if not path.is_file():
        raise TrainingError(f"Training log {path}: expected a file of JSON lines, found nothing. It lies in the run's folder.")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def plot_run(entries: list[dict], output: Path) -> Path:
    """Training loss and validation error by depth over the steps; losses by depth at the end; learning rate and minutes."""
    training = [e for e in entries if "loss" in e]
    validation = [e for e in entries if "validation" in e]
    if not training:
        raise TrainingError("The training log has no losses yet.")
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    steps = np.array([e["step"] for e in training])
    left.plot(steps, [e["loss"] for e in training], lw=0.6, alpha=0.4, color="tab:blue")
    window = max(1, len(training) // 40)
    smooth = np.convolve([e["loss"] for e in training], np.ones(window) / window, "valid")
    left.plot(steps[window - 1 :], smooth, color="tab:blue", label="training (last iteration)")
    for depth, colour in zip(("1", "4", "16"), ("tab:red", "tab:orange", "tab:green"), strict=True):
        known = [e for e in validation if depth in e["validation"]]
        left.plot(
            [e["step"] for e in known],
            [e["validation"][depth] for e in known],
            ".-",
            ms=3,
            color=colour,
            label=f"held-out, r = {depth}",
        )
    left.set(xlabel="step", ylabel="mean absolute error (normalised)", yscale="log")
    left.legend(frameon=False)
    left.grid(alpha=0.3)
    _losses_by_depth(middle, training)
    right.plot(steps, np.array([e["elapsed_s"] for e in training]) / 60.0, color="tab:gray")
    right.set(xlabel="step", ylabel="minutes of training")
    rate = right.twinx()
    rate.plot(steps, [e["learning_rate"] for e in training], color="tab:purple")
    rate.set_ylabel("learning rate", color="tab:purple")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)
    plt.close(figure)
    return output


def _losses_by_depth(axes: plt.Axes, training: list[dict]) -> None:
    """Mean training loss of each depth, over the first and the last fifth of the run."""
    fifth = max(1, len(training) // 5)
    for label, part in (("first fifth", training[:fifth]), ("last fifth", training[-fifth:])):
        depths: dict[int, list[float]] = {}
        for entry in part:
            for depth, loss in entry.get("by_depth", {}).items():
                depths.setdefault(int(depth), []).append(loss)
        axes.plot(sorted(depths), [np.mean(depths[depth]) for depth in sorted(depths)], "o-", ms=3, label=label)
    axes.set(xlabel="iterations of the batch", ylabel="training loss", yscale="log")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rdvla plot-training", description=__doc__)
    parser.add_argument("log", type=Path, help="log.jsonl of the run")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    print(plot_run(read_log(arguments.log), arguments.output))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
