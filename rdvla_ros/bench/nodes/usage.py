"""Memory and processor time of processes and their children."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import psutil


@dataclass
class Usage:
    """One process over time: at_s (steady), resident memory [MiB], processor time [s], threads and open files."""

    at_s: list[float] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def summary(self, warm_up_s: float) -> dict[str, float]:
        """Slope of the memory after the warm-up, with its standard error (autocorrelation not taken into account)."""
        at, memory = np.array(self.at_s), np.array(self.memory_mib)
        late = at >= at[0] + warm_up_s
        slope, error = line(at[late] / 3600.0, memory[late])
        return {
            "memory_mib": round(float(memory[-1]), 1),
            "memory_slope_mib_per_h": round(slope, 2),
            "memory_slope_error": round(error, 2),
            "memory_growth_mib": round(float(np.median(memory[-10:]) - np.median(memory[late][:10])), 3),
            "cpu_cores": round((self.cpu_s[-1] - self.cpu_s[0]) / max(1e-9, self.at_s[-1] - self.at_s[0]), 3),
            "threads": [min(self.threads), max(self.threads)],
            "files": [min(self.files), max(self.files)],
        }


def line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope of the least-squares line and its standard error."""
    if len(x) < 3:
        return float("nan"), float("nan")
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    rest = y - y.mean() - slope * centred
    return slope, float(np.sqrt(rest @ rest / (len(x) - 2) / (centred @ centred)))


def children(pid: int) -> list[int]:
    """Processes that this one has started."""
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def sample(at_s: float, pids: Mapping[str, int], usages: dict[str, Usage]) -> None:
    """Add one sample for every process that lives."""
    for name, pid in pids.items():
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                times, files = process.cpu_times(), process.num_fds()
                threads, memory_mib = process.num_threads(), process.memory_info().rss / 2**20
        except psutil.Error:
            continue
        usage = usages.setdefault(name, Usage())
        usage.at_s.append(at_s)
        usage.cpu_s.append(times.user + times.system)  # without its children
        usage.threads.append(threads)
        usage.memory_mib.append(memory_mib)
        usage.files.append(files)
