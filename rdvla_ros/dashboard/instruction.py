"""The line for the instruction: what is in force, what is written, and what was sent before (arrow keys, or the button)."""

from __future__ import annotations

from rdvla_ros.dashboard.binding import Qt, QtCore, QtWidgets, Signal
from rdvla_ros.dashboard.texts import Label

KEPT = 20  # instructions
IDLE_MS = 15_000  # a line that nobody types in gives the keyboard back, so that the space bar holds again


class IdleEdit(QtWidgets.QLineEdit):
    """A line that gives the keyboard back after IDLE_MS without a key, and on escape."""

    def __init__(self, text: str = "", hint: str = "", longest: int = 512):
        super().__init__(text, placeholderText=hint, maxLength=longest)
        self._idle = QtCore.QTimer(self, singleShot=True, interval=IDLE_MS)
        self._idle.timeout.connect(self.clearFocus)

    def focusInEvent(self, event) -> None:
        super().focusInEvent(event)
        self._idle.start()

    def keyPressEvent(self, event) -> None:
        self._idle.start()
        if event.key() == Qt.Key.Key_Escape:
            self.clearFocus()
        else:
            super().keyPressEvent(event)


class HistoryEdit(IdleEdit):
    """Up and down go through what was sent."""

    def __init__(self):
        super().__init__(hint="new instruction (↑ ↓: earlier ones)")
        self.history: list[str] = []
        self._at = 0

    def keyPressEvent(self, event) -> None:
        if event.key() in (Qt.Key.Key_Up, Qt.Key.Key_Down):
            self._idle.start()
            self.step(-1 if event.key() == Qt.Key.Key_Up else 1)
        else:
            super().keyPressEvent(event)

    def step(self, by: int) -> None:
        self._at = min(max(self._at + by, 0), len(self.history))
        self.setText(self.history[self._at] if self._at < len(self.history) else "")

    def remember(self, text: str) -> None:
        """The newest is the last; none stands there twice."""
        self.history = [*(t for t in self.history if t != text), text][-KEPT:]
        self._at = len(self.history)


class InstructionLine(QtWidgets.QWidget):
    """sent(text): return was pressed, or Send."""

    sent = Signal(str)

    def __init__(self):
        super().__init__()
        self.edit = HistoryEdit()
        self.send = QtWidgets.QPushButton("Send")
        self.earlier = QtWidgets.QPushButton("↑")
        self.force, self.problem = Label("", level="small"), Label("", level="small", tone="warn")
        self.edit.returnPressed.connect(self._send)
        self.send.clicked.connect(self._send)
        self.earlier.clicked.connect(lambda: self.edit.step(-1))
        row = QtWidgets.QHBoxLayout()
        row.addWidget(self.edit, 1)
        row.addWidget(self.earlier)
        row.addWidget(self.send)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.force)
        layout.addLayout(row)
        layout.addWidget(self.problem)
        self.problem.hide()

    def _send(self) -> None:
        self.sent.emit(self.edit.text().strip())

    def remember(self, text: str) -> None:
        self.edit.remember(text)
        self.edit.clear()
        self.edit.clearFocus()

    def say(self, problem: str) -> None:
        self.problem.set(problem, tone="warn")
        self.problem.setVisible(bool(problem))

    def show_force(self, text: str) -> None:
        """text: the instruction the last decision was made for; empty: none is known."""
        self.force.set(f"Instruction: {text}" if text else "Instruction: not known, no decision has come yet")
