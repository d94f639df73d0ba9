"""The stages of training from pictures: saved on the way, taken up where they stopped."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from rdvla_ros.learning.config import TrainingError
from rdvla_ros.learning.evaluation.pictures.motions import ExpertMotions
from rdvla_ros.learning.evaluation.pictures.moving import as_motions, moving_head
from rdvla_ros.learning.evaluation.pictures.scenes import Pictures
from rdvla_ros.learning.evaluation.pictures.seeing import PictureReader, seeing_loss
from rdvla_ros.learning.evaluation.symbols.reader import SymbolReader
from rdvla_ros.learning.evaluation.symbols.recipes import RECIPES
from rdvla_ros.learning.evaluation.symbols.training import SymbolTrainer
from rdvla_ros.learning.training.recurrence import unroll

STAGES = ("seeing", "following", "moving")
MOVING = STAGES.index("moving")
SAVE_EVERY_STEPS = 50


def load_symbols(path: Path, name: str) -> SymbolReader:
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
    """One run through the stages; everything random follows from the stage and the step."""

    def __init__(self, symbols_path: Path, recipe: str, folder: Path):
        torch.manual_seed(0)
        self.reader = PictureReader(load_symbols(symbols_path, recipe))
        self.motions: ExpertMotions | None = None  # needed from the third stage on
        self.folder, self.recipe = folder, RECIPES[recipe]
        self.path = folder / "run.pt"
        self.stage, self.step = 0, 0
        self.log: list[list[float]] = []
        if self.path.is_file():
            self._resume()

    def _begin(self) -> None:
        """Whose turn it is in this stage."""
        reader = self.reader
        if self.stage == MOVING and reader.head.config.chunk_length == 1:
            torch.manual_seed(MOVING)
            reader.symbols.head = moving_head(reader.head)
        seeing = [*reader.stem.parameters(), *reader.project.parameters()]
        self.trained = seeing if self.stage == 0 else [*reader.symbols.parameters(), *reader.project.parameters()]
        rate = 2e-3 if self.stage == 0 else 1e-3
        self.rate, self.optimiser = rate, torch.optim.AdamW(self.trained, lr=rate, weight_decay=0.01, betas=(0.9, 0.95))

    def train(self, pictures: Pictures, stage: int, steps: int, batch_size: int) -> None:
        """One stage, to its end; nothing where it is over already."""
        if self.stage != stage:
            return
        if self.step == 0:
            self._begin()
        tokens = None if stage == 0 else self.tokens(pictures)
        title = STAGES[stage]
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
        if self.stage == MOVING:
            scenes = as_motions(scenes, self.motions)
        depth, head = self.recipe.depth.draw(rng), self.reader.head
        context = self.reader.encode_tokens(self.reader.project(features[indices]), scenes.start)
        state = head.initial_state(len(indices), generator)
        states = unroll(head, context, state, depth, self.recipe.backprop_depth)
        first = depth - len(states)
        chunks = [head.decode(context, s).flatten(1) for s in states]
        loss = torch.stack([(c - scenes.target(first + i)[:, 0]).abs().mean() for i, c in enumerate(chunks)]).mean()
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
        if self.stage > MOVING:
            self.reader.symbols.head = moving_head(self.reader.head)
        if self.step:
            self._begin()
            self.optimiser.load_state_dict(state["optimiser"])
        self.reader.load_state_dict(state["reader"])


def short_starts(pictures: Pictures, indices: np.ndarray, rng: np.random.Generator, longest: int = 5) -> np.ndarray:
    """A random start per picture whose trail is one of those that are trained."""
    allowed = pictures.hops()[indices] <= longest
    return np.where(allowed, rng.random(allowed.shape), -1.0).argmax(1)
