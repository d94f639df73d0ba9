"""How often the plots are drawn: less often where that is not cheap. Times come in as arguments [s]."""

from __future__ import annotations

FASTEST_S, SLOWEST_S = 0.33, 1.0
SHARE = 0.08  # of one core for the whole process; above, the period grows
LOOK_S = 2.0  # over how much time the share is judged
STEP = 1.25


class Pace:
    """period_s: between two drawings of the plots."""

    def __init__(self, share: float = SHARE):
        self._share = share
        self.period_s = FASTEST_S
        self._last: tuple[float, float] | None = None

    def look(self, now_s: float, cpu_s: float) -> float:
        """cpu_s: processor time of the process so far. Returns the period."""
        if self._last is None:
            self._last = (now_s, cpu_s)
        passed_s, used_s = now_s - self._last[0], cpu_s - self._last[1]
        if passed_s >= LOOK_S:
            self._last = (now_s, cpu_s)
            factor = STEP if used_s > self._share * passed_s else 1.0 / STEP
            if used_s > self._share * passed_s or used_s < 0.7 * self._share * passed_s:
                self.period_s = min(SLOWEST_S, max(FASTEST_S, self.period_s * factor))
        return self.period_s
