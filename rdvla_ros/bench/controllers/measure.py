"""What is measured on running controllers, and the numbers that come of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from rdvla_ros.bench.controllers.emulated import replay
from rdvla_ros.bench.controllers.recorder import StateRecorder
from rdvla_ros.bench.controllers.rig import Ears
from rdvla_ros.bench.controllers.smoothness import smoothness
from rdvla_ros.bench.controllers.states import SECOND, shares, thinned
from rdvla_ros.control.motion.handover import HISTORY_S
from rdvla_ros.control.motion.limits import JointLimits
from rdvla_ros.robot import RobotDescription

HOLD_S = 1.5  # after the call of a hold
BEFORE_S = 0.1
JOINED_S = 1.0  # after a resume, until chunk follows chunk

Windows = list[tuple[int, int]]  # ROS time [ns], begin and end


def boundaries(ears: Ears, count: int, tick: Callable[[], None], longest_s: float) -> tuple[Windows, int, list[str]]:
    """Chunk after chunk: the times in which nothing held the arms, how many joined a running motion, and why they were held."""
    windows, reasons, passed, end_s = [], [], 0, time.monotonic() + longest_s
    while passed < count and time.monotonic() < end_s:
        ears.run_until_moving()
        time.sleep(JOINED_S)
        begun_ns, heard, stamps = time.time_ns(), len(ears.commands), set()
        while ears.gate.mode == ears.gate.AUTO and passed + len(stamps) < count and time.monotonic() < end_s:
            time.sleep(0.02)
            fresh = {command.stamp_s for command in ears.commands[heard:]} - stamps
            heard = len(ears.commands)
            stamps |= fresh
            for _ in fresh:
                tick()
        held = ears.gate.mode != ears.gate.AUTO
        reasons += [ears.gate.reason] if held else []
        end_ns = time.time_ns() - (SECOND // 2 if held else 0)
        if end_ns > begun_ns:
            windows.append((begun_ns, end_ns))
            passed += len(stamps)
    return windows, passed, reasons


def holds(ears: Ears, count: int, random: np.random.Generator, tick: Callable[[], None]) -> Windows:
    """Holds in motion, each from shortly before its call until the arms rest."""
    windows = []
    for _ in range(count):
        ears.run_until_moving()
        time.sleep(random.uniform(0.3, 1.5))
        if ears.gate.mode != ears.gate.AUTO or not ears.moving():
            continue
        called_ns = time.time_ns()
        ears.hold()
        time.sleep(HOLD_S)
        windows.append((called_ns - round(BEFORE_S * SECOND), time.time_ns()))
        tick()
    return windows


def numbers(recorded: StateRecorder, robot: RobotDescription, windows: dict[str, Windows]) -> dict[str, dict[str, Any]]:
    """name of the windows -> the largest share of each limit in them, of the reference and of what the joints are given, and how
    far the emulation is from the reference [rad or m]."""
    found: dict[str, dict[str, Any]] = {}
    period_ns = round(SECOND / robot.controller.update_rate_hz)
    for arm in robot.arms:
        states, stamps, limits = recorded.states(arm.name), recorded.stamps_ns(arm.name), JointLimits.of_joints(arm.joints)
        begun = states.begun_ns(stamps)
        times = begun + states.from_start_ns
        chosen = thinned(times)
        emulated = replay(states, times, begun, recorded.sent[arm.name], arm, robot.controller.update_rate_hz)
        took = _taken(times, begun, stamps)
        off = np.nan_to_num(np.abs(emulated - states.position).max(axis=1), nan=0.0)[chosen]
        states, times, begun = states.select(chosen), times[chosen], begun[chosen]
        rows = {
            "reference": shares(times, states.position, limits),
            "command": shares(times + period_ns, states.command, limits),
            "emulation": shares(times, emulated[chosen], limits),
        }
        for name, spans in windows.items():
            inside = np.zeros(len(times), dtype=bool)
            for begin_ns, end_ns in spans:
                inside |= (times >= begin_ns) & (times <= end_ns)
            row = found.setdefault(name, {"updates": 0, "off_the_emulation": 0.0, "missed": 0, "taken_ms": []})
            row["taken_ms"] += [round(ms, 1) for at, ms in took if any(begin <= at <= end for begin, end in spans)]
            row["updates"] += int(inside.sum())
            gaps = np.diff(times)[inside[1:]]
            row["missed"] += int(np.round(gaps / period_ns - 1.0).clip(0).sum())
            row["off_the_emulation"] = max(row["off_the_emulation"], float(off[inside].max(initial=0.0)))
            for kind, values in rows.items():
                largest = {limit: round(float(share[inside].max(initial=0.0)), 4) for limit, share in values.items()}
                before = row.get(kind, dict.fromkeys(largest, 0.0))
                row[kind] = {limit: max(share, before[limit]) for limit, share in largest.items()}
    return found


def _taken(times_ns: np.ndarray, begun_ns: np.ndarray, stamps_ns: Sequence[int]) -> list[tuple[int, float]]:
    """(time [ns], how long [ms] after the moment that its plan counted from) of the update that took each stamped message."""
    known, changes = set(stamps_ns), np.flatnonzero(np.diff(begun_ns)) + 1
    taken = [i for i in changes if int(begun_ns[i]) in known]
    return [(int(times_ns[i]), float(times_ns[i] - begun_ns[i]) * 1e-6 - 1000.0 * HISTORY_S) for i in taken]


def smooth(recorded: StateRecorder, robot: RobotDescription, windows: Windows) -> dict[str, Any]:
    """Example 19's measures, of the arms' joints without grippers, the worse arm of each."""
    worst: dict[str, Any] = {}
    for arm in robot.arms:
        joints = ~np.isin(arm.joint_names, robot.gripper_joints)
        states = recorded.states(arm.name)
        begun = states.begun_ns(recorded.stamps_ns(arm.name))
        times = begun + states.from_start_ns
        chosen = thinned(times)
        for begin_ns, end_ns in windows:
            inside = chosen & (times >= begin_ns) & (times <= end_ns)
            if inside.sum() < 10:
                continue
            part, at, start = states.select(inside), times[inside], begun[inside]
            part = type(part)(*(f if f.ndim == 1 else f[:, joints] for f in vars(part).values()))
            measured = smoothness(part, at, at[1:][np.diff(start) != 0])
            row = {**asdict(measured), "steps": measured.steps, "seams_step": measured.seams_step}
            worst = {key: max(value, worst.get(key, value)) for key, value in row.items()}
    return {key: value if isinstance(value, bool) else round(float(value), 4) for key, value in worst.items()}


def span(begin_ns: int) -> Windows:
    return [(begin_ns, time.time_ns())]


def moved(recorded: StateRecorder, arms: Sequence[str]) -> float:
    """How far any joint was commanded [rad or m]."""
    return max(float(np.ptp(recorded.states(arm).position, axis=0).max()) for arm in arms)
