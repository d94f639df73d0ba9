"""The process in which decisions are made: the node's `worker.ProcessWorker` starts it as `python -m`, and nobody else.

It imports torch and no ROS. It loads the policy, then answers one order at a time. Whatever a decision raises is an answer;
only what leaves the device unusable ends the process, so that the node starts another one.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from rdvla_ros.nodes.policy.worker.protocol import Failure, Images, Loaded, Order, Packet, decision_to_dict, receive
from rdvla_ros.types import Decision, Observation

# observation, deadline_s, executed_steps; and factor=..., where more iterations than usual are allowed
Decider = Callable[..., Decision]
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "failed to allocate", "bad_alloc")
DEVICE_LOST = ("cuda error", "cudnn_status", "device-side assert", "nccl error", "hip error", "device lost")


def main() -> None:
    """Arguments: the parent's process id, descriptors of the channel and of the images, and the settings as JSON."""
    parent, channel_fd, images_fd, text = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the node, which ends this process
    settings = json.loads(text)
    channel = socket.socket(fileno=channel_fd)
    images = Images(settings["cameras"], images_fd)
    try:
        serve(channel, images, settings)
    except (BrokenPipeError, ConnectionResetError):  # the node is gone
        pass
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # taking an interpreter with torch in it apart takes a second


def die_with(parent: int) -> None:
    """The kernel ends this process when the thread that started it ends, whatever this one is doing then."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def serve(channel: socket.socket, images: Images, settings: dict[str, Any]) -> None:
    try:
        limit_memory(settings.get("memory_bytes", 0))
        decider, loaded = load(settings)
    except BaseException as error:
        Packet(failure=vars(Failure.of(error, fatal=True))).send(channel)
        return
    gc.collect()
    gc.freeze()  # what was loaded lives as long as the process: no collection ever walks through it again
    Packet(loaded=vars(loaded)).send(channel)
    while (packet := receive(channel)) is not None:
        order = Order(**packet.order)
        answer = answered(decider, order.observation(images), order)
        answer.send(channel)
        if answer.failure and answer.failure["fatal"]:
            return


def limit_memory(data_bytes: int) -> None:
    """Of the process' own data, as the kernel counts it; what goes beyond fails to be allocated. 0: no limit."""
    if data_bytes:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))


def load(settings: dict[str, Any]) -> tuple[Decider, Loaded]:
    """settings['load'] is 'module:function'; the function gets the settings."""
    module, _, function = settings["load"].partition(":")
    return getattr(importlib.import_module(module), function)(settings)


def answered(decide: Decider, observation: Observation, order: Order) -> Packet:
    """The decision or the failure. Out of memory: what can be released is, and the decision is tried once more."""
    for last in (False, True):
        try:
            more = {"factor": order.factor} if order.factor != 1 else {}
            decision = decide(observation, order.deadline_s, order.executed_steps, **more)
            return Packet(order.sequence, decision=decision_to_dict(decision))
        except BaseException as error:
            failure = Failure.of(error, fatal=device_lost(error))
            again = out_of_memory(error) and not last
        if not again:
            break
        release_memory()  # outside the except clause: until it ends, the traceback keeps the tensors
    return Packet(order.sequence, failure=vars(failure))


def out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)
    )


def device_lost(error: BaseException) -> bool:
    """Errors of a device that every later call in this process would meet again."""
    if out_of_memory(error):
        return False
    lost = type(error).__name__ == "AcceleratorError"
    return lost or (isinstance(error, RuntimeError) and any(words in str(error).lower() for words in DEVICE_LOST))


def release_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
