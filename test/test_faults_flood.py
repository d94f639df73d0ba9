"""Floods: inputs that come thousands of times a second, from another process, into the policy node over DDS."""

import contextlib
import resource
import subprocess
import sys
import time

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from gate_rig import GateRig
from policy_rig import HOME, ROBOT
from sensor_msgs.msg import Image

from rdvla_ros.msg import GateStatus
from rdvla_ros.srv import Hold

LEFT = ROBOT.arms[0]
FLOOD = """
import signal, sys, time
import rclpy
from sensor_msgs.msg import Image, JointState
kind, topic, names, positions = sys.argv[1], sys.argv[2], sys.argv[3].split(","), [float(p) for p in sys.argv[4].split(",")]
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
rclpy.init()
node = rclpy.create_node("flood")
publisher = node.create_publisher(JointState if kind == "joints" else Image, topic, 10)
message = JointState(name=names, position=positions) if kind == "joints" else Image(height=1, width=1, data=b"x")
message.header.frame_id = "top_camera"
print("ready", flush=True)
count, begun = 0, time.monotonic()
try:
    while True:  # 10,000 a second where the machine has the time
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
        count += 1
        if count % 1000 == 0:
            print(count / (time.monotonic() - begun), flush=True)
        time.sleep(max(0.0, begun + count / 10000.0 - time.monotonic()))
finally:
    rclpy.shutdown()
"""


@contextlib.contextmanager
def flood(kind, topic, takes_leave=False):
    """From another process; yields it once it publishes. It is killed at the end, or takes leave, so that its publisher is not
    listed for another 20 s."""
    values = [kind, topic, ",".join(LEFT.joint_names), ",".join(map(str, HOME))]
    process = subprocess.Popen([sys.executable, "-c", FLOOD, *values], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.terminate() if takes_leave else process.kill()
        process.wait(timeout=20)
        process.stdout.close()


def bounded(rig):
    return all(len(stream.samples) <= stream.depth for stream in rig.policy._inputs.synchronizer._streams())


def test_row_45_joint_states_at_ten_thousand_a_second_leave_the_decisions_their_time(make_rig):
    rig = make_rig(pause_after_s=3.0).moving()
    rig.silent.add(LEFT.joint_states_topic)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with flood("joints", LEFT.joint_states_topic) as process:
        rig.moving()
        rig.moving()
        assert float(process.stdout.readline()) > 500.0, "too slow to be a flood"
    assert bounded(rig) and not rig.line("Hold: ") and rig.policy._guard.exceptions == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 64 * 1024


def test_row_45_joint_states_at_ten_thousand_a_second_leave_the_gate_its_time():
    rig = GateRig()
    try:
        rig.go()
        with flood("joints", LEFT.joint_states_topic) as process:  # beside the robot's own, all of arms at rest
            rig.spin_for(1.0)
            seen = len(rig.statuses)
            rig.spin_for(2.0)
            assert float(process.stdout.readline()) > 500.0, "too slow to be a flood"
            assert len(rig.statuses) - seen >= 10, rig.status  # its callbacks publish twenty a second
            assert rig.status.mode == GateStatus.AUTO and not rig.status.causes, rig.status
            begun_s = time.monotonic()
            assert rig.call(Hold, who="test", reason="in a flood").hold_id
            assert time.monotonic() - begun_s < 1.0
            rig.held()
        rig.go()
    finally:
        rig.close()


def test_row_45_malformed_pictures_in_a_flood_at_worst_pause(make_rig):
    """From the camera's only publisher: a second one beside it is row 82."""
    rig, topic = make_rig(healthy_s=0.3, longest_pause_s=60.0).moving(), ROBOT.cameras[0].topic
    rig.silent.add(topic)
    rig.robot.destroy_publisher(rig.images.pop(topic))
    assert rig.until(lambda: not rig.policy.count_publishers(topic))
    with flood("images", topic, takes_leave=True):
        assert rig.until(lambda: rig.line("Message refused", topic)), rig.log
        rig.spin(1.0)
    assert bounded(rig) and rig.policy._guard.exceptions == 0
    assert rig.until(lambda: not rig.policy.count_publishers(topic))
    rig.images[topic] = rig.robot.create_publisher(Image, topic, 1)
    rig.silent.clear()
    rig.moving()
    assert not rig.line("Hold: ")
