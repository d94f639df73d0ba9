"""The whole system over DDS: separate processes of the simulated robot, the gate, the monitor and the policy."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from wire import Wire

from rdvla_ros.bringup import launcher
from rdvla_ros.bringup import processes as bringup
from rdvla_ros.msg import GateStatus
from rdvla_ros.robot import RobotDescription

ROOT = Path(__file__).parent.parent
MOVED_RAD = 0.05
LEFT, RIGHT = "/left_arm_controller/joint_trajectory", "/right_arm_controller/joint_trajectory"
STOP_IMAGES = 7  # longer than any stop takes
CREEP_RAD = 0.1
SILENCE_IMAGES = 15  # 1.5 s of images: many decisions long


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """The started processes, and a wire that hears them. The tests of this file run in their order and share it."""
    robot = RobotDescription.load(ROOT / bringup.SIM_ROBOT).in_namespace("/")
    with launcher.free_domain() as domain:
        processes = launcher.start(bringup.processes({"sim": True}), tmp_path_factory.mktemp("logs"), domain)
        wire = Wire(robot, int(domain["ROS_DOMAIN_ID"]), processes.check)
        try:
            yield processes, wire
        finally:
            wire.close()
            processes.stop()


@pytest.fixture
def wire(system):
    return system[1]


def moved(wire, start):
    arm_joints = [name not in wire.robot.gripper_joints for name in wire.robot.joint_names]
    return np.abs(wire.positions() - start)[arm_joints].max() > MOVED_RAD


def nothing_moves(wire):
    """While 1.5 s of images arrive no trajectory passes, the controllers command one place, and the joints stay near theirs.

    A commanded arm that pushes against the table or the cube still creeps, which is no motion that somebody sent.
    """
    wire.more(wire.robot.cameras[-1].topic, STOP_IMAGES)
    wire.until(wire.at_rest, "arms at rest")
    start, commanded, count = wire.positions(), wire.commanded(), wire.trajectory_count()
    wire.more(wire.robot.cameras[-1].topic, SILENCE_IMAGES)
    assert wire.trajectory_count() == count
    np.testing.assert_array_equal(wire.commanded(), commanded)
    assert np.nanmax(np.abs(wire.positions() - start)) < CREEP_RAD  # NaN: a test's own fault


def test_decisions_flow_and_the_arms_move(wire):
    start = wire.positions()
    wire.until(lambda: sum(c.published for c in wire.heard["/policy/convergence"]) >= 3, "three published decisions", 120.0)
    wire.until(lambda: moved(wire, start), "the arms to move")
    message = wire.heard["/policy/convergence"][-1]
    assert 1 <= message.iterations <= message.limit and len(message.change) == message.iterations
    assert message.timing_names[-1] == "total" and message.timings_s[-1] > 0
    assert "red cube" in message.instruction


def test_every_trajectory_contains_its_own_stop_and_both_arms_share_a_time_base(wire):
    wire.until(lambda: min(map(len, wire.trajectories().values())) >= 3, "three trajectories per arm")
    by_arm = wire.trajectories()
    for messages in by_arm.values():
        for message in messages:
            times = [p.time_from_start.sec + p.time_from_start.nanosec * 1e-9 for p in message.points]
            assert len(times) >= 2 and times[0] >= 0 and np.all(np.diff(times) > 0)
            assert not np.any(message.points[-1].velocities)
    stamps = [[(m.header.stamp.sec, m.header.stamp.nanosec) for m in messages] for messages in by_arm.values()]
    common = min(map(len, stamps))
    assert all(own[:common] == stamps[0][:common] for own in stamps)


def test_the_monitor_and_the_gate_report(wire):
    uncertainty = wire.until(lambda: wire.heard["/monitor/uncertainty"], "an uncertainty")[-1]
    assert uncertainty.window >= 1 and uncertainty.window_score >= 0.0
    assert uncertainty.calibrated  # the shipped checkpoint's own file, for this instruction
    diagnostics = wire.until(lambda: wire.heard["/diagnostics"], "diagnostics")[-1]
    assert diagnostics.status and all(status.name and status.message for status in diagnostics.status)
    wire.until(lambda: wire.gate.mode == GateStatus.AUTO and wire.gate.passed >= 3, "three passed decisions")


def test_a_hold_stops_both_arms_and_nothing_passes_until_the_resume_that_names_it(wire):
    answer = wire.hold("first reason")
    again = wire.hold("second reason")
    assert answer.accepted and again.accepted and again.hold_id == answer.hold_id
    wire.until(lambda: wire.gate.mode == GateStatus.HOLD, "mode HOLD")
    assert "first reason" in wire.gate.reason
    nothing_moves(wire)
    assert not wire.resume(answer.hold_id + 1).accepted
    nothing_moves(wire)

    start = wire.positions()
    wire.reset(seed=1)  # so that there is something to do again
    wire.until(lambda: wire.heard["/sim_robot/task_stage"] and wire.heard["/sim_robot/task_stage"][-1].seed == 1, "the new scene")
    wire.more(wire.robot.cameras[-1].topic, STOP_IMAGES)  # no decision is made from what was before it
    start = wire.positions()
    wire.resume_in_force()
    wire.until(lambda: moved(wire, start), "the arms to move again")


def test_a_missing_camera_stops_the_decisions_and_the_arms(wire):
    wire.set_parameter("/sim_robot", "silent_camera", "top")
    wire.until(lambda: wire.gate.mode != GateStatus.AUTO, "the gate to stop the arms")  # its stop is the last that passes
    nothing_moves(wire)
    decisions = len(wire.heard["/policy/convergence"])
    nothing_moves(wire)
    assert len(wire.heard["/policy/convergence"]) == decisions

    wire.set_parameter("/sim_robot", "silent_camera", "")
    if wire.gate.mode == GateStatus.HOLD:
        wire.resume_in_force()
    wire.until(lambda: len(wire.heard["/policy/convergence"]) > decisions, "decisions after the camera came back")


def test_the_missing_camera_was_named(system, wire):
    assert "/cameras/top/image_raw" in system[0]["policy"].log.read_text()


def test_a_joint_state_that_is_not_a_number_holds_the_arms(wire):
    wire.set_parameter("/sim_robot", "nan_joint", "right_elbow")
    wire.until(lambda: wire.gate.mode == GateStatus.HOLD, "a hold by the gate")
    assert "right_elbow" in wire.gate.reason
    nothing_moves(wire)
    refused = wire.resume(wire.gate.hold_id)
    assert not refused.accepted and refused.causes

    wire.set_parameter("/sim_robot", "nan_joint", "")
    wire.resume_in_force()
    count = wire.trajectory_count()
    wire.until(lambda: wire.trajectory_count() > count, "trajectories after the resume")


def test_all_processes_leave_with_code_0_and_the_last_word_is_a_hold(system):
    processes, wire = system
    pids = [item.process.pid for item in processes.running]
    wire.expect_exits()
    began_s = time.monotonic()
    stopping = threading.Thread(target=processes.stop)  # while this thread listens to their last words
    stopping.start()
    wire.until(lambda: not stopping.is_alive(), "the end of all processes")
    assert processes.exit_codes == {"sim_robot": 0, "gate": 0, "monitor": 0, "policy": 0}
    assert time.monotonic() - began_s < 20.0  # well below SIGKILL on a loaded machine; seconds otherwise
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert wire.gate.mode == GateStatus.HOLD
    for topic, arm in ((LEFT, "left"), (RIGHT, "right")):
        decided = {stamp_ns(message) for message in wire.heard[f"/policy/{arm}/joint_trajectory"]}
        assert any(stamp_ns(message) in decided for message in wire.heard[topic])
        last = wire.heard[topic][-1]
        assert not np.any(last.points[-1].velocities)
        assert stamp_ns(last) not in decided, "the last motion is one of the policy's, not the hold"
        assert stamp_ns(last) >= max(decided) - 50_000_000


def stamp_ns(message):
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


# -- the demo


def start_demo(out, *options):
    command = [sys.executable, "-m", "rdvla_ros.cli", "demo", "--out", str(out), *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, **pipes, cwd=ROOT, start_new_session=True)


def processes_of(folder):
    """Processes that have the folder in their command line: the demo's nodes have their parameter files there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in words and path.parent.name != str(os.getpid()):
            found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def read_until(process, text, seconds=120.0):
    """Lines of the output until one contains the text."""
    lines, end = [], time.monotonic() + seconds
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
        assert time.monotonic() < end, "".join(lines)
    raise AssertionError(f"ended without '{text}':\n{''.join(lines)}")


def test_the_demo_runs_an_episode_and_leaves_its_summary_and_film(tmp_path):
    demo = start_demo(tmp_path, "--episodes", "1", "--timeout", "2")
    output, _ = demo.communicate(timeout=240)
    assert demo.returncode == 0, output
    assert "gripper reached object" in output and "iterations" in output
    summary = json.loads((tmp_path / "summary.json").read_text())
    (episode,) = summary["episodes"]
    assert summary["outcome"] == "complete" and set(summary["exit_codes"].values()) == {0}
    assert episode["finished"] and episode["decisions"] >= 1 and episode["duration_s"] >= 2.0
    assert (tmp_path / episode["video"]).stat().st_size > 5000
    assert not processes_of(tmp_path)


def test_ctrl_c_ends_the_demo_with_a_summary_and_no_process_behind(tmp_path):
    demo = start_demo(tmp_path, "--episodes", "2", "--timeout", "60", "--no-films")
    read_until(demo, "gate AUTO")
    demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["outcome"] == "interrupted"
    assert [episode["finished"] for episode in summary["episodes"]] == [False]
    assert not list(tmp_path.glob("*.mp4"))
    assert not processes_of(tmp_path)
