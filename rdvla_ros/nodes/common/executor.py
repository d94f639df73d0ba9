"""The executor that nodes of this package spin in.

rclpy's default executor builds its wait set anew for every callback: a node with twenty entities pays half a millisecond of
Python per message. Its events executor is told by the middleware what is ready, and the nodes take half of the processor.
It queues whatever comes, though: topics that may be flooded are read through throttle.py. And it crashes where something is
destroyed while an event for it waits (rclpy #1641, #1644): a node that destroys what it has made says `EXECUTOR = WAIT_SET`.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.utilities import get_rmw_implementation_identifier

from rdvla_ros.types import RdvlaError

try:  # rclpy of Jazzy (since 7.1.5) and later
    from rclpy.experimental.events_executor import EventsExecutor
except ImportError:
    EventsExecutor = None

if TYPE_CHECKING:
    from collections.abc import Callable

    from rclpy.context import Context
    from rclpy.node import Node

VARIABLE, EVENTS, WAIT_SET = "RDVLA_EXECUTOR", "events", "wait_set"
TELLS_EVENTS = ("rmw_fastrtps_cpp", "rmw_fastrtps_dynamic_cpp")  # Cyclone DDS and Zenoh are said to; not tried
LOOK_S, SET_BACK_S = 0.05, 0.02
EVENTS_WAIT_S = 0.25  # without one, the events executor comes back at once, for ever


class ExecutorError(RdvlaError):
    """An executor that does not exist here."""


def chosen_kind() -> str:
    """'events' where rclpy and the middleware can, else 'wait_set'; the environment's RDVLA_EXECUTOR decides otherwise."""
    possible = EventsExecutor is not None and get_rmw_implementation_identifier() in TELLS_EVENTS
    wanted = os.environ.get(VARIABLE) or (EVENTS if possible else WAIT_SET)
    if wanted not in (EVENTS, WAIT_SET) or (wanted == EVENTS and not possible):
        raise ExecutorError(
            f"{VARIABLE}: expected '{WAIT_SET}'{f' or {EVENTS!r}' if possible else ' (this rclpy or middleware has no events)'}, "
            f"got '{wanted}'."
        )
    return wanted


def make_executor(context: Context | None = None, kind: str | None = None) -> Executor:
    """Single-threaded; of the chosen kind, if none is given."""
    events = (kind or chosen_kind()) == EVENTS
    return EventsExecutor(context=context) if events else SingleThreadedExecutor(context=context)


class StepWatch:
    """Starts a node's timers anew when the wall clock was set back.

    rclpy's wheels wait for the next timer by the wall clock, whatever the timer's own: set back by a minute, timers of the events
    executor would stand still for a minute.
    """

    def __init__(self, node: Node):
        self._node, self._ends = node, threading.Event()
        self._thread = threading.Thread(target=self._run, name="clock steps", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ends.set()

    def _run(self) -> None:
        ahead_s = time.time() - time.monotonic()
        while not self._ends.is_set():
            time.sleep(LOOK_S)  # not Event.wait, which may go by the wall clock as well
            was_s, ahead_s = ahead_s, time.time() - time.monotonic()
            if ahead_s < was_s - SET_BACK_S:
                for timer in list(self._node.timers):
                    timer.reset()
                self._node.executor.wake()


def spin_until(
    executor: Executor, stopped: Callable[[], bool], escaped: Callable[[Exception], None], longest_wait_s: float | None = None
) -> None:
    """Run callbacks until `stopped()`; an exception that one lets out is handed to `escaped`.

    longest_wait_s: after that `stopped` is asked even when no callback ran; None: only a shutdown of the executor ends the wait.
    """
    events = not isinstance(executor, SingleThreadedExecutor)
    if longest_wait_s is None and events:
        longest_wait_s = EVENTS_WAIT_S
    while not stopped():
        try:
            executor.spin_once(timeout_sec=longest_wait_s)  # the wait set makes a timer for each time-out
        except ExternalShutdownException:
            return
        except Exception as error:
            escaped(error)
