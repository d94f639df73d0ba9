"""The gate's mode, changed under one lock by callbacks of several threads. Every change stops the arms and is told."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rdvla_ros.control.motion.trajectory import LONGEST_MOTION_S, LONGEST_STOP_S
from rdvla_ros.control.supervision.modes import Answer, GateModes, Mode
from rdvla_ros.control.supervision.pairing import Pairing
from rdvla_ros.nodes.gate.arms import LONGEST_LEAD_S, GateArms
from rdvla_ros.nodes.gate.parameters import GateParameters

STOP_OWED_S = LONGEST_MOTION_S + LONGEST_STOP_S  # what was on the wire has come to rest by then


class Authority:
    """`lock` is held while a motion is checked and sent, and while the mode changes: what comes after a hold finds it in force.

    arms: names. on_change(answer, stopped): after every change and every refusal, with the lock held.
    """

    def __init__(
        self,
        modes: GateModes,
        output: GateArms,
        arms: Sequence[str],
        values: GateParameters,
        logger: Any,
        on_change: Callable[[Answer], None],
    ):
        self.modes, self._output, self._arms, self._values = modes, output, tuple(arms), values
        self._logger, self._on_change = logger, on_change
        self.lock = threading.RLock()
        self.since_ros_s = output.ros_s()
        self.exceptions, self.last_exception = 0, ""
        self._owes_stop_until_s = -math.inf
        self._closed = ""  # why nothing is lifted any more
        self.pairings = {mode: self._pairing(self._arms) for mode in (Mode.AUTO, Mode.TAKEOVER)}

    def _pairing(self, arms: Sequence[str]) -> Pairing:
        return Pairing(arms, timeout_s=self._values.pair_timeout_s)

    @property
    def mode(self) -> Mode:
        return self.modes.mode

    def hold(self, reason: str, who: str) -> Answer:
        with self.lock:
            return self._after(self.modes.hold(time.monotonic(), reason, who), stops=True)

    def hold_safely(self, reason: str) -> None:
        """For use where something has already gone wrong: whatever else fails, the mode is HOLD afterwards."""
        self.exceptions, self.last_exception = self.exceptions + 1, reason
        try:
            self.hold(reason, "gate")
        except Exception as error:
            self._logger.error(f"The stop could not be sent ({type(error).__name__}: {error}); nothing passes any more.")

    def close(self, reason: str) -> None:
        """The last hold: nothing lifts it."""
        with self.lock:
            self._closed = reason
            try:
                self.hold(reason, "gate")
            except Exception as error:
                self._logger.error(f"The stop could not be sent ({type(error).__name__}: {error}).")

    def pause(self, reason: str, who: str) -> Answer:
        with self.lock:
            answer = self.modes.pause(time.monotonic(), reason, who)
            return self._after(answer, stops=True) if answer.changed else answer

    def review(self, causes: Sequence[str]) -> None:
        """What becomes of a pause."""
        with self.lock:
            causes = self._with_end(causes)
            before = self.modes.state
            answer = self.modes.review(time.monotonic(), causes)
            if answer.changed:
                self._after(answer, stops=False, began_s=before.since_s if self.mode is Mode.AUTO else None)

    def resume(self, hold_id: int, who: str, causes: Sequence[str]) -> Answer:
        with self.lock:
            causes = self._with_end(causes)
            began_s = self.modes.state.since_s
            answer = self.modes.resume(time.monotonic(), hold_id, who, causes)
            return self._after(answer, stops=False, began_s=began_s if answer.changed else None)

    def set_mode(self, mode: int, reason: str, who: str, arms: Sequence[str], causes: Sequence[str]) -> Answer:
        with self.lock:
            causes = self._with_end(causes)
            before, held = self.modes.state, self.modes.holding
            answer = self.modes.set_mode(time.monotonic(), mode, reason, who, causes, arms)
            if answer.changed and self.mode is Mode.TAKEOVER:
                self.pairings[Mode.TAKEOVER] = self._pairing(self.modes.state.arms)
            return self._after(answer, stops=not held, began_s=before.since_s if held and answer.changed else None)

    def _with_end(self, causes: Sequence[str]) -> list[str]:
        return [*causes, f"{self._closed[:1].upper()}{self._closed[1:]}."] if self._closed else list(causes)

    def forget(self) -> None:
        """What was sent is not what the arms follow any more: a controller began anew."""
        with self.lock:
            self._output.forget()

    def clock_jumped(self, jump: str) -> None:
        """What was sent and heard has times of another clock. Arms that may be moving are stopped as soon as it is known again
        where they are: `catch_up`."""
        with self.lock:
            moving = self._output.motion_check.follows
            self._output.forget(reports=True)
            if self.mode is not Mode.HOLD:
                self.hold(jump, "gate")
            self._owes_stop_until_s = time.monotonic() + STOP_OWED_S if moving else -math.inf

    def catch_up(self, now_s: float) -> None:
        """Send the stop that a clock's jump made impossible."""
        with self.lock:
            owes = now_s < self._owes_stop_until_s and self.modes.holding
            if owes and self._output.informed() and not self._output.stop():
                self._owes_stop_until_s = -math.inf
                self._logger.warning("The arms were stopped from where their controllers, or their joints, are after the jump.")

    def _after(self, answer: Answer, *, stops: bool, began_s: float | None = None) -> Answer:
        if answer.changed:
            self.since_ros_s = self._output.ros_s()
            if stops:
                answer = self._stopped(answer)
            if began_s is not None and time.monotonic() - began_s > LONGEST_STOP_S + max(
                LONGEST_LEAD_S, self._values.hold_lead_s
            ):
                self._output.forget()  # the arms may have been moved by hand
        if answer.changed or not answer.accepted:
            self._on_change(answer)
        return answer

    def _stopped(self, answer: Answer) -> Answer:
        """Send the stop that belongs to a change of mode; where none can be sent, the answer says so."""
        for pairing in self.pairings.values():
            pairing.clear()  # what waited for its other half is from before the stop
        try:
            problem = self._output.stop()
        except Exception as error:
            self.exceptions, self.last_exception = self.exceptions + 1, f"at a stop: {type(error).__name__}: {error}"
            problem = f"No stop was sent ({type(error).__name__}: {error}); what is on the wire ends at rest by itself."
            self._logger.error(problem)
        return replace(answer, message=f"{answer.message} {problem}".rstrip())

    def expired(self, now_s: float) -> Mapping[Mode, list]:
        """Parts of motions whose other half did not come in time."""
        with self.lock:
            return {source: pairing.expired(now_s) for source, pairing in self.pairings.items()}
