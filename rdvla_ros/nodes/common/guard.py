"""Log lines that do not repeat themselves, and callbacks that end nothing when they raise."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from typing import Any

from rclpy.node import Node

NUMBER = re.compile(r"[0-9.]+")  # a complaint whose numbers have changed is still the same

REPEAT_S = 3.0  # the same line is logged at most this often


class Guard:
    """One per thread of a node. Exceptions in wrapped callbacks are counted and logged, and `then(sentence)`, where it is set,
    does what else must follow from one: a hold, say.

    ending: while it is true, exceptions belong to the shutdown and are dropped.
    """

    def __init__(
        self,
        node: Node,
        then: Callable[[str], None] | None = None,
        *,
        ending: Callable[[], bool] = lambda: False,
        repeat_s: float = REPEAT_S,
    ):
        self._node, self._ending, self._repeat_s = node, ending, repeat_s
        self._logged_s: dict[str, float] = {}
        self.exceptions, self.last = 0, ""
        self.then = then

    def log(self, severity: str, text: str) -> None:
        """severity: 'warning' or 'error'. rclpy ties a severity to each line of code that logs, hence two of them."""
        if severity == "error":
            self._node.get_logger().error(text)
        else:
            self._node.get_logger().warning(text)

    def report(self, key: str, text: str, severity: str = "warning") -> None:
        """Log the text, unless another one of this key was logged less than repeat_s ago."""
        now_s = time.monotonic()
        if now_s - self._logged_s.get(key, -math.inf) >= self._repeat_s:
            self._logged_s[key] = now_s
            self.log(severity, text)

    def wrap(self, callback: Callable) -> Callable:
        """The callback for rclpy: one that raises ends neither the spin loop nor, for a service, the caller's wait."""
        name = getattr(getattr(callback, "func", callback), "__name__", repr(callback))  # func: of a partial

        # not functools.wraps: rclpy counts the parameters of what it wraps, and would hand over more than a partial takes
        def guarded(*args: Any) -> Any:
            try:
                return callback(*args)
            except Exception as error:
                self.raised(name, error)
                return args[-1] if len(args) == 2 else None

        return guarded

    def raised(self, where: str, error: Exception) -> None:
        """What follows from an exception. `then` comes first: a hold does not wait for a log line."""
        if self._ending():
            return
        self.exceptions += 1
        self.last = f"{where} failed: {type(error).__name__}: {error}"
        if self.then is not None:
            try:
                self.then(f"an exception in {self._node.get_name()} ({self.last})")
            except Exception as further:
                self.report("then", f"What follows from an exception failed too: {further}", "error")
        self.report(f"raised in {where}", self.last, "error")
