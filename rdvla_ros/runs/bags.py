"""rosbag2 bags in the MCAP format -> the folder of a run, as if the recorder had been there. Also of a bag that nobody closed.

Reads with PyPI's mcap and mcap-ros2-support: no ROS, and the message definitions come from the bag.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mcap.exceptions import McapError
from mcap.reader import NonSeekingReader
from mcap_ros2.decoder import DecoderFactory

from rdvla_ros.robot import RobotDescription
from rdvla_ros.runs import RunError, pictures
from rdvla_ros.runs.schemas import controller_row, gate_changes, message_row, seconds, sensor_row, task_changes, trajectory_row
from rdvla_ros.runs.writer import RunWriter
from rdvla_ros.types import ObservationError, nearest_names

# Relative names, as in nodes/common/names.py (which needs ROS): a test holds them together.
DECISIONS, UNCERTAINTY, GATE, TASK = "policy/convergence", "monitor/uncertainty", "gate/status", "sim_robot/task_stage"
MOTIONS, CHUNK = "{source}/{arm}/joint_trajectory", "policy/{arm}/chunk"
Record = Callable[[RunWriter, Any, float], None]


def is_bag(path: Path) -> bool:
    return bool(_files(Path(path)))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix == ".mcap" else []
    return sorted(path.glob("*.mcap"), key=lambda file: (len(file.name), file.name))  # bag_2 before bag_10


def bag_to_run(bag: Path, robot_file: Path, folder: Path, namespace: str = "") -> list[str]:
    """Write the run below `folder`; what was missing or cut, one sentence each. RunError where nothing can be made of it.

    namespace: of the robot's topics, such as cell_1; empty: the only one in which the bag has them.
    """
    robot, counts, remarks = RobotDescription.load(robot_file), Counter(), []
    for topic, _ in _messages(bag, remarks.append):
        counts[topic] += 1
    space = _namespace(bag, robot, counts, namespace)
    records = _records(robot.in_namespace(space or "/"), space)
    remarks += [
        f"{bag}: topic {topic} is missing: {what}." for topic, what in _optional(robot, space).items() if not counts[topic]
    ]
    writer = RunWriter(folder, robot_file, about={"bag": str(bag), "namespace": space or "/"})
    bad: Counter[str] = Counter()
    for topic, read in _messages(bag, lambda _: None):
        if topic in records:
            try:
                message, received_s = read()
                records[topic](writer, message, received_s)
            except Exception as error:  # the decoder has no class of its own for what it cannot read
                bad[topic] += 1
                bad_text = f"{type(error).__name__}: {error}"
    remarks += [f"{bag}: {count} messages of {topic} cannot be read (the last: {bad_text:.200})." for topic, count in bad.items()]
    cut = next((remark for remark in remarks if "cut" in remark), "")
    writer.close(cut or "complete")
    return remarks


def _messages(bag: Path, remark: Callable[[str], None]) -> Iterator[tuple[str, Callable[[], tuple[Any, float]]]]:
    """Topic of each message, and what reads it; to the damage where the end is missing."""
    for file in _files(bag):
        count = 0
        with file.open("rb") as stream:
            factory = DecoderFactory()
            try:
                for schema, channel, message in NonSeekingReader(stream, validate_crcs=True).iter_messages(log_time_order=False):
                    count += 1
                    yield channel.topic, partial(_read, factory, schema, channel, message)
            except (McapError, struct.error, EOFError, ValueError, RuntimeError) as error:
                remark(f"{file}: the bag is cut or damaged after {count} messages ({type(error).__name__}); those are used.")


def _read(factory: DecoderFactory, schema: Any, channel: Any, message: Any) -> tuple[Any, float]:
    decode = factory.decoder_for(channel.message_encoding, schema)
    if decode is None:
        raise ObservationError(f"{channel.topic}: expected CDR messages with their definition, got {channel.message_encoding!r}")
    return decode(message.data), message.log_time * 1e-9


def _namespace(bag: Path, robot: RobotDescription, counts: Counter[str], wanted: str) -> str:
    """'' or '/cell_1': where the bag has this robot."""
    there = sorted(counts)
    if not there:
        raise RunError(f"{bag}: expected messages, found none. Is the bag cut at its beginning, or empty?")
    if wanted:
        space = "/" + wanted.strip("/")
        _require(bag, robot, space, there)
        return space
    first = next(iter(_required(robot, "")))
    spaces = [topic.removesuffix(first) for topic in there if topic.endswith(first)]
    fitting = [space for space in spaces if not set(_required(robot, space)) - set(there)]
    if len(fitting) > 1:
        names = ", ".join(space.strip("/") or "(none)" for space in fitting)
        raise RunError(f"{bag}: {len(fitting)} robots fit the description '{robot.name}', in the namespaces {names}. "
                       "Choose one with --namespace.")  # fmt: skip
    if not fitting:
        _require(bag, robot, spaces[0] if spaces else "", there)
    return fitting[0]


def _required(robot: RobotDescription, space: str) -> dict[str, None]:
    full = robot.in_namespace(space or "/")
    return dict.fromkeys([arm.joint_states_topic for arm in full.arms] + [camera.topic for camera in full.cameras])


def _optional(robot: RobotDescription, space: str) -> dict[str, str]:
    full = robot.in_namespace(space or "/")
    return {
        f"{space}/{GATE}": "holds and takeovers are not known",
        f"{space}/{DECISIONS}": "decisions and instructions are not known",
        **{arm.trajectory_topic: f"what arm '{arm.name}' was sent is not known" for arm in full.arms},
        **{arm.controller_state_topic: f"what arm '{arm.name}' commanded is taken from its trajectories" for arm in full.arms
           if arm.controller_state_topic},
        **{sensor.topic: f"what sensor '{sensor.name}' read is not known" for sensor in full.sensors},
    }  # fmt: skip


def _require(bag: Path, robot: RobotDescription, space: str, there: list[str]) -> None:
    missing = [topic for topic in _required(robot, space) if topic not in there]
    if missing:
        raise RunError(
            f"{bag}: expected the topics of robot '{robot.name}', {len(missing)} are missing: {', '.join(missing)}. "
            f"{nearest_names(missing[0], there)} Record them too, choose --namespace, or another robot description."
        )


def _records(robot: RobotDescription, space: str) -> dict[str, Record]:
    """Topic -> what writes its messages. robot: with topics in full."""

    def event(table: str, **values: Any) -> Record:
        return lambda writer, message, at_s: writer.row(table, message_row(table, message, at_s, **values))

    def state(table: str, changes: Any) -> Record:
        def record(writer: RunWriter, message: Any, at_s: float) -> None:
            row = message_row(table, message, at_s)
            if changes.new(row):
                writer.row(table, row)

        return record

    def motion(source: str, arm: str) -> Record:
        return lambda writer, message, at_s: writer.row("trajectories", trajectory_row(message, source, arm, at_s))

    def controller(arm: str) -> Record:
        return lambda writer, message, at_s: writer.row("controllers", controller_row(message, arm, at_s))

    def reading(sensor: Any) -> Record:
        return lambda writer, message, at_s: writer.row("sensors", sensor_row(message, sensor, at_s))

    def picture(camera: Any) -> Record:
        def record(writer: RunWriter, message: Any, at_s: float) -> None:
            image = pictures.rgb(message, camera, writer.sizes[camera.name])
            writer.picture(camera.name, image, seconds(message.header.stamp), at_s)

        return record

    records = {f"{space}/{DECISIONS}": event("decisions"), f"{space}/{UNCERTAINTY}": event("uncertainty")}
    records |= {f"{space}/{GATE}": state("gate", gate_changes()), f"{space}/{TASK}": state("task", task_changes())}
    for arm in robot.arms:
        records[arm.joint_states_topic] = event("joints", topic=arm.joint_states_topic)
        records[arm.trajectory_topic] = motion("gate", arm.name)
        records |= {f"{space}/{MOTIONS.format(source=s, arm=arm.name)}": motion(s, arm.name) for s in ("policy", "teleop")}
        records[f"{space}/{CHUNK.format(arm=arm.name)}"] = motion("chunk", arm.name)
        if arm.controller_state_topic:
            records[arm.controller_state_topic] = controller(arm.name)
    records |= {camera.topic: picture(camera) for camera in robot.cameras}
    records |= {sensor.topic: reading(sensor) for sensor in robot.sensors}
    return records
