"""Camera messages as pictures of one size. A camera that is not as described is recorded too: it is evidence."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from rdvla_ros.robot import Camera
from rdvla_ros.types import ObservationError

MOST_PIXELS = 4096 * 4096  # of a picture that is decoded


def film_size(camera: Camera, most_width: int) -> tuple[int, int]:
    """(width, height) [px] of a camera's film: at most most_width wide (0: as it comes), even, as the codec wants it."""
    scale = min(1.0, most_width / camera.width) if most_width else 1.0
    width, height = (max(2, round(side * scale / 2) * 2) for side in (camera.width, camera.height))
    return width, height


def rgb(message: Any, camera: Camera, size: tuple[int, int]) -> np.ndarray:
    """(height, width, 3) uint8 RGB of sensor_msgs/Image or CompressedImage; ObservationError where there is no picture in it."""
    data = np.frombuffer(message.data, dtype=np.uint8)
    picture = _decoded(data, camera) if camera.transport == "compressed" else _raw(message, data, camera)
    if picture.shape[1::-1] != size:
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return picture


def _raw(message: Any, data: np.ndarray, camera: Camera) -> np.ndarray:
    height, width, step = message.height, message.width, message.step
    if message.encoding not in ("rgb8", "bgr8") or not width or step < 3 * width or data.size != step * height or not height:
        raise ObservationError(
            f"{camera.topic}: expected rgb8 or bgr8 and rows of at least {3 * width} bytes, got {message.encoding!r:.40} and "
            f"{data.size} bytes for {width}x{height} pixels."
        )
    picture = data.reshape(height, step)[:, : 3 * width].reshape(height, width, 3)
    return picture if message.encoding == "rgb8" else picture[..., ::-1]


def _decoded(data: np.ndarray, camera: Camera) -> np.ndarray:
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if picture is None or picture.size > 3 * MOST_PIXELS:
        raise ObservationError(f"{camera.topic}: expected a JPEG or PNG picture, got {data.size} bytes that are none.")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
