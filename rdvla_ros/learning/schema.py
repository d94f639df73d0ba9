"""Plain data of a YAML file against frozen dataclasses: every value has its type and its range, or is refused with its place.

Types are the fields' annotations; ranges stand beside them: `Annotated[int, Range(1)]`, `Annotated[str, Choice(("a", "b"))]`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any

from rdvla_ros.types import RdvlaError, nearest_names

EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # a number to everybody but YAML 1.1, which wants a point and a sign


class TrainingError(RdvlaError):
    """A training run that cannot start or go on."""


@dataclass(frozen=True)
class Range:
    """A number from low to high; `above`: low itself is too small."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def holds(self, value: float) -> bool:
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        low = "" if self.low == -math.inf else f"above {self.low:g}" if self.above else f"of at least {self.low:g}"
        high = "" if self.high == math.inf else f"at most {self.high:g}"
        return " and ".join(part for part in (low, high) if part)


@dataclass(frozen=True)
class Choice:
    """One of these names."""

    names: tuple[str, ...]

    def holds(self, value: str) -> bool:
        return value in self.names

    def __str__(self) -> str:
        return " or ".join(self.names)


Positive = Annotated[float, Range(0.0, above=True)]
AtLeastZero = Annotated[float, Range(0.0)]
Share = Annotated[float, Range(0.0, 1.0)]
Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]


def shown(value: Any) -> str:
    """A value in an error message, with its kind."""
    if value is None:
        return "nothing"
    text = str(value)
    text = text if len(text) <= 60 else f"{text[:60]}..."
    kind = {str: "text ", bool: "the truth value ", list: "the list ", tuple: "the list ", dict: "the mapping "}
    return f"{kind.get(type(value), '')}{text!r}" if isinstance(value, str) else f"{kind.get(type(value), '')}{text}"


def build(cls: type, data: Any, place: str) -> Any:
    """Mapping -> dataclass; unknown, missing and repeated keys, types and ranges are refused with their place."""
    if not isinstance(data, Mapping):
        raise TrainingError(f"{place}: expected a mapping, got {shown(data)}.")
    hints = _hints(cls)
    for key in data:
        if key not in hints:
            raise TrainingError(f"{place}: unknown key '{key}'. {nearest_names(key, hints)}")
    for item in dataclasses.fields(cls):
        optional = item.default is not dataclasses.MISSING or item.default_factory is not dataclasses.MISSING
        if not optional and item.name not in data:
            raise TrainingError(f"{place}: missing key '{item.name}'. Expected keys: {', '.join(hints)}.")
    values = {key: checked(hints[key], value, f"{place}: {key}") for key, value in data.items()}
    try:
        return cls(**values)
    except RdvlaError as error:
        raise TrainingError(f"{place}: {error}") from None


def check_fields(settings: Any) -> None:
    """For __post_init__: the same checks for an object made in Python; lists become tuples."""
    for name, hint in _hints(type(settings)).items():
        object.__setattr__(settings, name, checked(hint, getattr(settings, name), name))


def checked(hint: Any, value: Any, place: str, expected: str = "") -> Any:
    """The value as the field holds it (lists become tuples); TrainingError where it is not of the annotated type or range.
    expected: what the error says, where that is more than the type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        value = checked(arguments[0], value, place, _named(hint))
        for bound in arguments[1:]:
            if not bound.holds(value):
                raise TrainingError(f"{place}: expected {_named(hint)}, got {shown(value)}.{_nearest(bound, value)}")
        return value
    if origin in (typing.Union, UnionType):
        return _one_of(hint, arguments, value, place)
    if origin is tuple:
        return _row(hint, arguments, value, place)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise TrainingError(f"{place}: expected a mapping, got {shown(value)}.")
        return {checked(arguments[0], k, f"{place}: key"): checked(arguments[1], v, f"{place}: {k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, place)
    return _plain(hint, value, place, expected or _named(hint))


def _plain(hint: type, value: Any, place: str, expected: str) -> Any:
    """bool, int, float or str, and nothing that only resembles it: True is no number, 8 is no text, NaN is no float."""
    kinds = (int, float) if hint is float else (hint,)
    right = isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))
    if right and hint in (int, float) and not math.isfinite(value):
        right = False
    if not right:
        advice = ""
        if isinstance(value, str) and hint in (int, float) and EXPONENT.fullmatch(value):
            advice = f" YAML takes {value} for text: write it with a point and a signed exponent, such as 8.0e-4."
        raise TrainingError(f"{place}: expected {expected}, got {shown(value)}.{advice}")
    return float(value) if hint is float else value


def _row(hint: Any, arguments: tuple, value: Any, place: str) -> tuple:
    if not isinstance(value, list | tuple):
        raise TrainingError(f"{place}: expected {_named(hint)}, got {shown(value)}.")
    kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(value):
        raise TrainingError(f"{place}: expected a list of {len(kinds)}, got {len(value)}: {shown(value)}.")
    return tuple(checked(kind, item, f"{place}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _one_of(hint: Any, arguments: tuple, value: Any, place: str) -> Any:
    """The alternative whose outer kind the value has decides what is said about its contents."""
    kinds = {str: str, tuple: (list, tuple), Mapping: Mapping, type(None): type(None)}
    for argument in arguments:
        outer = typing.get_origin(argument) or argument
        outer = Mapping if isinstance(outer, type) and issubclass(outer, Mapping) else outer
        if isinstance(value, kinds.get(outer, outer)):
            return None if value is None else checked(argument, value, place)
    raise TrainingError(f"{place}: expected {_named(hint)}, got {shown(value)}.")


def _named(hint: Any) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        bounds = [str(bound) for bound in arguments[1:]]
        return bounds[0] if isinstance(arguments[1], Choice) else " ".join([_named(arguments[0]), *bounds])
    if origin in (typing.Union, UnionType):
        return " or ".join(_named(argument) for argument in arguments)
    if origin is tuple:
        return f"a list ({_named(arguments[0])} each)"
    if origin is not None:
        return "a mapping"
    names = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false", type(None): "null"}
    return names.get(hint, "a mapping")


def _nearest(bound: Range | Choice, value: Any) -> str:
    return f" {nearest_names(value, bound.names)}" if isinstance(bound, Choice) else ""


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)
