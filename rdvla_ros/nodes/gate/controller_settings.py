"""Reads what the arms' controllers are set to, over their parameter services, and compares it with the robot description."""

from __future__ import annotations

from functools import partial
from typing import Any

from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters
from rclpy.node import Node

from rdvla_ros.control.supervision import controller_check
from rdvla_ros.nodes.common.guard import Guard
from rdvla_ros.robot import RobotDescription

RATE = "update_rate"
_FIELDS = {
    ParameterType.PARAMETER_BOOL: "bool_value",
    ParameterType.PARAMETER_INTEGER: "integer_value",
    ParameterType.PARAMETER_DOUBLE: "double_value",
}


class ControllerSettings:
    """`look` asks each controller once it can be asked, and again after `forget`; a controller that has no such service (a driver
    of another kind) is not judged. What has no rate of its own has that of the controller manager beside it."""

    def __init__(self, node: Node, robot: RobotDescription, guard: Guard):
        self._node, self._robot, self._guard = node, robot, guard
        managers = {arm.name: arm.controller_manager for arm in robot.arms}
        clients = {manager: self._client(manager) for manager in set(managers.values())}
        self._clients = {arm.name: self._client(arm.controller) for arm in robot.arms}
        self._managers = {arm: clients[manager] for arm, manager in managers.items()}
        self._values: dict[str, dict[str, Any]] = {}
        self._asked: set[str] = set()

    def _client(self, node_name: str) -> Any:
        return self._node.create_client(GetParameters, f"{node_name}/get_parameters")

    def forget(self, arm: str) -> None:
        """Its controller began anew."""
        self._asked.discard(arm)
        self._values.pop(arm, None)

    def look(self) -> None:
        for arm, client in self._clients.items():
            if arm not in self._asked and client.service_is_ready():
                self._asked.add(arm)
                self._values[arm] = {}
                for name in controller_check.PARAMETERS:  # one by one: a node may refuse all for one that it does not have
                    self._ask(client, name, partial(self._told, arm, name))

    def _ask(self, client: Any, name: str, then: Any) -> None:
        future = client.call_async(GetParameters.Request(names=[name]))
        future.add_done_callback(self._guard.wrap(lambda done: then(_value(done.result()))))

    def _told(self, arm: str, name: str, value: Any) -> None:
        if arm not in self._values:
            return
        manager = self._managers[arm]
        if name == RATE and not value and manager.service_is_ready():
            self._ask(manager, RATE, partial(self._keep, arm, RATE))
        else:
            self._keep(arm, name, value)

    def _keep(self, arm: str, name: str, value: Any) -> None:
        if value is not None and arm in self._values:
            self._values[arm][name] = value

    def causes(self) -> list[str]:
        return [
            problem
            for arm, values in list(self._values.items())
            for problem in controller_check.problems(arm, self._robot.controller, dict(values))
        ]


def _value(response: GetParameters.Response | None) -> Any:
    """None where the node has no such parameter."""
    if response is None or not response.values:
        return None
    field = _FIELDS.get(response.values[0].type)
    return None if field is None else getattr(response.values[0], field)
