"""Stand-in for the ROS 2 package cv_bridge: CvBridge between image messages and arrays, with the same interface."""

from __future__ import annotations

import array
import sys
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image

# encoding -> (element type, channels)
_ENCODINGS = {
    "rgb8": (np.uint8, 3),
    "bgr8": (np.uint8, 3),
    "rgba8": (np.uint8, 4),
    "bgra8": (np.uint8, 4),
    "mono8": (np.uint8, 1),
    "mono16": (np.uint16, 1),
    "8UC1": (np.uint8, 1),
    "8UC3": (np.uint8, 3),
    "8UC4": (np.uint8, 4),
    "16UC1": (np.uint16, 1),
    "32FC1": (np.float32, 1),
}
_COLOURS = {"rgb8": "RGB", "bgr8": "BGR", "rgba8": "RGBA", "bgra8": "BGRA", "mono8": "GRAY"}


class CvBridgeError(TypeError):
    """An image that cannot be converted."""


class CvBridge:
    """Converts image messages to arrays and back. An array shares the message's memory where no conversion is needed."""

    def imgmsg_to_cv2(self, img_msg: Image, desired_encoding: str = "passthrough") -> np.ndarray:
        """(height, width[, channels]) in the desired encoding; 'passthrough' keeps the message's."""
        dtype, channels = _layout(img_msg.encoding)
        row_bytes = img_msg.width * channels * np.dtype(dtype).itemsize
        if img_msg.step < row_bytes or len(img_msg.data) < img_msg.step * img_msg.height:
            raise CvBridgeError(
                f"expected {img_msg.height} rows of at least {row_bytes} bytes, got a step of {img_msg.step} and "
                f"{len(img_msg.data)} bytes"
            )
        order = ">" if img_msg.is_bigendian else "<"
        shape = (img_msg.height, img_msg.width, channels)
        strides = (img_msg.step, channels * np.dtype(dtype).itemsize, np.dtype(dtype).itemsize)
        image = np.ndarray(shape, np.dtype(dtype).newbyteorder(order), buffer=memoryview(img_msg.data).cast("B"), strides=strides)
        image = image[:, :, 0] if channels == 1 else image
        return _converted(image, img_msg.encoding, desired_encoding)

    def cv2_to_imgmsg(self, cvim: np.ndarray, encoding: str = "passthrough", header: Any = None) -> Image:
        """An array as a message; encoding names what the array holds ('passthrough': by its type and channels)."""
        cvim = np.asarray(cvim)
        channels = 1 if cvim.ndim == 2 else cvim.shape[2]
        if encoding == "passthrough":
            names = [n for n in ("8UC1", "8UC3", "8UC4", "16UC1", "32FC1") if _ENCODINGS[n] == (cvim.dtype.type, channels)]
            if not names:
                raise CvBridgeError(
                    f"expected an array of one of {', '.join(_ENCODINGS)}, got {cvim.dtype} with {channels} channels"
                )
            encoding = names[0]
        dtype, expected = _layout(encoding)
        if cvim.dtype != dtype or channels != expected:
            raise CvBridgeError(
                f"{encoding}: expected {np.dtype(dtype)} with {expected} channels, got {cvim.dtype} with {channels}"
            )
        cvim = np.ascontiguousarray(cvim)
        message = Image(height=cvim.shape[0], width=cvim.shape[1], encoding=encoding, is_bigendian=sys.byteorder == "big")
        message.step = cvim.strides[0]
        message.data = array.array("B", cvim.tobytes())
        if header is not None:
            message.header = header
        return message

    def compressed_imgmsg_to_cv2(self, cmprs_img_msg: CompressedImage, desired_encoding: str = "passthrough") -> np.ndarray:
        """Decodes to what OpenCV gives (bgr8 or mono8), then to the desired encoding."""
        image = (
            cv2.imdecode(np.frombuffer(cmprs_img_msg.data, np.uint8), cv2.IMREAD_ANYCOLOR) if len(cmprs_img_msg.data) else None
        )
        if image is None:
            raise CvBridgeError(
                f"expected a compressed image ({cmprs_img_msg.format or 'no format named'}), got bytes that do not decode"
            )
        return _converted(image, "mono8" if image.ndim == 2 else "bgr8", desired_encoding)

    def cv2_to_compressed_imgmsg(self, cvim: np.ndarray, dst_format: str = "jpg") -> CompressedImage:
        """Encodes a bgr8 or mono8 array as jpg, png, ..."""
        ok, encoded = cv2.imencode(f".{dst_format}", cvim)
        if not ok:
            raise CvBridgeError(f"expected an array that can be written as {dst_format}, got {cvim.dtype} of shape {cvim.shape}")
        return CompressedImage(format=dst_format, data=array.array("B", encoded.tobytes()))


def _layout(encoding: str) -> tuple[type, int]:
    if encoding not in _ENCODINGS:
        raise CvBridgeError(f"expected an encoding among {', '.join(_ENCODINGS)}, got '{encoding}'")
    return _ENCODINGS[encoding]


def _converted(image: np.ndarray, source: str, desired: str) -> np.ndarray:
    if desired in ("passthrough", source) or (
        desired in _ENCODINGS and _ENCODINGS[desired] == _ENCODINGS[source] and "U" in desired
    ):
        return image
    if source not in _COLOURS or desired not in _COLOURS:
        raise CvBridgeError(f"no conversion from '{source}' to '{desired}'; colours are {', '.join(_COLOURS)}")
    return cv2.cvtColor(image, getattr(cv2, f"COLOR_{_COLOURS[source]}2{_COLOURS[desired]}"))
