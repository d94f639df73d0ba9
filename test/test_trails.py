"""Trails of pads: the laws of the graphs that are drawn, and that nothing but following them says where they end."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdvla_ros.sim import SimulationError
from rdvla_ros.sim.trails import LONGEST, PADS, draw_trails, hops_to_end

SCENES = 4000


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), pads=st.integers(3, 14), data=st.data())
def test_a_trail_has_its_length_and_ends_of_other_trails_beside_it(seed, pads, data):
    lengths = np.array(data.draw(st.lists(st.integers(0, pads - 2), min_size=1, max_size=20)))
    trails = draw_trails(np.random.default_rng(seed), lengths, pads)
    scenes = np.arange(len(lengths))
    hops = hops_to_end(trails.following)  # raises where a trail goes in a circle
    np.testing.assert_array_equal(hops[scenes, trails.start], lengths)
    place = trails.start
    for k in range(pads):
        np.testing.assert_array_equal(trails.route[:, k], place)
        place = trails.following[scenes, place]
    np.testing.assert_array_equal(place, trails.end)
    ends = trails.ends()
    assert ends[scenes, trails.end].all()
    assert ((ends.sum(1) >= 2) & (ends.sum(1) <= 4)).all()
    led_to = np.stack([(trails.following == pad).sum(1) for pad in range(pads)], 1) - ends
    roomy = (ends.sum(1) - 1) * 2 + (lengths == 0) <= pads - 1 - lengths
    assert (led_to > 0)[ends & roomy[:, None]].all()  # no end is known by nobody leading to it


@pytest.mark.parametrize("length", range(LONGEST + 1))
def test_no_pad_is_the_start_or_the_end_more_often_than_another(length):
    """Chi-squared with 9 degrees of freedom: above 40 once in a hundred thousand. The seed is fixed."""
    trails = draw_trails(np.random.default_rng(7 + length), np.full(SCENES, length))
    for pads in (trails.start, trails.end):
        counts = np.bincount(pads, minlength=PADS)
        assert ((counts - SCENES / PADS) ** 2 / (SCENES / PADS)).sum() < 40.0


@pytest.mark.parametrize("length", range(6))
def test_who_looks_for_ends_only_guesses(length):
    """For trails that are trained: neither any end, nor the one that most pads lead to, nor one that any does, is the answer."""
    trails = draw_trails(np.random.default_rng(3), np.full(SCENES, length))
    scenes, ends = np.arange(SCENES), trails.ends()
    led_to = np.stack([(trails.following == pad).sum(1) for pad in range(PADS)], 1)
    noise = np.random.default_rng(4).random(ends.shape)
    for score in (noise, led_to + noise, (led_to > 1) + noise):
        guess = np.where(ends, score, -1.0).argmax(1)
        assert (guess == trails.end).mean() < 0.6
    assert (trails.following[scenes, trails.start] == trails.end).mean() == (length < 2)


@pytest.mark.parametrize("length", [-1, LONGEST + 1, 100])
def test_a_trail_that_the_pads_have_no_room_for_is_refused(length):
    with pytest.raises(SimulationError, match=f"0 to {LONGEST} .*got {length}.*shorter"):
        draw_trails(np.random.default_rng(0), np.array([length]))


def test_a_circle_is_found():
    with pytest.raises(SimulationError, match="circle"):
        hops_to_end(np.array([[1, 0, 2]]))
