"""A second node with threads of its own in a node's process: what it serves never waits behind the first one's callbacks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from rclpy.node import Node
from rclpy.parameter import Parameter

from rdvla_ros.nodes.common.executor import make_executor, spin_until
from rdvla_ros.nodes.common.guard import Guard

JOIN_S = 0.5  # longest wait for the thread at the end


@dataclass
class _Task:
    period_s: float
    run: Callable[[], None]
    due_s: float = 0.0


class SideNode:
    """Create entities on `node` (names in full: /gate/hold), add tasks, then `start`.

    Remappings and parameters of the process are the first node's alone. Callbacks and tasks run in the side's threads:
    what they share needs a lock.
    """

    def __init__(self, main: Node):
        self._main = main
        self.node = Node(
            f"{main.get_name()}_side",
            context=main.context,
            namespace=main.get_namespace(),
            use_global_arguments=False,
            start_parameter_services=False,
            parameter_overrides=[Parameter("start_type_description_service", value=False)],
        )
        self._executor = make_executor(main.context, main.EXECUTOR)
        self._executor.add_node(self.node)
        self._tasks: list[_Task] = []
        self._ends = threading.Event()
        name = self.node.get_name()
        self._threads = [
            threading.Thread(target=self._spin, name=f"{name} callbacks", daemon=True),
            threading.Thread(target=self._keep_time, name=f"{name} tasks", daemon=True),
        ]
        self.guard = Guard(main, ending=self._ended)

    def every(self, period_s: float, run: Callable[[], None]) -> None:
        """By the steady clock, in a plain thread. A late one skips what it missed and makes no burst."""
        self._tasks.append(_Task(period_s, run, time.monotonic()))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Safe to call twice."""
        if self._ends.is_set():
            return
        self._ends.set()
        self._executor.shutdown(timeout_sec=JOIN_S)  # a wait for callbacks ends with it
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(JOIN_S)
        self.node.destroy_node()

    def _spin(self) -> None:
        spin_until(self._executor, self._ended, self._escaped)

    def _keep_time(self) -> None:
        while not self._ended():
            now_s = time.monotonic()
            for task in self._tasks:
                if task.due_s <= now_s:
                    task.due_s = max(task.due_s + task.period_s, now_s + task.period_s / 2)
                    self._guarded(task.run)
            next_s = min((task.due_s for task in self._tasks), default=now_s + 0.1)
            self._ends.wait(max(0.0, next_s - time.monotonic()))

    def _guarded(self, run: Callable[[], None]) -> None:
        try:
            run()
        except Exception as error:
            self._escaped(error)

    def _escaped(self, error: Exception) -> None:
        self.guard.raised(threading.current_thread().name, error)
        self._ends.wait(0.001)  # what raises at once every time must not take the processor

    def _ended(self) -> bool:
        return self._ends.is_set() or not self.node.context.ok()
