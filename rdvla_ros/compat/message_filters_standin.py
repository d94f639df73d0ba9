"""Stand-in for the ROS 2 package message_filters: the classes this package uses, with the same interface.

Filters are objects with `registerCallback(callback, *args)`; a filter that has output calls each callback with the
messages and then those args. The names keep the casing of the package they stand in for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

NANOSECONDS = 1_000_000_000


class SimpleFilter:
    """A filter with output: anything can be connected behind it."""

    def __init__(self) -> None:
        self.callbacks: dict[int, tuple[Callable, tuple]] = {}

    def registerCallback(self, cb: Callable, *args: Any) -> int:
        """Call cb(*messages, *args) for every output. Returns the number of the connection."""
        number = len(self.callbacks)
        self.callbacks[number] = (cb, args)
        return number

    def signalMessage(self, *msg: Any) -> None:
        for callback, args in list(self.callbacks.values()):
            callback(*msg, *args)


class Subscriber(SimpleFilter):
    """A subscription as the beginning of a chain: Subscriber(node, type, topic, qos_profile=..., ...)."""

    def __init__(self, node: Any, msg_type: type, topic: str, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.node, self.topic = node, topic
        kwargs.setdefault("qos_profile", 10)
        self.sub = node.create_subscription(msg_type, topic, *args, callback=self.callback, **kwargs)

    def callback(self, msg: Any) -> None:
        self.signalMessage(msg)

    def getTopic(self) -> str:
        return self.topic

    def __getattr__(self, key: str) -> Any:
        if key == "sub":  # not made yet: looking it up through itself would never end
            raise AttributeError(key)
        return getattr(self.sub, key)


class TimeSynchronizer(SimpleFilter):
    """Passes on one message of every input once all have the same stamp; queue_size messages wait per input."""

    def __init__(self, fs: Sequence[SimpleFilter], queue_size: int) -> None:
        super().__init__()
        self.queue_size = queue_size
        self.lock = threading.Lock()
        self.connectInput(fs)

    def connectInput(self, fs: Sequence[SimpleFilter]) -> None:
        self.queues: list[dict[int, Any]] = [{} for _ in fs]
        self.input_connections = [f.registerCallback(self._received, index) for index, f in enumerate(fs)]

    def _received(self, msg: Any, index: int) -> None:
        with self.lock:
            stamp_ns = _stamp_ns(msg)
            queue = self.queues[index]
            queue[stamp_ns] = msg
            while len(queue) > self.queue_size:
                del queue[min(queue)]
            chosen = self._match(index, stamp_ns)
            messages = [q.pop(stamp) for q, stamp in zip(self.queues, chosen, strict=True)] if chosen else None
        if messages:
            self.signalMessage(*messages)

    def _match(self, index: int, stamp_ns: int) -> list[int] | None:
        """The stamps to pass on together, one per input, or None."""
        if all(stamp_ns in queue for queue in self.queues):
            return [stamp_ns] * len(self.queues)
        return None


class ApproximateTimeSynchronizer(TimeSynchronizer):
    """As TimeSynchronizer, for stamps that lie less than slop seconds apart; each input gives its nearest."""

    def __init__(self, fs: Sequence[SimpleFilter], queue_size: int, slop: float, allow_headerless: bool = False) -> None:
        if allow_headerless:
            raise ValueError("allow_headerless: expected False (a message without a stamp cannot be matched), got True")
        self.slop_ns = round(slop * NANOSECONDS)
        super().__init__(fs, queue_size)

    def _match(self, index: int, stamp_ns: int) -> list[int] | None:
        if not all(self.queues):
            return None
        chosen = [min(queue, key=lambda s: abs(s - stamp_ns)) for queue in self.queues]
        chosen[index] = stamp_ns
        return chosen if max(chosen) - min(chosen) < self.slop_ns else None


def _stamp_ns(msg: Any) -> int:
    stamp = msg.header.stamp
    return stamp.sec * NANOSECONDS + stamp.nanosec
