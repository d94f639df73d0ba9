"""The subscriptions to a robot's cameras and joint states, synchronised, and what is missing when they are not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState

from rdvla_ros.compat import message_filters
from rdvla_ros.nodes import conversions
from rdvla_ros.nodes.synchronizer import Matched, Moment, Options, Synchronizer
from rdvla_ros.robot import Camera, RobotDescription
from rdvla_ros.types import Observation, ObservationError

IMAGE_TYPES = {"raw": Image, "compressed": CompressedImage}


def sensor_qos(depth: int) -> QoSProfile:
    """Best effort hears best-effort and reliable publishers; a small depth keeps old data from queueing up."""
    return QoSProfile(reliability=QoSReliabilityPolicy.BEST_EFFORT, history=QoSHistoryPolicy.KEEP_LAST, depth=depth)


def qos_events(node: Node, topic: str) -> SubscriptionEventCallbacks:
    """A publisher whose QoS does not fit would otherwise just never be heard."""

    def incompatible(event: Any) -> None:
        node.get_logger().error(
            f"{topic}: a publisher offers a quality of service that this subscription cannot use "
            f"(policy {event.last_policy_kind}, {event.total_count} so far). Nothing of it will be received; "
            "change the publisher's QoS."
        )

    return SubscriptionEventCallbacks(incompatible_qos=incompatible)


class Inputs:
    """Subscribes on construction. Callbacks registered with `on_matched` get every complete set."""

    def __init__(
        self, node: Node, robot: RobotDescription, options: Options, clock: Callable[[], Moment], log: Callable[[str, str], None]
    ):
        self._node, self._robot = node, robot
        self._groups = conversions.joint_groups(robot)
        self._subscribers: list[Any] = []
        cameras = {
            camera.name: (
                camera.topic,
                self._subscribe(IMAGE_TYPES[camera.transport], camera.topic, 1),
                partial(_checked, camera=camera),
            )
            for camera in robot.cameras
        }
        sources = {topic: self._subscribe(JointState, topic, 10) for topic in {group.topic: None for group in self._groups}}
        joints = {
            group.arm: (group.topic, sources[group.topic], partial(conversions.joint_positions, group=group))
            for group in self._groups
        }
        self.synchronizer = Synchronizer(cameras, joints, clock, log, options)

    def on_matched(self, callback: Callable[[Matched], None]) -> None:
        self.synchronizer.registerCallback(callback)

    def observation(self, matched: Matched, instruction: str) -> Observation:
        """Decodes the images; ObservationError when one cannot be."""
        images = {camera.name: conversions.rgb_image(matched.images[camera.name], camera) for camera in self._robot.cameras}
        positions = self._robot.to_policy(self._in_robot_order(matched.positions))
        return Observation(images=images, positions=positions, instruction=instruction, stamp_s=matched.stamp_s)

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
            self._node, message_type, topic, qos_profile=sensor_qos(depth), event_callbacks=qos_events(self._node, topic)
        )
        self._subscribers.append(subscriber)
        return subscriber

    def _in_robot_order(self, by_arm: dict[str, np.ndarray]) -> np.ndarray:
        for group in self._groups:
            if group.arm not in by_arm:
                raise ObservationError(f"{group.topic}: expected joint states of arm '{group.arm}', none were received yet.")
        return np.concatenate([by_arm[group.arm] for group in self._groups])


def _checked(message: Any, camera: Camera) -> Any:
    """An image is looked at when it comes and decoded when it is used: most are not."""
    conversions.check_image(message, camera)
    return message
