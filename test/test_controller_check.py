"""What a controller is set to, against what the robot description says of it: the judgement, and the gate that reads it."""

from pathlib import Path

import pytest
import yaml

from rdvla_ros.control.supervision.controller_check import problems, rule_of
from rdvla_ros.robot import ControllerRule, RobotDescription
from rdvla_ros.types import RobotDescriptionError

FILE = Path(__file__).parent.parent / "config" / "aloha_sim.yaml"
JAZZY = {"interpolate_from_desired_state": True, "open_loop_control": False, "update_rate": 500}
STATED = ControllerRule("jazzy", 500.0, frozenset({"rule", "update_rate_hz"}))


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"open_loop_control": True}, "humble"),
        (JAZZY, "jazzy"),
        ({"interpolate_from_desired_state": False}, "jazzy"),
        ({"interpolate_from_desired_state": True, "allow_trajectory_replacement": False}, "jazzy"),
        ({"interpolate_from_desired_state": True, "allow_trajectory_replacement": True}, "master"),
        ({"update_rate": 100}, ""),
        ({}, ""),
    ],
)
def test_the_parameters_tell_the_rule(values, rule):
    assert rule_of(values) == rule


def test_what_agrees_and_what_cannot_be_read_stands_in_no_way():
    assert problems("left", STATED, JAZZY) == problems("left", STATED, {}) == problems("left", STATED, {"update_rate": 0}) == []


def test_a_wrong_setting_is_named_with_the_one_that_is_right():
    humble = problems("left", STATED, {"open_loop_control": True, "update_rate": 250})
    assert len(humble) == 2
    assert "'left'" in humble[0] and "'humble'" in humble[0] and "{rule: humble}" in humble[0]
    assert "250 Hz, expected 500" in humble[1]


def test_what_the_description_does_not_state_is_not_compared():
    assert problems("left", ControllerRule(), {"open_loop_control": True, "update_rate": 250}) == []


def test_trajectory_replacement_is_never_accepted():
    values = {**JAZZY, "allow_trajectory_replacement": True}
    for expected in (STATED, ControllerRule(), ControllerRule("master", 500.0, frozenset({"rule"}))):
        (problem,) = problems("right", expected, values)
        assert "allow_trajectory_replacement" in problem and "Expected false" in problem


def test_the_description_states_rule_and_rate_or_one_of_them_or_nothing():
    data = yaml.safe_load(FILE.read_text())
    assert RobotDescription.from_dict(data).controller == STATED
    data["controller"] = {"rule": "humble"}
    assert RobotDescription.from_dict(data).controller == ControllerRule("humble", 100.0, frozenset({"rule"}))
    del data["controller"]
    assert RobotDescription.from_dict(data).controller == ControllerRule()


@pytest.mark.parametrize(
    ("controller", "words"),
    [({"rule": "foxy"}, "humble, jazzy, master"), ({"update_rate_hz": 0}, "above 0"), ({"rate": 5}, "unknown key 'rate'")],
)
def test_a_description_that_means_nothing_is_refused(controller, words):
    data = yaml.safe_load(FILE.read_text())
    data["controller"] = controller
    with pytest.raises(RobotDescriptionError, match=words):
        RobotDescription.from_dict(data)
