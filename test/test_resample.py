"""Preprocessing as published, against a plain reference and the imaging library the published pipeline uses."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rdvla_ros.model.resample import Preprocessing, centre_crop, jpeg_round_trip, resize, resize_matrix
from rdvla_ros.types import CheckpointError

MEANS, STDS = ((0.484375, 0.455078125, 0.40625), (0.5,) * 3), ((0.228515625, 0.2236328125, 0.224609375), (0.5,) * 3)


def picture(height, width, seed=0):
    """Shapes, a gradient and noise: edges, slopes and texture."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.uint8)
    image[:] = np.linspace(0, 255, width)[None, :, None]
    cv2.rectangle(image, (width // 4, height // 4), (width // 2, height // 2), (250, 10, 90), -1)
    noise = rng.integers(-30, 30, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def plain_crop(image, area):
    """Pixel by pixel: the middle `area`, linear between four neighbours, corners on corners."""
    size, side = len(image), math.sqrt(area)
    first = (1 - side) / 2 * (size - 1)
    out = np.zeros_like(image, dtype=np.float64)
    for i in range(size):
        for j in range(size):
            y, x = (first + k * side * (size - 1) / (size - 1) for k in (i, j))
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, size - 1), min(x0 + 1, size - 1)
            dy, dx = y - y0, x - x0
            top = image[y0, x0] * (1 - dx) + image[y0, x1] * dx
            out[i, j] = top * (1 - dy) + (image[y1, x0] * (1 - dx) + image[y1, x1] * dx) * dy
    return out


def plain_lanczos(image, size):
    """Weights of every output pixel summed up one by one, both passes in double precision."""

    def line(values, size):
        scale = len(values) / size
        wide = max(scale, 1.0)
        rows = []
        for i in range(size):
            centre, total, weight = (i + 0.5) * scale, 0.0, 0.0
            for j in range(len(values)):
                x = (j + 0.5 - centre) / wide
                if abs(x) < 3:
                    w = 1.0 if x == 0 else 3 * math.sin(math.pi * x) * math.sin(math.pi * x / 3) / (math.pi * x) ** 2
                    total, weight = total + w * values[j], weight + w
            rows.append(total / weight)
        return np.array(rows)

    values = line(image.astype(np.float64), size)
    return np.clip(np.round(line(values.swapaxes(0, 1), size).swapaxes(0, 1)), 0, 255)


@pytest.mark.parametrize("shape", [(480, 640), (240, 320), (100, 150), (224, 300), (300, 224)])
def test_bicubic_is_the_imaging_librarys(shape):
    image = picture(*shape)
    want = np.asarray(Image.fromarray(image).resize((224, 224), Image.BICUBIC)).astype(float)
    error = np.abs(resize(image, 224, "bicubic") - want)
    assert error.max() <= 1 and error.mean() < 1e-3  # fixed-point arithmetic there: a rounding here and there


def test_lanczos_is_the_plain_sum():
    image = picture(40, 52)
    assert np.abs(resize(image, 16, "lanczos3") - plain_lanczos(image, 16)).max() <= 1
    assert np.abs(resize(image, 16, "lanczos3") - plain_lanczos(image, 16)).mean() < 1e-2


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(["bicubic", "lanczos3"]))
def test_a_plain_surface_stays_plain_at_every_size(source, target, kernel):
    matrix = resize_matrix(kernel, source, target)
    assert matrix.shape == (target, source) and np.isfinite(matrix).all()
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-5)


def test_the_centre_crop_is_the_plain_one():
    image = picture(24, 24).astype(np.float32)
    want = np.floor(plain_crop(image, 0.9) / 255 * 255.5).clip(0, 255)
    error = np.abs(centre_crop(image, 0.9) - want)
    assert error.max() <= 1 and error.mean() < 0.01


def test_the_whole_of_it_channel_by_channel():
    image = picture(48, 64)
    got = Preprocessing(size=28)(image)
    assert got.shape == (6, 28, 28) and got.dtype == np.float32
    small = np.asarray(Image.fromarray(image).resize((28, 28), Image.BICUBIC)).astype(float)
    unit = np.floor(plain_crop(small, 0.9) / 255 * 255.5).clip(0, 255) / 255
    for tower in (0, 1):
        for channel in range(3):
            want = (unit[..., channel] - MEANS[tower][channel]) / STDS[tower][channel]
            error = np.abs(got[3 * tower + channel] - want)
            assert error.max() < 2.1 / 255 / STDS[tower][channel] and error.mean() < 2e-4
    assert np.abs(Preprocessing(size=28, crop_area=1.0)(image) - got).max() > 0.1


def test_the_options_of_the_published_evaluation_change_what_is_seen():
    image = picture(96, 128)
    through = jpeg_round_trip(image)
    assert through.shape == image.shape and 0 < np.abs(through.astype(int) - image).mean() < 12
    assert np.abs(jpeg_round_trip(np.full_like(image, (200, 40, 40))).astype(int) - (200, 40, 40)).max() <= 3  # red stays red
    want = Preprocessing(size=28, kernel="lanczos3")(through)
    np.testing.assert_array_equal(Preprocessing(size=28, kernel="lanczos3", jpeg=True)(image), want)


@pytest.mark.parametrize(
    "change, words",
    [({"kernel": "cubic"}, "Did you mean 'bicubic'"), ({"crop_area": 0.0}, "crop_area"), ({"stds": ((0,) * 3,) * 2}, "above 0")],
)
def test_settings_of_nothing_are_refused(change, words):
    with pytest.raises(CheckpointError, match=words):
        Preprocessing(**change)
