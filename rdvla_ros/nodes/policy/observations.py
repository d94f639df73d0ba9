"""The subscriptions to a robot's cameras, joint states and sensors, synchronised, and what is missing when they are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, JointState

from rdvla_ros.compat import message_filters
from rdvla_ros.control.supervision.freshness import Skew, skew
from rdvla_ros.control.supervision.input_quality import CorruptImages, FrozenFrames, digest
from rdvla_ros.nodes.common import conversions, images, qos, readings
from rdvla_ros.nodes.common.graph import alternating, node_names
from rdvla_ros.nodes.common.joint_samples import ArmSamples
from rdvla_ros.nodes.common.moment import Moment
from rdvla_ros.nodes.policy.stamped_stream import Options
from rdvla_ros.nodes.policy.synchronizer import Matched, Synchronizer
from rdvla_ros.robot import Camera, RobotDescription
from rdvla_ros.types import Observation, ObservationError

IMAGE_TYPES = {"raw": Image, "compressed": CompressedImage}
CONTRADICTED_S = 1.0  # input that cannot be of this robot keeps it from being moved for this long


def joined(sources: Sequence[Any]) -> Any:
    """One filter that passes what each of several passes."""
    if len(sources) == 1:
        return sources[0]
    both = message_filters.SimpleFilter()
    for source in sources:
        source.registerCallback(both.signalMessage)
    return both


@dataclass(frozen=True)
class Checks:
    """frozen_frames: this many consecutive images with the same pixels are a frozen camera; 0: never.
    corrupt_images: this many of ten images that their decoder calls corrupt are too many; 0: never.
    jump_factor: how many times its largest speed a joint may seem to move; 0: as fast as it likes.
    merge_s: joints of one arm that come in messages of their own lie at most this far apart."""

    frozen_frames: int = 10
    corrupt_images: int = 3
    jump_factor: float = 2.0
    merge_s: float = 0.1


class Observations:
    """Subscribes on construction. Callbacks registered with `on_matched` get every complete set.

    on_contradiction(sentence): input came that shows that the robot is not what it should be. sensors: names of those that the
    policy reads; the robot's others are not listened to, and may be silent.
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
        sensors: Sequence[str] = (),
    ):
        self._node, self._robot, self._checks = node, robot, checks
        self._clock, self._on_contradiction = clock, on_contradiction
        self._contradicted = (-np.inf, "")  # when, on the steady clock, and how
        self._frozen = {camera.name: FrozenFrames(checks.frozen_frames) for camera in robot.cameras}
        self._corrupt = {camera.name: CorruptImages(checks.corrupt_images) for camera in robot.cameras}
        self.alternating: list[str] = []  # as of the last `look`
        self.doubts: tuple[str, ...] = ()  # what the decoders say about the images of the last observation
        if images.jpeg_decoder() is None and any(camera.transport == "compressed" for camera in robot.cameras):
            log(
                "warning", "simplejpeg is not installed: JPEG images that lost bytes are used as they are. pip install simplejpeg"
            )
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
        topics = dict.fromkeys(topic for group in self._groups for topic in group.topics)
        sources = {topic: self._subscribe(JointState, topic, 10) for topic in topics}
        samples = {group.arm: self._arm_samples(group) for group in self._groups}
        joints = {
            group.arm: (
                group.topic,
                joined([sources[topic] for topic in group.topics]),
                partial(self._sample, samples[group.arm]),
            )
            for group in self._groups
        }
        read = {
            sensor.name: (
                sensor.topic,
                self._subscribe(readings.TYPES[sensor.message], sensor.topic, 10),
                partial(readings.reading, sensor=sensor),
            )
            for sensor in robot.sensors
            if sensor.name in sensors
        }
        self._sensor_topics = {sensor.topic: "readings" for sensor in robot.sensors if sensor.name in sensors}
        self.synchronizer = Synchronizer(cameras, joints, clock, log, options, self._refused, read)

    def on_matched(self, callback: Callable[[Matched], None]) -> None:
        self.synchronizer.registerCallback(callback)

    def observation(self, matched: Matched, instruction: str) -> Observation:
        """Decodes the images; ObservationError when one cannot be. `doubts` tells of those that are corrupt."""
        self.doubts, pixels = (), {}
        for camera in self._robot.cameras:
            pixels[camera.name], flaw = self._decoded(matched.images[camera.name], camera, used=True)
            if flaw:
                self.doubts += (f"the image of camera '{camera.name}' is corrupt ({flaw})",)
        positions = self._robot.to_policy(self._in_robot_order(matched.positions))
        return Observation(pixels, positions, instruction, matched.stamp_s, matched.readings)

    def _decoded(self, message: Any, camera: Camera, used: bool) -> tuple[np.ndarray, str]:
        """An image and its flaw. Every image is judged once: where it is used, or where it comes while its camera is in doubt."""
        corrupt = self._corrupt[camera.name]
        judged = not used or not corrupt.count
        try:
            image, flaw = images.decoded(message, camera)
        except ObservationError as error:
            if judged:
                corrupt.see(str(error))
            raise
        if judged:
            corrupt.see(flaw)
        return image, flaw

    def frozen(self) -> list[str]:
        """One sentence per camera that repeats its last image."""
        return [
            f"{camera.topic}: the last {self._frozen[camera.name].repeats + 1} images have the same pixels; the camera is frozen "
            "(parameter frozen_frames: 0 where the scene may be without any noise)."
            for camera in self._robot.cameras
            if self._frozen[camera.name].frozen
        ]

    def look(self) -> list[str]:
        """Looks up the graph; one sentence per camera or sensor whose topic has several publishers, kept as `alternating`."""
        topics = {camera.topic: "images" for camera in self._robot.cameras} | self._sensor_topics
        found = (alternating(topic, self._node.get_publishers_info_by_topic(topic), what) for topic, what in topics.items())
        self.alternating = [*filter(None, found)]
        return self.alternating

    def corrupt(self) -> list[str]:
        """One sentence per camera whose images are corrupt again and again."""
        return [
            f"{camera.topic}: {corrupt.count} of the last {corrupt.window} images are corrupt, the newest one: {corrupt.last}. "
            "Does its link lose data? (parameter corrupt_images: 0 where a camera's images are right and always called so.)"
            for camera, corrupt in ((camera, self._corrupt[camera.name]) for camera in self._robot.cameras)
            if corrupt.repeated
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

    def _arm_samples(self, group: conversions.JointGroup) -> ArmSamples:
        return ArmSamples(
            group,
            jump_factor=self._checks.jump_factor,
            merge_s=self._checks.merge_s,
            publishers=lambda topic: node_names(self._node.get_publishers_info_by_topic(topic)),
        )

    def _sample(self, samples: ArmSamples, message: JointState) -> np.ndarray:
        return samples.take(message, self._clock().steady_s)

    def _checked_image(self, camera: Camera, message: Any) -> Any:
        """An image is looked at when it comes and decoded when it is used: most are not, except while the camera is in doubt."""
        images.check_image(message, camera)
        if self._checks.frozen_frames:
            self._frozen[camera.name].see(digest(message.data))
        if self._corrupt[camera.name].count:
            self._decoded(message, camera, used=False)
        return message

    def _refused(self, error: Exception) -> None:
        if isinstance(error, conversions.Contradiction):
            self._contradicted = (self._clock().steady_s, conversions.printable(str(error)))
            self._on_contradiction(self._contradicted[1])
