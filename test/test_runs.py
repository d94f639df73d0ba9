"""The folder of a run: what is written is read again, whatever ended it; and it becomes a dataset that a network learns from."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import run_cases
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from run_cases import BEGIN_S, ROBOT, ROBOT_FILE, write_run

from rdvla_ros.learning.data.lerobot import ACTION, STATE, DatasetError
from rdvla_ros.learning.data.lerobot.reader import LeRobotDataset
from rdvla_ros.learning.recording import runs_to_dataset
from rdvla_ros.learning.recording.runs_to_dataset import TAKEOVER, Settings, convert
from rdvla_ros.runs import RunError, signals
from rdvla_ros.runs.reader import CUT, Run
from rdvla_ros.runs.schemas import gate_changes, message_row, sensor_row
from rdvla_ros.runs.tables import MERGED, TableWriter, read_table
from rdvla_ros.runs.writer import RunWriter


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    write_run(folder)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return Run(folder)


def row(number):
    message = run_cases.uncertainty(float(number), number, float("nan"))
    return message_row("uncertainty", message, float(number))


def test_a_run_is_read_as_it_was_written(run):
    assert run.ended == "complete" and run.robot.joint_names == ROBOT.joint_names
    assert run.about["parameters"]["gate"]["start_mode"] == "auto" and run.about["versions"]["rdvla_ros"]
    decisions = run.table("decisions")
    assert len(decisions) == 12 and decisions["instruction"][0] == run_cases.INSTRUCTION
    assert np.isnan(decisions["change"][3][0]) and decisions["change"][3][3] == 5e-5
    assert decisions["observation_stamp_s"][2] == pytest.approx(decisions["stamp_s"][2] - 0.08, abs=1e-6)
    stamps, pictures = run.frame_stamps("top"), list(run.pictures("top"))
    assert len(stamps) == len(pictures) == 60 and pictures[0].shape == (240, 320, 3)
    for stamp_s, picture in zip(stamps, pictures, strict=True):
        assert picture.mean() == pytest.approx(20 + round((stamp_s - BEGIN_S) * 30), abs=3)


def test_other_tools_read_the_tables(folder):
    table = pd.read_parquet(folder / "tables" / "joints")
    assert len(table) == 2 * 300 and len(table["position"][0]) == 7


@settings(max_examples=15, deadline=None)
@given(batches=st.lists(st.integers(0, 3), max_size=2 * MERGED + 5))
def test_every_row_is_there_once_and_in_order_however_it_was_flushed(batches, tmp_path_factory):
    folder, count = tmp_path_factory.mktemp("table"), 0
    writer = TableWriter(folder, "uncertainty")
    for size in batches:
        for _ in range(size):
            writer.add(row(count))
            count += 1
        writer.flush()
    assert read_table(folder, "uncertainty")["sequence"].to_pylist() == list(range(count))
    assert len(list(folder.iterdir())) < MERGED + 3


def test_parts_that_a_killed_process_had_merged_and_not_removed_count_once(tmp_path):
    writer = TableWriter(tmp_path, "uncertainty")
    for number in range(MERGED):
        writer.add(row(number))
        if number == MERGED - 1:
            kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        writer.flush()
    for name, data in kept.items():
        (tmp_path / name).write_bytes(data)
    assert read_table(tmp_path, "uncertainty")["sequence"].to_pylist() == list(range(MERGED))


LEFT, RIGHT = "left_wrist_force", "right_wrist_force"


def test_readings_become_features_of_the_dataset(tmp_path, capsys):
    write_run(tmp_path / "run", sensors=(LEFT, RIGHT))
    run = Run(tmp_path / "run")
    convert([run], tmp_path / "data", Settings())
    assert "WARN" not in capsys.readouterr().out
    data = LeRobotDataset(tmp_path / "data")
    left, right = (data.numbers(f"observation.sensors.{name}") for name in (LEFT, RIGHT))
    assert left.shape == right.shape == (len(data), 6)
    np.testing.assert_allclose(right, 10.0 * left, atol=1e-4)
    np.testing.assert_allclose(left[:, 5], -left[:, 0], atol=1e-5)
    episode = data.episodes[0]
    np.testing.assert_allclose(np.diff(left[episode.begin : episode.begin + len(episode), 0]), 0.1, atol=1e-3)


def test_a_sensor_that_was_not_recorded_is_said_and_left_out(tmp_path, capsys):
    write_run(tmp_path / "both", sensors=(LEFT, RIGHT))
    write_run(tmp_path / "one", sensors=(LEFT,))
    convert([Run(tmp_path / "both"), Run(tmp_path / "one")], tmp_path / "data", Settings())
    out = capsys.readouterr().out
    assert f"{tmp_path / 'one'}: no readings of sensor '{RIGHT}' that can be used: the dataset is without it." in out
    features = LeRobotDataset(tmp_path / "data").features
    assert f"observation.sensors.{LEFT}" in features and f"observation.sensors.{RIGHT}" not in features
    write_run(tmp_path / "none")
    convert([Run(tmp_path / "none")], tmp_path / "data_2", Settings())
    assert f"no readings of sensor '{LEFT}' that can be used" in capsys.readouterr().out


def described_anew(folder, change):
    """The run, as if its robot had been described otherwise."""
    path = folder / "robot.yaml"
    data = yaml.safe_load(path.read_text())
    change(data)
    path.write_text(yaml.safe_dump(data))
    return Run(folder)


def test_runs_from_before_a_sensor_was_described_can_be_joined_with_later_ones(tmp_path, capsys):
    write_run(tmp_path / "new", sensors=(LEFT, RIGHT))
    write_run(tmp_path / "old")
    old = described_anew(tmp_path / "old", lambda data: data.pop("sensors"))
    for runs in ([Run(tmp_path / "new"), old], [old, Run(tmp_path / "new")]):
        count, _ = convert(runs, tmp_path / "data", Settings())
        assert count > 1 and f"{tmp_path / 'old'}: its robot has no sensor '{LEFT}'" in capsys.readouterr().out
    write_run(tmp_path / "turned", sensors=(LEFT, RIGHT))
    turned = described_anew(tmp_path / "turned", lambda data: data["sensors"][0].update(frame_id="tool"))
    convert([Run(tmp_path / "new"), turned], tmp_path / "data", Settings())
    assert f"sensor '{LEFT}' is another one than in {tmp_path / 'new'}" in capsys.readouterr().out


def test_readings_of_another_frame_and_a_single_one_are_no_readings(tmp_path, capsys):
    write_run(tmp_path / "run", sensors=(LEFT, RIGHT))  # whose messages name no frame
    run = described_anew(tmp_path / "run", lambda data: data["sensors"][0].update(frame_id="tool"))
    assert not len(signals.readings(run, run.robot.sensors[0])[0]) and len(signals.readings(run, run.robot.sensors[1])[0]) == 300
    writer = write_run(tmp_path / "one", close=False)
    writer.row("sensors", sensor_row(run_cases.wrench(BEGIN_S + 1.0, ROBOT.sensors[0]), ROBOT.sensors[0], BEGIN_S + 1.0))
    writer.close()
    assert convert([Run(tmp_path / "one")], tmp_path / "data", Settings())[0] >= 1
    assert f"no readings of sensor '{LEFT}' that can be used" in capsys.readouterr().out


def test_frames_at_which_a_sensor_was_silent_or_broken_are_left_out(tmp_path):
    writer = write_run(tmp_path / "run", close=False)
    sensor = ROBOT.sensors[0]
    for tick in range(round(run_cases.LENGTH_S * 50)):
        after_s = tick / 50
        message = run_cases.wrench(BEGIN_S + after_s, sensor)
        if 1.0 <= after_s < 1.5:
            continue
        if 3.5 <= after_s < 4.0:
            message.wrench.force.y = float("nan")
        writer.row("sensors", sensor_row(message, sensor, BEGIN_S + after_s))
    writer.close()
    run = Run(tmp_path / "run")
    assert len(run.table("sensors")) == 275 and np.isnan(run.table("sensors")["values"][160][1]), "evidence is kept"
    found = runs_to_dataset.moments(run, Settings(), (sensor.name,))
    _, why = runs_to_dataset.stretches(found, Settings())
    assert 8 <= why[f"no reading of sensor '{sensor.name}'"] <= 12


def test_a_message_without_a_header_counts_from_when_it_came():
    from types import SimpleNamespace

    from rdvla_ros.robot import Sensor

    sensor = Sensor("skin", "skin", "std_msgs/Float32MultiArray", 3)
    assert sensor_row(SimpleNamespace(data=[1, 2.5]), sensor, 7.0) == {
        "stamp_s": 0.0, "received_s": 7.0, "sensor": "skin", "frame_id": "", "values": [1.0, 2.5]
    }  # fmt: skip


KILLED = """
import os, signal, sys
from pathlib import Path
from run_cases import write_run
writer = write_run(Path(sys.argv[1]), close=False)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_recorder_leaves_a_run_that_can_be_read_and_learned_from(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "run")], cwd=run_cases.ROBOT_FILE.parents[1] / "test")
    run = Run(tmp_path / "run")
    assert run.ended == CUT and len(run.table("joints")) == 600
    assert 45 <= len(list(run.pictures("top"))) <= 60  # all but what the last fragment holds
    assert convert([run], tmp_path / "data", Settings())[0] >= 1


