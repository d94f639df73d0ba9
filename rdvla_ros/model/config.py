"""Size and form of an RD-VLA head, checked when it is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rdvla_ros.types import RdvlaError, nearest_names

INITIAL_STATES = ("truncated_normal", "normal", "zeros")
ROTARY_FORMS = ("standard", "published")


class HeadConfigError(RdvlaError):
    """A head configuration that describes no head."""


@dataclass(frozen=True)
class HeadConfig:
    """The recurrent-depth action head.

    hidden_dim D, num_heads n (D/n even), chunk_length H, action_dim A, proprio_dim: widths.
    prelude_layers, core_layers, coda_layers: one head layer per entry; the entry is the index of the backbone layer whose
        hidden states that head layer attends to. The prelude may be empty; core and coda may not.
    context_dim: width of the backbone's hidden states (None: D).
    scratchpad_rows K: rows the core iterates on (None: H). Rows beyond H are working memory and are not decoded; with
        fewer rows than H (a divisor of it) every row decodes H/K consecutive steps.
    initial_state: distribution of the first scratchpad, of standard deviation gamma_init * init_std, cut at 3 of them
        where truncated.
    mean_recurrence: mu of the depth distribution in training, also in the scale of the output maps at initialisation.
    backprop_depth: iterations that carry gradient in training.
    rotary_form: "standard" for new heads; "published" turns neighbouring pairs by angles laid out for split halves,
        which the published weights were trained with.
    sensors: how many numbers each further reading has (force, touch); each becomes one context token beside proprioception.
    unshared_iterations: 0: the same core layers in every iteration. N: for comparison, N sets of core layers with weights of
        their own, the last of which also makes the iterations after the N-th; adapter and norms are shared.
    """

    hidden_dim: int
    num_heads: int
    prelude_layers: tuple[int, ...]
    core_layers: tuple[int, ...]
    coda_layers: tuple[int, ...]
    chunk_length: int
    action_dim: int
    proprio_dim: int
    context_dim: int | None = None
    scratchpad_rows: int | None = None
    initial_state: str = "truncated_normal"
    init_std: float = math.sqrt(0.4)
    mean_recurrence: int = 32
    backprop_depth: int = 8
    ffn_multiple: int = 4
    rms_norm_eps: float = 1e-6
    rope_base: float = 10000.0
    rotary_form: str = "standard"
    unshared_iterations: int = 0
    sensors: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "sensors", tuple(self.sensors))
        for width in self.sensors:
            _positive_integer("sensors", width)
        for name in ("prelude_layers", "core_layers", "coda_layers"):
            object.__setattr__(self, name, _layer_indices(name, getattr(self, name)))
        for name in (
            "hidden_dim",
            "num_heads",
            "chunk_length",
            "action_dim",
            "proprio_dim",
            "mean_recurrence",
            "backprop_depth",
            "ffn_multiple",
        ):
            _positive_integer(name, getattr(self, name))
        for name in ("context_dim", "scratchpad_rows"):
            if getattr(self, name) is not None:
                _positive_integer(name, getattr(self, name))
        for name in ("init_std", "rms_norm_eps", "rope_base"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise HeadConfigError(f"{name}: expected a finite number above 0, got {value!r}")
        sets = self.unshared_iterations
        if isinstance(sets, bool) or not isinstance(sets, int) or sets < 0:
            raise HeadConfigError(f"unshared_iterations: expected a whole number of at least 0, got {sets!r}")
        _one_of("initial_state", self.initial_state, INITIAL_STATES)
        _one_of("rotary_form", self.rotary_form, ROTARY_FORMS)
        if self.hidden_dim % self.num_heads or (self.hidden_dim // self.num_heads) % 2:
            raise HeadConfigError(
                f"hidden_dim: expected num_heads ({self.num_heads}) times an even head width (rotary positions turn pairs),"
                f" got {self.hidden_dim}"
            )
        if self.rows < self.chunk_length and self.chunk_length % self.rows:
            raise HeadConfigError(
                f"scratchpad_rows: expected at least chunk_length ({self.chunk_length}) or a divisor of it, got {self.rows}"
            )

    @property
    def rows(self) -> int:
        """K, rows of the scratchpad."""
        return self.chunk_length if self.scratchpad_rows is None else self.scratchpad_rows

    @property
    def all_core_layers(self) -> tuple[int, ...]:
        """core_layers, once per set of core layers."""
        return self.core_layers * max(1, self.unshared_iterations)

    @property
    def context_width(self) -> int:
        """Width of the backbone's hidden states."""
        return self.hidden_dim if self.context_dim is None else self.context_dim

    @property
    def head_dim(self) -> int:
        return self.hidden_dim // self.num_heads

    @property
    def steps_per_row(self) -> int:
        """Chunk steps decoded from one scratchpad row."""
        return max(1, self.chunk_length // self.rows)

    @property
    def context_layers(self) -> tuple[int, ...]:
        """Backbone layers that the head reads, ascending, each once."""
        return tuple(sorted({*self.prelude_layers, *self.core_layers, *self.coda_layers}))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` is the inverse."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HeadConfig:
        known = {field.name: field for field in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise HeadConfigError(f"head configuration: unknown key '{name}'. {nearest_names(name, known)}")
        missing = [name for name, field in known.items() if field.default is dataclasses.MISSING and name not in values]
        if missing:
            raise HeadConfigError(f"head configuration: missing {', '.join(missing)}; got {', '.join(values) or 'nothing'}")
        return cls(**values)


def _layer_indices(name: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise HeadConfigError(f"{name}: expected a list of backbone layer indices, got {value!r}")
    for index in value:
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise HeadConfigError(f"{name}: expected indices 0, 1, ... of backbone layers, got {index!r} in {value!r}")
    if not value and name != "prelude_layers":
        raise HeadConfigError(f"{name}: expected at least one layer, got none (only the prelude may be empty)")
    return tuple(value)


def _positive_integer(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise HeadConfigError(f"{name}: expected a whole number of at least 1, got {value!r}")


def _one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise HeadConfigError(f"{name}: unknown '{value}'. {nearest_names(value, allowed)}")
