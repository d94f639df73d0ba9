"""When the recurrent core may stop: objects, chosen by name in a configuration.

    make_halting({"rule": "action_change", "threshold": 5e-4, "max_iterations": 32})

A rule measures how far two consecutive chunks are apart; it is met at the first iteration k >= min_iterations at which
the last `patience` measures were all below `level`. The loop in `refine.py` knows no rule by name. What it reads of a rule:

    min_iterations, max_iterations, patience
    threshold       as configured, for reports; NaN where there is none
    level           a measure below it is a hit
    measure(previous, current)   (N, H, A) twice -> (N,), 0 for equal chunks and quadratic in small differences
    compares        False: the rule never looks at a chunk, and one is decoded at the end only
    evaluate        "needed": chunks whose change is surely above the level are not decoded; "every": all are
    margin          how many times above the level a change must be predicted to count as surely above
    ratio           measure of chunks per measure of sketches that is typical of this head: a number, or an Experience that
                    learns it from the decisions made with this rule; None: each decision looks at its first two chunks for it
    limit_reason    why it stopped when max_iterations was reached
    begin()         a fresh `Stopwatch` for one refinement
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rdvla_ros.model.sketch_ratio import Experience
from rdvla_ros.types import RdvlaError, StopReason, make_by_name, nearest_names

EVALUATE = ("needed", "every")


class HaltingError(RdvlaError):
    """A halting rule that cannot be made."""


class Stopwatch:
    """No limit of time."""

    timed = False

    def elapsed_s(self) -> float:
        return 0.0

    def affordable(self, iteration_s: float, decode_s: float) -> int | None:
        """Iterations that still fit in before the last decode; None: any number."""
        return None


class Countdown(Stopwatch):
    """`seconds` from now on."""

    timed = True

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds, self._clock, self._start = seconds, clock, clock()

    def elapsed_s(self) -> float:
        return self._clock() - self._start

    def affordable(self, iteration_s: float, decode_s: float) -> int:
        left = self._seconds - self.elapsed_s() - decode_s
        return max(0, int(left / iteration_s)) if iteration_s > 0 else int(left > 0)


@dataclass(frozen=True)
class FixedDepth:
    """Make a number of iterations.

    report_change: also decode the chunk before the last, so that the result says how much the last iteration changed.
    """

    iterations: int
    report_change: bool = False

    threshold = math.nan
    level = -math.inf  # no measure is below it
    patience = 1
    evaluate = "needed"
    margin = 1.0
    ratio = None
    limit_reason = StopReason.FIXED_DEPTH

    def __post_init__(self) -> None:
        _whole("iterations", self.iterations, 1)

    @property
    def max_iterations(self) -> int:
        return self.iterations

    @property
    def min_iterations(self) -> int:
        return self.iterations

    @property
    def compares(self) -> bool:
        return self.report_change

    def measure(self, previous: Tensor, current: Tensor) -> Tensor:
        return mean_squared_change(previous, current)

    def begin(self) -> Stopwatch:
        return Stopwatch()


@dataclass(frozen=True)
class _ChangeRule:
    """What the rules share that compare consecutive chunks."""

    threshold: float
    max_iterations: int = 32
    min_iterations: int = 2
    patience: int = 1
    evaluate: str = "needed"
    margin: float = 2.5
    ratio: float | Experience | None = field(default=None, compare=False)

    compares = True
    limit_reason = StopReason.ITERATION_LIMIT

    def __post_init__(self) -> None:
        _whole("max_iterations", self.max_iterations, 1)
        _whole("min_iterations", self.min_iterations, 2)
        _whole("patience", self.patience, 1)
        for name in ("threshold", "margin", "ratio"):
            value = getattr(self, name)
            if name == "ratio" and (value is None or isinstance(value, Experience)):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
                raise HaltingError(f"{name}: expected a number of at least 0, got {value!r}")
        if self.evaluate not in EVALUATE:
            raise HaltingError(f"evaluate: unknown '{self.evaluate}'. {nearest_names(self.evaluate, EVALUATE)}")

    @property
    def level(self) -> float:
        return float(self.threshold)

    def begin(self) -> Stopwatch:
        return Stopwatch()


@dataclass(frozen=True)
class ActionChange(_ChangeRule):
    """The mean-squared change of the normalised chunk fell below threshold."""

    def measure(self, previous: Tensor, current: Tensor) -> Tensor:
        return mean_squared_change(previous, current)


@dataclass(frozen=True)
class ActionCosine(_ChangeRule):
    """The cosine between consecutive chunks, flattened, rose above threshold."""

    threshold: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.threshold <= 1:
            raise HaltingError(f"threshold: expected a cosine of 0 to 1, got {self.threshold!r}")

    @property
    def level(self) -> float:
        return 1.0 - self.threshold

    def measure(self, previous: Tensor, current: Tensor) -> Tensor:
        return 1.0 - torch.cosine_similarity(previous.flatten(1).double(), current.flatten(1).double())


@dataclass(frozen=True)
class ActionKL(_ChangeRule):
    """The Kullback-Leibler divergence between N(a_k, sigma^2) and N(a_{k-1}, sigma^2), per number of the chunk.

    For equal sigma per dimension it is mean((a_k - a_{k-1})^2 / (2 sigma^2)), so sigma = sqrt(1/2) is ActionChange.
    sigma: one number, or one per action dimension: the spread of the demonstrated actions in normalised units, which the
    policy takes from its normalisation statistics.
    """

    sigma: float | Sequence[float] = math.sqrt(0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        values = [self.sigma] if isinstance(self.sigma, (int, float)) else list(self.sigma)
        if not values or not all(isinstance(v, (int, float)) and 0 < v < math.inf for v in values):
            raise HaltingError(f"sigma: expected numbers above 0, one or one per action dimension, got {self.sigma!r}")
        object.__setattr__(self, "sigma", values[0] if len(values) == 1 else tuple(float(v) for v in values))

    def measure(self, previous: Tensor, current: Tensor) -> Tensor:
        sigma = torch.as_tensor(self.sigma, dtype=torch.float32, device=current.device)
        if sigma.ndim and len(sigma) != current.shape[-1]:
            raise HaltingError(f"sigma: expected {current.shape[-1]} numbers, one per action dimension, got {len(sigma)}")
        scale = sigma * math.sqrt(2)
        return mean_squared_change(previous.float() / scale, current.float() / scale)


@dataclass(frozen=True)
class Deadline:
    """`inner`, or the best chunk so far when `seconds` (from the start of the refinement) are nearly over.

    The time that one more iteration and the last decode would take is measured while running and kept in reserve.
    """

    seconds: float
    inner: Any
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        if isinstance(self.seconds, bool) or not isinstance(self.seconds, (int, float)) or math.isnan(self.seconds):
            raise HaltingError(f"seconds: expected a number, got {self.seconds!r}")

    def __getattr__(self, name: str) -> Any:  # everything but the time is the inner rule's
        if name.startswith("_") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def begin(self) -> Stopwatch:
        return Countdown(self.seconds, self.clock)


def mean_squared_change(previous: Tensor, current: Tensor) -> Tensor:
    """(N, H, A) twice -> (N,): the mean over the chunk, in float32 or wider."""
    wide = torch.promote_types(current.dtype, torch.float32)
    norm = torch.linalg.vector_norm(current.to(wide) - previous.to(wide), dim=(1, 2))
    return norm.square() / current[0].numel()


def step_change(previous: Tensor, current: Tensor) -> Tensor:
    """(N, H, A) twice -> (N, H): the mean-squared change of each step of the chunk."""
    wide = torch.promote_types(current.dtype, torch.float32)
    return (current.to(wide) - previous.to(wide)).square().mean(dim=2)


def _two_hit(**settings: Any) -> ActionChange:
    """ActionChange that must be met twice in a row: a chunk that stands still by chance does not stop it."""
    return ActionChange(**{"patience": 2, **settings})


_two_hit.__signature__ = inspect.signature(ActionChange)  # its arguments, for make_by_name


RULES: dict[str, Callable[..., Any]] = {
    "fixed": FixedDepth,
    "action_change": ActionChange,
    "action_cosine": ActionCosine,
    "action_kl": ActionKL,
    "two_hit": _two_hit,
}


def make_halting(settings: Mapping[str, Any], *, action_std: Sequence[float] | None = None) -> Any:
    """The rule that a configuration names; the other keys are its arguments. "deadline_s" puts a Deadline around it.

    action_std: (A,) spread of the demonstrated actions in normalised units: sigma of "action_kl" where the settings give none
    or "statistics". The rule learns its `ratio` while it is used, from the configured one on.
    """
    settings = dict(settings)
    deadline_s = settings.pop("deadline_s", None)
    if settings.get("rule") == "action_kl" and settings.get("sigma", "statistics") == "statistics":
        if action_std is None:
            raise HaltingError(
                "halting rule 'action_kl': expected the spread of the demonstrated actions, which these statistics"
                " lack (a checkpoint of an older release). Set sigma to numbers, or train again"
            )
        settings["sigma"] = list(action_std)
    rule = make_by_name(settings, "rule", RULES, "halting rule", HaltingError)
    if isinstance(rule, _ChangeRule):
        rule = replace(rule, ratio=Experience(rule.ratio))
    return rule if deadline_s is None else Deadline(deadline_s, rule)


def with_limit(rule: Any, iterations: int) -> Any:
    """The rule with another limit; a fixed depth makes that many."""
    if isinstance(rule, Deadline):
        return replace(rule, inner=with_limit(rule.inner, iterations))
    return replace(rule, **{"iterations" if isinstance(rule, FixedDepth) else "max_iterations": iterations})


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise HaltingError(f"{name}: expected a whole number of at least {least}, got {value!r}")