FULL = """
import resource, sys, time
from pathlib import Path
import numpy as np
from run_cases import BEGIN_S, ROBOT, ROBOT_FILE, decision
from rdvla_ros.nodes.recorder.recording import Recording
from rdvla_ros.runs import RunError
from rdvla_ros.runs.schemas import message_row
from rdvla_ros.runs.writer import RunWriter

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)  # what a full disk does
try:
    writer = RunWriter(Path(sys.argv[1]), ROBOT_FILE)
except RunError as error:
    sys.exit(f"refused: {error}")
ends = []
recording = Recording(writer, 0.05, 0, ends.append, print)
noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
count = 0
while not recording.ended and count < 3000:
    count += 1
    row = message_row("decisions", decision(BEGIN_S + count, count), BEGIN_S + count)
    recording.put(lambda writer, row=row: writer.row("decisions", row))
    if count % 10 == 0:
        recording.put(lambda writer: writer.picture("top", noise, BEGIN_S, BEGIN_S), picture=True)
    time.sleep(0.002)
recording.close()
sys.exit(f"ended {len(ends)} times: {ends}")
"""


@pytest.mark.parametrize(
    ("limit", "said"), [(3000, "refused: record: the run could not be begun"), (20_000, "ended 1 times: ['OSE")]
)
def test_a_full_disk_ends_the_recording_once_and_what_is_there_can_be_read(tmp_path, limit, said):
    words = [sys.executable, "-c", FULL, str(tmp_path / "run"), str(limit)]
    done = subprocess.run(words, cwd=ROBOT_FILE.parents[1] / "test", capture_output=True, text=True, timeout=120)
    assert done.stderr.startswith(said) and "File too large" in done.stderr, done.stderr
    if limit > 3000:
        run = Run(tmp_path / "run")
        assert run.ended != "complete" and len(run.table("decisions"))


