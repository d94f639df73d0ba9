"""Is what is shown still true? Four states that are never mixed up. Times come in as arguments, from the steady clock [s]."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.Enum):
    """value: the word for people."""

    UNKNOWN = "unknown"  # nothing has come yet
    LIVE = "live"
    STALE = "stale"  # it came once and is late
    DEAD = "dead"  # its sender is gone, or silent for too long

    @property
    def symbol(self) -> str:
        """A sign of its own for each state: colour is never the only one."""
        return {State.UNKNOWN: "?", State.LIVE: "●", State.STALE: "◐", State.DEAD: "✕"}[self]


@dataclass(frozen=True)
class Seen:
    """How a source stands at one moment. age_s: since the last message; infinity before the first."""

    state: State
    age_s: float

    @property
    def live(self) -> bool:
        return self.state is State.LIVE

    def text(self) -> str:
        """'live', 'stale, 3.2 s', 'dead, 12 s', 'unknown'."""
        if self.state in (State.LIVE, State.UNKNOWN):
            return self.state.value
        return f"{self.state.value}, {span(self.age_s)}"


NEVER = Seen(State.UNKNOWN, float("inf"))


class Source:
    """One stream of messages.

    stale_s: silence after which it is stale. dead_s: after which it is dead whoever publishes.
    publishers: how many there are, as last looked up; None before the first look.
    """

    def __init__(self, name: str, *, stale_s: float, dead_s: float):
        self.name = name
        self._stale_s, self._dead_s = stale_s, max(stale_s, dead_s)
        self._heard_s: float | None = None
        self.publishers: int | None = None

    def hear(self, now_s: float) -> None:
        self._heard_s = now_s if self._heard_s is None else max(now_s, self._heard_s)

    def seen(self, now_s: float) -> Seen:
        if self._heard_s is None:
            return NEVER
        age_s = max(0.0, now_s - self._heard_s)
        if age_s <= self._stale_s:
            return Seen(State.LIVE, age_s)
        gone = age_s > self._dead_s or self.publishers == 0
        return Seen(State.DEAD if gone else State.STALE, age_s)


def span(seconds: float) -> str:
    """A duration as people say it: '0.4 s', '12 s', '3 min 5 s', '2 h 10 min'."""
    if not 0.0 <= seconds < 1e8:
        return "an unknown time"
    if seconds < 10.0:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
