"""Parameters declared once: a frozen dataclass is the schema, one function declares it on a node and returns the values.

    @dataclass(frozen=True)
    class GateParameters(Schema):
        timeout_s: float = parameter(0.06, "silence of the policy after which the arms are held", unit="s", low=0.02, high=1.0)
        def problems(self): ...       # what cannot be true together, one sentence each

    values = declare(node, GateParameters)

A value that is not finite, out of range or of the wrong type, values that contradict each other, and names that the node
does not have (a misspelt key in a parameter file) are refused, and the refusal says what would have been accepted.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from rdvla_ros.types import RdvlaError, nearest_names

CHANGES = ("never", "unconfigured", "always")
# What rclpy itself reads from the overrides of any node.
FOREIGN_NAMES = ("use_sim_time", "start_type_description_service")
FOREIGN_PREFIXES = ("qos_overrides.",)
_TYPE_WORDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    tuple[str, ...]: "a list of texts",
    tuple[float, ...]: "a list of numbers",
}


class ParameterError(RdvlaError):
    """Parameters with which a node may not start."""


@dataclass(frozen=True)
class Rule:
    """What is allowed for one parameter. low and high are inclusive; choices empty: any value."""

    description: str
    unit: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    change: str  # 'never' after start, only while the node is 'unconfigured', or 'always'

    def accepted(self, kind: type) -> str:
        """The end of a refusal: what would have been accepted."""
        words = _TYPE_WORDS[kind]
        if self.choices:
            return f"one of {', '.join(repr(choice) for choice in self.choices)}"
        unit = f" {self.unit}" if self.unit else ""
        if self.low is not None and self.high is not None:
            words += f" from {self.low:g} to {self.high:g}"
        elif self.low is not None:
            words += f" of at least {self.low:g}"
        elif self.high is not None:
            words += f" of at most {self.high:g}"
        return words + unit


def parameter(
    default: Any,
    description: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    change: str = "never",
) -> Any:
    """A field of a schema; its annotation is the type: bool, int, float, str, tuple[str, ...] or tuple[float, ...]."""
    if change not in CHANGES:
        raise ValueError(f"change: expected one of {', '.join(CHANGES)}, got {change!r}")
    return dataclasses.field(default=default, metadata={"rule": Rule(description, unit, low, high, choices, change)})


@dataclass(frozen=True)
class Schema:
    """Base of the parameter classes. An instance has been checked."""

    def __post_init__(self) -> None:
        problems = [p for name in rules(type(self)) if (p := _problem(type(self), name, getattr(self, name)))]
        problems = problems or list(self.problems())
        if problems:
            raise ParameterError(" ".join(problems))

    def problems(self) -> Iterable[str]:
        """What cannot be true together; each sentence names the parameters and what would be accepted."""
        return ()


@functools.cache
def rules(schema: type[Schema]) -> dict[str, Rule]:
    return {field.name: field.metadata["rule"] for field in dataclasses.fields(schema)}


@functools.cache  # reading annotations takes milliseconds, and every change of a parameter checks all of them
def kinds(schema: type[Schema]) -> dict[str, type]:
    hints = typing.get_type_hints(schema)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema)}


def declare(
    node: Node,
    schema: type[Schema],
    *,
    on_change: Callable[[Schema], None] | None = None,
    is_configured: Callable[[], bool] = lambda: True,
) -> Schema:
    """Declare the schema's parameters on the node and return their values (defaults and overrides), checked.

    on_change: called with the new values after a change at run time was accepted; an exception in it is logged.
    is_configured: while it is true, parameters with change='unconfigured' are refused.
    Raises ParameterError when the node was started with values or names that it does not accept.
    """
    overrides = {p.name: p.value for p in node._parameter_overrides.values()}
    _refuse_unknown(node, schema, overrides)
    state = {
        "values": schema(**{name: _coerced(kinds(schema)[name], overrides[name]) for name in rules(schema) if name in overrides})
    }
    for name in rules(schema):
        value = getattr(state["values"], name)
        value = list(value) if isinstance(value, tuple) else value
        node.declare_parameter(name, value, _descriptor(schema, name), ignore_override=True)

    def check(changes: list[Parameter]) -> SetParametersResult:
        try:
            reason = _refusal(schema, state["values"], changes, is_configured())
        except Exception as error:  # nor from here
            reason = f"It could not be checked: {type(error).__name__}: {error}"
        return SetParametersResult(successful=not reason, reason=reason)

    def apply(changes: list[Parameter]) -> None:
        state["values"] = _changed(schema, state["values"], changes)
        try:
            if on_change and any(change.name in rules(schema) for change in changes):
                on_change(state["values"])
        except Exception as error:  # a raise from here would end the spin loop of the whole node
            node.get_logger().error(f"A parameter change was accepted but could not be applied: {error}")

    node.add_on_set_parameters_callback(check)
    node.add_post_set_parameters_callback(apply)
    return state["values"]


def _refuse_unknown(node: Node, schema: type[Schema], overrides: Mapping[str, Any]) -> None:
    known = rules(schema)
    for name in overrides:
        foreign = name in FOREIGN_NAMES or name.startswith(FOREIGN_PREFIXES) or node.has_parameter(name)
        if name not in known and not foreign:
            raise ParameterError(f"Unknown parameter '{name}' for node '{node.get_name()}'. {nearest_names(name, known)}")


def _refusal(schema: type[Schema], values: Schema, changes: list[Parameter], configured: bool) -> str:
    """Why the changes may not be made together; empty when they may."""
    for change in changes:
        rule = rules(schema).get(change.name)
        if change.name == "use_sim_time":
            return "use_sim_time is read at the start of the node only: all times would jump. Restart the node to change it."
        if rule is None:
            continue
        if rule.change == "never":
            return f"{change.name} is read at the start of the node only. Restart the node to change it."
        if rule.change == "unconfigured" and configured:
            return f"{change.name} can only be changed while the node is unconfigured. Clean the node up first."
    try:
        _changed(schema, values, changes)
    except ParameterError as error:
        return str(error)
    return ""


def _changed(schema: type[Schema], values: Schema, changes: list[Parameter]) -> Schema:
    own = {c.name: _coerced(kinds(schema)[c.name], c.value) for c in changes if c.name in rules(schema)}
    return dataclasses.replace(values, **own)


def _coerced(kind: type, value: Any) -> Any:
    """An integer may stand for a number (5 for 5.0); lists become tuples. Anything else stays as it came."""
    if kind is float and type(value) is int:
        return float(value)
    if (
        typing.get_origin(kind) is tuple
        and value is not None
        and not isinstance(value, (str, bytes))
        and hasattr(value, "__iter__")
    ):
        return tuple(_coerced(typing.get_args(kind)[0], item) for item in value)
    return value


def _problem(schema: type[Schema], name: str, value: Any) -> str:
    rule, kind = rules(schema)[name], kinds(schema)[name]
    expected = f"{name}: expected {rule.accepted(kind)}, got {value!r}."
    if typing.get_origin(kind) is tuple:
        item_kind = typing.get_args(kind)[0]
        well_typed, items = type(value) is tuple and all(type(item) is item_kind for item in value), value
    else:
        well_typed, items = type(value) is kind, (value,)
    if not well_typed:
        return expected
    for item in items:
        if (
            isinstance(item, (int, float))
            and not isinstance(item, bool)
            and (
                not math.isfinite(item)
                or (rule.low is not None and item < rule.low)
                or (rule.high is not None and item > rule.high)
            )
        ):
            return expected
        if rule.choices and item not in rule.choices:
            return expected
    return ""


def _descriptor(schema: type[Schema], name: str) -> ParameterDescriptor:
    """The schema's row for `ros2 param describe`. Types and ranges are checked here, together, so typing is left open:
    rclpy's own check would come first, word by word, and take neither 5 for 5.0 nor values that only fit together."""
    rule, kind = rules(schema)[name], kinds(schema)[name]
    notes = f"expected: {rule.accepted(kind)}; changes: {rule.change}"
    return ParameterDescriptor(name=name, description=rule.description, additional_constraints=notes, dynamic_typing=True)
