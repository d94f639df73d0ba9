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

from rdvla_ros.learning.config import ModelSettings, TrainConfig, TrainingError
from rdvla_ros.learning.data.augment import Batch, BatchMaker
from rdvla_ros.learning.data.dataset import Frames, shuffled_batch
from rdvla_ros.learning.training.auxiliary import AuxiliaryHead, auxiliary_loss
from rdvla_ros.learning.training.initialise import initialise
from rdvla_ros.learning.training.parallel import Team
from rdvla_ros.learning.training.recurrence import chunk_loss, unroll
from rdvla_ros.learning.training.validation import error_by_depth
from rdvla_ros.model.backbones.base import Backbone
from rdvla_ros.model.backbones.compact import CompactBackbone, CompactConfig
from rdvla_ros.model.backbones.families import family
from rdvla_ros.model.backbones.vlm_loading import vlm_from_folder, vlm_tokenizer
from rdvla_ros.model.checkpoint import Checkpoint
from rdvla_ros.model.config import HeadConfig
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.normalization import ActionSpace
from rdvla_ros.model.prompt_tokenizer import PromptTokenizer
from rdvla_ros.model.rdvla import RDVLA
from rdvla_ros.model.tokenizer import WordTokenizer

COMPACT = "compact"
AUXILIARY_PHASES = 16  # names the phase head has room for


def make_tokenizer(config: TrainConfig, instructions: Sequence[str]) -> WordTokenizer | PromptTokenizer:
    """The words of the instructions, or the pretrained model's own tokenizer in its prompt."""
    sizes = config.model
    if sizes.backbone == COMPACT:
        return WordTokenizer.from_instructions(instructions, sizes.max_words)
    return vlm_tokenizer(_pretrained(sizes), sizes.backbone, sizes.cameras)


def _pretrained(sizes: ModelSettings) -> Path:
    family(sizes.backbone)  # an unknown name is the first thing to say
    if not Path(sizes.pretrained).is_dir() or not sizes.pretrained:
        raise TrainingError(
            f"model.pretrained: expected a folder with config.json and safetensors for backbone '{sizes.backbone}', got "
            f"'{sizes.pretrained}'. Nothing is downloaded here."
        )
    return Path(sizes.pretrained)


def _backbone(config: TrainConfig, tokenizer: WordTokenizer | PromptTokenizer) -> Backbone:
    sizes = config.model
    if sizes.backbone != COMPACT:
        read = tuple(sorted({*sizes.prelude_layers, *sizes.core_layers, *sizes.coda_layers}))
        return vlm_from_folder(_pretrained(sizes), sizes.backbone, sizes.cameras, read, sizes.latent_queries)
    return CompactBackbone(
        CompactConfig(
            cameras=sizes.cameras,
            vocabulary_size=tokenizer.size,
            hidden_dim=sizes.hidden_dim,
            num_heads=sizes.num_heads,
            num_layers=sizes.backbone_layers,
            mlp_ratio=sizes.mlp_ratio,
            latent_queries=sizes.latent_queries,
            text_tokens=sizes.text_tokens,
            max_words=sizes.max_words,
        )
    )


def build_model(config: TrainConfig, tokenizer: WordTokenizer | PromptTokenizer, action_dim: int) -> RDVLA:
    """A fresh model, or a fresh head on a pretrained backbone; torch's global generator decides what is fresh."""
    sizes, backbone = config.model, _backbone(config, tokenizer)
    head = RDVLAHead(
        HeadConfig(
            hidden_dim=sizes.hidden_dim,
            num_heads=sizes.num_heads,
            prelude_layers=sizes.prelude_layers,
            core_layers=sizes.core_layers,
            coda_layers=sizes.coda_layers,
            chunk_length=sizes.chunk_length,
            action_dim=action_dim,
            proprio_dim=action_dim,
            mean_recurrence=max(1, round(config.depth.mean)),
            backprop_depth=config.backprop_depth,
            ffn_multiple=sizes.ffn_multiple,
            context_dim=None if backbone.hidden_dim == sizes.hidden_dim else backbone.hidden_dim,
        )
    )
    return RDVLA(backbone, head)


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
        self, config: TrainConfig, space: ActionSpace, tokenizer: WordTokenizer, team: Team, device: str | torch.device = "cpu"
    ):
        torch.manual_seed(config.seed)
        self.device = usable_device(device)
        self.config, self.space, self.tokenizer, self.team = config, space, tokenizer, team
        width = len(space.relative)
        self.model = build_model(config, tokenizer, width).to(self.device)
        if config.model.backbone == COMPACT:
            self.model.to(memory_format=torch.channels_last)
        self.auxiliary = AuxiliaryHead(self.model.backbone.hidden_dim, width, AUXILIARY_PHASES).to(self.device)
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.parameters = [*self.model.parameters(), *self.auxiliary.parameters()]
        matrices = [p for p in self.parameters if p.ndim >= 2]
        others = [p for p in self.parameters if p.ndim < 2]
        self.optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
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
        loss, auxiliary = self._losses(batch.to(self.device), depth, common)
        (loss[0] + config.auxiliary_weight * auxiliary).backward()
        if config.average_every == 1:
            self.team.average_gradients(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.clip_norm)
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

    @property
    def together(self) -> bool:
        """All processes hold the same weights now, so that a save means the whole run."""
        return self.step % self.config.average_every == 0

    def _losses(self, batch: Batch, depth: int, rng: np.random.Generator):
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)) + self.team.rank)
        head, config = self.model.head, self.config
        with self._attention(), self._precision():
            task, latents = self.model.backbone(batch.images, batch.input_ids, head.config.context_layers)
            context = head.encode(task, latents, batch.proprio)
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
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1.0 - decay)

    def validate(self, maker: BatchMaker, indices: np.ndarray, depths: Sequence[int] = (1, 2, 4, 8, 16)) -> dict[int, float]:
        """Mean absolute error (normalised) of the averaged weights at several depths."""
        with self._precision():
            return error_by_depth(self.average, maker, indices, depths)

    def begin_with(self, source: Checkpoint) -> list[str]:
        """The weights of another checkpoint where they fit; the names of those that stay fresh."""
        fresh = initialise(self.model, self.space, self.tokenizer, source)
        self.average.load_state_dict(self.model.state_dict())
        return fresh

    def state(self) -> dict:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "auxiliary": self.auxiliary.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def restore(self, state: dict) -> None:
        try:
            for name in ("model", "auxiliary", "average"):
                getattr(self, name).load_state_dict(state[name])
            self.optimiser.load_state_dict(state["optimiser"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise TrainingError(
                f"The saved run has a model of other sizes than this configuration: {str(error).splitlines()[-1].strip()} "
                "Resume with the configuration it was started with, or start another run with --initialise."
            ) from error
        self.step = state["step"]


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
