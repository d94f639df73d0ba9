"""From image messages to pixels, (height, width, 3) uint8 RGB. Nothing here keeps state or reads a clock.

What cannot be trusted is refused with ObservationError; what is no colour picture of the described camera with Contradiction.
cv_bridge is not used: it reads rows whose padding is no multiple of a pixel out of step, and knows no doubts.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from rdvla_ros.nodes.common import image_header
from rdvla_ros.nodes.common.conversions import Contradiction, printable
from rdvla_ros.robot import Camera
from rdvla_ros.types import ObservationError

# encoding -> (bytes of a pixel, OpenCV's name of the conversion). What is not here is refused, never guessed. The two names of
# each order of YUV 4:2:2 are sensor_msgs/image_encodings'; two pixels share their colour in it, so a row holds an even number.
RAW_ENCODINGS = {
    "rgb8": (3, ""),
    "bgr8": (3, "BGR2RGB"),
    "rgba8": (4, "RGBA2RGB"),
    "bgra8": (4, "BGRA2RGB"),
    "yuv422": (2, "YUV2RGB_UYVY"),
    "uyvy": (2, "YUV2RGB_UYVY"),
    "yuyv": (2, "YUV2RGB_YUY2"),
    "yuv422_yuy2": (2, "YUV2RGB_YUY2"),
}
COMPRESSED_OVERHEAD = 65536  # [bytes] a compressed image may be this much larger than its pixels


def check_image(message: Image | CompressedImage, camera: Camera) -> None:
    """Refuse an image that is not what the robot description says, before any of its pixels are looked at."""
    if camera.frame_id and message.header.frame_id != camera.frame_id:
        raise Contradiction(
            f"{camera.topic}: expected frame_id '{camera.frame_id}', got {printable(message.header.frame_id)!r}. "
            "Are two cameras swapped?"
        )
    if camera.transport == "compressed":
        _check_compressed(message, camera)
    else:
        _check_raw(message, camera)


def _check_raw(message: Image, camera: Camera) -> None:
    if (message.width, message.height) != (camera.width, camera.height):
        raise ObservationError(
            f"{camera.topic}: expected {camera.width}x{camera.height} pixels, got {message.width}x{message.height}. "
            f"Set the camera or width and height of camera '{camera.name}' in the robot description."
        )
    if message.encoding not in RAW_ENCODINGS:
        raise Contradiction(
            f"{camera.topic}: expected one of the encodings {', '.join(RAW_ENCODINGS)}, got {printable(message.encoding)!r}. "
            "Let the camera driver convert it."
        )
    pixel_bytes, _ = RAW_ENCODINGS[message.encoding]
    row_bytes = message.width * pixel_bytes
    if message.step < row_bytes or len(message.data) != message.step * message.height:
        raise ObservationError(
            f"{camera.topic}: expected {message.height} rows of at least {row_bytes} bytes, got a step of {message.step} and "
            f"{len(message.data)} bytes."
        )
    if pixel_bytes == 2 and message.width % 2:
        raise ObservationError(
            f"{camera.topic}: expected an even width with encoding {message.encoding}, got {message.width} pixels."
        )


def _check_compressed(message: CompressedImage, camera: Camera) -> None:
    """A header may ask the decoder for far more memory than the message has bytes, or be that of a depth image."""
    largest = camera.width * camera.height * 3 + COMPRESSED_OVERHEAD
    if not 0 < len(message.data) <= largest:
        raise ObservationError(
            f"{camera.topic}: expected 1 .. {largest} bytes for {camera.width}x{camera.height}, got {len(message.data)}."
        )
    if word := image_header.named_otherwise(message.format):
        raise Contradiction(
            f"{camera.topic}: expected a colour image, got format {printable(message.format, 64)!r} ('{printable(word)}'). "
            "Is this the topic of a depth image?"
        )
    header = _header(message)
    if header is None:
        raise ObservationError(f"{camera.topic}: expected a JPEG or PNG image, got bytes that begin like neither.")
    if header.problem:
        raise Contradiction(
            f"{camera.topic}: expected a colour image of 8 bits, got {header.problem}. Is this the topic of a depth image?"
        )
    if (header.width, header.height) != (camera.width, camera.height):
        raise ObservationError(
            f"{camera.topic}: expected {camera.width}x{camera.height} pixels, got an image whose header says "
            f"{header.width}x{header.height}."
        )


def _header(message: CompressedImage) -> image_header.Header | None:
    return image_header.read_header(bytes(message.data[: image_header.HEADER_BYTES]))


def rgb_image(message: Image | CompressedImage, camera: Camera) -> np.ndarray:
    """(height, width, 3) uint8 RGB. Shares the message's memory where it already is RGB."""
    return decoded(message, camera)[0]


def decoded(message: Image | CompressedImage, camera: Camera) -> tuple[np.ndarray, str]:
    """(height, width, 3) uint8 RGB, and what its decoder calls corrupt about it (empty: nothing)."""
    check_image(message, camera)
    try:
        image, doubt = _decompressed(message) if camera.transport == "compressed" else (_raw(message), "")
    except Exception as error:  # OpenCV and simplejpeg each raise classes of their own
        raise ObservationError(f"{camera.topic}: the image cannot be decoded: {error}") from None
    if image.shape != (camera.height, camera.width, 3):
        raise ObservationError(
            f"{camera.topic}: expected {camera.width}x{camera.height} pixels in colour, got an array of shape {image.shape}."
        )
    return image, printable(doubt, 128)


def _raw(message: Image) -> np.ndarray:
    """A row begins every `step` bytes, whatever number that is."""
    size, conversion = RAW_ENCODINGS[message.encoding]
    shape, strides = (message.height, message.width, size), (message.step, size, 1)
    pixels = np.ndarray(shape, np.uint8, buffer=memoryview(message.data).cast("B"), strides=strides)
    if not conversion:
        return pixels
    cv2 = _opencv()
    return cv2.cvtColor(np.ascontiguousarray(pixels), getattr(cv2, f"COLOR_{conversion}"))


def _decompressed(message: CompressedImage) -> tuple[np.ndarray, str]:
    kind, data = _header(message).kind, bytes(message.data)
    doubt = image_header.flaw(data, kind)
    simplejpeg = jpeg_decoder() if kind == "JPEG" else None
    if simplejpeg is None:
        return _by_opencv(data), doubt
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True), doubt
    except ValueError as warning:  # what libjpeg goes on after
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=False), str(warning)


def _by_opencv(data: bytes) -> np.ndarray:
    cv2 = _opencv()
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError("OpenCV finds no image in it")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


@functools.cache
def jpeg_decoder() -> Any:
    """simplejpeg, which says what is wrong with a JPEG; None where it is not installed. OpenCV prints that to stderr only."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def _opencv() -> Any:
    """Imported with the first image: a process that decodes none loads no OpenCV."""
    import cv2

    return cv2
