"""The published architecture at three sizes: 'full' is the published one, the others leave out width and depth."""

from __future__ import annotations

from dataclasses import dataclass

from rdvla_ros.model.backbones.prismatic_config import PrismaticConfig, TextConfig
from rdvla_ros.model.backbones.vit import VitConfig
from rdvla_ros.model.config import HeadConfig
from rdvla_ros.model.resample import Preprocessing

PROMPT_TOKENS = 42  # "pick up the red cube" in the published prompt


@dataclass(frozen=True)
class Size:
    """width of both towers, blocks that are published, and the language model's."""

    dino: tuple[int, int]
    siglip: tuple[int, int, int]
    text: tuple[int, int, int, int, int, int]
    image: int
    heads: int


SIZES = {
    "tiny": Size((32, 3), (32, 3, 64), (400, 32, 64, 4, 4, 2), 28, 4),
    "small": Size((256, 6), (288, 6, 1072), (8000, 256, 1216, 8, 4, 2), 224, 4),
    "full": Size((1024, 24), (1152, 27, 4304), (151936, 896, 4864, 24, 14, 2), 224, 8),
}


def configs(name: str) -> tuple[PrismaticConfig, HeadConfig]:
    """Of a bimanual robot of 14 joints, chunks of 8."""
    size = SIZES[name]
    (width, depth), (width2, depth2, inner2) = size.dino, size.siglip
    vocabulary, hidden, inner, layers, heads, kv_heads = size.text
    last, middle = layers - 1, (layers - 1) // 2
    backbone = PrismaticConfig(
        dino=VitConfig(width, 16, 4 * width, depth - 1, 14, size.image, True, 4, True),
        siglip=VitConfig(width2, 16, inner2, depth2 - 1, 14, size.image),
        text=TextConfig(vocabulary, hidden, inner, layers, heads, kv_heads),
        read_layers=(middle, last),
        preprocessing=Preprocessing(size=size.image),
    )
    numbers = dict(chunk_length=8, action_dim=14, proprio_dim=14, rotary_form="published")
    return backbone, HeadConfig(hidden, size.heads, (middle,), (last, last), (last,), **numbers)
