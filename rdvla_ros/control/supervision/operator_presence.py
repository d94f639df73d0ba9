"""Is the operator there? From a station's heartbeat (PeerMonitor) or a joystick's button. Times come in as arguments [s]."""

from __future__ import annotations

from collections.abc import Hashable


class ButtonPresence:
    """A button that is kept pressed while the arms may move.

    No presence: a joystick that falls silent or repeats one message (its stamp stays the same), a button that was pressed
    before the arms were last stopped (it may be stuck: release and press it), or that has been pressed for longest_press_s.
    """

    def __init__(self, name: str, *, timeout_s: float, longest_press_s: float):
        self._name, self._timeout_s, self._longest_press_s = name, timeout_s, longest_press_s
        self._stamp: Hashable = None
        self._heard_s: float | None = None
        self._pressed_s: float | None = None  # since when
        self._released = False  # since the arms were stopped

    def heard(self, now_s: float, stamp: Hashable, pressed: bool) -> None:
        if stamp == self._stamp:
            return
        self._stamp, self._heard_s = stamp, now_s
        if not pressed:
            self._pressed_s, self._released = None, True
        elif self._pressed_s is None:
            self._pressed_s = now_s

    def stopped(self) -> None:
        """The arms were stopped: the next start needs a press that begins after this."""
        self._released = False

    def problem(self, now_s: float) -> str:
        """One sentence when nobody is there; empty when somebody is."""
        if self._heard_s is None:
            return f"Nothing has come from the operator's {self._name} yet."
        if now_s - self._heard_s > self._timeout_s:
            return f"Nothing new has come from the operator's {self._name} for {now_s - self._heard_s:.2f} s."
        if self._pressed_s is None:
            return f"The operator's button of the {self._name} is not pressed."
        if not self._released:
            return f"The operator's button of the {self._name} has been pressed since before the stop: release it and press it."
        if now_s - self._pressed_s > self._longest_press_s:
            return (
                f"The operator's button of the {self._name} has been pressed for over {self._longest_press_s:g} s: is it stuck?"
            )
        return ""
