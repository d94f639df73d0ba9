"""What `rdvla bench controllers` makes of a controller's reports. The controllers themselves: test_real_controllers.py."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from rdvla_ros.bench.controllers import measure, mock, report
from rdvla_ros.bench.controllers.smoothness import smoothness
from rdvla_ros.bench.controllers.states import SECOND, States, differences, shares, thinned
from rdvla_ros.bench.motion.policy_loop import Loop, LoopOptions
from rdvla_ros.control.motion.limits import JointLimits
from rdvla_ros.control.motion.seam import make_seam
from rdvla_ros.nodes.common import conversions
from rdvla_ros.nodes.sim_robot.node import _points
from rdvla_ros.robot import ControllerRule, Joint, RobotDescription, shipped
from rdvla_ros.sim.controller import JointTrajectoryController

LIMITS = JointLimits.of_joints([Joint("a", -3.0, 3.0, velocity=1.0, acceleration=2.0, jerk=8.0)])
STAMP = 1_700_000_000 * SECOND


def uneven(seed=0, count=400, period_ns=2_000_000, jitter=0.4):
    """(M,) times [ns] of an update loop that is not punctual."""
    return STAMP + np.cumsum((period_ns * np.random.default_rng(seed).uniform(1 - jitter, 1 + jitter, count)).astype(np.int64))


def sine(times_ns, amplitude=0.4, rate=2.0):
    t = (times_ns - times_ns[0]) / SECOND
    return (amplitude * np.sin(rate * t))[:, None], (amplitude * rate * np.cos(rate * t))[:, None]


def states_of(times_ns, position, velocity, begun_ns=STAMP, header_off_ns=0):
    rows = np.asarray(position)
    return States(times_ns + header_off_ns, times_ns - begun_ns, rows, velocity, np.gradient(velocity, axis=0) * 500.0, rows)


@pytest.mark.parametrize("jitter", [0.0, 0.4, 0.75])
def test_a_legal_motion_stays_legal_however_unpunctual_the_updates_are(jitter):
    """Divided differences lie within the range of the derivatives, which a quotient by the nominal period does not."""
    times = uneven(jitter=jitter)
    found = shares(times, sine(times)[0], LIMITS)
    expected = {"velocity": 0.8, "acceleration": 0.8, "jerk": 0.4}
    assert all(0.97 * expected[name] < found[name].max() < expected[name] + 1e-3 for name in expected)


def test_a_step_of_a_tenth_of_a_degree_is_found():
    times = uneven()
    position, _ = sine(times)
    position[200:] += np.radians(0.1)
    assert shares(times, position, LIMITS)["acceleration"].max() > 100.0


def test_differences_are_those_of_a_cubic():
    times = uneven(count=50)
    t = ((times - times[0]) / SECOND)[:, None]
    velocity, acceleration, jerk = differences(times, 1.0 + t + 2.0 * t**2 + 3.0 * t**3)
    assert np.isnan(jerk[:3]).all() and np.isnan(velocity[0]).all()
    np.testing.assert_allclose(jerk[3:], 18.0, rtol=1e-3)
    np.testing.assert_allclose(acceleration[10:], 4.0 + 6.0 * (t[10:] + t[9:-1] + t[8:-2]), rtol=1e-3)
    np.testing.assert_allclose(velocity[1:], 1.0, atol=0.7)


def test_the_time_of_a_report_is_the_stamp_of_its_message_and_not_the_header():
    times = uneven(count=100)
    other = STAMP + 5 * SECOND
    late = np.random.default_rng(1).integers(0, 400_000, 100)  # the loop needs up to 0.4 ms to get there
    states = states_of(times, *sine(times), begun_ns=np.where(np.arange(100) < 60, STAMP, other), header_off_ns=late)
    np.testing.assert_array_equal(states.times_ns([STAMP, other]), times)
    unknown = states.begun_ns([STAMP])  # of the second message nothing is known
    assert (unknown[60:] == unknown[60]).all() and abs(int(unknown[60]) - other) < 500_000


def test_two_reports_of_nearly_the_same_time_are_one():
    times = uneven(count=50)
    times = np.sort(np.concatenate([times, times[20:21] + 1000]))
    assert thinned(times).sum() == 50


def test_smoothness_by_example_19():
    times = uneven(count=500, jitter=0.1)
    position, velocity = sine(times)
    smooth = smoothness(states_of(times, position, velocity), times, [int(times[250])])
    assert not smooth.steps and not smooth.seams_step and smooth.velocity == pytest.approx(0.8, rel=1e-3)
    velocity[250:] += 0.3
    stepped = states_of(times, position, velocity)
    stepped.acceleration[:] = 1.0  # what the controller says of itself explains no such change
    rough = smoothness(stepped, times, [int(times[250])])
    assert rough.steps and rough.seams_step
    assert not smoothness(stepped, times, [int(times[10])]).seams_step  # it is not at that seam


def test_reports_become_arrays_in_the_arms_order():
    point = SimpleNamespace(
        positions=[1.0, 2.0], velocities=[3.0, 4.0], accelerations=[], time_from_start=SimpleNamespace(sec=1, nanosec=5)
    )
    report = SimpleNamespace(
        joint_names=["b", "a"], reference=point, output=point, header=SimpleNamespace(stamp=SimpleNamespace(sec=7, nanosec=9))
    )
    silent = SimpleNamespace(joint_names=["b", "a"], reference=SimpleNamespace(positions=[]))
    states = States.of_messages([report, silent], ("a", "b"))
    assert len(states) == 1 and states.position.tolist() == [[2.0, 1.0]] and states.velocity.tolist() == [[4.0, 3.0]]
    assert np.isnan(states.acceleration).all() and states.header_ns[0] == 7 * SECOND + 9 and states.from_start_ns[0] == SECOND + 5


def test_the_mock_has_all_joints_and_the_parameters_of_the_documentation(tmp_path):
    source = shipped("config/aloha_sim.yaml")
    robot = mock.on_mock_hardware(RobotDescription.load(source), 250.0)
    text, parameters = mock.urdf(robot), mock.controller_parameters(robot)
    assert all(f'<joint name="{name}">' in text for name in robot.joint_names)
    assert parameters["controller_manager"]["ros__parameters"]["update_rate"] == 250
    for arm in robot.arms:
        stated = parameters[mock.controller_of(arm)]["ros__parameters"]
        assert stated["joints"] == list(arm.joint_names) and stated["interpolate_from_desired_state"] is True
        assert all(joint.lower <= mock.home(arm)[joint.name] <= joint.upper for joint in arm.joints)
    again = RobotDescription.load(mock.description_file(robot, source, tmp_path / "robot.yaml"))
    assert again == robot
    assert yaml.safe_load(yaml.safe_dump(parameters)) == parameters


# -- the whole way from messages and reports to the tables, on the emulation in place of the controllers

BASE_S, RATE_HZ = 1000.0, 500.0


class Wire(Loop):
    """Keeps when the controllers got what."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.sent = []

    def _send(self, motion, stamp_s, gate_s, switch_s):
        before = self._counts["sent"]
        super()._send(motion, stamp_s, gate_s, switch_s)
        if self._counts["sent"] > before:
            self.sent.append((gate_s + 0.005, stamp_s, motion))


