"""The curves of the decisions: iterations, change, horizon, uncertainty, time."""

from __future__ import annotations

import math

import numpy as np

from rdvla_ros.dashboard import sentences, style
from rdvla_ros.dashboard.binding import pyqtgraph
from rdvla_ros.dashboard.model import Decision, Snapshot
from rdvla_ros.dashboard.texts import Label
from rdvla_ros.dashboard.tile import Tile, decisions_old, put, roof, stairs

SHOWN = 60  # decisions on the axis
TRACES = 8  # decisions whose change is drawn
FLOOR, CEILING = 1e-9, 1e6  # of a change, for the logarithm


class IterationsTile(Tile):
    """How long the head thought about each decision."""

    def __init__(self):
        super().__init__("Iterations of the newest decision", "decisions ago")
        self._limit = self.line(style.ORANGE, "limit")
        self._curve = self.curve(style.BLUE, 3)

    def show_snapshot(self, snapshot: Snapshot) -> None:
        decisions = snapshot.decisions[-SHOWN:]
        newest = decisions[-1] if decisions else None
        self.say(sentences.decision_words(newest), old=decisions_old(snapshot))
        top = roof(1.1 * max([min(d.limit, 10_000) for d in decisions], default=0), 10.0)
        self.set_range((-SHOWN, 0.0), (0.0, top))
        put(self._limit, float(newest.limit) if newest else math.nan)
        self._curve.setData(*stairs(np.array([min(d.iterations, 10_000) for d in decisions], dtype=float)))


class HorizonTile(Tile):
    """How much of each chunk is executed before the next one."""

    def __init__(self):
        super().__init__("Horizon: steps executed of each chunk", "decisions ago")
        self._limit = self.line(style.ORANGE, "chunk")
        self._curve = self.curve(style.BLUE, 3)

    def show_snapshot(self, snapshot: Snapshot) -> None:
        decisions = snapshot.decisions[-SHOWN:]
        newest = decisions[-1] if decisions else None
        self.say(sentences.horizon_words(newest), old=decisions_old(snapshot))
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
        super().__init__("Change of the plan over the iterations", "iteration", y_axis=LogAxis("left"))
        self._threshold = self.line(style.ORANGE, "threshold")
        self._before = self.curve(style.GREY, 1), self.dots(style.GREY, 5)
        self._newest = self.curve(style.BLUE, 3), self.dots(style.BLUE, 11)  # a trace may have a single point
        self._bounds = (-6.0, 0.0)

    def show_snapshot(self, snapshot: Snapshot) -> None:
        decisions = snapshot.decisions[-TRACES:]
        newest = decisions[-1] if decisions else None
        self.say(sentences.change_words(newest), old=decisions_old(snapshot))
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
        for items, shown in ((self._before, before), (self._newest, traces[-1:])):
            x, y = np.concatenate([np.arange(1.0, len(t) + 1) for t in shown]), np.concatenate(shown)
            items[0].setData(x, y)
            items[1].setData(x[np.isfinite(y)], y[np.isfinite(y)])
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
        vague = newest is not None and not newest.calibrated
        self.title.set(f"Uncertainty, {sentences.calibration_words(newest)}", tone="warn" if vague else "faint")
        self.say(sentences.uncertainty_words(newest), old=decisions_old(snapshot), alarm=bool(newest and newest.alarm))
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
        super().__init__("Time of a decision [ms]", "decisions ago")
        self._legend = Label("", level="axis")
        self._legend.setWordWrap(False)
        self._legend.setMinimumWidth(1)
        self.layout().insertWidget(2, self._legend)
        self._curves = [self.curve(colour, 1, filled=True) for colour in reversed(style.STAGES)][::-1]  # the lowest in front

    def show_snapshot(self, snapshot: Snapshot) -> None:
        decisions = snapshot.decisions[-SHOWN:]
        newest = decisions[-1] if decisions else None
        self.say(sentences.timing_words(newest), old=decisions_old(snapshot))
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
        marks = [f'<span style="color:{c}">▬</span> {_escaped(n)}' for c, n in zip(style.STAGES, names, strict=False)]
        self._legend.set(" ".join(marks) if newest else "", rich=True)


def _ms(decision: Decision, name: str) -> float:
    value = decision.timings.get(name, 0.0)
    return 1e3 * value if math.isfinite(value) and 0.0 <= value < 1e4 else 0.0


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
