"""The scripted expert: geometry, recoveries, and labels that are what it would do."""

import numpy as np
import pytest

from rdvla_ros.learning.recording.demonstrate import Demonstrator
from rdvla_ros.learning.recording.episodes import EpisodeError, episode_path, load_episode, save_episode
from rdvla_ros.robot import RobotDescription
from rdvla_ros.sim import SimulationError
from rdvla_ros.sim.expert import PERIOD_S, Expert
from rdvla_ros.sim.kinematics import TOOL_OFFSET_M, tool_body
from rdvla_ros.sim.motion import rotation_matrix, rotation_vector
from rdvla_ros.sim.scene import ARMS, JOINT_NAMES, AlohaSim
from rdvla_ros.sim.view import aligned, approach, hand_rotation, upright_turn, yaw_of

STEPS = round(PERIOD_S / 0.002)


@pytest.fixture(scope="module")
def robot(request) -> RobotDescription:
    return RobotDescription.load(request.config.rootpath / "config/aloha_sim.yaml")


@pytest.fixture(scope="module")
def demonstrator(robot) -> Demonstrator:
    return Demonstrator("transfer_cube", robot)


def run(sim: AlohaSim, robot: RobotDescription, expert: Expert, seconds: float, spoil=None) -> list[str]:
    """Phases met; `spoil(time_s, reference)` may change what is executed."""
    memory, phases = expert.begin(sim), []
    while sim.time_s < seconds:
        memory, phase = expert.step(sim, memory)
        if not phases or phases[-1] != phase:
            phases.append(phase)
        reference = memory.reference.copy()
        if spoil:
            spoil(sim.time_s, reference)
        sim.set_reference(robot.from_policy(reference))
        sim.step(STEPS)
    return phases


def test_rotation_vector_and_matrix_are_inverse():
    rng = np.random.default_rng(0)
    for vector in rng.uniform(-1.7, 1.7, (50, 3)):
        matrix = rotation_matrix(vector)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(rotation_vector(matrix), vector, atol=1e-9)
    np.testing.assert_array_equal(rotation_vector(np.eye(3)), 0.0)


def test_hands_point_to_each_other_and_down():
    for arm, forward in (("left", 1.0), ("right", -1.0)):
        hand = hand_rotation(arm, np.deg2rad(60.0))
        np.testing.assert_allclose(hand[:, 0], [forward * 0.5, 0.0, -np.sqrt(0.75)], atol=1e-12)
        assert np.linalg.det(hand) == pytest.approx(1.0)


def test_symmetries_of_cube_and_bar():
    rng = np.random.default_rng(1)
    for yaw in rng.uniform(-0.7, 0.7, 20):
        turned = rotation_matrix(np.array([0.0, 0.0, yaw]))
        on_its_side = turned @ rotation_matrix(np.array([np.pi / 2, 0.0, 0.0]))
        assert yaw_of(turned) == pytest.approx(yaw)
        assert yaw_of(on_its_side) == pytest.approx(yaw)
        half_turn = turned @ rotation_matrix(np.array([0.0, 0.0, np.pi]))
        np.testing.assert_allclose(upright_turn(half_turn, np.eye(3)) @ half_turn[:, 0], [-1.0, 0.0, 0.0], atol=1e-9)
        nearest = aligned(np.eye(3), turned)
        np.testing.assert_allclose(nearest, turned, atol=1e-12)


def test_approach_goes_deeper_as_the_error_shrinks():
    rotation, goal = hand_rotation("right", 1.0), np.array([0.1, 0.5, 0.02])
    backs = []
    for sideways in (0.06, 0.03, 0.015, 0.004):
        tool = (goal + sideways * rotation[:, 1], rotation)
        backs.append(float((goal - approach(tool, goal, rotation, 0.09)) @ rotation[:, 0]))
    assert backs == sorted(backs, reverse=True)
    assert backs[0] == pytest.approx(0.09) and backs[-1] == pytest.approx(0.0)


