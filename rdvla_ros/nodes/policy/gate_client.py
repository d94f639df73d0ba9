"""The gate as the policy sees it: whether trajectories may be sent now."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node

from rdvla_ros.control.supervision.delivery import LONGEST_S
from rdvla_ros.control.supervision.modes import PASSES, mode_name
from rdvla_ros.msg import GateStatus
from rdvla_ros.nodes.common import names
from rdvla_ros.nodes.common.conversions import printable
from rdvla_ros.nodes.common.gate_client import GateClient
from rdvla_ros.nodes.common.guard import Guard
from rdvla_ros.nodes.common.heartbeat import HeartbeatLink

SILENT = "the gate is silent"


class GateLink:
    """Listens to the gate's status and, with a heart that has GATE_HEARTBEAT among its peers, to its heartbeat.

    on_change(before, mode) is called when the mode or the hold is another one than before (None: there was none),
    on_refused(reason) when the gate refused what was sent in AUTO. A gate whose heartbeat ends while it passes motions makes the
    policy hold by itself: nothing is sent, and its own heartbeat asks for a hold until a gate has said that it holds.
    """

    def __init__(
        self,
        node: Node,
        timeout_s: float,
        on_change: Callable[[int | None, int], None],
        on_refused: Callable[[str], None],
        guard: Guard,
        heart: HeartbeatLink | None = None,
    ):
        self._heart, self._pulse = heart, heart and heart.peers[names.GATE_HEARTBEAT]
        self._node, self._timeout_s = node, timeout_s
        self._on_change, self._on_refused, self._guard = on_change, on_refused, guard
        self._since_s = time.monotonic()  # silence counts from here before the first status
        self._heard_s: float | None = None
        self._status: GateStatus | None = None
        self._client = GateClient(node, on_status=guard.wrap(self._on_status))

    def destroy(self) -> None:
        self._client.destroy()

    def standing_back(self) -> str:
        """Why no trajectory may be sent now; empty when one may."""
        self.watch(time.monotonic())
        if self.silent():
            return SILENT
        if self._heart is not None and self._heart.hold:
            return f"the policy holds by itself ({self._heart.hold})"
        if self._status.mode == GateStatus.AUTO:
            return ""
        passes = PASSES.get(self._status.mode, f"the gate is in {mode_name(self._status.mode)}")
        return f"{passes} ({printable(self._status.reason)})"

    def delivery_delay_s(self) -> float:
        """How much longer than usual the way from the gate to the controllers takes now, as the gate says. What is more than a
        gate can say counts as the most that it can."""
        said_s = self._status.delivery_delay_s if self._status is not None else 0.0
        return min(said_s, LONGEST_S) if said_s > 0.0 else 0.0  # not a number: not said

    def holds(self) -> bool:
        """A hold is in force already, as far as is known."""
        return self._status is not None and self._status.mode == GateStatus.HOLD

    def silent(self) -> bool:
        now_s = time.monotonic()
        if self._pulse is not None and self._pulse.lost(now_s):
            return True
        return self._heard_s is None or now_s - self._heard_s > self._timeout_s

    def watch(self, now_s: float) -> None:
        """Give it to the heart as on_watch: it asks for a hold once a gate that passed motions beats no more.

        It only sets `heart.hold`, in any thread; the epoch of the decisions ends with the change of mode that follows.
        """
        passing = self._status is not None and self._status.mode == GateStatus.AUTO
        if self._heart is not None and passing and not self._heart.hold and (lost := self._pulse.lost(now_s)):
            self._heart.ask_for_hold(lost)

    def complain_if_silent(self) -> None:
        silence_s = time.monotonic() - (self._heard_s or self._since_s)
        if silence_s > self._timeout_s:
            publishers = self._node.count_publishers(names.GATE_STATUS)
            self._guard.report(
                "gate",
                f"Waiting for {self._client.status_topic}: nothing received in {silence_s:.1f} s; publishers: {publishers}. "
                "Without a gate, start with gate:=false.",
            )

    def _on_status(self, status: GateStatus) -> None:
        before, self._status, self._heard_s = self._status, status, time.monotonic()
        if self._heart is not None and status.mode == GateStatus.HOLD and not self._pulse.lost(time.monotonic()):
            self._heart.hold = ""  # heard: the gate's own latch keeps the arms from here on
        if before is None or (before.mode, before.hold_id) != (status.mode, status.hold_id):
            self._on_change(before and before.mode, status.mode)
        elif status.mode == GateStatus.AUTO and status.refused > before.refused:
            self._on_refused(printable(status.last_refusal))
