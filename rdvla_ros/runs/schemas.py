"""The tables of a run, column by column, and how a message becomes a row.

A message is anything with the fields of the ROS message: rclpy's own, or what a bag reader made. Column `x` is the field `x`;
`x_s` of a time is its seconds on the ROS clock; `stamp_s` is the header's. `received_s` is when the recorder heard it.
Numbers are kept as they came: a NaN is evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from rdvla_ros import sensor_messages
from rdvla_ros.robot import Sensor

NUMBER, COUNT, TEXT, FLAG = pa.float64(), pa.uint64(), pa.string(), pa.bool_()
NUMBERS, TEXTS = pa.list_(NUMBER), pa.list_(TEXT)
_TIMES = {"stamp_s": NUMBER, "received_s": NUMBER}
_POINTS = {"joint_names": TEXTS, "times_s": NUMBERS, "positions": NUMBERS, "velocities": NUMBERS}


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema({**_TIMES, **columns})


SCHEMAS: dict[str, pa.Schema] = {
    # rdvla_ros/Convergence
    "decisions": _schema(
        sequence=COUNT,
        observation_stamp_s=NUMBER,
        iterations=COUNT,
        limit=COUNT,
        stop_reason=COUNT,
        converged=FLAG,
        threshold=NUMBER,
        change=NUMBERS,
        spread=NUMBER,
        horizon=COUNT,
        chunk_length=COUNT,
        step_s=NUMBER,
        published=FLAG,
        doubts=TEXTS,
        note=TEXT,
        instruction=TEXT,
        timing_names=TEXTS,
        timings_s=NUMBERS,
    ),
    # rdvla_ros/Uncertainty
    "uncertainty": _schema(
        sequence=COUNT,
        score=NUMBER,
        window_score=NUMBER,
        window=COUNT,
        alarm_threshold=NUMBER,
        alarm=FLAG,
        calibrated=FLAG,
        arms=TEXTS,
        arm_scores=NUMBERS,
        reason=TEXT,
    ),
    # rdvla_ros/GateStatus, one row for every change
    "gate": _schema(
        mode=COUNT,
        hold_id=COUNT,
        reason=TEXT,
        who=TEXT,
        since_s=NUMBER,
        passed=COUNT,
        refused=COUNT,
        last_refusal=TEXT,
        causes=TEXTS,
        taken_over=TEXTS,
        delivery_delay_s=NUMBER,
        exceptions=COUNT,
    ),
    # rdvla_ros/TaskStage of a simulated robot, one row for every change and every second
    "task": _schema(
        task=TEXT, seed=pa.int64(), episode=COUNT, stage=COUNT, best_stage=COUNT, stage_name=TEXT, reached=FLAG, elapsed_s=NUMBER
    ),
    # sensor_msgs/JointState
    "joints": _schema(topic=TEXT, name=TEXTS, position=NUMBERS, velocity=NUMBERS, effort=NUMBERS),
    # the controllers' reports: what they command now, and what is measured
    "controllers": _schema(arm=TEXT, joint_names=TEXTS, reference=NUMBERS, feedback=NUMBERS),
    # trajectory_msgs/JointTrajectory, N points of J joints, flat. source: 'gate' (to the controllers), 'policy' or 'teleop';
    # 'chunk': what the policy predicted, after the measured joints at 0 s; the stamp is its observation's
    "trajectories": _schema(source=TEXT, arm=TEXT, **_POINTS),
    # readings of the robot's further sensors; values: in the order of rdvla_ros/sensor_messages.py
    "sensors": _schema(sensor=TEXT, frame_id=TEXT, values=NUMBERS),
    # frame: its number in the camera's films, from 0; film: number of the mp4 file
    "frames": _schema(camera=TEXT, frame=COUNT, film=COUNT),
}
_OF_HEADER = ("stamp_s", "received_s")


def seconds(stamp: Any) -> float:
    return stamp.sec + stamp.nanosec * 1e-9


def message_row(table: str, message: Any, received_s: float, **values: Any) -> dict[str, Any]:
    """One row. A field that the message has not (of another version, say) stays empty. values: columns that are given."""
    row = {"stamp_s": seconds(message.header.stamp), "received_s": received_s, **values}
    for column in SCHEMAS[table].names:
        if column not in row:
            row[column] = _value(message, column, SCHEMAS[table].field(column).type)
    return row


def _value(message: Any, column: str, kind: pa.DataType) -> Any:
    value = getattr(message, column, None)
    if value is None and column.endswith("_s"):
        stamp = getattr(message, column.removesuffix("_s"), None)
        value = None if stamp is None else seconds(stamp)
    return list(value) if value is not None and pa.types.is_list(kind) else value


def controller_row(message: Any, arm: str, received_s: float) -> dict[str, Any]:
    """Of rdvla_ros/ControllerState, or control_msgs' which has the same fields."""
    points = {name: list(getattr(message, name).positions) for name in ("reference", "feedback")}
    return message_row("controllers", message, received_s, arm=arm, **points)


def trajectory_row(message: Any, source: str, arm: str, received_s: float) -> dict[str, Any]:
    def flat(field: str) -> list[float]:
        return [value for point in message.points for value in getattr(point, field)]

    return {
        "stamp_s": seconds(message.header.stamp),
        "received_s": received_s,
        "source": source,
        "arm": arm,
        "joint_names": list(message.joint_names),
        "times_s": [seconds(point.time_from_start) for point in message.points],
        "positions": flat("positions"),
        "velocities": flat("velocities"),
    }


def sensor_row(message: Any, sensor: Sensor, received_s: float) -> dict[str, Any]:
    """As it came: of another count, not finite. A message without a header has no stamp: it counts from when it came."""
    stamp_s, frame_id = (seconds(message.header.stamp), message.header.frame_id) if hasattr(message, "header") else (0.0, "")
    values = [float(value) for value in sensor_messages.NUMBERS[sensor.message](message)]
    return {"stamp_s": stamp_s, "received_s": received_s, "sensor": sensor.name, "frame_id": frame_id, "values": values}


class Changes:
    """Of a stream of states, the rows that say something new: one that differs in any of `columns`, and one every `period_s`."""

    def __init__(self, columns: Iterable[str], period_s: float = 1.0):
        self._columns, self._period_s = tuple(columns), period_s
        self._last: tuple | None = None
        self._last_s = 0.0

    def new(self, row: Mapping[str, Any]) -> bool:
        now, at_s = tuple(row[column] for column in self._columns), row["received_s"]
        if now == self._last and 0.0 <= at_s - self._last_s < self._period_s:
            return False
        self._last, self._last_s = now, at_s
        return True


def gate_changes() -> Changes:
    """What the gate decides; the way to the controllers differs from message to message."""
    return Changes(name for name in SCHEMAS["gate"].names if name not in (*_OF_HEADER, "delivery_delay_s"))


def task_changes() -> Changes:
    return Changes(name for name in SCHEMAS["task"].names if name not in (*_OF_HEADER, "elapsed_s"))
