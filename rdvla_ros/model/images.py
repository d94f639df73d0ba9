"""Camera images to the network's input: the same few lines for training data and for a live camera."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np


class CameraView(Protocol):
    """What a network wants of one camera: size [px], and the crop (left, top, right, bottom) as fractions of the image."""

    name: str
    width: int
    height: int
    crop: tuple[float, float, float, float]


def prepare_image(image: np.ndarray, camera: CameraView) -> np.ndarray:
    """(height, width, 3) uint8 of any size -> (camera.height, camera.width, 3) uint8: crop, then shrink.

    Area averaging when shrinking: neighbouring pixels are mixed rather than dropped, so a small object cannot flicker.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = camera.crop
    image = image[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
    if image.shape[:2] == (camera.height, camera.width):
        return np.ascontiguousarray(image)
    shrinks = image.shape[0] >= camera.height and image.shape[1] >= camera.width
    return cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
