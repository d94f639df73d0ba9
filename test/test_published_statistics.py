"""The KL rule's sigma from a published folder's data statistics."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rdvla_ros.model.halting import make_halting
from rdvla_ros.model.normalization import MINIMUM_STD
from rdvla_ros.model.published_statistics import FILE, load_action_std
from rdvla_ros.types import CheckpointError

ACTION = {
    "q01": [-1.0, 0.0, 0.0, 2.0],
    "q99": [1.0, 4.0, 1.0, 2.0],
    "min": [-2.0, 0.0, 0.0, 2.0],
    "max": [2.0, 8.0, 1.0, 2.0],
    "std": [0.5, 1.0, 0.4, 0.0],
    "mean": [0.0] * 4,
    "mask": [True, True, False, True],
}


def write(folder, action=ACTION, name="libero", **others):
    (folder / FILE).write_text(json.dumps({name: {"action": action}, **others}))
    return folder


def test_the_spread_is_in_the_heads_units_and_the_gripper_is_not_scaled(tmp_path):
    np.testing.assert_allclose(load_action_std(write(tmp_path)), [0.5, 0.5, 0.4, MINIMUM_STD])
    np.testing.assert_allclose(load_action_std(tmp_path, bounds="min_max"), [0.25, 0.25, 0.4, MINIMUM_STD])
    rule = make_halting({"rule": "action_kl", "threshold": 1e-3}, action_std=load_action_std(tmp_path))
    assert rule.sigma == pytest.approx((0.5, 0.5, 0.4, MINIMUM_STD))


def test_scaled_samples_have_that_spread(tmp_path):
    """By the published scaling itself: a = 2 (x - low) / (high - low + 1e-8) - 1."""
    samples = np.random.default_rng(0).normal([0.2, -3.0], [0.1, 5.0], (2000, 2))
    low, high = np.quantile(samples, [0.01, 0.99], axis=0)
    statistics = {"q01": low.tolist(), "q99": high.tolist(), "std": samples.std(axis=0).tolist()}  # without a mask: all scaled
    scaled = 2 * (samples - low) / (high - low + 1e-8) - 1
    np.testing.assert_allclose(load_action_std(write(tmp_path, statistics)), scaled.std(axis=0), rtol=1e-6)


def test_several_data_sets_want_one_named(tmp_path):
    write(tmp_path, spatial={"action": ACTION})
    with pytest.raises(CheckpointError, match="found libero, spatial; name one with dataset="):
        load_action_std(tmp_path)
    with pytest.raises(CheckpointError, match="Did you mean 'spatial'"):
        load_action_std(tmp_path, dataset="spatia")
    assert len(load_action_std(tmp_path, dataset="spatial")) == 4


@pytest.mark.parametrize(
    "change, words",
    [
        ({"std": [0.1, 0.2]}, "one number per action dimension"),
        ({"std": [0.1, 0.2, float("nan"), 0.1]}, "finite numbers"),
        ({"std": [0.1, 0.2, -1.0, 0.1]}, "std at least 0"),
        ({"q99": [-3.0, 4.0, 1.0, 2.0]}, "q01 at most q99"),
        ({"std": "wide"}, "lists of numbers"),
        ({"mask": [True]}, "one number per action dimension"),
    ],
)
def test_statistics_of_nothing_are_refused(tmp_path, change, words):
    with pytest.raises(CheckpointError, match=words):
        load_action_std(write(tmp_path, {**ACTION, **change}))


def test_files_that_are_something_else_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="found none"):
        load_action_std(tmp_path)
    for content, words in (
        ("{", "expected JSON"),
        ("[]", "found list"),
        ('{"a": {}}', "found NoneType"),
        ('{"a": {"action": {"q01": []}}}', "with q01, q99, std, found q01"),
    ):
        (tmp_path / FILE).write_text(content)
        with pytest.raises(CheckpointError, match=words):
            load_action_std(tmp_path)
    with pytest.raises(CheckpointError, match="Known: q01_q99"):
        load_action_std(tmp_path, bounds="quantiles")
