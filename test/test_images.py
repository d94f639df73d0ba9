"""From image messages to pixels: every encoding and every row length right, no picture of another kind, no damage in silence."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("PIL", reason="needs Pillow, which matplotlib brings")
pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from PIL import Image as PillowImage
from sensor_msgs.msg import CompressedImage, Image

from rdvla_ros.nodes.common import image_header, images
from rdvla_ros.nodes.common.conversions import Contradiction
from rdvla_ros.robot import Camera
from rdvla_ros.types import ObservationError

CAMERA = Camera("top", "/cameras/top/image_raw", "raw", 6, 4, "top_camera")
COMPRESSED = Camera("top", "/cameras/top/image_raw/compressed", "compressed", 6, 4, "")


@pytest.fixture()
def pixels():
    return np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def image(pixels, encoding="rgb8", padding=0, frame_id="top_camera"):
    """(H, W, bytes of a pixel) as a message; what stands in the padding is no part of the picture."""
    height, width, size = pixels.shape
    rows = np.full((height, width * size + padding), 77, np.uint8)
    rows[:, : width * size] = pixels.reshape(height, -1)
    message = Image(height=height, width=width, encoding=encoding, step=rows.shape[1], data=rows.tobytes())
    message.header.frame_id = frame_id
    return message


def compressed(data, format_="png"):
    return CompressedImage(format=format_, data=data)


def encoded(kind, array, *options):
    return cv2.imencode(f".{kind}", array, list(options))[1].tobytes()


# raw images


@pytest.mark.parametrize("padding", [0, 5])
def test_an_rgb_image_is_a_view_of_the_message(pixels, padding):
    message = image(pixels, padding=padding)
    seen = images.rgb_image(message, CAMERA)
    assert np.array_equal(seen, pixels)
    message.data[0] ^= 255
    assert seen[0, 0, 0] == pixels[0, 0, 0] ^ 255, "no copy was made"


@pytest.mark.parametrize("width, height, step", [(641, 480, 1924), (646, 480, 1940), (1282, 720, 3848), (640, 480, 1920)])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_rows_with_any_padding_are_not_sheared(width, height, step, encoding):
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    message = image(picture, encoding, padding=step - 3 * width)
    seen = images.rgb_image(message, Camera("top", "/top", "raw", width, height, ""))
    assert message.step == step and np.array_equal(seen, picture if encoding == "rgb8" else picture[..., ::-1])


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 12), st.integers(0, 20), st.sampled_from(sorted(images.RAW_ENCODINGS)), st.integers(0, 9)
)
def test_the_pixels_do_not_depend_on_the_padding(width, height, padding, encoding, seed):
    size, _ = images.RAW_ENCODINGS[encoding]
    width += width % 2 if size == 2 else 0
    data = np.random.default_rng(seed).integers(0, 256, (height, width, size), dtype=np.uint8)
    camera = Camera("top", "/top", "raw", width, height, "")
    seen = images.rgb_image(image(data, encoding, padding), camera)
    assert np.array_equal(seen, images.rgb_image(image(data, encoding), camera)) and seen.shape == (height, width, 3)
    if size > 2:  # which byte is which colour
        order = [encoding.index(colour) for colour in "rgb"]
        assert np.array_equal(seen, data[..., order])


# BT.601 with Y of 16 to 235, as V4L2's YUYV is: (R, G, B) and the Y, U, V that stand for it
YUV = {(255, 255, 255): (235, 128, 128), (255, 0, 0): (82, 90, 240), (0, 255, 0): (145, 54, 34), (0, 0, 255): (41, 240, 110)}


@pytest.mark.parametrize("encoding, order", [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuyv", "yuyv"), ("yuv422_yuy2", "yuyv")])
@pytest.mark.parametrize("colour", YUV, ids=str)
def test_yuv_is_converted_in_the_order_its_name_says(encoding, order, colour):
    y, u, v = YUV[colour]
    pair = [u, y, v, y] if order == "uyvy" else [y, u, y, v]
    data = np.tile(np.array(pair, np.uint8), (4, 3)).reshape(4, 6, 2)
    assert np.abs(images.rgb_image(image(data, encoding), CAMERA).astype(int) - colour).max() <= 2


@pytest.mark.parametrize("encoding", ["yuyv", "uyvy"])
def test_yuv_of_an_odd_width_is_refused(encoding):
    data = np.zeros((4, 5, 2), np.uint8)
    with pytest.raises(ObservationError, match="expected an even width"):
        images.rgb_image(image(data, encoding), Camera("top", "/top", "raw", 5, 4, ""))


@pytest.mark.ros_packages
@pytest.mark.parametrize("encoding", images.RAW_ENCODINGS)
def test_the_pixels_are_those_of_cv_bridge(encoding):
    """Where it is installed. Rows without padding: cv_bridge shears those whose padding is no multiple of a pixel."""
    real = pytest.importorskip("cv_bridge", reason="cv_bridge comes with ROS 2 by apt and not from PyPI")
    size, _ = images.RAW_ENCODINGS[encoding]
    message = image(np.random.default_rng(0).integers(0, 256, (4, 6, size), dtype=np.uint8), encoding)
    try:
        expected = real.CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8")
    except Exception as error:
        pytest.skip(f"the cv_bridge that is installed cannot convert {encoding}: {error}")
    np.testing.assert_array_equal(images.rgb_image(message, CAMERA), expected)


def changed(message, **fields):
    for name, value in fields.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data": bytes(4 * 18 - 1)}, "expected 4 rows of at least 18 bytes, got a step of 18 and 71 bytes"),
        ({"data": b""}, "got a step of 18 and 0 bytes"),
        ({"step": 17}, "got a step of 17"),
        ({"step": 0}, "got a step of 0"),
        ({"encoding": "bgra8"}, "expected 4 rows of at least 24 bytes, got a step of 18"),
        ({"width": 12000, "height": 9000}, "expected 6x4 pixels, got 12000x9000"),
        ({"encoding": "16UC1"}, "expected one of the encodings rgb8, bgr8, .*, got '16UC1'"),
        ({"encoding": "rgb8\x1b[31m\n"}, r"got 'rgb8\?\[31m\?'"),
    ],
)
def test_an_image_that_does_not_add_up_is_refused_before_it_is_read(pixels, fields, words):
    with pytest.raises(ObservationError, match=words):
        images.rgb_image(changed(image(pixels), **fields), CAMERA)


def test_swapped_cameras_are_noticed_by_their_frame(pixels):
    with pytest.raises(Contradiction, match="expected frame_id 'top_camera', got 'left_camera'"):
        images.check_image(image(pixels, frame_id="left_camera"), CAMERA)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.binary(max_size=120),
    st.sampled_from([*images.RAW_ENCODINGS, "mono8", "", "8UC3", "nv12"]), st.booleans(),
)  # fmt: skip
def test_any_image_is_read_inside_its_bytes_or_refused(width, height, step, data, encoding, fits):
    size = (CAMERA.width, CAMERA.height) if fits else (width, height)
    message = Image(width=size[0], height=size[1], step=step, encoding=encoding, data=data)
    message.header.frame_id = CAMERA.frame_id
    try:
        pixels = images.rgb_image(message, CAMERA)
    except ObservationError:
        return
    assert pixels.shape == (4, 6, 3) and len(data) == step * 4 >= 4 * 6 * images.RAW_ENCODINGS[encoding][0]


# compressed images


def test_a_compressed_image_is_decoded_to_rgb(pixels):
    data = encoded("png", pixels[:, :, ::-1])
    assert images.decoded(compressed(data), COMPRESSED)[1] == "" and np.array_equal(
        images.rgb_image(compressed(data), COMPRESSED), pixels
    )
    with_alpha = np.dstack([pixels[:, :, ::-1], np.full((4, 6), 9, np.uint8)])
    assert np.array_equal(images.rgb_image(compressed(encoded("png", with_alpha), "bgra8; png compressed"), COMPRESSED), pixels)
    for bad, words in (
        (data[:45], "cannot be decoded"),
        (data[:20], "expected a JPEG or PNG image"),
        (b"", "expected 1 .."),
    ):
        with pytest.raises(ObservationError, match=words):
            images.rgb_image(compressed(bad), COMPRESSED)
    with pytest.raises(ObservationError, match="expected 7x4 pixels, got an image whose header says 6x4"):
        images.rgb_image(compressed(data), Camera("top", "/c", "compressed", 7, 4, ""))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_compressed_image_is_decoded_or_refused(data):
    with pytest.raises(ObservationError):  # random bytes are no picture of this size
        images.rgb_image(compressed(data, "jpeg"), COMPRESSED)


GREY, GREY_16, COLOUR = np.full((4, 6), 90, np.uint8), np.full((4, 6), 900, np.uint16), np.full((4, 6, 3), 90, np.uint8)
PILLOW = {"palette": "P", "grey with alpha": "LA", "4 channels": "CMYK"}


def pillow(mode, kind):
    stream = io.BytesIO()
    PillowImage.fromarray(COLOUR).convert(mode).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    "data, format_, words",
    [
        (encoded("png", GREY_16), "16UC1; png compressed", "16UC1"),  # the depth image of a RealSense camera
        (encoded("png", GREY_16), "png", "a PNG of 16 bits, grey"),
        (encoded("png", GREY_16), "", "a PNG of 16 bits, grey"),
        (encoded("png", GREY), "bgr8; png compressed bgr8", "a PNG of 8 bits, grey"),
        (encoded("png", np.full((4, 6, 3), 900, np.uint16)), "rgb16; png compressed bgr16", "a PNG of 16 bits, RGB"),
        (encoded("jpg", GREY), "jpeg", "a JPEG of 8 bits, 1 channel"),
        (encoded("jpg", GREY), "mono8; jpeg compressed ", "mono8"),
        (encoded("jpg", COLOUR), "mono8; jpeg compressed", "mono8"),
        (encoded("png", COLOUR), "32FC1; compressedDepth png", "32FC1"),
        (encoded("png", COLOUR), "16UC1; compressedDepth", "16UC1"),
        (pillow("P", "PNG"), "png", "palette"),
        (pillow("LA", "PNG"), "png", "grey with alpha"),
        (pillow("CMYK", "JPEG"), "jpeg", "4 channels"),
    ],
)
def test_a_compressed_image_that_is_no_colour_picture_contradicts_the_camera(data, format_, words):
    """As a raw one does: the node then holds (row 7)."""
    with pytest.raises(Contradiction, match=words):
        images.check_image(compressed(data, format_), COMPRESSED)


DRIVERS = (
    *("jpeg", "jpg", "JPEG", "", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed ", "yuv422_yuy2; jpeg compressed bgr8"),
    *("bayer_rggb8; jpeg compressed bgr8", "8UC3; jpeg compressed"),
)


@pytest.mark.parametrize("format_", DRIVERS)
def test_a_colour_picture_is_taken_whatever_its_driver_calls_it(format_):
    assert images.rgb_image(compressed(encoded("jpg", COLOUR), format_), COMPRESSED).shape == (4, 6, 3)


def png(bits, colour, width=6, height=4):
    """A PNG whose checksums fit, of any bit depth and colour type."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    rows = b"".join(b"\0" + bytes((width * samples * bits + 7) // 8) for _ in range(height))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    if colour == 3:
        parts.insert(1, (b"PLTE", bytes(3)))
    chunks = (struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts)
    return image_header.PNG + b"".join(chunks)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([(b, c) for b in (1, 2, 4, 8, 16) for c in (0, 2, 3, 4, 6) if b >= 8 or c in (0, 3)]),
    st.sampled_from(["png", ""]),
)
def test_only_pngs_of_eight_bits_in_colour_are_taken(kind, format_):
    bits, colour = kind
    try:
        seen = images.rgb_image(compressed(png(bits, colour), format_), COMPRESSED)
    except Contradiction:
        assert bits != 8 or colour not in (2, 6)
        return
    assert bits == 8 and colour in (2, 6) and seen.shape == (4, 6, 3)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 64), st.integers(1, 64), st.integers(0, 255), st.integers(0, 255))
