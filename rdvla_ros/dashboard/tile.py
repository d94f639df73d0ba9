"""A tile: a title with the newest value in words, and a plot below it.

Ranges are fixed and grow in steps, so that axes are painted anew only when they change; each curve is one item.
"""

from __future__ import annotations

import math

import numpy as np

from rdvla_ros.dashboard import style
from rdvla_ros.dashboard.binding import Qt, QtGui, QtWidgets, pyqtgraph
from rdvla_ros.dashboard.model import Snapshot
from rdvla_ros.dashboard.texts import Label

pyqtgraph.setConfigOptions(antialias=False, background=style.PANEL, foreground=style.FAINT)


class Tile(QtWidgets.QFrame):
    """title: what it is; `say` puts the newest value beside it."""

    def __init__(self, title: str, x_label: str, y_label: str = "", y_axis: pyqtgraph.AxisItem | None = None):
        super().__init__()
        self.setProperty("panel", True)
        self._words = Label(title, size="big")
        self._words.setWordWrap(False)
        self._words.setMinimumWidth(1)
        self._title = title
        self.plot = pyqtgraph.PlotWidget(axisItems={"left": y_axis} if y_axis else None)
        self.plot.setMouseEnabled(False, False)
        self.plot.setMenuEnabled(False)
        self.plot.hideButtons()
        self.plot.disableAutoRange()
        self.plot.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.plot.setMinimumSize(80, 60)
        self._labels = {"bottom": x_label, "left": y_label}
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(8, 4, 8, 4)
        layout.setSpacing(2)
        layout.addWidget(self._words)
        layout.addWidget(self.plot, 1)
        self._range: tuple | None = None

    def say(self, words: str, old: bool = False) -> None:
        """old: the value is not of now."""
        self._words.set(f"{self._title}: {words}" + (" — OLD" if old else ""), tone="warn" if old else "")

    def resize_text(self, px: int) -> None:
        font = QtGui.QFont()
        font.setPixelSize(px)
        for side, label in self._labels.items():
            axis = self.plot.getAxis(side)
            axis.setTickFont(font)
            if label:
                axis.setLabel(label, **{"font-size": f"{px}px"})

    def set_range(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        if (x, y) != self._range:
            self._range = (x, y)
            self.plot.setRange(xRange=x, yRange=y, padding=0.0, disableAutoRange=True)

    def curve(self, colour: str, width: int = 2, dashed: bool = False, points: bool = False):
        pen = pyqtgraph.mkPen(colour, width=width, style=Qt.PenStyle.DashLine if dashed else Qt.PenStyle.SolidLine)
        item = pyqtgraph.PlotCurveItem(pen=pen, connect="finite")
        self.plot.addItem(item)
        return item

    def line(self, colour: str, label: str):
        """A horizontal line with a word on it: a limit, a threshold."""
        pen = pyqtgraph.mkPen(colour, width=2, style=Qt.PenStyle.DashLine)
        options = {"color": colour, "position": 0.03, "anchors": [(0, 1), (0, 1)], "fill": style.PANEL}
        item = pyqtgraph.InfiniteLine(angle=0, pen=pen, label=label, labelOpts=options)
        item.setVisible(False)
        self.plot.addItem(item)
        return item


def put(line, value: float) -> None:
    line.setVisible(math.isfinite(value))
    if math.isfinite(value) and line.value() != value:
        line.setValue(value)


def stairs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of a curve with one step per decision, the newest ending at 0."""
    count = len(values)
    return np.repeat(np.arange(-count, 1), 2)[1:-1].astype(float), np.repeat(values, 2)


def roof(value: float, least: float) -> float:
    """The end of an axis: the next of 1, 2, 5, 10, ... above the value, so that it seldom changes."""
    if not math.isfinite(value) or value <= least:
        return least
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0, 20.0) if step * power > value)


def decisions_old(snapshot: Snapshot) -> bool:
    return bool(snapshot.decisions) and not snapshot.seen("decisions").live
