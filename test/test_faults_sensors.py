"""Faults of cameras: the policy node (and the gate where it decides) over DDS. One test per row."""

import contextlib
import struct
import tracemalloc

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from gate_rig import GateRig
from lifecycle_msgs.msg import Transition
from policy_rig import QUICK, ROBOT, ROBOT_FILE, again, paused
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from rdvla_ros.control.supervision.input_quality import FrozenFrames, ImageFlaws, digest
from rdvla_ros.nodes.common import conversions, images
from rdvla_ros.robot import Camera
from rdvla_ros.srv import Resume
from rdvla_ros.types import ObservationError

TOP = ROBOT.cameras[0].topic
LEFT, RIGHT = ROBOT.arms


# cameras


def test_row_01_a_camera_silent_for_a_moment_pauses_both_arms_and_ends_by_itself(make_rig):
    rig = make_rig(**QUICK).moving()
    rig.silent.add(TOP)
    assert paused(rig, TOP, "nothing "), rig.log
    rig.spin(0.1)
    used = {(d.observation_stamp.sec, d.observation_stamp.nanosec) for d in rig.decisions}
    assert len(used) == len(rig.decisions), "no observation is decided on twice"
    for messages in rig.sent.values():  # the stop, or a motion that had ended
        motion = conversions.trajectory(messages[-1])
        assert motion.duration_s <= 8 * 0.1 + 0.5 + 1e-6 and not motion.velocities[-1].any()
    assert rig.rests()
    rig.silent.clear()
    rig.moving()
    assert not rig.line("Hold: ")


def test_row_02_a_camera_silent_for_good_holds_until_somebody_starts_again(make_rig):
    rig = make_rig(**QUICK, longest_pause_s=0.5).moving()
    rig.silent.add(TOP)
    assert rig.until(lambda: rig.line("Hold: ", severity="ERROR") and rig.line(TOP, "nothing ")), rig.log
    streams = rig.policy._inputs.synchronizer._streams()
    assert all(len(stream.samples) <= stream.depth for stream in streams) and rig.rests(1.0)
    rig.silent.clear()
    assert rig.rests(1.0), "a hold does not end by itself"
    again(rig)


def test_row_03_a_camera_that_repeats_its_picture_under_new_stamps_pauses(make_rig):
    rig = make_rig(frozen_frames=5, healthy_s=0.3).moving()
    rig.still = True
    assert paused(rig, TOP, "have the same pixels", "frozen_frames"), rig.log
    assert rig.rests()
    rig.still = False
    rig.moving()


def test_row_03_ten_pictures_alike_are_frozen_and_noise_is_not():
    rng, frames = np.random.default_rng(0), FrozenFrames(10)
    picture = rng.integers(0, 255, 640 * 480 * 3, dtype=np.uint8)
    for _ in range(30):
        frames.see(digest((picture + rng.integers(0, 2, picture.size, dtype=np.uint8)).tobytes()))
        assert not frames.frozen
    for count in range(1, 11):
        frames.see(digest(picture.tobytes()))
        assert frames.frozen == (count == 10)
    static = FrozenFrames(0)
    for _ in range(100):
        static.see(1)
    assert not static.frozen, "where a scene may be static, nothing is said"


@pytest.mark.parametrize("age_s, works", [(0.6, True), (0.15, False)])
def test_row_04_slow_frames_work_while_their_age_allows_it(make_rig, age_s, works):
    """Of every camera only each third picture comes: 3.3 Hz instead of 10."""
    rig = make_rig(max_observation_age_s=age_s, pause_after_s=age_s + 0.05, healthy_s=0.5)
    topics, count = {camera.topic for camera in ROBOT.cameras}, []

    def thin():
        count.append(1)
        rig.silent = set() if len(count) % 3 == 0 else set(topics)

    rig.robot.create_timer(0.1, thin)
    rig.start()
    if works:
        assert rig.until(lambda: len(rig.sent["left"]) >= 4), rig.log
    else:
        assert rig.until(lambda: rig.line("Pause: ") or rig.line("The newest set of inputs is"))
        assert rig.rests(1.0)