def test_a_jpeg_is_taken_for_another_kind_of_picture_only_where_its_header_makes_sense(width, height, bits, channels):
    """A header that lost bytes is damage, which is refused; a depth or grey image holds the arms."""
    length = 8 + 3 * channels
    frame = b"\xff\xc0" + struct.pack(">HBHHB", length, bits, height, width, channels) + bytes(3 * channels)
    header = image_header.read_header(b"\xff\xd8\xff\xe0\x00\x04ab" + frame)
    sensible = bits in (8, 12, 16) and 1 <= channels <= 4
    assert (header is not None) == sensible
    if sensible:
        assert (header.width, header.height, not header.problem) == (width, height, bits == 8 and channels == 3)


# damage

SIMPLEJPEG = images.jpeg_decoder() is not None
needs_simplejpeg = pytest.mark.skipif(not SIMPLEJPEG, reason="needs simplejpeg (requirements.txt)")
SCENE = Camera("top", "/top", "compressed", 320, 240, "")


def scene(rng):
    picture = cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (320, 240)).astype(np.float64)
    return np.clip(picture + rng.normal(0, rng.choice([0, 3, 8]), picture.shape), 0, 255).astype(np.uint8)


def jpegs(rng):
    """One picture by several encoders and settings."""
    picture, quality = scene(rng), int(rng.integers(40, 96))
    for options in ((), (cv2.IMWRITE_JPEG_OPTIMIZE, 1), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 8)):
        yield encoded("jpg", picture, cv2.IMWRITE_JPEG_QUALITY, quality, *options)
    for options in ({"subsampling": 0}, {"subsampling": 1}, {"optimize": True}, {"progressive": True}):
        stream = io.BytesIO()
        PillowImage.fromarray(picture).save(stream, "JPEG", quality=quality, **options)
        yield stream.getvalue()


