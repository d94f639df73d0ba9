"""What is too much of a topic is thrown away before Python reads it.

The events executor (executor.py) queues every message of a flood and everything else behind them. To read a message costs 50 to
500 us, to take it unread 10: so a subscription of raw messages that reads only so many a second keeps up with any flood.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.serialization import deserialize_message

MOST_HZ = 1000.0  # joint states and controller states come at 20 to 500 Hz
BURST = 100.0  # messages in a row after a silence, as after a stall


def throttled(message_type: type, callback: Callable[[Any], Any], most_hz: float = MOST_HZ) -> Callable[[bytes], None]:
    """For create_subscription(..., raw=True): `callback` with the messages, of a flood with the first of each burst."""
    allowed, last_s = BURST, time.monotonic()

    def receive(data: bytes) -> None:
        nonlocal allowed, last_s
        now_s = time.monotonic()
        allowed, last_s = min(BURST, allowed + (now_s - last_s) * most_hz), now_s
        if allowed >= 1.0:
            allowed -= 1.0
            try:
                message = deserialize_message(data, message_type)
            except Exception:  # of another version of the type, say: rclpy too drops what it cannot read; silence is noticed
                return
            callback(message)

    receive.__name__ = getattr(getattr(callback, "func", callback), "__name__", "receive")  # for what is said of exceptions
    return receive
