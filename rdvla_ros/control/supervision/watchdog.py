"""Is a stream of inputs alive and good? Time comes in as an argument, from a clock that nobody can set [s]."""

from __future__ import annotations

import math
from collections import deque


class StreamWatch:
    """One stream. A good sample is good for `timeout_s`; after a bad one the last good sample is good for `bad_s` only."""

    def __init__(self, name: str, *, timeout_s: float, bad_s: float):
        self.name = name
        self._timeout_s = timeout_s
        self._bad_s = bad_s
        self._last_good_s: float | None = None
        self._bad_reason = ""

    def good(self, now_s: float) -> None:
        self._last_good_s, self._bad_reason = now_s, ""

    def bad(self, reason: str) -> None:
        self._bad_reason = reason

    def ignored(self, reason: str) -> None:
        """Something came that is not for this stream: no fault, and the reason only as long as nothing good has come."""
        if self._last_good_s is None:
            self._bad_reason = self._bad_reason or reason

    def problem(self, now_s: float) -> str:
        """One sentence when the stream cannot be relied on now; empty when it can."""
        if self._last_good_s is None:
            return self._bad_reason or f"Nothing has come on {self.name} yet."
        age_s = now_s - self._last_good_s
        if self._bad_reason:
            return self._bad_reason if age_s > self._bad_s else ""
        if age_s > self._timeout_s:
            return f"Nothing has come on {self.name} for {age_s:.2f} s, expected a message every {self._timeout_s:g} s at least."
        return ""


class Streak:
    """Counts consecutive failures; `full` after `limit` of them."""

    def __init__(self, limit: int):
        self._limit = limit
        self.count = 0

    def failed(self) -> bool:
        self.count += 1
        return self.count >= self._limit

    def succeeded(self) -> None:
        self.count = 0


class RateMeter:
    """How often something happened lately, and how long ago the last time was."""

    def __init__(self, window: int = 30):
        self._times_s: deque[float] = deque(maxlen=window)

    def tick(self, now_s: float) -> None:
        self._times_s.append(now_s)

    def age_s(self, now_s: float) -> float:
        """Since the last time; infinity before the first."""
        return now_s - self._times_s[-1] if self._times_s else math.inf

    def hz(self, now_s: float) -> float:
        """Mean rate over the window up to now, so that it falls while nothing comes; 0 before the second time."""
        if len(self._times_s) < 2:
            return 0.0
        intervals = len(self._times_s) - 1
        newest_gap_s = max(now_s - self._times_s[-1], 0.0)
        span_s = self._times_s[-1] - self._times_s[0]
        mean_s = span_s / intervals
        return intervals / span_s if newest_gap_s <= mean_s else (intervals + 1) / (span_s + newest_gap_s)
