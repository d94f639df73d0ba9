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

HEADROOM = 0.06

pyqtgraph.setConfigOptions(antialias=False, background=style.PANEL, foreground=style.FAINT)


class Tile(QtWidgets.QFrame):
    """title: what it is; `say` puts the newest value beside it."""

    def __init__(self, title: str, x_label: str, y_label: str = "", y_axis: pyqtgraph.AxisItem | None = None):
        super().__init__()
        self.setProperty("panel", True)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Ignored, QtWidgets.QSizePolicy.Policy.Ignored)
        self.title, self.words = Label(title, level="small", tone="faint"), Label("", level="big")
        for label in (self.title, self.words):
            label.setWordWrap(False)
            label.setMinimumWidth(1)
        self.plot = pyqtgraph.PlotWidget(axisItems={"left": y_axis} if y_axis else None)
        self.plot.setMouseEnabled(False, False)
        self.plot.setMenuEnabled(False)
        self.plot.hideButtons()
        self.plot.disableAutoRange()
        self.plot.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.plot.setMinimumSize(80, 40)
        self._labels = {"bottom": x_label, "left": y_label}
        self._lines: list[pyqtgraph.InfiniteLine] = []
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(8, 4, 8, 4)
        layout.setSpacing(0)
        layout.addWidget(self.title)
        layout.addWidget(self.words)
        layout.addWidget(self.plot, 1)
        self._range: tuple | None = None

    def say(self, words: str, old: bool = False, alarm: bool = False) -> None:
        """old: the value is not of now."""
        self.words.set(f"OLD: {words}" if old else words, tone="warn" if old or alarm else "")

    def resize_text(self, px: int) -> None:
        font = QtGui.QFont()
        font.setPixelSize(px)
        for side, label in self._labels.items():
            axis = self.plot.getAxis(side)
            axis.setTickFont(font)
            if label:
                axis.setLabel(label, **{"font-size": f"{px}px", "color": style.FAINT})
        for line in self._lines:
            line.label.setFont(font)

    def set_range(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        if (x, y) != self._range:
            self._range = (x, y)
            above = y[1] + HEADROOM * (y[1] - y[0])  # or the uppermost number of the axis would be cut
            self.plot.setRange(xRange=x, yRange=(y[0], above), padding=0.0, disableAutoRange=True)

    def curve(self, colour: str, width: int = 2, dashed: bool = False, filled: bool = False):
        pen = pyqtgraph.mkPen(colour, width=width, style=Qt.PenStyle.DashLine if dashed else Qt.PenStyle.SolidLine)
        fill = {"fillLevel": 0.0, "brush": colour} if filled else {}
        item = pyqtgraph.PlotCurveItem(pen=pen, connect="all" if filled else "finite", **fill)
        self.plot.addItem(item)
        return item

    def dots(self, colour: str, size: int) -> pyqtgraph.ScatterPlotItem:
        item = pyqtgraph.ScatterPlotItem(pen=None, brush=colour, size=size)
        self.plot.addItem(item)
        return item

    def line(self, colour: str, label: str):
        """A horizontal line with a word on it: a limit, a threshold."""
        pen = pyqtgraph.mkPen(colour, width=2, style=Qt.PenStyle.DashLine)
        options = {"color": colour, "position": 0.03, "anchors": [(0, 1), (0, 1)], "fill": style.PANEL}
        item = pyqtgraph.InfiniteLine(angle=0, pen=pen, label=label, labelOpts=options)
        item.setVisible(False)
        self._lines.append(item)
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
