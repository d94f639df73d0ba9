"""Cameras that see noise, for a policy that does not look at its pictures: all that the policy node checks of them is right."""

from __future__ import annotations

import array
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import Image

from rdvla_ros.nodes.common import qos
from rdvla_ros.nodes.common.hooks import NodeHooks
from rdvla_ros.nodes.common.parameters import Schema, declare, parameter
from rdvla_ros.nodes.common.run import leave, run
from rdvla_ros.robot import RobotDescription

PICTURES = 7  # different ones in turn: a picture that comes again and again counts as frozen


@dataclass(frozen=True)
class CameraParameters(Schema):
    robot: str = parameter("", "robot description, a YAML file", unit="path")


class NoiseCameras(NodeHooks, Node):
    def __init__(self, **node_options: Any) -> None:
        super().__init__("cameras", **node_options)
        robot = RobotDescription.load(declare(self, CameraParameters).robot).in_namespace(self.get_namespace())
        random, self._count = np.random.default_rng(0), 0
        self._images = []
        for camera in robot.cameras:
            shape = (PICTURES, camera.height, camera.width * 3)
            noise = random.integers(30, 220, shape, dtype=np.uint8)
            pictures = [array.array("B", picture.tobytes()) for picture in noise]
            self._images.append((camera, self.create_publisher(Image, camera.topic, qos.IMAGES), pictures))
        self.create_timer(1.0 / robot.rates.camera_hz, self._publish)

    def _publish(self) -> None:
        stamp, self._count = self.get_clock().now().to_msg(), self._count + 1
        for camera, publisher, pictures in self._images:
            image = Image(height=camera.height, width=camera.width, encoding="rgb8", step=3 * camera.width)
            image.header.stamp, image.header.frame_id = stamp, camera.frame_id
            image.data = pictures[self._count % PICTURES]
            publisher.publish(image)


def main(args: list[str] | None = None) -> None:
    leave(run(NoiseCameras, args))


if __name__ == "__main__":
    main()
