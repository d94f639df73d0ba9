"""The uncertainty says how much work a plan was, and never looks calm when the numbers are not to be trusted."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdvla_ros.control.supervision.uncertainty import Settling, Threshold, UncertaintyMonitor, distrusted, score
from rdvla_ros.types import RdvlaError, StopReason

NAN, INF = math.nan, math.inf


def decision(change, *, limit=32, threshold=1e-3, stop=None, sequence=1):
    """A decision with the given trace; converged when the last change is below the threshold."""
    converged = bool(change) and change[-1] < threshold
    if stop is None:
        stop = StopReason.CONVERGED if converged else StopReason.ITERATION_LIMIT
    return Settling(sequence, len(change), limit, stop, converged and stop is StopReason.CONVERGED, threshold, tuple(change))


def shrinking(iterations, factor=0.5, first=0.1):
    """A trace that halves: not a number at iteration 1, as published."""
    return [NAN] + [first * factor**k for k in range(iterations - 1)]


def judged(settling):
    return score(settling, default_threshold=1e-3)


def test_settled_at_once_is_0_and_the_threshold_at_the_limit_is_1():
    assert judged(decision([NAN, 1e-4])) == 0.0
    at_limit = [NAN, *[0.1] * 30, 0.99e-3]
    assert judged(decision(at_limit)) == pytest.approx(1.0)
    assert judged(replace(decision([NAN, 0.1, 1e-3], limit=3), converged=False)) == pytest.approx(1.0)


def test_each_missing_decade_adds_1():
    trace = [NAN, 0.5, 0.1]
    assert judged(decision(trace, limit=3)) == pytest.approx(1.0 + 2.0)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 31))
def test_more_iterations_score_higher(iterations):
    few, more = (decision([NAN, *[0.1] * (n - 2), 5e-4]) for n in (iterations, iterations + 1))
    assert 0.0 <= judged(few) < judged(more) <= 1.0


def test_a_fixed_depth_is_judged_by_where_it_would_have_stopped():
    fixed = decision(shrinking(12), stop=StopReason.FIXED_DEPTH, threshold=NAN, limit=12)
    first_below = next(k for k, c in enumerate(shrinking(12), start=1) if c < 1e-3)
    assert judged(fixed) == pytest.approx((first_below - 2) / 10)
    assert judged(decision([NAN, 0.5, 0.4, 0.1], stop=StopReason.FIXED_DEPTH, threshold=NAN, limit=4)) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("settling", "word"),
    [
        (decision([NAN, 0.1, INF]), "finite"),
        (decision([NAN, 0.1], stop=StopReason.NON_FINITE), "finite"),
        (decision([NAN]), "No change"),
        (decision([]), "No change"),
        (decision([NAN, 0.0]), "does not respond"),
        (decision([NAN, 0.0, 0.0, 0.0]), "does not respond"),
        (decision([NAN, 0.2, 0.2, 0.2]), "repeats"),
        (decision([NAN, -0.1, 1e-4]), "negative"),
    ],
)
def test_numbers_that_cannot_be_trusted_are_infinitely_uncertain(settling, word):
    assert word in distrusted(settling) and judged(settling) == INF
    assessment = UncertaintyMonitor().add(settling)
    assert assessment.alarm and assessment.score == INF and word in assessment.reason


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(), max_size=8), st.floats(), st.integers(0, 40), st.sampled_from(list(StopReason)), st.booleans())
def test_no_input_crashes_or_gives_a_score_that_is_not_a_number(change, threshold, limit, stop, converged):
    value = judged(Settling(1, len(change), limit, stop, converged, threshold, tuple(change)))
    assert value >= 0.0


def test_the_alarm_judges_the_largest_score_of_the_window():
    monitor = UncertaintyMonitor(window=3, threshold=Threshold(0.5))
    calm, hard = shrinking(9), [NAN, *[0.1] * 25, 5e-4]
    scores = []
    for sequence, change in enumerate([calm, hard, calm, calm, calm], start=1):
        trace = [c * (1 + 1e-6 * sequence) for c in change]
        scores.append(monitor.add(decision(trace, sequence=sequence)))
    assert [a.alarm for a in scores] == [False, True, True, True, False]
    assert [a.window for a in scores] == [1, 2, 3, 3, 3]
    assert "do not settle" in scores[1].reason and not scores[4].reason


def test_without_a_threshold_there_is_no_alarm_and_nothing_is_calibrated():
    assessment = UncertaintyMonitor().add(decision([NAN, 0.5, 0.5001], limit=3))
    assert not assessment.alarm and assessment.threshold.value == INF and not assessment.threshold.calibrated


def test_the_same_trace_again_and_again_is_a_dead_input():
    monitor = UncertaintyMonitor(repeats=4)
    results = [monitor.add(decision(shrinking(9), sequence=i)) for i in range(1, 5)]
    assert [math.isinf(a.score) for a in results] == [False, False, False, True]
    assert "same numbers" in results[-1].reason and results[-1].alarm


def test_a_new_activation_begins_a_new_window():
    monitor = UncertaintyMonitor(threshold=Threshold(0.5))
    monitor.add(decision([NAN, *[0.1] * 25, 5e-4], sequence=7))
    assessment = monitor.add(decision(shrinking(9), sequence=1))
    assert assessment.window == 1 and not assessment.alarm


@pytest.mark.parametrize("value", [0.0, -1.0, NAN])
def test_a_threshold_that_is_no_number_above_0_is_refused(value):
    with pytest.raises(RdvlaError, match="Alarm threshold"):
        Threshold(value)
