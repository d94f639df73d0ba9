"""The curves. A tile has a title with the newest value in words, and a plot below it.

Ranges are fixed and grow in steps, so that axes are painted anew only when they change; each curve is one item.
"""

from __future__ import annotations

import math

import numpy as np

from rdvla_ros.dashboard import sentences, style
from rdvla_ros.dashboard.binding import Qt, QtGui, QtWidgets, pyqtgraph
from rdvla_ros.dashboard.model import ArmMotion, Decision, Snapshot
from rdvla_ros.dashboard.texts import Label

SHOWN = 60  # decisions on the axis
TRACES = 8  # decisions whose change is drawn
FLOOR, CEILING = 1e-9, 1e6  # of a change, for the logarithm
AHEAD_S, BEHIND_S = 1.5, 1.5

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


class IterationsTile(Tile):
    """How long the head thought about each decision."""

    def __init__(self):
        super().__init__("Iterations", "decisions ago")
        self._limit = self.line(style.ORANGE, "limit")
        self._curve = self.curve(style.BLUE, 3)

    def show_snapshot(self, snapshot: Snapshot) -> None:
        decisions = snapshot.decisions[-SHOWN:]
        newest = decisions[-1] if decisions else None
        self.say(sentences.decision_words(newest), old=_old(snapshot))
        top = roof(1.1 * max([min(d.limit, 10_000) for d in decisions], default=0), 10.0)
        self.set_range((-SHOWN, 0.0), (0.0, top))
        put(self._limit, float(newest.limit) if newest else math.nan)
        self._curve.setData(*stairs(np.array([min(d.iterations, 10_000) for d in decisions], dtype=float)))


class HorizonTile(Tile):
    """How much of each chunk is executed before the next one."""

    def __init__(self):
        super().__init__("Horizon", "decisions ago")
        self._limit = self.line(style.ORANGE, "chunk")
        self._curve = self.curve(style.BLUE, 3)

    def show_snapshot(self, snapshot: Snapshot) -> None:
        decisions = snapshot.decisions[-SHOWN:]
        newest = decisions[-1] if decisions else None
        self.say(sentences.horizon_words(newest), old=_old(snapshot))
        self.set_range((-SHOWN, 0.0), (0.0, roof(1.1 * max([min(d.chunk_length, 1000) for d in decisions], default=0), 5.0)))
        put(self._limit, float(newest.chunk_length) if newest else math.nan)
        self._curve.setData(*stairs(np.array([min(d.horizon, 1000) for d in decisions], dtype=float)))


class LogAxis(pyqtgraph.AxisItem):
    """Ticks of a plot whose values are logarithms."""

    def tickStrings(self, values, scale, spacing):
        return [f"1e{round(value)}" if abs(value - round(value)) < 1e-6 else "" for value in values]

    def tickValues(self, low, high, size):
        first, last = math.ceil(low), math.floor(high)
        step = max(1, math.ceil((last - first) / max(1.0, size / 40.0)))
        return [(float(step), [float(v) for v in range(first, last + 1, step)])]


class ChangeTile(Tile):
    """Change of the plan over the iterations, the newest decision bright, those before it faint; logarithmic."""

    def __init__(self):
        super().__init__("Change", "iteration", y_axis=LogAxis("left"))
        self._threshold = self.line(style.ORANGE, "threshold")
        self._before = self.curve(style.GREY, 1)
        self._newest = self.curve(style.BLUE, 4)
        self._bounds = (-6.0, 0.0)

    def show_snapshot(self, snapshot: Snapshot) -> None:
        decisions = snapshot.decisions[-TRACES:]
        newest = decisions[-1] if decisions else None
        self.say(sentences.change_words(newest), old=_old(snapshot))
        if newest is None:
            return self.set_range((1.0, 10.0), self._bounds)
        threshold = log10(np.array([newest.threshold]))[0]
        traces = [log10(np.array([*decision.change, math.nan])) for decision in decisions]
        everything = np.concatenate([*traces, [threshold]])
        finite = everything[np.isfinite(everything)]
        if len(finite):
            low, high = math.floor(finite.min() - 0.3), math.ceil(finite.max() + 0.3)
            self._bounds = (min(self._bounds[0], low), max(self._bounds[1], high)) if self._fits(low, high) else (low, high)
        longest = max(len(trace) - 1 for trace in traces)
        self.set_range((1.0, roof(longest + 0.5, 10.0)), self._bounds)
        put(self._threshold, threshold)
        before = traces[:-1] or [np.array([math.nan])]
        self._before.setData(np.concatenate([np.arange(1.0, len(t) + 1) for t in before]), np.concatenate(before))
        self._newest.setData(np.arange(1.0, len(traces[-1]) + 1), traces[-1])
        return None

    def _fits(self, low: float, high: float) -> bool:
        """The old range is kept until half of it is empty."""
        return high - low >= 0.5 * (self._bounds[1] - self._bounds[0])


def log10(values: np.ndarray) -> np.ndarray:
    """Within the axis; what is not a positive number is a gap, an infinite change stands at the top."""
    with np.errstate(invalid="ignore", divide="ignore"):
        clipped = np.where(values > 0.0, np.clip(values, FLOOR, CEILING), np.where(values == 0.0, FLOOR, np.nan))
    return np.log10(clipped)


