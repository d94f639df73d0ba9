"""Log lines that do not repeat themselves, and callbacks that end nothing when they raise."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from rclpy.node import Node

REPEAT_S = 3.0  # the same complaint is made at most this often


class Complaints:
    """What a node says about what is wrong. A complaint is known by its key; exceptions in callbacks are counted.

    on_exception(sentence), where it is set: what else follows from one.
    """

    def __init__(self, node: Node, repeat_s: float = REPEAT_S):
        self._node, self._repeat_s = node, repeat_s
        self._said: dict[str, float] = {}
        self.exceptions = 0
        self.on_exception: Callable[[str], None] | None = None

    def log(self, severity: str, text: str) -> None:
        """severity: 'warning' or 'error'. rclpy ties a severity to each line of code that logs, hence two of them."""
        if severity == "error":
            self._node.get_logger().error(text)
        else:
            self._node.get_logger().warning(text)

    def say(self, key: str, text: str, severity: str = "warning") -> None:
        now_s = time.monotonic()
        if now_s - self._said.get(key, -math.inf) >= self._repeat_s:
            self._said[key] = now_s
            self.log(severity, text)

    def guarded(self, callback: Callable) -> Callable:
        """A callback that raises is reported; it ends neither the spin loop nor, for a service, the caller's wait."""
        name = getattr(getattr(callback, "func", callback), "__name__", repr(callback))  # func: of a partial

        # not functools.wraps: rclpy counts the parameters of what it wraps, and would hand over more than a partial takes
        def guard(*args: Any) -> Any:
            try:
                return callback(*args)
            except Exception as error:
                self._raised(name, error)
                return args[-1] if len(args) == 2 else None

        return guard

    def _raised(self, name: str, error: Exception) -> None:
        self.exceptions += 1
        text = f"{name} failed: {type(error).__name__}: {error}"
        self.say(f"raised in {name}", text, "error")
        if self.on_exception is not None:
            try:
                self.on_exception(text)
            except Exception as further:
                self.say("raised after an exception", f"What follows from an exception failed too: {further}", "error")
