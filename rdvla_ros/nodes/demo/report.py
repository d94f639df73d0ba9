"""What the demo shows and leaves: the status line, the table, summary.json."""

from __future__ import annotations

import json
import math
import platform
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from rdvla_ros import __version__
from rdvla_ros.nodes.demo.episode import Episode, aggregate

LINE_PERIOD_S = 2.0  # where the output is no terminal, a line this often
TERMINAL_PERIOD_S = 0.1
HEADINGS = (
    "episode",
    "seed",
    "stage reached",
    "gripper reached object",
    "success",
    "decisions",
    "mean iterations",
    "mean latency",
    "duration",
    "holds",
)
LIBRARIES = ("torch", "numpy", "mujoco", "gym-aloha", "rclpy", "opencv-python-headless")


class StatusLine:
    """One line that is written over and over in a terminal; elsewhere a new line now and then."""

    def __init__(self, out: TextIO = sys.stdout, clock=time.monotonic):
        self._out, self._clock = out, clock
        self._tty = out.isatty()
        self._next_s, self._open = -math.inf, False

    def show(self, text: str) -> None:
        now = self._clock()
        if now < self._next_s:
            return
        self._next_s = now + (TERMINAL_PERIOD_S if self._tty else LINE_PERIOD_S)
        if self._tty:
            width = shutil.get_terminal_size().columns - 1
            self._out.write("\r\x1b[2K" + text[:width])
            self._open = True
        else:
            self._out.write(text + "\n")
        self._out.flush()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._out.write(("\r\x1b[2K" if self._open else "") + text + "\n")
        self._out.flush()
        self._open, self._next_s = False, -math.inf


def status_text(episode: Episode, episodes: int, uncertainty: float, gate_mode: str) -> str:
    last = episode.decisions[-1] if episode.decisions else None
    thought = "no decision yet"
    if last:
        thought = (
            f"iterations {last.iterations:2d}/{last.limit} change {last.change:.1e} horizon {last.horizon}/{last.chunk_length} | "
            f"uncertainty {uncertainty:.2f} | decision {last.latency_s * 1e3:.0f} ms"
        )
    stage = f"stage {episode.best_stage}/4 {episode.stage_name}"
    return f"episode {episode.number}/{episodes} {episode.elapsed_s:4.1f} s | {stage} | {thought} | gate {gate_mode or '?'}"


def table(episodes: Sequence[Episode]) -> str:
    """One row per episode, and the totals."""
    rows = [HEADINGS, *map(_row, episodes), _totals_row(episodes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _row(episode: Episode) -> tuple[str, ...]:
    result = episode.result()
    return (
        str(episode.number) + ("" if episode.finished else " (cut short)"),
        str(episode.seed),
        f"{episode.best_stage} {episode.stage_name}".strip(),
        "yes" if episode.reached else "no",
        "yes" if episode.success else "no",
        str(result["decisions"]),
        _form(result["iterations_mean"], ".1f"),
        _form(result["latency_mean_s"], ".0f", 1e3, " ms"),
        f"{episode.elapsed_s:.1f} s",
        str(len(episode.holds)),
    )


def _totals_row(episodes: Sequence[Episode]) -> tuple[str, ...]:
    totals = aggregate(episodes)
    count = totals["episodes_finished"]
    return (
        "all",
        "",
        _form(totals["stage_mean"], ".1f"),
        f"{totals['gripper_reached_object']} of {count}",
        f"{totals['successes']} of {count}",
        str(totals["decisions"]),
        _form(totals["iterations_mean"], ".1f"),
        _form(totals["latency_mean_s"], ".0f", 1e3, " ms"),
        "",
        str(totals["holds"]),
    )


def _form(value: float | None, form: str, factor: float = 1.0, unit: str = "") -> str:
    return "-" if value is None else format(value * factor, form) + unit


def versions() -> dict[str, str]:
    """Of this package and of what the numbers depend on."""
    found = {"rdvla_ros": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown (not installed by pip)"
    return found


def write_summary(
    path: Path, settings: Mapping[str, Any], episodes: Sequence[Episode], outcome: str, exit_codes: Mapping[str, int | None]
) -> None:
    """outcome: 'complete', or in one sentence why not all episodes ran."""
    summary = {
        "outcome": outcome,
        "settings": dict(settings),
        "versions": versions(),
        "episodes": [episode.result() for episode in episodes],
        "total": aggregate(episodes),
        "exit_codes": dict(exit_codes),
    }
    path.write_text(json.dumps(_finite(summary), indent=2) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null and the word instead."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
