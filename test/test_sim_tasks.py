"""The success measure is gym-aloha's own, and attainable with this version of MuJoCo."""

import numpy as np
import pytest

from rdvla_ros.robot import RobotDescription
from rdvla_ros.sim.expert import PERIOD_S, Expert
from rdvla_ros.sim.scene import AlohaSim
from rdvla_ros.sim.tasks.aloha import ALOHA_TASKS

TIME_LIMIT_S = {"transfer_cube": 7.0, "insertion": 8.0}


@pytest.fixture(scope="module", params=[task.name for task in ALOHA_TASKS])
def episode(request):
    """One nominal expert episode: task, simulator, snapshots every 0.1 s, expert, and the velocities it commanded."""
    sim = AlohaSim(request.param)
    robot = RobotDescription.load(request.config.rootpath / "config/aloha_sim.yaml")
    expert = Expert(sim.task, robot)
    sim.reset(10007)
    memory, snapshots, stages, speeds, pairs = expert.begin(sim), [], [], [], set()
    while sim.time_s < TIME_LIMIT_S[request.param]:
        memory, _ = expert.step(sim, memory)
        sim.set_reference(robot.from_policy(memory.reference))
        sim.step(round(PERIOD_S / sim.timestep_s))
        speeds.append(memory.velocity)
        stages.append(sim.stage())
        pairs |= sim.meter.contacts()
        if len(speeds) % 5 == 0:
            snapshots.append(sim.snapshot())
    return {"sim": sim, "snapshots": snapshots, "stages": stages, "pairs": pairs, "speeds": np.array(speeds)}


def test_the_expert_succeeds_and_passes_through_the_stages(episode):
    assert episode["sim"].max_stage == 4
    assert episode["sim"].reached
    first = [episode["stages"].index(stage) for stage in sorted(set(episode["stages"]))]
    assert first == sorted(first)  # no stage is met before a lower one


def test_contacts_name_the_object_first(episode):
    """gym-aloha counts a contact only as (object, finger) or (object, table): the other order must not occur."""
    objects = {"red_box", "red_peg", "socket-1", "socket-2", "socket-3", "socket-4", "pin"}
    others = {name for pair in episode["pairs"] for name in pair} - objects
    assert not [pair for pair in episode["pairs"] if pair[0] in others and pair[1] in objects]
    assert not [pair for pair in episode["pairs"] if pair[1] == "red_peg"]


def test_the_stage_equals_the_reward_on_a_dm_control_physics(episode):
    """The same states in dm_control's own Physics, asked by gym-aloha's own task."""
    mujoco = pytest.importorskip("dm_control.mujoco")
    from gym_aloha.tasks import sim as tasks

    from rdvla_ros.sim.tasks.aloha import scene_path

    sim = episode["sim"]
    physics = mujoco.Physics.from_xml_path(str(scene_path(sim.task)))
    task = getattr(tasks, sim.task.reward_class)(random=False)
    met = set()
    for snapshot in episode["snapshots"][::4]:
        sim.restore(snapshot)
        with physics.reset_context():
            physics.data.qpos[:], physics.data.qvel[:] = sim.data.qpos, sim.data.qvel
            physics.data.ctrl[:] = sim.data.ctrl
        assert task.get_reward(physics) == sim.stage()
        met.add(sim.stage())
    assert {0, 2, 4} <= met


def test_the_expert_keeps_its_speed_and_acceleration(episode):
    speeds = episode["speeds"]
    assert np.abs(speeds).max() <= 1.2 + 1e-6
    assert np.abs(np.diff(speeds, axis=0)).max() / PERIOD_S <= 6.0 + 1e-6


def test_reached_means_a_right_finger_at_the_object():
    sim = AlohaSim("transfer_cube")
    sim.reset(0)
    assert not sim.reached
    box = int(sim.model.joint("red_box_joint").qposadr[0])
    finger = sim.data.geom("vx300s_right/10_right_gripper_finger").xpos
    sim.data.qpos[box : box + 3] = finger
    sim.step(1)
    assert sim.reached
