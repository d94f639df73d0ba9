"""The executor that nodes of this package spin in.

rclpy's default executor builds its wait set anew for every callback: a node with twenty entities pays half a millisecond of
Python per message. Its events executor is told by the middleware what is ready, and the nodes take half of the processor.
It queues whatever comes, though: topics that may be flooded are read through throttle.py.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.utilities import get_rmw_implementation_identifier

from rdvla_ros.types import RdvlaError

try:  # rclpy of Jazzy (since 7.1.5) and later
    from rclpy.experimental.events_executor import EventsExecutor
except ImportError:
    EventsExecutor = None

if TYPE_CHECKING:
    from rclpy.context import Context

VARIABLE, EVENTS, WAIT_SET = "RDVLA_EXECUTOR", "events", "wait_set"
TELLS_EVENTS = ("rmw_fastrtps_cpp", "rmw_fastrtps_dynamic_cpp", "rmw_cyclonedds_cpp", "rmw_zenoh_cpp")
LONGEST_WAIT_S = 0.25  # without one, the events executor comes back at once, for ever


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


def make_executor(context: Context | None = None) -> Executor:
    """Single-threaded, of the chosen kind."""
    return EventsExecutor(context=context) if chosen_kind() == EVENTS else SingleThreadedExecutor(context=context)


def spin_once(executor: Executor) -> None:
    """Wait for one callback and run it; may come back without one."""
    if isinstance(executor, SingleThreadedExecutor):
        executor.spin_once()  # without a time-out: it makes a timer for each one
    else:
        executor.spin_once(timeout_sec=LONGEST_WAIT_S)
