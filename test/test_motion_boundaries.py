"""Inference never stops the arms: what the controllers put out around chunk boundaries, with slow decisions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rdvla_ros.bench.motion.policy_loop import Loop, LoopOptions
from rdvla_ros.bench.motion.seams import measures
from rdvla_ros.control.motion.schedule import Schedule
from rdvla_ros.control.motion.seam import make_seam
from rdvla_ros.robot import RobotDescription

ROBOT = RobotDescription.load(Path(__file__).parent.parent / "config" / "aloha_sim.yaml")
LATENCIES_S = (0.05, 0.2, 0.4)
BOUNDARIES = 100


def run(options, method="cut_and_blend", boundaries=BOUNDARIES):
    loop = Loop(ROBOT, make_seam({"method": method}), options)
    return loop, loop.run(boundaries)


@pytest.mark.parametrize(
    ("rule", "rate_hz"), [(rule, hz) for rule in ("humble", "jazzy") for hz in (100.0, 250.0, 500.0, 1000.0)]
)
@pytest.mark.parametrize("inference_s", LATENCIES_S)
def test_at_100_boundaries_the_arms_keep_their_speed_and_never_go_back(inference_s, rule, rate_hz):
    """Chunks of 0.8 s whose decisions disagree by up to some hundredths of a radian."""
    loop, done = run(LoopOptions(inference_s, rows=8, rule=rule, rate_hz=rate_hz))
    found = measures(done, loop.limits)
    assert len(done.boundaries_s) >= BOUNDARIES and done.refused == done.refused_by_gate == 0
    assert found["least_speed_share"] >= 0.5
    assert (np.einsum("tj,tj->t", done.samples.velocity, done.ideal.velocity) > 0.0).all(), "backwards along the path"
    assert max(done.samples.shares(loop.limits).values()) <= 1.0 + 1e-6


@pytest.mark.parametrize("inference_s", LATENCIES_S)
def test_decisions_that_agree_leave_no_trace_of_their_boundaries(inference_s):
    """Chunks of 1.6 s of one plan: no joint goes back anywhere, and the speed hardly differs from the uninterrupted plan's."""
    loop, done = run(LoopOptions(inference_s, disagreement_s=0.0), boundaries=30)
    ideal = done.ideal.velocity
    moving = np.abs(ideal) > 0.15 * np.abs(ideal).max(axis=0)
    assert (done.samples.velocity * ideal > 0.0)[moving].all()
    assert measures(done, loop.limits)["least_speed_share"] >= 0.95
    assert np.abs(done.samples.position - done.ideal.position).max() < 0.005


@pytest.mark.parametrize("method", ["cut_and_blend", "offset_fading"])
def test_both_methods_keep_the_arms_moving(method):
    loop, done = run(LoopOptions(0.2, rows=8), method, boundaries=30)
    assert measures(done, loop.limits)["least_speed_share"] >= 0.7


def test_deciding_only_when_the_chunk_is_over_would_be_noticed(monkeypatch):
    monkeypatch.setattr(Schedule, "due", lambda self, now_s: self.resting(now_s))
    loop, done = run(LoopOptions(0.2, rows=8), boundaries=5)
    assert measures(done, loop.limits)["least_speed_share"] < 0.1


def test_the_next_decision_begins_while_the_last_chunk_is_executed():
    _, done = run(replace(LoopOptions(0.2), disagreement_s=0.0), boundaries=10)
    assert np.diff(done.boundaries_s).max() < 1.6 - 0.2, "before the rows of a chunk of 1.6 s end"
