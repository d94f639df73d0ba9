"""The model for three tasks: the known backbone and beside it the view and the words of the trails; scales, vocabulary, rules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from rdvla_ros.learning.evaluation.three_tasks.direct_sum import Sizes, direct_sum
from rdvla_ros.learning.evaluation.trail_policy.build import VIEW
from rdvla_ros.learning.evaluation.trail_policy.eye import instruction_ids
from rdvla_ros.learning.evaluation.trail_policy.lessons import PadTokens
from rdvla_ros.model.backbones.compact import CompactBackbone
from rdvla_ros.model.checkpoint import Checkpoint
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.normalization import ActionSpace, Scaler
from rdvla_ros.model.rdvla import RDVLA
from rdvla_ros.model.tokenizer import FIRST_WORD, UNKNOWN, WordTokenizer
from rdvla_ros.sim.tasks.follow_trail import COLOURS, INSTRUCTION
from rdvla_ros.sim.trails import PADS

HALTING = {"rule": "action_change", "threshold": 1e-5, "max_iterations": 24}
START = {"start": "carried"}
TEXT_STEPS = 500


def common_space(known: ActionSpace, trails: ActionSpace) -> ActionSpace:
    """Joints as far as either goes; actions as the known tasks scale them."""
    low = np.minimum(known.proprio.low, trails.proprio.low)
    high = np.maximum(known.proprio.high, trails.proprio.high)
    return ActionSpace(known.relative, Scaler(low, high), known.action, known.action_std)


def nothing_to_do(space: ActionSpace) -> Tensor:
    """(A,) normalised: arms stay where they are, grippers are closed."""
    return torch.from_numpy(space.action.normalise(np.zeros(len(space.relative)))).float()


@torch.no_grad()
def rescale_proprio(head: RDVLAHead, before: Scaler, after: Scaler) -> None:
    """The head reads joints scaled by `after` as it read them scaled by `before`."""
    factor = torch.from_numpy((after.high - after.low) / (before.high - before.low)).float()
    shift = torch.from_numpy(before.normalise(after.denormalise(np.zeros(len(after.low))))).float()
    first = head.proprio.fc1
    first.bias.add_(first.weight @ shift)
    first.weight.mul_(factor)


def free_directions(latents: Tensor, count: int) -> Tensor:
    """(N, C) tokens -> (C, count) orthonormal: where they are smallest. What is put there is hardly in their way."""
    return torch.linalg.eigh(latents.T @ latents / len(latents)).eigenvectors[:, :count].contiguous()


def extended_backbone(
    known: Checkpoint, trails: Checkpoint, tokens: PadTokens, directions: Tensor, instructions: tuple[str, ...]
) -> tuple[CompactBackbone, WordTokenizer]:
    """The known backbone, to the last number where it was; the trails' view beside it, its tokens turned into `directions`.

    Words that it did not know are to its own text pool what unknown words are. The trails' text token: the symbols' for the
    colour named, and for the other `instructions` that of no colour.
    """
    words = [*instructions, *(INSTRUCTION.format(colour) for colour in COLOURS)]
    old, tokenizer = known.model.backbone, WordTokenizer.from_instructions(words, known.tokenizer.max_words)
    config = replace(old.config, cameras=(*old.config.cameras, VIEW), vocabulary_size=tokenizer.size, head_text_tokens=1)
    backbone = CompactBackbone(config)
    state = backbone.state_dict()
    for name, value in old.state_dict().items():
        if name != "text.words.weight":
            state[name].copy_(value)
    at = {word: FIRST_WORD + i for i, word in enumerate(known.tokenizer.vocabulary)}
    ids = [0, UNKNOWN, *(at.get(word, UNKNOWN) for word in tokenizer.vocabulary)]
    state["text.words.weight"].copy_(old.state_dict()["text.words.weight"][ids])
    _put_stem(backbone.stems[VIEW.name], trails.model.backbone.stems[VIEW.name], directions)
    _teach_words(backbone.text.beside, tokenizer, tokens, directions, instructions)
    return backbone.eval().requires_grad_(False), tokenizer


@torch.no_grad()
def _put_stem(stem: nn.Module, source: nn.Module, directions: Tensor) -> None:
    """A narrower stem in the corner of a wider one."""
    state = stem.state_dict()
    for name, value in source.state_dict().items():
        target = state[name]
        value = directions @ value if name.startswith("project.2.") else value
        if target.shape != value.shape:
            target.zero_()
        target[tuple(slice(0, size) for size in value.shape)] = value


def _teach_words(
    pool: nn.Module, tokenizer: WordTokenizer, tokens: PadTokens, directions: Tensor, instructions: tuple[str, ...]
) -> None:
    batches = [instruction_ids(tokenizer), *(torch.tensor([tokenizer.encode(text)]) for text in instructions)]
    with torch.no_grad():
        named = torch.tensor([*range(PADS + 1), *[PADS] * len(instructions)])
        wanted = tokens.start(named).squeeze(1) @ directions.T
    optimiser = torch.optim.Adam(pool.parameters(), lr=5e-3)
    for step in range(TEXT_STEPS):
        found = torch.cat([pool(ids)[:, 0] for ids in batches])
        error = (found - wanted).square().sum(1) / wanted[:PADS].var(0).sum()
        optimiser.zero_grad()
        error.mean().backward()
        optimiser.param_groups[0]["lr"] = 5e-3 * (1.0 - step / TEXT_STEPS)
        optimiser.step()


def joined_head(known: RDVLAHead, wide: RDVLAHead, sizes: Sizes, directions: Tensor, space: ActionSpace) -> RDVLAHead:
    """The direct sum, in which the known half does not read the trails' tokens yet."""
    width = known.config.hidden_dim
    head = direct_sum(known, wide, sizes, nothing_to_do(space))
    with torch.no_grad():
        for layer in (*head.prelude, *head.core, *head.coda):
            for part in layer.kv_latents.weight.chunk(2):
                part[:width] -= part[:width] @ directions @ directions.T
    return head


def checkpoint_of(known: Checkpoint, backbone: CompactBackbone, head: RDVLAHead, tokenizer: WordTokenizer, space: ActionSpace,
                  notes: dict) -> Checkpoint:  # fmt: skip
    """One rule of halting and of the horizon for every task."""
    return replace(
        known, model=RDVLA(backbone, head), space=space, tokenizer=tokenizer, halting=HALTING, start=START, training=notes
    )
