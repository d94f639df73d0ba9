"""A short run of a made-up robot, written without ROS; and messages as plain objects."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from rdvla_ros.robot import RobotDescription
from rdvla_ros.runs.schemas import controller_row, message_row, sensor_row, trajectory_row
from rdvla_ros.runs.writer import RunWriter

ROBOT_FILE = Path(__file__).resolve().parents[1] / "config" / "aloha_sim.yaml"
ROBOT = RobotDescription.load(ROBOT_FILE)
BEGIN_S, LENGTH_S = 1000.0, 6.0
HOLD_S, TAKEOVER_S = (2.0, 3.0), (4.5, 6.0)  # modes after the begin; AUTO between
INSTRUCTION = "pick up the red cube"
AUTO, HOLD, TAKEOVER = 0, 1, 2


def stamp(time_s: float) -> SimpleNamespace:
    sec = math.floor(time_s)
    return SimpleNamespace(sec=sec, nanosec=round((time_s - sec) * 1e9))


def message(time_s: float, **fields) -> SimpleNamespace:
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp(time_s), frame_id=""), **fields)


def commanded(time_s: float, arm: str) -> np.ndarray:
    """(7,) controller units; the joints follow 0.1 s later."""
    wave = 0.2 * math.sin(time_s - BEGIN_S) * (1.0 if arm == "left" else -1.0)
    return np.array([wave, -0.9 + wave, 1.1, 0.0, -0.3, 0.0, 0.039])


def decision(time_s: float, number: int, **changes):
    values = dict(
        sequence=number,
        observation_stamp=stamp(time_s - 0.08),
        iterations=4,
        limit=16,
        stop_reason=1,
        converged=True,
        threshold=1e-4,
        change=[math.nan, 1e-2, 1e-3, 5e-5],
        spread=math.nan,
        horizon=6,
        chunk_length=8,
        step_s=0.1,
        published=True,
        doubts=[],
        note="",
        instruction=INSTRUCTION,
        timing_names=["vision", "head", "total"],
        timings_s=[0.03, 0.01, 0.04],
    )
    return message(time_s, **{**values, **changes})


def gate(time_s: float, mode: int, since_s: float, **changes):
    taken = ["left"] if mode == TAKEOVER else []
    reasons = {AUTO: "resumed", HOLD: "a cable <b>touches</b> the table", TAKEOVER: "the operator helps"}
    values = dict(mode=mode, hold_id=1, reason=reasons[mode], who="Ada", since=stamp(since_s), passed=3, refused=1)
    values |= dict(last_refusal="too fast", causes=[], taken_over=taken, delivery_delay_s=0.0, exceptions=0)
    return message(time_s, **{**values, **changes})


def uncertainty(time_s: float, number: int, score: float):
    values = dict(sequence=number, score=score, window_score=score, window=5, alarm_threshold=0.8, alarm=score > 0.8)
    return message(time_s, **values, calibrated=False, arms=[], arm_scores=[], reason="")


def joints(time_s: float, arm):
    return message(
        time_s, name=list(arm.joint_names), position=commanded(time_s - 0.1, arm.name).tolist(), velocity=[], effort=[]
    )


def controller(time_s: float, arm):
    def point(values):
        return SimpleNamespace(positions=values.tolist())

    places = dict(reference=point(commanded(time_s, arm.name)), feedback=point(commanded(time_s - 0.1, arm.name)))
    return message(time_s, joint_names=list(arm.joint_names), **places)


def trajectory(time_s: float, arm, duration_s: float = 1.0):
    """Follows `commanded` for a while."""
    points = [
        SimpleNamespace(
            positions=commanded(time_s + after_s, arm.name).tolist(),
            velocities=((commanded(time_s + after_s + 1e-4, arm.name) - commanded(time_s + after_s, arm.name)) / 1e-4).tolist(),
            time_from_start=stamp(after_s),
        )
        for after_s in np.linspace(0.02, duration_s, 20)
    ]
    return message(time_s, joint_names=list(arm.joint_names), points=points)


def wrench(time_s: float, sensor):
    """Force x is the time [s] since the begin, torque z its negative; the right arm's ten times as much."""
    size = (time_s - BEGIN_S) * (10.0 if sensor.arm == "right" else 1.0)
    force, torque = (SimpleNamespace(x=x, y=0.0, z=z) for x, z in ((size, 0.0), (0.0, -size)))
    return message(time_s, wrench=SimpleNamespace(force=force, torque=torque))


def picture(time_s: float, camera) -> np.ndarray:
    """A grey that says how much time has passed."""
    level = 20 + round((time_s - BEGIN_S) * 30)
    return np.full((camera.height, camera.width, 3), level, np.uint8)


def mode_at(after_s: float) -> tuple[int, float]:
    """Mode and since when."""
    if HOLD_S[0] <= after_s < HOLD_S[1]:
        return HOLD, HOLD_S[0]
    if TAKEOVER_S[0] <= after_s:
        return TAKEOVER, TAKEOVER_S[0]
    return AUTO, 0.0 if after_s < HOLD_S[0] else HOLD_S[1]


def write_run(folder: Path, *, length_s: float = LENGTH_S, controllers: bool = True, close: bool = True, sensors=()) -> RunWriter:
    """sensors: names of those whose readings are recorded."""
    writer = RunWriter(folder, ROBOT_FILE, about={"parameters": {"gate": {"start_mode": "auto"}}})
    for tick in range(round(length_s * 50)):
        after_s = tick / 50
        now_s = BEGIN_S + after_s
        for arm in ROBOT.arms:
            writer.row("joints", message_row("joints", joints(now_s, arm), now_s, topic=arm.joint_states_topic))
            if controllers:
                writer.row("controllers", controller_row(controller(now_s, arm), arm.name, now_s))
            if tick % 25 == 0:
                writer.row("trajectories", trajectory_row(trajectory(now_s, arm), "gate", arm.name, now_s))
        for sensor in ROBOT.sensors:
            if sensor.name in sensors:
                writer.row("sensors", sensor_row(wrench(now_s, sensor), sensor, now_s))
        if tick % 5 == 0:
            mode, since_s = mode_at(after_s)
            writer.row("gate", message_row("gate", gate(now_s, mode, BEGIN_S + since_s), now_s))
            for camera in ROBOT.cameras:
                writer.picture(camera.name, picture(now_s, camera), now_s, now_s)
        if tick % 25 == 0:
            number = tick // 25 + 1
            writer.row("decisions", message_row("decisions", decision(now_s, number), now_s))
            writer.row("uncertainty", message_row("uncertainty", uncertainty(now_s, number, 0.1 * number), now_s))
    writer.close() if close else writer.flush()
    return writer
