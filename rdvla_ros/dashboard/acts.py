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
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile

from rdvla_ros.control.supervision.modes import Mode
from rdvla_ros.dashboard.model import Model
from rdvla_ros.srv import Hold, Resume, SetInstruction, SetMode

ANSWER_S = 3.0  # an act that has no answer by then is reported as unanswered
AGAIN_S = 0.5  # a hold is asked for again this often
GIVE_UP_S = 15.0
CALLS = QoSProfile(depth=100)


@dataclass
class _Ask:
    number: int
    who: str
    what: str
    client: Any
    request: Any
    judge: Callable[[Any], tuple[str, bool]]
    begun_s: float
    sent_s: float = -1e9
    insists: bool = False  # a hold


class Acts:
    """Every method returns at once. who: the operator's name."""

    def __init__(self, node: Node, model: Model):
        self._node, self._model = node, model
        self._lock = threading.Lock()
        self._asks: dict[int, _Ask] = {}
        self._hold = node.create_client(Hold, "gate/hold", qos_profile=CALLS)
        self._resume = node.create_client(Resume, "gate/resume", qos_profile=CALLS)
        self._set_mode = node.create_client(SetMode, "gate/set_mode", qos_profile=CALLS)
        self._instruct = node.create_client(SetInstruction, "policy/set_instruction", qos_profile=CALLS)

    def hold(self, who: str, reason: str = "") -> None:
        request = Hold.Request(reason=reason or "hold from the dashboard", who=who)
        self._begin(who, "hold", self._hold, request, lambda a: (a.message, a.accepted), insists=True)

    def resume(self, who: str, hold_id: int) -> None:
        what = f"resume of hold {hold_id}"
        self._begin(who, what, self._resume, Resume.Request(hold_id=hold_id, who=who), lambda a: (a.message, a.accepted))

    def take_over(self, who: str, arms: Sequence[str]) -> None:
        reason = f"takeover of {' and '.join(arms)} from the dashboard"
        request = SetMode.Request(mode=int(Mode.TAKEOVER), who=who, reason=reason, arms=list(arms))
        self._begin(who, f"takeover of {' and '.join(arms)}", self._set_mode, request, lambda a: (a.message, a.accepted))

    def instruct(self, who: str, text: str) -> None:
        request = SetInstruction.Request(instruction=text)
        self._begin(who, f"instruction '{text}'", self._instruct, request, lambda a: (a.message, a.accepted))

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

    def _begin(self, who: str, what: str, client: Any, request: Any, judge: Callable, insists: bool = False) -> None:
        now_s = time.monotonic()
        number = self._model.begin_act(time.time(), who, what)
        ask = _Ask(number, who, what, client, request, judge, begun_s=now_s, insists=insists)
        with self._lock:
            self._asks[number] = ask
        self._send(ask, now_s)
        self._node.get_logger().info(f"Operator '{who}': {what}.")

    def _send(self, ask: _Ask, now_s: float) -> None:
        ask.sent_s = now_s
        try:
            ready = ask.client.service_is_ready()
            if ready:
                ask.client.call_async(ask.request).add_done_callback(lambda future: self._answered(ask, future))
        except Exception as error:  # the context has gone, say
            return self._end(ask, f"not sent: {type(error).__name__}: {error}", False)
        if not ready and not ask.insists:
            self._end(ask, f"not sent: nobody serves {ask.client.srv_name}.", False)
        return None

    def _answered(self, ask: _Ask, future: Any) -> None:
        try:
            text, good = ask.judge(future.result())
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
