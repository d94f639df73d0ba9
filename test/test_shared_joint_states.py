"""One joint state topic for both arms, fed by several drivers: each message is about the arm whose joints it names."""

import contextlib

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

import yaml
from gate_rig import HOME, ROBOT, ROBOT_FILE, GateRig
from sensor_msgs.msg import JointState

from rdvla_ros.msg import GateStatus
from rdvla_ros.nodes.common import conversions

TOPIC = "/joint_states"
LEFT, RIGHT = ROBOT.arms


class SharedRig(GateRig):
    """drivers: what each one's messages name, sent in turn on the one topic."""

    def __init__(self, robot_file, *drivers):
        self.drivers, self.shared = drivers, None
        super().__init__(robot=str(robot_file), wait=False)
        self.shared = self.node.create_publisher(JointState, TOPIC, 10)

    def publish_states(self):
        for names in self.drivers if self.shared else ():
            known = dict(zip(ROBOT.joint_names, HOME, strict=True))
            message = JointState(name=list(names), position=[float(known.get(name, 99.0)) for name in names])
            message.header.stamp = conversions.stamp(self.now_s())
            self.shared.publish(message)
        self.send_states = False
        super().publish_states()  # the controllers' reports


@pytest.fixture
def robot_file(tmp_path):
    data = yaml.safe_load(ROBOT_FILE.read_text())
    for arm in data["arms"]:
        arm["joint_states_topic"] = TOPIC
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.parametrize(
    "drivers",
    [
        (LEFT.joint_names, RIGHT.joint_names, ("wheel_1", "wheel_2")),
        ((*LEFT.joint_names, *RIGHT.joint_names),),
        ((*RIGHT.joint_names, "torso"), ("wheel",), LEFT.joint_names[::-1]),
    ],
    ids=["a driver per arm and one of the wheels", "one driver", "in any order"],
)
def test_the_gate_goes_on_with_both_arms_on_one_topic(robot_file, drivers):
    with contextlib.closing(SharedRig(robot_file, *drivers)) as rig:
        rig.until(lambda: rig.status and not rig.status.causes, "a gate with nothing in the way")
        rig.spin_for(0.5)
        rig.go()
        rig.spin_for(0.5)
        assert not rig.status.causes and rig.status.mode == GateStatus.AUTO


def test_an_arm_whose_driver_ends_is_named_although_the_other_s_goes_on(robot_file):
    with contextlib.closing(SharedRig(robot_file, LEFT.joint_names, RIGHT.joint_names)) as rig:
        rig.until(lambda: rig.status and not rig.status.causes, "a gate with nothing in the way")
        rig.drivers = (LEFT.joint_names,)
        (cause,) = rig.until(lambda: rig.status.causes, "a cause")
        assert cause.startswith(f"Nothing has come on {TOPIC} of arm '{RIGHT.name}' for")


def test_an_arm_that_no_driver_names_and_an_incomplete_one_are_named(robot_file):
    with contextlib.closing(SharedRig(robot_file, LEFT.joint_names, ("wheel",))) as rig:
        words = f"expected joints of arm '{RIGHT.name}' such as '{RIGHT.joint_names[0]}'"
        rig.until(lambda: rig.status and any(words in cause for cause in rig.status.causes), "the arm to be named")
        rig.drivers = (LEFT.joint_names, RIGHT.joint_names[:-1])
        words = f"expected joint '{RIGHT.joint_names[-1]}', which the message lacks"
        rig.until(lambda: any(words in cause for cause in rig.status.causes), "the joint to be named")
