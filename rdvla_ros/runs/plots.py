"""The pictures of a run's report: each function draws one, time from the run's beginning in seconds."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence

import cv2
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from rdvla_ros.runs import signals
from rdvla_ros.runs.reader import Run

COLOURS = {"AUTO": "#2a9d55", "HOLD": "#d1495b", "TAKEOVER": "#3d6fb4", "PAUSE": "#e9a23b"}
HATCHES = {"HOLD": "///", "PAUSE": "..."}  # colour is never the only sign
MOST_POINTS = 4000  # of one line
MOST_STAGES = 12
THUMBNAILS, THUMBNAIL_WIDTH = 10, 160
LEGEND = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.99), "borderaxespad": 0.0, "frameon": False}
Axes = plt.Axes


def figure(run: Run, draw: Callable[[Run, Axes], None], height: float = 2.4, rows: int = 1) -> str:
    """A PNG as the address of an <img>. draw(run, axes)."""
    begin_s, end_s = run.span_s
    drawn, axes = plt.subplots(rows, 1, figsize=(11, height), sharex=True, squeeze=False)
    # the same margins in every picture, so that their times stand below each other; titles and legends above the data
    drawn.subplots_adjust(left=0.07, right=0.99, top=1 - 0.34 / height, bottom=0.46 / height, hspace=0.3)
    try:
        draw(run, axes[:, 0] if rows > 1 else axes[0, 0])
        return _png(drawn, axes, end_s - begin_s)
    finally:
        plt.close(drawn)


def _png(drawn: plt.Figure, axes: np.ndarray, length_s: float) -> str:
    axes[-1, 0].set(xlim=(0.0, max(1.0, length_s)), xlabel="time [s]")
    out = io.BytesIO()
    drawn.savefig(out, format="png", dpi=100)
    return _address(out.getvalue(), "png")


def _address(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _times(run: Run, table: str) -> np.ndarray:
    return run.table(table)["stamp_s"].to_numpy() - run.span_s[0]


def modes(run: Run, axes: Axes) -> None:
    """A bar of the gate's modes, and a cross for every refused motion."""
    spans = mode_spans(run)
    for mode, begin_s, end_s, _ in spans:
        axes.axvspan(begin_s, end_s, color=COLOURS.get(mode, "grey"), alpha=0.8, hatch=HATCHES.get(mode), lw=0)
        if end_s - begin_s > 0.02 * run.span_s[1] - 0.02 * run.span_s[0] + 0.5:
            axes.text((begin_s + end_s) / 2, 0.62, mode, ha="center", va="center", fontsize=9,
                      bbox={"facecolor": "white", "alpha": 0.85, "lw": 0, "pad": 1.5})  # fmt: skip
    refused = refusals(run)
    axes.plot([at_s for at_s, _, _ in refused], [0.2] * len(refused), "kx", label="refused motion")
    if refused:
        axes.legend(**LEGEND, fontsize=8)
    axes.set(ylim=(0, 1), yticks=[])
    axes.set_title("mode of the gate", loc="left", fontsize=11)


def mode_spans(run: Run) -> list[tuple[str, float, float, int]]:
    """(mode, begin [s], end [s], row of the gate's table in which it begins) from the run's beginning."""
    gate, times_s, end_s = run.table("gate"), np.maximum(0.0, _times(run, "gate")), run.span_s[1] - run.span_s[0]
    modes_ = gate["mode"].fillna(-1)  # a gate of another version may not say it
    keys = list(zip(modes_, gate["hold_id"].fillna(0), strict=True))
    begins = [i for i in range(len(keys)) if i == 0 or keys[i] != keys[i - 1]]
    ends = [times_s[i] for i in begins[1:]] + [end_s] * bool(begins)
    names = [signals.MODES.get(int(modes_[i]), f"mode {int(modes_[i])}") for i in begins]
    return [(n, float(times_s[i]), float(end), i) for n, i, end in zip(names, begins, ends, strict=True)]


def refusals(run: Run) -> list[tuple[float, int, str]]:
    """(time [s], how many, why) wherever the gate's count of refused motions grew."""
    gate, times_s = run.table("gate"), _times(run, "gate")
    counts = gate["refused"].fillna(0).to_numpy().astype(np.int64)
    grown = [i for i in range(1, len(counts)) if counts[i] > counts[i - 1]]
    return [(float(times_s[i]), int(counts[i] - counts[i - 1]), str(gate["last_refusal"][i])) for i in grown]


def iterations(run: Run, axes: Axes) -> None:
    table, times_s = run.table("decisions"), _times(run, "decisions")
    done = table["converged"].to_numpy(dtype=bool)
    counts = table["iterations"].to_numpy()
    axes.vlines(times_s, 0, counts, color="0.8", lw=1)
    axes.plot(times_s[done], counts[done], "o", color="#2a9d55", ms=4, label="converged")
    axes.plot(times_s[~done], counts[~done], "x", color="#d1495b", ms=6, label="not converged")
    axes.step(times_s, table["limit"], color="0.4", ls="--", lw=1, where="post", label="limit")
    axes.set(ylim=(0, None), ylabel="iterations")
    axes.set_title("iterations of each decision", loc="left", fontsize=11)
    axes.legend(**LEGEND, fontsize=8, ncols=3)


