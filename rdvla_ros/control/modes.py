"""Who may move the arms: the gate's mode as a pure state machine. Time comes in as an argument [s].

AUTO passes the policy's motion, TAKEOVER a teleoperation source's, HOLD nothing. A hold is latched: its first reason is
kept, further holds change nothing, and only a resume that names its number lifts it, once nothing stands in the way.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

LONGEST_TEXT = 300  # characters of a reason or name that are kept


class Mode(enum.IntEnum):
    """As in GateStatus."""

    AUTO = 0
    HOLD = 1
    TAKEOVER = 2


@dataclass(frozen=True)
class ModeState:
    """hold_id: number of the hold in force or of the last one, 0 before the first. since_s: when the mode began."""

    mode: Mode
    hold_id: int
    reason: str
    who: str
    since_s: float


@dataclass(frozen=True)
class Answer:
    """What a request came to. changed: the mode is another one than before, so the arms and the operator must be told."""

    accepted: bool
    changed: bool
    message: str
    causes: tuple[str, ...] = ()


@dataclass
class Counts:
    """Since start: hold requests while a hold was in force already."""

    repeated_holds: int = 0


class GateModes:
    """Single-threaded: the caller serialises. Every method leaves a valid state and raises nothing."""

    def __init__(self, now_s: float, reason: str = "start-up: not resumed yet"):
        """On a robot, doubt means hold: it begins with hold 1."""
        self.counts = Counts()
        self.state = ModeState(Mode.AUTO, 0, "", "gate", now_s)
        self.hold(now_s, reason, "gate")

    @property
    def mode(self) -> Mode:
        return self.state.mode

    @property
    def holding(self) -> bool:
        return self.state.mode is Mode.HOLD

    def hold(self, now_s: float, reason: str, who: str) -> Answer:
        """Always accepted, in every mode."""
        reason, who = _one_line(reason) or "operator", _one_line(who) or "operator"
        if self.holding:
            self.counts.repeated_holds += 1
            return Answer(True, False, f"Hold {self.state.hold_id} is in force already: {self.state.reason}.")
        self.state = ModeState(Mode.HOLD, self.state.hold_id + 1, reason, who, now_s)
        return Answer(True, True, f"Hold {self.state.hold_id} begins: {reason}.")

    def resume(self, now_s: float, hold_id: int, who: str, causes: Sequence[str]) -> Answer:
        """To AUTO. causes: what stands in the way at this moment."""
        refusal = self._refusal(hold_id, causes)
        if refusal is not None:
            return refusal
        who = _one_line(who) or "operator"
        self.state = replace(self.state, mode=Mode.AUTO, reason=f"hold {hold_id} lifted", who=who, since_s=now_s)
        return Answer(True, True, f"Hold {hold_id} is lifted; the policy's next motion passes.")

    def set_mode(self, now_s: float, mode: int, reason: str, who: str, causes: Sequence[str]) -> Answer:
        """HOLD from everywhere, TAKEOVER from everywhere while nothing stands in the way, AUTO never (that is `resume`)."""
        if mode == Mode.HOLD:
            return self.hold(now_s, reason, who)
        if mode == Mode.TAKEOVER:
            return self._takeover(now_s, reason, who, causes)
        if mode == self.state.mode:
            return Answer(True, False, "The mode is AUTO already.")
        if mode == Mode.AUTO:
            way = f"resume hold {self.state.hold_id}" if self.holding else "set HOLD first, then resume that hold"
            return Answer(False, False, f"AUTO is reached by a resume only: {way}.")
        return Answer(False, False, f"Expected mode 0 (AUTO), 1 (HOLD) or 2 (TAKEOVER), got {mode}.")

    def _takeover(self, now_s: float, reason: str, who: str, causes: Sequence[str]) -> Answer:
        if self.state.mode is Mode.TAKEOVER:
            return Answer(True, False, f"The mode is TAKEOVER already, by {self.state.who}.")
        if causes:
            return Answer(False, False, f"No takeover while this lasts: {' '.join(causes)}", tuple(causes))
        reason, who = _one_line(reason) or "operator", _one_line(who) or "operator"
        self.state = replace(self.state, mode=Mode.TAKEOVER, reason=reason, who=who, since_s=now_s)
        return Answer(True, True, f"{who} takes over; giving back needs a hold and its resume.")

    def _refusal(self, hold_id: int, causes: Sequence[str]) -> Answer | None:
        if self.state.mode is Mode.TAKEOVER:
            return Answer(False, False, "There is no hold to lift: the mode is TAKEOVER. Set HOLD first, then resume that hold.")
        if not self.holding:
            return Answer(False, False, "There is no hold to lift: the mode is AUTO already.")
        if hold_id != self.state.hold_id:
            return Answer(False, False, f"Expected the hold in force, {self.state.hold_id} ({self.state.reason}), got {hold_id}.")
        if causes:
            return Answer(False, False, f"Hold {hold_id} stays: {' '.join(causes)}", tuple(causes))
        return None


def _one_line(text: str) -> str:
    """Operator text for logs and displays: printable characters of one line, without the final full stop, bounded."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(text)[: 4 * LONGEST_TEXT]).split())
    return text[:LONGEST_TEXT].rstrip(".")
