"""The robot description: what it says about the arms, and how it refuses what it cannot use."""

import copy
from pathlib import Path

import numpy as np
import pytest
import yaml

from rdvla_ros.robot import RobotDescription
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
        (("arms", 0, "joint_states_topic"), "joint_states", "absolute topic"),
        (("arms", 0, "name"), "left arm", "letters, digits"),
        (("arms",), [], "at least one entry"),
        (("cameras", 0, "transport"), "theora", "raw, compressed"),
        (("cameras", 0, "width"), 0, "whole number"),
        (("cameras", 1, "topic"), "/cameras/top/image_raw", "stands 2 times"),
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
