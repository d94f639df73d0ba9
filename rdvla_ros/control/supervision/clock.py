"""Does the ROS clock go on evenly? Judged by the steady clock; both come in as arguments [s]."""

from __future__ import annotations


class ClockWatch:
    """step_s: how far the system's clock may run away from the steady one between two looks (NTP slews by far less).

    Simulated time may run at any speed, but neither backwards nor, for longer than stopped_s, not at all.
    """

    def __init__(self, *, step_s: float = 0.2, stopped_s: float = 0.5):
        self._step_s, self._stopped_s = step_s, stopped_s
        self._last: tuple[float, float] | None = None
        self._advanced_s = 0.0  # steady time at which simulated time last went on

    def look(self, ros_s: float, steady_s: float, simulated: bool) -> str:
        """One sentence when the clock has jumped since the last look; empty when it has not."""
        last, self._last = self._last, (ros_s, steady_s)
        if last is None or ros_s != last[0]:
            self._advanced_s = steady_s
        if last is None:
            return ""
        went_s, passed_s = ros_s - last[0], steady_s - last[1]
        if simulated:
            return f"The simulated clock jumped back by {-went_s:.3g} s." if went_s < 0.0 else ""
        if abs(went_s - passed_s) > self._step_s:
            return f"The clock jumped by {went_s - passed_s:.3g} s."
        return ""

    def standing(self, steady_s: float, simulated: bool) -> str:
        """One sentence when simulated time stands still; empty when it goes on."""
        if not simulated or self._last is None:
            return ""
        if self._last[0] == 0.0:
            return "Nothing has come on /clock yet, and use_sim_time is true."
        still_s = steady_s - self._advanced_s
        return f"/clock has stood still for {still_s:.1f} s." if still_s > self._stopped_s else ""
