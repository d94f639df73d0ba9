"""The SROS 2 policy: as narrow as what the nodes really open, and only the gate may publish to a controller."""

import contextlib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

import rclpy
from gate_rig import ROBOT, ROBOT_FILE
from policy_rig import CASES
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from rdvla_ros.bringup import security
from rdvla_ros.msg import ControllerState
from rdvla_ros.nodes.gate.node import GateNode
from rdvla_ros.nodes.monitor.node import MonitorNode
from rdvla_ros.nodes.policy.node import SUCCESS, PolicyNode
from rdvla_ros.nodes.recorder.node import RecorderNode
from rdvla_ros.robot import RobotDescription

FILE = Path(__file__).parent.parent / "config" / "sros2" / "policy.xml"
KINDS = {
    "publish": "get_publisher_names_and_types_by_node",
    "subscribe": "get_subscriber_names_and_types_by_node",
    "reply": "get_service_names_and_types_by_node",
    "request": "get_client_names_and_types_by_node",
}


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """enclave -> what its nodes have opened: publish, subscribe, reply, request."""
    context = rclpy.Context()
    rclpy.init(context=context)
    others = Node("others", context=context)
    # controllers, so that gate, policy and monitor know which type their states have
    states = [others.create_publisher(ControllerState, arm.controller_state_topic, 10) for arm in ROBOT.arms]

    def make(kind, **values):
        overrides = [Parameter(name, value=value) for name, value in {"robot": str(ROBOT_FILE), **values}.items()]
        return kind(context=context, parameter_overrides=overrides)

    nodes = {
        "gate": make(GateNode, discovery_s=0.0, operator="heartbeat"),
        "monitor": make(MonitorNode),
        "recorder": make(RecorderNode, folder=str(tmp_path_factory.mktemp("run"))),
        "policy": make(PolicyNode, checkpoint="worker_cases", instruction="calm"),
    }
    nodes["policy"].load = CASES
    executor = SingleThreadedExecutor(context=context)
    for node in nodes.values():
        executor.add_node(node)
    assert nodes["policy"].trigger_configure() is SUCCESS
    wanted = {arm.controller_state_topic for arm in ROBOT.arms}
    opened, same = {}, 0
    for _ in range(500):  # until the graph knows of all, and has learned nothing more for half a second
        executor.spin_once(timeout_sec=0.02)
        before, opened = opened, {name: look(others, [name, f"{name}_side"]) for name in nodes}
        same = same + 1 if opened == before else 0
        known = all(wanted <= opened[name]["subscribe"] and "/rosout" in opened[name]["publish"] for name in nodes)
        if known and same >= 25:
            break
    yield opened
    nodes["policy"].close()
    nodes["recorder"].close()
    for node in nodes.values():
        node.destroy_node()
    for publisher in states:
        others.destroy_publisher(publisher)
    others.destroy_node()
    context.try_shutdown()


def look(node, names):
    found = {}
    for kind, method in KINDS.items():
        found[kind] = set()
        for name in names:
            with contextlib.suppress(Exception):  # the monitor has no side
                found[kind] |= {topic for topic, _ in getattr(node, method)(name, "/")}
    return found


# The monitor listens to the cameras once somebody asks for their thumbnails (test_monitor_outputs.py).
# The policy listens to the sensors that its checkpoint reads (test_policy_sensors.py).
ON_DEMAND = {
    ("monitor", "subscribe"): {camera.topic for camera in ROBOT.in_namespace("/").cameras},
    ("policy", "subscribe"): {sensor.topic for sensor in ROBOT.in_namespace("/").sensors},
}


@pytest.mark.parametrize("enclave", ["gate", "policy", "monitor", "recorder"])
def test_a_node_may_do_exactly_what_it_does(used, enclave):
    allowed = security.allowed(security.profiles(ROBOT)[enclave])
    for kind in KINDS:
        assert used[enclave][kind] | ON_DEMAND.get((enclave, kind), set()) == allowed[kind], (enclave, kind)


def test_every_side_of_a_topic_or_service_has_the_other():
    every = {enclave: security.allowed(nodes) for enclave, nodes in security.profiles(ROBOT).items()}
    published = set().union(*(a["publish"] for a in every.values()))
    replied = set().union(*(a["reply"] for a in every.values()))
    assert set().union(*(a["subscribe"] for a in every.values())) <= published
    assert set().union(*(a["request"] for a in every.values())) <= replied


def test_only_the_gate_commands_the_controllers_only_the_operator_resumes_and_sets_parameters():
    every = {enclave: security.allowed(nodes) for enclave, nodes in security.profiles(ROBOT).items()}
    for arm in ROBOT.arms:
        assert [e for e, a in every.items() if arm.trajectory_topic in a["publish"]] == ["gate"]
        assert [e for e, a in every.items() if f"/policy/{arm.name}/joint_trajectory" in a["publish"]] == ["policy"]
        assert [e for e, a in every.items() if f"/teleop/{arm.name}/joint_trajectory" in a["publish"]] == ["operator"]
    assert [e for e, a in every.items() if "/gate/resume" in a["request"]] == ["operator"]
    assert {e for e, a in every.items() if "/gate/hold" in a["request"]} == {"monitor", "operator"}
    assert [e for e, a in every.items() if any("set_parameters" in name for name in a["request"])] == ["operator"]
    assert not any("/gate/set_parameters" in a["request"] for a in every.values())


def test_the_shipped_file_is_what_the_command_prints_and_has_no_wildcard(capsys):
    assert security.main([str(ROBOT_FILE)]) == 0
    text = capsys.readouterr().out
    assert FILE.read_text(encoding="utf-8") == text, "run: rdvla security > config/sros2/policy.xml"
    root = ElementTree.fromstring(text)
    assert root.tag == "policy" and root.attrib == {"version": "0.2.0"}
    enclaves = root.findall("./enclaves/enclave")
    assert [e.attrib["path"] for e in enclaves] == [f"/rdvla/{name}" for name in security.ENCLAVES]
    assert "*" not in text and "?" not in text.split("?>", 1)[1] and "DENY" not in text
    for rule in root.iter():
        if rule.tag in ("topic", "service"):
            assert rule.text.startswith("/"), rule.text


def test_another_robot_has_its_own_topics():
    robot = RobotDescription.load(ROBOT_FILE.with_name("example_two_arms.yaml")).in_namespace("/")
    allowed = security.allowed(security.profiles(robot)["gate"])
    assert {arm.trajectory_topic for arm in robot.arms} <= allowed["publish"]
    assert not {arm.trajectory_topic for arm in ROBOT.arms} - {arm.trajectory_topic for arm in robot.arms} & allowed["publish"]