def test_tool_poses_are_those_of_the_simulator_and_velocities_reach_a_target(demonstrator):
    sim, kinematics = demonstrator.sim, demonstrator.expert.kinematics
    sim.reset(0)
    poses = kinematics.tool_poses(sim.positions)
    for arm in ARMS:
        position, rotation = sim.object_pose(tool_body(arm))
        np.testing.assert_allclose(poses[arm][0], position + TOOL_OFFSET_M * rotation[:, 0], atol=1e-6)
    targets = {arm: (poses[arm][0] + [0.0, 0.03, -0.04], poses[arm][1]) for arm in ARMS}
    q = sim.positions
    for _ in range(100):
        kinematics.tool_poses(q)
        q = q + kinematics.velocities(targets, PERIOD_S) * PERIOD_S
    for arm, (position, rotation) in kinematics.tool_poses(q).items():
        np.testing.assert_allclose(position, targets[arm][0], atol=2e-3)
        np.testing.assert_allclose(rotation, targets[arm][1], atol=1e-2)


def test_a_cube_dropped_on_the_way_is_picked_up_again(demonstrator, robot):
    sim = demonstrator.sim
    sim.reset(10003)
    gripper = JOINT_NAMES.index("right_gripper")

    def drop(time_s, reference):
        if 2.6 < time_s < 3.1:
            reference[gripper] = 1.0

    phases = run(sim, robot, demonstrator.expert, 10.5, drop)
    assert phases.count("close") >= 2
    assert sim.stage() == 4 and demonstrator.expert.strategy.finished(demonstrator.expert.view(sim))


def test_asking_changes_nothing(demonstrator):
    """The expert and the labels leave the simulator as it was, and the same state gives the same answer."""
    sim = demonstrator.sim
    sim.reset(10001)
    before = sim.snapshot()
    labels = demonstrator.relabel(sim, rows=4)
    np.testing.assert_array_equal(sim.snapshot().state, before.state)
    np.testing.assert_array_equal(demonstrator.relabel(sim, rows=4), labels)
    assert labels.shape == (4, 14) and labels.dtype == np.float32


def test_labels_of_an_undisturbed_episode_are_what_is_executed_next(demonstrator, monkeypatch):
    monkeypatch.setattr("rdvla_ros.learning.recording.demonstrate.LABEL_ROWS", 3)
    monkeypatch.setattr("rdvla_ros.learning.recording.demonstrate.TIME_LIMIT_S", 0.8)
    monkeypatch.setattr(Demonstrator, "pictures", lambda self, sim: np.zeros((3, 2, 2, 3), np.uint8))
    rows = demonstrator.rows(10002, disturbed=False)
    executed = np.stack([row.executed for row in rows]).astype(np.float32)
    for i in range(3):
        labels = np.stack([row.labels[i] for row in rows[: -i - 1]])
        np.testing.assert_allclose(labels, executed[i + 1 :], atol=1e-6)
    assert np.abs(np.diff(executed, axis=0)).max() > 0.01


def test_a_recorded_episode_survives_the_disk(demonstrator, tmp_path):
    demonstrator.sim.reset(0)
    try:
        demonstrator.pictures(demonstrator.sim)
    except SimulationError as error:
        pytest.skip(f"no GL library on this machine: {error}")
    episode = demonstrator.record(10004, disturbed=False)
    path = save_episode(tmp_path, episode)
    assert [file.name for file in tmp_path.iterdir()] == ["episode_010004.npz"]
    loaded = load_episode(path)
    np.testing.assert_array_equal(loaded.images, episode.images)
    np.testing.assert_array_equal(loaded.labels, episode.labels)
    steps = len(loaded.positions)
    assert loaded.images.shape == (steps, 3, 180, 240, 3) and loaded.labels.shape == (steps, 12, 14)
    assert loaded.max_stage == 4 and loaded.stage[-1] == 4 and 40 < steps < 90
    assert (loaded.task, loaded.seed, tuple(loaded.joint_names)) == ("transfer_cube", 10004, JOINT_NAMES)
    assert {"reach", "close", "carry", "meet", "take", "release", "retreat"} == set(loaded.phase.tolist())


def test_files_that_are_no_episodes_are_refused_by_name(tmp_path):
    path = episode_path(tmp_path, 1)
    path.write_bytes(b"not an archive")
    with pytest.raises(EpisodeError, match="episode_000001.npz: expected an episode"):
        load_episode(path)
    np.savez(path, images=np.zeros(1))
    with pytest.raises(EpisodeError, match="field 'positions' is missing"):
        load_episode(path)
