"""What the operator does: services of the gate and the policy, called without waiting.

A call goes out at once, from the thread of the click (it only hands the request to the middleware). Answers and time-outs come
in the node's thread and end up in the model; every act and its outcome is one line of the log, with the operator's name.
A hold that is not answered is asked for again until it is, or until GIVE_UP_S have passed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rclpy.node import Node

from rdvla_ros.control.supervision.modes import Mode
from rdvla_ros.dashboard.model import Model
from rdvla_ros.nodes.common import names, qos
from rdvla_ros.nodes.common.gate_client import GateClient
from rdvla_ros.srv import Hold, Resume, SetInstruction, SetMode

ANSWER_S = 3.0  # an act that has no answer by then is reported as unanswered
AGAIN_S = 0.5  # a hold is asked for again this often
GIVE_UP_S = 15.0


@dataclass
class _Ask:
    number: int
    who: str
    what: str
    client: Any
    call: Callable[[], Any]  # sends it; gives a future
    begun_s: float
    sent_s: float = -1e9
    insists: bool = False  # a hold


class Acts:
    """Every method returns at once. who: the operator's name."""

    def __init__(self, node: Node, model: Model, gate: GateClient):
        """gate: with the calls Hold, Resume and SetMode."""
        self._node, self._model, self._gate = node, model, gate
        self._lock = threading.Lock()
        self._asks: dict[int, _Ask] = {}
        self._instruct = node.create_client(SetInstruction, names.POLICY_SET_INSTRUCTION, qos_profile=qos.SERVICE)

    def hold(self, who: str, reason: str = "hold from the dashboard") -> None:
        self._begin(who, "hold", self._gate.client(Hold), lambda: self._gate.hold(reason, who), insists=True)

    def resume(self, who: str, hold_id: int) -> None:
        self._begin(who, f"resume of hold {hold_id}", self._gate.client(Resume), lambda: self._gate.resume(hold_id, who))

    def take_over(self, who: str, arms: Sequence[str]) -> None:
        what = f"takeover of {' and '.join(arms)}"
        call = partial(self._gate.set_mode, int(Mode.TAKEOVER), f"{what} from the dashboard", who, arms)
        self._begin(who, what, self._gate.client(SetMode), call)

    def instruct(self, who: str, text: str) -> int:
        """-> the act's number."""
        request = SetInstruction.Request(instruction=text, who=who)
        return self._begin(who, f"instruction '{text}'", self._instruct, lambda: self._instruct.call_async(request))

    def poll(self) -> None:
        """Time-outs, and holds that are asked for again. In the node's thread."""
        now_s = time.monotonic()
        with self._lock:
            asks = list(self._asks.values())
        for ask in asks:
            if now_s - ask.begun_s > (GIVE_UP_S if ask.insists else ANSWER_S):
                self._end(ask, "no answer: whether it was done is not known. Look at the mode.", False)
            elif ask.insists and now_s - ask.sent_s > AGAIN_S:
                self._send(ask, now_s)

    def _begin(self, who: str, what: str, client: Any, call: Callable[[], Any], insists: bool = False) -> int:
        now_s = time.monotonic()
        number = self._model.begin_act(time.time(), who, what)
        ask = _Ask(number, who, what, client, call, begun_s=now_s, insists=insists)
        with self._lock:
            self._asks[number] = ask
        self._send(ask, now_s)
        self._node.get_logger().info(f"Operator '{who}': {what}.")
        return number

    def _send(self, ask: _Ask, now_s: float) -> None:
        ask.sent_s = now_s
        try:
            ready = ask.client.service_is_ready()
            if ready:
                ask.call().add_done_callback(lambda future: self._answered(ask, future))
        except Exception as error:  # the context has gone, say
            return self._end(ask, f"not sent: {type(error).__name__}: {error}", False)
        if not ready and not ask.insists:
            self._end(ask, f"not sent: nobody serves {ask.client.srv_name}.", False)
        return None

    def _answered(self, ask: _Ask, future: Any) -> None:
        try:
            answer = future.result()
            text, good = answer.message, answer.accepted
        except Exception as error:
            text, good = f"failed: {type(error).__name__}: {error}", False
        self._end(ask, text, good)

    def _end(self, ask: _Ask, outcome: str, good: bool) -> None:
        with self._lock:
            if self._asks.pop(ask.number, None) is None:
                return
        self._model.end_act(ask.number, outcome, good)
        text = f"Operator '{ask.who}': {ask.what}: {outcome}"
        if good:
            self._node.get_logger().info(text)
        else:
            self._node.get_logger().warning(text)
