"""Faults of configuration: parameters set at run time, robot descriptions and parameters that make no sense together."""

import contextlib
import copy
import math
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from gate_rig import GateRig, motion
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.parameter import Parameter

from rdvla_ros.nodes.gate.parameters import GateParameters
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import RdvlaError, RobotDescriptionError

NONSENSE = (math.nan, math.inf, -math.inf, -1.0, 1e308, -1, 2**62, True, "", "nonsense", [1.0, math.nan], ["a"])
RELAXED = {"heartbeat_timeout_s": 5.0, "longest_motion_s": 10.0, "obey_s": 2.0, "operator": "off", "joint_timeout_s": 5.0}
DATA = yaml.safe_load((Path(__file__).parent.parent / "config" / "aloha_sim.yaml").read_text())


@pytest.fixture(scope="module")
def rig():
    with contextlib.closing(GateRig()) as rig:
        yield rig


def test_row_65_no_parameter_of_a_moving_gate_is_changed_to_nonsense_or_relaxed(rig):
    names = [field.name for field in fields(GateParameters)]
    before = {name: rig.gate.get_parameter(name).value for name in names}
    rig.go()
    rig.pass_motion(motion(change=0.1))
    attempts = [(name, value) for name in names for value in NONSENSE if value != before[name]] + list(RELAXED.items())
    for name, value in attempts:
        result = rig.gate.set_parameters([Parameter(name, value=value)])[0]
        assert not result.successful and result.reason, (name, value)
    assert {name: rig.gate.get_parameter(name).value for name in names} == before
    assert rig.gate._values.heartbeat_timeout_s == before["heartbeat_timeout_s"]


def test_row_65_over_the_parameter_services_all_or_nothing_is_refused_with_a_reason(rig):
    wanted = [Parameter("obey_s", value=2.0).to_parameter_msg(), Parameter("skew_s", value=math.nan).to_parameter_msg()]
    for kind, name in ((SetParameters, "set_parameters"), (SetParametersAtomically, "set_parameters_atomically")):
        client = rig.node.create_client(kind, f"/gate/{name}")
        rig.until(client.service_is_ready, "the service")
        future = client.call_async(kind.Request(parameters=wanted))
        rig.until(future.done, "an answer")
        results = future.result().results if kind is SetParameters else [future.result().result]
        assert all(not result.successful and "Restart the node" in result.reason for result in results), results
    assert rig.gate.get_parameter("obey_s").value == 0.3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"heartbeat_period_s": 0.05, "heartbeat_timeout_s": 0.06}, "heartbeat_timeout_s: expected at least two beats"),
        ({"bad_joint_s": 2.0, "joint_timeout_s": 0.2}, "bad_joint_s: expected at most joint_timeout_s"),
        ({"takeover_prefix": "policy"}, "takeover_prefix: expected another one than policy_prefix"),
        ({"longest_motion_s": math.nan}, "longest_motion_s: expected a number"),
        ({"hart_beat": 1.0}, "Unknown parameter 'hart_beat'"),
    ],
)
def test_row_67_parameters_of_the_gate_that_make_no_sense_together_are_refused_at_start(rig, values, words):
    with pytest.raises(RdvlaError, match=words):
        rig.make_gate(**values)


def refused(change, words):
    data = copy.deepcopy(DATA)
    change(data)
    with pytest.raises(RobotDescriptionError, match=words):
        RobotDescription.from_dict(data, source="my_robot.yaml")


def joint(data):
    return data["arms"][0]["joints"][0]


def test_row_67_a_robot_without_joints_or_with_limits_the_wrong_way_round_is_refused():
    refused(lambda data: data["arms"][0].update(joints=[]), "at least one")
    refused(lambda data: joint(data).update(lower=1.0, upper=-1.0), "lower < upper")
    refused(lambda data: data["arms"].clear(), "at least one")


@pytest.mark.parametrize("limit", ["lower", "upper", "velocity"])
def test_row_68_a_joint_without_a_limit_is_refused_and_never_taken_for_unlimited(limit):
    refused(lambda data: joint(data).pop(limit), f"missing key '{limit}'")
    for value in (None, math.inf, -math.inf, math.nan, ".inf", 0 if limit == "velocity" else "none"):
        refused(lambda data, value=value: joint(data).update({limit: value}), limit)


@pytest.mark.parametrize("key", ["type", "mimic", "continuous"])
def test_row_68_a_continuous_or_mimicking_joint_cannot_be_described(key):
    refused(lambda data: joint(data).update({key: "continuous"}), f"'{key}'")


def test_row_66_an_unknown_key_of_the_robot_description_names_the_nearest():
    refused(lambda data: joint(data).update(velocty=1.0), "Did you mean 'velocity'")
