"""Resizing as the published checkpoints saw it in training: kernels that widen when shrinking, and the centre crop.

OpenCV's own bicubic takes no account of the scale (it aliases) and uses another kernel, so the weights of each output row are
written out as a small matrix, once per size. Both passes are matrix products.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from rdvla_ros.types import CheckpointError, nearest_names

JPEG_QUALITY = 95


def bicubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.5."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1.0, ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def lanczos3(x: np.ndarray) -> np.ndarray:
    """sinc(x) sinc(x / 3) within 3."""
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


KERNELS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {"bicubic": (bicubic, 2.0), "lanczos3": (lanczos3, 3.0)}


@functools.lru_cache(maxsize=64)
def resize_matrix(kernel: str, source: int, target: int) -> np.ndarray:
    """(target, source) float32: row i holds the weights of the source pixels in output pixel i; each row adds up to 1."""
    function, support = KERNELS[kernel]
    scale = source / target
    stretch = max(scale, 1.0)
    centre = (np.arange(target)[:, None] + 0.5) * scale
    pixel = np.arange(source)[None]
    inside = np.abs(pixel + 0.5 - centre) <= support * stretch + 1e-9
    weights = np.where(inside, function((pixel + 0.5 - centre) / stretch), 0.0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


@functools.lru_cache(maxsize=16)
def crop_matrix(side: float, source: int, target: int) -> np.ndarray:
    """(target, source) float32: the middle `side` of a line, resized back by linear interpolation, corner on corner."""
    first = 0.5 * (1.0 - side) * (source - 1)
    places = first + np.arange(target) * (side * (source - 1) / max(1, target - 1))
    low = np.clip(np.floor(places).astype(int), 0, source - 1)
    high = np.minimum(low + 1, source - 1)
    weights = np.zeros((target, source), dtype=np.float64)
    np.add.at(weights, (np.arange(target), low), 1.0 - (places - low))
    np.add.at(weights, (np.arange(target), high), places - low)
    return weights.astype(np.float32)


def along(matrix: np.ndarray, image: np.ndarray, axis: int) -> np.ndarray:
    """(h, w, 3) float32 with its rows (axis 0) or columns (axis 1) mixed by `matrix`."""
    lines = image if axis == 0 else image.swapaxes(0, 1)
    mixed = (matrix @ lines.reshape(len(lines), -1)).reshape(len(matrix), *lines.shape[1:])  # one product of large matrices
    return mixed if axis == 0 else mixed.swapaxes(0, 1)


def to_bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(image + 0.5), 0.0, 255.0)


def resize(image: np.ndarray, size: int, kernel: str) -> np.ndarray:
    """(h, w, 3) uint8 -> (size, size, 3) float32 of whole numbers 0..255; aspect is not kept, as published.

    Bicubic rounds between the passes (columns first), as the imaging library of the published pipeline does.
    """
    values = image.astype(np.float32)
    if image.shape[:2] == (size, size):
        return values
    if image.shape[1] != size:
        values = along(resize_matrix(kernel, image.shape[1], size), values, 1)
        values = to_bytes(values) if kernel == "bicubic" else values
    if image.shape[0] != size:
        values = along(resize_matrix(kernel, image.shape[0], size), values, 0)
    return to_bytes(values)


def centre_crop(image: np.ndarray, area: float) -> np.ndarray:
    """(s, s, 3) float32 of 0..255 -> the middle `area` of it at the same size, cut down to whole numbers as published."""
    matrix = crop_matrix(float(area) ** 0.5, image.shape[0], image.shape[0])
    return np.floor(np.clip(along(matrix, along(matrix, image, 1), 0) / 255.0, 0.0, 1.0) * 255.5).clip(0.0, 255.0)


@dataclass(frozen=True)
class Preprocessing:
    """From a camera image to the two towers' input. size: pixels per side.

    kernel: 'bicubic', or 'lanczos3' as the published evaluation resizes. jpeg: through a JPEG file first, as it does too.
    crop_area: share of the image that the centre crop keeps (1: no crop); 0.9 for weights trained with crop augmentation.
    means, stds: per tower and channel.
    """

    size: int = 224
    kernel: str = "bicubic"
    jpeg: bool = False
    crop_area: float = 0.9
    means: tuple[tuple[float, float, float], ...] = ((0.484375, 0.455078125, 0.40625), (0.5, 0.5, 0.5))
    stds: tuple[tuple[float, float, float], ...] = ((0.228515625, 0.2236328125, 0.224609375), (0.5, 0.5, 0.5))

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise CheckpointError(f"Preprocessing: kernel '{self.kernel}'. {nearest_names(self.kernel, KERNELS)}")
        if not 0.0 < self.crop_area <= 1.0:
            raise CheckpointError(f"Preprocessing: crop_area: expected a share above 0 and at most 1, got {self.crop_area!r}.")
        values = np.array([*self.means, *self.stds], dtype=float)
        if values.shape != (4, 3) or not np.isfinite(values).all() or (np.array(self.stds) <= 0).any():
            raise CheckpointError("Preprocessing: means, stds: expected 3 numbers for each of two towers, deviations above 0.")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 RGB of any size -> (6, size, size) float32: DINOv2's three channels, then SigLIP's."""
        if self.jpeg:
            image = jpeg_round_trip(image)
        values = resize(image, self.size, self.kernel)
        if self.crop_area < 1.0:
            values = centre_crop(values, self.crop_area)
        unit = np.ascontiguousarray(values.transpose(2, 0, 1)) / np.float32(255.0)
        mean, std = (np.array(numbers, dtype=np.float32)[:, :, None, None] for numbers in (self.means, self.stds))
        return ((unit[None] - mean) / std).reshape(6, self.size, self.size)


def crop_and_normalise(images: Tensor, settings: Preprocessing) -> Tensor:
    """(B, 3, s, s) of 0..255, already resized -> (B, 6, s, s): what a Preprocessing does after resizing, for a batch."""
    values = images
    if settings.crop_area < 1.0:
        size = images.shape[-1]
        matrix = torch.from_numpy(crop_matrix(float(settings.crop_area) ** 0.5, size, size)).to(images)
        cropped = matrix @ (images @ matrix.T)
        values = torch.floor((cropped / 255.0).clamp(0.0, 1.0) * 255.5).clamp(0.0, 255.0)
    mean, std = (torch.tensor(numbers).to(images).view(2, 1, 3, 1, 1) for numbers in (settings.means, settings.stds))
    return ((values / 255.0 - mean) / std).transpose(0, 1).flatten(1, 2)


def jpeg_round_trip(image: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 RGB, written as a JPEG of quality 95 and read again."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise CheckpointError(f"JPEG round trip: expected an 8-bit RGB image, got {image.shape} {image.dtype}.")
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
