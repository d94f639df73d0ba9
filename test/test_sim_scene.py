"""The simulated robot: joints, state, pictures."""

import ctypes.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rdvla_ros.robot import RobotDescription
from rdvla_ros.sim import SimulationError
from rdvla_ros.sim.rendering import Renderer
from rdvla_ros.sim.scene import JOINT_NAMES, START_POSITIONS, AlohaSim

ROBOT = "config/aloha_sim.yaml"


@pytest.fixture(scope="module")
def sim() -> AlohaSim:
    return AlohaSim("transfer_cube")


def test_joints_are_those_of_the_shipped_robot_description(sim, request):
    robot = RobotDescription.load(request.config.rootpath / ROBOT)
    assert robot.joint_names == JOINT_NAMES
    np.testing.assert_allclose(robot.limit("lower"), sim.limits[:, 0])
    np.testing.assert_allclose(robot.limit("upper"), sim.limits[:, 1])


def test_an_episode_starts_at_rest_at_the_start_pose_with_the_cube_on_the_table(sim):
    sim.reset(7)
    assert sim.time_s == 0.0
    np.testing.assert_allclose(sim.positions, START_POSITIONS, atol=0.015)
    assert np.abs(sim.velocities).max() < 1e-2
    assert sim.object_pose("box")[0][2] == pytest.approx(0.02, abs=1e-3)
    assert (sim.stage(), sim.max_stage, sim.reached) == (0, 0, False)


def test_the_same_seed_gives_the_same_episode_and_another_seed_another(sim):
    runs = []
    for seed in (3, 3, 4):
        sim.reset(seed)
        sim.step(50)
        runs.append(sim.data.qpos.copy())
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 1e-3


def test_every_joint_follows_its_own_reference_and_the_fingers_mirror(sim):
    sim.reset(0)
    for column, name in enumerate(JOINT_NAMES):
        sim.reset(0)
        reference = sim.reference
        step = 0.02 if name.endswith("gripper") else 0.2
        reference[column] += step
        before = sim.positions
        sim.set_reference(reference)
        sim.step(500)
        moved = sim.positions - before
        assert moved[column] == pytest.approx(step, rel=0.1), name
        assert np.abs(np.delete(moved, column)).max() < 0.02, name
    for arm in ("left", "right"):
        fingers = [float(sim.data.joint(f"vx300s_{arm}/{side}_finger").qpos[0]) for side in ("left", "right")]
        assert fingers[0] == pytest.approx(-fingers[1], abs=1e-3)


def test_references_are_clipped_to_the_limits_and_bad_ones_refused(sim):
    sim.reset(0)
    sim.set_reference(np.full(14, 100.0))
    np.testing.assert_allclose(sim.reference, sim.limits[:, 1])
    for bad in (np.zeros(16), np.full(14, np.nan)):
        with pytest.raises(SimulationError, match="expected 14 finite"):
            sim.set_reference(bad)


def test_a_snapshot_leads_back_to_exactly_the_same_future(sim):
    sim.reset(5)
    sim.set_reference(START_POSITIONS + 0.1)
    sim.step(30)
    snapshot = sim.snapshot()
    futures = []
    for _ in range(2):
        sim.step(200)
        futures.append(sim.data.qpos.copy())
        sim.restore(snapshot)
    np.testing.assert_array_equal(*futures)


def test_an_unknown_task_is_refused_with_the_names_that_exist():
    with pytest.raises(SimulationError, match="transfer_cube, insertion.*Did you mean 'insertion'"):
        AlohaSim("insertions")


@pytest.fixture(scope="module")
def seeing(sim) -> AlohaSim:
    sim.reset(1)
    try:
        sim.render("top", 64, 48)
    except SimulationError as error:
        pytest.skip(f"no GL library on this machine: {error}")
    return sim


def test_pictures_show_the_cube_where_it_lies(seeing):
    """The red of the cube moves in the top picture as the cube does on the table."""
    columns = []
    for seed in range(6):
        seeing.reset(seed)
        picture = seeing.render("top", 320, 240)
        assert picture.shape == (240, 320, 3) and picture.dtype == np.uint8
        red = (picture[..., 0] > 150) & (picture[..., 1] < 90)
        assert 20 < red.sum() < 400
        columns.append((seeing.object_pose("box")[0][0], np.nonzero(red)[1].mean()))
    assert np.corrcoef(np.array(columns).T)[0, 1] > 0.98


def test_pictures_have_the_size_asked_for(seeing):
    assert seeing.render("left_wrist", 640, 480).shape == (480, 640, 3)
    with pytest.raises(SimulationError, match="640 x 480"):
        seeing.render("top", 1280, 720)


def test_without_a_gl_library_the_error_names_what_was_tried_and_the_packages(sim, monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(SimulationError) as caught:
        Renderer(sim.model)
    for text in ("egl", "osmesa", "libegl1 libegl-mesa0 libgles2", "libosmesa6"):
        assert text in str(caught.value)


@pytest.mark.parametrize("package", ["mujoco", "gym_aloha"])
def test_a_simulator_that_is_not_installed_is_named_with_how_to_install_it(package):
    code = (
        "import importlib.util, sys; find = importlib.util.find_spec; name = sys.argv[1]; sys.modules[name] = None;"
        "importlib.util.find_spec = lambda n, *rest: None if n == name else find(n, *rest); import rdvla_ros.sim"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code, package], cwd=root, capture_output=True, text=True, timeout=60)
    last = done.stderr.strip().splitlines()[-1]
    assert f"SimulationError: The simulator needs the package {package}, which is not installed" in last
    assert "make setup" in last and "requirements-sim.txt" in last and "GL" not in last
