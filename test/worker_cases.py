"""What the decision process may be made to run instead of a policy: `load` is 'worker_cases:<function>'.

Each function gets the settings and returns (decide, Loaded), as rdvla_ros.nodes.policy.worker.loading.load_policy does. The
observation's instruction says what a decision is to do, so that one process can be led through several.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from rdvla_ros.nodes.policy.worker.protocol import Loaded
from rdvla_ros.types import ActionChunk, Decision, ObservationError, StopReason

ROWS, JOINTS, STEP_S = 8, 14, 0.1
CAMERAS = (("top", 48, 64), ("left_wrist", 48, 64), ("right_wrist", 48, 64))
LOADED = Loaded("a case", "one", ROWS, STEP_S, {"rule": "fixed", "length": 5}, tuple(name for name, _, _ in CAMERAS))


def decision(observation, **changes):
    """Towards the mean brightness of the first image, so that what was seen can be read from it."""
    level = float(np.mean(observation.images["top"])) if observation.images else 0.0
    values = dict(
        chunk=ActionChunk(np.tile(observation.positions, (ROWS, 1)) + level / 255.0, STEP_S, observation.stamp_s),
        refinement=None,
        timings={"head": 0.001, "total": 0.001},
        iterations=3,
        limit=16,
        threshold=1e-3,
        change=np.array([np.nan, 0.1, 1e-4]),
        step_change=np.full(ROWS, 1e-4),
        stop_reason=StopReason.CONVERGED,
        converged=True,
    )
    return Decision(**{**values, **changes})


_decided = []


def calm(observation, count=ROWS):
    """A legal motion of a few hundredths of a radian, another one every time; grippers half open."""
    _decided.append(1)
    rows = np.tile(observation.positions, (count, 1))
    rows += 0.01 * np.sin(np.arange(1, count + 1)[:, None] / 3 + len(_decided)) * np.linspace(0.5, 1.0, JOINTS)
    rows[:, [6, 13]] = 0.25
    return decision(observation, chunk=ActionChunk(rows, STEP_S, observation.stamp_s))


def led(settings):
    return (lambda observation, deadline_s, executed_steps: COMMANDS.get(observation.instruction, calm)(observation)), LOADED


DARK, LIMIT, LONG = 30.0, 16, 16  # mean of the top picture below which it is dark; iterations; rows of a chunk


def thoughtful(settings):
    """Bright pictures settle at once, dark ones with the last iterations that are allowed; five rows of a chunk are executed."""

    def decide(observation, deadline_s, executed_steps, factor=1):
        made, limit = calm(observation, LONG), factor * LIMIT
        iterations = limit - 1 if observation.images["top"].mean() < DARK else 3
        change = np.geomspace(0.1, 1e-4 / len(_decided), iterations)  # other numbers in every decision, as from a live network
        change[0] = np.nan
        return replace(made, iterations=iterations, limit=limit, change=change, step_change=np.full(LONG, 1e-4))

    return decide, replace(LOADED, chunk_length=LONG, horizon={"rule": "fixed", "length": 5})


def failing_load(settings):
    raise ObservationError("expected something else")


def hanging_load(settings):
    time.sleep(3600)


def changing_load(settings):
    """Another identity every time: the file that counts the loads lies in settings['folder']."""
    count = Path(settings["folder"]) / "loads"
    count.write_text(count.read_text() + "x" if count.exists() else "x")
    return led(settings)[0], Loaded(**{**vars(LOADED), "identity": count.read_text()})


def out_of_torch_memory(observation):
    """More than any machine has: torch's own allocator says no."""
    import torch

    torch.empty(1 << 48, dtype=torch.uint8)


def over_the_limit(observation):
    np.ones(2 << 30, np.uint8)  # 2 GiB, under a limit of less


_tried = []


def out_of_memory_once(observation):
    """Every other try."""
    _tried.append(1)
    if len(_tried) % 2:
        raise MemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return calm(observation)


def device_lost(observation):
    raise RuntimeError("CUDA error: device-side assert triggered")


def bad_input(observation):
    raise ObservationError("the words are unknown")


def ends(observation):
    raise SystemExit("a library gives up")


def crashes(observation):
    os.kill(os.getpid(), signal.SIGSEGV)


def holds_the_interpreter(observation):
    """No signal handler, no thread of Python's ever runs again."""
    import ctypes

    ctypes.PyDLL(None).sleep(3600)


