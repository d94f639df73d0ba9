"""Reading a YAML file strictly: every complaint says the place, what was expected and what stands there."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

from rdvla_ros.types import RobotDescriptionError, nearest_names

TOPIC = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")  # what every ROS 2 distribution takes as a name


class _UniqueKeys(yaml.SafeLoader):
    """YAML's own rule, which PyYAML does not hold: a key stands once in a mapping. It would take the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        first: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                continue  # not hashable here, and refused by the schema
            if key.value in first:
                raise yaml.YAMLError(
                    f"key '{key.value}' in line {line} stands already in line {first[key.value]}, expected once. Remove one."
                )
            first[key.value] = line
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """Plain data; yaml.YAMLError where the text is not YAML or repeats a key."""
    return yaml.load(text, _UniqueKeys)  # a SafeLoader: no objects are made


class Section:
    """A mapping of the YAML file that knows where it stands, so that errors can say it."""

    def __init__(self, data: Any, place: str):
        self.place = place
        if not isinstance(data, Mapping):
            raise RobotDescriptionError(f"{place}: expected a mapping of keys, got {shown(data)}.")
        self.data = data

    def keys(self, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> Section:
        allowed = required + optional
        for key in self.data:
            if key not in allowed:
                raise RobotDescriptionError(f"{self.place}: unknown key '{key}'. {nearest_names(key, allowed)}")
        missing = [key for key in required if key not in self.data]
        if missing:
            raise RobotDescriptionError(f"{self.place}: missing key '{missing[0]}'. Expected keys: {', '.join(allowed)}.")
        return self

    def _expected(self, key: str, what: str, value: Any) -> RobotDescriptionError:
        return RobotDescriptionError(f"{self.place}: {key}: expected {what}, got {shown(value)}.")

    def node(self, key: str) -> Section:
        return Section(self.data[key], f"{self.place}: {key}")

    def items(self, key: str) -> list[Section]:
        value = self.data[key]
        if not isinstance(value, list) or not value:
            raise self._expected(key, "a list with at least one entry", value)
        return [Section(item, f"{self.place}: {key}[{i}]") for i, item in enumerate(value)]

    def text(self, key: str, default: str | None = None) -> str:
        value = self.data.get(key, default)
        if not isinstance(value, str) or (not value and default is None):
            raise self._expected(key, "text", value)
        return value

    def topic(self, key: str, default: str | None = None) -> str:
        value = self.text(key, default)
        if value and not TOPIC.fullmatch(value):
            what = (
                "a topic such as left/joint_states or, outside every namespace, /left/joint_states (each level a letter or _, "
                "then letters, digits, _)"
            )
            raise self._expected(key, what, value)
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.data[key]
        if value not in choices:
            raise self._expected(key, f"one of {', '.join(choices)}", value)
        return value

    def number(self, key: str, above: float | None = None) -> float:
        value = self.data[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self._expected(key, "a finite number", value)
        if above is not None and value <= above:
            raise self._expected(key, f"a number above {above:g}", value)
        return float(value)

    def count(self, key: str) -> int:
        value = self.data[key]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 16384:
            raise self._expected(key, "a whole number from 1 to 16384", value)
        return value


def shown(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"
