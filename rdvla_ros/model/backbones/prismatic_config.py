"""Sizes of the published backbone, and which of its hidden states are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from rdvla_ros.model.backbones.vit import VitConfig
from rdvla_ros.model.resample import Preprocessing
from rdvla_ros.types import CheckpointError


@dataclass(frozen=True)
class TextConfig:
    """The Qwen2 decoder. layers: in the published model; how many are kept follows from what is read."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    max_tokens: int = 32768


@dataclass(frozen=True)
class SquareView:
    """A camera whose whole image becomes size x size pixels."""

    name: str
    size: int

    width = property(lambda self: self.size)
    height = property(lambda self: self.size)
    crop = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class PrismaticConfig:
    """dino, siglip: the two towers. read_layers: indices of hidden states that can be asked for (0 = embeddings).

    shifted: the published weights take task states from one position too early (token 0 is in, the last patch is out) and latent
    states likewise. camera_names: in the order of the images in the sequence; empty: any number, named by nobody.
    """

    dino: VitConfig
    siglip: VitConfig
    text: TextConfig
    read_layers: tuple[int, ...]
    latent_queries: int = 64
    shifted: bool = True
    camera_names: tuple[str, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    def __post_init__(self) -> None:
        if not self.read_layers or max(self.read_layers) > self.text.layers or min(self.read_layers) < 0:
            raise CheckpointError(
                f"Backbone: the head reads layers {list(self.read_layers)}, expected indices 0 .. {self.text.layers} (the number "
                "of decoder layers). The head and the language model are of different checkpoints."
            )
        if self.dino.patches != self.siglip.patches or self.dino.image != self.siglip.image:
            raise CheckpointError(
                f"Backbone: expected two towers of the same images and patches, got {self.dino.patches} patches of "
                f"{self.dino.image} px and {self.siglip.patches} of {self.siglip.image} px."
            )

    @property
    def kept_layers(self) -> int:
        return max(1, *self.read_layers)

    @property
    def cameras(self) -> tuple[SquareView, ...]:
        return tuple(SquareView(name, self.dino.image) for name in self.camera_names)

    @classmethod
    def from_dict(cls, data: Mapping) -> PrismaticConfig:
        values = dict(data)
        for name, kind in (("dino", VitConfig), ("siglip", VitConfig), ("text", TextConfig)):
            values[name] = kind(**values[name])
        settings = dict(values["preprocessing"])
        settings |= {name: tuple(map(tuple, settings[name])) for name in ("means", "stds")}
        values["preprocessing"] = Preprocessing(**settings)
        values |= {name: tuple(values[name]) for name in ("read_layers", "camera_names")}
        return cls(**values)

    def to_dict(self) -> dict:
        return asdict(self)
