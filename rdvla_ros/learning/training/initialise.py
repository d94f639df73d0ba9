"""Begin a training with the weights of another checkpoint: another task, data set, picture size or vocabulary.

What the numbers going in and out mean changes with the data's scaling, so the first map of proprioception and the last map of
the actions are rewritten: the new model computes what the old one did, in the new scale.
"""

from __future__ import annotations

import torch

from rdvla_ros.learning.config import TrainingError
from rdvla_ros.model.checkpoint import Checkpoint
from rdvla_ros.model.normalization import ActionSpace, Scaler
from rdvla_ros.model.rdvla import RDVLA
from rdvla_ros.model.tokenizer import FIRST_WORD, WordTokenizer

WORDS = "backbone.text.words.weight"
PROPRIO, OUTPUT = "head.proprio.fc1", "head.output"


@torch.no_grad()
def initialise(model: RDVLA, space: ActionSpace, tokenizer: WordTokenizer, source: Checkpoint) -> list[str]:
    """Copy the weights of `source` into `model`; the names of the tensors that keep their fresh values.

    Word embeddings go by word. A tensor of another shape (positions of another picture size) stays fresh. TrainingError where the
    robot's joints differ, or hardly anything fits.
    """
    if source.space.relative.shape != space.relative.shape or (source.space.relative != space.relative).any():
        raise TrainingError(
            f"Initial checkpoint: expected {len(space.relative)} joints with the same relative ones as this run, got "
            f"{len(source.space.relative)}. Choose a checkpoint of this robot and action representation."
        )
    target, weights, fresh = model.state_dict(), source.model.state_dict(), []
    rescale(weights, source.space, space)
    for name, tensor in target.items():
        if name == WORDS and name in weights and weights[name].shape[1] == tensor.shape[1]:
            _copy_words(tensor, tokenizer, weights[name], source.tokenizer)
        elif name in weights and weights[name].shape == tensor.shape:
            tensor.copy_(weights[name])
        else:
            fresh.append(name)
    if len(fresh) > len(target) // 2:
        raise TrainingError(
            f"Initial checkpoint: {len(target) - len(fresh)} of {len(target)} tensors fit this model, the first that does not is "
            f"'{fresh[0]}'. Choose the sizes of the checkpoint (its manifest.json: model), or train from scratch."
        )
    return fresh


def _copy_words(target: torch.Tensor, tokenizer: WordTokenizer, source: torch.Tensor, old: WordTokenizer) -> None:
    target[:FIRST_WORD] = source[:FIRST_WORD]
    rows = {word: FIRST_WORD + i for i, word in enumerate(old.vocabulary)}
    for i, word in enumerate(tokenizer.vocabulary):
        if word in rows:
            target[FIRST_WORD + i] = source[rows[word]]


def rescale(weights: dict[str, torch.Tensor], old: ActionSpace, new: ActionSpace) -> None:
    """In place on copies of the four tensors that touch scaled numbers. Old value = scale * new value + shift, per joint."""
    scale, shift = (torch.from_numpy(x).float() for x in _affine(new.proprio, old.proprio))
    weight, bias = weights[f"{PROPRIO}.weight"], weights[f"{PROPRIO}.bias"]
    weights[f"{PROPRIO}.weight"], weights[f"{PROPRIO}.bias"] = weight * scale, bias + weight @ shift
    scale, shift = (torch.from_numpy(x).float() for x in _affine(old.action, new.action))
    weight, bias = weights[f"{OUTPUT}.weight"], weights[f"{OUTPUT}.bias"]
    repeats = len(bias) // len(scale)  # several steps per row lie one after the other
    scale, shift = scale.repeat(repeats), shift.repeat(repeats)
    weights[f"{OUTPUT}.weight"], weights[f"{OUTPUT}.bias"] = weight * scale[:, None], bias * scale + shift


def _affine(source: Scaler, target: Scaler) -> tuple:
    """(scale, shift), each (A,): a number normalised by `source` times scale plus shift is the same normalised by `target`."""
    width = target.high - target.low
    return (source.high - source.low) / width, (source.high + source.low - target.high - target.low) / width
