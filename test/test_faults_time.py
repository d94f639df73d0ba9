"""Faults of stamps, clocks and timing: the policy node over DDS, its clocks in the test's hand. One test per row."""

import time
from concurrent.futures import Future
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

import worker_cases
from policy_rig import CASES, ROBOT
from rosgraph_msgs.msg import Clock

from rdvla_ros.nodes.common import conversions
from rdvla_ros.nodes.common.moment import Moment
from rdvla_ros.nodes.policy.worker.client import ProcessWorker
from rdvla_ros.nodes.policy.worker.protocol import Packet, decision_to_dict
from rdvla_ros.types import Observation

QUICK = {"pause_after_s": 0.6, "healthy_s": 0.3, "longest_pause_s": 30.0}


def test_row_18_stamps_that_jump_back_flush_once_and_matching_goes_on_after_it(make_rig):
    """test_synchronizer.py has the time it takes, over the phases of the jump."""
    rig = make_rig(**QUICK).moving()
    rig.delay_s = 50.0
    assert rig.until(lambda: rig.line("stamps jumped back by", severity="ERROR")), rig.log
    assert rig.until(lambda: rig.line("Pause: ")) and rig.rests(), "inputs that are 50 s old move nothing"
    rig.delay_s = 0.0
    rig.moving()
    assert sum("stamps jumped back" in line for line in rig.lines()) == 1 and not rig.line("Hold: ")


def test_row_19_messages_from_the_future_are_refused_and_block_nothing(make_rig):
    rig = make_rig().moving()
    spoiled = []

    def ahead(what, message):
        if len(spoiled) < 40:
            spoiled.append(what.name)
            message.header.stamp.sec += 3600

    rig.spoil_image = rig.spoil_joints = ahead
    assert rig.until(lambda: len(spoiled) == 40 and rig.line("s in the future, expected at most 0.05 s", severity="WARN"))
    rig.moving()
    assert all(conversions.seconds(d.observation_stamp) < time.time() + 1.0 for d in rig.decisions)


@pytest.mark.parametrize("parameter, works", [("reject", False), ("receive", True)])
def test_row_20_messages_without_a_stamp_are_refused_or_take_the_time_of_receipt(make_rig, parameter, works):
    rig = make_rig(zero_stamps=parameter)

    def unstamped(what, message):
        message.header.stamp.sec = message.header.stamp.nanosec = 0

    rig.spoil_image = rig.spoil_joints = unstamped
    if works:
        rig.moving()
        assert abs(conversions.seconds(rig.decisions[-1].observation_stamp) - time.time()) < 5.0
    else:
        rig.start()
        assert (
            rig.until(lambda: rig.line("expected a stamp, got 0", "zero_stamps: receive")) and rig.rests() and not rig.decisions
        )


def test_row_21_a_camera_whose_clock_is_behind_is_measured_and_too_far_behind_no_start(make_rig):
    rig = make_rig(max_observation_age_s=0.7, skew_warn_s=0.15, skew_limit_s=0.3, slop_s=0.6)
    behind = {"s": 0.45}

    def late(camera, message):
        if camera.name == "top":
            message.header.stamp = conversions.stamp(conversions.seconds(message.header.stamp) - behind["s"])

    rig.spoil_image = late
    rig.start()
    words = (f"The stamps of {ROBOT.cameras[0].topic} lie 0.4", "Are the clocks of their hosts synchronised?")
    assert rig.until(lambda: rig.line(*words, severity="WARN")), rig.log
    assert any(words[0] in cause for cause in rig.policy._causes()), "with a gate, a resume is refused for it"
    assert rig.rests() and not rig.decisions
    behind["s"] = 0.22
    rig.moving()
    assert rig.until(lambda: rig.line("lie 0.2", severity="WARN")), "it is told, and no reason to stop"


@pytest.mark.parametrize("step_s", [5.0, -5.0])
def test_row_22_a_step_of_the_host_s_clock_drops_what_was_before_and_disturbs_no_watchdog(make_rig, step_s):
    rig = make_rig(**QUICK)
    offset = {"s": 0.0}
    rig.policy._now = lambda: Moment(time.monotonic(), time.time() + offset["s"])
    rig.moving()
    offset["s"], rig.delay_s = step_s, -step_s
    assert rig.until(lambda: rig.line("The clock jumped by", severity="ERROR")), rig.log
    rig.moving()
    assert not rig.line("Hold: ") and rig.policy._guard.exceptions == 0
    assert abs(conversions.seconds(rig.sent["left"][-1].header.stamp) - time.time() - step_s) < 2.0


