"""How long it takes until the controllers follow what was sent to them, by their own reports.

A motion must leave the running motion after every controller has it: a controller that takes it later steps from where it is to
where the motion is by then. Where the machine is busy the way takes tens of milliseconds, now and then. Times are seconds on the
ROS clock.
"""

from __future__ import annotations

from collections import deque

KEPT = 40  # messages, of all arms together
GOOD_S = 10.0  # a way that was slow longer ago says nothing
LONGEST_S = 0.06  # no stop waits longer for a slow way
SAME_S = 0.005  # a report follows the message whose stamp lies this near to where its trajectory began
UNPUNCTUAL = 2.0  # periods of the controller between two reports; further apart, the first was not the first to follow it


class Delivery:
    """least_s: assumed of every way. period_s: of the controllers' updates."""

    def __init__(self, least_s: float, period_s: float):
        self._least_s, self._period_s = least_s, period_s
        self._seen: deque[tuple[float, float]] = deque(maxlen=KEPT)  # when it was seen, how long it took
        self._waiting: dict[str, tuple[float, float]] = {}  # arm -> stamp, when it was sent
        self._stamps: dict[str, float] = {}
        self._reports: dict[str, float] = {}

    @property
    def longest_s(self) -> float:
        """From sending until an update of the controller has taken it: least_s more than the longest of the last messages took,
        within LONGEST_S and a period."""
        longest_s = max((took_s for _, took_s in tuple(self._seen)), default=self._period_s)
        return min(longest_s + self._least_s, LONGEST_S + self._period_s)

    @property
    def delay_s(self) -> float:
        """How much longer than usual the way takes now: a motion has to leave the running one so much later."""
        return max(0.0, self.longest_s - self._period_s - self._least_s)

    def sent(self, arm: str, stamp_s: float, now_s: float) -> None:
        before_s, self._stamps[arm] = self._stamps.get(arm, 0.0), stamp_s
        if abs(stamp_s - before_s) > 2.0 * SAME_S:  # else no report tells the two apart
            self._waiting[arm] = stamp_s, now_s
        else:
            self._waiting.pop(arm, None)

    def reported(self, arm: str, at_s: float, from_start_s: float) -> None:
        """at_s: the report's own stamp. from_start_s: since the start of the trajectory that is followed, 0 where the controller
        does not say. What was sent before an arm's first report says nothing: which report was the first to follow it?"""
        if arm not in self._reports:
            self._waiting.pop(arm, None)
        last_s, self._reports[arm] = self._reports.get(arm, at_s), at_s
        while self._seen and abs(at_s - self._seen[0][0]) > GOOD_S:
            self._seen.popleft()
        stamp_s, sent_s = self._waiting.get(arm, (0.0, 0.0))
        if from_start_s <= 0.0 or arm not in self._waiting or abs(at_s - from_start_s - stamp_s) > SAME_S:
            return
        del self._waiting[arm]
        taken_s = stamp_s + from_start_s
        if at_s - last_s > UNPUNCTUAL * self._period_s:
            taken_s = min(taken_s, max(last_s, sent_s) + self._period_s)
        self._seen.append((at_s, max(self._period_s, taken_s - sent_s)))

    def forget(self) -> None:
        """The clock has jumped."""
        self._seen.clear()
        self._waiting.clear()
        self._stamps.clear()
        self._reports.clear()
