"""Why the policy does not move the arms although the gate would let it: pauses that end by themselves, and holds that do not.

Single-threaded; times come in as arguments [s] of a clock that nobody can set.
"""

from __future__ import annotations

from collections.abc import Sequence


class PolicyHalts:
    """A cause that comes up while the arms are moved begins a pause; it ends once there was none for healthy_s.

    A pause whose causes last for hold_after_s becomes a hold, and a hold ends only by `lifted`. Before the first motion, causes
    merely put it off.
    """

    def __init__(self, *, healthy_s: float = 1.0, hold_after_s: float = 2.0):
        self._healthy_s, self._hold_after_s = healthy_s, hold_after_s
        self.causes: tuple[str, ...] = ()
        self.holding = ""  # the first reason of the hold in force
        self._pause, self._since_s, self._bad_s = "", 0.0, 0.0
        self._moving = False

    @property
    def pausing(self) -> str:
        """The first reason of the pause in force; empty where there is none."""
        return self._pause

    def why_not(self) -> str:
        """Why nothing may be sent now; empty when something may."""
        if self.holding:
            return f"held until a resume ({self.holding.rstrip('.')})"
        if self._pause:
            return f"paused ({self._pause.rstrip('.')})"
        return self.causes[0].rstrip(".") if self.causes else ""

    def moved(self) -> None:
        """A motion was sent: from now on a cause means that moving arms must stop."""
        self._moving = True

    @property
    def moving(self) -> bool:
        return self._moving

    def look(self, causes: Sequence[str], now_s: float) -> str:
        """What is wrong now, one sentence each. Returns 'pause' or 'hold' when that begins with this call, otherwise ''."""
        self.causes = tuple(causes)
        if causes:
            self._bad_s = now_s
            if self._moving and not self._pause and not self.holding:
                self._pause, self._since_s = causes[0], now_s
                return "pause"
            if self._pause and not self.holding and now_s - self._since_s >= self._hold_after_s:
                return self.hold(f"{self._pause.rstrip('.')}, for {now_s - self._since_s:.1f} s")
        elif self._pause and now_s - self._bad_s >= self._healthy_s:
            self._pause, self._moving = "", False
        return ""

    def hold(self, reason: str) -> str:
        """Returns 'hold' where none was in force."""
        if self.holding:
            return ""
        self.holding = reason or "no reason was given"
        return "hold"

    def lifted(self) -> None:
        """An operator has resumed, or everything begins anew: what still is wrong will come up again."""
        self.holding, self._pause, self._moving = "", "", False
