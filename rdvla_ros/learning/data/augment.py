"""Batches for the network, and what is varied in them at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rdvla_ros.learning.config import Augmentation
from rdvla_ros.learning.data.dataset import Frames
from rdvla_ros.model.normalization import ActionSpace
from rdvla_ros.model.prompt_tokenizer import PADDING, PromptTokenizer
from rdvla_ros.model.tokenizer import UNKNOWN, WordTokenizer


@dataclass(frozen=True)
class Batch:
    """images: camera -> (B, 3, h, w) float32 in about -1..1; input_ids (B, N); proprio (B, A); target (B, H, A);
    far (B, A): the last label row, absolute, scaled like proprioception; phase (B,): the expert's; sensors (B, W) or None."""

    images: dict[str, Tensor]
    input_ids: Tensor
    proprio: Tensor
    target: Tensor
    far: Tensor
    phase: Tensor
    sensors: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        images = {name: image.to(device, non_blocking=True) for name, image in self.images.items()}
        rest = (self.input_ids, self.proprio, self.target, self.far, self.phase)
        sensors = None if self.sensors is None else self.sensors.to(device, non_blocking=True)
        return Batch(images, *(tensor.to(device, non_blocking=True) for tensor in rest), sensors)


class BatchMaker:
    """Picks observations out of `frames` and prepares them; with a generator, varied by `augmentation`."""

    def __init__(
        self,
        frames: Frames,
        space: ActionSpace,
        tokenizer: WordTokenizer | PromptTokenizer,
        augmentation: Augmentation,
        chunk_length: int,
    ):
        self.frames, self.space, self.augmentation, self.chunk_length = frames, space, augmentation, chunk_length
        ids = [tokenizer.encode(text) for text in frames.instructions]
        self.words = tokenizer.kind == WordTokenizer.kind  # others have no id that stands for any word
        self.word_ids = np.full((len(ids), max(map(len, ids))), 0 if self.words else PADDING, np.int64)
        for row, words in zip(self.word_ids, ids, strict=True):
            row[slice(len(words)) if self.words else slice(len(row) - len(words), None)] = words

    def make(self, indices: np.ndarray, rng: np.random.Generator | None = None) -> Batch:
        positions = self.frames.positions[indices]
        labels = self.frames.labels[indices]
        target = self.space.encode_targets(labels[:, : self.chunk_length], positions)
        input_ids = self.word_ids[self.frames.instruction_index[indices]]
        if rng is not None:
            # Only what the network sees is noisy: the target stays the one of the true position.
            positions = positions + rng.normal(0.0, self.augmentation.proprio_noise, positions.shape)
            dropped = rng.random(input_ids.shape) < self.augmentation.word_dropout
            input_ids = np.where(dropped & (input_ids != 0), UNKNOWN, input_ids) if self.words else input_ids
        images = {name: self._images(name, indices, rng) for name in self.frames.images}
        proprio = self.space.encode_proprio(positions)
        numbers = (proprio, target, self.space.proprio.normalise(labels[:, -1]))
        phase = torch.from_numpy(self.frames.phase_index[indices])
        sensors = None
        if self.space.sensors is not None:
            sensors = torch.from_numpy(self.space.sensors.encode(self.frames.readings[indices]).astype(np.float32))
        rest = (torch.from_numpy(x.astype(np.float32)) for x in numbers)
        return Batch(images, torch.from_numpy(input_ids), *rest, phase, sensors)

    def _images(self, camera: str, indices: np.ndarray, rng: np.random.Generator | None) -> Tensor:
        pictures = np.ascontiguousarray(self.frames.images[camera][np.sort(indices)][np.argsort(np.argsort(indices))])
        scale, offset = np.full(len(indices), 1 / 127.5, np.float32), np.full(len(indices), -1.0, np.float32)
        if rng is not None:
            pictures = _shifted(pictures, self.augmentation.shift_px.get(camera, 0), rng)
            scale = scale * rng.uniform(1 - self.augmentation.contrast, 1 + self.augmentation.contrast, len(indices)).astype(
                np.float32
            )
            offset = offset + rng.uniform(-self.augmentation.brightness, self.augmentation.brightness, len(indices)).astype(
                np.float32
            )
        tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()  # channels last in memory, as the stems like it
        return tensor * torch.from_numpy(scale).view(-1, 1, 1, 1) + torch.from_numpy(offset).view(-1, 1, 1, 1)


def _shifted(pictures: np.ndarray, largest: int, rng: np.random.Generator) -> np.ndarray:
    """Each picture moved by up to `largest` pixels, its edge repeated."""
    if largest == 0:
        return pictures
    height, width = pictures.shape[1:3]
    padded = np.pad(pictures, ((0, 0), (largest, largest), (largest, largest), (0, 0)), mode="edge")
    starts = rng.integers(0, 2 * largest + 1, (len(pictures), 2))
    return np.stack([image[y : y + height, x : x + width] for image, (y, x) in zip(padded, starts, strict=True)])
