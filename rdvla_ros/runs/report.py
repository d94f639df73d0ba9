"""`rdvla report`: one page about a run, in one file that opens without a network."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from rdvla_ros.runs import RunError, plots
from rdvla_ros.runs.reader import Run

STYLE = """
body { font: 16px/1.45 system-ui, sans-serif; max-width: 1160px; margin: 24px auto; padding: 0 16px; color: #1c2430; background: #fff }
h1 { font-size: 26px; margin: 0 } h2 { font-size: 19px; margin: 28px 0 6px }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 16px 0 } .tile { border: 1px solid #cdd3db; border-radius: 8px; padding: 8px 14px }
.tile b { display: block; font-size: 24px } .bad { border: 2px solid #b3293d } .bad b::before { content: "! " }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: 3px 10px 3px 0; border-bottom: 1px solid #e4e8ed; vertical-align: top }
td:first-child, th { white-space: nowrap }
img { max-width: 100% } .strip { display: flex; gap: 4px; overflow-x: auto } figure { margin: 0 } figcaption { font-size: 12px; color: #556 }
summary { cursor: pointer; font-weight: 600; padding: 4px 0 } .muted { color: #556 }
@media (prefers-color-scheme: dark) { body { color-scheme: light } }
"""  # noqa: E501


def page(run: Run) -> str:
    """The HTML text. Whatever a recording lacks is said, not drawn."""
    parts = [_head(run), _tiles(run), _episodes(run)]
    parts += [_plot(run, "gate", plots.modes, 1.5), _holds(run), _refusals(run)]
    parts += [_plot(run, "uncertainty", plots.uncertainty), _plot(run, "decisions", plots.iterations)]
    parts += [_plot(run, "decisions", plots.change), _plot(run, "decisions", plots.latency)]
    parts += [_plot(run, "joints", plots.joints, 2.6 * len(run.robot.arms), len(run.robot.arms)), _cameras(run), _settings(run)]
    title = escape(f"Run {_name(run)}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>{"".join(parts)}</body></html>\n'
    )


def _name(run: Run) -> str:
    """Of the folder; with the one above where it is only called 'run', as the demo's is."""
    folder = run.folder.resolve()
    return f"{folder.parent.name}/{folder.name}" if folder.name == "run" else folder.name


def _head(run: Run) -> str:
    about, (begin_s, end_s) = run.about, run.span_s
    checkpoint = about.get("checkpoint") or {}
    digest = str(checkpoint.get("sha256") or "not known")
    said = run.table("decisions")["instruction"]
    instructions = ", ".join(f"'{text}'" for text in dict.fromkeys(said)) or "none recorded"
    ended = "" if run.ended == "complete" else f'<p class="tile bad">Not complete: {escape(run.ended)}</p>'
    source = f", from the bag {escape(str(about['bag']))}" if about.get("bag") else ""
    return (
        f"<h1>Run {escape(_name(run))}</h1>"
        f"<p>Robot '{escape(run.robot.name)}', {escape(str(about.get('started', '')))}, {end_s - begin_s:.1f} s{source}.<br>"
        f"Instruction: {escape(instructions)}<br>Checkpoint: {escape(str(checkpoint.get('folder', 'not known')))}, "
        f'<span class="muted">SHA-256 {escape(digest[:16])}</span></p>{ended}'
    )


def _tiles(run: Run) -> str:
    decisions, uncertainty = run.table("decisions"), run.table("uncertainty")
    spans = plots.mode_spans(run)
    stopped = [(end - begin) for mode, begin, end, _ in spans if mode in ("HOLD", "PAUSE")]
    taken_s = sum(end - begin for mode, begin, end, _ in spans if mode == "TAKEOVER")
    refused, alarms = sum(count for _, count, _ in plots.refusals(run)), _begins(uncertainty["alarm"])
    age_ms = 1e3 * (decisions["stamp_s"] - decisions["observation_stamp_s"])
    tiles = [(str(len(decisions)), "decisions", False)]
    if len(decisions):
        tiles += [
            (f"{decisions['iterations'].mean():.1f}", "iterations, mean", False),
            (f"{100 * decisions['converged'].mean():.0f} %", "converged", False),
            (f"{age_ms.median():.0f} / {age_ms.quantile(0.95):.0f} ms", "latency, median / 95 %", False),
        ]
    tiles += [(f"{len(stopped)}", f"holds and pauses, {sum(stopped):.1f} s", bool(stopped))]
    tiles += [(f"{taken_s:.1f} s", "takeover", False), (str(refused), "refused motions", refused > 0)]
    tiles += [(str(alarms), "alarms", alarms > 0)]
    if episodes := task_episodes(run):
        tiles.append((f"{sum(e['success'] for e in episodes)} of {len(episodes)}", "episodes with success", False))
    cells = "".join(f'<div class="tile{" bad" if bad else ""}"><b>{escape(v)}</b>{escape(n)}</div>' for v, n, bad in tiles)
    return f'<div class="tiles">{cells}</div>'


def _begins(flags: Iterable[bool]) -> int:
    """How often a flag becomes true."""
    values = np.concatenate([[0], np.asarray(list(flags), dtype=int)])
    return int((np.diff(values) > 0).sum())


def task_episodes(run: Run) -> list[dict[str, Any]]:
    """What a simulated robot said of its episodes, of those in which motions passed; none of a real one."""
    table = run.table("task")
    begin_s, found = run.span_s[0], []
    moved = [(begin, end) for mode, begin, end, _ in plots.mode_spans(run) if mode in ("AUTO", "TAKEOVER")]
    for number, rows in table.groupby("episode", sort=True):
        first_s, last_s = rows["stamp_s"].iloc[0] - begin_s, rows["stamp_s"].iloc[-1] - begin_s
        if len(run.table("gate")) and not any(begin < last_s and first_s < end for begin, end in moved):
            continue
        done = rows[rows["best_stage"] >= 4]
        last = rows.iloc[-1]
        took_s = float(done["elapsed_s"].iloc[0]) if len(done) else None
        found.append(
            {
                "episode": int(number),
                "task": last["task"],
                "seed": int(last["seed"]),
                "stage": int(rows["best_stage"].max()),
                "stage_name": last["stage_name"],
                "success": bool(len(done)),
                "took_s": took_s,
                "elapsed_s": float(last["elapsed_s"]),
            }
        )
    return found


def _episodes(run: Run) -> str:
    rows = [
        (e["episode"], e["task"], e["seed"], f"{e['stage']} of 4 {e['stage_name']}",
         f"success after {e['took_s']:.1f} s" if e["success"] else f"no success in {e['elapsed_s']:.1f} s")
        for e in task_episodes(run)
    ]  # fmt: skip
    return _table("Episodes of the simulated robot", ("episode", "task", "seed", "best stage", "outcome"), rows) if rows else ""


def _holds(run: Run) -> str:
    gate = run.table("gate")
    rows = [
        (f"{begin:.1f} s", f"{end - begin:.1f} s", mode, gate["reason"][row], gate["who"][row])
        for mode, begin, end, row in plots.mode_spans(run)
    ]
    return _table("Modes, and why", ("since", "for", "mode", "reason", "who"), rows) if rows else ""


def _refusals(run: Run) -> str:
    rows = [(f"{at_s:.1f} s", count, why) for at_s, count, why in plots.refusals(run)]
    return _table("Refused motions", ("at", "how many", "why (the last one)"), rows) if rows else ""


def _plot(run: Run, table: str, draw: Any, height: float = 2.4, rows: int = 1) -> str:
    if not len(run.table(table)):
        return f'<p class="muted">Nothing was recorded of: {escape(table)}.</p>'
    single = rows == 1 and draw is plots.joints  # one arm: axes are no list
    try:
        address = plots.figure(run, (lambda r, axes: draw(r, [axes])) if single else draw, height, rows)
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, ValueError) as error:
        # numbers that no plot can hold, 1e308 say; the rest of the page is still wanted
        return (
            f'<p class="muted">{escape(table)} cannot be drawn ({escape(type(error).__name__)}): see tables/{escape(table)}.</p>'
        )
    return f'<img alt="{escape(draw.__name__)}" src="{address}">'


def _cameras(run: Run) -> str:
    parts = ["<h2>Cameras</h2>"]
    for camera in run.robot.camera_names:
        shots = "".join(
            f'<figure><img alt="{escape(camera)} at {at_s:.1f} s" src="{address}"><figcaption>{at_s:.1f} s</figcaption></figure>'
            for at_s, address in plots.thumbnails(run, camera)
        )
        parts.append(f'<p>{escape(camera)}</p><div class="strip">{shots or "no pictures"}</div>')
    return "".join(parts)


def _settings(run: Run) -> str:
    about = run.about
    parts = ["<h2>Parameters and versions</h2>"]
    for node, values in about.get("parameters", {}).items():
        rows = _rows((name, json.dumps(value)) for name, value in values.items())
        parts.append(f"<details><summary>{escape(node)}</summary><table>{rows}</table></details>")
    for change in about.get("parameter_changes", []):
        text = (
            f"{change['node']}: {change['name']} became {json.dumps(change['value'])} at {change['at_s'] - run.span_s[0]:.1f} s"
        )
        parts.append(f"<p>{escape(text)}</p>")
    if not about.get("parameters"):
        parts.append('<p class="muted">No node answered with its parameters.</p>')
    parts.append(f"<details><summary>versions</summary><table>{_rows(about.get('versions', {}).items())}</table></details>")
    return "".join(parts)


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    return f"<h2>{escape(title)}</h2><table><tr>{head}</tr>{_rows(rows)}</table>"


def _rows(rows: Iterable[Sequence[Any]]) -> str:
    return "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rdvla report", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a recorded run")
    parser.add_argument("--output", type=Path, help="HTML file; default: report.html in the run's folder")
    given = parser.parse_args(argv)
    output = given.output or given.run / "report.html"
    text = page(Run(given.run))
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{output}: expected a file that can be written, got {error}. Choose another --output.") from error
    print(f"{output} ({len(text) / 2**20:.1f} MiB)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
