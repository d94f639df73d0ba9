"""`rdvla study pictures`: what a head trained on symbols does with pictures of the task's scenes.

1. Pictures of scenes at the start of an episode, seeds 30000.. ; seeds 0..99 of every length are measured and never trained.
2. Seeing: the camera stem of the compact backbone learns to make the tokens that the symbol reader makes.
3. Following: head and seen tokens learn together on trails of 0 to 5 hops (the stem stands still).
4. Moving: the head's output becomes the expert's whole motion of both arms, in one decision, and is executed in the simulator.
Stopped anywhere, the same command goes on. It needs the run of `rdvla study symbols`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rdvla_ros.learning.evaluation.evaluate import DEFAULT_ROBOT
from rdvla_ros.learning.evaluation.pictures.film import film
from rdvla_ros.learning.evaluation.pictures.motions import motions_of
from rdvla_ros.learning.evaluation.pictures.moving import HALTING, perform
from rdvla_ros.learning.evaluation.pictures.run import MOVING, Run
from rdvla_ros.learning.evaluation.pictures.scenes import pictures_of
from rdvla_ros.learning.evaluation.pictures.seeing import PictureReader
from rdvla_ros.learning.evaluation.symbols.measure import DEPTHS, LIMIT, spearman
from rdvla_ros.learning.evaluation.symbols.recipes import RECIPES
from rdvla_ros.learning.evaluation.symbols.report import hops_table, plot_runs, rules_table
from rdvla_ros.model.halting import make_halting
from rdvla_ros.robot import RobotDescription
from rdvla_ros.sim.scene import AlohaSim
from rdvla_ros.sim.tasks.follow_trail import trail_scene
from rdvla_ros.sim.trails import LONGEST

FIRST_SEED, FIRST_MOTION_SEED, HELD_OUT = 30000, 31000, 100
NAME, FILMED = "pictures", (0, 2, 4, 6, 8)
TITLES = {"seen": "the symbols' head on seen tokens, as it is", "trained": "head and seen tokens trained together"}
RULES = {
    "change 1e-3": {"rule": "action_change", "threshold": 1e-3},
    "change 1e-4": {"rule": "action_change", "threshold": 1e-4},
    "two-hit 1e-3": {"rule": "two_hit", "threshold": 1e-3},
    "two-hit 1e-4": {"rule": "two_hit", "threshold": 1e-4},
}


@torch.no_grad()
def measure(run: Run, folder: Path, count: int) -> dict[str, Any]:
    """As `rdvla study symbols` measures, on the task's own scenes of seeds 0.. of every length."""
    reader, fixed, stops = run.reader.eval(), {}, {name: {} for name in RULES}
    pooled: dict[str, list] = {name: [] for name in RULES}
    for hops in range(LONGEST + 1):
        pictures = pictures_of(range(count), folder / "pictures" / f"length_{hops}.npz", hops)
        starts = starts_of(hops, count)
        scenes = pictures.symbols(np.arange(count), starts)
        context = reader.encode_tokens(reader.project(run.tokens(pictures)), scenes.start)
        state, right = reader.head.initial_state(count, torch.Generator().manual_seed(1)), {}
        for k in range(1, max(DEPTHS) + 1):
            state = reader.head.iterate(context, state, k - 1)
            if k in DEPTHS:
                right[k] = int(scenes.right(reader.head.decode(context, state)).sum())
        fixed[hops] = right
        for name, settings in RULES.items():
            rule = make_halting({**settings, "max_iterations": LIMIT, "evaluate": "every"})
            result = reader.head.refine(context, rule, generator=torch.Generator().manual_seed(1))
            iterations = result.iterations.numpy()
            stops[name][hops] = {
                "right": int(scenes.right(result.actions).sum()),
                "iterations": float(iterations.mean()),
                "deviation": float(iterations.std()),
                "halted": int(result.halted.sum()),
            }
            pooled[name] += [(hops, int(i)) for i in iterations]
    rules = {name: {"hops": stops[name], "spearman": spearman(*np.array(pooled[name]).T)} for name in RULES}
    return json.loads(json.dumps({"of": count, "fixed": fixed, "rules": rules}))


