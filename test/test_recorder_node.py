"""The recorder over real DDS: what the nodes say is in the folder, bad messages included, and nothing that happens to it is heard
by the others."""

import array
import contextlib
import json
import math
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

import rclpy
from gate_rig import ROBOT, ROBOT_FILE
from geometry_msgs.msg import WrenchStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from rdvla_ros.bringup.processes import BringupError, processes
from rdvla_ros.control.supervision.calibration import Calibration, CalibrationError, digest_of
from rdvla_ros.learning.evaluation.uncertainty import calibrate
from rdvla_ros.msg import ControllerState, Convergence, GateStatus, TaskStage, Uncertainty
from rdvla_ros.nodes.common import conversions, names
from rdvla_ros.nodes.recorder.node import RecorderNode, trajectory_topics
from rdvla_ros.runs import bags
from rdvla_ros.runs.reader import Run
from rdvla_ros.runs.schemas import SCHEMAS

PATIENCE_S = 60.0
MESSAGES = {"decisions": Convergence, "uncertainty": Uncertainty, "gate": GateStatus, "task": TaskStage}


class Rig:
    """The robot, the gate, the policy and the monitor: as publishers only."""

    def __init__(self):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = node = Node("gate", context=self.context, parameter_overrides=[])  # its parameters are asked for
        node.declare_parameter("start_mode", "auto")
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(node)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.gate = node.create_publisher(GateStatus, names.GATE_STATUS, latched)
        self.decisions = node.create_publisher(Convergence, names.POLICY_CONVERGENCE, 10)
        self.joints = {t: node.create_publisher(JointState, t, 10) for t in {a.joint_states_topic for a in ROBOT.arms}}
        self.states = {a.name: node.create_publisher(ControllerState, a.controller_state_topic, 10) for a in ROBOT.arms}
        self.images = {c.name: node.create_publisher(Image, c.topic, 2) for c in ROBOT.cameras}
        self.wrenches = {s.name: node.create_publisher(WrenchStamped, s.topic, 10) for s in ROBOT.sensors}
        self.motions = node.create_publisher(JointTrajectory, ROBOT.arms[0].trajectory_topic, 10)
        self.publishers = [self.gate, self.decisions, self.motions, *self.joints.values(), *self.states.values()]
        self.publishers += [*self.images.values(), *self.wrenches.values()]
        self.recorders = []

    def record(self, folder, **values):
        values = {"robot": str(ROBOT_FILE), "folder": str(folder), "flush_s": 0.2, "least_free_mb": 0, **values}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        self.recorder = RecorderNode(context=self.context, parameter_overrides=overrides)
        self.recorders.append(self.recorder)
        self.executor.add_node(self.recorder)
        self.until(lambda: all(p.get_subscription_count() for p in self.publishers), "the recorder to listen")
        return self.recorder

    def stamped(self, kind, **fields):
        message = kind(**fields)
        message.header.stamp = self.node.get_clock().now().to_msg()
        return message

    def robot(self, **changes):
        """One sample of everything the robot sends."""
        for arm in ROBOT.arms:
            values = {"name": list(arm.joint_names), "position": [0.0] * len(arm.joints), **changes}
            self.joints[arm.joint_states_topic].publish(self.stamped(JointState, **values))
            point = JointTrajectoryPoint(positions=[0.5] * len(arm.joints))
            state = self.stamped(ControllerState, joint_names=list(arm.joint_names), reference=point, feedback=point)
            self.states[arm.name].publish(state)
        for number, publisher in enumerate(self.wrenches.values()):
            wrench = self.stamped(WrenchStamped)
            wrench.wrench.force.x, wrench.wrench.torque.z = 1.0 + number, math.nan
            publisher.publish(wrench)
        for camera in ROBOT.cameras:
            self.images[camera.name].publish(self.image(camera))

    def image(self, camera, **changes):
        data = array.array("B", bytes(camera.width * camera.height * 3))
        values = dict(height=camera.height, width=camera.width, step=camera.width * 3, encoding="rgb8", data=data)
        return self.stamped(Image, **{**values, **changes})

    def until(self, condition, what):
        end = time.monotonic() + PATIENCE_S
        while not (value := condition()):
            assert time.monotonic() < end, f"waited for {what}"
            self.executor.spin_once(timeout_sec=0.02)
        return value

    def spin(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)

    def close(self):
        self.executor.shutdown(timeout_sec=1.0)
        for recorder in self.recorders:  # one that is left over keeps the name of the next one's log
            recorder.destroy_node()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def rig():
    with contextlib.closing(Rig()) as rig:
        yield rig


def rows(folder, table):
    return len(Run(folder).table(table))