def change(run: Run, axes: Axes) -> None:
    """The change of the plan over the iterations: one line per decision, ending in its dot."""
    table, times_s = run.table("decisions"), _times(run, "decisions")
    width_s = 0.8 * float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.5
    for at_s, trace in zip(times_s, table["change"], strict=True):
        trace = np.where(np.asarray(trace, dtype=float) > 0.0, trace, np.nan)
        if np.isfinite(trace).any():
            places = at_s + width_s * (np.arange(len(trace)) + 1 - len(trace)) / max(1, len(trace))
            axes.plot(places, trace, "-", color="#3d6fb4", lw=0.7)
            axes.plot(places[-1:], trace[-1:], ".", color="#3d6fb4")
    axes.plot([], [], ".-", color="#3d6fb4", label="change, iteration after iteration")
    if np.isfinite(table["threshold"]).any():
        axes.step(times_s, table["threshold"], color="0.4", ls="--", lw=1, where="post", label="threshold")
    axes.set(yscale="log", ylabel="mean-squared change")
    axes.set_title("change of the plan in each decision", loc="left", fontsize=11)
    axes.legend(**LEGEND, fontsize=8, ncols=2)


def uncertainty(run: Run, axes: Axes) -> None:
    table, times_s = run.table("uncertainty"), _times(run, "uncertainty")
    alarm = table["alarm"].to_numpy(dtype=bool)
    score = np.where(np.isfinite(table["window_score"]), table["window_score"], np.nan)
    axes.plot(times_s, table["score"].where(np.isfinite(table["score"])), ".", color="0.6", label="score of the decision")
    axes.step(times_s, score, color="#3d6fb4", where="post", label="largest of the window")
    threshold = table["alarm_threshold"].where(np.isfinite(table["alarm_threshold"]))
    axes.step(times_s, threshold, color="#d1495b", ls="--", where="post", label="alarm threshold")
    axes.plot(times_s[alarm], np.nan_to_num(score[alarm]), "^", color="#d1495b", ms=7, label="alarm")
    calibrated = "calibrated" if len(table) and table["calibrated"].to_numpy(dtype=bool).all() else "not calibrated"
    axes.set(ylim=(0, None), ylabel="score")
    axes.set_title(f"uncertainty ({calibrated})", loc="left", fontsize=11)
    axes.legend(**LEGEND, fontsize=8, ncols=4)


def latency(run: Run, axes: Axes) -> None:
    """The stages of each decision, one on top of the other, and the age of its observation when it was sent."""
    table, times_s = run.table("decisions"), _times(run, "decisions")
    stages = list(dict.fromkeys(name for names in table["timing_names"] for name in names if name != "total"))[:MOST_STAGES]
    bottom = np.zeros(len(table))
    width_s = 0.6 * float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.1
    for stage in stages:
        values = np.array(
            [
                dict(zip(n, v, strict=False)).get(stage, 0.0)
                for n, v in zip(table["timing_names"], table["timings_s"], strict=True)
            ]
        )
        values = 1e3 * np.nan_to_num(values)
        axes.bar(times_s, values, width_s, bottom=bottom, label=_label(stage))
        bottom += values
    age_ms = 1e3 * (table["stamp_s"] - table["observation_stamp_s"]).to_numpy()
    axes.plot(times_s, age_ms, "k_", label="age of the observation")
    axes.set(ylim=(0, None), ylabel="[ms]")
    axes.set_title("time of each decision, by stage", loc="left", fontsize=11)
    axes.legend(**LEGEND, fontsize=8, ncols=6)


def joints(run: Run, axes: Sequence[Axes]) -> None:
    """Of every arm: measured (lines) and commanded (dashes)."""
    begin_s = run.span_s[0]
    for arm, place in zip(run.robot.arms, axes, strict=True):
        for (times_s, values), style in ((signals.measured(run, arm), "-"), (signals.commanded(run, arm), "--")):
            every = max(1, len(times_s) // MOST_POINTS)
            for j in range(values.shape[1]):
                label = arm.joint_names[j].removeprefix(f"{arm.name}_") if style == "-" else None
                place.plot(times_s[::every] - begin_s, values[::every, j], style, color=f"C{j}", lw=1, label=label)
        place.set(ylabel="[rad or m]")
        place.set_title(f"arm '{arm.name}': measured, commanded (dashed)", loc="left", fontsize=11)
        place.legend(**LEGEND, fontsize=7, ncols=7)


def _label(text: str) -> str:
    """Text from outside: matplotlib reads what stands between dollars as a formula, and hides what begins with _."""
    return text.replace("$", r"\$").lstrip("_")[:40] or "(no name)"


def thumbnails(run: Run, camera: str) -> list[tuple[float, str]]:
    """(time [s], address of a small picture), evenly over the run."""
    stamps_s = run.frame_stamps(camera)
    if not len(stamps_s):
        return []
    times_s = np.linspace(stamps_s[0], stamps_s[-1], THUMBNAILS)
    wanted = {int(np.abs(stamps_s - time_s).argmin()) for time_s in times_s}
    found = []
    for number, picture in enumerate(run.pictures(camera)):
        if number in wanted:
            height = max(1, round(picture.shape[0] * THUMBNAIL_WIDTH / picture.shape[1]))
            small = cv2.resize(picture, (THUMBNAIL_WIDTH, height), interpolation=cv2.INTER_AREA)
            _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
            found.append((float(stamps_s[number] - run.span_s[0]), _address(data.tobytes(), "jpeg")))
    return found
