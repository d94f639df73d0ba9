"""Execution horizons: the published table, the paper's formulas, and bounds that hold for every rule."""

import numpy as np
import pytest

from rdvla_ros.control.motion.horizon import RULES, HorizonError, RunningBuckets, make_horizon

EVERY = [{"rule": name} for name in RULES]


@pytest.mark.parametrize("settings", EVERY, ids=lambda s: s["rule"])
def test_every_rule_stays_within_the_chunk(settings):
    generator = np.random.default_rng(0)
    rule = make_horizon(settings)
    for _ in range(200):
        length = int(generator.integers(1, 12))
        change = 10.0 ** generator.uniform(-8, 0, length)
        assert 1 <= rule.steps(int(generator.integers(1, 40)), length, change) <= length


@pytest.mark.parametrize(
    "settings", [s for s in EVERY if s["rule"] not in ("running_buckets", "settled_prefix")], ids=lambda s: s["rule"]
)
def test_more_iterations_never_lengthen_the_horizon(settings):
    rule = make_horizon(settings)
    steps = [rule.steps(r, 8) for r in range(1, 33)]
    assert steps == sorted(steps, reverse=True)


def test_published_table():
    rule = make_horizon({"rule": "published_decay"})
    assert [rule.steps(r, 8) for r in range(1, 16)] == [8] * 6 + [7, 7] + [6, 5, 4, 3, 2, 2, 2]


def test_linear_decay_is_the_papers_formula():
    rule = make_horizon({"rule": "linear_decay", "longest": 10, "shortest": 3, "full_until": 4})
    assert [rule.steps(r, 16) for r in range(1, 16)] == [max(3, 10 - max(0, r - 4)) for r in range(1, 16)]


def test_binary_executes_less_when_the_core_needed_more():
    rule = make_horizon({"rule": "binary", "longest": 7, "shortest": 3, "threshold": 5})
    assert [rule.steps(r, 8) for r in (1, 5, 6, 32)] == [7, 7, 3, 3]


def test_running_buckets_follow_mean_and_deviation():
    rule = RunningBuckets(warm_up=2)
    rule.steps(4, 8), rule.steps(12, 8)  # mean 8, deviation 4
    for iterations, length in ((4, 8), (8, 6), (12, 4), (13, 2)):
        fresh = RunningBuckets(warm_up=2)
        fresh.steps(4, 8), fresh.steps(12, 8)
        assert fresh.steps(iterations, 8) == length
    with pytest.raises(HorizonError):
        rule.steps(0, 8)
    assert list(rule._seen) == [4, 12]  # a refused question leaves no trace
    rule.reset()
    assert rule.steps(100, 8) == 6  # nothing known: the longest but one


def test_settled_prefix_ends_at_the_first_moving_step():
    rule = make_horizon({"rule": "settled_prefix", "threshold": 1e-3, "shortest": 2})
    still, moving = 1e-4, 1e-2
    assert rule.steps(9, 8, np.array([still] * 5 + [moving] + [still] * 2)) == 5
    assert rule.steps(9, 8, np.full(8, still)) == 8
    assert rule.steps(9, 8, np.array([moving] + [still] * 7)) == 2
    assert rule.steps(9, 8, np.array([still] * 3 + [np.nan] * 5)) == 3
    assert rule.steps(9, 8, None) == 2


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"rule": "linear-decay"}, "Did you mean 'linear_decay'"),
        ({}, "Known: fixed, binary"),
        ({"rule": "binary", "tresh": 3}, "unknown key 'tresh'"),
        ({"rule": "fixed", "length": 0}, "at least 1, got 0"),
        ({"rule": "fixed", "length": 2.5}, "whole number"),
        ({"rule": "linear_decay", "shortest": 9}, "at most longest (8), got 9"),
        ({"rule": "binary", "longest": 4, "shortest": 8}, "at most longest (4), got 8"),  # the published code's sign
        ({"rule": "running_buckets", "lengths": [2, 4]}, "from long to short"),
        ({"rule": "settled_prefix", "threshold": float("nan")}, "above 0"),
    ],
)
def test_refused_settings_say_what_exists(settings, words):
    with pytest.raises(HorizonError) as error:
        make_horizon(settings)
    assert words in str(error.value)


def test_settled_prefix_refuses_changes_of_another_chunk():
    with pytest.raises(HorizonError, match="expected 8 numbers"):
        make_horizon({"rule": "settled_prefix"}).steps(3, 8, np.zeros(5))
