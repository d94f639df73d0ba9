"""Further readings (force, touch) as context tokens: from a dataset's feature over training to a decision."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from policy_cases import observation, robot, tiny_config, write_episodes

from rdvla_ros.learning.config import TrainingError
from rdvla_ros.learning.training.parallel import Team
from rdvla_ros.learning.training.train import train
from rdvla_ros.model.checkpoint import MANIFEST
from rdvla_ros.model.checks import HeadInputError
from rdvla_ros.model.config import HeadConfig, HeadConfigError
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.normalization import Scaler, SensorSpace
from rdvla_ros.model.policy import Policy
from rdvla_ros.types import CheckpointError, ObservationError

SENSORS = {"left_force": "observation.state", "right_force": "action"}  # stand-ins: any feature of numbers will do


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sensors")
    config = tiny_config()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, sensors=SENSORS), steps=2, decay_steps=1)
    data = write_episodes(folder / "set", count=4, steps=4)
    out = train(config, [data], folder / "run", robot(), resume=False, team=Team())
    train(dataclasses.replace(config, steps=3), [data], folder / "run", robot(), resume=True, team=Team())
    return out, config, data


def seen(left: float, right: float = 0.0):
    return observation(sensors={"left_force": np.full(14, left), "right_force": np.full(14, right)})


def test_a_policy_is_trained_with_readings_and_decides_by_them(trained):
    manifest = json.loads((trained[0] / MANIFEST).read_text())
    assert manifest["statistics"]["sensors"]["widths"] == {"left_force": 14, "right_force": 14}
    assert manifest["model"]["head_config"]["sensors"] == [14, 14] and manifest["training"]["step"] == 3
    policy = Policy.load(trained[0])
    policy.warm_up()
    start = policy.model.head.initial_state(1, torch.Generator().manual_seed(0))
    chunks = [policy.decide(seen(*force), initial_state=start).chunk.positions for force in ((0.0,), (0.0,), (0.1,), (0.0, 0.1))]
    assert np.array_equal(chunks[0], chunks[1])
    assert not np.array_equal(chunks[0], chunks[2]) and not np.array_equal(chunks[0], chunks[3])


def test_a_decision_says_which_readings_were_cut(trained):
    policy = Policy.load(trained[0])
    space = policy.checkpoint.space.sensors
    left, right = np.split(0.5 * (space.scaler.low + space.scaler.high), 2)
    sensors = {"left_force": left, "right_force": right.copy()}
    assert policy.decide(observation(sensors=sensors)).notes == ()
    sensors["right_force"][3] += 1.01 * 1.5 * (space.scaler.high - space.scaler.low)[17]  # three times half the range, and more
    (note,) = policy.decide(observation(sensors=sensors)).notes
    assert note.startswith("sensor 'right_force' reads ") and "(number 4 of 14)" in note
    cut = space.scaler.denormalise(space.encode_named(sensors))[17]
    assert f"takes it for {cut:.4g}" in note
    sensors["right_force"][3] -= 0.02 * 1.5 * (space.scaler.high - space.scaler.low)[17]
    assert policy.decide(observation(sensors=sensors)).notes == ()


def test_readings_that_are_missing_or_broken_stop_the_decision(trained):
    policy = Policy.load(trained[0])
    for sensors, words in (
        ({}, "No reading of sensor 'left_force'. Known: none"),
        ({"left_force": np.zeros(14), "right_fore": np.zeros(14)}, "Did you mean 'right_fore'"),
        ({"left_force": np.zeros(3), "right_force": np.zeros(14)}, "'left_force': expected 14 finite numbers"),
        ({"left_force": np.full(14, np.nan), "right_force": np.zeros(14)}, "expected 14 finite numbers"),
    ):
        with pytest.raises(ObservationError, match=words):
            policy.decide(observation(sensors=sensors))


def test_a_robot_without_the_sensor_is_refused(trained):
    policy, description = Policy.load(trained[0]), robot()
    fits = (description.joint_names, description.camera_names, description.representation, description.gripper_joints)
    with pytest.raises(CheckpointError, match="needs readings of sensor 'left_force', which the robot lacks"):
        policy.require_robot(*fits)
    policy.require_robot(*fits, sensors={"right_force": 14, "left_force": 14, "more": 1})
    with pytest.raises(CheckpointError, match="'left_force': the checkpoint was trained with 14 numbers, the robot's has 6"):
        policy.require_robot(*fits, sensors={"right_force": 14, "left_force": 6})


def test_a_manifest_that_contradicts_the_head_is_refused(trained, tmp_path):
    import shutil

    folder = shutil.copytree(trained[0], tmp_path / "copy")
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["statistics"]["sensors"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"head_config.sensors: expected \[\] as in the statistics, got \[14, 14\]"):
        Policy.load(folder)
    with pytest.raises(CheckpointError, match="sensors.widths"):
        SensorSpace.from_dict({"widths": {"a": 0}, "low": [], "high": []})


def test_a_feature_that_is_not_there_is_named(trained, tmp_path):
    _, config, data = trained
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, sensors={"left_force": "observation.stat"}))
    with pytest.raises(TrainingError, match="Did you mean 'observation.state'"):
        train(config, [data], tmp_path / "run", robot(), resume=False, team=Team())


def test_the_head_wants_the_readings_it_was_made_for():
    config = HeadConfig(16, 2, (1,), (1,), (1,), 4, 3, 3, sensors=(2, 1))
    head = RDVLAHead(config)
    states = {1: torch.randn(2, 5, 16)}
    context = head.encode(states, states, torch.zeros(2, 3), torch.zeros(2, 3))
    assert context.batch == 2 and HeadConfig.from_dict(config.to_dict()) == config
    with pytest.raises(HeadInputError, match="sensors: expected a tensor"):
        head.encode(states, states, torch.zeros(2, 3))
    with pytest.raises(HeadInputError, match="sensors: expected shape 2 x 3"):
        head.encode(states, states, torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(HeadConfigError, match="sensors"):
        HeadConfig(16, 2, (1,), (1,), (1,), 4, 3, 3, sensors=(0,))


def test_a_blow_is_cut_off():
    space = SensorSpace({"force": 1}, Scaler(np.array([-1.0]), np.array([1.0])))
    assert space.encode(np.array([[0.5], [100.0]])).tolist() == [[0.5], [3.0]]
