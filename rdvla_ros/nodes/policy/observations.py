"""The subscriptions to a robot's cameras and joint states, synchronised, and what is missing when they are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, JointState

from rdvla_ros.compat import message_filters
from rdvla_ros.control.supervision.freshness import Skew, skew
from rdvla_ros.control.supervision.input_quality import FrozenFrames, JointJumps, digest
from rdvla_ros.nodes.common import conversions, qos
from rdvla_ros.nodes.policy.stamped_stream import Moment, Options
from rdvla_ros.nodes.policy.synchronizer import Matched, Synchronizer
from rdvla_ros.robot import Camera, RobotDescription
from rdvla_ros.types import Observation, ObservationError

IMAGE_TYPES = {"raw": Image, "compressed": CompressedImage}

CONTRADICTED_S = 1.0  # input that cannot be of this robot keeps it from being moved for so long


@dataclass(frozen=True)
class Checks:
    """frozen_frames: so many images in a row with the same pixels are a frozen camera; 0: never. jump_factor: how many times
    its largest speed a joint may seem to move; 0: as fast as it likes."""

    frozen_frames: int = 10
    jump_factor: float = 2.0


class Inputs:
    """Subscribes on construction. Callbacks registered with `on_matched` get every complete set.

    on_contradiction(sentence): input came that shows that the robot is not what it should be.
    """

    def __init__(
        self,
        node: Node,
        robot: RobotDescription,
        options: Options,
        checks: Checks,
        clock: Callable[[], Moment],
        log: Callable[[str, str], None],
        on_contradiction: Callable[[str], None],
    ):
        self._node, self._robot, self._checks = node, robot, checks
        self._clock, self._on_contradiction = clock, on_contradiction
        self._contradicted = (-np.inf, "")  # when, on the steady clock, and how
        self._frozen = {camera.name: FrozenFrames(checks.frozen_frames) for camera in robot.cameras}
        self._groups = conversions.joint_groups(robot)
        self._subscribers: list[Any] = []
        cameras = {
            camera.name: (
                camera.topic,
                self._subscribe(IMAGE_TYPES[camera.transport], camera.topic, 1),
                partial(self._checked_image, camera),
            )
            for camera in robot.cameras
        }
        sources = {topic: self._subscribe(JointState, topic, 10) for topic in {group.topic: None for group in self._groups}}
        joints = {
            group.arm: (group.topic, sources[group.topic], partial(self._checked_joints, group, self._jumps(group)))
            for group in self._groups
        }
        self.synchronizer = Synchronizer(cameras, joints, clock, log, options, self._refused)

    def on_matched(self, callback: Callable[[Matched], None]) -> None:
        self.synchronizer.registerCallback(callback)

    def observation(self, matched: Matched, instruction: str) -> Observation:
        """Decodes the images; ObservationError when one cannot be."""
        images = {camera.name: conversions.rgb_image(matched.images[camera.name], camera) for camera in self._robot.cameras}
        positions = self._robot.to_policy(self._in_robot_order(matched.positions))
        return Observation(images=images, positions=positions, instruction=instruction, stamp_s=matched.stamp_s)

    def frozen(self) -> list[str]:
        """One sentence per camera that repeats its last image."""
        return [
            f"{camera.topic}: the last {self._frozen[camera.name].repeats + 1} images have the same pixels; the camera is frozen "
            "(parameter frozen_frames: 0 where the scene may be without any noise)."
            for camera in self._robot.cameras
            if self._frozen[camera.name].frozen
        ]

    def contradictions(self, now: Moment) -> list[str]:
        """The last one, until none has come for CONTRADICTED_S."""
        return [self._contradicted[1]] if now.steady_s - self._contradicted[0] <= CONTRADICTED_S else []

    def too_old(self, now: Moment, after_s: float) -> list[str]:
        """One sentence where no set of inputs is younger than after_s, naming the streams that are to blame."""
        matched = self.synchronizer.latest()
        age_s = matched.age_s(now) if matched else np.inf
        if age_s <= after_s:
            return []
        silences = self.synchronizer.silent(after_s / 2) if matched else self.synchronizer.silent(after_s)
        silent = [f"{s.topic} ({s.reason or f'nothing for {s.for_s:.2f} s'})" for s in silences]
        age = f"is {age_s:.2f} s old" if matched else "does not exist yet"
        who = f"; silent: {', '.join(silent)}" if silent else ""
        return [conversions.printable(f"The newest set of inputs {age}, expected at most {after_s:.2f} s{who}.")]

    def delays_unknown(self) -> list[str]:
        """Streams of which too little has come to compare their clock."""
        return [name for name, delay_s in self.synchronizer.delays_s().items() if delay_s is None]

    def skew(self) -> Skew | None:
        """How far the stamps of the streams are apart, for streams whose delays are known."""
        return skew(self.synchronizer.delays_s())

    def measured(self, max_age_s: float) -> np.ndarray:
        """(A,) newest joint positions, controller units; ObservationError where those of an arm are missing or too old."""
        for group in self._groups:
            age_s = self.synchronizer.joints_age_s(group.arm)
            if age_s > max_age_s and np.isfinite(age_s):
                raise ObservationError(
                    f"{group.topic}: the newest joint states of arm '{group.arm}' are {age_s:.3f} s old, expected at most "
                    f"{max_age_s:g} s."
                )
        return self._in_robot_order(self.synchronizer.newest_joints())

    def missing(self, after_s: float) -> list[str]:
        """One sentence for each stream that brought nothing usable for after_s, or one on why they do not match."""
        sentences = []
        for silence in self.synchronizer.silent(after_s):
            publishers = self._node.count_publishers(silence.topic)
            what = "nothing usable received" if silence.reason else "nothing received"
            last = f"; last refusal: {silence.reason}" if silence.reason else ""
            sentences.append(f"Waiting for {silence.topic}: {what} in {silence.for_s:.1f} s; publishers: {publishers}{last}")
        if not sentences and (why := self.synchronizer.unmatched(after_s)):
            sentences.append(f"Waiting for the inputs: {why}")
        return sentences

    def destroy(self) -> None:
        for subscriber in self._subscribers:
            self._node.destroy_subscription(subscriber.sub)
        self._subscribers.clear()

    def _subscribe(self, message_type: type, topic: str, depth: int) -> Any:
        subscriber = message_filters.Subscriber(
            self._node, message_type, topic, qos_profile=qos.sensor(depth), event_callbacks=qos.log_mismatch(self._node, topic)
        )
        self._subscribers.append(subscriber)
        return subscriber

    def _in_robot_order(self, by_arm: dict[str, np.ndarray]) -> np.ndarray:
        for group in self._groups:
            if group.arm not in by_arm:
                raise ObservationError(f"{group.topic}: expected joint states of arm '{group.arm}', none were received yet.")
        return np.concatenate([by_arm[group.arm] for group in self._groups])

    def _jumps(self, group: conversions.JointGroup) -> JointJumps:
        return JointJumps(np.array([joint.velocity for joint in group.joints]), factor=self._checks.jump_factor)

    def _checked_image(self, camera: Camera, message: Any) -> Any:
        """An image is looked at when it comes and decoded when it is used: most are not."""
        conversions.check_image(message, camera)
        if self._checks.frozen_frames:
            self._frozen[camera.name].see(digest(message.data))
        return message

    def _checked_joints(self, group: conversions.JointGroup, jumps: JointJumps, message: JointState) -> np.ndarray:
        positions = conversions.joint_positions(message, group)
        jump = jumps.check(positions, conversions.seconds(message.header.stamp)) if self._checks.jump_factor else None
        if jump is None:
            return positions
        text = (
            f"{group.topic}: joint '{group.names[jump.joint]}' jumped by {jump.by:.3g} from one sample to the next, expected at "
            f"most {jump.allowed:.3g} (rad or m)"
        )
        if jump.repeated:
            raise conversions.Contradiction(f"{text}, again and again. Its encoder, or two publishers of the same joint?")
        raise ObservationError(f"{text}.")

    def _refused(self, error: Exception) -> None:
        if isinstance(error, conversions.Contradiction):
            self._contradicted = (self._clock().steady_s, conversions.printable(str(error)))
            self._on_contradiction(self._contradicted[1])