def same(observation):
    """Always the same offsets from where the joints are."""
    rows = np.tile(observation.positions, (ROWS, 1)) + 0.01 * np.sin(np.arange(1, ROWS + 1))[:, None]
    rows[:, [6, 13]] = 0.25
    return decision(observation, chunk=ActionChunk(rows, STEP_S, observation.stamp_s))


def one_nan(observation):
    """In one element of one arm."""
    made = calm(observation)
    made.chunk.positions[3, 9] = np.nan
    return made


def not_finite(observation):
    """As the policy gives it: the last finite chunk, marked."""
    return replace(calm(observation), stop_reason=StopReason.NON_FINITE, converged=False, change=np.array([np.nan, np.inf]))


def diverged(observation):
    """As the policy gives it: the iterations ran away."""
    change = np.array([np.nan, 1e-2, 1e-1, np.inf])
    return replace(calm(observation), stop_reason=StopReason.DIVERGED, converged=False, iterations=4, change=change)


def unsettled(observation):
    change = 0.02 + 0.01 * np.cos(np.arange(16))  # to and fro
    return replace(calm(observation), stop_reason=StopReason.ITERATION_LIMIT, converged=False, iterations=16, change=change)


def constant(observation):
    """What a dead network says, whatever it sees: it settled at once."""
    rows = np.tile([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.25], 2) + np.zeros((ROWS, 1))
    return decision(
        observation, chunk=ActionChunk(rows, STEP_S, observation.stamp_s), iterations=2, change=np.array([np.nan, 0.0])
    )


def off_by(radians):
    """The left waist that far away from the first step on."""

    def off(observation):
        made = calm(observation)
        made.chunk.positions[:, 0] += radians
        return made

    return off


def swings(observation):
    """To one side and to the other: every chunk alone is legal."""
    made = calm(observation)
    made.chunk.positions[:] += (
        (-1) ** len(_decided) * 0.06 * np.linspace(1 / ROWS, 1.0, ROWS)[:, None] * (np.arange(JOINTS) % 7 < 6)
    )
    return made


def shaped(change):
    def other_shape(observation):
        made = calm(observation)
        return replace(made, chunk=change(made.chunk))

    return other_shape


def too_fast(observation):
    """Within the positions' limits, and farther in each step than the joints get in any time that is allowed for it."""
    made = calm(observation)
    positions = made.chunk.positions.copy()
    positions[3::2, [0, 7]] += 2.0  # not the first rows, which may be past already
    return replace(made, chunk=replace(made.chunk, positions=positions))


fast_ones = 0


def too_fast_at_times(observation):
    global fast_ones
    fast_ones += 1
    return too_fast(observation) if fast_ones % 3 == 0 else calm(observation)


COMMANDS = {
    "too fast": too_fast,
    "too fast at times": too_fast_at_times,
    "one nan": one_nan,
    "not finite": not_finite,
    "diverged": diverged,
    "unsettled": unsettled,
    "constant": constant,
    "off by little": off_by(0.2),
    "off by much": off_by(2.5),
    "swing": swings,
    "too few steps": shaped(lambda chunk: replace(chunk, positions=chunk.positions[:-1])),
    "too few joints": shaped(lambda chunk: replace(chunk, positions=chunk.positions[:, :-1])),
    "no steps": shaped(lambda chunk: replace(chunk, positions=chunk.positions[:0])),
    "not a table": shaped(lambda chunk: replace(chunk, positions=chunk.positions[0])),
    "other steps": shaped(lambda chunk: replace(chunk, step_s=0.05)),
    "go": decision,
    "same": same,
    "calm": calm,
    "oom": out_of_torch_memory,
    "over the limit": over_the_limit,
    "oom once": out_of_memory_once,
    "device lost": device_lost,
    "bad input": bad_input,
    "exit": ends,
    "crash": crashes,
    "hang": holds_the_interpreter,
    "late": lambda observation: (time.sleep(1.2), calm(observation))[1],  # longer than the chunk
    "slow": lambda observation: (time.sleep(0.3), decision(observation))[1],
    "nan": lambda observation: decision(
        observation, chunk=ActionChunk(np.full((ROWS, JOINTS), np.nan), STEP_S, observation.stamp_s), change=np.array([np.inf])
    ),
}


def feeling(settings):
    """Reads the force in the left wrist and says it."""

    def decide(observation, deadline_s, executed_steps):
        return replace(calm(observation), notes=(f"felt {observation.sensors['left_wrist_force'].tolist()}",))

    return decide, replace(LOADED, sensor_names=("left_wrist_force",))
