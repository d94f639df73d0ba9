"""Small pictures of the cameras for people far away: monitor/thumbnail/<camera>, JPEG, at most 2 Hz and 160 pixels wide.

Three cameras of 320 x 240 at 10 Hz are 55 Mbit/s; their thumbnails 0.3 Mbit/s. A camera is subscribed to when somebody first asks
for its thumbnail, and what is not needed is thrown away unread: without a listener this costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import cv2
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from rdvla_ros.nodes.common import images, names, qos
from rdvla_ros.nodes.common.throttle import deserialize_message
from rdvla_ros.robot import Camera, RobotDescription
from rdvla_ros.types import ObservationError

MOST_HZ, WIDTH, QUALITY = 2.0, 160, 70
LOOK_S = 0.5
KINDS = {"raw": Image, "compressed": CompressedImage}


class Thumbnails:
    """guard: wraps what runs by itself, so that a picture that cannot be read ends nothing."""

    def __init__(self, node: Node, robot: RobotDescription, guard: Callable[[Callable], Callable] = lambda callback: callback):
        self._node, self._guard = node, guard
        self._waiting = {
            camera.name: (camera, node.create_publisher(CompressedImage, names.thumbnail(camera.name), qos.sensor(1)))
            for camera in robot.cameras
        }
        self._sent_s: dict[str, float] = {}
        node.create_timer(LOOK_S, guard(self._look), clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _look(self) -> None:
        """Subscriptions are made once and stay."""
        for name, (camera, publisher) in list(self._waiting.items()):
            if publisher.get_subscription_count():
                del self._waiting[name]
                receive = self._guard(partial(self._receive, camera, publisher))
                self._node.create_subscription(KINDS[camera.transport], camera.topic, receive, qos.sensor(1), raw=True)

    def _receive(self, camera: Camera, publisher, data: bytes) -> None:
        now_s = time.monotonic()
        if now_s - self._sent_s.get(camera.name, -1e9) < 1.0 / MOST_HZ or not publisher.get_subscription_count():
            return
        self._sent_s[camera.name] = now_s
        message = deserialize_message(data, KINDS[camera.transport])
        try:
            picture = images.rgb_image(message, camera)
        except ObservationError as error:  # the gate and the policy say so too; whoever watches sees an old picture
            self._node.get_logger().warning(f"No thumbnail: {error}", throttle_duration_sec=10.0)
            return
        height, width, _ = picture.shape
        size = (WIDTH, max(1, round(height * WIDTH / width)))
        small = picture if width <= WIDTH else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        done, jpeg = cv2.imencode(".jpg", small[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
        if done:
            publisher.publish(CompressedImage(header=message.header, format="jpeg", data=jpeg.tobytes()))
