"""Gate and simulated robot that write down when a hold passes through them, for the bench's trace: `-m ...traced_gate`, `_robot`.

Times are of the steady clock, which all processes of a host share. A line: what, time [ns].
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "RDVLA_BENCH_TRACE"  # the file
TAKEN, PLANNED, PUBLISHED, REACHED = "taken", "planned", "published", "reached"


class Trace:
    def __init__(self) -> None:
        self._file = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def mark(self, what: str) -> None:
        os.write(self._file, f"{what} {time.monotonic_ns()}\n".encode())

    def around(self, owner: type, name: str, before: str = "", after: str = "") -> None:
        """Marks when a method begins or has returned."""
        method: Callable[..., Any] = getattr(owner, name)

        def marked(*arguments: Any, **options: Any) -> Any:
            if before:
                self.mark(before)
            result = method(*arguments, **options)
            if after:
                self.mark(after)
            return result

        setattr(owner, name, marked)


def read(path: Path) -> list[tuple[str, float]]:
    """(what, time [s]) in the order of the times."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return sorted(((what, int(at_ns) * 1e-9) for what, at_ns in lines), key=lambda mark: mark[1])
