"""recorder_node: everything that a run of the nodes says, into a folder. It publishes nothing and calls nothing that acts.

All subscriptions are best effort or of small depth, so that nobody waits for it. What ends the recording ends this process with
one line in the log, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image, JointState
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.msg import Convergence, GateStatus, TaskStage, Uncertainty
from rdvla_ros.nodes.common import conversions, names, qos, readings
from rdvla_ros.nodes.common.controller_states import ControllerStates
from rdvla_ros.nodes.common.guard import Guard
from rdvla_ros.nodes.common.hooks import NodeHooks
from rdvla_ros.nodes.common.parameters import Schema, declare, parameter
from rdvla_ros.nodes.common.run import run
from rdvla_ros.nodes.recorder.others import ParametersOfOthers
from rdvla_ros.nodes.recorder.recording import Recording
from rdvla_ros.robot import Arm, Camera, RobotDescription, Sensor
from rdvla_ros.runs import pictures
from rdvla_ros.runs.schemas import controller_row, gate_changes, message_row, sensor_row, task_changes, trajectory_row
from rdvla_ros.runs.writer import RunWriter, checkpoint_about
from rdvla_ros.types import ObservationError

IMAGE_TYPES = {"raw": Image, "compressed": CompressedImage}
EVENTS_HZ = 200.0  # decisions, trajectories and states of the gate come at a few a second; a flood is not kept whole


@dataclass(frozen=True)
class RecorderParameters(Schema):
    folder: str = parameter("", "folder of the run, new or empty", unit="path")
    robot: str = parameter("", "robot description, a YAML file", unit="path")
    checkpoint: str = parameter("", "folder of the policy's weights: its digest is noted", unit="path")
    sim: bool = parameter(False, "true: the robot is simulated and says how far its task is")
    camera_hz: float = parameter(10.0, "pictures kept of each camera, at most", unit="Hz", low=0.1, high=60.0)
    picture_width: int = parameter(320, "wider pictures are shrunk to it; 0: as they come", unit="px", low=0, high=4096)
    joints_hz: float = parameter(
        50.0, "joint states, controller states and readings kept of each topic, at most", unit="Hz", low=1.0, high=1000.0
    )
    flush_s: float = parameter(5.0, "a killed process loses at most what came in this time", unit="s", low=0.1, high=60.0)
    least_free_mb: int = parameter(500, "the recording ends when the disk has less room", unit="MiB", low=0, high=1_000_000)

    def problems(self):
        if not self.folder:
            yield "folder: expected a folder for the run, got none. Pass record:=<folder>."


class Limit:
    """At most `hz` a second, a few in a row."""

    def __init__(self, hz: float, burst: float = 3.0):
        self._hz, self._burst, self._allowed, self._last_s = 1.05 * hz, burst, burst, time.monotonic()

    def __call__(self) -> bool:
        now_s = time.monotonic()
        self._allowed, self._last_s = min(self._burst, self._allowed + (now_s - self._last_s) * self._hz), now_s
        if self._allowed < 1.0:
            return False
        self._allowed -= 1.0
        return True


class RecorderNode(NodeHooks, Node):
    RECEIVES_IMAGES = True

    def __init__(self, **node_options: Any) -> None:
        super().__init__(names.RECORDER, **node_options)
        self._values = values = declare(self, RecorderParameters)
        self._robot = robot = RobotDescription.load(values.robot).in_namespace(self.get_namespace())
        self._guard = Guard(self)
        about = {"namespace": self.get_namespace(), "began_s": self._now_s()}
        if values.checkpoint:
            about["checkpoint"] = checkpoint_about(values.checkpoint)
        writer = RunWriter(
            Path(values.folder),
            Path(values.robot),
            camera_hz=values.camera_hz,
            picture_width=values.picture_width,
            about=about,
        )
        self.folder = writer.folder
        self._recording = Recording(
            writer, values.flush_s, values.least_free_mb, self._ended, lambda why: self._guard.report("skipped", why)
        )
        self._gate, self._task = gate_changes(), task_changes()
        self._listen(robot)
        self._states = ControllerStates(self, robot, self._on_controller, self._guard)
        self._limits = {arm.name: Limit(values.joints_hz) for arm in robot.arms}
        self._others = ParametersOfOthers(self, (names.GATE, names.POLICY, names.MONITOR), self._guard, self._note)
        self.get_logger().info(f"This run is recorded in {self.folder}.")

    def _listen(self, robot: RobotDescription) -> None:
        hear, values = self._hear, self._values
        hear(Convergence, names.POLICY_CONVERGENCE, qos.RELIABLE, EVENTS_HZ, partial(self._event, "decisions"))
        hear(Uncertainty, names.MONITOR_UNCERTAINTY, qos.RELIABLE, EVENTS_HZ, partial(self._event, "uncertainty"))
        hear(GateStatus, names.GATE_STATUS, qos.LATCHED, EVENTS_HZ, partial(self._state, "gate", self._gate))
        if values.sim:
            hear(TaskStage, names.SIM_TASK_STAGE, qos.RELIABLE, EVENTS_HZ, partial(self._state, "task", self._task))
        for topic in {arm.joint_states_topic: None for arm in robot.arms}:
            hear(JointState, topic, qos.sensor(10), values.joints_hz, partial(self._event, "joints", topic=topic))
        for arm in robot.arms:
            for source, topic in trajectory_topics(arm).items():
                hear(JointTrajectory, topic, qos.sensor(10), EVENTS_HZ, partial(self._trajectory, source, arm.name))
            record = partial(self._trajectory, "chunk", arm.name)
            hear(JointTrajectory, names.chunk(arm.name), qos.sensor(10), EVENTS_HZ, record)
        for sensor in robot.sensors:
            hear(readings.TYPES[sensor.message], sensor.topic, qos.sensor(10), values.joints_hz, partial(self._reading, sensor))
        for camera in robot.cameras:
            work = partial(self._picture, camera)
            hear(IMAGE_TYPES[camera.transport], camera.topic, qos.sensor(2), values.camera_hz, work, picture=True)

    def _hear(
        self, kind: type, topic: str, profile: QoSProfile, most_hz: float, record: Callable[..., None], picture: bool = False
    ) -> None:
        """record(writer, message, received_s) runs in the writer's thread, and there the message is read."""
        limit = Limit(most_hz, burst=100.0 if most_hz == EVENTS_HZ else 3.0)

        def work(data: bytes, received_s: float, writer: RunWriter) -> None:
            try:
                message = deserialize_message(data, kind)
            except Exception as error:  # rclpy has no class for what it cannot read
                raise ObservationError(f"{topic}: a message cannot be read: {error}") from None
            record(writer, message, received_s)

        def receive(data: bytes) -> None:
            if limit():
                self._recording.put(partial(work, data, self._now_s()), picture)

        self.create_subscription(kind, topic, self._guard.wrap(receive), profile, raw=True)

    def _now_s(self) -> float:
        return self.get_clock().now().nanoseconds / conversions.NANOSECONDS

    # -- in the writer's thread

    def _event(self, table: str, writer: RunWriter, message: Any, received_s: float, **values: Any) -> None:
        writer.row(table, message_row(table, message, received_s, **values))

    def _state(self, table: str, changes: Any, writer: RunWriter, message: Any, received_s: float) -> None:
        row = message_row(table, message, received_s)
        if changes.new(row):
            writer.row(table, row)

    def _trajectory(self, source: str, arm: str, writer: RunWriter, message: Any, received_s: float) -> None:
        writer.row("trajectories", trajectory_row(message, source, arm, received_s))

    def _reading(self, sensor: Sensor, writer: RunWriter, message: Any, received_s: float) -> None:
        writer.row("sensors", sensor_row(message, sensor, received_s))

    def _picture(self, camera: Camera, writer: RunWriter, message: Any, received_s: float) -> None:
        picture = pictures.rgb(message, camera, writer.sizes[camera.name])
        writer.picture(camera.name, picture, conversions.seconds(message.header.stamp), received_s)

    # -- in the executor's thread

    def _on_controller(self, arm: Arm, message: Any) -> None:
        if self._limits[arm.name]():
            row = controller_row(message, arm.name, self._now_s())
            self._recording.put(lambda writer: writer.row("controllers", row))

    def _note(self, about: dict[str, Any]) -> None:
        def work(writer: RunWriter) -> None:
            writer.about.update(about)
            writer.write_about()

        self._recording.put(work)

    def _ended(self, why: str) -> None:
        self.failed = f"The recording in {self.folder} has ended, the robot goes on: {why}"

    def close(self) -> None:
        self._recording.close()


def trajectory_topics(arm: Arm) -> dict[str, str]:
    """Source -> topic of the motions for an arm; the gate's are what its controller gets."""
    prefixes = (names.POLICY, names.TELEOP)
    return {names.GATE: arm.trajectory_topic, **{prefix: names.motions(prefix, arm.name) for prefix in prefixes}}


def main(args: list[str] | None = None) -> int:
    return run(RecorderNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
