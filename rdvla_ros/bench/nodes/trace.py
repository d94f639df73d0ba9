"""Where the time of a hold goes, in blocks with the events executor and with wait sets in turn.

Every hold is called while the gate passes motions, mostly while the arms move; the decisions, the simulator and the bench keep
two cores busy meanwhile.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from rdvla_ros.bench.nodes import parts, traced
from rdvla_ros.bench.nodes.system import System
from rdvla_ros.nodes.common.executor import EVENTS, VARIABLE, WAIT_SET

BLOCKS = (EVENTS, WAIT_SET, WAIT_SET, EVENTS, EVENTS, WAIT_SET)
MOVE_S = (0.1, 0.4)  # after a resume, until the next hold
SETTLED_S = 0.12  # after a hold's call; the stop's messages have come
PARTS = ("call", "taken", "planned", "published", "reached", "heard")


def trace(system_of: Any, folder: Path, domain: dict[str, str], count: int, tick: parts.Progress, seed: int) -> dict[str, Any]:
    """count: holds of each executor. What each leg took [s], per executor: to the request's callback in the gate, to the planned
    stop, to the published messages of both arms, to their callbacks in the controllers' process, and in the bench's."""
    legs: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in (*PARTS[1:], "whole")} for kind in (EVENTS, WAIT_SET)}
    random, before = np.random.default_rng(seed), os.environ.get(VARIABLE)
    try:
        for number, kind in enumerate(BLOCKS):
            os.environ[VARIABLE], file = kind, folder / f"trace_{number}"
            os.environ[traced.VARIABLE] = str(file)
            with system_of(folder / str(number), domain) as system:
                called = _block(system, count * 2 // len(BLOCKS), random, tick)
            for at in _matched(called, traced.read(file)):
                for first, then in zip(PARTS, PARTS[1:], strict=False):
                    since = "published" if then == "heard" else first
                    legs[kind][then].append(at[then] - at[since])
                legs[kind]["whole"].append(at["heard"] - at["call"])
    finally:
        os.environ.pop(traced.VARIABLE, None)
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before
    return {"legs_s": legs, "blocks": list(BLOCKS), "n": {kind: len(found["whole"]) for kind, found in legs.items()}}


def _block(system: System, count: int, random: np.random.Generator, tick: parts.Progress) -> list[tuple[float, float]]:
    """(when a hold was called, when the bench had both of its messages)."""
    ears, called = system.ears, []
    end_s = time.monotonic() + 2.0 * count
    while len(called) < count and time.monotonic() < end_s:
        ears.resume()
        time.sleep(random.uniform(*MOVE_S))
        if ears.gate.mode != ears.gate.AUTO:
            continue
        _, asked_s, _ = ears.hold()
        time.sleep(SETTLED_S)
        commands = ears.last_commands(asked_s)
        if len(commands) == len(ears.arms):
            called.append((asked_s, max(command.at_s for command in commands.values())))
            tick()
    return called


def _matched(called: list[tuple[float, float]], marks: list[tuple[str, float]]) -> list[dict[str, float]]:
    """The marks of each hold: the last ones between its call and 0.12 s later; a hold that lacks one is left out."""
    found = []
    for asked_s, heard_s in called:
        inside = [(what, at_s) for what, at_s in marks if asked_s <= at_s <= asked_s + SETTLED_S]
        at = {"call": asked_s, "heard": heard_s}
        for what in (traced.TAKEN, traced.PLANNED, traced.PUBLISHED):
            times = [at_s for name, at_s in inside if name == what and at_s <= heard_s]
            if times:
                at[what] = times[0] if what == traced.TAKEN else times[-1]
        reached = [at_s for name, at_s in inside if name == traced.REACHED and at_s >= at.get(traced.PUBLISHED, np.inf) - 0.002]
        if len(reached) >= 2:
            at[traced.REACHED] = reached[1]
        if set(PARTS) <= set(at):
            found.append(at)
    return found
