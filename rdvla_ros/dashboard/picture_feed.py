"""One camera at its full size, for as long as its picture is open.

A node, executor and thread of its own, all ended together: on the dashboard's node nothing is ever destroyed while it spins.
"""

from __future__ import annotations

import threading
import time

import numpy as np
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from rdvla_ros.nodes.common import conversions, images, qos
from rdvla_ros.nodes.common.throttle import throttled
from rdvla_ros.robot import Camera
from rdvla_ros.types import ObservationError

MOST_HZ = 10.0


class PictureFeed:
    """`newest()` gives (number, (H, W, 3) uint8 RGB or None, sentence on what is wrong); number grows with every picture."""

    def __init__(self, context: Context, camera: Camera, namespace: str = ""):
        self._camera = camera
        self._lock = threading.Lock()
        self._number, self._picture, self._problem = 0, None, f"Nothing has come on {camera.topic} yet."
        self._heard_s = -1e9
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(context, namespace), name=f"picture {camera.name}", daemon=True)
        self._thread.start()

    def newest(self) -> tuple[int, np.ndarray | None, str]:
        with self._lock:
            return self._number, self._picture, self._problem

    def age_s(self, now_s: float) -> float:
        with self._lock:
            return now_s - self._heard_s

    def close(self) -> None:
        """Does not wait: the thread ends by itself."""
        self._ends.set()

    def _run(self, context: Context, namespace: str) -> None:
        name = f"dashboard_picture_{threading.get_native_id()}"
        node = Node(name, context=context, namespace=namespace or None, start_parameter_services=False)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        kind = CompressedImage if self._camera.transport == "compressed" else Image
        node.create_subscription(kind, self._camera.topic, throttled(kind, self._receive, MOST_HZ), qos.sensor(1), raw=True)
        try:
            while not self._ends.is_set() and context.ok():
                executor.spin_once(timeout_sec=0.1)
        except Exception as error:
            with self._lock:
                self._problem = f"The picture stopped: {type(error).__name__}: {error}"
        finally:
            executor.shutdown(timeout_sec=0.5)
            node.destroy_node()

    def _receive(self, message: Image | CompressedImage) -> None:
        try:
            picture, problem = images.rgb_image(message, self._camera).copy(), ""
        except ObservationError as error:
            picture, problem = None, conversions.printable(str(error))
        with self._lock:
            self._number, self._problem, self._heard_s = self._number + 1, problem, time.monotonic()
            if picture is not None:
                self._picture = picture
