"""How a node's process lives: it starts, spins through whatever a callback raises, and leaves with code 0 on a signal."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable

import rclpy
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from rdvla_ros.nodes.common import transport
from rdvla_ros.nodes.common.executor import StepWatch, make_executor, spin_until
from rdvla_ros.nodes.common.hooks import NodeHooks
from rdvla_ros.types import RdvlaError

SWITCH_S = 0.0005  # for sys.setswitchinterval: how long a thread keeps the others waiting; 5 ms by default
LOOK_S = 0.1  # longest time until a signal is seen: it does not end a wait for callbacks
EXIT_WITHIN_S = 1.8  # after a signal; whatever still runs then (a load, a decision, a blocked call) is given up


def run(make_node: Callable[[], NodeHooks], args: list[str] | None = None) -> int:
    """Run one node until SIGINT or SIGTERM. Returns the exit code: 0, or 1 when the node could not be made or has failed.

    rclpy's own signal handling makes the context invalid before the last message can be sent, so it is switched off:
    `node.close()` runs while publishing still works; `node.begin()` before the first callback.
    """
    images = getattr(make_node, "RECEIVES_IMAGES", False)
    sys.setswitchinterval(SWITCH_S)  # heartbeats and services beside the callbacks
    try:
        transport.choose(images=images)
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RdvlaError as error:
        print(f"[ERROR] {error}", file=sys.stderr, flush=True)
        return 1
    except Exception as error:  # a parameter file that cannot be read, say; rclpy has no common class for these
        print(f"[ERROR] The arguments were not understood: {error}", file=sys.stderr, flush=True)
        return 1
    stop = threading.Event()
    last_resort = threading.Timer(EXIT_WITHIN_S, _give_up)
    last_resort.daemon = True

    def on_signal(*_: object) -> None:
        if not stop.is_set():
            stop.set()
            last_resort.start()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        try:
            node = make_node()
            executor = make_executor(kind=node.EXECUTOR)
        except RdvlaError as error:
            print(f"[ERROR] {error}", file=sys.stderr, flush=True)
            return 1
        executor.add_node(node)
        for sentence in transport.remarks(os.environ, images=images):
            node.get_logger().warning(sentence)
        node.begin()
        steps = None if isinstance(executor, SingleThreadedExecutor) else StepWatch(node)
        try:
            spin(executor, node, stop.is_set)
            node.close()
        finally:
            if steps:
                steps.close()
            executor.shutdown(timeout_sec=0.5)
            node.destroy_node()
        if node.failed:
            print(f"[ERROR] {node.failed}", file=sys.stderr, flush=True)
        return 1 if node.failed else 0
    finally:
        rclpy.try_shutdown()
        last_resort.cancel()
        for number, handler in previous.items():
            signal.signal(number, handler)


def spin(executor: Executor, node: NodeHooks, stopped: Callable[[], bool]) -> None:
    """Spin until `stopped()` or the node has failed. An exception that escapes a callback is logged and counted, never the end
    of the node, whose `on_escaped` follows."""
    count = itertools.count(1)

    def escaped(error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        node.get_logger().error(f"Exception number {next(count)} escaped a callback: {text}")
        node.on_escaped(f"an exception that escaped a callback ({text})")

    spin_until(executor, lambda: stopped() or bool(node.failed) or not rclpy.ok(context=node.context), escaped, LOOK_S)


def leave(code: int) -> None:
    """End the process now: the last line of every node's main. Taking an interpreter apart may crash where a node was half made
    (its DDS threads still run then) or a thread is inside torch; nothing is left to be done by it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _give_up() -> None:
    print(f"[WARN] Something still ran {EXIT_WITHIN_S:g} s after the signal to end; it was given up.", file=sys.stderr)
    leave(0)
