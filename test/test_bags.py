"""rosbag2 MCAP bags become runs: the same numbers as recorded, and what is missing, doubled or cut is named."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import run_cases
from run_cases import BEGIN_S, ROBOT, ROBOT_FILE

pytest.importorskip("mcap_ros2", reason="needs requirements-bags.txt")

from mcap_ros2.writer import Writer

from rdvla_ros.learning.data.lerobot.reader import LeRobotDataset
from rdvla_ros.learning.recording import runs_to_dataset
from rdvla_ros.runs import RunError
from rdvla_ros.runs.bags import bag_to_run
from rdvla_ros.runs.reader import Run

MSG = Path(__file__).resolve().parents[1] / "msg"
TIME = "int32 sec\nuint32 nanosec\n"
HEADER = "builtin_interfaces/Time stamp\nstring frame_id\n"
POINT = (
    "float64[] positions\nfloat64[] velocities\nfloat64[] accelerations\nfloat64[] effort\n"
    "builtin_interfaces/Duration time_from_start\n"
)
PARTS = {
    "std_msgs/Header": HEADER,
    "builtin_interfaces/Time": TIME,
    "builtin_interfaces/Duration": TIME,
    "trajectory_msgs/JointTrajectoryPoint": POINT,
    "geometry_msgs/Wrench": "geometry_msgs/Vector3 force\ngeometry_msgs/Vector3 torque\n",
    "geometry_msgs/Vector3": "float64 x\nfloat64 y\nfloat64 z\n",
}
TYPES = {
    "sensor_msgs/msg/JointState": (
        "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort\n"
    ),
    "sensor_msgs/msg/Image": (
        "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\nuint8[] data\n"
    ),
    "geometry_msgs/msg/WrenchStamped": "std_msgs/Header header\ngeometry_msgs/Wrench wrench\n",
    "trajectory_msgs/msg/JointTrajectory": (
        "std_msgs/Header header\nstring[] joint_names\ntrajectory_msgs/JointTrajectoryPoint[] points\n"
    ),
    **{f"rdvla_ros/msg/{name}": (MSG / f"{name}.msg").read_text() for name in ("Convergence", "GateStatus", "ControllerState")},
}


def definition(kind: str) -> str:
    """As rosbag2 writes it: with the definitions of all parts."""
    return TYPES[kind] + "".join(f"{'=' * 80}\nMSG: {name}\n{text}" for name, text in PARTS.items())


def plain(value):
    """As the writer of bags wants it."""
    if isinstance(value, SimpleNamespace):
        return {name: plain(item) for name, item in vars(value).items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def image(time_s, camera):
    picture = run_cases.picture(time_s, camera)
    values = dict(height=camera.height, width=camera.width, encoding="rgb8", is_bigendian=0, step=camera.width * 3)
    return run_cases.message(time_s, **values, data=picture.tobytes())


def messages(space="", length_s=3.0, skip=()):
    """(topic, type, message, time [s]) of a robot in a namespace."""
    robot = ROBOT.in_namespace(space or "/")
    found = []
    for tick in range(round(length_s * 50)):
        now_s = BEGIN_S + tick / 50
        for arm in robot.arms:
            found.append((arm.joint_states_topic, "sensor_msgs/msg/JointState", run_cases.joints(now_s, arm), now_s))
            state = run_cases.controller(now_s, arm)
            found.append((arm.controller_state_topic, "rdvla_ros/msg/ControllerState", state, now_s))
            if tick % 25 == 0:
                motion = run_cases.trajectory(now_s, arm)
                found.append((arm.trajectory_topic, "trajectory_msgs/msg/JointTrajectory", motion, now_s))
        for sensor in robot.sensors:
            found.append((sensor.topic, "geometry_msgs/msg/WrenchStamped", run_cases.wrench(now_s, sensor), now_s))
        if tick % 5 == 0:
            mode, since_s = run_cases.mode_at(tick / 50)
            status = run_cases.gate(now_s, mode, BEGIN_S + since_s)
            found.append((f"{space}/gate/status", "rdvla_ros/msg/GateStatus", status, now_s))
            found += [(camera.topic, "sensor_msgs/msg/Image", image(now_s, camera), now_s) for camera in robot.cameras]
        if tick % 25 == 0:
            decision = run_cases.decision(now_s, tick // 25 + 1)
            found.append((f"{space}/policy/convergence", "rdvla_ros/msg/Convergence", decision, now_s))
    return [item for item in found if not any(word in item[0] for word in skip)]


def write_bag(path: Path, items, chunk_size=200_000) -> Path:
    out = io.BytesIO()
    writer = Writer(out, chunk_size=chunk_size)
    schemas = {}
    for topic, kind, message, time_s in items:
        if kind not in schemas:
            schemas[kind] = writer.register_msgdef(kind, definition(kind))
        writer.write_message(topic, schemas[kind], plain(message), round(time_s * 1e9))
    writer.finish()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(out.getvalue())
    return path


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bags") / "tuesday"
    write_bag(folder / "tuesday_0.mcap", messages())
    (folder / "metadata.yaml").write_text("rosbag2_bagfile_information: {}\n")
    return folder


def test_a_bag_is_the_run_that_the_recorder_would_have_left(bag, tmp_path):
    assert bag_to_run(bag, ROBOT_FILE, tmp_path / "from_bag") == []
    run_cases.write_run(tmp_path / "recorded", length_s=3.0, sensors=[sensor.name for sensor in ROBOT.sensors])
    ours, theirs = Run(tmp_path / "from_bag"), Run(tmp_path / "recorded")
    assert ours.ended == "complete" and ours.about["bag"] == str(bag)
    for table in ("joints", "controllers", "trajectories", "decisions", "gate", "sensors"):
        columns = [name for name in ours.table(table).columns if name not in ("received_s", "topic")]
        ours_rows, theirs_rows = (run.table(table)[columns] for run in (ours, theirs))
        if table == "gate":  # of which a bag keeps only the changes
            theirs_rows = theirs_rows[theirs_rows["stamp_s"].isin(ours_rows["stamp_s"])].reset_index(drop=True)
            assert {0, 1} == set(ours_rows["mode"])
        assert len(ours_rows) == len(theirs_rows) > 0
        for name in columns:
            for a, b in zip(ours_rows[name], theirs_rows[name], strict=True):
                assert np.array_equal(a, b, equal_nan=True) if isinstance(a, float) else np.all(a == b) or name == "change", name
    assert len(list(ours.pictures("top"))) == 30


def test_a_bag_becomes_a_dataset(bag, tmp_path, capsys):
    assert runs_to_dataset.main([str(bag), "--robot", str(ROBOT_FILE), "--output", str(tmp_path / "data")]) == 0
    assert len(LeRobotDataset(tmp_path / "data").episodes) == 1  # up to the hold
    assert "1 episodes" in capsys.readouterr().out


def test_a_bag_without_a_robot_description_is_refused(bag, tmp_path):
    with pytest.raises(RunError, match="--robot <file>"):
        runs_to_dataset.main([str(bag), "--output", str(tmp_path / "data")])


def test_missing_topics_are_named(tmp_path):
    bag = write_bag(tmp_path / "bag.mcap", messages(length_s=0.2, skip=("right/joint_states", "cameras/top")))
    with pytest.raises(RunError, match="2 are missing: /right/joint_states, /cameras/top/image_raw.*Did you mean '/left/joint_s"):
        bag_to_run(bag, ROBOT_FILE, tmp_path / "run")


def test_what_a_bag_can_do_without_is_said(tmp_path):
    bag = write_bag(tmp_path / "bag.mcap", messages(length_s=2.0, skip=("gate/status", "convergence", "controller_state")))
    remarks = bag_to_run(bag, ROBOT_FILE, tmp_path / "run")
    assert [remark.split("topic ")[1].split(" is")[0] for remark in remarks] == [
        "/gate/status",
        "/policy/convergence",
        "/left_arm_controller/controller_state",
        "/right_arm_controller/controller_state",
    ]
    words = [str(bag), "--robot", str(ROBOT_FILE), "--output", str(tmp_path / "data")]
    with pytest.raises(Exception, match="no instruction \\(give one with --instruction\\): [1-9]"):
        runs_to_dataset.main(words)
    assert runs_to_dataset.main([*words, "--instruction", "lift"]) == 0
    data = LeRobotDataset(tmp_path / "data")
    assert data.tasks_of(data.episodes[0]) == ["lift"]


def test_of_several_robots_one_is_chosen(tmp_path):
    both = sorted([*messages("/cell_1", 1.0), *messages("/cell_2", 0.5)], key=lambda item: item[3])
    bag = write_bag(tmp_path / "bag.mcap", both)
    with pytest.raises(RunError, match="2 robots fit.*cell_1, cell_2.*--namespace"):
        bag_to_run(bag, ROBOT_FILE, tmp_path / "run")
    assert not bag_to_run(bag, ROBOT_FILE, tmp_path / "run", "cell_2")
    assert len(Run(tmp_path / "run").table("joints")) == 2 * 25
    with pytest.raises(RunError, match="are missing: /cell_3/left/joint_states"):
        bag_to_run(bag, ROBOT_FILE, tmp_path / "other", "cell_3")
    alone = write_bag(tmp_path / "alone.mcap", messages("/cell_1", 0.5))
    assert not bag_to_run(alone, ROBOT_FILE, tmp_path / "alone")  # the only one needs no name


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_of_a_bag_with_a_cut_end_the_rest_is_used(tmp_path, share):
    whole = write_bag(tmp_path / "whole.mcap", messages(length_s=2.0)).read_bytes()
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole[: int(share * len(whole))])
    remarks = bag_to_run(cut, ROBOT_FILE, tmp_path / "run")
    assert any("cut or damaged after" in remark for remark in remarks)
    run = Run(tmp_path / "run")
    assert "cut" in run.ended and len(run.table("joints")) >= share * 0.7 * 200


def test_a_bag_that_is_no_bag_is_named(tmp_path):
    bag = tmp_path / "bag.mcap"
    for data in (b"", b"no mcap at all", write_bag(tmp_path / "whole.mcap", messages(length_s=0.1)).read_bytes()[:40]):
        bag.write_bytes(data)
        with pytest.raises(RunError, match="bag.mcap: expected messages, found none"):
            bag_to_run(bag, ROBOT_FILE, tmp_path / "run")


def test_a_message_that_cannot_be_read_is_counted(tmp_path):
    items = messages(length_s=1.0)
    items[40][2].__dict__.update(header=run_cases.message(BEGIN_S).header)
    number = next(i for i, item in enumerate(items) if "cameras/top" in item[0])
    items[number][2].data = b"short"
    remarks = bag_to_run(write_bag(tmp_path / "bag.mcap", items), ROBOT_FILE, tmp_path / "run")
    assert len(remarks) == 1 and "1 messages of /cameras/top/image_raw cannot be read" in remarks[0]
    assert len(Run(tmp_path / "run").frame_stamps("top")) == 9