def test_a_damaged_part_is_named(tmp_path):
    write_run(tmp_path / "run", length_s=1.0)
    part = next((tmp_path / "run" / "tables" / "gate").iterdir())
    part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(RunError, match=r"tables/gate/0000000-0000000.parquet: expected a parquet table"):
        Run(tmp_path / "run").table("gate")


def test_no_run_is_named_and_none_is_overwritten(tmp_path, folder):
    with pytest.raises(RunError, match="expected a recorded run.*found no such folder.*record:="):
        Run(tmp_path / "nothing")
    with pytest.raises(RunError, match="new or empty"):
        RunWriter(folder, ROBOT_FILE)
    (tmp_path / "run.json").write_text(json.dumps({"format": "rdvla_ros run", "format_version": 99}))
    with pytest.raises(RunError, match="version 1, got .* version 99"):
        Run(tmp_path)


def test_a_state_is_written_when_it_changes_and_once_a_second():
    changes = gate_changes()
    kept = []
    for tick in range(40):
        mode, since_s = run_cases.mode_at(tick / 10)
        state = message_row("gate", run_cases.gate(BEGIN_S + tick / 10, mode, since_s), tick / 10)
        if changes.new(state):
            kept.append(tick)
    assert kept == [0, 10, 20, 30]  # the changes at 2 and 3 s are among them
    assert gate_changes().new(state) and changes.new({**state, "refused": 2})


# -- what the tables say at a time


def test_what_was_commanded_is_the_same_from_reports_and_from_trajectories(run, tmp_path):
    write_run(tmp_path / "run", controllers=False)
    times_s = BEGIN_S + np.linspace(0.1, 5.5, 50)
    for arm in ROBOT.arms:
        reported = signals.at(signals.commanded(run, arm), times_s)
        followed = signals.at(signals.commanded(Run(tmp_path / "run"), arm), times_s)
        expected = np.array([run_cases.commanded(t, arm.name) for t in times_s])
        np.testing.assert_allclose(reported, expected, atol=1e-3)
        np.testing.assert_allclose(followed, expected, atol=1e-3)


def test_nothing_is_made_up_in_a_gap_and_outside():
    known = (np.array([0.0, 0.1, 0.2, 1.0, 1.1]), np.arange(5.0)[:, None])
    values = signals.at(known, np.array([-0.1, 0.05, 0.2, 0.5, 1.05, 1.2]))[:, 0]
    np.testing.assert_allclose(values, [np.nan, 0.5, 2.0, np.nan, 3.5, np.nan])


