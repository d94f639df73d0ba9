"""What `rdvla bench controllers` makes of a controller's reports. The controllers themselves: test_real_controllers.py."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from rdvla_ros.bench.controllers import measure, mock, offline, report
from rdvla_ros.bench.controllers.smoothness import smoothness
from rdvla_ros.bench.controllers.states import SECOND, States, differences, shares, thinned
from rdvla_ros.bench.motion.policy_loop import LoopOptions
from rdvla_ros.bench.nodes import report as nodes_report
from rdvla_ros.bench.nodes import trace
from rdvla_ros.control.motion.limits import JointLimits
from rdvla_ros.control.motion.seam import make_seam
from rdvla_ros.robot import ControllerRule, Joint, RobotDescription, shipped

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
    late = np.concatenate([times[:250], times[250:] + 20_000_000])
    assert not smoothness(states_of(late, position, velocity), late, []).steps, "ten updates are missing there"
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

RATE_HZ = 500.0


@pytest.mark.parametrize("method", ["cut_and_blend", "replace"])
def test_from_reports_to_tables(method, tmp_path):
    robot = RobotDescription.load(shipped("config/aloha_sim.yaml"))
    robot = replace(robot, controller=ControllerRule("jazzy", RATE_HZ))
    options = LoopOptions(inference_s=0.2, rows=8, rate_hz=RATE_HZ)
    wire = offline.Wire(robot, make_seam({"method": method}), options, gated=method != "replace")
    wire.run(4)
    recorded, windows = offline.Recorded(robot, wire.sent, unpunctual=0.4, seed=3), [(0, 2**62)]
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


def test_what_others_send_into_the_emulation():
    robot = RobotDescription.load(shipped("config/aloha_sim.yaml"))
    found = offline.measured(robot, 100.0, boundaries=3, inference_s=0.2, seconds=2.0)
    ways = {"this package": found["ours"], **found["others"]}
    acceleration = {name: way["limits"]["boundaries"]["reference"]["acceleration"] for name, way in ways.items()}
    assert acceleration["this package"] <= 1.0 and min(acceleration["plain chunks"], acceleration["single points"]) > 5.0
    assert ways["single points"]["smoothness"]["difference_acceleration"] > ways["this package"]["smoothness"]["acceleration"]
    assert ways["single points, stamped now"]["moved"] == 0.0, "they have passed when they arrive: all refused"
    assert ways["single points"]["moved"] > 0.1


@pytest.mark.parametrize("stamped", [False, True])
def test_single_points_are_followed_by_the_emulation_too(stamped):
    """Nothing but its position tells which of the points without a stamp a controller has taken."""
    robot = RobotDescription.load(shipped("config/aloha_sim.yaml"))
    robot = replace(robot, controller=ControllerRule("jazzy", RATE_HZ))
    recorded = offline.Recorded(
        robot, list(offline.points(robot, LoopOptions(inference_s=0.2), 0.5, stamped=stamped)), unpunctual=0.4
    )
    found = measure.numbers(recorded, robot, {"all": [(0, 2**62)]})["all"]
    assert found["off_the_emulation"] < 1e-9
    assert found["emulation"]["acceleration"] == pytest.approx(found["reference"]["acceleration"], rel=1e-3)
    assert (found["reference"]["acceleration"] < 1.0) if stamped else (found["emulation"]["acceleration"] > 100.0)


def test_when_a_message_was_taken_counts_from_when_its_plan_began():
    robot = replace(RobotDescription.load(shipped("config/aloha_sim.yaml")), controller=ControllerRule("jazzy", 100.0))
    wire = offline.Wire(robot, make_seam({"method": "cut_and_blend"}), LoopOptions(inference_s=0.2, rows=8, rate_hz=100.0))
    wire.run(2)
    taken = measure.numbers(offline.Recorded(robot, wire.sent), robot, {"all": [(0, 2**62)]})["all"]["taken_ms"]
    assert len(taken) == 2 * len(wire.sent) and all(5.9 <= ms <= 16.1 for ms in taken)  # 3 + 3 ms of the way, and an update


def test_the_trace_of_a_hold_is_put_together_from_the_marks_of_three_processes():
    marks = [
        ("planned", 0.999),
        ("taken", 1.002),
        ("planned", 1.005),
        ("reached", 1.0055),
        ("published", 1.006),
        ("reached", 1.010),
    ]
    marks += [("taken", 2.001), ("planned", 2.002)]  # this one was not published
    (found,) = trace._matched([(1.0, 1.012), (2.0, 2.01)], marks)
    assert found == {"call": 1.0, "taken": 1.002, "planned": 1.005, "published": 1.006, "reached": 1.010, "heard": 1.012}
    legs = dict.fromkeys(nodes_report.LEGS, [0.001, 0.003])
    assert "| stop planned | events | 2 | 2.0 | 2.9 | 3.0 | 3.0 |" in nodes_report.table({"trace": {"legs_s": {"events": legs}}})
