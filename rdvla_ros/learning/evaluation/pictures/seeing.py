"""The compact backbone's camera stem, taught to see what a symbol reader reads.

The signals are of training only: where the pad of each colour lies (for the keypoint maps), and the token that the trained symbol
reader would make of that pad (for the keypoint tokens). One embedding serves seen and named colours, because the tokens are made
of the very embedding in which the instruction names the start.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdvla_ros.learning.evaluation.pictures.scenes import CAMERA_SIZE, HALF_M, MIDDLE_M, TOP, Pictures
from rdvla_ros.learning.evaluation.symbols.reader import LAYER, SymbolReader
from rdvla_ros.model.backbones.compact import CameraStem
from rdvla_ros.model.context import HeadContext
from rdvla_ros.sim.trails import PADS

MAP_WEIGHT = 0.3
CAMERA_HEIGHT_M, CAMERA_Y_M, TAN_HALF_VIEW = 0.785, 0.6, 0.8098  # of the top camera, over the pads


class PictureReader(nn.Module):
    """A camera stem in front of the head of a symbol reader."""

    def __init__(self, symbols: SymbolReader):
        super().__init__()
        width = symbols.config.width
        self.stem = CameraStem(TOP, width)
        self.project = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.symbols = symbols
        self._maps: list[Tensor] = []
        self.stem.maps.register_forward_hook(lambda module, given, found: self._maps.append(found))

    @property
    def head(self):
        return self.symbols.head

    def see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, h, w) uint8 or float in -1..1 -> tokens (B, 10, D), and the keypoint maps' logits (B, 10, rows, columns)."""
        if images.dtype == torch.uint8:
            images = images.float() / 127.5 - 1.0
        self._maps.clear()
        found = self.stem(images.contiguous(memory_format=torch.channels_last))
        return self.project(found[:, :PADS]), self._maps.pop()

    def encode_tokens(self, tokens: Tensor, start: Tensor) -> HeadContext:
        """Tokens of `see` and the colour that the instruction names (B,)."""
        symbols = self.symbols
        start_token = (symbols.colours(start) + symbols.instruction).unsqueeze(1)
        nothing = symbols.nothing.expand(len(start), -1, -1)
        return self.head.encode({LAYER: nothing}, {LAYER: torch.cat([tokens, start_token], 1)}, torch.zeros(len(start), 1))


def seeing_loss(reader: PictureReader, pictures: Pictures, indices, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """(loss, the share of the tokens' variance that is not explained)."""
    scenes = pictures.symbols(indices, torch.zeros(len(indices), dtype=torch.long).numpy())
    tokens, maps = reader.see(disturbed(pictures.images[indices], rng))
    with torch.no_grad():
        wanted = reader.symbols.pads(scenes)
    unexplained = F.mse_loss(tokens, wanted) / wanted.var(dim=(0, 1)).mean()
    where = F.cross_entropy(maps.flatten(0, 1).flatten(1), cells_of(scenes.place, maps.shape[-2:]).flatten())
    return unexplained + MAP_WEIGHT * where, unexplained.detach()


def cells_of(places: Tensor, size: tuple[int, int]) -> Tensor:
    """(.., 2) places in -1..1 on the table -> (..) index of the cell of a map of `size` in which they are seen."""
    rows, columns = size
    x, y = picture_place(places).unbind(-1)
    column, row = (x * columns).long().clamp(0, columns - 1), (y * rows).long().clamp(0, rows - 1)
    return row * columns + column


def picture_place(places: Tensor) -> Tensor:
    """(.., 2) -> (.., 2): x to the right, y downwards, both 0..1 over the cut picture."""
    metres = places * torch.tensor(HALF_M, dtype=places.dtype) + torch.tensor(MIDDLE_M, dtype=places.dtype)
    scale = CAMERA_SIZE[1] / 2 / (CAMERA_HEIGHT_M * TAN_HALF_VIEW)  # [px/m]
    x = CAMERA_SIZE[0] / 2 + scale * metres[..., 0]
    y = CAMERA_SIZE[1] / 2 - scale * (metres[..., 1] - CAMERA_Y_M)
    left, top, right, bottom = TOP.crop
    across = (x / CAMERA_SIZE[0] - left) / (right - left)
    return torch.stack([across, (y / CAMERA_SIZE[1] - top) / (bottom - top)], -1)


def disturbed(images: Tensor, rng: torch.Generator) -> Tensor:
    """(B, 3, h, w) uint8 -> float in -1..1: other brightness and contrast, noise."""
    count = len(images)
    x = images.float() / 127.5 - 1.0
    gain = 1.0 + 0.2 * (torch.rand(count, 1, 1, 1, generator=rng) - 0.5)
    shift = 0.2 * (torch.rand(count, 1, 1, 1, generator=rng) - 0.5)
    return x * gain + shift + 0.02 * torch.randn(x.shape, generator=rng)
