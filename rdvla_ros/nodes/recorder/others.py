"""The parameters of the other nodes: asked for once each, and their changes heard."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rcl_interfaces.msg import ParameterEvent
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.task import Future

from rdvla_ros.nodes.common import conversions, qos
from rdvla_ros.nodes.common.guard import Guard

LOOK_S = 1.0  # from one try to the next, until all have answered
EVENTS = "/parameter_events"
MOST_CHANGES = 1000


class ParametersOfOthers:
    """note(about): called with the whole of `parameters` and `parameter_changes` whenever they have grown."""

    def __init__(self, node: Node, others: Sequence[str], guard: Guard, note: Callable[[dict[str, Any]], None]):
        self._node, self._guard, self._note = node, guard, note
        self._parameters: dict[str, dict[str, Any]] = {}
        self._changes: list[dict[str, Any]] = []
        self._pending: dict[str, Future | None] = dict.fromkeys(others)
        self._full = {node.resolve_topic_name(other): other for other in others}  # /cell_1/gate -> gate
        self._list = {name: node.create_client(ListParameters, f"{name}/list_parameters") for name in others}
        self._get = {name: node.create_client(GetParameters, f"{name}/get_parameters") for name in others}
        node.create_subscription(ParameterEvent, EVENTS, guard.wrap(self._changed), qos.RELIABLE)
        self._timer = node.create_timer(LOOK_S, guard.wrap(self._look), clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _look(self) -> None:
        waiting = [name for name in self._pending if name not in self._parameters]
        if not waiting:
            self._timer.cancel()
        for name in waiting:
            if self._pending[name] is None and self._list[name].service_is_ready() and self._get[name].service_is_ready():
                self._pending[name] = future = self._list[name].call_async(ListParameters.Request())
                future.add_done_callback(self._guard.wrap(partial(self._listed, name)))

    def _listed(self, name: str, future: Future) -> None:
        found = [parameter for parameter in future.result().result.names if not parameter.startswith("qos_overrides.")]
        asked = self._get[name].call_async(GetParameters.Request(names=found))
        asked.add_done_callback(self._guard.wrap(partial(self._got, name, found)))

    def _got(self, name: str, found: list[str], future: Future) -> None:
        values = future.result().values
        self._parameters[name] = {key: _plain(value) for key, value in zip(found, values, strict=False)}
        self._tell()

    def _changed(self, event: ParameterEvent) -> None:
        name = self._full.get(event.node)
        if name is None or not event.changed_parameters or len(self._changes) >= MOST_CHANGES:
            return
        at_s = conversions.seconds(event.stamp)
        self._changes += [
            {"at_s": at_s, "node": name, "name": p.name, "value": _plain(p.value)} for p in event.changed_parameters
        ]
        self._tell()

    def _tell(self) -> None:
        self._note({"parameters": dict(self._parameters), "parameter_changes": list(self._changes)})


def _plain(value: Any) -> Any:
    """As JSON may hold it."""
    value = parameter_value_to_python(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else list(value)
