"""Tables and plots of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdvla_ros.control.supervision.calibration import least_runs
from rdvla_ros.control.supervision.signals import PLACEBOS
from rdvla_ros.learning.evaluation.uncertainty.rows import ALPHAS, POOLED

CONVERGENCE = ("refinement_residual", "iterations", "residual_area", "iterate_variance", "scratchpad_spread")


def tables(result: Mapping[str, Any]) -> str:
    """Markdown."""
    return "\n\n".join([_counts(result["counts"]), _ranking(result), *(_alarms(result, alpha) for alpha in ALPHAS)]) + "\n"


def _counts(counts: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| task | perturbation | fit: failed of | test: failed of |", "|---|---|---|---|"]
    for task, kind in dict.fromkeys((row["task"], row["kind"]) for row in counts):
        found = {row["part"]: row for row in counts if (row["task"], row["kind"]) == (task, kind)}
        cells = [f"{found[p]['failures']} of {found[p]['episodes']}" if p in found else "-" for p in ("fit", "test")]
        lines.append(f"| {task} | {kind} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def _ranking(result: Mapping[str, Any]) -> str:
    parts = result["parts"]
    lines = [f"| score (test part, runs cut to the task's shortest) | {' | '.join(parts)} |", "|---" * (len(parts) + 1) + "|"]
    for row in result["rows"]:
        sign = "" if row["sign"] > 0 else " (low)"
        cells = [_auroc(row["auroc"][part]) for part in parts]
        lines.append(f"| {_name(row['score'])}{sign} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _name(score: str) -> str:
    plain = score.replace("_", " ")
    return f"*{plain}* (placebo)" if score in PLACEBOS else plain


def _auroc(cell: Mapping[str, Any]) -> str:
    if cell["auroc"] is None:
        return f"- ({cell['failures']} failures)"
    low, high = cell["interval"]
    return f"{cell['auroc']:.2f} ({low:.2f}..{high:.2f})"


def _alarms(result: Mapping[str, Any], alpha: float) -> str:
    lines = [
        f"| score, threshold for {alpha:.0%} false alarms | false alarms, nominal | failures caught | in time | alarms per clean "
        "episode | per minute | median time from alarm to the end |",
        "|---|---|---|---|---|---|---|",
    ]
    if not any(row["alarms"][str(alpha)]["caught"][1] for row in result["rows"]):
        few = f"fewer than {least_runs(alpha)} nominal successes of each task in the fit part"
        return f"No threshold for {alpha:.0%} false alarms: {few}."
    for row in result["rows"]:
        cell = row["alarms"][str(alpha)]
        if not cell["caught"][1] or cell["alarms_per_clean_episode"] is None:
            continue
        ahead = "-" if cell["ahead_s"] is None else f"{cell['ahead_s']:.1f} s"
        lines.append(
            f"| {_name(row['score'])} | {_share(cell['false'])} | {_share(cell['caught'])} | {_share(cell['caught_early'])} "
            f"| {cell['alarms_per_clean_episode']:.2f} | {cell['alarms_per_clean_minute']:.1f} | {ahead} |"
        )
    return "\n".join(lines)


def _share(cell: Sequence[int]) -> str:
    count, of = cell
    return f"{count} of {of} ({count / of:.0%})" if of else "-"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """AUROC of every score with its interval, pooled and on perturbations that nothing was fitted on."""
    import matplotlib.pyplot as plt

    rows = [row for row in result["rows"] if "/" not in row["score"] and row["auroc"][POOLED]["auroc"] is not None]
    rows.sort(key=lambda row: row["auroc"][POOLED]["auroc"])
    figure, axes = plt.subplots(figsize=(9, 0.42 * len(rows) + 1.6), layout="constrained")
    for offset, part, marker in ((0.14, POOLED, "o"), (-0.14, "unseen perturbations", "s")):
        for y, row in enumerate(rows):
            cell = row["auroc"][part]
            if cell["auroc"] is None:
                continue
            low, high = cell["interval"]
            axes.plot([low, high], [y + offset] * 2, color=_colour(row["score"]), lw=2, alpha=0.5)
            axes.plot(cell["auroc"], y + offset, marker, color=_colour(row["score"]), mfc="white" if marker == "s" else None)
    axes.axvline(0.5, color="0.5", lw=1, ls=":")
    axes.axvline(0.85, color="0.5", lw=1, ls="--")
    axes.set(yticks=range(len(rows)), yticklabels=[_label(row) for row in rows], xlim=(0.2, 1.0))
    axes.set(xlabel="AUROC of failed against successful runs, 95 % bootstrap\ncircle: all; square: unseen perturbations only")
    handles = [
        plt.Line2D([], [], color=colour, marker="o", ls="", label=label)
        for label, colour in (("convergence", "C0"), ("motion, latents", "C2"), ("learned", "C1"), ("placebo", "0.5"))
    ]
    axes.legend(handles=handles, loc="lower right", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _label(row: Mapping[str, Any]) -> str:
    return row["score"].replace("_", " ") + ("" if row["sign"] > 0 else " (low)")


def _colour(score: str) -> str:
    if score in PLACEBOS:
        return "0.5"
    return "C0" if score in CONVERGENCE else "C1" if " " in score else "C2"
