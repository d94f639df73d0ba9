"""Does another process live? Judged by its beats under a clock that nobody can set; times come in as arguments [s]."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

DOUBLE = 3  # so many numbers that go back ...
WITHIN_S = 1.0  # ... within this time are two senders at once; one that is started anew goes back once


class PeerMonitor:
    """The beats of one peer.

    It is lost after timeout_s without a beat whose number grew: a source that repeats its last message does not live. Where
    `lives` knows that the peer's process is neither dead nor stopped, it only waits for its turn, and has alive_s. A number
    that goes back is another life of the peer: it is counted in `lives`, and what was known of the one before is gone. Numbers
    that go back and forth are two peers at once, neither of which is to be relied on.
    """

    def __init__(self, name: str, timeout_s: float, *, alive_s: float = 0.0, lives: Callable[[], bool] = lambda: False):
        self.name = name
        self._timeout_s, self._alive_s, self._lives = timeout_s, alive_s, lives
        self._count: int | None = None
        self._heard_s: float | None = None
        self.causes: tuple[str, ...] = ()
        self.hold = ""
        self.lives = 0
        self._back_s: deque[float] = deque(maxlen=DOUBLE)

    def beat(self, now_s: float, count: int, causes: Sequence[str] = (), hold: str = "") -> bool:
        """Whether this beat was a sign of life."""
        if count == self._count:
            return False
        if self._count is None or count < self._count:
            self.lives += 1
            self._back_s.append(now_s)
        self._count, self._heard_s = count, now_s
        self.causes, self.hold = tuple(causes), hold
        return True

    @property
    def heard(self) -> bool:
        return self._heard_s is not None

    def silence_s(self, now_s: float) -> float:
        """Since the last beat; infinity before the first."""
        return float("inf") if self._heard_s is None else now_s - self._heard_s

    def lost(self, now_s: float) -> str:
        """One sentence when the peer gives no sign of life; empty when it does."""
        if self._heard_s is None:
            return f"No heartbeat of {self.name} has come yet."
        if len(self._back_s) == DOUBLE and now_s - self._back_s[0] < WITHIN_S:
            return f"More than one sender beats as {self.name}: is it running twice? Stop one of them."
        silence_s = now_s - self._heard_s
        if silence_s <= self._timeout_s or silence_s <= self._alive_s and self._lives():
            return ""
        return f"No heartbeat of {self.name} for {silence_s:.2f} s, expected one every {self._timeout_s:g} s at least."
