"""`rdvla study symbols`: the recurrent head learns to follow trails of pads, given as symbols; minutes on one core.

Each pad is a token: its colour, the colour of the pad to go to next, its place, the hand that reaches it. The instruction names
the colour of the start. The head is to press the end. Trails of 0 to 5 hops are trained, up to 8 are measured: the share of right
answers after 1 .. 32 iterations, and where the stopping rules stop. Stopped anywhere, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rdvla_ros.learning.config import TrainingError
from rdvla_ros.learning.evaluation.symbols.measure import measure, second_decisions
from rdvla_ros.learning.evaluation.symbols.recipes import RECIPES
from rdvla_ros.learning.evaluation.symbols.report import SHOWN, plot, tables
from rdvla_ros.learning.evaluation.symbols.training import Recipe, train
from rdvla_ros.types import nearest_names

STEPS = 2000
NAME = "symbols"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="rdvla study symbols", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", default=["default"], help=f"recipes, of {', '.join(RECIPES)}; or all")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch-size", type=int, default=RECIPES["default"].batch_size)
    parser.add_argument("--scenes", type=int, default=512, help="per length, for the measurement")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True, help="folder; what is there is not run again")
    arguments = parser.parse_args(argv)
    names = list(RECIPES) if arguments.variants == ["all"] else arguments.variants
    for name in names:
        if name not in RECIPES:
            raise TrainingError(f"variant '{name}'. {nearest_names(name, RECIPES)}")
    for name in ("seeds", "steps", "batch_size", "scenes", "threads"):
        if getattr(arguments, name) < 1:
            raise TrainingError(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(arguments, name)}.")
    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    recipes = {name: replace(RECIPES[name], batch_size=arguments.batch_size) for name in names}
    jobs = [(name, seed) for seed in range(arguments.seeds) for name in names]
    print(run(recipes, jobs, arguments.steps, arguments.scenes, arguments.output))
    return 0


def run(recipes: dict[str, Recipe], jobs: Sequence[tuple[str, int]], steps: int, scenes: int, folder: Path) -> str:
    """Every job that `folder` does not have yet; the tables."""
    path = folder / f"{NAME}.json"
    settings = {"steps": steps, "scenes": scenes, "batch_size": next(iter(recipes.values())).batch_size}
    data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {**settings, "results": {}}
    for key, value in settings.items():
        if data[key] != value:
            raise TrainingError(f"{path}: its runs had {key} {data[key]}, these have {value}. Choose another --output.")
    for name, seed in jobs:
        runs = data["results"].setdefault(name, {})
        if str(seed) in runs:
            continue
        trainer = train(recipes[name], seed, steps, folder / "runs" / f"{name}_{seed}.pt")
        row = {"mastered": trainer.mastered, "seconds": round(trainer.seconds), "parameters": _parameters(trainer.reader.head)}
        if name == SHOWN:
            row["second"] = second_decisions(trainer.reader, scenes)
        runs[str(seed)] = _with_text_keys({**row, **measure(trainer.reader, scenes)})
        _write(path, data)
    text = tables(data, {name: recipe.title for name, recipe in RECIPES.items()})
    (folder / f"{NAME}.md").write_text(text, encoding="utf-8")
    plot(data, folder / f"{NAME}.png")
    return text


def _parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _with_text_keys(values: Any) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(values))


def _write(path: Path, data: dict[str, Any]) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


if __name__ == "__main__":
    raise SystemExit(main())
