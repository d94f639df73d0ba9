"""Flaws of images that are well formed: what is one, and what is only a plain floor or a clean simulation."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdvla_ros.control.supervision.input_quality import CorruptImages, ImageFlaws

HEIGHT, WIDTH = 120, 160
shade = st.integers(0, 255)


def textured(seed):
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def test_a_dark_floor_that_comes_into_view_is_no_tear():
    """As the wrist camera of the simulation sees it: a cube and the gripper above a floor of one colour, without any noise."""
    camera, floor = ImageFlaws(), np.full((240, 320, 3), 70, np.uint8)
    beside = floor.copy()
    cv2.rectangle(beside, (200, 0), (319, 239), (120, 120, 120), -1)
    assert camera.see(beside) == ""
    above = floor.copy()
    cv2.rectangle(above, (0, 0), (319, 20), (110, 110, 110), -1)
    cv2.fillPoly(above, [np.array([[110, 30], [212, 30], [210, 150], [115, 150]])], (255, 0, 0))
    assert camera.see(above) == "", "the lower 89 rows are of the floor's colour, and so is most of the rows above them"


@settings(max_examples=200, deadline=None)
@given(shade, st.integers(0, 9), st.floats(0.0, 0.75), st.integers(20, 100), st.integers(0, WIDTH))
def test_something_on_a_floor_of_one_colour_is_never_a_tear(colour, seed, share, bottom, left):
    """Whatever stands on it, as long as it leaves the floor visible beside itself."""
    camera = ImageFlaws()
    assert camera.see(textured(seed)) == ""
    image = np.full((HEIGHT, WIDTH, 3), colour, np.uint8)
    width = int(share * WIDTH)
    columns = (np.arange(width) + left) % WIDTH
    image[:bottom, columns] = textured(seed + 1)[:bottom, :width]
    assert "torn" not in camera.see(image)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([0, 128]), st.integers(0, 9), st.integers(20, 90), st.integers(0, WIDTH), st.booleans())
def test_a_transfer_that_broke_off_is_a_tear_wherever_it_did(fill, seed, row, column, jpeg):
    """In the middle of a row of pixels, or in that of a row of a JPEG's blocks."""
    camera = ImageFlaws()
    assert camera.see(textured(seed)) == ""
    torn, rows = textured(seed + 1), 16 if jpeg else 1
    row, column = (row // 16 * 16, column // 16 * 16) if jpeg else (row, column)
    torn[row : row + rows, column:] = fill
    torn[row + rows :] = fill
    assert camera.see(torn).startswith("torn (the lower ")
    assert camera.see(textured(seed + 2)) == ""


@pytest.mark.parametrize("limit", [0, 1, 3, 10])
def test_corrupt_images_are_too_many_only_while_the_last_ten_hold_so_many(limit):
    images, rng, last = CorruptImages(limit), np.random.default_rng(limit), [False] * 10
    assert not images.repeated and images.last == ""
    for number in range(300):
        bad = bool(rng.random() < 0.25)
        last = [*last[1:], bad]
        images.see(f"flaw {number}" if bad else "")
        assert images.count == sum(last) and images.repeated == (0 < limit <= sum(last))
        assert bool(images.last) == any(last) and (not bad or images.last == f"flaw {number}")