def test_what_the_nodes_say_is_in_the_folder(rig, tmp_path):
    folder = tmp_path / "run"
    recorder = rig.record(folder)
    rig.gate.publish(rig.stamped(GateStatus, mode=GateStatus.HOLD, hold_id=3, reason="start-up", who="gate"))
    rig.decisions.publish(
        rig.stamped(Convergence, sequence=1, change=[math.nan, 1e-3], instruction="lift", timing_names=["total"])
    )
    point = JointTrajectoryPoint(positions=[0.1] * 7, velocities=[0.0] * 7, time_from_start=conversions.duration(0.5))
    rig.motions.publish(rig.stamped(JointTrajectory, joint_names=list(ROBOT.arms[0].joint_names), points=[point, point]))

    def all_there():
        rig.robot()
        rig.spin(0.1)
        tables = ("gate", "decisions", "joints", "controllers", "trajectories", "frames", "sensors")
        return all(rows(folder, table) for table in tables) and Run(folder).about["parameters"]

    rig.until(all_there, "a row in each table and the parameters")
    recorder.close()
    run = Run(folder)
    assert run.ended == "complete" and run.about["parameters"]["gate"]["start_mode"] == "auto"
    gate, decisions, motions = run.table("gate"), run.table("decisions"), run.table("trajectories")
    assert (gate["reason"][0], gate["hold_id"][0]) == ("start-up", 3)
    assert decisions["instruction"][0] == "lift" and decisions["change"][0][1] == 1e-3
    assert list(motions["times_s"][0]) == [0.5, 0.5] and len(motions["positions"][0]) == 14 and motions["source"][0] == "gate"
    assert set(run.table("controllers")["arm"]) == {"left", "right"} and run.table("controllers")["reference"][0][0] == 0.5
    readings = run.table("sensors")
    assert {s: v[0] for s, v in zip(readings["sensor"], readings["values"], strict=True)} == {
        "left_wrist_force": 1.0,
        "right_wrist_force": 2.0,
    }
    assert all(np.isnan(values[5]) for values in readings["values"]), "kept as it came"
    assert len(list(run.pictures("top"))) == len(run.frame_stamps("top"))


def test_bad_messages_are_kept_as_evidence_or_left_out_and_the_recording_goes_on(rig, tmp_path):
    folder, camera = tmp_path / "run", ROBOT.cameras[0]
    recorder = rig.record(folder)
    rig.decisions.publish(rig.stamped(Convergence, stop_reason=250, threshold=math.nan, sequence=2**64 - 1))
    rig.decisions.publish(rig.stamped(Convergence, sequence=1))  # back, and with an empty trace
    rig.joints[ROBOT.arms[0].joint_states_topic].publish(rig.stamped(JointState, name=["x"], position=[math.nan, math.inf]))
    for changes in ({"encoding": "16UC1"}, {"step": 7}, {"height": 0, "data": []}, {"width": 5000}):
        rig.images[camera.name].publish(rig.image(camera, **changes))
        rig.spin(0.2)
    rig.until(lambda: rig.robot() or rig.spin(0.1) or rows(folder, "frames") > 3, "pictures after the bad ones")
    recorder.close()
    run = Run(folder)
    assert run.ended == "complete" and not recorder.failed
    assert set(run.table("decisions")["sequence"]) == {2**64 - 1, 1} and 250 in set(run.table("decisions")["stop_reason"])
    assert any(np.isnan(position).any() for position in run.table("joints")["position"])


def send_episodes(rig, count, decisions=3):
    """Episodes of a simulated robot, 10 s each on its clock, that succeed but for every eighth one. A motion turns back once in
    eight steps in even episodes and twice in odd ones; in those that fail with every step."""
    task = rig.node.create_publisher(TaskStage, names.SIM_TASK_STAGE, 10)
    chunks = {arm.name: rig.node.create_publisher(JointTrajectory, names.chunk(arm.name), 10) for arm in ROBOT.arms}
    rig.publishers += [task, *chunks.values()]
    yield  # until the recorder listens

    def at(kind, time_s, **fields):
        message = kind(**fields)
        message.header.stamp = conversions.stamp(time_s)
        return message

    for number in range(count):
        begin_s, failed = 1000.0 + 10.0 * number, number % 8 == 7
        turns = {1: 8, 0: 1 + number % 2}[int(failed)]
        rig.gate.publish(at(GateStatus, begin_s, mode=GateStatus.AUTO, hold_id=1))
        task.publish(at(TaskStage, begin_s, task="transfer_cube", episode=number + 1))
        for decision in range(decisions):
            observed_s = begin_s + 1.0 + decision
            columns = 0.05 * np.cumsum([0.0, 1.0, *(1.0 if i < 8 - turns else (-1.0) ** (i + turns + 1) for i in range(8))])
            for arm in ROBOT.arms:
                points = [
                    JointTrajectoryPoint(
                        positions=[column] * 6 + [0.03],
                        velocities=[0.0] * 7,
                        time_from_start=conversions.duration(0.1 * row),
                    )
                    for row, column in enumerate(columns)
                ]
                message = at(JointTrajectory, observed_s, joint_names=list(arm.joint_names), points=points)
                chunks[arm.name].publish(message)
            values = dict(sequence=3 * number + decision + 1, change=[math.nan, 1e-3], iterations=2, instruction="lift")
            values |= dict(published=True, step_s=0.1, horizon=9, observation_stamp=conversions.stamp(observed_s))
            rig.decisions.publish(at(Convergence, observed_s + 0.05, **values))
            rig.spin(0.02)
        task.publish(at(TaskStage, begin_s + 9.0, task="transfer_cube", episode=number + 1, best_stage=2 if failed else 4))
        rig.spin(0.02)