def without(data, rng, least=64):
    """The bytes of a picture with a run of them lost in the second half, as a lost packet leaves it."""
    count = int(rng.integers(least, 1500))
    at = int(rng.integers(len(data) // 2, len(data) - 2))
    return data[:at] + data[at + count :]


@needs_simplejpeg
def test_two_hundred_jpegs_of_several_encoders_raise_no_doubt():
    rng = np.random.default_rng(0)
    doubts = [images.decoded(compressed(data, "jpeg"), SCENE)[1] for _ in range(25) for data in jpegs(rng)]
    assert len(doubts) == 200 and not any(doubts)


@needs_simplejpeg
def test_jpegs_that_lost_bytes_raise_a_doubt_or_are_refused():
    """What libjpeg cannot know: after a lost run its codes may by chance fall into step again at the right place."""
    rng, silent = np.random.default_rng(0), 0
    for _ in range(25):
        for data in jpegs(rng):
            damaged = without(data, rng)
            try:
                silent += not images.decoded(compressed(damaged, "jpeg"), SCENE)[1]
            except ObservationError:
                continue
    assert silent <= 4, f"{silent} of 200"


@needs_simplejpeg
def test_the_pixels_of_a_jpeg_are_opencvs():
    for data in jpegs(np.random.default_rng(1)):
        assert np.array_equal(images.rgb_image(compressed(data, "jpeg"), SCENE), images._by_opencv(data))


def test_without_simplejpeg_opencv_decodes_and_a_missing_end_is_a_doubt(monkeypatch):
    monkeypatch.setattr(images, "jpeg_decoder", lambda: None)
    for data in jpegs(np.random.default_rng(1)):
        pixels, doubt = images.decoded(compressed(data, "jpeg"), SCENE)
        assert pixels.shape == (240, 320, 3) and not doubt
    assert image_header.flaw(data[:-2], "JPEG") == "the end of the JPEG is missing" and not image_header.flaw(data, "JPEG")


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 255))
def test_a_png_with_a_changed_byte_is_never_used_in_silence(place, change):
    data = bytearray(png(8, 2, 16, 16))
    data[place % len(data)] ^= change
    camera = Camera("top", "/c", "compressed", 16, 16, "")
    try:
        _, doubt = images.decoded(compressed(bytes(data)), camera)
    except ObservationError:
        return
    assert doubt


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 400))
def test_a_png_with_lost_bytes_is_never_used_in_silence(place, count):
    data = encoded("png", np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    at = place % len(data)
    lost = data[:at] + data[at + count :]
    try:
        _, doubt = images.decoded(compressed(lost), Camera("top", "/c", "compressed", 16, 16, ""))
    except ObservationError:
        return
    assert doubt
