"""The results of `rdvla bench controllers` as tables of Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LIMITS = ("velocity", "acceleration", "jerk")
KINDS = {"reference": "reference", "command": "what the joints are given", "emulation": "emulation at the same updates"}


def load(folder: Path, prefix: str = "") -> list[dict[str, Any]]:
    """prefix 'emulated_': of the emulation; without: of controllers."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob(f"{prefix or '[0-9]'}*hz.json")]
    return sorted(found, key=lambda result: result["update_rate_hz"])


def table(results: list[dict[str, Any]]) -> str:
    """Both tables: shares of the limits, and example 19's measures."""
    lines = ["| Hz | sent by | when | of | velocity | acceleration | jerk | off the emulation |", "|" + "---|" * 8]
    for result in results:
        for sender, limits in _senders(result, "limits"):
            for when, row in limits.items():
                if not row["updates"]:
                    continue
                for kind, name in KINDS.items():
                    values = " | ".join(f"{row[kind][limit]:.2f}" for limit in LIMITS)
                    off = f"{row['off_the_emulation']:.0e}" if kind == "emulation" else ""
                    lines.append(f"| {result['update_rate_hz']:g} | {sender} | {when} | {name} | {values} | {off} |")
    lines += ["", "| Hz | sent by | peak v | peak a | a by differences | largest change of v | a x period | at seams | steps |"]
    lines.append("|" + "---|" * 9)
    for result in results:
        for sender, row in _senders(result, "smoothness"):
            if row:
                lines.append(f"| {result['update_rate_hz']:g} | {sender} | {_smooth(row)} |")
    return "\n".join(lines)


def _senders(result: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    yield "this package", result["ours"][key]
    if "late" in result:
        yield "this package", result["late"][key]
    for name, other in result.get("others", {}).items():
        yield name, other[key]


def _smooth(row: Mapping[str, Any]) -> str:
    keys = ("velocity", "acceleration", "difference_acceleration", "velocity_jump", "expected_jump", "seam_jump")
    steps = "yes" if row["steps"] else "no"
    seams = ", at seams" if row["seams_step"] else ""
    return " | ".join([*(f"{row[key]:.3g}" for key in keys), steps + seams])
