"""Training of one head for three tasks, on what a backbone that stands still has seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rdvla_ros.learning.evaluation.three_tasks.observed import Observed
from rdvla_ros.learning.evaluation.trail_policy.lessons import Lessons, PadTokens, TrailBatch
from rdvla_ros.learning.evaluation.trail_policy.training import Settings, Trainer
from rdvla_ros.learning.training.recurrence import unroll
from rdvla_ros.model.context import HeadContext
from rdvla_ros.model.head import RDVLAHead

TOKEN_NOISE = 0.04  # of symbols, beside what the eye makes of a picture
AT_START_S = 0.15


class WideTrainer(Trainer):
    """Trails for a head whose context holds more: tokens of other views, of scenes drawn at random. They tell nothing of a trail.

    directions (C, S): where the symbols' width lies in the context's. around: observations of trails, two of each scene.
    """

    def __init__(
        self,
        head: RDVLAHead,
        tokens: PadTokens,
        lessons: Lessons,
        settings: Settings,
        naming: nn.Linear,
        directions: Tensor,
        around: Observed,
        seed: int = 0,
    ):
        tokens.requires_grad_(False)
        super().__init__(head, tokens, None, lessons, settings, seed, naming)
        self.directions, self.around = directions, around

    def _context(self, batch: TrailBatch, rng: np.random.Generator) -> tuple[HeadContext, Tensor]:
        position = self.lessons.position(batch, rng)
        targets = self.lessons.targets(batch, position, self.head.config.chunk_length)
        pads = batch.seen
        if pads is None:
            pads = self.tokens.pads(batch.following, batch.places, batch.hidden)
            pads = pads + TOKEN_NOISE * torch.from_numpy(rng.standard_normal(pads.shape)).float()
        extra = torch.cat([pads, self.tokens.start(batch.start)], 1) @ self.directions.T
        rows = 2 * rng.integers(len(self.around) // 2, size=len(extra)) + np.asarray(batch.time_s > AT_START_S)
        task, latents = self.around.states(torch.from_numpy(rows), self.head.config.context_layers)
        latents = {layer: torch.cat([part, extra], 1) for layer, part in latents.items()}
        return self.head.encode(task, latents, self.lessons.proprio(position), check=False), targets


@dataclass(frozen=True)
class KnownSettings:
    """batch: observations of the tasks that are known; weight: of their loss. noise: on what the joints say, normalised.
    carried_share: of the batches that begin from the scratchpad of the decision before. depths: drawn from evenly."""

    batch: int = 32
    weight: float = 3.0
    noise: float = 0.01
    carried_share: float = 0.6
    depths: tuple[int, ...] = (1, 2, 2, 3, 4, 6)
    backprop_depth: int = 3
    teacher_iterations: int = 4


class Teacher:
    """The head that knows them: its chunk, for any joints, from what its own backbone saw. extra: tokens it does not know."""

    def __init__(self, head: RDVLAHead, extra: int, settings: KnownSettings):
        self.head, self.extra, self.settings = head.eval().requires_grad_(False), extra, settings

    @torch.no_grad()
    def chunk(self, task: dict[int, Tensor], latents: dict[int, Tensor], proprio: Tensor, generator: torch.Generator) -> Tensor:
        known = {layer: part[:, : part.shape[1] - self.extra] for layer, part in latents.items()}
        context = self.head.encode(task, known, proprio, check=False)
        state = self.head.initial_state(len(proprio), generator)
        for k in range(self.settings.teacher_iterations):
            state = self.head.iterate(context, state, k)
        return self.head.decode(context, state)


class JointTrainer(WideTrainer):
    """Trails, and beside them the tasks of a teacher. It asks for the same of every state; the trail's targets go hop by hop."""

    def teach(self, teacher: Teacher, known: Observed, order: Tensor) -> None:
        """order: rows of `known`, as often as they are to come up."""
        self.teacher, self.known, self.order = teacher, known, order

    def _losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        return {**super()._losses(rng), "known": self.teacher.settings.weight * self._known(rng)}

    def _known(self, rng: np.random.Generator) -> Tensor:
        settings, head = self.teacher.settings, self.head
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        rows = self.order[torch.from_numpy(rng.integers(len(self.order), size=settings.batch))]
        noise = settings.noise * torch.from_numpy(rng.standard_normal((settings.batch, head.config.proprio_dim))).float()
        task, latents, proprio = self._observation(rows, noise)
        target = self.teacher.chunk(task, latents, proprio, generator)
        state = head.initial_state(settings.batch, generator)
        if rng.random() < settings.carried_share:
            with torch.no_grad():
                context = head.encode(*self._observation(self.known.before[rows]), check=False)
                for k in range(int(rng.integers(2, 5))):
                    state = head.iterate(context, state, k)
        context = head.encode(task, latents, proprio, check=False)
        states = unroll(head, context, state, int(rng.choice(settings.depths)), settings.backprop_depth)
        chosen = sorted({len(states) - 1, int(rng.integers(len(states)))})
        return torch.stack([(head.decode(context, states[i]) - target).abs().mean() for i in chosen]).mean()

    def _observation(self, rows: Tensor, noise: Tensor | float = 0.0) -> tuple[dict[int, Tensor], dict[int, Tensor], Tensor]:
        task, latents = self.known.states(rows, self.head.config.context_layers)
        return task, latents, (self.lessons.proprio(self.known.positions[rows]) + noise).clamp(-1.0, 1.0)

    @torch.no_grad()
    def error(self, head: RDVLAHead, rows: Tensor, iterations: int = 3) -> float:
        """Mean distance to the teacher's chunk, normalised."""
        generator = torch.Generator().manual_seed(0)
        task, latents, proprio = self._observation(rows)
        target = self.teacher.chunk(task, latents, proprio, generator)
        context, state = head.encode(task, latents, proprio, check=False), head.initial_state(len(rows), generator)
        for k in range(iterations):
            state = head.iterate(context, state, k)
        return float((head.decode(context, state) - target).abs().mean())