class Recorded:
    """Reports of an unpunctual update loop, as the real controller makes them: the header's stamp is late by up to 0.3 ms."""

    def __init__(self, robot, wire):
        random = np.random.default_rng(3)
        self.sent = {arm.name: [] for arm in robot.arms}
        self._reports, self._arms = {}, {arm.name: arm for arm in robot.arms}
        end_s = BASE_S + wire.sent[-1][1] + 0.5
        for arm in robot.arms:
            controller = JointTrajectoryController(arm.joint_names, wire.sent[0][2].select(arm.joint_names).positions[0])
            controller.period_s = 1.0 / RATE_HZ
            waiting = [(BASE_S + at_s, BASE_S + stamp_s, motion.select(arm.joint_names)) for at_s, stamp_s, motion in wire.sent]
            reports, now_s, begun_ns = [], BASE_S + wire.sent[0][0] - 0.01, 0
            while now_s < end_s:
                while waiting and waiting[0][0] <= now_s:
                    _, stamp_s, motion = waiting.pop(0)
                    message = conversions.trajectory_message(motion, conversions.motion_stamp(stamp_s))
                    begun_ns = message.header.stamp.sec * SECOND + message.header.stamp.nanosec
                    self.sent[arm.name].append((begun_ns, message))
                    assert controller.accept(_points(message), now_s), controller.last_rejection
                reference = controller.update(now_s)
                now_ns = round(now_s * SECOND)
                reports.append(
                    SimpleNamespace(
                        joint_names=list(arm.joint_names),
                        header=SimpleNamespace(stamp=nanosecond_stamp(now_ns + random.integers(0, 300_000))),
                        reference=point(reference, nanosecond_stamp(now_ns - begun_ns)),
                        output=point(controller.command, nanosecond_stamp(0)),
                    )
                )
                now_s = round(now_s + random.uniform(0.6, 1.4) / RATE_HZ, 6)
            self._reports[arm.name] = reports

    def states(self, arm):
        return States.of_messages(self._reports[arm], self._arms[arm].joint_names)

    def stamps_ns(self, arm):
        return [stamp for stamp, _ in self.sent[arm]]


def nanosecond_stamp(nanoseconds):
    return SimpleNamespace(sec=int(nanoseconds) // SECOND, nanosec=int(nanoseconds) % SECOND)


def point(desired, time_from_start):
    fields = {"positions": desired.position, "velocities": desired.velocity, "accelerations": desired.acceleration}
    return SimpleNamespace(time_from_start=time_from_start, **{k: v.tolist() for k, v in fields.items()})


@pytest.mark.parametrize("method", ["cut_and_blend", "replace"])
def test_from_reports_to_tables(method, tmp_path):
    robot = RobotDescription.load(shipped("config/aloha_sim.yaml"))
    robot = replace(robot, controller=ControllerRule("jazzy", RATE_HZ))
    options = LoopOptions(inference_s=0.2, rows=8, rate_hz=RATE_HZ)
    wire = Wire(robot, make_seam({"method": method}), options, gated=method != "replace")
    wire.run(4)
    recorded, windows = Recorded(robot, wire), [(0, 2**62)]
    limits = measure.numbers(recorded, robot, {"all": windows})["all"]
    smooth = measure.smooth(recorded, robot, windows)
    assert limits["updates"] > 3000 and limits["off_the_emulation"] < (1e-8 if method == "cut_and_blend" else 1e-4)
    if method == "replace":  # its first way begins at the update before the first message, whose time only the header tells
        assert limits["reference"]["acceleration"] > 5.0
        assert smooth["difference_acceleration"] > 100.0, "the step is in the positions; the reported velocity does not show it"
    else:
        for kind in ("reference", "command", "emulation"):
            assert 0.4 < limits[kind]["acceleration"] <= 1.001 and limits[kind]["jerk"] <= 1.001, (kind, limits)
        assert not smooth["steps"] and not smooth["seams_step"]
    result = {"update_rate_hz": RATE_HZ, "ours": {"limits": {"all": limits}, "smoothness": smooth}}
    text = report.table([result])
    assert f"{limits['reference']['acceleration']:.2f}" in text and text.count("| 500 |") == 4