def test_a_calibration_is_made_from_what_the_recorder_recorded(rig, tmp_path, capsys):
    folder, study, checkpoint = tmp_path / "run", tmp_path / "study", tmp_path / "checkpoint"
    count = 16
    for place in (study, checkpoint):
        place.mkdir()
    (checkpoint / "manifest.json").write_text("{}")
    found = {"weights": {"direction_reversals": 1.0}, "scalings": {}, "rows": []}
    (study / "uncertainty.json").write_text(json.dumps(found))
    sending = send_episodes(rig, count)
    next(sending)
    recorder = rig.record(folder, sim=True)
    list(sending)
    rig.until(lambda: rows(folder, "decisions") == 3 * count and rows(folder, "task") >= 2 * count, "all rows")
    recorder.close()
    words = ["--study", str(study), "--runs", str(folder), "--checkpoint", str(checkpoint)]
    output = checkpoint / "calibration.json"
    assert calibrate.main([*words, "--output", str(output)]) == 0
    made = Calibration.load(output, digest_of(checkpoint)).for_alpha(0.1)
    known = made.instructions["lift"]
    assert (known.n, known.runs) == (9, 16), "14 of 16 succeeded; every third of them gives the scale"
    assert made.source == "1 recorded runs" and "9 successful runs of 16, expected at least 19 for 5%" in capsys.readouterr().out
    calm, wild = ({"direction_reversals": share} for share in (1 / 7, 1.0))
    threshold = known.thresholds["0.1"]
    assert made.score(calm, known) < threshold < made.score(wild, known)
    assert calibrate.main([*words, "--check", str(output)]) == 0
    assert "| lift | 10% | 0 of 14 (0..22 %) | 2 of 2" in capsys.readouterr().out
    with pytest.raises(CalibrationError, match="9 successful runs of 16, expected at least 19 for 5% false alarms"):
        calibrate.main([*words, "--alphas", "0.05", "--output", str(output)])
    assert Calibration.load(output) == Calibration.load(output, digest_of(checkpoint)), "the file that was there stays"


def test_a_full_disk_ends_the_process_with_one_line(tmp_path):
    parameters = {"robot": ROBOT_FILE, "folder": tmp_path / "run", "least_free_mb": 1_000_000}
    words = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-m", "rdvla_ros.nodes.recorder.node", "--ros-args", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    (line,) = [line for line in done.stderr.splitlines() if "INFO" not in line]
    assert done.returncode == 1 and line.startswith("[ERROR] The recording in ") and "the robot goes on: DiskFull" in line


def test_the_recorder_is_started_where_asked_and_its_end_ends_nothing(tmp_path):
    given = {"sim": "true", "checkpoint": str(tmp_path), "namespace": "cell_1"}
    assert "recorder" not in [spec.node for spec in processes(given)]
    specs = {spec.node: spec for spec in processes({**given, "record": str(tmp_path / "run")})}
    assert list(specs) == ["sim_robot", "recorder", "gate", "monitor", "policy"]  # stopped backwards: it hears the last hold
    assert [spec.node for spec in specs.values() if not spec.needed] == ["recorder"]
    assert specs["recorder"].parameters["folder"] == str(tmp_path / "run") and specs["recorder"].namespace == "/cell_1"
    (tmp_path / "file").write_text("")
    with pytest.raises(BringupError, match="record: expected a folder that is new or empty"):
        processes({**given, "record": str(tmp_path)})


@pytest.mark.parametrize("table", MESSAGES)
def test_every_field_of_a_message_has_a_column(table):
    fields = set(MESSAGES[table].get_fields_and_field_types()) - {"header"}
    assert fields == {name.removesuffix("_s") if name.removesuffix("_s") in fields else name for name in SCHEMAS[table].names} - {
        "stamp",
        "stamp_s",
        "received_s",
    }


def test_bags_and_nodes_have_the_same_names():
    assert bags.DECISIONS == names.POLICY_CONVERGENCE and bags.UNCERTAINTY == names.MONITOR_UNCERTAINTY
    assert bags.GATE == names.GATE_STATUS and bags.TASK == names.SIM_TASK_STAGE
    assert bags.CHUNK.format(arm="left") == names.chunk("left")
    for source in ("policy", "teleop"):
        assert trajectory_topics(ROBOT.arms[0])[source] == bags.MOTIONS.format(source=source, arm=ROBOT.arms[0].name)
