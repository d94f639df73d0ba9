"""One training process: model, optimiser, moving average, and the step they take together."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from rdvla_ros.learning.config import COMPACT, TrainConfig, TrainingError
from rdvla_ros.learning.data.augment import Batch, BatchMaker
from rdvla_ros.learning.data.dataset import Frames, shuffled_batch
from rdvla_ros.learning.training.adapters import adapt, fingerprint, learning, merged
from rdvla_ros.learning.training.auxiliary import AuxiliaryHead, auxiliary_loss
from rdvla_ros.learning.training.build import build_model
from rdvla_ros.learning.training.initialise import initialise
from rdvla_ros.learning.training.parallel import Team
from rdvla_ros.learning.training.recurrence import chunk_loss, unroll
from rdvla_ros.learning.training.sharding import Shards
from rdvla_ros.learning.training.validation import error_by_depth
from rdvla_ros.model.checkpoint import Checkpoint
from rdvla_ros.model.normalization import ActionSpace
from rdvla_ros.model.prompt_tokenizer import PromptTokenizer
from rdvla_ros.model.rdvla import RDVLA
from rdvla_ros.model.tokenizer import WordTokenizer

AUXILIARY_PHASES = 16  # names the phase head has room for


@dataclass
class StepResult:
    """loss: of the chunk at the last iteration. depth: iterations made. gradient_norm: before clipping."""

    loss: float
    auxiliary: float
    depth: int
    gradient_norm: float
    learning_rate: float


class Trainer:
    """Everything random in a step follows from (seed, step, rank), so a resumed run takes the very steps of an unbroken one."""

    def __init__(
        self,
        config: TrainConfig,
        space: ActionSpace,
        tokenizer: WordTokenizer | PromptTokenizer,
        team: Team,
        device: str | torch.device = "cpu",
        begin_with: Checkpoint | None = None,
    ):
        """begin_with: whose weights are taken where they fit."""
        torch.manual_seed(config.seed)
        self.device = usable_device(device)
        self.config, self.space, self.tokenizer, self.team = config, space, tokenizer, team
        width = len(space.relative)
        self.model = build_model(config, tokenizer, width, space)
        if begin_with is not None:
            initialise(self.model, space, tokenizer, begin_with)
        adapt(self.model.backbone, config.tuning, narrow=config.precision == "bfloat16")
        if config.tuning.checkpointing:
            self.model.backbone.save_activations(False)
        self.model.to(self.device)
        if config.model.backbone == COMPACT:
            self.model.to(memory_format=torch.channels_last)
        self.auxiliary = AuxiliaryHead(self.model.backbone.hidden_dim, width, AUXILIARY_PHASES).to(self.device)
        # What does not learn is the same in the averaged model, and there once.
        shared = {id(p): p for p in self.model.parameters() if not p.requires_grad}
        self.average = copy.deepcopy(self.model, shared).requires_grad_(False).eval()
        self.followed = list(learning(self.model))
        self.frozen = fingerprint(self.model)
        self.shards = Shards(self.model, self.average, team) if config.tuning.shard else None
        self.parameters = [*learning(self.model).values(), *self.auxiliary.parameters()]
        self.optimiser = torch.optim.AdamW(
            _groups(self.parameters, config.weight_decay),
            lr=config.learning_rate,
            betas=config.betas,
            fused=True,
        )
        self.step = 0

    def take_step(self, frames: Frames, usable: np.ndarray, maker: BatchMaker) -> StepResult:
        """One optimiser step on this process's share of the batch."""
        config, step = self.config, self.step
        indices = usable[shuffled_batch(len(usable), step, config.batch_size, config.seed)]
        batch = maker.make(
            indices[self.team.rank :: self.team.size], np.random.default_rng((config.seed, step, 1, self.team.rank))
        )
        common = np.random.default_rng((config.seed, step, 2))
        depth = config.depth.draw(common)
        self.model.train()
        with self._attention():  # the backward pass too: it may compute blocks again
            loss, auxiliary = self._losses(batch.to(self.device), depth, common)
            (loss[0] + config.auxiliary_weight * auxiliary).backward()
        norm = self._gather_and_clip()
        if not torch.isfinite(norm):
            raise TrainingError(f"Step {step}: the gradient is not finite. Lower learning_rate, or resume from the last save.")
        rate = config.learning_rate_at(step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        if self.together:
            if config.average_every > 1:
                states = [self.optimiser.state[p] for p in self.parameters]
                moments = [state[name] for state in states if state for name in ("exp_avg", "exp_avg_sq")]
                self.team.average([*self.parameters, *moments])
            self._follow()
        return StepResult(float(loss[1]), float(auxiliary.detach()), depth, float(norm), rate)

    def _gather_and_clip(self) -> torch.Tensor:
        """Gradients of all processes, clipped; their norm before that."""
        limit = self.config.clip_norm
        if self.shards is not None:
            return self.shards.gather_and_clip(self.parameters, limit)
        if self.config.average_every == 1:
            self.team.average_gradients(self.parameters)
        return torch.nn.utils.clip_grad_norm_(self.parameters, limit)

    @property
    def together(self) -> bool:
        """All processes hold the same weights now, so that a save means the whole run."""
        return self.step % self.config.average_every == 0

    def _losses(self, batch: Batch, depth: int, rng: np.random.Generator):
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)) + self.team.rank)
        head, config = self.model.head, self.config
        with self._precision():
            task, latents = self.model.backbone(batch.images, batch.input_ids, head.config.context_layers)
            context = head.encode(task, latents, batch.proprio, batch.sensors)
            state = head.initial_state(len(batch.proprio), generator)
            states = unroll(head, context, state, depth, config.backprop_depth)
            early = int(rng.integers(len(states))) if len(states) > 1 else None
            loss = chunk_loss(head, context, states, batch.target, early, config.early_weight)
            top = latents[max(head.config.context_layers)]
            auxiliary = auxiliary_loss(self.auxiliary, top, batch.far, batch.phase)
        return loss, auxiliary

    def _attention(self):
        # The written-out attention: its backward pass is several times as fast on a CPU at these sizes.
        return sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else contextlib.nullcontext()

    def _precision(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    @torch.no_grad()
    def _follow(self) -> None:
        """Exponential moving average of the weights; short at first, so that it forgets the initial ones."""
        decay = min(self.config.ema_decay, self.step / (9 + self.step)) ** self.config.average_every
        average, model = (dict(part.named_parameters()) for part in (self.average, self.model))
        ours, theirs = ([_local(part[name]) for name in self.followed] for part in (average, model))
        torch._foreach_lerp_(ours, theirs, 1.0 - decay)

    def validate(self, maker: BatchMaker, indices: np.ndarray, depths: Sequence[int] = (1, 2, 4, 8, 16)) -> dict[int, float]:
        """Mean absolute error (normalised) of the averaged weights at several depths."""
        with self._precision():
            return error_by_depth(self.average, maker, indices, depths)

    def policy_model(self) -> RDVLA | None:
        """The averaged weights as a model to be saved, merged. Sharded: every process has to ask, rank 0 gets it."""
        model = self.average if self.shards is None else self.shards.whole(self.average)
        if model is None or self.config.tuning.plain:
            return model
        return RDVLA(merged(model.backbone), model.head)

    def state(self) -> dict:
        """To resume from; of what learns only. Sharded: every process has to ask."""
        if self.shards is not None:
            parts = self.shards.state(self.model, self.average, self.optimiser)
        else:
            parts = {name: _only(getattr(self, name).state_dict(), self.followed, self.frozen) for name in ("model", "average")}
            parts["optimiser"] = self.optimiser.state_dict()
        return {"step": self.step, "auxiliary": self.auxiliary.state_dict(), "frozen": self.frozen, **parts}

    def restore(self, state: dict) -> None:
        frozen = state.get("frozen", 0.0)
        if abs(frozen - self.frozen) > 1e-6 * max(frozen, self.frozen):
            raise TrainingError(
                "The saved run learnt beside other frozen weights than these of model.pretrained. Resume with the folder and "
                "the section 'tuning' it was started with, or start another run."
            )
        try:
            self.auxiliary.load_state_dict(state["auxiliary"])
            if self.shards is not None:
                self.shards.restore(self.model, self.average, self.optimiser, state)
            else:
                for name in ("model", "average"):
                    part, saved = getattr(self, name), state[name]
                    missing = [key for key in self.followed if key not in saved]
                    if missing:
                        raise KeyError(f"it learnt nothing of {missing[0]}.")
                    part.load_state_dict({**part.state_dict(), **saved})
                self.optimiser.load_state_dict(state["optimiser"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise TrainingError(
                f"The saved run has a model of other sizes than this configuration: {str(error).splitlines()[-1].strip()} "
                "Resume with the configuration it was started with, or start another run with --initialise."
            ) from error
        self.step = state["step"]


def _groups(parameters: Sequence[torch.nn.Parameter], decay: float) -> list[dict]:
    """Matrices decay, what has one dimension does not; divided parameters are groups of their own."""
    kinds = [(sharded, matrix) for sharded in (False, True) for matrix in (True, False)]
    found = {kind: [p for p in parameters if (hasattr(p, "to_local"), p.ndim >= 2) == kind] for kind in kinds}
    return [{"params": members, "weight_decay": decay * kind[1]} for kind, members in found.items() if members]


def _only(weights: dict[str, torch.Tensor], names: Sequence[str], frozen: float) -> dict[str, torch.Tensor]:
    """All where everything learns, so that buffers are in it; else what learns."""
    return {name: weights[name] for name in names} if frozen else weights


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """This process' part of a sharded one."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def usable_device(name: str | torch.device) -> torch.device:
    """TrainingError where this machine does not have it."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        count = torch.cuda.device_count()
        found = f"{count} CUDA devices" if count else "no CUDA device"
        raise TrainingError(
            f"device '{name}': expected cpu or cuda, this machine has {found} ({error}). Try --device cpu."
        ) from error
    return device


def save_state(path: Path, state: dict) -> None:
    """Whole or not at all: a full disk leaves the previous save in place."""
    part = path.with_name(f".{path.name}.part")
    try:
        torch.save(state, part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        raise TrainingError(f"{path} could not be written: {error}. The previous save is untouched.") from error


def load_state(path: Path) -> dict:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names a dozen types here
        raise TrainingError(f"{path} is not a readable training state ({error}). Start again without --resume.") from error
