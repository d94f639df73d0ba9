"""The gate as a process: how it starts beside others, and how it ends."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from gate_rig import PATIENT, ROBOT, ROBOT_FILE, GateRig, motion, stops
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.msg import GateStatus
from rdvla_ros.srv import Hold


def test_start_mode_auto_waits_for_the_robot_and_begins_by_itself():
    with contextlib.closing(GateRig(start_mode="auto")) as rig:
        rig.until(lambda: rig.status.mode == GateStatus.AUTO, "AUTO")


def test_start_mode_auto_does_not_lift_a_hold_that_an_operator_asked_for():
    with contextlib.closing(GateRig(start_mode="auto", states=False, wait=False)) as rig:
        rig.until(lambda: rig.status, "a status")
        rig.call(Hold, reason="not yet", who="operator")
        rig.send_states = True
        rig.until(lambda: not rig.status.causes, "the robot")
        rig.spin_for(0.2)
        assert rig.status.mode == GateStatus.HOLD


def gate_process(**parameters):
    arguments = [x for name, value in {"robot": ROBOT_FILE, **PATIENT, **parameters}.items() for x in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-m", "rdvla_ros.nodes.gate.node", "--ros-args", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=os.environ)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_row_59_on_a_signal_the_hold_is_the_last_message_and_the_exit_code_0(number):
    with contextlib.closing(GateRig(wait=False, gate=False)) as rig:  # the gate of this test is a process of its own
        process = gate_process(start_mode="auto", discovery_s=0.0)
        try:
            rig.statuses.clear()
            rig.until(lambda: rig.status and rig.status.mode == GateStatus.AUTO, "the gate process in AUTO")
            rig.until(rig.sources_matched, "the gate to listen")
            rig.pass_motion(motion(change=0.3))
            rig.spin_for(0.2)
            process.send_signal(number)
            begin = time.monotonic()
            rig.until(lambda: process.poll() is not None, "the gate to end")
            assert process.returncode == 0 and time.monotonic() - begin < 2.0
            rig.spin_for(0.1)
            assert all(len(messages) == 2 for messages in rig.received.values())
            stops(rig)
        finally:
            process.kill()
            process.communicate()


def threads(process):
    folder = Path(f"/proc/{process.pid}/task")
    return {int(task.name): (task / "comm").read_text().strip() for task in folder.iterdir()}


@pytest.mark.parametrize("priority", [40, 0])
def test_a_gate_uses_no_shared_memory_and_has_the_priority_that_it_asks_for(priority):
    """Where real-time priority is not allowed, it says so and runs all the same."""
    with contextlib.closing(GateRig(wait=False, gate=False)) as rig:
        process = gate_process(start_mode="auto", discovery_s=0.0, realtime_priority=priority)
        try:
            rig.statuses.clear()
            rig.until(lambda: rig.status and rig.status.mode == GateStatus.AUTO, "the gate process in AUTO")
            found = threads(process)
            assert len(found) > 5 and not [name for name in found.values() if "shm" in name], found
            scheduled = {(os.sched_getscheduler(task), os.sched_getparam(task).sched_priority) for task in found}
        finally:
            process.kill()
            _, errors = process.communicate()
    if priority and "No real-time priority" not in errors:
        assert scheduled == {(os.SCHED_FIFO, priority)}
    else:
        assert scheduled == {(os.SCHED_OTHER, 0)}


def test_row_63_a_second_gate_does_not_start():
    with contextlib.closing(GateRig()) as rig:
        rig.go()
        process = gate_process(discovery_s=5.0, predecessor_s=1.0)
        rig.until(lambda: process.poll() is not None, "the second gate to give up")
        _, errors = process.communicate()
        assert process.returncode == 1 and "/gate is running already" in errors and "only publisher" in errors
        assert rig.status.mode == GateStatus.AUTO


def test_a_gate_does_not_wait_for_another_publisher():
    with contextlib.closing(GateRig(wait=False, gate=False)) as rig:
        rig.node.create_publisher(JointTrajectory, ROBOT.arms[0].trajectory_topic, 10)
        process = gate_process(discovery_s=5.0, predecessor_s=60.0)
        rig.until(lambda: process.poll() is not None, "the gate to give up")
        _, errors = process.communicate()
        assert process.returncode == 1 and "found /robot" in errors and "bypass" in errors


def test_a_gate_waits_for_its_predecessor_to_go():
    with contextlib.closing(GateRig(wait=False)) as rig:
        rig.executor.remove_node(rig.gate)
        process = gate_process(discovery_s=5.0, predecessor_s=60.0, start_mode="auto")
        try:
            lines = iter(process.stderr.readline, "")
            assert any("waits for it to go, up to 60 s" in line for line in lines)
            rig.spin_for(0.5)
            assert process.poll() is None and not rig.statuses[1:]
            rig.gate.destroy_node()
            rig.until(lambda: rig.status and rig.status.mode == GateStatus.AUTO, "the next gate in AUTO")
        finally:
            process.kill()
            process.communicate()


def test_a_missing_robot_description_ends_with_one_sentence():
    process = gate_process(robot="nowhere.yaml")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1 and "nowhere.yaml" in errors and "Traceback" not in errors
