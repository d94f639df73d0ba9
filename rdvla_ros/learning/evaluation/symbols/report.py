"""Tables and the picture of `rdvla study symbols`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from rdvla_ros.learning.evaluation.rates import wilson_interval
from rdvla_ros.learning.evaluation.symbols.measure import DEPTHS, SHOWN_RULE
from rdvla_ros.learning.evaluation.symbols.training import Recipe

LAST_TRAINED = Recipe().last_level
SHOWN = "default"
COMPARED_DEPTH = 16  # iterations that suffice for every length


def tables(data: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """Markdown: hops x iterations of the first recipe, its stopping rules, and one row per recipe."""
    results = data["results"]
    first = SHOWN if SHOWN in results else next(iter(results))
    steps = f"{data['steps']} steps of {data['batch_size']}"
    parts = [hops_table(f"{titles[first]}; {steps}", results[first]), rules_table(results[first])]
    if all("second" in run for run in results[first].values()):
        parts.append(_second_table(results[first]))
    return "\n".join([*parts, _recipes_table(results, titles)])


def share(runs: Mapping[str, Any], hops: str, depth: int | str) -> float:
    """Of right answers, over all seeds."""
    return sum(run["fixed"][hops][str(depth)] for run in runs.values()) / sum(run["of"] for run in runs.values())


def hops_table(title: str, runs: Mapping[str, Any]) -> str:
    """Share of right answers over hops and iterations, of all seeds of one recipe."""
    depths = [str(depth) for depth in DEPTHS]
    lines = [
        f"Share of right answers: {title}; seeds: {len(runs)}, held-out scenes per length and seed: "
        f"{next(iter(runs.values()))['of']}.",
        "",
        f"| hops | r = {' | '.join(depths)} | stop at {SHOWN_RULE} (95 %) | mean r | lowest seed |",
        "|---" * (len(depths) + 4) + "|",
    ]
    for hops in next(iter(runs.values()))["fixed"]:
        stops = [run["rules"][SHOWN_RULE]["hops"][hops] for run in runs.values()]
        right, of = sum(s["right"] for s in stops), sum(run["of"] for run in runs.values())
        low, high = wilson_interval(right, of)
        worst = min(s["right"] / run["of"] for s, run in zip(stops, runs.values(), strict=True))
        name = hops if int(hops) <= LAST_TRAINED else f"{hops} (never trained)"
        cells = " | ".join(f"{share(runs, hops, depth):.2f}" for depth in depths)
        mean = np.mean([s["iterations"] for s in stops])
        lines.append(f"| {name} | {cells} | {right / of:.3f} ({low:.3f}..{high:.3f}) | {mean:.1f} | {worst:.3f} |")
    return "\n".join(lines) + "\n"


def rules_table(runs: Mapping[str, Any]) -> str:
    """Every stopping rule over all lengths."""
    hops = list(next(iter(runs.values()))["fixed"])
    shown = [h for h in hops if int(h) % 2 == 0 or int(h) == LAST_TRAINED]
    lines = [
        f"| stopping rule | right, all lengths | Spearman | {' | '.join(f'mean r, {h} hops' for h in shown)} |",
        "|---" * (len(shown) + 3) + "|",
    ]
    for rule in next(iter(runs.values()))["rules"]:
        stops = [run["rules"][rule] for run in runs.values()]
        right = sum(s["hops"][h]["right"] for s in stops for h in hops)
        of = sum(run["of"] for run in runs.values()) * len(hops)
        means = [np.mean([s["hops"][h]["iterations"] for s in stops]) for h in shown]
        rho = np.mean([s["spearman"] for s in stops])
        lines.append(f"| {rule} | {right / of:.3f} | {rho:.2f} | {' | '.join(f'{m:.1f}' for m in means)} |")
    return "\n".join(lines) + "\n"


SECOND = {
    "cold": "first decision",
    "warm": "second, from the first one's scratchpad",
    "cold_hidden": "from a drawn scratchpad, the trail but its end hidden",
    "warm_hidden": "from the first one's scratchpad, the trail but its end hidden",
}


def _second_table(runs: Mapping[str, Any]) -> str:
    """Right answers and iterations of a second decision."""
    hops = list(next(iter(runs.values()))["second"]["cold"])
    lines = [f"| decision: right, mean r | {' | '.join(f'{h} hops' for h in hops)} |", "|---" * (len(hops) + 1) + "|"]
    of = sum(run["of"] for run in runs.values())
    for name, title in SECOND.items():
        entries = {h: [run["second"][name][h] for run in runs.values()] for h in hops}
        cells = [
            f"{sum(e['right'] for e in es) / of:.2f}, {np.mean([e['iterations'] for e in es]):.1f}" for es in entries.values()
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _recipes_table(results: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    lines = [
        f"| recipe | seeds | levels mastered | step of level 0, 1, {LAST_TRAINED} | r = 1, 0 hops "
        f"| r = {COMPARED_DEPTH}: 0 hops | 2 | {LAST_TRAINED} | 8 | head's parameters | training |",
        "|---" * 11 + "|",
    ]
    for name, runs in results.items():
        if not runs:
            continue
        levels = [max((int(level) for level in run["mastered"]), default=-1) for run in runs.values()]
        steps = [
            "/".join(str(run["mastered"].get(level, "-")) for run in runs.values()) for level in ("0", "1", str(LAST_TRAINED))
        ]
        cells = [f"{share(runs, '0', 1):.2f}"]
        cells += [_over_seeds(runs, h) for h in ("0", "2", str(LAST_TRAINED), "8")]
        reached = "/".join("none" if level < 0 else f"0..{level}" for level in levels)
        run = next(iter(runs.values()))
        seconds = np.mean([run["seconds"] for run in runs.values()])
        lines.append(
            f"| {titles[name]} | {len(runs)} | {reached} | {', '.join(steps)} | {' | '.join(cells)} "
            f"| {run['parameters']:,} | {seconds:.0f} s |"
        )
    return "\n".join(lines) + "\n"


def _over_seeds(runs: Mapping[str, Any], hops: str) -> str:
    """Mean, and the range of the seeds where there are several."""
    values = [share({"": run}, hops, COMPARED_DEPTH) for run in runs.values()]
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f}..{max(values):.2f})"


def plot(data: Mapping[str, Any], path: Path) -> None:
    """Of the first recipe."""
    results = data["results"]
    plot_runs(results[SHOWN if SHOWN in results else next(iter(results))], path)


def plot_runs(runs: Mapping[str, Any], path: Path) -> None:
    """Heat map of hops x iterations; mean iterations of the stopping rules over hops."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained")
    hops = list(next(iter(runs.values()))["fixed"])
    _heat(left, np.array([[share(runs, h, depth) for depth in DEPTHS] for h in hops]), hops)
    for rule in next(iter(runs.values()))["rules"]:
        means = [np.mean([run["rules"][rule]["hops"][h]["iterations"] for run in runs.values()]) for h in hops]
        right.plot([int(h) for h in hops], means, "o-", ms=3, label=rule)
    right.plot([int(h) for h in hops], [int(h) + 1 for h in hops], "k:", label="hops + 1")
    right.axvline(LAST_TRAINED + 0.5, color="grey", ls="--", lw=1)
    right.set(xlabel="hops", ylabel="iterations, mean", title="where the stopping rules stop")
    right.legend(frameon=False, fontsize=8)
    right.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _heat(axes: plt.Axes, shares: np.ndarray, hops: Sequence[str]) -> None:
    image = axes.imshow(shares, vmin=0.0, vmax=1.0, cmap="viridis", aspect="auto", origin="lower")
    for i, row in enumerate(shares):
        for j, value in enumerate(row):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="black" if value > 0.6 else "white")
    axes.axhline(LAST_TRAINED + 0.5, color="red", lw=1.5)
    axes.text(len(DEPTHS) - 0.55, LAST_TRAINED + 0.55, "never trained", color="red", fontsize=8, ha="right", va="bottom")
    axes.set(xlabel="iterations", ylabel="hops", title="share of right answers", xticks=range(len(DEPTHS)))
    axes.set_xticklabels(DEPTHS)
    axes.set(yticks=range(len(hops)))
    axes.set_yticklabels(hops)
    axes.figure.colorbar(image, ax=axes)
