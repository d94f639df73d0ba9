"""The simulated robot as a process of its own, heard and commanded over DDS like a real one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from geometry_msgs.msg import WrenchStamped
from rcl_interfaces.srv import GetParameters
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from trajectory_msgs.msg import JointTrajectory
from wire import Wire

from rdvla_ros.bringup import launcher
from rdvla_ros.control.motion.limits import JointLimits
from rdvla_ros.control.motion.stop import stop
from rdvla_ros.control.motion.trajectory import Reference, plan
from rdvla_ros.nodes.common import conversions, images, names
from rdvla_ros.robot import RobotDescription

ROBOT_FILE = Path(__file__).parent.parent / "config" / "aloha_sim.yaml"
ROBOT = RobotDescription.load(ROBOT_FILE).in_namespace("/")
LIMITS = JointLimits.of_robot(ROBOT)
START = np.tile([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.02239], len(ROBOT.arms))
MOVES = np.array([name not in ROBOT.gripper_joints for name in ROBOT.joint_names])
TOP = ROBOT.cameras[0]


def node_process(environment, **parameters):
    arguments = [x for name, value in {"robot": ROBOT_FILE, **parameters}.items() for x in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-m", "rdvla_ros.nodes.sim_robot.main", "--ros-args", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})


class SimRig(Wire):
    """A wire with the simulated robot behind it."""

    def __init__(self, domain, description=ROBOT, **parameters):
        self.process = node_process(domain, **parameters)
        super().__init__(description, int(domain["ROS_DOMAIN_ID"]), self._alive)
        self._hear(CameraInfo, names.camera_info(TOP.topic))
        self._hear(Clock, "/clock")
        self.commands = {arm.name: self.node.create_publisher(JointTrajectory, arm.trajectory_topic, 10) for arm in ROBOT.arms}
        self.until(lambda: all(p.get_subscription_count() for p in self.commands.values()), "the controllers")
        self.positions()

    def _alive(self):
        assert self.process.poll() is None, self.process.stderr.read()

    def send(self, trajectory, stamp_s=0.0, change=lambda message: None):
        for arm in ROBOT.arms:
            message = conversions.trajectory_message(trajectory.select(arm.joint_names), conversions.stamp(stamp_s))
            change(message)
            self.commands[arm.name].publish(message)

    def state(self, arm):
        topic = arm.controller_state_topic
        return self.until(lambda: self.heard[topic], f"a message on {topic}")[-1]

    def next_state(self, arm):
        self.more(arm.controller_state_topic, 2)
        return self.state(arm)

    def end(self):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.communicate(timeout=10)
        finally:
            self.process.kill()
            self.close()


@pytest.fixture(scope="module")
def shared():
    with launcher.free_domain() as domain:
        rig = SimRig(domain, seed=3)
        try:
            yield rig
        finally:
            rig.end()


@pytest.fixture
def rig(shared):
    episode = shared.reset(seed=3, task="transfer_cube").episode
    stages = shared.heard["/sim_robot/task_stage"]
    shared.until(lambda: stages and stages[-1].episode == episode, "the new episode")
    shared.until(lambda: np.abs(shared.positions() - START).max() < 0.05, "the start pose")
    return shared


def small_move(change=0.15):
    return plan(
        START + change * MOVES * np.linspace(0.2, 1.0, 6)[:, None],
        step_s=0.1,
        elapsed_s=0.0,
        horizon=6,
        start=Reference.at_rest(START),
        limits=LIMITS,
    )


def stamps(messages):
    return np.array([conversions.seconds(m.header.stamp) for m in messages])


def test_pictures_are_of_the_described_size_and_show_something(rig):
    last = ROBOT.cameras[-1]
    image = rig.until(lambda: rig.heard[last.topic], "an image")[-1]
    assert (image.width, image.height, image.encoding, image.step) == (last.width, last.height, "rgb8", 3 * last.width)
    assert image.header.frame_id == last.frame_id and len(image.data) == image.step * image.height
    assert np.frombuffer(image.data, dtype=np.uint8).std() > 10


def test_the_wrist_force_is_published_to_whoever_listens(rig):
    sensor = ROBOT.sensors[1]
    rig._hear(WrenchStamped, sensor.topic)
    rig.until(lambda: len(rig.heard[sensor.topic]) >= 10, "wrist forces")
    force = np.array([[m.wrench.force.x, m.wrench.force.y, m.wrench.force.z] for m in rig.heard[sensor.topic][-5:]])
    assert np.linalg.norm(force, axis=1) == pytest.approx(3.3, abs=1.0), "the weight of the hand [N]"
    assert (np.diff(stamps(rig.heard[sensor.topic])) > 0).all()
    assert rig.heard[sensor.topic][-1].header.frame_id == "right_hand"


def test_camera_info_fits_the_camera(rig):
    info = rig.until(lambda: rig.heard[names.camera_info(TOP.topic)], "camera info")[-1]
    focal = TOP.height / 2 / np.tan(np.radians(78.0) / 2)  # the scene's vertical opening angle
    np.testing.assert_allclose(np.reshape(info.k, (3, 3)), [[focal, 0, 159.5], [0, focal, 119.5], [0, 0, 1]])
    np.testing.assert_allclose(np.reshape(info.p, (3, 4))[:, :3], np.reshape(info.k, (3, 3)))
    assert (info.width, info.height, info.distortion_model, list(info.d)) == (TOP.width, TOP.height, "plumb_bob", [0.0] * 5)


def test_stamps_are_of_the_measurement_rise_and_come_at_the_described_rates(rig):
    joints, images = ROBOT.arms[0].joint_states_topic, ROBOT.cameras[-1].topic
    rig.heard[joints].clear()
    rig.heard[images].clear()
    rig.until(lambda: len(rig.heard[images]) >= 15, "15 images")
    now_s = time.time()
    for topic, hz in ((joints, ROBOT.rates.joint_states_hz), (images, ROBOT.rates.camera_hz)):
        times_s = stamps(rig.heard[topic])
        gaps_s = np.diff(times_s)
        assert (gaps_s > 0).all() and times_s[-1] <= now_s + 0.01 and now_s - times_s[-1] < 1.0
        assert np.median(gaps_s) < 3.0 / hz, topic  # loose: the machine may be busy


def test_a_trajectory_moves_both_arms_to_its_end_and_the_controllers_hold_it(rig):
    before = rig.state(ROBOT.arms[0]).accepted
    trajectory = small_move()
    rig.send(trajectory)
    rig.until(
        lambda: rig.state(ROBOT.arms[0]).accepted == before + 1 and all(rig.state(a).holding for a in ROBOT.arms), "the end"
    )
    rig.until(lambda: np.abs((rig.positions() - trajectory.positions[-1])[MOVES]).max() < 0.05, "the arms at the end")
    for arm in ROBOT.arms:
        state = rig.next_state(arm)
        part = trajectory.select(arm.joint_names)
        assert state.joint_names == list(arm.joint_names)
        np.testing.assert_allclose(state.reference.positions, part.positions[-1], atol=1e-9)
        np.testing.assert_allclose(
            np.subtract(state.reference.positions, state.feedback.positions), state.error.positions, atol=1e-12
        )


def test_a_stop_in_mid_motion_replaces_the_trajectory_at_once(rig):
    trajectory = small_move(0.5)
    base_s = time.time()
    rig.send(trajectory, base_s)
    rig.until(lambda: np.abs(rig.velocities()[MOVES]).max() > 0.3, "the arms to move")
    now_s = time.time()
    begin = trajectory.at(now_s + 0.05 - base_s)
    rig.send(stop(begin, limits=LIMITS, lead_s=0.05), now_s)
    rig.until(rig.at_rest, "the arms at rest")
    assert np.abs((rig.positions() - trajectory.positions[-1])[MOVES]).min() > 0.02  # it ended before its way did


def old(message):
    message.header.stamp = conversions.stamp(time.time() - 100.0)


def misnamed(message):
    message.joint_names[0] = "nobody"


def moving_end(message):
    message.points[-1].velocities[0] = 0.1


def ragged(message):
    message.points[1].positions = message.points[1].positions[:3]


def empty(message):
    message.points = []


def backwards(message):
    message.points.reverse()


def not_finite(message):
    message.points[1].positions[0] = float("nan")


REJECTED = {
    old: "ago",
    misnamed: "nobody",
    moving_end: "last point",
    ragged: "3",
    empty: "no points",
    backwards: "increase",
    not_finite: "finite",
}


@pytest.mark.parametrize("spoil", REJECTED, ids=lambda f: f.__name__)
def test_what_a_controller_rejects_moves_nothing_and_is_counted(rig, spoil):
    arm = ROBOT.arms[0]
    before = rig.next_state(arm)
    rig.send(small_move(), change=spoil)
    rig.until(lambda: rig.state(arm).rejected == before.rejected + 1, "the rejection")
    state = rig.state(arm)
    assert REJECTED[spoil] in state.last_rejection and state.accepted == before.accepted
    np.testing.assert_array_equal(state.reference.positions, before.reference.positions)


def test_the_controllers_say_what_they_are_set_to_as_real_ones_do(rig):
    for arm in ROBOT.arms:
        client = rig.node.create_client(GetParameters, f"{arm.trajectory_topic.rsplit('/', 1)[0]}/get_parameters")
        rig.until(client.service_is_ready, "the parameter service")
        future = client.call_async(
            GetParameters.Request(names=["update_rate", "interpolate_from_desired_state", "open_loop_control"])
        )
        rig.until(future.done, "an answer")
        rate, desired, humbles = future.result().values
        assert rate.integer_value == 500 and desired.bool_value and humbles.type == 0


def test_a_reset_puts_arms_and_objects_at_the_start_of_an_episode(rig):
    rig.send(small_move())
    rig.until(lambda: rig.positions()[0] > 0.1, "the arms to move")
    first = rig.heard["/sim_robot/task_stage"][-1].episode
    answer = rig.reset(seed=5, task="insertion")
    assert answer.success and answer.episode == first + 1
    stage = rig.until(
        lambda: (s := rig.heard["/sim_robot/task_stage"][-1]).episode == answer.episode and s, "the episode's stage"
    )
    assert (stage.task, stage.seed, stage.best_stage) == ("insertion", 5, 0) and stage.elapsed_s < 5.0
    rig.until(lambda: np.abs(rig.positions() - START).max() < 0.05, "the start pose")
    assert all(rig.next_state(arm).holding for arm in ROBOT.arms)
    rig.more(ROBOT.cameras[-1].topic, 2)  # the new scene is rendered too


@pytest.mark.parametrize(("task", "seed", "word"), [("juggling", 0, "transfer_cube"), ("", -1, "seed")])
def test_a_reset_that_cannot_be_is_refused_and_changes_nothing(rig, task, seed, word):
    before = rig.heard["/sim_robot/task_stage"][-1].episode
    answer = rig.reset(seed=seed, task=task)
    assert not answer.success and word in answer.message
    rig.more("/sim_robot/task_stage", 2)
    assert rig.heard["/sim_robot/task_stage"][-1].episode == before


def test_a_camera_can_be_silenced_for_other_tests(rig):
    name, topic = ROBOT.cameras[-1].name, ROBOT.cameras[-1].topic
    rig.set_parameter("/sim_robot", "silent_camera", name)
    rig.more(names.camera_info(TOP.topic), 2)
    count = len(rig.heard[topic])
    rig.more(names.camera_info(TOP.topic), 5)
    assert len(rig.heard[topic]) <= count + 1
    rig.set_parameter("/sim_robot", "silent_camera", "")
    rig.more(topic, 2)


# -- processes of their own


def test_another_speed_publishes_the_clock_and_stamps_in_it(tmp_path):
    with launcher.free_domain() as domain:
        rig = SimRig(domain, speed=0.5)
        try:
            rig.until(lambda: len(rig.heard["/clock"]) > 50, "the clock")
            first, begin = conversions.seconds(rig.heard["/clock"][-1].clock), time.monotonic()
            rig.more("/clock", 100)
            passed = conversions.seconds(rig.heard["/clock"][-1].clock) - first
            assert 0.3 < passed / (time.monotonic() - begin) < 0.6
            joint_s = stamps(rig.heard[ROBOT.arms[0].joint_states_topic])[-1]
            assert abs(joint_s - conversions.seconds(rig.heard["/clock"][-1].clock)) < 0.5
        finally:
            rig.end()


def test_compressed_transport_and_a_further_view_send_pictures_that_can_be_read(tmp_path):
    file = tmp_path / "robot.yaml"
    text = ROBOT_FILE.read_text()
    file.write_text(
        text.replace("topic: cameras/top/image_raw, transport: raw", "topic: cameras/top/compressed, transport: compressed")
    )
    robot = RobotDescription.load(file).in_namespace("/")
    assert robot.cameras[0].transport == "compressed"
    with launcher.free_domain() as domain:
        rig = SimRig(domain, robot, robot=file, view_camera="angle", view_width=160, view_height=120)
        try:
            rig._hear(CompressedImage, robot.cameras[0].topic)
            message = rig.until(lambda: rig.heard[robot.cameras[0].topic], "a compressed image")[-1]
            image = images.rgb_image(message, robot.cameras[0])
            assert image.shape == (TOP.height, TOP.width, 3) and image.std() > 10
            rig._hear(Image, "/sim_robot/view/image_raw")
            view = rig.until(lambda: rig.heard["/sim_robot/view/image_raw"], "the view")[-1]
            assert (view.width, view.height, view.header.frame_id) == (160, 120, "angle_camera")
        finally:
            rig.end()


def test_the_cameras_can_be_given_another_size():
    with launcher.free_domain() as domain:
        rig = SimRig(domain, camera_width=160, camera_height=120)
        try:
            image = rig.until(lambda: rig.heard[ROBOT.cameras[-1].topic], "an image")[-1]
            info = rig.until(lambda: rig.heard[names.camera_info(TOP.topic)], "camera info")[-1]
            assert (image.width, image.height, len(image.data)) == (160, 120, 160 * 120 * 3)
            assert (info.width, info.height) == (160, 120) and info.k[2] == pytest.approx(79.5)
        finally:
            rig.end()


FAILURES = {
    "no GL": ({}, {"MUJOCO_GL": "egl", "__EGL_VENDOR_LIBRARY_DIRS": "/nonexistent"}, "libegl1"),
    "unknown parameter": ({"sped": 2.0}, {}, "speed"),
    "no robot": ({"robot": "nowhere.yaml"}, {}, "nowhere.yaml"),
    "unknown view": ({"view_camera": "nowhere"}, {}, "angle"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_what_cannot_start_says_so_in_one_sentence_and_ends_with_1(failure):
    parameters, environment, word = FAILURES[failure]
    process = node_process(environment, **parameters)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and word in errors and "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_0(number):
    with launcher.free_domain() as domain:
        rig = SimRig(domain)
        try:
            rig.expect_exits()
            rig.process.send_signal(number)
            assert rig.process.wait(timeout=5) == 0
        finally:
            rig.end()


def test_a_reading_of_one_step_is_published_once():
    """Readings are taken after the joints: the next joints may be of the step that they were already taken at."""
    from types import SimpleNamespace

    from rdvla_ros.nodes.sim_robot.node import SimRobotNode

    sensor, sent = ROBOT.sensors[0], []
    steps = iter([1.0, 1.02, 1.02, 1.04])
    node = SimpleNamespace(
        _robot=SimpleNamespace(sensors=[sensor]),
        _wrenches={sensor.name: SimpleNamespace(get_subscription_count=lambda: 1, publish=sent.append)},
        _body=SimpleNamespace(readings=lambda sensors: (next(steps), {sensor.name: np.zeros(6)})),
        _last_reading_s=0.0,
    )
    for _ in range(4):
        SimRobotNode._publish_wrenches(node)
    assert stamps(sent) == pytest.approx([1.0, 1.02, 1.04])
