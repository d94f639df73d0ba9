"""Training of the head: whole motions at the start and on the way, there from the scratchpad that the decision before left."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rdvla_ros.learning.config import DepthSampler
from rdvla_ros.learning.evaluation.trail_policy.lessons import COLD_SHARE, Lessons, Named, PadTokens, TrailBatch, encode_trail
from rdvla_ros.learning.evaluation.trail_policy.paths import END_S
from rdvla_ros.learning.training.recurrence import unroll
from rdvla_ros.model.context import HeadContext
from rdvla_ros.model.head import RDVLAHead

LONGEST_TRAINED = 5  # hops


@dataclass(frozen=True)
class Settings:
    """batch: scenes of a step. decoded: states of a decision that are decoded and supervised. seen_share: of the batches are
    of real pictures, once the eye can see. late_s: early_share of the later decisions are made sooner than that."""

    steps: int = 1000
    batch: int = 64
    decoded: int = 3
    seen_share: float = 0.6
    backprop_depth: int = 6
    learning_rate: float = 1e-3
    naming_weight: float = 0.1
    late_s: float = 1.2
    early_share: float = 0.3
    depth: DepthSampler = DepthSampler(mean=5.0, shallow_fraction=0.0, limit=24)


@dataclass
class Progress:
    step: int = 0
    seconds: float = 0.0


class Trainer:
    """Head and symbol tokens; the backbone stands still. naming: the helper of an earlier training (None: a fresh one)."""

    def __init__(
        self,
        head: RDVLAHead,
        tokens: PadTokens,
        named: Named | None,
        lessons: Lessons,
        settings: Settings,
        seed: int = 0,
        naming: nn.Linear | None = None,
    ):
        self.head, self.tokens, self.named, self.lessons = head, tokens, named, lessons
        self.settings, self.seed = settings, seed
        width = head.config.hidden_dim
        self.naming = nn.Linear(width, 2 * width) if naming is None else naming
        self.modules = {"head": head, "tokens": tokens, "naming": self.naming}
        parameters = [p for module in self.modules.values() for p in module.parameters() if p.requires_grad]
        self._parameters = parameters
        self.optimiser = torch.optim.AdamW(
            parameters, lr=settings.learning_rate, weight_decay=0.01, betas=(0.9, 0.95), fused=True
        )
        self.progress = Progress()
        self.average = {name: tensor.detach().clone() for name, tensor in head.state_dict().items()}

    def take_step(self) -> dict[str, float]:
        settings, progress, began = self.settings, self.progress, time.perf_counter()
        rng = np.random.default_rng((self.seed, progress.step))
        with sdpa_kernel(SDPBackend.MATH):
            losses = self._losses(rng)
            total = sum(losses.values())
            total.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        left = 3.0 * (1.0 - progress.step / settings.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, (progress.step + 1) / 50, max(0.03, left))
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        progress.step += 1
        share = min(0.998, (1 + progress.step) / (10 + progress.step))
        for name, tensor in self.head.state_dict().items():
            self.average[name].lerp_(tensor, 1.0 - share)
        progress.seconds += time.perf_counter() - began
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        batch, seen_later = self.batch(rng)
        depth, generator = self.settings.depth.draw(rng), torch.Generator().manual_seed(int(rng.integers(2**62)))
        losses = {}
        context, targets = self._context(batch, rng)
        states = unroll(
            self.head, context, self.head.initial_state(len(batch.start), generator), depth, self.settings.backprop_depth
        )
        first = depth - len(states)
        losses["start"] = self._decoded(context, states, targets, batch, first, rng)
        losses["naming"] = self.settings.naming_weight * self._named(batch, states, first)
        losses["way"] = self._way(batch, seen_later, states[-1].detach(), depth, rng, generator)
        return losses

    def batch(self, rng: np.random.Generator) -> tuple[TrailBatch, TrailBatch | None]:
        """Scenes at the start, and where they are real pictures the same with an arm on its way."""
        count, longest = self.settings.batch, LONGEST_TRAINED
        if self.lessons.tokens is not None and rng.random() < self.settings.seen_share:
            return self.lessons.seen(rng, count, longest)
        lengths = rng.integers(0, longest + 1, count)
        return self.lessons.symbols(rng, np.where(rng.random(count) < 0.3, longest, lengths)), None

    def _context(self, batch: TrailBatch, rng: np.random.Generator) -> tuple[HeadContext, Tensor]:
        position = self.lessons.position(batch, rng)
        targets = self.lessons.targets(batch, position, self.head.config.chunk_length)
        return encode_trail(self.head, self.tokens, self.named, batch, self.lessons.proprio(position)), targets

    def _decoded(
        self,
        context: HeadContext,
        states: list[Tensor],
        targets: Tensor,
        batch: TrailBatch,
        first: int | None,
        rng: np.random.Generator,
    ) -> Tensor:
        """Loss over some of the states. first: iterations before the first state; None: all lead to the end."""
        chosen = sorted({*rng.permutation(len(states))[: self.settings.decoded - 1].tolist(), len(states) - 1})
        rows, losses = torch.arange(len(batch.start)), []
        for i in chosen:
            chunk = self.head.decode(context, states[i])
            pads = batch.pad_after(10**6 if first is None else first + i)
            losses.append((chunk - targets[rows, pads]).abs().mean())
        return torch.stack(losses).mean()

    def _named(self, batch: TrailBatch, states: list[Tensor], first: int) -> Tensor:
        """Cross entropy of the colours of the pad reached and of its mark, named from the scratchpad."""
        rows = torch.arange(len(batch.start))
        found = self.naming(torch.stack([state.mean(1) for state in states])).unflatten(-1, (2, -1))
        logits = found @ self.tokens.colours.weight.T
        pads = torch.stack([batch.pad_after(first + i) for i in range(len(states))])
        named = torch.stack([pads, batch.following[rows, pads]], 2)
        known = (batch.start < len(batch.route[0]))[None, :, None].expand_as(named)
        return nn.functional.cross_entropy(logits[known], named[known])

    def _way(
        self,
        batch: TrailBatch,
        seen: TrailBatch | None,
        state: Tensor,
        depth: int,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> Tensor:
        """A later decision: from the scratchpad that earlier ones left, or (rarely) from a drawn one with every pad in view."""
        head, count = self.head, len(batch.start)
        early, late_s = rng.random(count) < self.settings.early_share, self.settings.late_s
        drawn = np.where(early, rng.uniform(0.1, late_s, count), rng.uniform(late_s, END_S + 0.5, count))
        time_s = torch.from_numpy(drawn).float() if seen is None else seen.time_s
        if rng.random() < COLD_SHARE:
            later = self.lessons.on_the_way(batch, rng, time_s) if seen is None else seen
            later = later if seen is not None else replace(later, hidden=torch.zeros_like(later.hidden))
            context, targets = self._context(later, rng)
            states = unroll(head, context, head.initial_state(count, generator), depth, self.settings.backprop_depth)
            return self._decoded(context, states, targets, later, depth - len(states), rng)
        with torch.no_grad():
            context, _ = self._context(batch, rng)
            for k in range(depth, int(batch.lengths.max()) + 2):
                state = head.iterate(context, state, k)
            for _ in range(int(rng.integers(0, 3))):  # decisions in between
                between = self.lessons.on_the_way(batch, rng, time_s * float(rng.uniform(0.2, 0.9)))
                context, _ = self._context(between, rng)
                for k in range(int(rng.integers(2, 4))):
                    state = head.iterate(context, state, k)
        later = self.lessons.on_the_way(batch, rng, time_s) if seen is None else seen
        context, targets = self._context(later, rng)
        states = unroll(head, context, state, int(rng.integers(1, 4)), self.settings.backprop_depth)
        return self._decoded(context, states, targets, later, None, rng)

    def save(self, path: Path) -> None:
        state: dict[str, Any] = {name: module.state_dict() for name, module in self.modules.items()}
        state |= {"optimiser": self.optimiser.state_dict(), "progress": vars(self.progress), "average": self.average}
        part = path.with_name(f".{path.name}")
        torch.save(state, part)
        os.replace(part, path)

    def restore(self, path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state[name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.progress, self.average = Progress(**state["progress"]), state["average"]
