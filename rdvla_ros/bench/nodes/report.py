"""From raw times to a summary, JSON files, a table and histograms."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from rdvla_ros.bench.machine import machine

# part, key of the times, what it is, goals [s]: quantile -> at most
TIMES = (
    ("holds_idle", "heard_s", "hold call to both controllers, idle", {"p50": 0.010, "p99": 0.030}),
    ("holds_loaded", "heard_s", "hold call to both controllers, at 100 calls/s", {"p50": 0.010, "p99": 0.030}),
    ("burst", "answered_s", "answer of a hold call, 100 hold calls/s", {}),
    ("killed", "heard_s", "policy kill -9 to hold", {"max": 0.100}),
    ("stopped", "heard_s", "policy SIGSTOP to hold", {"max": 0.100}),
    ("gate_killed", "heard_s", "gate kill -9 to the policy's own hold", {"max": 0.100}),
    ("watchdog", "heard_s", "decision's deadline to hold", {"p99": 0.060}),
    ("soak", "arm_skew_s", "between the two arms' messages of one motion", {}),
    ("soak", "to_spare_s", "a motion's arrival before it leaves the running one", {}),
)

LEGS = {
    "taken": "call to the gate's callback",
    "planned": "stop planned",
    "published": "both messages published",
    "reached": "to the controllers' process",
    "heard": "published, to the bench",
    "whole": "call to both messages in the bench",
}


def quantiles(times_s: list[float]) -> dict[str, float]:
    times = np.array(times_s)
    values = {"min": times.min(), "p50": np.quantile(times, 0.5), "p99": np.quantile(times, 0.99), "max": times.max()}
    return {"n": len(times), **{name: float(value) for name, value in values.items()}}


def _count(part: dict, key: str, kept: int) -> int:
    """How many there were, where only their quantiles are kept."""
    return part.get("counts", {}).get(key, kept)


def save(folder: Path, part: str, result: dict[str, Any], command: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    around = {"machine": machine(), "load": os.getloadavg(), "nice": os.nice(0)}  # load: runnable processes, 1, 5 and 15 min
    text = json.dumps({"part": part, "command": command, **around, **_rounded(result)})
    temporary = folder / f"{part}.tmp"
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(folder / f"{part}.json")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def load(folder: Path) -> dict[str, dict]:
    """Part -> what was measured, of all parts that were."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def table(parts: dict[str, dict]) -> str:
    """Markdown, in milliseconds."""
    lines = ["| measured [ms] | n | p50 | p99 | max | goal | met |", "|---|---|---|---|---|---|---|"]
    for part, key, title, goals in TIMES:
        if part not in parts or not parts[part][key]:
            continue
        found = quantiles(parts[part][key])
        met = all(found[name] <= limit for name, limit in goals.items())
        goal = ", ".join(f"{name} <= {1e3 * limit:g}" for name, limit in goals.items()) or "-"
        numbers = " | ".join(f"{1e3 * found[name]:.1f}" for name in ("p50", "p99", "max"))
        count = _count(parts[part], key, found["n"])
        lines.append(f"| {title} | {count} | {numbers} | {goal} | {('yes' if met else 'no') if goals else '-'} |")
    if (rests := parts.get("all_killed", {}).get("runs")) is not None:
        worst = max(run["after_last_row_s"] for run in rests)
        lines.append(
            f"| all of ours killed: rest after the last executed row | {len(rests)} | - | - | {1e3 * worst:.0f} "
            f"| max <= 500 + one report of 20 | {'yes' if worst <= 0.52 else 'no'} |"
        )
    for run in parts.get("boundaries", {}).get("runs", []):
        lines += _boundary(run)
    lines += _legs(parts["trace"]) if "trace" in parts else []
    return "\n".join([*lines, *(_processes(parts["soak"]) if "soak" in parts else [])])


