"""`rdvla study pictures`: what a head trained on symbols does with pictures of the task's scenes.

1. Pictures of scenes at the start of an episode, seeds 30000.. ; seeds 0..99 of every length are measured and never trained.
2. The camera stem of the compact backbone learns to make the tokens that the symbol reader makes, its weights frozen.
3. Head and seen tokens are trained together for a while on trails of 0 to 5 hops (the stem frozen, its tokens computed once).
Stopped anywhere, the same command goes on. It needs the run of `rdvla study symbols`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from rdvla_ros.learning.config import TrainingError
from rdvla_ros.learning.evaluation.pictures.scenes import Pictures, pictures_of
from rdvla_ros.learning.evaluation.pictures.seeing import PictureReader, seeing_loss
from rdvla_ros.learning.evaluation.symbols.measure import DEPTHS, LIMIT, spearman
from rdvla_ros.learning.evaluation.symbols.recipes import RECIPES
from rdvla_ros.learning.evaluation.symbols.training import SymbolTrainer
from rdvla_ros.learning.training.recurrence import unroll
from rdvla_ros.model.halting import make_halting
from rdvla_ros.sim.tasks.follow_trail import trail_scene
from rdvla_ros.sim.trails import LONGEST

FIRST_SEED, HELD_OUT = 30000, 100
NAME = "pictures"
SAVE_EVERY_STEPS = 50
RULES = {
    "change 1e-3": {"rule": "action_change", "threshold": 1e-3},
    "change 1e-4": {"rule": "action_change", "threshold": 1e-4},
    "two-hit 1e-3": {"rule": "two_hit", "threshold": 1e-3},
    "two-hit 1e-4": {"rule": "two_hit", "threshold": 1e-4},
}


def load_symbols(path: Path, name: str):
    """The reader of a run of `rdvla study symbols`."""
    if not path.is_file():
        raise TrainingError(
            f"{path}: expected a run of 'rdvla study symbols', found nothing. Run it first, or name another --symbols."
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    trainer = SymbolTrainer(replace(RECIPES[name], batch_size=1), state["seed"], state["steps"])
    trainer.reader.load_state_dict(state["reader"])
    return trainer.reader


class Run:
    """One run with its two stages; everything random follows from the stage and the step."""

    def __init__(self, symbols_path: Path, recipe: str, folder: Path):
        torch.manual_seed(0)
        self.reader = PictureReader(load_symbols(symbols_path, recipe))
        self.folder, self.recipe = folder, RECIPES[recipe]
        self.path = folder / "run.pt"
        self.stage, self.step = 0, 0
        self.log: list[list[float]] = []
        self._begin()
        if self.path.is_file():
            self._resume()

    def _begin(self) -> None:
        reader = self.reader
        seeing = [*reader.stem.parameters(), *reader.project.parameters()]
        self.trained = seeing if self.stage == 0 else [*reader.symbols.parameters(), *reader.project.parameters()]
        rate = 2e-3 if self.stage == 0 else 1e-3
        self.rate, self.optimiser = rate, torch.optim.AdamW(self.trained, lr=rate, weight_decay=0.01, betas=(0.9, 0.95))

    def train(self, pictures: Pictures, stage: int, steps: int, batch_size: int) -> None:
        """One stage, to its end; nothing where it is over already."""
        if self.stage != stage:
            return
        tokens = None if stage == 0 else self.tokens(pictures)
        title = ("seeing", "following")[stage]
        progress = tqdm(total=steps, initial=self.step, desc=title, unit="step", mininterval=2.0)
        while self.step < steps:
            rng = np.random.default_rng((stage, self.step))
            indices = rng.integers(len(pictures), size=batch_size)
            with sdpa_kernel(SDPBackend.MATH):
                loss, shown = self._loss(pictures, tokens, indices, rng)
                loss.backward()
            self._update(self.step / steps)
            self.log.append([stage, self.step, round(shown, 5)])
            progress.update()
            progress.set_postfix_str(f"{np.mean([row[2] for row in self.log[-20:]]):.4f}", refresh=False)
            if self.step % SAVE_EVERY_STEPS == 0:
                self._save()
        progress.close()
        self.stage, self.step = stage + 1, 0
        self._begin()
        self._save()

    def _update(self, done: float) -> None:
        """done: share of the stage's steps."""
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * min(1.0, (self.step + 1) / 50, max(0.02, 3.0 * (1.0 - done)))
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1

    def _loss(self, pictures: Pictures, features: Tensor | None, indices, rng) -> tuple[Tensor, float]:
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        if features is None:
            loss, unexplained = seeing_loss(self.reader, pictures, indices, generator)
            return loss, float(unexplained)
        scenes = pictures.symbols(indices, short_starts(pictures, indices, rng))
        depth, head = self.recipe.depth.draw(rng), self.reader.head
        context = self.reader.encode_tokens(self.reader.project(features[indices]), scenes.start)
        state = head.initial_state(len(indices), generator)
        states = unroll(head, context, state, depth, self.recipe.backprop_depth)
        first = depth - len(states)
        errors = [(head.decode(context, s) - scenes.target(first + i)).abs().mean() for i, s in enumerate(states)]
        loss = torch.stack(errors).mean()
        return loss, float(loss.detach())

    @torch.no_grad()
    def tokens(self, pictures: Pictures) -> Tensor:
        """(N, 10, D) features of the frozen stem."""
        parts = torch.arange(len(pictures)).split(100)
        images = (pictures.images[part].float() / 127.5 - 1.0 for part in parts)
        stem = self.reader.stem.eval()
        found = [stem(x.contiguous(memory_format=torch.channels_last))[:, : pictures.places.shape[1]] for x in images]
        self.reader._maps.clear()
        return torch.cat(found)

    def _save(self) -> None:
        part = self.path.with_name(f".{self.path.name}")
        state = {"reader": self.reader.state_dict(), "optimiser": self.optimiser.state_dict(), "log": self.log}
        torch.save({**state, "stage": self.stage, "step": self.step}, part)
        os.replace(part, self.path)

    def _resume(self) -> None:
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        self.stage, self.step, self.log = state["stage"], state["step"], state["log"]
        self.reader.load_state_dict(state["reader"])
        self._begin()
        self.optimiser.load_state_dict(state["optimiser"])


def short_starts(pictures: Pictures, indices: np.ndarray, rng: np.random.Generator, longest: int = 5) -> np.ndarray:
    """A random start per picture whose trail is one of those that are trained."""
    allowed = pictures.hops()[indices] <= longest
    return np.where(allowed, rng.random(allowed.shape), -1.0).argmax(1)


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
    parser.add_argument("--steps", type=int, nargs=2, default=(800, 500), metavar=("SEEING", "FOLLOWING"))
    parser.add_argument("--batch-sizes", type=int, nargs=2, default=(48, 128), metavar=("SEEING", "FOLLOWING"))
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
    print(path.read_text(encoding="utf-8"))
    return 0


def _parameters(reader: PictureReader) -> int:
    return sum(p.numel() for p in reader.parameters())


def _write(path: Path, results: dict[str, Any], arguments: argparse.Namespace) -> None:
    data = {"pictures": arguments.pictures, "steps": list(arguments.steps), "results": results}
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
