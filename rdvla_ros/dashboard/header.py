"""The top of the window: the mode with its sentence, and how the processes are. Read from two metres."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rdvla_ros.dashboard import sentences, style
from rdvla_ros.dashboard.binding import Qt, QtWidgets
from rdvla_ros.dashboard.freshness import Seen, State
from rdvla_ros.dashboard.model import Snapshot
from rdvla_ros.dashboard.texts import Label, restyle

PROCESSES = ("gate", "policy", "monitor")
LEVELS = (("big", 150), ("", 200), ("small", 10_000))  # of the sentence, by its length


class SourceLine(Label):
    """'● gate live': a sign, a name, a word."""

    def __init__(self, name: str):
        super().__init__("", level="")
        self.setWordWrap(False)
        self._name = name
        self.show_seen(Seen(State.UNKNOWN, float("inf")))

    def show_seen(self, seen: Seen) -> None:
        colour = style.STATE_COLOURS[seen.state]
        self.set(f'<span style="color:{colour}">{seen.state.symbol} {self._name} {seen.text()}</span>', rich=True)


class Header(QtWidgets.QFrame):
    """The mode as a sign, a word and a colour; grey with a dashed edge where it is not known or not of now."""

    def __init__(self, arms: Sequence[str], robot: str, spectator: bool):
        super().__init__(objectName="header")
        self._arms, self._mode = arms, ""
        self.badge, self.sentence = Label("? UNKNOWN", level="huge"), Label("", level="big")
        self.badge.setObjectName("badge")
        self.badge.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.badge.setWordWrap(False)
        self.remark = Label("", tone="warn")
        self.sources = {name: SourceLine(name) for name in PROCESSES}
        for label in (self.sentence, self.remark):  # what is said must not move what is below
            label.setSizePolicy(QtWidgets.QSizePolicy.Policy.Ignored, QtWidgets.QSizePolicy.Policy.Ignored)
        words = QtWidgets.QVBoxLayout()
        words.setSpacing(2)
        words.addWidget(self.sentence, 2)
        words.addWidget(self.remark, 1)
        right = QtWidgets.QVBoxLayout()
        right.setSpacing(0)
        title = Label(f"{robot} — spectator, no acts" if spectator else robot, level="small", tone="faint")
        title.setWordWrap(False)
        right.addWidget(title)
        for line in self.sources.values():
            right.addWidget(line)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(8, 6, 12, 6)
        layout.setSpacing(16)
        layout.addWidget(self.badge)
        layout.addLayout(words, 1)
        layout.addLayout(right)

    def resize_text(self, height: int, px: int) -> None:
        """height: of the whole header."""
        self.setFixedHeight(height)
        for line in self.sources.values():
            line.setMinimumWidth(11 * px)

    def show_snapshot(self, snapshot: Snapshot) -> None:
        seen, mode = snapshot.seen("gate"), sentences.known_mode(snapshot.gate)
        self.badge.set(sentences.mode_words(snapshot.gate, seen))
        word = mode.name if seen.live and mode is not None else ""
        if word != self._mode:
            self._mode = word
            for widget in (self, self.badge):
                restyle(widget, "mode", word)
        said = sentences.mode_sentence(snapshot.gate, seen, self._arms, time.time())
        self.sentence.set(said, level=next(level for level, longest in LEVELS if len(said) <= longest))
        self.remark.set(_remark(snapshot), tone="warn")
        for name, line in self.sources.items():
            line.show_seen(snapshot.seen(name))


def _remark(snapshot: Snapshot) -> str:
    """The one thing beside the mode that is most worth knowing; all of them stand in /diagnostics and the log."""
    uncertainty = snapshot.uncertainties[-1] if snapshot.uncertainties else None
    fresh = uncertainty is not None and snapshot.seen("decisions").live
    candidates = [uncertainty.reason if fresh and uncertainty.alarm else "", sentences.decisions_remark(snapshot)]
    candidates += sentences.parts_remarks(snapshot)[:1]
    return next(("⚠ " + text for text in candidates if text), "")