def starts_of(hops: int, count: int) -> np.ndarray:
    return np.array([trail_scene(seed, hops).start for seed in range(count)])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="rdvla study pictures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--symbols", type=Path, required=True, help="runs/<recipe>_<seed>.pt of 'rdvla study symbols'")
    parser.add_argument("--recipe", default="default", choices=sorted(RECIPES), help="of that run")
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--steps", type=int, nargs=3, default=(700, 400, 600), metavar=("SEEING", "FOLLOWING", "MOVING"))
    parser.add_argument("--batch-sizes", type=int, nargs=3, default=(48, 128, 128), metavar=("SEEING", "FOLLOWING", "MOVING"))
    parser.add_argument("--motions", type=int, default=40, help="scenes whose ten pads the expert presses, for the motions")
    parser.add_argument("--episodes", type=int, default=20, help="per length and stopping rule, in the simulator")
    parser.add_argument("--film", type=Path, help="an animated GIF of one episode per length 0, 2, 4, 6, 8, to write at the end")
    parser.add_argument("--film-seed", type=int, default=0, help="its scenes")
    parser.add_argument("--robot", type=Path, default=DEFAULT_ROBOT)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.pictures)
    run = Run(arguments.symbols, arguments.recipe, arguments.output)
    pictures = pictures_of(seeds, arguments.output / "pictures" / "training.npz")
    path = arguments.output / f"{NAME}.json"
    results = json.loads(path.read_text(encoding="utf-8"))["results"] if path.is_file() else {}
    for stage, name in enumerate(("seen", "trained")):
        run.train(pictures, stage, arguments.steps[stage], arguments.batch_sizes[stage])
        if name not in results and run.stage == stage + 1:
            results[name] = {"0": {"parameters": _parameters(run.reader), **measure(run, arguments.output, HELD_OUT)}}
            _write(path, results, arguments)
    robot = RobotDescription.load(arguments.robot)
    seeds = range(FIRST_MOTION_SEED, FIRST_MOTION_SEED + arguments.motions)
    run.motions = motions_of(seeds, robot, arguments.output / "motions.npz")
    run.train(pictures, MOVING, arguments.steps[MOVING], arguments.batch_sizes[MOVING])
    moved = results.setdefault("moved", {name: {} for name in HALTING})
    moved["residual"] = run.motions.residual
    sim = AlohaSim("follow_trail")
    for hops in (hops for hops in range(LONGEST + 1) if str(hops) not in moved[next(iter(HALTING))]):
        for name, entry in perform(sim, run, robot, arguments.output, hops, arguments.episodes).items():
            moved[name][str(hops)] = entry
        _write(path, results, arguments)
    shown = json.loads(path.read_text(encoding="utf-8"))["results"]
    text = "\n".join(f"{hops_table(TITLES[name], shown[name])}\n{rules_table(shown[name])}" for name in TITLES)
    path.with_suffix(".md").write_text(text + "\n" + moved_table(shown["moved"]), encoding="utf-8")
    plot_runs(shown["trained"], path.with_suffix(".png"))
    print(path.with_suffix(".md").read_text(encoding="utf-8"))
    if arguments.film:
        film(sim, run, robot, arguments.output, arguments.film, FILMED, arguments.film_seed)
    return 0


def moved_table(moved: dict[str, Any]) -> str:
    """Markdown: successes in the simulator over hops and stopping rules, with iterations where they differ."""
    lines = [f"| in the simulator | {' | '.join(f'{hops} hops' for hops in range(LONGEST + 1))} |", "|---" * (LONGEST + 2) + "|"]
    for name in HALTING:
        cells = []
        for hops in range(LONGEST + 1):
            entry = moved[name][str(hops)]
            mean = f", r {np.mean(entry['iterations']):.1f}" if len(set(entry["iterations"])) > 1 or name[0] != "r" else ""
            cells.append(f"{entry['success']} of {entry['of']}{mean}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _parameters(reader: PictureReader) -> int:
    return sum(p.numel() for p in reader.parameters())


def _write(path: Path, results: dict[str, Any], arguments: argparse.Namespace) -> None:
    data = {"pictures": arguments.pictures, "steps": list(arguments.steps), "results": results}
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
