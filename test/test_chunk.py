"""When a decision begins and what a chunk joins: laws on a clock that the test holds."""

from itertools import pairwise

import numpy as np
import pytest

from rdvla_ros.control.motion.limits import JointLimits
from rdvla_ros.control.motion.schedule import Latency, Present, Schedule, rows_left
from rdvla_ros.control.motion.trajectory import Reference, plan
from rdvla_ros.robot import Joint

JOINTS = tuple(Joint(f"joint_{i}", -3.0, 3.0, 2.0, 10.0, 500.0) for i in range(4))
LIMITS = JointLimits.of_joints(JOINTS)
STEP_S, LEAD_S, STOP_S, ROWS = 0.1, 0.04, 0.5, 8


def present(position=(0.0,) * 4, at_s=0.0, commanded=True, velocity=(0.0,) * 4):
    return Present(np.array(position, float), np.array(velocity, float), np.full(4, 0.1), at_s, commanded)


def wave(at_s):
    """(4,) a smooth motion inside the limits."""
    return 0.3 * np.sin(0.8 * at_s + np.arange(4))


def chunk_at(observed_s):
    return np.stack([wave(observed_s + (i + 1) * STEP_S) for i in range(ROWS)])


def schedule(latency_s=0.15):
    return Schedule(Latency(latency_s), lead_s=LEAD_S, observation_period_s=0.1)


def test_the_latency_is_a_high_quantile_of_the_recent_ones():
    latency = Latency(0.3, window=20)
    assert latency.estimate_s == 0.3
    for value in [0.1] * 18 + [0.2, 0.5]:
        latency.add(value)
    assert latency.estimate_s == 0.5
    for _ in range(20):
        latency.add(0.1)
    assert latency.estimate_s == 0.1


def test_rows_left_agrees_with_the_plan():
    for elapsed_s in np.arange(0.0, 0.7, 0.013):
        left = rows_left(ROWS, STEP_S, elapsed_s, LEAD_S)
        motion = plan(
            np.zeros((ROWS, 4)),
            step_s=STEP_S,
            elapsed_s=elapsed_s,
            horizon=ROWS,
            start=Reference.at_rest(np.zeros(4)),
            limits=LIMITS,
            lead_s=LEAD_S,
        )
        last_due_s = ROWS * STEP_S - elapsed_s
        assert left == sum((i + 1) * STEP_S - elapsed_s >= LEAD_S + STEP_S / 2 for i in range(ROWS))
        assert motion.duration_s == pytest.approx(last_due_s + STOP_S, abs=1e-5)


def test_without_anything_sent_a_decision_is_due_and_starts_from_the_present():
    plans = schedule()
    assert plans.due(0.0) and plans.resting(0.0)
    assert np.array_equal(plans.reference(5.0, present(np.full(4, 0.2), at_s=5.0)).position, np.full(4, 0.2))


def simulate(latencies_s, horizon=ROWS, camera_s=0.1, duration_s=12.0):
    """A policy with the given latencies, observations every camera_s. Returns the sent motions as (base_s, trajectory)
    and the times at which decisions began."""
    plans, sent, begun = schedule(max(latencies_s)), [], []
    at_rest, clock_s, count = present(wave(0.0)), 0.0, 0
    free_from_s = 0.0
    while clock_s < duration_s:
        if clock_s >= free_from_s and plans.due(clock_s):
            latency_s = latencies_s[count % len(latencies_s)]
            count += 1
            begun.append(clock_s)
            base_s = clock_s + latency_s
            motion = plan(
                chunk_at(clock_s), step_s=STEP_S, elapsed_s=latency_s, horizon=horizon, limits=LIMITS, lead_s=LEAD_S,
                start=plans.reference(base_s + LEAD_S, at_rest), now=plans.reference(base_s, at_rest),
            )  # fmt: skip
            plans.sent(motion, base_s, STOP_S)
            plans.latency.add(latency_s)
            sent.append((base_s, motion))
            free_from_s = base_s
        clock_s += camera_s
    return sent, begun


@pytest.mark.parametrize("latency_s", [0.05, 0.2, 0.3])
def test_the_next_motion_takes_over_before_the_executed_rows_end(latency_s):
    sent, _ = simulate([latency_s])
    assert len(sent) > 8
    for (base_s, motion), (next_base_s, _) in pairwise(sent):
        assert next_base_s + LEAD_S <= base_s + motion.duration_s - STOP_S + 1e-9


