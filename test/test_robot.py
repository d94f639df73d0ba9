"""The robot description: what it says about the arms, and how it refuses what it cannot use."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from rdvla_ros import robot as robot_module
from rdvla_ros.robot import RobotDescription, shipped
from rdvla_ros.types import RobotDescriptionError

CONFIG = Path(__file__).parent.parent / "config"
SHIPPED = sorted(CONFIG.glob("*.yaml"))


@pytest.fixture
def data():
    return yaml.safe_load((CONFIG / "aloha_sim.yaml").read_text())


def refusal(data) -> str:
    with pytest.raises(RobotDescriptionError) as caught:
        RobotDescription.from_dict(data, source="my_robot.yaml")
    return str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_every_shipped_description_loads(path):
    robot = RobotDescription.load(path)
    assert len(robot.arms) == 2
    assert np.all(robot.limit("lower") < robot.limit("upper"))
    assert sum(s.stop - s.start for s in robot.arm_slices.values()) == len(robot.joint_names)


def test_policy_units_scale_only_the_grippers(data):
    robot = RobotDescription.from_dict(data)
    positions = np.zeros(14)
    positions[[6, 13]] = 0.021, 0.057  # closed, open [m]
    positions[3] = 1.25
    policy = robot.to_policy(positions)
    assert policy[6] == pytest.approx(0.0) and policy[13] == pytest.approx(1.0) and policy[3] == 1.25
    np.testing.assert_allclose(robot.from_policy(policy), positions, atol=1e-15)


def test_a_misspelt_key_names_the_likely_one(data):
    data["arms"][0]["trajectroy_topic"] = data["arms"][0].pop("trajectory_topic")
    message = refusal(data)
    assert "my_robot.yaml" in message and "arms[0]" in message and "Did you mean 'trajectory_topic'?" in message


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("arms", 0, "joints", 0, "upper"), float("inf"), "finite number"),
        (("arms", 0, "joints", 0, "upper"), None, "finite number"),
        (("arms", 0, "joints", 0, "upper"), True, "finite number"),
        (("arms", 0, "joints", 0, "upper"), -9.0, "lower < upper"),
        (("arms", 0, "joints", 0, "velocity"), 0, "above 0"),
        (("arms", 0, "joints", 0, "name"), "right_waist", "stands 2 times"),
        (("arms", 0, "gripper", "joint"), "left_griper", "Did you mean 'left_gripper'?"),
        (("arms", 0, "gripper", "open"), 0.5, "within the joint's limits"),
        (("arms", 0, "gripper", "open"), 0.021, "different positions"),
        (("arms", 0, "joint_states_topic"), "/left//joint_states", "a topic such as"),
        (("arms", 0, "joint_states_topic"), "/left/", "a topic such as"),
        (("arms", 0, "joint_states_topic"), "/2left/joint_states", "a topic such as"),
        (("arms", 0, "joint_states_topic"), "/left/joint-states", "a topic such as"),
        (("arms", 0, "trajectory_topic"), "/left arm/joint_trajectory", "a topic such as"),
        (("arms", 0, "controller_state_topic"), "~/state", "a topic such as"),
        (("cameras", 0, "topic"), "/cämera/image_raw", "a topic such as"),
        (("cameras", 0, "topic"), "/top/image_raw\n", "a topic such as"),
        (("arms", 1, "controller_state_topic"), "/left_arm_controller/controller_state", "stands 2 times"),
        (("arms", 0, "name"), "left arm", "letters, digits"),
        (("arms",), [], "at least one entry"),
        (("cameras", 0, "transport"), "theora", "raw, compressed"),
        (("cameras", 0, "width"), 0, "whole number"),
        (("cameras", 1, "topic"), "/cameras/top/image_raw", "stands 2 times"),
        (("sensors", 0, "message"), "geometry_msgs/Wrench", "geometry_msgs/WrenchStamped"),
        (("sensors", 0, "message"), "std_msgs/Float32MultiArray", "missing key 'size'"),
        (("sensors", 0, "size"), 3, "carries 6 numbers, got 3"),
        (("sensors", 0, "arm"), "lefd", "Did you mean 'left'?"),
        (("sensors", 1, "topic"), "left/wrench", "sensor topic"),
        (("sensors", 1, "name"), "left_wrist_force", "stands 2 times"),
        (("sensors", 0, "rate"), 5, "unknown key 'rate'"),
        (("actions", "representation"), "velocity", "absolute, relative"),
        (("rates", "max_observation_age_s"), 0.01, "one camera period"),
        (("rates",), 5, "expected a mapping"),
    ],
)
def test_refusals_say_the_place_and_what_was_expected(data, path, value, expected):
    damaged = copy.deepcopy(data)
    node = damaged
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    assert expected in refusal(damaged)


@pytest.mark.parametrize("key", ["name", "arms", "cameras", "actions", "rates"])
def test_a_missing_key_is_named(data, key):
    del data[key]
    assert f"missing key '{key}'" in refusal(data)


def test_files_that_are_not_there_or_not_yaml_are_refused(tmp_path):
    with pytest.raises(RobotDescriptionError, match="found nothing"):
        RobotDescription.load(tmp_path / "none.yaml")
    with pytest.raises(RobotDescriptionError, match="found a folder"):
        RobotDescription.load(tmp_path)
    (tmp_path / "bad.yaml").write_text("arms: [unclosed")
    with pytest.raises(RobotDescriptionError, match="not readable YAML"):
        RobotDescription.load(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(RobotDescriptionError, match="expected a mapping"):
        RobotDescription.load(tmp_path / "list.yaml")


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("name: a\nname: b\n", "name", (2, 1)),
        ("arms:\n  - name: left\n    joints: []\n    name: right\n", "name", (4, 2)),
        ('rates: {camera_hz: 30, "camera_hz": 10}\n', "camera_hz", (1, 1)),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path, text, key, lines):
    (tmp_path / "twice.yaml").write_text(text)
    words = f"key '{key}' in line {lines[0]} stands already in line {lines[1]}"
    with pytest.raises(RobotDescriptionError, match=words) as caught:
        RobotDescription.load(tmp_path / "twice.yaml")
    assert "twice.yaml" in str(caught.value)


def test_shipped_files_are_found_in_the_source_tree_in_ros_and_beside_the_installed_code(tmp_path, monkeypatch):
    assert RobotDescription.load(shipped("config/aloha_sim.yaml")).name
    package, share = tmp_path / "lib" / "rdvla_ros", tmp_path / "prefix" / "share" / "rdvla_ros"
    package.mkdir(parents=True)
    monkeypatch.setattr(robot_module, "__file__", str(package / "robot.py"))
    monkeypatch.setenv("AMENT_PREFIX_PATH", os.pathsep.join(["/nowhere", str(tmp_path / "prefix")]))
    assert shipped("config/aloha_sim.yaml") == package / "share" / "config" / "aloha_sim.yaml"
    share.mkdir(parents=True)
    assert shipped("config/aloha_sim.yaml") == share / "config" / "aloha_sim.yaml"


def test_what_pip_installs_finds_its_robot_and_weights_without_the_source_tree(tmp_path):
    root = CONFIG.parent
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", tmp_path / "base", "--build-lib", tmp_path / "lib"]
    built = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    code = (
        "from rdvla_ros.robot import RobotDescription, shipped; robot = RobotDescription.load(shipped('config/aloha_sim.yaml'));"
        " print(robot.name, shipped('checkpoints/compact_aloha/model.safetensors').is_file(), shipped('config'))"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "lib")}
    out = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert out.returncode == 0 and " True " in out.stdout and str(tmp_path / "lib") in out.stdout, out.stdout + out.stderr


def test_topics_without_a_leading_slash_lie_in_the_namespace_of_the_node(data):
    robot = RobotDescription.from_dict(data)
    data["arms"][0]["trajectory_topic"] = "/elsewhere/joint_trajectory"
    mixed = RobotDescription.from_dict(data).in_namespace("/cell_1")
    assert robot.in_namespace("/").cameras[0].topic == robot.in_namespace("").cameras[0].topic == "/cameras/top/image_raw"
    assert robot.in_namespace("/cell_1").arms[0].joint_states_topic == "/cell_1/left/joint_states"
    assert mixed.arms[0].trajectory_topic == "/elsewhere/joint_trajectory"
    assert mixed.in_namespace("/cell_2") == mixed  # in full already


def test_one_topic_written_in_two_ways_is_found(data):
    data["arms"][1]["trajectory_topic"] = "/" + data["arms"][0]["trajectory_topic"]
    assert "stands 2 times" in refusal(data)


def test_a_frame_needs_a_header(data):
    damaged = copy.deepcopy(data)
    damaged["sensors"][0] |= {"message": "std_msgs/Float32MultiArray", "size": 3, "frame_id": "skin"}
    assert "has no header and names no frame" in refusal(damaged)
