"""What the demo shows and leaves: the status line, the table, summary.json."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rdvla_ros import __version__
from rdvla_ros.demo.episode import Episode, aggregate

LINE_PERIOD_S = 2.0  # where the output is no terminal, a line this often
TERMINAL_PERIOD_S = 0.1
FILE_WIDTH = 200  # [characters] of the table where the output is no terminal
HEADINGS = (
    "episode",
    "seed",
    "stage reached",
    "gripper reached object",
    "success",
    "decisions",
    "mean iterations",
    "observation to trajectory",
    "computation",
    "duration",
    "holds",
)
LIBRARIES = ("torch", "numpy", "mujoco", "gym-aloha", "rclpy", "opencv-python-headless")


class StatusLine:
    """One line that is written over and over in a terminal; elsewhere a new line now and then."""

    def __init__(self, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic):
        self._console, self._clock = Console(file=out, highlight=False, markup=False, soft_wrap=True), clock
        if not self._console.is_terminal:
            self._console.width = FILE_WIDTH
        self._live: Live | None = None
        self._next_s = -math.inf

    def show(self, *forms: str) -> None:
        """forms: the same in ever fewer characters; a terminal gets the first that fits, a file the first."""
        now = self._clock()
        if now < self._next_s:
            return
        self._next_s = now + (TERMINAL_PERIOD_S if self._console.is_terminal else LINE_PERIOD_S)
        if not self._console.is_terminal:
            self._console.print(forms[0])
            return
        width = self._console.width - 1
        line = next((form for form in forms if len(form) <= width), forms[-1][:width])
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(Text(line, no_wrap=True), refresh=True)

    def say(self, *what: str | Table) -> None:
        """Lines, or a table, that stay."""
        if self._live is not None:
            self._live.stop()
        self._live, self._next_s = None, -math.inf
        self._console.print(*what)


def status_forms(episode: Episode, episodes: int, uncertainty: float, gate_mode: str) -> tuple[str, ...]:
    """The live line, from the most readable form to the shortest; every form has all of it but the stage's name."""
    number, stage, gate = f"{episode.number}/{episodes}", f"{episode.best_stage}/4", gate_mode or "?"
    if not episode.decisions:
        begun = f"episode {number} {episode.elapsed_s:.1f} s"
        return (f"{begun} | stage {stage} {episode.stage_name} | no decision yet | gate {gate}", f"{begun} | gate {gate}")
    last = episode.decisions[-1]
    iterations, change, horizon = f"{last.iterations}/{last.limit}", f"{last.change:.1e}", f"{last.horizon}/{last.chunk_length}"
    delay = f"{last.latency_s * 1e3:.0f} ms"
    return (
        f"episode {number} {episode.elapsed_s:4.1f} s | stage {stage} {episode.stage_name} | iterations {iterations} "
        f"change {change} horizon {horizon} | uncertainty {uncertainty:.2f} | latency {delay} | gate {gate}",
        f"episode {number} | stage {stage} | iterations {iterations} change {change} horizon {horizon} | "
        f"unc {uncertainty:.2f} | {delay} | {gate}",
        f"ep {number} | stage {stage} | iter {iterations} chg {change} hor {horizon} | unc {uncertainty:.2f} | {delay} | {gate}",
        f"{number} s{stage} i{iterations} c{last.change:.0e} h{horizon} u{uncertainty:.1f} {delay.replace(' ', '')} {gate}",
    )


def table(episodes: Sequence[Episode]) -> Table:
    """One row per episode, and the totals."""
    shown = Table(*HEADINGS, box=SIMPLE_HEAD, pad_edge=False)
    for episode in episodes:
        shown.add_row(*_row(episode), end_section=episode is episodes[-1])
    shown.add_row(*_totals_row(episodes))
    return shown


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
        _form(result["computation_mean_s"], ".0f", 1e3, " ms"),
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
        _form(totals["computation_mean_s"], ".0f", 1e3, " ms"),
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
