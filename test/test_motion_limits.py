"""What goes on the wire keeps every limit, on controllers of every rule and rate: random chunks, seams, holds and stops."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rdvla_ros.bench.motion import limits as bench
from rdvla_ros.bench.motion import random_chunks
from rdvla_ros.bench.motion.random_chunks import Stream, Tally, run
from rdvla_ros.control.motion.followed import MOVED_S, Present
from rdvla_ros.control.motion.limits import JointLimits
from rdvla_ros.control.motion.playback import Playback
from rdvla_ros.control.motion.trajectory import PlanOptions, Reference, Trajectory, plan
from rdvla_ros.control.supervision.delivery import Delivery
from rdvla_ros.robot import RobotDescription
from rdvla_ros.sim.controller import JointTrajectoryController, Points
from rdvla_ros.types import TrajectoryError

ROBOT = RobotDescription.load(Path(__file__).parent.parent / "config" / "aloha_sim.yaml")
LIMITS = JointLimits.of_robot(ROBOT)
MIDDLE = (LIMITS.lower + LIMITS.upper) / 2
ARM = np.array([name not in ROBOT.gripper_joints for name in ROBOT.joint_names])


def test_ten_thousand_random_cases_exceed_no_limit(tmp_path):
    """Chunks and holds, on controllers of Humble and of Jazzy, updated at 100, 250, 500 and 1000 Hz."""
    out = tmp_path / "limits.json"
    assert bench.main(["--cases", "10000", "--processes", "2", "--out", str(out)]) == 0
    tally = json.loads(out.read_text())["tally"]
    assert tally["violations"] == [] and tally["chunks"] + tally["holds"] >= 9900
    followed = tally["chunks"] - tally["refused"] - tally["refused_by_gate"] - tally["late"] - tally["waited"]
    assert followed > 0.6 * tally["chunks"] and tally["holds"] > 300, "refusing everything would exceed no limit either"
    assert tally["refused"] > 100, "some of them cannot be made legal"
    assert tally["refused_by_gate"] == 0, "what the policy plans the gate passes"
    assert 0 < tally["late"] < 0.06 * tally["chunks"], "unless it comes when it should have begun"
    assert all(0.9 < share <= 1.0 for share in tally["largest"].values()), "the limits are used, so they are tested"


def test_a_hold_while_a_joint_turns_at_the_end_of_its_range_leaves_it_inside():
    """Case 39,300 of the million: a gripper that slowed down just in time had first to lose that acceleration to come to rest,
    and did so 0.08 mm beyond its range."""
    assert run(ROBOT, 1965, 20).violations == []


def test_a_seam_that_looks_at_nothing_is_found_out():
    """The measure itself: rows as they are, past the gate, go beyond the acceleration and the jerk."""
    rows = MIDDLE + 0.1 * LIMITS.velocity * ARM * np.array([[1.0], [1.5], [3.0], [3.0]])
    arms = Playback(MIDDLE)
    arms.accept(Trajectory(LIMITS.names, 0.1 * (np.arange(4) + 1), rows, np.zeros_like(rows)), 0.0)
    shares = arms.advance(1.0).shares(LIMITS)
    assert shares["position"] <= 1.0 < min(shares["velocity"], shares["acceleration"], shares["jerk"])


def test_a_step_of_the_acceleration_at_a_seam_counts_as_jerk():
    """Two cubics that each keep the limits, joined a little off."""
    first = plan(MIDDLE + 0.02 * ARM * (np.arange(8) + 1)[:, None], start=Reference.at_rest(MIDDLE), **how())
    arms = Playback(MIDDLE)
    arms.accept(first, 0.0)
    before = arms.advance(0.3)
    assert before.shares(LIMITS)["jerk"] <= 1.0
    late = first.at(0.35)
    arms.accept(replace(first, times_s=np.array([0.05, 0.6]), positions=np.stack([late.position + 0.002 * ARM, late.position]),
                        velocities=np.stack([late.velocity, 0 * late.velocity])), 0.3)  # fmt: skip
    assert type(before).joined([before, arms.advance(0.34)]).shares(LIMITS)["jerk"] > 1.0


@pytest.mark.parametrize("rate_hz", [100.0, 250.0, 500.0, 1000.0])
@pytest.mark.parametrize("rule", ["humble", "jazzy"])
def test_a_boundary_without_the_running_motion_before_it_is_found_out(rule, rate_hz):
    """What was sent until now, first point ahead; the same motion that repeats itself from 40 ms before is no seam at all."""
    first = plan(MIDDLE + 0.05 * ARM * (np.arange(8) + 1)[:, None], start=Reference.at_rest(MIDDLE), **how())
    for at_s in (0.31, 0.36, 0.4):
        for sent_s, legal in ((at_s - 0.04, True), (at_s + 0.02, False)):
            arms = Playback(MIDDLE, rule=rule, rate_hz=rate_hz)
            arms.accept(first, 0.0)
            parts = [arms.advance(at_s)]
            knots_s = np.array([sent_s, *first.times_s[first.times_s > sent_s + 0.001]])
            states = [first.at(knot_s) for knot_s in knots_s]
            same = (np.stack([getattr(state, field) for state in states]) for field in ("position", "velocity"))
            arms.accept(Trajectory(LIMITS.names, knots_s - sent_s, *same), sent_s)
            parts.append(arms.advance(1.5))
            shares = type(parts[0]).joined(parts).shares(LIMITS)
            assert (max(shares.values()) <= 1.0) == legal, shares


def how(**changes):
    return {"step_s": 0.1, "elapsed_s": 0.0, "horizon": 8, "limits": LIMITS, "options": PlanOptions(), **changes}


def test_a_case_depends_on_its_seed_only():
    assert run(ROBOT, 5, 6) == run(ROBOT, 5, 6) != run(ROBOT, 6, 6)


def test_a_stopped_run_is_continued_where_it_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "PER_JOB", 1)
    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    bench.main(["--cases", "60", "--processes", "1", "--out", str(whole)])
    bench.main(["--cases", "40", "--processes", "1", "--out", str(parts)])
    bench.main(["--cases", "60", "--processes", "1", "--resume", "--out", str(parts)])
    assert json.loads(whole.read_text())["tally"] == json.loads(parts.read_text())["tally"]


@pytest.mark.parametrize("rule", ["humble", "jazzy"])
def test_the_playback_of_the_bench_is_what_the_simulated_controllers_put_out(rule):
    rng = np.random.default_rng(1)
    for _ in range(20):
        fast = Playback(MIDDLE, rule=rule)
        slow = JointTrajectoryController(LIMITS.names, MIDDLE, rule=rule, update_rate_hz=1000.0)
        slow.update(0.0)  # it has begun before the first message comes
        last, put_out, expected, tick = MIDDLE, [], [], 0
        fast.advance(0.001)
        for arrival in np.cumsum(rng.integers(5, 400, 6)):
            put_out.append(fast.advance(0.001 * arrival).position)
            for k in range(tick + 1, arrival):
                slow.update(0.001 * k)
                expected.append(slow.command.position)
            tick = arrival - 1
            times_s = np.cumsum(np.round(rng.uniform(0.02, 0.2, 4), 6))
            positions = last + 0.1 * rng.standard_normal((4, 14))
            velocities = rng.standard_normal((4, 14)) * np.array([1, 1, 1, 0])[:, None]
            base_s = round(0.001 * arrival + rng.uniform(-0.03, 0.03), 6)
            fast.accept(Trajectory(LIMITS.names, times_s, positions, velocities), base_s)
            assert slow.accept(Points(LIMITS.names, base_s, times_s, positions, velocities), 0.001 * arrival)
            last = positions[-1]
        np.testing.assert_allclose(np.concatenate(put_out), np.stack(expected), atol=1e-9)


def test_a_chunk_that_cannot_be_made_legal_leaves_the_running_motion_alone():
    wild = MIDDLE + np.random.default_rng(0).choice([-0.5, 0.5], (8, 1)) * ARM
    with pytest.raises(TrajectoryError):
        plan(wild, start=Reference.at_rest(wild[0]), **how(options=PlanOptions(longest_stretch=1.5)))
    stream = Stream(ROBOT, 0, seam=Refusing())
    for _ in range(10):
        stream.chunk()
    tally = stream.finish()
    assert tally.refused == tally.chunks and tally.largest["velocity"] == 0.0


class Refusing:
    def plan(self, targets, **how):
        raise TrajectoryError("no.")


def test_time_is_stretched_before_anything_is_clipped():
    """Rows twice as fast as the joints may move: all are reached, in at least twice the time, and no joint leaves the path."""
    speed = 0.9 * LIMITS.velocity * ARM
    rows = MIDDLE + 2.0 * speed * 0.05 * (np.arange(4) + 1)[:, None]
    start = Reference(MIDDLE, speed, np.zeros_like(speed))
    motion = plan(rows, start=start, **how(step_s=0.05, options=PlanOptions(may_lag=ROBOT.gripper_joints)))
    gone = (motion.sample(np.linspace(motion.times_s[0], motion.duration_s, 200))[0] - MIDDLE)[:, ARM] / (rows[-1] - MIDDLE)[ARM]
    assert motion.duration_s - PlanOptions().stop_s > 0.37
    np.testing.assert_allclose(gone, gone[:, :1].repeat(ARM.sum(), axis=1), atol=0.02)
    assert gone.max() > 0.98


def test_after_a_hold_nothing_is_joined_until_the_arms_rest():
    """A report says position and velocity, and no acceleration."""
    tolerance = MOVED_S * LIMITS.velocity
    assert not Present(MIDDLE, 0 * MIDDLE, tolerance, 0.0, commanded=True).moving
    assert Present(MIDDLE, 1e-3 * LIMITS.velocity, tolerance, 0.0, commanded=True).moving


# -- a slow way from the gate to the controllers

SLOW = {"seeds": range(60_000, 60_006), "slow_s": 0.045}


def slow_way():
    """Decisions and holds whose messages take 45 to 50 ms from the gate to the controllers."""
    tally = Tally()
    for seed in SLOW["seeds"]:
        stream = Stream(ROBOT, seed, slow_s=SLOW["slow_s"])
        for _ in range(20):
            stream.chunk()
        tally.add(stream.finish())
    return tally


@pytest.mark.parametrize("rate_hz", [100.0, 250.0, 500.0, 1000.0])
def test_a_slow_way_to_the_controllers_exceeds_no_limit(rate_hz, monkeypatch):
    """At holds, boundaries and resumes; and without what the controllers' reports say of that way it would."""
    monkeypatch.setattr(random_chunks, "RATES_HZ", (rate_hz,))
    tally = slow_way()
    assert tally.violations == [] and tally.holds >= 3 and tally.followed > 0.5 * tally.chunks
    monkeypatch.setattr(Delivery, "longest_s", property(lambda self: 0.005 + 1.0 / rate_hz))
    assert {"jerk"} <= {violation["what"] for violation in slow_way().violations}


