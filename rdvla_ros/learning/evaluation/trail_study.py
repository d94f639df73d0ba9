"""`rdvla study trail`: success over the hops of a trail and the iterations of the head, and where halting rules stop.

Every setting has a folder of its own below --output, as `rdvla evaluate` writes it; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rdvla_ros.learning.evaluation.evaluate import EvaluationConfig, add_options, evaluate
from rdvla_ros.learning.evaluation.rollout import RolloutConfig
from rdvla_ros.learning.evaluation.symbols.measure import spearman
from rdvla_ros.robot import shipped_policy
from rdvla_ros.sim.tasks.follow_trail import LONGEST_DRAWN
from rdvla_ros.sim.trails import LONGEST

DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 32)
SHIPPED = "the checkpoint's rule"
RULES: Mapping[str, Mapping[str, Any] | None] = {
    SHIPPED: None,
    "change 1e-3": {"rule": "action_change", "threshold": 1e-3, "max_iterations": 24},
    "change 1e-5": {"rule": "action_change", "threshold": 1e-5, "max_iterations": 24},
    "two-hit 1e-4": {"rule": "two_hit", "threshold": 1e-4, "max_iterations": 24},
    "KL 1e-4": {"rule": "action_kl", "threshold": 1e-4, "max_iterations": 24},
    "cosine 0.9999": {"rule": "action_cosine", "threshold": 0.9999, "max_iterations": 24},
}


def halting_of(name: str) -> Mapping[str, Any] | None:
    """r=<iterations>, or a name of RULES."""
    return {"rule": "fixed", "iterations": int(name[2:])} if name.startswith("r=") else RULES[name]


def measured(data: Mapping[str, Any]) -> dict[str, Any]:
    """Of `evaluate`'s report: what the tables need. The first decision is made before the hand has moved."""
    episodes = data["episodes"]
    return {
        "success": data["success"],
        "first": [episode["iterations"][0] for episode in episodes],
        "decisions": data["decisions"],
        "head_ms": float(np.mean([sum(episode["head_ms"]) for episode in episodes])),
    }


def matrix(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Markdown: success over hops and depth. results: setting -> hops -> `measured`."""
    depths = [name for name in results if name.startswith("r=")]
    lines = [f"| hops | {' | '.join(name.replace('=', ' = ') for name in depths)} |", "|---" * (len(depths) + 1) + "|"]
    for hops in next(iter(results.values())):
        cells = [f"{results[name][hops]['success']['count']} of {results[name][hops]['success']['of']}" for name in depths]
        lines.append(f"| {_title(hops)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def rules_table(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Markdown: what each halting rule does at each length, and over all of them."""
    names = [name for name in results if not name.startswith("r=")]
    lines = [f"| hops | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for hops in results[names[0]] if names else ():
        cells = []
        for name in names:
            success, first = results[name][hops]["success"], results[name][hops]["first"]
            low, high = (100 * bound for bound in success["wilson95"])
            cells.append(f"{success['count']} of {success['of']} ({low:.0f}..{high:.0f} %), r {np.mean(first):.1f}")
        lines.append(f"| {_title(hops)} | {' | '.join(cells)} |")
    if names:
        lines.append(f"| Spearman of hops and iterations | {' | '.join(f'{rank(results[name]):.2f}' for name in names)} |")
    return "\n".join(lines) + "\n"


def rank(by_hops: Mapping[str, Mapping[str, Any]]) -> float:
    """Spearman's rank correlation over the first decisions."""
    pairs = np.array([(int(hops), iterations) for hops, row in by_hops.items() for iterations in row["first"]])
    return spearman(pairs[:, 0], pairs[:, 1])


def _title(hops: str) -> str:
    return hops if int(hops) <= LONGEST_DRAWN else f"{hops} (never trained)"


def plot(results: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    depths = [name for name in results if name.startswith("r=")]
    if depths:
        hops = list(results[depths[0]])
        rates = [[results[name][h]["success"]["count"] / results[name][h]["success"]["of"] for name in depths] for h in hops]
        image = left.imshow(rates, origin="lower", aspect="auto", vmin=0.0, vmax=1.0, cmap="viridis")
        left.set(xticks=range(len(depths)), xticklabels=[name[2:] for name in depths], yticks=range(len(hops)), yticklabels=hops)
        left.set(xlabel="iterations", ylabel="hops", title="success, every decision that deep")
        left.axhline(LONGEST_DRAWN + 0.5, color="white", linestyle=":")
        figure.colorbar(image, ax=left)
    for name in (name for name in results if not name.startswith("r=")):
        hops = sorted(results[name], key=int)
        means = [np.mean(results[name][h]["first"]) for h in hops]
        right.plot([int(h) for h in hops], means, marker="o", label=name)
    right.axvline(LONGEST_DRAWN + 0.5, color="grey", linestyle=":")
    right.set(
        xlabel="hops (never trained right of the line)", ylabel="iterations of the first decision", title="where the rules stop"
    )
    right.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    names = [*(f"r={r}" for r in DEPTHS), *RULES]
    parser = argparse.ArgumentParser(
        prog="rdvla study trail", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.set_defaults(time_limit=4.0)
    parser.add_argument("--episodes", type=int, default=20, help="per length and setting")
    parser.add_argument("--lengths", type=int, nargs="+", default=range(LONGEST + 1), choices=range(LONGEST + 1), help="hops")
    parser.add_argument("--only", nargs="+", metavar="SETTING", choices=names, default=names, help=f"of {', '.join(names)}")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    checkpoint = arguments.checkpoint or shipped_policy("follow_trail")
    base = EvaluationConfig(checkpoint, "follow_trail", arguments.robot, rollout=RolloutConfig(arguments.time_limit))
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.episodes)
    path = arguments.output / "trail.json"
    results: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name in arguments.only:
        for hops in arguments.lengths:
            place = arguments.output / name.replace("'", "").replace(" ", "_") / f"{hops}_hops"
            config = replace(base, task=f"follow_trail:{hops}", halting=halting_of(name))
            data = evaluate(config, seeds, arguments.workers, place)
            results.setdefault(name, {})[str(hops)] = measured(data)
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    shown = {name: results[name] for name in names if name in results}
    text = f"{matrix(shown)}\n{rules_table(shown)}"
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    plot(shown, path.with_suffix(".png"))
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
