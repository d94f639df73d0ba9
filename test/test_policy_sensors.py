"""The policy node with a policy that reads a force: synchronised, refused where in doubt, and its silence is a cause."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from geometry_msgs.msg import Vector3Stamped, WrenchStamped
from policy_rig import QUICK, ROBOT, paused
from std_msgs.msg import Float32MultiArray

from rdvla_ros.nodes.common.conversions import Contradiction
from rdvla_ros.nodes.common.readings import reading, wrench_message
from rdvla_ros.robot import Sensor
from rdvla_ros.types import ObservationError

LEFT, RIGHT = ROBOT.sensors
FEELING = "worker_cases:feeling"
FORCE = [1.0, 2.0, 3.0, 0.1, 0.2, 0.3]


def touched(rig):
    """Publishes rig.force 50 times a second from now on; None: nothing."""
    rig.force = FORCE
    publisher = rig.robot.create_publisher(WrenchStamped, LEFT.topic, 10)

    def publish():
        if rig.force is not None:
            publisher.publish(wrench_message(rig.force, rig.stamp(), "left_hand"))

    rig.robot.create_timer(0.02, publish)
    return rig


def test_a_decision_is_made_from_the_force_of_its_moment_and_a_doubtful_or_silent_one_stops_the_arms(make_rig):
    rig = touched(make_rig(load=FEELING, **QUICK)).moving()
    assert rig.until(lambda: rig.line(f"felt {FORCE}")), rig.log
    topics = {s.topic for s in rig.policy._inputs.synchronizer._streams()}
    assert LEFT.topic in topics and RIGHT.topic not in topics, "what the policy does not read is not listened to"
    rig.force = [np.nan, *FORCE[1:]]
    assert paused(rig, LEFT.topic, "expected finite numbers of sensor 'left_wrist_force', number 0 is nan"), rig.log
    assert rig.rests()
    rig.force = FORCE
    rig.moving()
    rig.force = None
    silent = lambda: any(LEFT.topic in cause and "nothing for" in cause for cause in rig.policy._causes())  # noqa: E731
    assert rig.until(silent), rig.policy._causes()  # a second pause so soon is not logged again
    assert rig.rests()


def test_a_second_publisher_of_a_sensor_holds_the_arms(make_rig):
    rig = touched(make_rig(load=FEELING)).start()
    assert rig.until(lambda: rig.sent["left"]), rig.log
    touched(rig)
    assert rig.until(lambda: rig.said("decisions would alternate between their readings")), rig.log
    assert rig.until(lambda: rig.said("Hold: ")), rig.log


def test_without_the_sensor_s_messages_nothing_is_decided_and_the_topic_is_named(make_rig):
    rig = make_rig(load=FEELING).start()
    assert rig.until(lambda: rig.said(f"Waiting for {LEFT.topic}: nothing received")), rig.log
    assert not rig.decisions


def stamped(kind, **values):
    message = kind(**values)
    message.header.frame_id = "skin"
    return message


def test_numbers_of_each_message_and_what_is_refused():
    skin = Sensor("skin", "skin", "std_msgs/Float32MultiArray", 3)
    assert reading(Float32MultiArray(data=[1.0, 2.0, 3.0]), skin).tolist() == [1.0, 2.0, 3.0]
    vector = Sensor("v", "v", "geometry_msgs/Vector3Stamped", 3, frame_id="skin")
    assert reading(stamped(Vector3Stamped), vector).tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(Contradiction, match="skin: expected 3 numbers of sensor 'skin', got 2"):
        reading(Float32MultiArray(data=[1.0, 2.0]), skin)
    with pytest.raises(ObservationError, match="number 1 is inf"):
        reading(Float32MultiArray(data=[1.0, np.inf, 0.0]), skin)
    with pytest.raises(Contradiction, match="expected frame_id 'skin' of sensor 'v', got ''"):
        reading(Vector3Stamped(), vector)
