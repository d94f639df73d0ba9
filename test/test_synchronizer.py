"""The synchroniser: clean streams as message_filters passes them, and every way in which streams are not clean."""

import importlib.util
import threading
from collections import deque

import numpy as np
import pytest
from sensor_msgs.msg import Image, JointState

from rdvla_ros.compat import message_filters, message_filters_standin
from rdvla_ros.nodes.common import conversions
from rdvla_ros.nodes.common.moment import Moment
from rdvla_ros.nodes.policy.synchronizer import Options, Synchronizer, free_running_slop_s
from rdvla_ros.types import ObservationError

CAMERAS = ("top", "left_wrist", "right_wrist")
START_S = 1_764_000_000.0


class Rig:
    """Streams without a network: messages go straight into the filters, and time is what the test says."""

    def __init__(self, options=None, cameras=CAMERAS, joints=("/left", "/right")):
        self.steady_s, self.ros_s = 100.0, START_S
        self.sources = {name: message_filters.SimpleFilter() for name in (*cameras, *joints)}
        self.log = []
        self.matched = []
        self.synchronizer = Synchronizer(
            {name: (f"/cameras/{name}", self.sources[name], lambda m: m) for name in cameras},
            {topic: (topic, self.sources[topic], self.positions) for topic in joints},
            lambda: Moment(self.steady_s, self.ros_s),
            lambda severity, text: self.log.append((severity, text)),
            options or Options(),
        )
        self.synchronizer.registerCallback(self.matched.append)

    @staticmethod
    def positions(message):
        if list(message.name) == ["wheel"]:
            raise conversions.OtherJoints("expected joints of the arm, got wheel")
        values = np.array(message.position)
        if not np.isfinite(values).all():
            raise ObservationError("expected finite positions, got nan")
        return values

    def pass_time(self, seconds):
        self.steady_s += seconds
        self.ros_s += seconds

    def image(self, camera, stamp_s=None):
        self._send(camera, Image(), stamp_s)

    def joints(self, topic, value, stamp_s=None):
        self._send(topic, JointState(position=[float(value)]), stamp_s)

    def _send(self, name, message, stamp_s):
        message.header.stamp = conversions.stamp(self.ros_s if stamp_s is None else stamp_s)
        self.sources[name].signalMessage(message)

    def healthy(self, seconds, offset_s=0.0, without=()):
        """Joints at 50 Hz and images at 10 Hz, stamps off by offset_s."""
        for tick in range(round(seconds * 50)):
            self.pass_time(0.02)
            for topic in ("/left", "/right"):
                if topic not in without:
                    self.joints(topic, self.ros_s - START_S, self.ros_s + offset_s)
            if tick % 5 == 2:
                for camera in CAMERAS:
                    if camera not in without:
                        self.image(camera, self.ros_s + offset_s - 0.01)

    def errors(self):
        return [text for severity, text in self.log if severity == "error"]


# clean streams


def test_images_of_one_moment_come_with_the_joints_of_that_moment():
    rig = Rig()
    rig.joints("/left", 1.0, START_S), rig.joints("/right", -1.0, START_S)
    rig.pass_time(0.02)
    rig.joints("/left", 2.0), rig.joints("/right", -3.0)
    for camera in CAMERAS:
        rig.image(camera, START_S + 0.005)
    (matched,) = rig.matched
    assert matched.positions["/left"] == pytest.approx([1.25], abs=1e-4) and matched.positions["/right"] == pytest.approx(
        [-1.5], abs=1e-4
    )
    assert list(matched.images) == list(CAMERAS) and matched.stamp_s == pytest.approx(START_S + 0.005, abs=1e-6)
    assert rig.synchronizer.latest() is matched


def test_images_wait_for_the_joint_sample_after_them_and_no_longer():
    rig = Rig()
    rig.joints("/left", 1.0), rig.joints("/right", 1.0)
    rig.pass_time(0.01)
    for camera in CAMERAS:
        rig.image(camera)
    assert not rig.matched
    rig.pass_time(0.01)
    rig.joints("/left", 2.0)
    assert not rig.matched
    rig.joints("/right", 2.0)
    assert len(rig.matched) == 1 and rig.matched[0].positions["/left"] == pytest.approx([1.5], abs=1e-4)


def test_joints_far_from_the_images_are_not_used():
    rig = Rig()
    rig.joints("/left", 1.0), rig.joints("/right", 1.0)
    rig.pass_time(0.1)
    for camera in CAMERAS:
        rig.image(camera)
    rig.pass_time(0.1)
    rig.joints("/left", 2.0), rig.joints("/right", 2.0)
    assert not rig.matched


