"""Who may move the arms: the gate's mode as a pure state machine. Time comes in as an argument, from a steady clock [s].

AUTO passes the policy's motion, TAKEOVER a teleoperation source's, HOLD and PAUSE nothing.

HOLD is latched: its first reason is kept, further holds change nothing, and only a resume that names its number lifts it, once
nothing stands in the way. PAUSE is for what may pass by itself, such as a camera that misses a few images, and only ever
interrupts AUTO. It has a number like a hold, and a resume may lift it; what else becomes of it is the PauseRule's alone. An
operator's hold ends a pause: whatever was to resume by itself then needs the operator.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

LONGEST_TEXT = 300  # characters of a reason or name that are kept
RACE_S = 0.1  # a resume that comes so soon after a repeated hold was sent before its sender could know of that


class Mode(enum.IntEnum):
    """As in GateStatus."""

    AUTO = 0
    HOLD = 1
    TAKEOVER = 2
    PAUSE = 3


# Whose motions pass, as part of a sentence.
PASSES = {
    Mode.AUTO: "the policy's motions pass",
    Mode.HOLD: "the gate holds",
    Mode.TAKEOVER: "the teleoperation source's motions pass",
    Mode.PAUSE: "the gate pauses",
}


def mode_name(value: int) -> str:
    """'AUTO', ...; also for a number that a later version sends."""
    return Mode(value).name if value in set(Mode) else f"unknown mode {value}"


@dataclass(frozen=True)
class PauseRule:
    """auto_resume: a pause ends by itself after healthy_s [s] in which nothing stood in the way.

    Without it, and after longest_s [s] in any case, a pause becomes a hold. The default is the careful one: what has stopped
    the arms once needs a person to start them again.
    """

    auto_resume: bool = False
    healthy_s: float = 1.0
    longest_s: float = 2.0


@dataclass(frozen=True)
class ModeState:
    """hold_id: number of the hold or pause in force or of the last one, 0 before the first. since_s: when the mode began.
    arms: those that are taken over; empty outside TAKEOVER."""

    mode: Mode
    hold_id: int
    reason: str
    who: str
    since_s: float
    arms: tuple[str, ...] = ()


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
    """The caller serialises. Every method leaves a valid state and raises nothing."""

    def __init__(
        self,
        now_s: float,
        reason: str = "start-up: not resumed yet",
        *,
        arms: Sequence[str] = (),
        pauses: PauseRule = PauseRule(),
    ):
        """On a robot, doubt means hold: it begins with hold 1. arms: all there are."""
        self.counts = Counts()
        self._arms, self._pauses = tuple(arms), pauses
        self._healthy_since_s: float | None = None
        self._repeated_s = -math.inf  # when a hold was last asked for while one was in force
        self.state = ModeState(Mode.AUTO, 0, "", "gate", now_s)
        self.hold(now_s, reason, "gate")

    @property
    def mode(self) -> Mode:
        return self.state.mode

    @property
    def holding(self) -> bool:
        """Nothing passes."""
        return self.state.mode in (Mode.HOLD, Mode.PAUSE)

    def hold(self, now_s: float, reason: str, who: str) -> Answer:
        """Always accepted, in every mode."""
        reason, who = _one_line(reason) or "operator", _one_line(who) or "operator"
        if self.mode is Mode.HOLD:
            self.counts.repeated_holds += 1
            self._repeated_s = now_s
            return Answer(True, False, f"Hold {self.state.hold_id} is in force already: {self.state.reason}.")
        self.state = ModeState(Mode.HOLD, self.state.hold_id + 1, reason, who, now_s)
        return Answer(True, True, f"Hold {self.state.hold_id} begins: {reason}.")

    def resume(self, now_s: float, hold_id: int, who: str, causes: Sequence[str]) -> Answer:
        """To AUTO. causes: all that stands in the way at this moment."""
        refusal = self._refusal(now_s, hold_id, causes)
        if refusal is not None:
            return refusal
        self._to_auto(now_s, f"hold {hold_id} lifted", _one_line(who) or "operator")
        return Answer(True, True, f"Hold {hold_id} is lifted; the policy's next motion passes.")

    def set_mode(self, now_s: float, mode: int, reason: str, who: str, causes: Sequence[str], arms: Sequence[str] = ()) -> Answer:
        """HOLD from everywhere, TAKEOVER from everywhere while nothing stands in the way, AUTO never (that is `resume`)."""
        if mode == Mode.HOLD:
            return self.hold(now_s, reason, who)
        if mode == Mode.TAKEOVER:
            return self._takeover(now_s, reason, who, causes, arms)
        if mode == self.state.mode:
            return Answer(True, False, f"The mode is {self.mode.name} already.")
        if mode == Mode.AUTO:
            way = f"resume hold {self.state.hold_id}" if self.holding else "set HOLD first, then resume that hold"
            return Answer(False, False, f"AUTO is reached by a resume only: {way}.")
        if mode == Mode.PAUSE:
            return Answer(False, False, "A pause is the gate's own. Expected HOLD, which an operator may ask for at any time.")
        return Answer(False, False, f"Expected mode 0 (AUTO), 1 (HOLD) or 2 (TAKEOVER), got {mode}.")

    # -- pauses, and nothing else, end by themselves

    def pause(self, now_s: float, reason: str, who: str) -> Answer:
        """Interrupts AUTO; in every other mode there is nothing to pause."""
        if self.mode is not Mode.AUTO:
            return Answer(False, False, f"Nothing to pause: the mode is {self.mode.name}.")
        self._healthy_since_s = None
        self.state = ModeState(Mode.PAUSE, self.state.hold_id + 1, _one_line(reason) or "gate", _one_line(who) or "gate", now_s)
        return Answer(True, True, f"Pause {self.state.hold_id} begins: {self.state.reason}.")

    def review(self, now_s: float, causes: Sequence[str]) -> Answer:
        """What becomes of a pause now; call it regularly. causes: all that stands in the way."""
        unchanged = Answer(True, False, "")
        if self.mode is not Mode.PAUSE:
            return unchanged
        if causes:
            self._healthy_since_s = None
        elif self._healthy_since_s is None:
            self._healthy_since_s = now_s
        number, reason = self.state.hold_id, self.state.reason
        healthy = self._healthy_since_s is not None and now_s - self._healthy_since_s >= self._pauses.healthy_s
        if healthy and self._pauses.auto_resume:
            self._to_auto(now_s, f"pause {number} over: {reason}", "gate")
            return Answer(True, True, f"Pause {number} is over after {self._pauses.healthy_s:g} s in which all was well.")
        recovering = self._pauses.auto_resume and self._healthy_since_s is not None
        if now_s - self.state.since_s > self._pauses.longest_s and not recovering:
            self.state = replace(self.state, mode=Mode.HOLD)  # since_s, number and first reason stay
            return Answer(True, True, f"Pause {number} has become a hold: {reason}.")
        return unchanged

    def _to_auto(self, now_s: float, reason: str, who: str) -> None:
        self.state = ModeState(Mode.AUTO, self.state.hold_id, reason, who, now_s)

    def _takeover(self, now_s: float, reason: str, who: str, causes: Sequence[str], arms: Sequence[str]) -> Answer:
        wanted = tuple(arm for arm in self._arms if arm in arms) if arms else self._arms
        if unknown := [arm for arm in arms if arm not in self._arms]:
            return Answer(False, False, f"Expected arms among {', '.join(self._arms)}, got '{_one_line(unknown[0])}'.")
        if self.mode is Mode.TAKEOVER and wanted == self.state.arms:
            return Answer(True, False, f"The mode is TAKEOVER already, by {self.state.who}.")
        if causes:
            return Answer(False, False, f"No takeover while this lasts: {' '.join(causes)}", tuple(causes))
        reason, who = _one_line(reason) or "operator", _one_line(who) or "operator"
        self.state = ModeState(Mode.TAKEOVER, self.state.hold_id, reason, who, now_s, wanted)
        return Answer(True, True, f"{who} takes over {', '.join(wanted) or 'the arms'}; giving back needs a hold and its resume.")

    def _refusal(self, now_s: float, hold_id: int, causes: Sequence[str]) -> Answer | None:
        if self.mode is Mode.TAKEOVER:
            return Answer(False, False, "There is no hold to lift: the mode is TAKEOVER. Set HOLD first, then resume that hold.")
        if not self.holding:
            return Answer(False, False, "There is no hold to lift: the mode is AUTO already.")
        if hold_id != self.state.hold_id:
            return Answer(False, False, f"Expected the hold in force, {self.state.hold_id} ({self.state.reason}), got {hold_id}.")
        if causes:
            return Answer(False, False, f"Hold {hold_id} stays: {' '.join(causes)}", tuple(causes))
        if 0.0 <= now_s - self._repeated_s < RACE_S:
            return Answer(False, False, f"Hold {hold_id} stays: it was asked for again at the same moment. Resume once more.")
        return None


def _one_line(text: str) -> str:
    """Operator text for logs and displays: printable characters of one line, without the final full stop, bounded."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(text)[: 4 * LONGEST_TEXT]).split())
    return text[:LONGEST_TEXT].rstrip(".")