def test_row_05_black_saturated_and_torn_pictures_are_told_and_end_nothing(make_rig):
    rig = make_rig().moving()
    blank = bytes(240 * 320 * 3)
    for camera, data, words in (
        (0, blank, "'top' is black"),
        (1, b"\xff" * len(blank), "'left_wrist' is saturated"),
        (2, bytes(rig.pixels)[: len(blank) // 2] + blank[: len(blank) // 2], "'right_wrist' is torn"),
    ):
        name = ROBOT.cameras[camera].name

        def spoil(camera, message, name=name, data=data):
            message.data = data if camera.name == name else message.data

        rig.spoil_image = spoil
        assert rig.until(lambda words=words: rig.line(words, severity="WARN")), rig.log
        assert rig.until(lambda words=words: any(words in doubt for d in rig.decisions[-2:] for doubt in d.doubts))
        rig.moving()
    assert rig.policy._guard.exceptions == 0


def test_row_05_real_pictures_have_no_flaw():
    rng = np.random.default_rng(0)
    scene = np.clip(rng.normal(90, 50, (240, 320, 3)), 0, 255).astype(np.uint8)
    dark = np.clip(rng.normal(12, 6, (240, 320, 3)), 0, 255).astype(np.uint8)
    table = scene.copy()
    table[200:] = 128 + rng.integers(0, 2, (40, 320, 3), dtype=np.uint8)
    assert [ImageFlaws().see(image) for image in (scene, dark, table)] == ["", "", ""]
    framed = scene.copy()
    framed[190:] = 0  # the scene itself ends there, from the first image on
    camera = ImageFlaws()
    assert [camera.see(framed) for _ in range(3)] == ["", "", ""]
    framed[120:] = 0
    assert "lower 120 of 240" in camera.see(framed)


MALFORMED = [
    dict(step=959), dict(step=0), dict(data=b""), dict(data=bytes(960 * 240 - 1)), dict(data=bytes(960 * 240 + 960)),
    dict(height=0), dict(width=0), dict(height=241), dict(width=2**32 - 1, height=2**32 - 1, step=2**32 - 1), dict(encoding=""),
]  # fmt: skip


@pytest.mark.parametrize("change", MALFORMED, ids=str)
def test_row_06_a_picture_whose_sizes_disagree_is_refused_before_it_is_shaped(change):
    camera = ROBOT.cameras[0]
    fields = dict(height=240, width=320, step=960, encoding="rgb8", data=bytes(960 * 240)) | change
    message = Image(**fields)
    message.header.frame_id = camera.frame_id
    with pytest.raises(ObservationError, match="expected"):
        images.rgb_image(message, camera)


def test_row_06_malformed_pictures_among_good_ones_stop_nothing(make_rig):
    rig = make_rig().moving()
    for number, change in enumerate(MALFORMED[:-1]):
        message = Image(**(dict(height=240, width=320, step=960, encoding="rgb8", data=bytes(960 * 240)) | change))
        message.header.stamp, message.header.frame_id = rig.stamp(), ROBOT.cameras[number % 3].frame_id
        rig.images[ROBOT.cameras[number % 3].topic].publish(message)
        rig.spin(0.03)
    assert rig.moving() and rig.line("Message refused", "expected", severity="WARN") and not rig.line("Hold: ")


def test_row_07_bgr_is_converted_and_an_encoding_that_is_not_colour_holds(make_rig):
    rng, camera = np.random.default_rng(0), ROBOT.cameras[0]
    picture = rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)
    message = Image(height=240, width=320, step=960, encoding="bgr8", data=picture[..., ::-1].tobytes())
    message.header.frame_id = camera.frame_id
    assert np.array_equal(images.rgb_image(message, camera), picture)

    rig = make_rig().moving()

    def as_bgr(camera, message):
        message.encoding = "bgr8"

    def as_depth(camera, message):
        if camera.topic == TOP:
            message.encoding, message.step, message.data = "16UC1", 640, bytes(640 * 240)

    rig.spoil_image = as_bgr
    rig.moving()
    rig.spoil_image = as_depth
    assert rig.holds("16UC1")
    assert TOP in rig.line("Hold: ", "16UC1")


def png_of(width, height):
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII5B", 13, b"IHDR", width, height, 8, 2, 0, 0, 0) + bytes(64)


def jpeg_of(width, height):
    return b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x11\x08" + struct.pack(">HH", height, width) + b"\x03" + bytes(64)


@pytest.mark.parametrize(
    "message, transport",
    [
        (Image(height=10_000, width=10_000, step=30_000, encoding="rgb8", data=bytes(300)), "raw"),
        (CompressedImage(format="png", data=png_of(30_000, 30_000)), "compressed"),
        (CompressedImage(format="jpeg", data=jpeg_of(65_500, 65_500)), "compressed"),
        (CompressedImage(format="jpeg", data=bytes(1_000_000)), "compressed"),
    ],
    ids=["raw", "a PNG header", "a JPEG header", "too many bytes"],
)
def test_row_08_a_huge_picture_is_refused_without_being_allocated(message, transport):
    camera = Camera("top", "/top", transport, 320, 240, "")
    tracemalloc.start()
    try:
        with pytest.raises(ObservationError, match="expected"):
            images.rgb_image(message, camera)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_row_08_another_resolution_in_mid_run_is_refused_and_the_right_one_taken_again(make_rig):
    rig = make_rig(**QUICK).moving()

    def larger(camera, message):
        if camera.topic == TOP:
            message.height, message.width, message.step, message.data = 480, 640, 1920, bytes(1920 * 480)

    rig.spoil_image = larger
    assert paused(rig, TOP, "expected 320x240 pixels, got 640x480"), rig.log
    assert rig.rests()
    rig.spoil_image = lambda camera, message: None
    rig.moving()


def swapped(camera, message):
    others = {ROBOT.cameras[1].name: ROBOT.cameras[2], ROBOT.cameras[2].name: ROBOT.cameras[1]}
    message.header.frame_id = others.get(camera.name, camera).frame_id


def test_row_09_swapped_cameras_are_no_start_and_a_hold_when_they_swap_in_mid_run(make_rig):
    rig = make_rig()
    rig.spoil_image = swapped
    rig.start()
    assert rig.until(lambda: rig.line("Are two cameras swapped?")) and not rig.decisions and rig.rests()
    assert any("swapped" in cause for cause in rig.policy._causes()), "with a gate, a resume is refused for it"
    rig.spoil_image = lambda camera, message: None
    rig.moving()
    rig.spoil_image = swapped
    assert rig.holds("Are two cameras swapped?")


def test_row_82_two_publishers_of_one_camera_are_no_start_and_a_hold_in_mid_run(make_rig):
    rig = make_rig()
    rival = Node("second_driver", context=rig.context)
    other = rival.create_publisher(Image, TOP, 1)
    rig.start()
    words = (TOP, "expected one publisher, got 2", "/robot", "/second_driver")
    assert rig.until(lambda: rig.line(*words)), rig.log
    assert rig.rests(1.0) and any(all(word in cause for word in words) for cause in rig.policy._causes())
    rival.destroy_publisher(other)
    rig.moving()
    other = rival.create_publisher(Image, TOP, 1)
    assert rig.holds("expected one publisher, got 2") and rig.line("Hold: ", *words)
    rival.destroy_node()


def test_row_82_the_gate_holds_for_them_and_refuses_the_resume():
    with contextlib.closing(GateRig()) as rig:
        cameras = [Node(f"driver_{number}", context=rig.context) for number in (1, 2)]
        cameras[0].create_publisher(Image, TOP, 1)
        rig.go()
        rig.spin_for(0.5)
        assert not rig.status.causes
        cameras[1].create_publisher(Image, TOP, 1)
        status = rig.held()
        for words in (TOP, "expected one publisher, got 2", "/driver_1", "/driver_2"):
            assert words in status.reason
        assert not rig.call(Resume, hold_id=status.hold_id, who="test").accepted
        cameras[1].destroy_node()
        rig.until(lambda: not rig.status.causes, "the cause to go")
        rig.go()
        cameras[0].destroy_node()


# compressed images


class Compressed:
    """A rig whose top camera sends compressed images; `send`: what is in them."""

    def __init__(self, make_rig, tmp_path, **parameters):
        data = yaml.safe_load(ROBOT_FILE.read_text())
        self.camera = data["cameras"][0]
        self.topic = self.camera["topic"] + "/compressed"
        self.camera |= {"topic": self.topic, "transport": "compressed"}
        path = tmp_path / "robot.yaml"
        path.write_text(yaml.safe_dump(data))
        self.rig = rig = make_rig(robot=str(path), **parameters)
        self.rng, self.format, self.spoil = np.random.default_rng(0), "rgb8; jpeg compressed bgr8", lambda data: data
        self._publisher = rig.robot.create_publisher(CompressedImage, self.topic, 1)
        rig.robot.create_timer(0.1, self.publish)

    def picture(self):
        small = self.rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        return cv2.resize(small, (320, 240))

    def publish(self):
        data = self.spoil(cv2.imencode(".jpg", self.picture())[1].tobytes())
        message = CompressedImage(format=self.format, data=data)
        message.header.stamp, message.header.frame_id = self.rig.stamp(), self.camera.get("frame_id", "")
        self._publisher.publish(message)


def test_row_83_a_compressed_depth_image_holds_in_mid_run(make_rig, tmp_path):
    """As realsense-ros sends it where a depth topic is compressed: sixteen bits, one channel."""
    source = Compressed(make_rig, tmp_path)
    rig = source.rig.moving()
    source.format = "16UC1; png compressed"
    source.spoil = lambda data: cv2.imencode(".png", np.full((240, 320), 900, np.uint16))[1].tobytes()
    assert rig.holds("16UC1") and source.topic in rig.line("Hold: ", "16UC1")
    assert rig.change(Transition.TRANSITION_DEACTIVATE) and rig.change(Transition.TRANSITION_ACTIVATE)
    source.format = "png"  # the header says it as well
    assert rig.until(lambda: any("a PNG of 16 bits, grey" in cause for cause in rig.policy._causes())), "no start while it lasts"


def test_row_83_what_is_no_colour_picture_is_refused_by_header_or_format():
    camera = Camera("top", "/top", "compressed", 320, 240, "")
    for format_, array in (
        ("16UC1; png compressed", np.zeros((240, 320), np.uint16)),
        ("png", np.zeros((240, 320), np.uint16)),
        ("png", np.zeros((240, 320), np.uint8)),
        ("mono8; png compressed", np.zeros((240, 320, 3), np.uint8)),
    ):
        message = CompressedImage(format=format_, data=cv2.imencode(".png", array)[1].tobytes())
        with pytest.raises(conversions.Contradiction, match="expected a colour image"):
            images.check_image(message, camera)


@pytest.mark.skipif(images.jpeg_decoder() is None, reason="needs simplejpeg (requirements.txt)")
def test_row_84_images_that_lost_bytes_are_doubts_and_pause_when_they_go_on(make_rig, tmp_path):
    source = Compressed(make_rig, tmp_path, **QUICK, corrupt_images=6)
    rig = source.rig.moving()
    count = []

    def damage(data):
        return data[: len(data) // 2] + data[len(data) // 2 + 700 :]

    def damage_some(data):
        count.append(1)
        return damage(data) if len(count) % 7 in (1, 3) else data  # in step with no rate of decisions

    source.spoil = damage_some
    assert rig.until(lambda: any("'top' is corrupt (" in doubt for d in rig.decisions for doubt in d.doubts)), rig.log
    rig.moving()
    assert rig.line("The decision says: the image of camera 'top' is corrupt", severity="WARN")
    assert not rig.line("Pause: ")
    source.spoil = damage
    assert paused(rig, source.topic, "of the last 10 images are corrupt"), rig.log
    assert rig.rests()
    source.spoil = lambda data: data
    rig.moving()
    assert not rig.line("Hold: ")
