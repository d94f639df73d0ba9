"""The policy node: what it refuses to be configured with, its operator, its life cycle and its process."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import rclpy
import yaml
from lifecycle_msgs.msg import Transition
from policy_rig import ACTIVE, INACTIVE, INSTRUCTION, ROBOT_FILE, UNCONFIGURED
from rclpy.node import Node
from rclpy.parameter import Parameter

from rdvla_ros.nodes.common import names
from rdvla_ros.nodes.policy.parameters import PolicyParameters
from rdvla_ros.nodes.policy.worker.loading import load_policy, settings
from rdvla_ros.robot import RobotDescription
from rdvla_ros.srv import SetInstruction
from rdvla_ros.types import CheckpointError

# what is refused at configure


def refused(rig, words):
    assert not rig.change(Transition.TRANSITION_CONFIGURE)
    assert rig.until(lambda: rig.said(words, "ERROR"), 3.0), rig.log
    assert sum("Not configured" in line for line in rig.lines()) == 1, "one line says it"
    assert rig.state() == UNCONFIGURED and not rig.change(Transition.TRANSITION_ACTIVATE) and rig.state() == UNCONFIGURED


def test_row_66_a_robot_file_with_an_unknown_key_is_refused(make_rig, tmp_path):
    data = yaml.safe_load(ROBOT_FILE.read_text())
    data["cameras"][0]["topik"] = data["cameras"][0].pop("topic")
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(data))
    refused(make_rig(robot=str(tmp_path / "robot.yaml")), "unknown key 'topik'")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"robot": "/nowhere/robot.yaml"}, "expected a YAML file, found nothing"),
        ({"robot": ""}, "robot: expected a robot description file, got none"),
        ({"checkpoint": "/nowhere/checkpoint"}, "expected manifest.json and model.safetensors"),
        ({"checkpoint": ""}, "checkpoint: expected a folder"),
    ],
)
def test_a_missing_file_is_refused(make_rig, parameters, words):
    refused(make_rig(**parameters), words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data["arms"].reverse(), "Checkpoint for another robot: joint 0"),
        (lambda data: (data["arms"].pop(), data["sensors"].pop()), "Checkpoint for another robot: it has 14 joints"),
        (lambda data: data["cameras"].pop(), "The checkpoint needs camera 'right_wrist'"),
        (lambda data: data["actions"].update(representation="absolute"), "The checkpoint's actions are relative"),
    ],
)
def test_row_72_a_checkpoint_for_another_robot_is_refused(checkpoint, tmp_path, change, words):
    data = yaml.safe_load(ROBOT_FILE.read_text())
    change(data)
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(data))
    parameters = PolicyParameters(robot=str(tmp_path / "robot.yaml"), checkpoint=str(checkpoint))
    with pytest.raises(CheckpointError, match=words):
        load_policy(settings(parameters, RobotDescription.load(parameters.robot)))


def test_row_72_the_node_refuses_it(make_rig, checkpoint, tmp_path):
    data = yaml.safe_load(ROBOT_FILE.read_text())
    data["arms"].reverse()
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(data))
    refused(make_rig(checkpoint=str(checkpoint), robot=str(tmp_path / "robot.yaml")), "Checkpoint for another robot: joint 0")


def test_row_67_an_observation_age_longer_than_the_chunk_is_refused(make_rig):
    refused(make_rig(max_observation_age_s=0.8), "max_observation_age_s: expected less than the chunk's 0.8 s")


def test_an_unknown_halting_rule_is_refused(make_rig, checkpoint):
    refused(make_rig(checkpoint=str(checkpoint), halting_rule="action_chnge"), "Did you mean 'action_change'")


def test_after_a_refusal_the_parameter_can_be_corrected(make_rig, checkpoint):
    rig = make_rig(checkpoint="")
    refused(rig, "checkpoint: expected a folder")
    assert rig.policy.set_parameters([Parameter("checkpoint", value=str(checkpoint))])[0].successful
    rig.start()
    assert rig.until(lambda: len(rig.decisions) >= 1)
    assert not rig.policy.set_parameters([Parameter("checkpoint", value="")])[0].successful, "not while it is configured"


# operator and lifecycle


@pytest.mark.parametrize("text", ["", "  ", "x" * 513, "x" * 1_000_000, "pick up\nthe cube", "pick\x1b[31m up"])
def test_row_46_an_instruction_in_doubt_is_refused_and_the_old_one_stays(make_rig, text):
    rig = make_rig()
    answer = rig.call(SetInstruction, "/policy/set_instruction", SetInstruction.Request(instruction=text))
    assert not answer.accepted and answer.instruction == INSTRUCTION and "expected" in answer.message


def test_an_accepted_instruction_is_also_the_parameter(make_rig):
    rig = make_rig()
    answer = rig.call(SetInstruction, "/policy/set_instruction", SetInstruction.Request(instruction="pick up the cube"))
    assert answer.accepted and rig.policy.get_parameter("instruction").value == "pick up the cube"


NONSENSE = (float("nan"), float("inf"), -1.0, 1e308, "many", True, [1.0], 1 << 40)


def test_row_65_no_parameter_of_a_policy_that_moves_the_arms_is_changed_to_nonsense(make_rig):
    rig = make_rig().moving()
    names = [field.name for field in fields(PolicyParameters)]
    before = {name: rig.policy.get_parameter(name).value for name in names}
    accepted = set()
    for name in names:
        for value in NONSENSE:
            result = rig.policy.set_parameters([Parameter(name, value=value)])[0]
            assert result.successful or result.reason, (name, value)
            if result.successful:  # of its type, and within its range
                accepted.add((name, value if isinstance(value, str | bool) else "number"))
                assert rig.policy.set_parameters([Parameter(name, value=before[name])])[0].successful
    assert accepted == {("instruction", "many"), ("publish_unconverged", True)}
    assert {name: rig.policy.get_parameter(name).value for name in names} == before
    rig.moving()


def test_row_64_transitions_in_any_order_are_answered_and_nothing_is_sent_while_inactive(make_rig):
    rig = make_rig()
    choices = [
        Transition.TRANSITION_CONFIGURE,
        Transition.TRANSITION_ACTIVATE,
        Transition.TRANSITION_DEACTIVATE,
        Transition.TRANSITION_CLEANUP,
        99,
    ]
    rng = random.Random(1)
    assert not rig.change(Transition.TRANSITION_ACTIVATE)
    for _ in range(40):
        rig.change(rng.choice(choices))
        assert rig.state() in (UNCONFIGURED, INACTIVE, ACTIVE)
        if rig.state() != ACTIVE:
            rig.executor.spin_once(timeout_sec=0.0)
            rig.spin(0.05)
            assert not rig.policy._active
    while rig.state() != ACTIVE:
        rig.change(Transition.TRANSITION_CONFIGURE if rig.state() == UNCONFIGURED else Transition.TRANSITION_ACTIVATE)
    count = len(rig.sent["left"])
    assert rig.until(lambda: len(rig.sent["left"]) > count), "it still works"
    rig.change(Transition.TRANSITION_DEACTIVATE)
    rig.spin(0.2)
    count = len(rig.sent["left"])
    rig.spin(0.5)
    assert len(rig.sent["left"]) == count


# the process


def start_process(*parameters):
    command = [sys.executable, "-m", "rdvla_ros.nodes.policy.node", "--ros-args", "-p", f"robot:={ROBOT_FILE}"]
    command += [word for parameter in parameters for word in ("-p", parameter)]
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_row_59_a_signal_ends_the_process_with_code_0_within_two_seconds(checkpoint, number):
    """And the graph does not keep it until its lease ends."""
    context = rclpy.Context()
    rclpy.init(context=context)
    watcher = Node("watcher", context=context)
    process = start_process(f"checkpoint:={checkpoint}", "autostart:=true", "gate:=false")
    try:
        line = ""
        while "Configured for" not in line:
            line = process.stdout.readline()
            assert line, "the process ended before it was configured"
        seen_by = time.monotonic() + 20.0  # the watcher may learn of it later than it is configured
        while names.POLICY not in watcher.get_node_names() and time.monotonic() < seen_by:
            time.sleep(0.05)
        assert names.POLICY in watcher.get_node_names()
        begun = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=10) == 0
        assert time.monotonic() - begun < 2.0
        gone_by = time.monotonic() + 5.0  # a lease lasts 20 s
        while names.POLICY in watcher.get_node_names() and time.monotonic() < gone_by:
            time.sleep(0.05)
        assert names.POLICY not in watcher.get_node_names()
    finally:
        process.kill()
        process.stdout.close()
        watcher.destroy_node()
        context.try_shutdown()


def test_row_66_a_misspelt_parameter_ends_the_process_with_one_line():
    process = start_process("instrction:=go")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "Unknown parameter 'instrction'" in output and "Did you mean 'instruction'" in output
    assert "Traceback" not in output


def test_a_parameter_file_that_cannot_be_read_ends_the_process_with_one_line(tmp_path):
    (tmp_path / "parameters.yaml").write_text("policy: [")
    command = [
        sys.executable,
        "-m",
        "rdvla_ros.nodes.policy.node",
        "--ros-args",
        "--params-file",
        str(tmp_path / "parameters.yaml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).resolve().parents[1])
    assert done.returncode == 1 and "[ERROR] The arguments were not understood" in done.stderr and "Traceback" not in done.stderr