def test_every_healthy_image_is_used_once_and_in_order():
    rig = Rig()
    rig.healthy(3.0)
    assert len(rig.matched) == 30
    stamps = [m.stamp_s for m in rig.matched]
    assert stamps == sorted(stamps) and len(set(stamps)) == 30


def clean_streams(seed, rate_hz=30.0, seconds=4.0, jitter_s=0.004):
    """(time of arrival, camera, stamp_ns) of cameras that run at one rate with offsets and jitter well inside the slop."""
    rng = np.random.default_rng(seed)
    events = []
    for camera in CAMERAS:
        offset = rng.uniform(0, 0.004)
        for frame in range(int(rate_hz * seconds)):
            stamp = START_S + frame / rate_hz + offset + rng.uniform(0, jitter_s)
            events.append((stamp + rng.uniform(0.001, 0.02), camera, stamp))
    return sorted(events)


def reference_sets(package, events, slop_s):
    sources = {camera: package.SimpleFilter() for camera in CAMERAS}
    synchronizer = package.ApproximateTimeSynchronizer(list(sources.values()), 10, slop_s)
    sets = []
    synchronizer.registerCallback(
        lambda *messages: sets.append(tuple((m.header.stamp.sec, m.header.stamp.nanosec) for m in messages))
    )
    for _, camera, stamp in events:
        message = Image()
        message.header.stamp = conversions.stamp(stamp)
        sources[camera].signalMessage(message)
    return sets


def our_sets(events, slop_s):
    rig = Rig(Options(slop_s=slop_s), joints=())
    for arrival, camera, stamp in events:
        rig.steady_s, rig.ros_s = arrival - START_S, arrival
        rig.image(camera, stamp)
    return [tuple((m.header.stamp.sec, m.header.stamp.nanosec) for m in matched.images.values()) for matched in rig.matched]


@pytest.mark.parametrize("seed", range(5))
def test_on_clean_streams_the_sets_are_those_of_the_stand_in(seed):
    events = clean_streams(seed)
    expected = reference_sets(message_filters_standin, events, 0.016)
    assert len(expected) == 120 and our_sets(events, 0.016) == expected


@pytest.mark.ros_packages
@pytest.mark.parametrize("seed", range(5))
def test_on_clean_streams_the_sets_are_those_of_message_filters(seed):
    if importlib.util.find_spec("message_filters") is None:
        pytest.skip("the ROS package message_filters is not installed here (it is on no package index)")
    import message_filters as real

    events = clean_streams(seed)
    expected = reference_sets(real, events, 0.016)
    assert len(expected) == 120 and our_sets(events, 0.016) == expected


def free_running(phases, rate_hz, seconds, without=()):
    """(time of arrival, camera, stamp) of cameras at fixed phases of one period; without: frames that get lost."""
    events = []
    for camera, phase in zip(CAMERAS, phases, strict=True):
        for frame in range(int(rate_hz * seconds)):
            if (camera, frame) not in without:
                stamp = START_S + (frame + phase) / rate_hz
                events.append((stamp + 0.002, camera, stamp))
    return sorted(events)


@pytest.mark.parametrize("phases", [(0, 1 / 3, 2 / 3), (0, 0.5, 0.5), (0, 0.45, 0.9), (0, 0, 0)])
def test_cameras_without_a_common_trigger_match_at_their_rate(phases):
    sets = our_sets(free_running(phases, 30.0, 10.0), free_running_slop_s(len(CAMERAS), 30.0))
    assert len(sets) >= 298


@pytest.mark.parametrize("late", CAMERAS)
def test_cameras_with_a_common_trigger_do_not_match_across_periods_when_one_begins_late(late):
    events = free_running((0, 0, 0), 30.0, 2.0, without={(late, 0)})
    sets = our_sets(events, free_running_slop_s(len(CAMERAS), 30.0))
    assert len(sets) == 59 and all(len(set(stamps)) == 1 for stamps in sets)


def test_it_stands_in_a_chain_of_filters():
    """Behind filters of any kind, and before a filter that reads stamps."""
    rig = Rig()
    behind = message_filters.TimeSynchronizer([rig.synchronizer], 5)
    out = []
    behind.registerCallback(lambda matched, extra: out.append((matched, extra)), "extra")
    rig.healthy(0.5)
    assert len(out) == 5 and out[0] == (rig.matched[0], "extra")


# what kills others