class SimulatedClock:
    """/clock at a rate times the real one; the stamps of the rig follow it."""

    def __init__(self, rig):
        self.now_s, self.rate, self._last_s = 1000.0, 1.0, time.monotonic()
        self._publisher = rig.robot.create_publisher(Clock, "/clock", 10)
        rig.stamp = lambda: conversions.stamp(self.now_s)
        rig.robot.create_timer(0.01, self._tick)

    def _tick(self):
        passed_s, self._last_s = time.monotonic() - self._last_s, time.monotonic()
        if self.rate:
            self.now_s += self.rate * passed_s
            self._publisher.publish(Clock(clock=conversions.stamp(self.now_s)))


def test_row_23_simulated_time_that_stops_pauses_that_jumps_back_flushes_and_may_run_fast(make_rig):
    rig = make_rig(use_sim_time=True, **QUICK)
    clock = SimulatedClock(rig)
    rig.moving()
    assert abs(conversions.seconds(rig.sent["left"][-1].header.stamp) - clock.now_s) < 5.0, "commands follow the ROS clock"
    clock.rate = 0.0
    assert rig.until(lambda: rig.line("/clock has stood still for")), rig.log
    assert rig.rests()
    clock.rate = 1.0
    rig.moving()
    clock.now_s -= 300.0
    assert rig.until(lambda: rig.line("The simulated clock jumped back by", severity="ERROR")), rig.log
    rig.moving()
    assert conversions.seconds(rig.sent["left"][-1].header.stamp) < 950.0
    clock.rate = 10.0
    rig.spin(0.5)
    assert sum("simulated clock jumped" in line for line in rig.lines()) == 1 and not rig.line("Hold: ")


def test_row_24_after_callbacks_that_stood_still_there_is_no_burst(make_rig):
    rig = make_rig(stall_s=0.3).moving()
    before = {name: len(messages) for name, messages in rig.sent.items()}
    time.sleep(0.9)  # the node's callbacks, the robot's, and the test's are one thread
    assert rig.until(lambda: rig.line("The callbacks stood still for", severity="WARN")), rig.log
    rig.moving()
    for name, messages in rig.sent.items():
        stamps = [conversions.seconds(message.header.stamp) for message in messages[before[name] - 1 :]]
        assert min(after - earlier for earlier, after in pairwise(stamps)) > 0.05, "no two for one moment"
    for decision in rig.decisions:
        age_s = conversions.seconds(decision.header.stamp) - conversions.seconds(decision.observation_stamp)
        assert not decision.published or age_s < 0.8


def test_row_25_a_decision_that_takes_longer_than_its_chunk_is_discarded(make_rig):
    rig = make_rig().moving()
    rig.instruct("late")
    assert rig.until(lambda: rig.line("moves nothing", "It came too late", severity="WARN")), rig.log
    assert rig.rests()
    for messages in rig.sent.values():  # what was on the wire has ended at rest by itself
        motion = conversions.trajectory(messages[-1])
        end_s = conversions.seconds(messages[-1].header.stamp) + motion.times_s[-1]
        assert not motion.velocities[-1].any() and end_s < time.time() + 0.5
    late = [d for d in rig.decisions if d.timings_s and "too late" in d.note]
    assert late and not any(d.published for d in late)
    rig.instruct("calm")
    rig.moving()


def test_row_26_a_result_of_before_a_hold_or_of_a_decision_given_up_moves_nothing(make_rig):
    rig = make_rig().moving()
    keeper, mine = rig.policy._keeper, Future()
    keeper.submit = lambda observation, *rest: mine.set_running_or_notify_cancel() and setattr(mine, "seen", observation) or mine
    assert rig.until(lambda: hasattr(mine, "seen"))
    del keeper.submit
    rig.policy._deciding.new_epoch()
    mine.set_result(worker_cases.calm(mine.seen))
    assert rig.until(lambda: any("a hold or a new start came during the decision" in d.note for d in rig.decisions))
    rig.moving()


def test_row_26_answers_are_known_by_their_number_in_whatever_order_they_come():
    worker = ProcessWorker(CASES, {}, worker_cases.CAMERAS)
    try:
        worker.loaded.result(60)
        first, second = Future(), Future()
        worker._answers |= {7: first, 8: second}
        images = {name: np.zeros((height, width, 3), np.uint8) for name, height, width in worker_cases.CAMERAS}
        seen = Observation(images, np.zeros(14), "go", 1.0)
        for sequence, stamp_s in ((8, 8.0), (99, 99.0), (7, 7.0), (7, 70.0)):
            answer = worker_cases.decision(replace(seen, stamp_s=stamp_s))
            worker._take(Packet(sequence, decision=decision_to_dict(answer)))
        assert (first.result(0).chunk.stamp_s, second.result(0).chunk.stamp_s) == (7.0, 8.0)
    finally:
        worker.kill("the test ends")
        worker.process.wait(10)
