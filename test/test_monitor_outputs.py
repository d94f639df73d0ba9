"""What the monitor sends for people far away and for other tools: thumbnails and plain numbers, only while somebody listens."""

import array
import contextlib
import math
import time

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

import cv2
import numpy as np
from gate_rig import ROBOT
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float32
from test_monitor_node import MonitorRig

from rdvla_ros.nodes.common import names, qos
from rdvla_ros.nodes.monitor.plain_numbers import float32
from rdvla_ros.nodes.monitor.thumbnails import MOST_HZ, WIDTH

CAMERA = ROBOT.cameras[0]


@pytest.fixture
def rig():
    with contextlib.closing(MonitorRig()) as rig:
        yield rig


class Camera:
    """10 Hz of a picture that is red on its left and blue on its right."""

    def __init__(self, rig):
        picture = np.zeros((CAMERA.height, CAMERA.width, 3), dtype=np.uint8)
        picture[:, : CAMERA.width // 2, 0] = picture[:, CAMERA.width // 2 :, 2] = 200
        self.message = Image(height=CAMERA.height, width=CAMERA.width, step=3 * CAMERA.width, encoding="rgb8")
        self.message.data = array.array("B", picture.tobytes())
        self.message.header.frame_id = CAMERA.frame_id
        publisher = rig.node.create_publisher(Image, CAMERA.topic, 1)
        self.listeners = publisher.get_subscription_count
        rig.node.create_timer(0.1, lambda: publisher.publish(self.message))


def test_a_thumbnail_is_small_seldom_and_of_the_right_colours(rig):
    camera, thumbnails = Camera(rig), []
    rig.node.create_subscription(
        CompressedImage, names.thumbnail(CAMERA.name), lambda m: thumbnails.append((time.monotonic(), m)), qos.sensor(5)
    )
    rig.until(lambda: len(thumbnails) >= 4, "thumbnails")
    times_s = [at_s for at_s, _ in thumbnails]
    assert (times_s[-1] - times_s[0]) / (len(times_s) - 1) >= 0.9 / MOST_HZ
    message = thumbnails[-1][1]
    picture = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] == WIDTH and len(message.data) < 6000
    blue, _, red = picture[picture.shape[0] // 2, 20]
    assert red > 150 > blue
    assert message.header.frame_id == camera.message.header.frame_id


def test_without_a_listener_no_camera_is_subscribed_to(rig):
    camera = Camera(rig)
    rig.until(lambda: rig.node.count_publishers(CAMERA.topic) == 1, "the camera")
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        rig.executor.spin_once(timeout_sec=0.02)
    assert camera.listeners() == 0


def test_a_picture_that_is_not_the_cameras_gives_no_thumbnail_and_ends_nothing(rig):
    camera, thumbnails = Camera(rig), []
    rig.node.create_subscription(CompressedImage, names.thumbnail(CAMERA.name), thumbnails.append, qos.sensor(5))
    camera.message.encoding = "mono16"
    rig.until(camera.listeners, "the monitor to listen to the camera")
    rig.decide([math.nan, 0.01, 5e-4])
    assert not thumbnails
    camera.message.encoding = "rgb8"
    rig.until(lambda: thumbnails, "thumbnails of good pictures")


def test_the_numbers_of_a_decision_come_as_plain_floats(rig):
    heard = {name: [] for name in names.PLAIN_NUMBERS}
    for name, topic in names.PLAIN_NUMBERS.items():
        rig.node.create_subscription(Float32, topic, lambda m, name=name: heard[name].append(m.data), 10)
    rig.until(lambda: all(rig.monitor.count_subscribers(topic) for topic in names.PLAIN_NUMBERS.values()), "the listeners")

    def all_heard():
        rig.decide([math.nan, 0.01, 5e-4])
        return all(heard.values())

    rig.until(all_heard, "all numbers")
    assert heard["iterations"][-1] == 3 and heard["horizon"][-1] == 6
    assert heard["final_change"][-1] == pytest.approx(5e-4) and heard["latency_s"][-1] == pytest.approx(0.04)
    assert 0.0 <= heard["uncertainty"][-1] < 0.2


@pytest.mark.parametrize("value", [0.0, -1.5, 3.3e38, 1e300, -1e300, math.inf, math.nan])
def test_every_number_fits_a_float32(value):
    shown = Float32(data=float32(value)).data
    assert math.isnan(shown) if math.isnan(value) else math.copysign(1, shown) == math.copysign(1, value)