def test_the_way_to_the_controllers_is_read_from_their_reports():
    way = Delivery(0.005, 0.01)
    assert way.longest_s == pytest.approx(0.015), "of a controller that says nothing"
    way.sent("left", 99.9, 99.94)
    way.reported("left", 100.02, 0.12)  # the first of all: which was the first to follow it is not known
    assert way.longest_s == pytest.approx(0.015)
    way.sent("left", 100.0, 100.04)
    way.reported("left", 100.05, 7.0)  # it still follows what came before
    way.reported("left", 100.07, 0.07)
    assert way.longest_s == pytest.approx(0.035)
    way.reported("left", 100.12, 0.12)  # once for each message
    assert way.longest_s == pytest.approx(0.035)
    way.sent("left", 101.0, 101.04)
    way.reported("left", 101.2, 0.2)  # the first report for long: it took the message at some time before
    assert way.longest_s == pytest.approx(0.035)
    way.sent("left", 102.0, 102.04)
    way.sent("left", 102.005, 102.045)  # two that no report tells apart
    way.reported("left", 102.09, 0.09)
    assert way.longest_s == pytest.approx(0.035)
    way.sent("left", 103.0, 103.04)
    way.reported("left", 103.49, 2.0)
    way.reported("left", 103.5, 0.5)
    assert way.longest_s == pytest.approx(0.07), "no stop waits longer"
    way.reported("left", 113.4, 0.0)
    assert way.longest_s == pytest.approx(0.07), "seen within the last 10 s"
    way.reported("left", 113.6, 0.0)
    assert way.longest_s == pytest.approx(0.015), "forgotten, although nothing was sent since"
    way.sent("left", 114.0, 114.04)
    way.reported("left", 114.3, 0.0)
    way.reported("left", 114.31, 0.31)
    assert way.longest_s == pytest.approx(0.07)
    for count in range(40):
        at_s = 115.0 + 0.1 * count
        way.sent("left", at_s, at_s + 0.04)
        way.reported("left", at_s + 0.045, 0.0)
        way.reported("left", at_s + 0.05, 0.05)
    assert way.longest_s == pytest.approx(0.015), "a way that has become quick again"
