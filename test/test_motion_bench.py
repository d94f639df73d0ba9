"""The bench of the control path: what it computes from what it hears, and the policy that stands in for a network."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from rdvla_ros.bench.nodes import main as control
from rdvla_ros.bench.nodes import parts, report, stand_in, usage
from rdvla_ros.control.motion.limits import JointLimits
from rdvla_ros.control.motion.trajectory import PlanOptions, Reference, plan
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import Observation

ROBOT = RobotDescription.load(Path(__file__).parent.parent / "config" / "aloha_sim.yaml")


def test_goals_are_judged_by_their_quantile():
    times_s = [0.005] * 98 + [0.050] * 2
    found = {"holds_idle": {"heard_s": times_s}, "stopped": {"heard_s": times_s}}
    lines = {line.split(" | ")[0]: line for line in report.table(found).splitlines()}
    assert lines["| hold call to both controllers, idle"].endswith("| no |"), "p99 is 50 ms, 30 were wanted"
    assert lines["| policy SIGSTOP to hold"].endswith("| yes |"), "the largest is 50 ms, 100 are allowed"


def test_results_are_read_back_and_drawn(tmp_path):
    report.save(tmp_path, "killed", {"heard_s": [0.06, 0.07]}, "rdvla bench control")
    assert report.load(tmp_path)["killed"]["heard_s"] == [0.06, 0.07]
    assert json.loads((tmp_path / "killed.json").read_text())["machine"]["cores"] >= 1
    assert control.main(["--parts", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "control.png").stat().st_size > 1000


def test_many_times_are_kept_as_their_quantiles_and_counted():
    times_s = np.random.default_rng(0).exponential(0.01, 100_000).tolist()
    kept = parts.few(times_s)
    assert len(kept) < 3000 and parts.few(times_s[:100]) == times_s[:100]
    whole, few = report.quantiles(times_s), report.quantiles(kept)
    assert all(few[name] == pytest.approx(whole[name], rel=0.01) for name in ("min", "p50", "p99", "max"))
    found = {"burst": {"answered_s": kept, "counts": {"answered_s": 100_000}}}
    assert "| 100000 |" in report.table(found)


def test_the_slope_of_the_memory_is_that_of_the_line():
    hours = np.linspace(0.0, 1.0, 600)
    noise = np.random.default_rng(0).standard_normal(600)
    slope, error = usage.line(hours, 80.0 + 3.0 * hours + 0.1 * noise)
    assert slope == pytest.approx(3.0, abs=0.1) and 0.005 < error < 0.05


def test_a_process_is_measured_with_its_children():
    usages = {}
    for _ in range(3):
        usage.sample(time.monotonic(), {"this": os.getpid(), "gone": 2**22 - 1}, usages)
    assert set(usages) == {"this"} and usages["this"].memory_mib[0] > 10.0
    assert usages["this"].summary(0.0)["threads"][0] >= 1


def test_a_part_ends_by_count_or_by_time():
    repeat = parts.Repeat(3, lambda: None, 60.0)
    for _ in repeat:
        repeat.counted()
    assert list(repeat) == [] == list(parts.Repeat(3, lambda: None, 0.0))


def test_the_stand_in_swings_the_arms_within_their_limits(tmp_path):
    names = {"joint_names": ROBOT.joint_names, "gripper_joints": ROBOT.gripper_joints, "camera_names": ROBOT.camera_names}
    decide, loaded = stand_in.load({"robot": names, "checkpoint": str(tmp_path)})
    limits, middle = JointLimits.of_robot(ROBOT), ROBOT.to_policy(sum(ROBOT.limit(x) for x in ("lower", "upper")) / 2)
    observation = Observation({}, middle, "go", 12.3)
    rows = ROBOT.from_policy(decide(observation, None, None).chunk.positions)
    start = Reference.at_rest(ROBOT.from_policy(middle))
    options = PlanOptions(may_lag=ROBOT.gripper_joints)
    motion = plan(
        rows, step_s=loaded.step_s, elapsed_s=0.1, horizon=loaded.chunk_length, start=start, limits=limits, options=options
    )
    assert np.abs(motion.velocities).max() > 0.1