def _legs(trace: dict) -> list[str]:
    """Where the time of a hold goes, per executor."""
    lines = ["", "| a hold's way [ms] | executor | n | p50 | p95 | p99 | max |", "|" + "---|" * 7]
    for leg, title in LEGS.items():
        for kind, legs in trace["legs_s"].items():
            times = 1e3 * np.array(legs[leg])
            if not len(times):
                lines.append(f"| {title} | {kind} | 0 | | | | |")
                continue
            values = " | ".join(f"{value:.1f}" for value in (*np.quantile(times, (0.5, 0.95, 0.99)), times.max()))
            lines.append(f"| {title} | {kind} | {len(times)} | {values} |")
    return lines


def _boundary(run: dict) -> list[str]:
    share = np.array(run["speed_share"])
    return [
        f"\n{run['boundaries']} boundaries, inference {1e3 * run['inference_s']:.0f} ms: commanded speed over the plan's, least "
        f"{share.min():.2f} (goal 0.5), 1 % below {np.quantile(share, 0.01):.2f}; {run['backwards']} of {run['reports']} reports "
        f"backwards; {len(run['holds'])} holds."
    ]


def _processes(soak: dict) -> list[str]:
    lines = [
        "",
        f"Over {soak['seconds'] / 60.0:.1f} minutes, with {soak['decisions']['count']} decisions and {soak['holds']} holds:",
    ]
    lines += ["", "| process | cores | memory MiB | slope MiB/h | +- | threads | files |", "|---|---|---|---|---|---|---|"]
    for name, use in soak["processes"].items():
        spans = (" .. ".join(map(str, use[key])) for key in ("threads", "files"))
        numbers = f"{use['cpu_cores']:.2f} | {use['memory_mib']:.0f} | {use['memory_slope_mib_per_h']:.1f} | "
        lines.append(f"| {name} | {numbers}{use['memory_slope_error']:.1f} | {' | '.join(spans)} |")
    for name, beats in soak["beat_s"].items():
        if beats:
            off = quantiles((np.abs(np.array(beats) - 0.02)).tolist())
            count = _count(soak, name, off["n"])
            lines.append(f"\nHeartbeat of the {name}: off its period of 20 ms by p50 {1e3 * off['p50']:.2f}, "
                         f"p99 {1e3 * off['p99']:.2f}, max {1e3 * off['max']:.1f} ms (n {count}).")  # fmt: skip
    return lines


def plot(parts: dict[str, dict], path: Path) -> None:
    """A histogram per measured time, and the memory over the soak; nothing where there is neither."""
    if not (set(parts) - {"trace", "all_killed", "boundaries"}):
        return
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [row for row in TIMES if row[0] in parts and parts[row[0]][row[1]]]
    columns = 3
    rows = -(-(len(shown) + ("soak" in parts)) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.0 * rows), constrained_layout=True, squeeze=False)
    axes = axes.ravel()
    for axis, (part, key, title, goals) in zip(axes, shown, strict=False):
        times = 1e3 * np.array(parts[part][key])
        axis.hist(times, bins=40, color="tab:blue")
        for name, limit in goals.items():
            value = 1e3 * quantiles(parts[part][key])[name]
            axis.axvline(1e3 * limit, color="tab:red", linestyle=":", label=f"goal {name} <= {1e3 * limit:g}, is {value:.1f}")
        axis.set_title(f"{title}\nn = {_count(parts[part], key, len(times))}", fontsize=9)
        axis.set_xlabel("ms")
        if goals:
            axis.legend(fontsize=7)
    if "soak" in parts:
        axis = axes[len(shown)]
        for name, series in parts["soak"]["memory"].items():
            times, memory = np.array(series).T
            axis.plot(times / 60.0, memory - memory[min(len(memory) - 1, 10)], label=name)
        axis.set(xlabel="minutes", ylabel="memory since the start [MiB]")
        axis.legend(fontsize=7)
    for axis in axes[len(shown) + ("soak" in parts) :]:
        axis.axis("off")
    figure.savefig(path, dpi=100)
    plt.close(figure)
