"""Whether streams and clocks agree with each other. Pure: times come in as arguments [s]."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass


class Delay:
    """How far the stamps of one stream lie behind the clock when its messages come: the least of the last ones.

    The least, because what only sometimes comes late was delivered late; a clock that is behind always is.
    """

    def __init__(self, window: int = 30, enough: int = 5):
        self._seen: deque[float] = deque(maxlen=window)
        self._enough = enough

    def add(self, delay_s: float) -> None:
        self._seen.append(delay_s)

    def forget(self) -> None:
        self._seen.clear()

    @property
    def least_s(self) -> float | None:
        """None until enough messages came."""
        return min(self._seen) if len(self._seen) >= self._enough else None


@dataclass(frozen=True)
class Skew:
    """How much further the stamps of the slowest stream lie back than those of the fastest one."""

    slow: str
    fast: str
    by_s: float


def skew(delays_s: Mapping[str, float | None]) -> Skew | None:
    """stream -> its delay; None where fewer than two are known."""
    known = {name: delay for name, delay in delays_s.items() if delay is not None}
    if len(known) < 2:
        return None
    slow, fast = max(known, key=known.get), min(known, key=known.get)
    return Skew(slow, fast, known[slow] - known[fast])


class StallWatch:
    """Notices that the caller itself stood still: a debugger, swapping, SIGSTOP. now_s: a clock that nobody can set."""

    def __init__(self, longest_s: float):
        self._longest_s, self._last_s = longest_s, None

    def stood_still_for(self, now_s: float) -> float:
        """Since the last call, when that is longer than it should be; otherwise 0."""
        last_s, self._last_s = self._last_s, now_s
        gap_s = 0.0 if last_s is None else now_s - last_s
        return gap_s if gap_s > self._longest_s else 0.0
