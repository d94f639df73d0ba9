"""The gate as everybody else uses it: its newest status, and its services."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rclpy.node import Node
from rclpy.task import Future

from rdvla_ros.control.supervision.modes import mode_name
from rdvla_ros.msg import GateStatus
from rdvla_ros.nodes.common import names, qos
from rdvla_ros.srv import Hold, Resume, SetMode

SERVICES = {Hold: names.GATE_HOLD, Resume: names.GATE_RESUME, SetMode: names.GATE_SET_MODE}


class GateClient:
    """Subscribes on construction. on_status(status): called for every status, in the node's executor; wrap it in a guard where
    it may raise. calls: the services that will be called (Hold, Resume, SetMode). Calls return futures: nothing here waits.
    who: an operator's or a node's name, for the gate's log."""

    def __init__(
        self,
        node: Node,
        calls: Sequence[type] = (),
        on_status: Callable[[GateStatus], None] = lambda status: None,
    ):
        self._node, self._on_status = node, on_status
        self.status: GateStatus | None = None
        self.status_topic = node.resolve_topic_name(names.GATE_STATUS)
        # made now: a request before the gate's answer can find its way back is lost
        self._clients = {kind: node.create_client(kind, SERVICES[kind], qos_profile=qos.SERVICE) for kind in calls}
        self._subscription = node.create_subscription(
            GateStatus,
            names.GATE_STATUS,
            self._heard,
            qos.LATCHED,
            event_callbacks=qos.log_mismatch(node, self.status_topic),
        )

    @property
    def mode_name(self) -> str:
        """'AUTO', 'HOLD', ...; empty before the first status."""
        return mode_name(self.status.mode) if self.status else ""

    def client(self, kind: type) -> Any:
        """The rclpy client of Hold, Resume or SetMode; one of `calls`."""
        return self._clients[kind]

    def hold(self, reason: str, who: str) -> Future:
        """Stops the arms, in every mode."""
        return self.client(Hold).call_async(Hold.Request(reason=reason, who=who))

    def resume(self, hold_id: int, who: str) -> Future:
        """Lifts the hold of this number, once nothing stands in the way."""
        return self.client(Resume).call_async(Resume.Request(hold_id=hold_id, who=who))

    def set_mode(self, mode: int, reason: str, who: str, arms: Sequence[str] = ()) -> Future:
        """arms: those a teleoperation source takes over; empty: all."""
        return self.client(SetMode).call_async(SetMode.Request(mode=mode, reason=reason, who=who, arms=list(arms)))

    def destroy(self) -> None:
        self._node.destroy_subscription(self._subscription)
        for client in self._clients.values():
            self._node.destroy_client(client)
        self._clients.clear()

    def _heard(self, status: GateStatus) -> None:
        self.status = status
        self._on_status(status)
