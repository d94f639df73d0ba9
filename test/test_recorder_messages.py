"""Messages handed to the recorder's callbacks, without a wire: nothing that is in one ends the recording, and what was recorded
can be reported and converted, or the refusal says why not."""

from __future__ import annotations

import contextlib
import math

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

import rclpy
from fuzz_messages import NUMBERS, TEXTS
from gate_rig import ROBOT, ROBOT_FILE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState

from rdvla_ros.learning.data.lerobot import DatasetError
from rdvla_ros.learning.recording.runs_to_dataset import Settings, convert
from rdvla_ros.msg import Convergence, GateStatus, Uncertainty
from rdvla_ros.nodes.recorder.node import RecorderNode
from rdvla_ros.runs import RunError, report
from rdvla_ros.runs.reader import Run

KINDS = (Convergence, Uncertainty, GateStatus, JointState)


@pytest.fixture(scope="module")
def context():
    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    context.try_shutdown()


@pytest.fixture
def recorder(context):
    """Makes recorders, and takes them down."""
    with contextlib.ExitStack() as stack:

        def make(folder, **values):
            values = {"robot": str(ROBOT_FILE), "folder": str(folder), "flush_s": 0.1, "least_free_mb": 0, **values}
            overrides = [Parameter(name, value=value) for name, value in values.items()]
            node = RecorderNode(context=context, parameter_overrides=overrides)
            stack.callback(node.destroy_node)
            stack.callback(node.close)
            return node

        yield make


def hand(node, message):
    """To the first subscription of this type."""
    subscription = next(s for s in node.subscriptions if s.msg_type is type(message))
    subscription.callback(serialize_message(message))


@st.composite
def spoiled(draw, kind):
    """A message with anything that its fields can hold."""
    message = kind()
    for field, type_ in kind.get_fields_and_field_types().items():
        if type_ in VALUES:
            setattr(message, field, draw(VALUES[type_]))
    message.header.stamp.sec = draw(st.sampled_from([0, -(2**31), 2**31 - 1, 1_000_000, 1_000_001]))
    return message


def whole(bits):
    return st.sampled_from([0, 1, 2, 3, 77 % 2**bits, 2**bits - 1])


VALUES = {
    "double": NUMBERS,
    "boolean": st.booleans(),
    "string": TEXTS,
    "uint8": whole(8),
    "uint32": whole(32),
    "uint64": whole(64),
    "sequence<double>": st.lists(NUMBERS, max_size=5),
    "sequence<string>": st.lists(st.one_of(TEXTS, st.sampled_from(["total", "$x", "_y", ROBOT.joint_names[0]])), max_size=4),
}


@pytest.mark.filterwarnings("ignore")  # of matplotlib, about glyphs and huge numbers
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(messages=st.lists(st.one_of([spoiled(kind) for kind in KINDS]), min_size=1, max_size=8))
def test_no_message_ends_the_recording_or_what_comes_after(recorder, tmp_path_factory, messages):
    folder = tmp_path_factory.mktemp("runs") / "run"
    node = recorder(folder)
    for message in messages:
        hand(node, message)
    node.close()
    run = Run(folder)
    assert not node.failed and run.ended == "complete"
    assert len(run.table("decisions")) == sum(isinstance(message, Convergence) for message in messages)
    assert report.page(run).startswith("<!doctype html>")
    with contextlib.suppress(DatasetError, RunError):
        convert([run], folder.parent / "data", Settings())


def image(**changes):
    values = dict(height=240, width=320, step=960, encoding="rgb8", data=bytes(240 * 960))
    return Image(**{**values, **changes})


def test_bad_pictures_are_left_out_and_bad_bytes_too(recorder, tmp_path):
    node = recorder(tmp_path / "run", camera_hz=60.0)
    bad = ({"encoding": "16UC1"}, {"step": 7}, {"height": 0, "data": []}, {"width": 5000})
    for changes in bad[:2]:  # three in a row are taken at once
        hand(node, image(**changes))
    hand(node, image())
    for subscription in node.subscriptions:
        if subscription.msg_type is Convergence:
            subscription.callback(b"\x00\x01\x00\x00short")
    node.close()
    run = Run(tmp_path / "run")
    assert run.ended == "complete" and len(run.table("frames")) == 1 and not len(run.table("decisions"))


def test_unknown_codes_nan_and_numbers_that_go_back_are_kept_as_they_came(recorder, tmp_path):
    node = recorder(tmp_path / "run")
    hand(node, Convergence(stop_reason=250, threshold=math.nan, sequence=2**64 - 1))
    hand(node, Convergence(sequence=1))
    node.close()
    decisions = Run(tmp_path / "run").table("decisions")
    assert list(decisions["sequence"]) == [2**64 - 1, 1] and decisions["stop_reason"][0] == 250
    assert math.isnan(decisions["threshold"][0]) and not len(decisions["change"][0])


def test_a_disk_without_room_ends_the_recording_and_nothing_is_raised(recorder, tmp_path):
    node = recorder(tmp_path / "run", least_free_mb=1_000_000)
    node._recording._thread.join(10.0)
    assert "has ended, the robot goes on" in node.failed and "expected at least 1000000 MiB free" in node.failed
    hand(node, Convergence(sequence=1))
    node.close()
    run = Run(tmp_path / "run")
    assert "MiB free" in run.ended and not len(run.table("decisions"))


def test_what_the_disk_is_too_slow_for_is_left_out_and_counted(recorder, tmp_path, monkeypatch):
    monkeypatch.setattr("rdvla_ros.nodes.recorder.recording.PICTURES", 0)
    node = recorder(tmp_path / "run")
    hand(node, image())
    hand(node, Convergence(sequence=1))
    node.close()
    run = Run(tmp_path / "run")
    assert run.about["dropped"] == 1 and not len(run.table("frames")) and len(run.table("decisions")) == 1


def test_a_flood_is_kept_in_part(recorder, tmp_path):
    node = recorder(tmp_path / "run", joints_hz=1.0)
    for _ in range(500):
        hand(node, JointState(name=["a"], position=[0.0]))
    node.close()
    assert 1 <= len(Run(tmp_path / "run").table("joints")) < 20