def test_a_callback_that_raises_is_reported_and_blocks_nothing():
    rig = Rig()
    later = []
    rig.synchronizer.callbacks.clear()

    def raises(matched):
        raise RuntimeError("no")

    rig.synchronizer.registerCallback(raises)
    rig.synchronizer.registerCallback(later.append)
    rig.healthy(1.0)
    assert len(later) == 10
    assert len(rig.errors()) == 1 and "raises failed on synchronised inputs: RuntimeError: no" in rig.errors()[0]


def test_a_callback_runs_outside_the_lock():
    """Another input may come in, from another thread, while a callback works."""
    rig = Rig()
    results = []

    def slow(matched):
        thread = threading.Thread(target=lambda: (rig.joints("/left", 0.0, rig.ros_s + 0.001), results.append("taken")))
        thread.start()
        thread.join(2.0)
        results.append("returned")

    rig.synchronizer.registerCallback(slow)
    rig.healthy(0.1)
    assert results == ["taken", "returned"]


@pytest.mark.parametrize("back_s", [50.0, 5.0, 0.6])
@pytest.mark.parametrize("phase", range(5))
def test_row_18_stamps_that_jump_back_flush_once_and_matching_resumes_within_a_second(back_s, phase):
    rig = Rig()
    rig.healthy(2.0 + phase * 0.02)
    before = len(rig.matched)
    rig.healthy(1.0, offset_s=-back_s)
    assert len(rig.errors()) == 1 and "stamps jumped back" in rig.errors()[0]
    assert len(rig.matched) - before >= 8
    assert rig.matched[-1].stamp_s < START_S + 3.0 - back_s + 0.2


def test_a_jump_forgets_the_set_from_before():
    rig = Rig()
    rig.healthy(1.0)
    assert rig.synchronizer.latest() is not None
    rig.pass_time(0.02)
    rig.joints("/left", 0.0, rig.ros_s - 50.0)
    assert rig.synchronizer.latest() is None


def test_a_single_late_message_is_refused_without_a_flush():
    rig = Rig()
    rig.healthy(1.0)
    rig.joints("/left", 99.0, rig.ros_s - 0.1)
    assert not rig.errors() and "expected stamps that advance" in rig.log[-1][1]
    before = len(rig.matched)
    rig.healthy(0.5)
    assert len(rig.matched) == before + 5


@pytest.mark.parametrize("count", [1, 8, 50])
def test_row_19_stamps_in_the_future_are_refused_and_hold_no_place(count):
    rig = Rig()
    rig.healthy(0.5)
    for _ in range(count):
        rig.pass_time(0.001)
        rig.image("top", rig.ros_s + 3600.0)
        rig.joints("/left", 0.0, rig.ros_s + 3600.0)
    assert "lies 3600.000 s in the future, expected at most 0.05 s" in rig.log[0][1]
    before = len(rig.matched)
    rig.healthy(1.0)
    assert len(rig.matched) == before + 10


def test_row_20_a_message_without_a_stamp_is_refused_or_takes_the_time_of_receipt():
    rig = Rig()
    rig.image("top", 0.0)
    assert "expected a stamp, got 0" in rig.log[0][1]
    rig = Rig(Options(zero_stamps="receive"))
    rig.joints("/left", 1.0, 0.0), rig.joints("/right", 1.0, 0.0)
    rig.pass_time(0.01)
    for camera in CAMERAS:
        rig.image(camera, 0.0)
    rig.pass_time(0.01)
    rig.joints("/left", 2.0, 0.0), rig.joints("/right", 2.0, 0.0)
    assert len(rig.matched) == 1


def test_a_clock_at_zero_is_named():
    rig = Rig()
    rig.ros_s = 0.0
    rig.image("top", START_S)
    assert "nothing publishes /clock" in rig.log[0][1]


def test_messages_for_others_on_a_shared_topic_are_no_fault():
    """One combined topic, fed by several drivers: what names none of the arm's joints says nothing about the arm."""
    rig = Rig()
    rig.healthy(0.5, without=("/left",))
    for _ in range(20):
        rig.healthy(0.1)
        rig.sources["/left"].signalMessage(JointState(name=["wheel"], position=[1.0]))
    assert len(rig.matched) >= 19 and not rig.log and rig.synchronizer.silent(after_s=0.1) == []
    for _ in range(20):
        rig.healthy(0.1, without=("/left",))
        rig.sources["/left"].signalMessage(JointState(name=["wheel"], position=[1.0]))
    (silence,) = rig.synchronizer.silent(after_s=1.0)
    assert silence.topic == "/left" and "got wheel" in silence.reason


