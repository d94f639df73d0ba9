"""Labels that are laid out and painted only when their text changes."""

from __future__ import annotations

from rdvla_ros.dashboard.binding import Qt, QtWidgets


class Label(QtWidgets.QLabel):
    """size: 'huge', 'big', '' or 'small', see style. Text is plain unless it is said to be rich."""

    def __init__(self, text: str = "", size: str = "", tone: str = ""):
        super().__init__(text)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setWordWrap(True)
        self.setProperty("size", size)
        self.setProperty("tone", tone)
        self._shown = (text, tone, False)

    def set(self, text: str, tone: str = "", rich: bool = False) -> None:
        if (text, tone, rich) == self._shown:
            return
        if tone != self._shown[1]:
            self.setProperty("tone", tone)
            self.style().unpolish(self)
            self.style().polish(self)
        self._shown = (text, tone, rich)
        self.setTextFormat(Qt.TextFormat.RichText if rich else Qt.TextFormat.PlainText)
        self.setText(text)
