"""The signals of a decision are what their names say, and nothing that is not finite stops them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdvla_ros.control.supervision.signals import PER_ARM, SIGNALS, LatentReference, Seen, SignalMeter, window_maximum

ARMS = {"left": slice(0, 2), "right": slice(2, 4)}
NAN = math.nan


def ramp(start, slope, rows=8):
    """(rows, 4): every joint goes on evenly."""
    return np.asarray(start, dtype=float) + np.outer(np.arange(1, rows + 1), np.broadcast_to(slope, 4))


def seen(stamp_s=0.0, chunk=None, horizon=6, change=(NAN, 1e-3, 1e-5), **more):
    return Seen(stamp_s, len(change), change, ramp(0.0, 0.1) if chunk is None else chunk, 0.1, horizon, **more)


def test_the_settling_of_a_decision():
    values = SignalMeter().add(seen(change=(NAN, 1e-3, 1e-5)))
    assert values["refinement_residual"] == pytest.approx(-5.0)
    assert values["iterations"] == 3 and values["residual_area"] == pytest.approx((12 - 3) + (12 - 5))
    assert math.isnan(SignalMeter().add(seen(change=(NAN,)))["refinement_residual"])


def test_a_chunk_that_goes_on_as_the_one_before_is_consistent():
    meter = SignalMeter(ARMS)
    first = meter.add(seen(0.0, ramp(0.0, 0.1)))
    same = meter.add(seen(0.6, ramp(0.6, 0.1)))
    assert math.isnan(first["chunk_inconsistency"]) and same["chunk_inconsistency"] == pytest.approx(-12.0)
    other = ramp(1.2, 0.1)
    other[:, :2] += 0.1
    values = meter.add(seen(1.2, other))
    assert values["chunk_inconsistency/left"] == pytest.approx(-2.0)
    assert values["chunk_inconsistency/right"] == pytest.approx(-12.0)
    assert values["chunk_inconsistency"] == pytest.approx(math.log10(0.01 / 2))


def test_chunks_without_an_overlap_have_no_inconsistency():
    meter = SignalMeter()
    meter.add(seen(0.0))
    assert math.isnan(meter.add(seen(0.8))["chunk_inconsistency"])


def test_reversals_are_counted_where_a_joint_moves_at_all():
    zigzag = ramp(0.0, 0.0)
    zigzag[::2, 2:] += 0.1
    values = SignalMeter(ARMS).add(seen(chunk=zigzag, horizon=8))
    assert values["direction_reversals/left"] == 0.0 and values["direction_reversals/right"] == 1.0
    assert values["direction_reversals"] == 1.0  # only joints that move count


def test_a_turn_between_two_chunks_is_a_reversal():
    meter = SignalMeter()
    assert meter.add(seen(0.0, ramp(0.0, 0.1)))["direction_reversals"] == 0.0
    assert meter.add(seen(0.6, ramp(0.6, -0.1)))["direction_reversals"] == pytest.approx(1 / 10)


def test_norm_is_measured_from_where_the_joints_are():
    values = SignalMeter(ARMS).add(seen(chunk=np.tile([0.0, 0.0, 3.0, 3.0], (8, 1)), measured=np.zeros(4)))
    assert values["chunk_norm/right"] == 3.0 and values["chunk_norm/left"] == 0.0


def test_the_distance_to_successful_latents_is_in_their_own_spread():
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(4000, 3)) * [1.0, 10.0, 0.1]
    reference = LatentReference.fit(latents, kept=1.0)
    assert np.median([reference.distance(x) for x in latents]) == pytest.approx(0.9, abs=0.1)
    assert reference.distance(np.array([0.0, 0.0, 1.0])) > 3.0 > reference.distance(np.array([0.0, 10.0, 0.0]))
    assert SignalMeter(reference=reference).add(seen(latent=np.zeros(3)))["latent_distance"] < 0.1


def test_a_stamp_that_goes_back_begins_anew():
    meter = SignalMeter()
    meter.add(seen(5.0))
    values = meter.add(seen(1.0))
    assert values["elapsed_time"] == 0.0 and math.isnan(values["chunk_inconsistency"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(), max_size=5), st.floats(), st.floats(), st.lists(st.floats(), min_size=8, max_size=8))
def test_nothing_raises_and_every_signal_is_there(change, stamp_s, step_s, column):
    meter = SignalMeter(ARMS)
    chunk = np.tile(np.array(column)[:, None], (1, 4))
    with np.errstate(all="ignore"):
        meter.add(seen(0.0))
        values = meter.add(Seen(stamp_s, len(change), change, chunk, step_s, 6))
    assert set(SIGNALS) <= set(values)
    if np.isfinite(chunk).all():
        assert {f"{name}/{arm}" for name in PER_ARM for arm in ARMS} <= set(values)


def test_the_window_keeps_the_largest_and_ignores_what_is_unknown():
    assert window_maximum([NAN, 1.0, 3.0, 2.0, NAN, 0.0], 3).tolist() == [-math.inf, 1.0, 3.0, 3.0, 3.0, 2.0]
    assert window_maximum([], 3).size == 0
