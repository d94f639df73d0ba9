"""Labels that are laid out and painted only when their text changes."""

from __future__ import annotations

from rdvla_ros.dashboard.binding import Qt, QtWidgets


class Label(QtWidgets.QLabel):
    """level: 'huge', 'big', '' or 'small', see style. Text is plain unless it is said to be rich."""

    def __init__(self, text: str = "", level: str = "", tone: str = ""):
        super().__init__(text)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setWordWrap(True)
        self.setProperty("level", level)
        self.setProperty("tone", tone)
        self._shown = (text, tone, False)

    def set(self, text: str, tone: str = "", rich: bool = False, level: str | None = None) -> None:
        """level: None keeps it."""
        if level is not None and level != self.property("level"):
            restyle(self, "level", level)
        if (text, tone, rich) == self._shown:
            return
        if tone != self._shown[1]:
            restyle(self, "tone", tone)
        self._shown = (text, tone, rich)
        self.setTextFormat(Qt.TextFormat.RichText if rich else Qt.TextFormat.PlainText)
        self.setText(text)


def restyle(widget: QtWidgets.QWidget, name: str, value: str) -> None:
    """Change a property that the style sheet asks for."""
    widget.setProperty(name, value)
    widget.style().unpolish(widget)
    widget.style().polish(widget)
