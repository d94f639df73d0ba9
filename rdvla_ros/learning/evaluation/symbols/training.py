"""Training on symbols: a curriculum of trail lengths, and the target of each iteration."""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rdvla_ros.learning.config import DepthSampler, TrainingError
from rdvla_ros.learning.evaluation.symbols.reader import ReaderConfig, SymbolReader
from rdvla_ros.learning.evaluation.symbols.scenes import SymbolScenes, draw_scenes
from rdvla_ros.learning.training.recurrence import unroll

MASTERED = 0.9
WARMUP_STEPS = 100
SAVE_EVERY_S = 30.0


@dataclass(frozen=True)
class Recipe:
    """How a reader is trained.

    title: in tables.
    reader: sizes of the reader and its head.
    depth: iterations of a batch.
    backprop_depth: iterations that carry gradient.
    partial: after iteration k the chunk is to lead to the pad after k - 1 hops (a signal of training only); else every chunk that
        is supervised, the last one, is to lead to the end.
    naming_weight: with partial targets, a helper of training only, which is to name the colour of that pad and of its mark from
        the scratchpad: cross entropy against the chunk's error.
    early_weight: with the final target only, loss of one shallower state against the last one's.
    curriculum: lengths come in one by one, the next when the present one is right in 90 %; else all at once.
    first_level, last_level: shortest and longest trails that are trained.
    """

    title: str = "default"
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    depth: DepthSampler = DepthSampler(mean=5.0, shallow_fraction=0.0, limit=24)
    backprop_depth: int = 6
    partial: bool = True
    naming_weight: float = 0.1
    early_weight: float = 0.0
    curriculum: bool = True
    first_level: int = 0
    last_level: int = 5
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.01

    def described(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class SymbolTrainer:
    """Everything random in a step follows from (seed, step), so a resumed run takes the steps of an unbroken one."""

    def __init__(self, recipe: Recipe, seed: int, steps: int):
        torch.manual_seed(seed)
        self.recipe, self.seed, self.steps, self.step = recipe, seed, steps, 0
        head = recipe.reader.head_config(recipe.backprop_depth)
        self.reader = SymbolReader(recipe.reader, head)
        self.naming = torch.nn.Linear(recipe.reader.width, 2 * recipe.reader.width)
        parameters = [*self.reader.parameters(), *self.naming.parameters()]
        self.optimiser = torch.optim.AdamW(
            parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.95), fused=True
        )
        self.level = recipe.first_level if recipe.curriculum else recipe.last_level
        self.rate = 0.0  # of right answers at `level`, a moving average
        self.mastered: dict[int, int] = {}  # level -> step
        self.seconds = 0.0

    def take_step(self) -> float:
        """One optimiser step; its loss."""
        recipe, began = self.recipe, time.perf_counter()
        rng = np.random.default_rng((self.seed, self.step))
        scenes, depth = draw_scenes(rng, self._lengths(rng), recipe.reader.pads), recipe.depth.draw(rng)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        loss, last = self._loss(scenes, depth, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.reader.parameters(), 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.learning_rate * self._schedule()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self._follow(scenes, depth, last)
        self.seconds += time.perf_counter() - began
        return float(loss.detach())

    def _lengths(self, rng: np.random.Generator) -> np.ndarray:
        """Any length up to the present level, and a third of that level."""
        first, count = self.recipe.first_level, self.recipe.batch_size
        lengths = rng.integers(first, self.level + 1, count)
        return np.where(rng.random(count) < 0.3, self.level, lengths) if self.recipe.curriculum else lengths

    def _schedule(self) -> float:
        left = 3.0 * (1.0 - self.step / self.steps)
        return min(1.0, (self.step + 1) / WARMUP_STEPS, max(0.05, left))

    def _loss(self, scenes: SymbolScenes, depth: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(loss, the last chunk)."""
        recipe, head = self.recipe, self.reader.head
        context = self.reader.encode(scenes)
        states = unroll(head, context, head.initial_state(len(scenes.own), generator), depth, recipe.backprop_depth)
        if not recipe.partial:
            chunks = [head.decode(context, states[-1])]
            loss = (chunks[-1] - scenes.target(10**6)).abs().mean()
            if recipe.early_weight and len(states) > 1:
                early = int(torch.randint(len(states) - 1, (), generator=generator))
                sooner = (head.decode(context, states[early]) - scenes.target(10**6)).abs().mean()
                loss = (loss + recipe.early_weight * sooner) / (1.0 + recipe.early_weight)
            return loss, chunks[-1].detach()
        first = depth - len(states)
        chunks = [head.decode(context, state) for state in states]
        errors = [(chunk - scenes.target(first + i)).abs().mean() for i, chunk in enumerate(chunks)]
        loss = torch.stack(errors).mean()
        if recipe.naming_weight:
            loss = loss + recipe.naming_weight * self._naming_loss(scenes, states, first)
        return loss, chunks[-1].detach()

    def _naming_loss(self, scenes: SymbolScenes, states: list[Tensor], first: int) -> Tensor:
        """Cross entropy of the colours that the scratchpads name, by the embedding that pads, marks and words share."""
        found = self.naming(torch.stack([state.mean(1) for state in states])).unflatten(-1, (2, -1))  # (states, B, 2, D)
        logits = found @ self.reader.colours.weight.T
        pads = torch.stack([scenes.pad_after(first + i) for i in range(len(states))])
        rows = torch.arange(pads.shape[1])
        named = torch.stack([scenes.own[rows, pads], scenes.following[rows, pads]], 2)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 2), named.flatten())

    def _follow(self, scenes: SymbolScenes, depth: int, last: Tensor) -> None:
        """The curriculum: only depths that suffice for the level say whether it is mastered."""
        of_level = scenes.lengths == self.level
        if depth > self.level and bool(of_level.any()):
            self.rate = 0.97 * self.rate + 0.03 * float(scenes.right(last)[of_level].float().mean())
        if self.rate > MASTERED and self.level not in self.mastered:
            self.mastered[self.level] = self.step
            if self.recipe.curriculum and self.level < self.recipe.last_level:
                self.level, self.rate = self.level + 1, 0.0

    def state(self) -> dict[str, Any]:
        return {
            "reader": self.reader.state_dict(),
            "naming": self.naming.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "numbers": [self.step, self.level, self.rate, self.seconds],
            "mastered": self.mastered,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.reader.load_state_dict(state["reader"])
        self.naming.load_state_dict(state["naming"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.level, self.rate, self.seconds = state["numbers"]
        self.mastered = dict(state["mastered"])


def train(recipe: Recipe, seed: int, steps: int, path: Path) -> SymbolTrainer:
    """A trained reader; saved at `path` on the way, and taken up from there."""
    trainer = SymbolTrainer(recipe, seed, steps)
    if path.is_file():
        _resume(trainer, path)
    saved, losses = time.monotonic(), []
    progress = tqdm(total=steps, initial=trainer.step, desc=f"{recipe.title}, seed {seed}", unit="step", mininterval=1.0)
    while trainer.step < steps:
        losses.append(trainer.take_step())
        progress.update()
        progress.set_postfix_str(f"level {trainer.level}, right {trainer.rate:.2f}, loss {np.mean(losses[-50:]):.3f}", False)
        if time.monotonic() - saved > SAVE_EVERY_S or trainer.step == steps:
            _save(trainer, path)
            saved = time.monotonic()
    progress.close()
    return trainer


def _save(trainer: SymbolTrainer, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    settings = {"recipe": repr(trainer.recipe.described()), "seed": trainer.seed, "steps": trainer.steps}
    torch.save({**settings, **trainer.state()}, part)
    os.replace(part, path)


def _resume(trainer: SymbolTrainer, path: Path) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names a dozen types here
        raise TrainingError(
            f"{path} is not a readable training state ({error}). Remove it, or choose another --output."
        ) from error
    expected = {"recipe": repr(trainer.recipe.described()), "seed": trainer.seed, "steps": trainer.steps}
    for key, value in expected.items():
        if state.get(key) != value:
            raise TrainingError(
                f"{path}: expected a run with {key} {value}, got {state.get(key)}. Choose another --output, or remove the file."
            )
    trainer.restore(state)
