"""Faults of processes: policy and gate are real ones, killed, stopped, started twice, without room on the disk.

The tests run in their order and share the processes; each starts what it needs.
"""

import contextlib
import os
import resource
import signal
import time

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

import rclpy
from gate_rig import ROBOT
from process_rig import LEASE_S, ProcessRig
from rclpy.node import Node

from rdvla_ros.bringup import launcher
from rdvla_ros.control.motion.trajectory import LONGEST_STOP_S
from rdvla_ros.msg import GateStatus
from rdvla_ros.nodes.common import conversions
from rdvla_ros.nodes.common.heartbeat import HeartbeatLink
from rdvla_ros.nodes.common.hooks import NodeHooks
from rdvla_ros.srv import Hold

PATIENCE_S = 40.0


@pytest.fixture(scope="module")
def shared():
    with launcher.free_domain() as domain:
        before = {name: os.environ.get(name) for name in domain}
        os.environ.update(domain)
        try:
            with contextlib.closing(ProcessRig()) as rig:
                yield rig
        finally:
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture
def rig(shared):
    """Both processes are there and the arms move."""
    shared.move()
    return shared


def motion_sources(rig):
    """How many publish the policy's motions: the rig itself does too."""
    return rig.node.count_publishers(f"/policy/{ROBOT.arms[0].name}/joint_trajectory")


def at_rest_in_time(rig):
    """Both arms come to rest by what is on the wire: the steps that were meant to be executed, and the stop behind them."""
    rig.spin_for(0.5)  # until the gate's stop is there too, where one comes
    longest_s = max(conversions.trajectory(messages[-1]).duration_s for messages in rig.received.values())
    rig.until(rig.resting, "arms at rest", longest_s + 5.0)
    for messages in rig.received.values():
        assert not any(messages[-1].points[-1].velocities)


def test_row_27_47_a_policy_cut_off_until_the_discovery_forgets_it_comes_back_once_and_moves_nothing(rig):
    """SIGSTOP is a partition from both sides: nothing is heard of it, and it hears nothing."""
    assert motion_sources(rig) == 2
    policy = rig.processes["policy"]
    policy.send_signal(signal.SIGSTOP)
    try:
        status = rig.held()
        rig.until(lambda: any("heartbeat" in cause for cause in rig.status.causes), "the cause")
        rig.until(lambda: motion_sources(rig) == 1, "the discovery to forget it", 5 * LEASE_S)
    finally:
        policy.send_signal(signal.SIGCONT)
    rig.until(lambda: motion_sources(rig) == 2, "the discovery to find it again", PATIENCE_S)
    rig.until(lambda: not rig.status.causes, "its heartbeat", PATIENCE_S)
    assert motion_sources(rig) == 2  # once
    assert rig.nothing_comes(1.0) and rig.status.mode == GateStatus.HOLD and rig.status.hold_id == status.hold_id
    rig.move()  # by a resume


def test_row_56_a_policy_that_is_killed_in_mid_chunk_holds_both_arms(rig):
    before = rig.status.hold_id
    rig.kill("policy")
    assert rig.held().hold_id == before + 1
    rig.until(lambda: any("heartbeat" in cause for cause in rig.status.causes), "the cause")
    at_rest_in_time(rig)
    assert rig.nothing_comes()
    rig.start("policy")
    rig.until(lambda: not rig.status.causes, "the new policy", PATIENCE_S)
    assert rig.nothing_comes(1.0) and rig.status.mode == GateStatus.HOLD  # a new policy alone moves nothing


def test_row_63_a_second_policy_is_not_activated_and_the_first_goes_on(rig):
    second = rig.start("policy", again="second")
    try:
        # "Not activated"; or "Deactivated" at once, where the discovery was slower than the start
        rig.until(lambda: "ctivated: /policy is running already" in rig.log("second"), "the refusal", PATIENCE_S)
        rig.move()  # what the second one's first beats stopped
        assert second.poll() is None and rig.status.mode == GateStatus.AUTO
    finally:
        rig.kill("second")
    rig.move()


class Beating(NodeHooks, Node):
    pass


def test_row_63_of_two_active_ones_the_later_one_goes():
    """Where the discovery is slower than the activation, both have begun to beat before they hear each other."""
    with contextlib.ExitStack() as ends:
        context = rclpy.Context()
        rclpy.init(context=context)
        ends.callback(context.try_shutdown)
        nodes = [Beating("policy", namespace="/apart", context=context) for _ in range(2)]
        hearts = [HeartbeatLink(node, {}, stuck_s=60.0, yields=lambda: False) for node in nodes]
        for node, heart in zip(nodes, hearts, strict=True):
            ends.callback(node.destroy_node)
            ends.callback(heart.close)
        hearts[0].start()
        time.sleep(0.3)
        hearts[1].start()
        end = time.monotonic() + PATIENCE_S
        while not hearts[1].older_duplicate(time.monotonic()):
            assert time.monotonic() < end, "the later one never heard the earlier one"
            time.sleep(0.02)
        assert not hearts[0].older_duplicate(time.monotonic())


def test_row_62_a_full_disk_stops_the_logs_and_nothing_else(rig):
    """No file may grow any more, which is what a full disk does to a log."""
    for process in rig.processes.values():
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    try:
        for _ in range(2):
            assert rig.call(Hold, reason="with a full disk", who="test").accepted
            rig.held()
            rig.move()
        assert rig.status.exceptions == 0
    finally:
        for process in rig.processes.values():
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_row_57_a_gate_that_is_killed_makes_the_policy_hold_by_itself(rig):
    rig.kill("gate")
    sent = len(rig.beats)
    rig.until(lambda: any(beat.hold for beat in rig.beats[sent:]), "the policy's own hold", PATIENCE_S)
    at_rest_in_time(rig)
    assert rig.nothing_comes()
    rig.statuses.clear()
    rig.start("gate")
    rig.until(lambda: rig.status, "the new gate", 10 * LEASE_S)  # it waits until the discovery forgets the one before
    assert rig.status.mode == GateStatus.HOLD and rig.nothing_comes(1.0)


def test_row_58_with_both_killed_the_arms_come_to_rest_by_what_is_on_the_wire(rig):
    rig.kill("policy", "gate")
    rig.spin_for(0.1)  # what was under way to the controllers
    count = rig.received_count()
    newest = {arm: messages[-1] for arm, messages in rig.received.items()}
    assert len({conversions.seconds(message.header.stamp) for message in newest.values()}) == 1
    stamp = next(iter(newest.values())).header.stamp
    end_s = conversions.seconds(stamp) + max(conversions.trajectory(message).duration_s for message in newest.values())
    rig.until(lambda: rig.now_s() >= end_s, "the end of what is on the wire")
    assert rig.resting() and not any(any(message.points[-1].velocities) for message in newest.values())
    assert rig.received_count() == count
    where = rig.positions
    rig.spin_for(LONGEST_STOP_S)
    assert (rig.positions == where).all()
