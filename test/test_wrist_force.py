"""Wrist force from the simulator over dataset and training to a decision, without nodes."""

from __future__ import annotations

import dataclasses

import mujoco
import numpy as np
import pytest
from policy_cases import robot, tiny_config

pytest.importorskip("gym_aloha", reason="needs the simulator's scenes")

from rdvla_ros.control.motion.horizon import make_horizon
from rdvla_ros.learning.data.lerobot.reader import LeRobotDataset
from rdvla_ros.learning.evaluation.rollout import Rollout, RolloutConfig
from rdvla_ros.learning.recording.assemble import assemble, recording_folder
from rdvla_ros.learning.recording.demonstrate import Demonstrator
from rdvla_ros.learning.recording.episodes import EpisodeError, load_episode, save_episode
from rdvla_ros.learning.training.parallel import Team
from rdvla_ros.learning.training.train import train
from rdvla_ros.model.policy import Policy
from rdvla_ros.robot import Sensor
from rdvla_ros.sim import SimulationError
from rdvla_ros.sim.readings import WRIST_BODY, check_sensors, readings, wrist_wrenches
from rdvla_ros.sim.scene import ARMS, AlohaSim
from rdvla_ros.types import ObservationError

FEATURES = {sensor.name: f"observation.sensors.{sensor.name}" for sensor in robot().sensors}


@pytest.fixture(scope="module")
def sim():
    return AlohaSim("insertion")


def test_the_wrench_is_that_of_mujoco_s_own_sensors_and_reading_it_changes_nothing(sim):
    spec = sim.task.spec()
    for arm in ARMS:
        spec.body(WRIST_BODY.format(arm=arm)).add_site(name=arm)
        for kind in (mujoco.mjtSensor.mjSENS_FORCE, mujoco.mjtSensor.mjSENS_TORQUE):
            spec.add_sensor(name=f"{arm} {kind}", type=kind, objtype=mujoco.mjtObj.mjOBJ_SITE, objname=arm)
    model = spec.compile()
    data = mujoco.MjData(model)
    sim.reset(70000)
    sim.set_reference(sim.positions + 0.3)  # both arms in motion, fingers too
    sim.step(20)
    before = sim.snapshot()
    mujoco.mj_setState(model, data, before.state, mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(model, data)
    wrenches = wrist_wrenches(sim)
    assert np.allclose(np.concatenate([wrenches[arm] for arm in ARMS]), data.sensordata, rtol=1e-6, atol=1e-6)
    assert np.abs(data.sensordata).max() > 1.0
    assert np.array_equal(sim.snapshot().state, before.state)


def test_a_hand_at_rest_weighs_what_it_weighs(sim):
    sim.reset(70000)
    sim.step(200)
    for arm, wrench in wrist_wrenches(sim).items():
        mass = sim.model.body_subtreemass[sim.model.body(WRIST_BODY.format(arm=arm)).id]
        assert np.linalg.norm(wrench[:3]) == pytest.approx(9.81 * mass, rel=0.02)


def test_a_sensor_that_the_simulated_robot_lacks_is_refused():
    check_sensors(robot().sensors)
    for sensor in (Sensor("skin", "skin", "std_msgs/Float32MultiArray", 3), Sensor("f", "f", "geometry_msgs/WrenchStamped", 6)):
        with pytest.raises(SimulationError, match=f"Sensor '{sensor.name}': the simulated robot has one force sensor per wrist"):
            check_sensors([sensor])


def test_force_goes_from_a_demonstration_to_a_decision(tmp_path, monkeypatch):
    monkeypatch.setattr("rdvla_ros.learning.recording.demonstrate.TAIL_STEPS", 1)  # an episode that ends early counts
    demonstrator = Demonstrator("insertion", robot(), size=(48, 36))
    monkeypatch.setattr(Demonstrator, "perform", _first_steps)
    folder = tmp_path / "set"
    parts = recording_folder(folder)
    for seed in range(70000, 70004):
        save_episode(parts, demonstrator.record(seed))
    episode = load_episode(parts / "episode_070001.npz")
    assert list(episode.sensors()) == list(FEATURES) and episode.readings.shape == (len(episode.positions), 12)
    assert np.ptp(episode.readings, axis=0).max() > 0.05, "an arm that begins to move is felt"
    assemble(folder, "aloha_sim")
    data = LeRobotDataset(folder)
    assert data.numbers(FEATURES["right_wrist_force"]).shape[1] == 6
    config = tiny_config(steps=2, decay_steps=1)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, sensors=FEATURES))
    policy = Policy.load(train(config, [folder], tmp_path / "run", robot(), resume=False, team=Team()))
    policy.require_robot(
        robot().joint_names, robot().camera_names, robot().representation, robot().gripper_joints, robot().sensor_sizes
    )
    sim = demonstrator.sim
    horizon = make_horizon({"rule": "fixed", "length": 4})
    result = Rollout(policy, sim, robot(), horizon, RolloutConfig(time_limit_s=0.3)).run(70005)
    assert result.decisions == 1 and policy.sensor_names == tuple(FEATURES)
    without = Rollout(policy, sim, dataclasses.replace(robot(), sensors=()), horizon)
    with pytest.raises(ObservationError, match="No reading of sensor 'left_wrist_force'"):
        without.run(70005)
    save_episode(parts, dataclasses.replace(episode, seed=70009, readings=None, sensor_names=np.array([], str)))
    assert load_episode(parts / "episode_070009.npz").sensors() == {}
    with pytest.raises(EpisodeError, match="expected sensors .'left_wrist_force', 'right_wrist_force'. as in"):
        assemble(folder, "aloha_sim")


def _first_steps(self, seed, disturbed=True):
    """The undisturbed expert's first four steps: pictures and labels cost most of a demonstration."""
    self.sim.reset(seed)
    memory = self.expert.begin(self.sim)
    for _ in range(4):
        yield memory, True
        memory = self._perform(self.expert, memory, None)


def test_readings_follow_the_sensors_of_the_description(sim):
    sim.reset(70000)
    both = readings(sim, robot().sensors)
    assert list(both) == list(FEATURES) and all(values.shape == (6,) for values in both.values())
    assert readings(sim, ()) == {}
