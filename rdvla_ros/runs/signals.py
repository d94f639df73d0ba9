"""What a run's tables say at any time: joints, commands, mode, instruction. A joints of the robot, M times."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from rdvla_ros.control.motion import cubic
from rdvla_ros.robot import Arm, Sensor
from rdvla_ros.runs.reader import Run

MODES = {0: "AUTO", 1: "HOLD", 2: "TAKEOVER", 3: "PAUSE"}  # GateStatus
GAP_S = 0.3  # between two samples of a joint; nothing is made up across a longer one
Samples = tuple[np.ndarray, np.ndarray]  # times (N,), increasing, and values (N, J)


def measured(run: Run, arm: Arm) -> Samples:
    """Positions (N, J) of the arm's joints, from every message that has all of them."""
    table = run.table("joints")
    return _by_name(zip(table["stamp_s"], table["name"], table["position"], strict=True), arm)


def commanded(run: Run, arm: Arm) -> Samples:
    """What the controller commanded (N, J): as it reported, or else its trajectories every 20 ms."""
    table = run.table("controllers")
    table = table[table["arm"] == arm.name]
    if len(table):
        return _by_name(zip(table["stamp_s"], table["joint_names"], table["reference"], strict=True), arm)
    return _followed(run, arm)


def readings(run: Run, sensor: Sensor) -> Samples:
    """Numbers (N, w) of the sensor. Rows of another count or frame, not finite, or with the stamp of the one before are left
    out, as the policy refuses them."""
    table = run.table("sensors")
    table = table[table["sensor"] == sensor.name]
    if sensor.frame_id:
        table = table[table["frame_id"] == sensor.frame_id]
    times, values = [], []
    for time_s, numbers in zip(table["stamp_s"], table["values"], strict=True):
        reading = np.asarray(numbers, dtype=np.float64)
        whole = reading.shape == (sensor.size,) and np.isfinite(reading).all() and np.isfinite(time_s)
        if whole and (not times or time_s > times[-1]):
            times.append(time_s)
            values.append(reading)
    return np.array(times), np.array(values).reshape(len(times), sensor.size)


def _by_name(rows: Iterable[tuple], arm: Arm) -> Samples:
    """(time, names, values) -> the arm's joints in order. Rows that lack one, are not finite or go back in time are left out."""
    times, values, columns = [], [], {}
    for time_s, names, numbers in rows:
        key = tuple(names)
        if key not in columns:
            index = {name: i for i, name in enumerate(key)}
            columns[key] = [index[n] for n in arm.joint_names] if set(arm.joint_names) <= set(key) else None
        if columns[key] is None or len(numbers) != len(key):
            continue
        position = np.asarray(numbers, dtype=np.float64)[columns[key]]
        if np.isfinite(position).all() and np.isfinite(time_s) and (not times or time_s > times[-1]):
            times.append(time_s)
            values.append(position)
    return np.array(times), np.array(values).reshape(len(times), len(arm.joint_names))


def _followed(run: Run, arm: Arm, step_s: float = 0.02) -> Samples:
    """The trajectories that the arm was sent: each replaces the one before from its time base on, and rests at its end."""
    table = run.table("trajectories")
    table = table[(table["source"] == "gate") & (table["arm"] == arm.name)]
    times, values = [], []
    rows = [row for row in table.to_dict("records") if _whole(row, arm)]
    for i, row in enumerate(rows):
        base_s, knots = row["stamp_s"], np.asarray(row["times_s"], dtype=np.float64)
        shape, order = (len(knots), len(arm.joint_names)), [list(row["joint_names"]).index(name) for name in arm.joint_names]
        until_s = rows[i + 1]["stamp_s"] if i + 1 < len(rows) else base_s + knots[-1]
        at_s = np.arange(base_s + knots[0], min(until_s, base_s + knots[-1] + 60.0), step_s)
        if not at_s.size:
            continue
        positions, velocities = (
            np.asarray(row[key], dtype=np.float64).reshape(shape)[:, order] for key in ("positions", "velocities")
        )
        sampled = cubic.sample(knots, positions, velocities, np.minimum(at_s - base_s, knots[-1]))[0]
        times.append(at_s)
        values.append(sampled)
    if not times:
        return np.empty(0), np.empty((0, len(arm.joint_names)))
    joined, stacked = np.concatenate(times), np.concatenate(values)
    keep = np.concatenate([[True], np.diff(np.maximum.accumulate(joined)) > 0])
    return joined[keep], stacked[keep]


def _whole(row: dict, arm: Arm) -> bool:
    count = len(row["joint_names"]) * len(row["times_s"])
    full = (
        count > 0 and len(row["positions"]) == len(row["velocities"]) == count and set(arm.joint_names) <= set(row["joint_names"])
    )
    return full and np.isfinite(np.concatenate([row["positions"], row["velocities"], row["times_s"]])).all()


def at(samples: Samples, times_s: np.ndarray) -> np.ndarray:
    """(M, J) by linear interpolation; NaN outside, and within a gap of more than GAP_S."""
    known_s, values = samples
    if len(known_s) < 2:
        return np.full((len(times_s), values.shape[1]), np.nan)
    result = np.stack([np.interp(times_s, known_s, column) for column in values.T], axis=1)
    after = np.clip(np.searchsorted(known_s, times_s), 1, len(known_s) - 1)
    bad = (times_s < known_s[0]) | (times_s > known_s[-1]) | (known_s[after] - known_s[after - 1] > GAP_S)
    result[bad] = np.nan
    return result


def in_force(table: pd.DataFrame, times_s: np.ndarray) -> np.ndarray:
    """(M,) number of the table's row that was the newest one at each time; -1 before the first."""
    return np.searchsorted(table["stamp_s"].to_numpy(), times_s, side="right") - 1


def values_in_force(table: pd.DataFrame, column: str, times_s: np.ndarray, before: Callable[[], object]) -> list:
    """The column's value at each time; before(): what stands before the first row."""
    rows = in_force(table, times_s)
    values = table[column].to_numpy()
    return [values[row] if row >= 0 else before() for row in rows]
