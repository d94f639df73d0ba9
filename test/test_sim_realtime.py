"""The simulated robot that runs by itself, without ROS: pace, stamps, controllers, pictures of one state."""

import contextlib
import time

import numpy as np
import pytest

from rdvla_ros.sim import SimulationError
from rdvla_ros.sim.controller import Points
from rdvla_ros.sim.realtime import FIRST_TIME_S, CameraSetting, CameraThread, RealTimeRobot, camera_matrix
from rdvla_ros.sim.scene import JOINT_NAMES, START_POSITIONS, AlohaSim

ARMS = {"left": JOINT_NAMES[:7], "right": JOINT_NAMES[7:]}


@contextlib.contextmanager
def running(**options):
    robot = RealTimeRobot(ARMS, **{"task": "transfer_cube", "seed": 3, **options})
    robot.start()
    try:
        yield robot
    finally:
        robot.close()


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
    return value


def to(arm, position, at_s=0.3):
    still = np.zeros((2, 7))
    return Points(ARMS[arm], 0.0, np.array([at_s, at_s + 0.1]), np.tile(position, (2, 1)), still)


@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_simulated_time_keeps_the_speed_and_counts_from_the_first_time(speed):
    with running(speed=speed) as robot:
        assert robot.time_s >= FIRST_TIME_S
        wait_for(lambda: robot.time_s > FIRST_TIME_S + 0.1)
        begin, before_s = time.monotonic(), robot.time_s
        time.sleep(0.5)
        passed = (robot.time_s - before_s) / (time.monotonic() - begin)
        assert 0.5 * speed < passed < 1.1 * speed  # a busy machine may lose time, never gain it


def test_at_speed_1_stamps_are_those_of_the_wall_clock_and_rise_even_when_it_is_set_back():
    clock = {"offset": 0.0}
    with running(wall_s=lambda: time.time() + clock["offset"]) as robot:
        before = robot.state().stamp_s
        wait_for(lambda: robot.state().stamp_s > before + 0.05)
        assert abs(robot.state().stamp_s - time.time()) < 0.2
        clock["offset"] = 100.0
        wait_for(lambda: abs(robot.state().stamp_s - time.time() - 100.0) < 0.2)


def test_the_arms_follow_their_controllers_each_its_own():
    with running() as robot:
        target = START_POSITIONS[:7] + [0.1, 0.1, -0.1, 0.1, 0.1, 0.1, 0.01]
        assert robot.accept("right", to("right", target)) == ""
        assert "nobody" in robot.accept("left", Points(("nobody", *ARMS["left"][1:]), 0.0, [0.1], [target], None))
        wait_for(lambda: robot.state().arms["right"].holding)
        state = wait_for(lambda: (s := robot.state()) and np.abs(s.arms["right"].positions - target).max() < 0.05 and s)
        assert np.abs(state.arms["left"].positions - START_POSITIONS[:7]).max() < 0.05
        np.testing.assert_allclose(state.arms["right"].desired.position, target)
        assert (state.arms["left"].accepted, state.arms["left"].rejected) == (0, 1)


def test_a_reset_holds_the_start_pose_and_counts_episodes():
    with running() as robot:
        robot.accept("left", to("left", START_POSITIONS[:7] + 0.1 * np.array([1, 1, 1, 1, 1, 1, 0])))
        wait_for(lambda: robot.state().arms["left"].positions[0] > 0.05)
        assert robot.reset("insertion", 7) == 2
        state = robot.state()
        assert (state.task, state.seed, state.episode, state.best_stage) == ("insertion", 7, 2, 0)
        assert np.abs(state.arms["left"].positions - START_POSITIONS[:7]).max() < 0.05 and state.arms["left"].holding


def test_the_same_seed_gives_the_same_picture():
    pictures = []
    for _ in range(2):
        robot = RealTimeRobot(ARMS, task="transfer_cube", seed=5)  # not started: the state of the reset
        model, data, _ = robot.picture_state(None, None)
        pictures.append(data.qpos.copy())
        assert robot.picture_state(data, model)[1] is data
    np.testing.assert_array_equal(*pictures)


def test_all_pictures_of_a_round_show_one_state_and_come_at_the_rate():
    pictures = []
    with running() as robot:
        cameras = [CameraSetting("top", 64, 48), CameraSetting("right_wrist", 32, 24)]
        eyes = CameraThread(robot, cameras, rate_hz=10.0, deliver=pictures.append, on_problem=pytest.fail)
        eyes.start()
        wait_for(lambda: len(pictures) >= 10)
        eyes.close()
    rounds = [pictures[i : i + 2] for i in range(0, 10, 2)]
    assert all([p.camera for p in both] == ["top", "right_wrist"] and both[0].stamp_s == both[1].stamp_s for both in rounds)
    stamps = np.array([both[0].stamp_s for both in rounds])
    assert (np.diff(stamps) > 0.0).all() and np.median(np.diff(stamps)) > 0.05, "the one after a late one is not late too"
    assert pictures[0].image.shape == (48, 64, 3) and pictures[1].image.shape == (24, 32, 3)


def test_a_camera_for_people_may_be_slower_than_the_others():
    pictures = []
    cameras = [CameraSetting("top", 32, 24), CameraSetting("angle", 32, 24, every=3)]
    with running() as robot:
        eyes = CameraThread(robot, cameras, rate_hz=20.0, deliver=pictures.append, on_problem=pytest.fail)
        eyes.start()
        wait_for(lambda: len(pictures) >= 12)
        eyes.close()
    order = [p.camera == "angle" for p in pictures[:12]]
    first = order.index(True)
    assert [i for i, of_people in enumerate(order) if of_people] == list(range(first, 12, 4)) and first <= 3


def test_an_unknown_joint_camera_or_seed_is_refused_with_what_exists():
    with pytest.raises(SimulationError, match="left_waist"):
        RealTimeRobot({"left": ("left_wasit",)}, task="transfer_cube", seed=0)
    with pytest.raises(SimulationError, match="top"):
        camera_matrix(AlohaSim("transfer_cube").model, "topp", 64, 48)
    with running() as robot, pytest.raises(SimulationError, match="seed"):
        robot.reset("", -1)


def test_an_unstable_scene_is_set_up_again_and_said():
    problems = []
    with running(on_problem=problems.append) as robot:
        with robot._lock:
            robot._sim.data.qvel[:] = 1e12
        wait_for(lambda: problems)
        assert "set up again" in problems[0]
        state = wait_for(lambda: (s := robot.state()).episode == 2 and s)
        assert np.isfinite(state.arms["left"].positions).all()


def test_the_camera_matrix_projects_the_cube_to_where_it_is_seen():
    width, height = 320, 240
    sim = AlohaSim("transfer_cube")
    sim.reset(3)
    image = sim.render("top", width, height).astype(int)
    red = (image[..., 0] > 120) & (image[..., 1] < 60) & (image[..., 2] < 60)
    seen = np.argwhere(red).mean(axis=0)[::-1]
    camera = sim.data.camera("top")
    point = camera.xmat.reshape(3, 3).T @ (sim.object_pose("box")[0] - camera.xpos)
    u, v, w = camera_matrix(sim.model, "top", width, height) @ (point * [1, -1, -1])  # MuJoCo looks along -z with y up
    np.testing.assert_allclose([u / w, v / w], seen, atol=2.5)
    sim.close()
