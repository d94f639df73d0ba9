"""The services of the gate: hold, resume and set_mode, answered beside the node's callbacks."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.node import Node

from rdvla_ros.nodes.common import qos
from rdvla_ros.nodes.common.guard import Guard
from rdvla_ros.nodes.common.side_node import SideNode
from rdvla_ros.nodes.gate.authority import Authority
from rdvla_ros.srv import Hold, Resume, SetMode


class GateServices:
    """causes(for_takeover): all that stands in the way at this moment."""

    def __init__(
        self,
        main: Node,
        side: SideNode,
        authority: Authority,
        causes: Callable[[bool], list[str]],
        guard: Guard,
    ):
        self._authority, self._causes = authority, causes
        for kind, name, handle in (
            (Hold, "hold", self._on_hold),
            (Resume, "resume", self._on_resume),
            (SetMode, "set_mode", self._on_set_mode),
        ):
            # the full name, with the remappings that the first node was given
            side.node.create_service(kind, main.resolve_service_name(f"~/{name}"), guard.wrap(handle), qos_profile=qos.SERVICE)

    def _on_hold(self, request: Hold.Request, response: Hold.Response) -> Hold.Response:
        modes = self._authority.modes
        try:
            response.message = self._authority.hold(request.reason or "operator", request.who or "operator").message
        finally:  # whatever fails after the change of mode: the hold is in force, and the operator must know its number
            response.accepted, response.hold_id = modes.holding, modes.state.hold_id
        return response

    def _on_resume(self, request: Resume.Request, response: Resume.Response) -> Resume.Response:
        answer = self._authority.resume(request.hold_id, request.who, self._causes(False))
        response.accepted, response.message, response.causes = answer.accepted, answer.message, list(answer.causes)
        return response

    def _on_set_mode(self, request: SetMode.Request, response: SetMode.Response) -> SetMode.Response:
        answer = self._authority.set_mode(request.mode, request.reason, request.who, list(request.arms), self._causes(True))
        state = self._authority.modes.state
        response.accepted, response.message = answer.accepted, answer.message
        response.mode, response.hold_id = int(state.mode), state.hold_id
        return response