def test_a_silent_stream_is_named_and_nothing_is_filled_in():
    rig = Rig()
    rig.healthy(1.0)
    before = len(rig.matched)
    rig.healthy(3.0, without=("left_wrist",))
    assert len(rig.matched) == before, "no set without the silent camera"
    (silence,) = rig.synchronizer.silent(after_s=1.0)
    assert silence.topic == "/cameras/left_wrist" and 2.9 < silence.for_s < 3.2 and silence.reason == ""
    rig.healthy(0.5)
    assert len(rig.matched) >= before + 4 and rig.synchronizer.silent(after_s=1.0) == []


def test_when_the_joints_of_one_arm_stop_there_are_no_more_sets():
    rig = Rig()
    rig.healthy(1.0)
    before = len(rig.matched)
    rig.healthy(2.0, without=("/right",))
    assert len(rig.matched) <= before + 1
    assert [s.topic for s in rig.synchronizer.silent(after_s=1.0)] == ["/right"]


def test_a_stream_of_refused_messages_is_silent_with_a_reason():
    rig = Rig()
    rig.healthy(0.5)
    for _ in range(20):
        rig.healthy(0.1, without=("/left",))
        rig.joints("/left", np.nan)
    (silence,) = rig.synchronizer.silent(after_s=1.0)
    assert silence.topic == "/left" and "expected finite positions" in silence.reason
    assert len([text for _, text in rig.log if "finite" in text]) == 1, "one complaint, not twenty"


def test_streams_that_are_alive_but_never_match_are_explained():
    rig = Rig(Options(slop_s=0.02))
    for _ in range(20):
        rig.pass_time(0.1)
        rig.image("top"), rig.image("left_wrist", rig.ros_s - 0.06), rig.image("right_wrist")
        rig.joints("/left", 0.0), rig.joints("/right", 0.0)
    assert not rig.matched and rig.synchronizer.silent(after_s=1.0) == []
    why = rig.synchronizer.unmatched(after_s=1.0)
    assert "/cameras/left_wrist lies 0.060 s before that of" in why and "expected images within 0.02 s (parameter slop_s)" in why
    rig.healthy(0.3)
    assert rig.synchronizer.unmatched(after_s=1.0) == ""


def test_memory_stays_bounded_while_a_stream_is_silent():
    rig = Rig(Options(image_depth=4, joint_depth=64))
    rig.healthy(20.0, without=("top",))
    assert all(len(stream.samples) <= 64 for stream in rig.synchronizer._joints.values())
    assert all(len(stream.samples) <= 4 for stream in rig.synchronizer._cameras.values())


def test_the_age_is_the_worse_of_receipt_and_stamp():
    rig = Rig()
    rig.healthy(1.0)
    matched = rig.matched[-1]
    rig.steady_s += 0.5  # the ROS clock stands still
    assert matched.age_s(Moment(rig.steady_s, rig.ros_s)) > 0.5
    rig.steady_s -= 0.5
    rig.ros_s += 7.0  # or ran ahead
    assert matched.age_s(Moment(rig.steady_s, rig.ros_s)) > 7.0


def test_joints_at_500_hz_cost_no_product_of_queues():
    """The samples that a message visits grow with the logarithm of what is buffered, not with it."""

    class Counting(deque):
        visited = 0

        def __getitem__(self, index):
            Counting.visited += 1
            return super().__getitem__(index)

        def __iter__(self):
            for sample in super().__iter__():
                Counting.visited += 1
                yield sample

    def visits(depth):
        rig = Rig(Options(joint_depth=depth))
        for stream in rig.synchronizer._joints.values():
            stream.samples = Counting(maxlen=depth)
        for _ in range(depth + 50):
            rig.pass_time(0.002)
            rig.joints("/left", 0.0), rig.joints("/right", 0.0)
        for camera in CAMERAS:
            rig.image(camera, rig.ros_s - 0.001)
        Counting.visited = 0
        for _ in range(200):
            rig.pass_time(0.002)
            rig.joints("/left", 0.0), rig.joints("/right", 0.0)
            for camera in CAMERAS:
                rig.image(camera, rig.ros_s - 0.001)
        assert len(rig.matched) >= 200 and not rig.errors()
        return Counting.visited / 200

    few, many = visits(32), visits(512)
    assert few > 0 and many < 3.0 * few, f"{few:.0f} visits at a depth of 32, {many:.0f} at 512"