@pytest.mark.parametrize("latency_s", [0.05, 0.2, 0.3])
def test_the_seam_is_continuous_and_never_a_stop(latency_s):
    sent, _ = simulate([latency_s])
    for (old_s, old), (new_s, new) in pairwise(sent):
        switch_s = new_s + LEAD_S
        before, after = old.at(switch_s - old_s), new.at(LEAD_S)
        assert np.allclose(before.position, after.position, atol=1e-9) and np.allclose(before.velocity, after.velocity, atol=1e-9)
        around_s = np.arange(switch_s - 0.1, switch_s + 0.15, 0.005)
        speed = [
            np.linalg.norm((old if t < switch_s else new).at(t - (old_s if t < switch_s else new_s)).velocity) for t in around_s
        ]
        uninterrupted = [np.linalg.norm(0.3 * 0.8 * np.cos(0.8 * t + np.arange(4))) for t in around_s]
        assert (np.array(speed) > 0.5 * np.array(uninterrupted)).all()


def test_a_decision_does_not_begin_earlier_than_it_must():
    """With a fast decision, most of the chunk is executed before the next one begins."""
    _, begun = simulate([0.05])
    assert np.diff(begun).min() >= 0.5 - 1e-9


def test_a_slow_decision_among_fast_ones_makes_the_next_ones_begin_earlier():
    plans = schedule(0.05)
    motion = plan(
        chunk_at(0.0),
        step_s=STEP_S,
        elapsed_s=0.05,
        horizon=ROWS,
        start=Reference.at_rest(wave(0.0)),
        limits=LIMITS,
        lead_s=LEAD_S,
    )
    plans.sent(motion, 0.05, STOP_S)
    first = next(t for t in np.arange(0.05, 2, 0.01) if plans.due(t))
    plans.latency.add(0.3)
    assert next(t for t in np.arange(0.05, 2, 0.01) if plans.due(t)) == pytest.approx(first - 0.25, abs=0.011)


def test_cameras_slower_than_described_make_decisions_begin_earlier():
    plans = schedule()
    assert plans.observation_period_s == 0.1
    for i in range(6):
        plans.observed(0.05 * i)
    assert plans.observation_period_s == 0.1, "faster ones change nothing"
    for i in range(8):
        plans.observed(1.0 + 0.25 * i)
    assert plans.observation_period_s == pytest.approx(0.25)
    plans.observed(0.0)
    assert plans.observation_period_s == 0.1, "a clock that jumped back begins anew"


def sent_once(plans, base_s=0.0):
    motion = plan(
        chunk_at(0.0), step_s=STEP_S, elapsed_s=0.0, horizon=4, start=Reference.at_rest(wave(0.0)), limits=LIMITS, lead_s=LEAD_S
    )
    plans.sent(motion, base_s, STOP_S)
    return motion


def test_a_refused_motion_does_not_count_and_the_one_before_does():
    plans = schedule()
    first = sent_once(plans)
    sent_once(plans, base_s=0.3)
    plans.refused()
    assert np.array_equal(plans.reference(0.35, present()).position, first.at(0.35).position)
    plans.refused()
    assert plans.due(0.36) and np.array_equal(plans.reference(0.36, present(np.ones(4), 0.36)).position, np.ones(4))


def test_after_a_hold_only_the_present_counts():
    plans = schedule()
    sent_once(plans)
    plans.forget()
    moved = present(np.full(4, 0.5), at_s=0.3, velocity=np.full(4, 0.1))
    reference = plans.reference(0.35, moved)
    assert reference.position == pytest.approx(np.full(4, 0.505)) and reference.velocity == pytest.approx(np.full(4, 0.1))


def test_a_controller_that_commands_something_else_is_believed():
    plans = schedule()
    motion = sent_once(plans)
    follows = motion.at(0.3).position
    assert np.array_equal(plans.reference(0.34, present(follows + 0.05, 0.3)).position, motion.at(0.34).position), (
        "within the tolerance"
    )
    assert plans.reference(0.34, present(follows + 0.2, 0.3)).position == pytest.approx(follows + 0.2)


def test_measured_joints_may_lag_while_moving_but_not_stay_behind_for_ever():
    plans = schedule()
    motion = sent_once(plans)
    for now_s in (0.3, 0.45, 0.6):
        lagging = present(motion.at(now_s - 0.2).position, now_s, commanded=False)
        assert plans.reference(now_s + 0.04, lagging).position == pytest.approx(motion.at(now_s + 0.04).position)
    elsewhere = present(motion.at(0.4).position + 0.2, 0.4, commanded=False)
    assert plans.reference(0.44, elsewhere).position == pytest.approx(elsewhere.position)
    end_s = motion.duration_s + 0.4
    sagging = present(motion.at(end_s).position - 0.05, end_s, commanded=False)
    assert np.array_equal(plans.reference(end_s, sagging).position, motion.positions[-1]), "a little sag is no jump back"
    by_hand = present(motion.at(end_s).position - 0.5, end_s, commanded=False)
    assert plans.reference(end_s, by_hand).position == pytest.approx(by_hand.position)