# -- to a dataset


def test_a_run_becomes_episodes_without_the_hold_and_with_the_takeover_marked(run, tmp_path):
    count, left_out = convert([run], tmp_path / "data", Settings())
    data = LeRobotDataset(tmp_path / "data")
    assert count == len(data.episodes) == 2 and set(data.instructions()) == {run_cases.INSTRUCTION}
    assert left_out["the gate let nothing pass"] == 10  # one second at 10 Hz
    taken = data.numbers(TAKEOVER)
    assert data.names(TAKEOVER) == ["left", "right"] and not taken[:, 1].any()
    first, second = data.episodes
    begins = [episode.row["begin_s"] for episode in data.episodes]
    times_s = np.concatenate([begin + np.arange(len(e)) / 10 for begin, e in zip(begins, data.episodes, strict=True)])
    np.testing.assert_array_equal(taken[:, 0], times_s > BEGIN_S + run_cases.TAKEOVER_S[0] - 0.01)
    assert len(first) + len(second) == len(data)


def test_the_action_of_a_frame_is_what_was_commanded_a_frame_later(run, tmp_path):
    convert([run], tmp_path / "data", Settings())
    data = LeRobotDataset(tmp_path / "data")
    states, actions = data.numbers(STATE), data.numbers(ACTION)
    for episode in data.episodes:
        for i in range(episode.begin, episode.end):
            now_s = episode.row["begin_s"] + (i - episode.begin) / 10
            command, state = (
                ROBOT.to_policy(np.concatenate([run_cases.commanded(t, arm.name) for arm in ROBOT.arms]))
                for t in (now_s + 0.1, now_s - 0.1)
            )
            np.testing.assert_allclose(actions[i], command, atol=2e-3)
            np.testing.assert_allclose(states[i], state, atol=2e-3)
    assert states[0, 6] == pytest.approx(0.5)  # the gripper in policy units


def test_the_picture_of_a_frame_is_the_newest_one(run, tmp_path):
    convert([run], tmp_path / "data", Settings())
    data = LeRobotDataset(tmp_path / "data")
    for episode in data.episodes:
        for i, picture in enumerate(data.pictures("observation.images.top", episode)):
            level = 20 + (episode.row["begin_s"] + i / 10 - BEGIN_S) * 30
            assert picture.mean() == pytest.approx(level, abs=5)


def test_only_takeovers(run, tmp_path):
    count, _ = convert([run], tmp_path / "data", Settings(keep="takeovers"))
    assert count == 1 and LeRobotDataset(tmp_path / "data").numbers(TAKEOVER)[:, 0].all()


def test_what_cannot_become_an_episode_is_counted_by_its_reason(run, tmp_path):
    with pytest.raises(DatasetError, match=r"nothing can be made an episode.*too short: \d+.*the gate let nothing pass: 10"):
        convert([run], tmp_path / "data", Settings(shortest_s=100.0))
    assert not (tmp_path / "data" / "meta").exists()


def test_nan_in_the_joints_leaves_a_gap_and_no_nan_in_the_dataset(tmp_path):
    writer = write_run(tmp_path / "run", close=False)
    arm = ROBOT.arms[0]
    for tick in range(300):  # a second source, that says nothing of use
        message = run_cases.joints(BEGIN_S + tick / 50 + 0.001, arm)
        message.position[3] = float("nan")
        writer.row("joints", message_row("joints", message, BEGIN_S + tick / 50, topic=arm.joint_states_topic))
    writer.close()
    convert([Run(tmp_path / "run")], tmp_path / "data", Settings())
    assert np.isfinite(LeRobotDataset(tmp_path / "data").numbers(STATE)).all()


def test_one_training_step_runs_on_a_recorded_run(folder, tmp_path):
    from policy_cases import robot, tiny_config

    from rdvla_ros.learning.training import train as training
    from rdvla_ros.learning.training.parallel import Team

    assert runs_to_dataset.main([str(folder), "--output", str(tmp_path / "data")]) == 0
    config = tiny_config(steps=1, decay_steps=0, warmup_steps=0)
    policy = training.train(config, [tmp_path / "data"], tmp_path / "out", robot(), resume=False, team=Team())
    assert (policy / "manifest.json").is_file()


def test_a_folder_that_is_neither_run_nor_bag_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(RunError, match="expected a recorded run.*found notes.txt"):
        runs_to_dataset.main([str(tmp_path), "--output", str(tmp_path / "data")])