class UncertaintyTile(Tile):
    def __init__(self):
        super().__init__("Uncertainty", "decisions ago")
        self._alarm = self.line(style.ORANGE, "alarm")
        self._score = self.curve(style.GREY, 1)
        self._window = self.curve(style.BLUE, 3)

    def show_snapshot(self, snapshot: Snapshot) -> None:
        rows = snapshot.uncertainties[-SHOWN:]
        newest = rows[-1] if rows else None
        self.say(sentences.uncertainty_words(newest), old=_old(snapshot))
        line = newest.alarm_threshold if newest else math.nan
        scores, windows = (np.array([getattr(row, name) for row in rows], dtype=float) for name in ("score", "window_score"))
        finite = [v for v in (*scores, *windows, line) if math.isfinite(v)]
        top = roof(1.1 * max(finite, default=0.0), 1.0)
        self.set_range((-SHOWN, 0.0), (0.0, top))
        put(self._alarm, line)
        for curve, values in ((self._score, scores), (self._window, windows)):
            values = np.where(np.isposinf(values), top, values)  # what is not finite stands at the top
            curve.setData(*stairs(values))


class TimingTile(Tile):
    """The stages of each decision, one above the other."""

    def __init__(self):
        super().__init__("Time", "decisions ago", "ms")
        self._legend = Label("", size="small")
        self.layout().insertWidget(1, self._legend)
        self._curves = [self.curve(colour, 2) for colour in style.STAGES]

    def show_snapshot(self, snapshot: Snapshot) -> None:
        decisions = snapshot.decisions[-SHOWN:]
        newest = decisions[-1] if decisions else None
        self.say(sentences.timing_words(newest), old=_old(snapshot))
        names = [name for name in newest.timings if name != "total"][: len(style.STAGES) - 1] if newest else []
        stacked, sums = [], np.zeros(len(decisions))
        for name in names:
            sums = sums + np.array([_ms(decision, name) for decision in decisions])
            stacked.append(sums)
        stacked.append(np.array([_ms(decision, "total") for decision in decisions]))
        top = roof(1.1 * max((float(np.max(s, initial=0.0)) for s in stacked), default=0.0), 10.0)
        self.set_range((-SHOWN, 0.0), (0.0, top))
        for index, curve in enumerate(self._curves):
            curve.setData(*stairs(stacked[index])) if index < len(stacked) else curve.setData([], [])
        colours = [*style.STAGES[: len(names)], style.STAGES[len(names)]]
        marks = [f'<span style="color:{c}">▬</span> {_escaped(n)}' for c, n in zip(colours, [*names, "total"], strict=True)]
        self._legend.set(" ".join(marks) if newest else "", rich=True)


def _ms(decision: Decision, name: str) -> float:
    value = decision.timings.get(name, 0.0)
    return 1e3 * value if math.isfinite(value) and 0.0 <= value < 1e4 else 0.0


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


class ArmTile(Tile):
    """One arm: a lane per joint over its range. Solid: measured; dashed: the chunk the policy wants."""

    def __init__(self, name: str, joints: tuple):
        super().__init__(f"Arm {name}", "s from now (solid: measured, dashed: wanted)")
        self._name, self._joints = name, joints
        self._lower = np.array([joint.lower for joint in joints])
        self._range_of = np.maximum(np.array([joint.upper for joint in joints]) - self._lower, 1e-9)
        self._now = pyqtgraph.InfiniteLine(pos=0.0, angle=90, pen=pyqtgraph.mkPen(style.GREY, width=1))
        self.plot.addItem(self._now)
        self._wanted = self.curve(style.ORANGE, 2, dashed=True)
        self._measured = self.curve(style.BLUE, 2)
        ticks = [(len(joints) - i - 0.5, joint.name.removeprefix(f"{name}_")) for i, joint in enumerate(joints)]
        self.plot.getAxis("left").setTicks([ticks])
        self.plot.showGrid(y=False)
        self.set_range((-BEHIND_S, AHEAD_S), (0.0, float(len(joints))))

    def show_snapshot(self, snapshot: Snapshot) -> None:
        motion, seen = snapshot.arms[self._name], snapshot.seen(f"joints {self._name}")
        self.say(f"{seen.state.symbol} joints {seen.text()}", old=not seen.live)
        now_s = self._reference_s(motion)
        self._measured.setData(*self._lanes(motion.times_s - now_s, motion.measured))
        if motion.chunk is None:
            self._wanted.setData([], [])
        else:
            self._wanted.setData(*self._lanes(motion.chunk.times_s - now_s, motion.chunk.positions))

    def _reference_s(self, motion: ArmMotion) -> float:
        """Now, on the robot's clock: the newest measured sample, or the chunk's begin where nothing is measured."""
        if len(motion.times_s):
            return float(motion.times_s[-1])
        return float(motion.chunk.times_s[0]) if motion.chunk is not None else 0.0

    def _lanes(self, times_s: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All joints as one curve with gaps: joint i in the lane from the top, its range from floor to ceiling."""
        count = len(self._joints)
        if not len(times_s):
            return np.zeros(0), np.zeros(0)
        share = np.clip((positions - self._lower) / self._range_of, 0.0, 1.0)
        lanes = share * 0.9 + 0.05 + (count - 1 - np.arange(count))
        x = np.tile(np.append(times_s, math.nan), count)
        y = np.concatenate([np.append(lanes[:, i], math.nan) for i in range(count)])
        return x, y


def _old(snapshot: Snapshot) -> bool:
    return bool(snapshot.decisions) and not snapshot.seen("decisions").live
