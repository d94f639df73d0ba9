"""A slow way to the controllers: the gate says how slow, and the policy's motions leave the running one that much later."""

import contextlib
import math

import numpy as np
import pytest
from test_motion_check import LIMITS, MIDDLE, NOW_S, ROBOT, parts, report

from rdvla_ros.control.motion.followed import Present
from rdvla_ros.control.motion.schedule import Latency, Schedule
from rdvla_ros.control.motion.trajectory import plan
from rdvla_ros.control.supervision.delivery import LONGEST_S
from rdvla_ros.control.supervision.motion_check import LateError, MotionCheck

WAY_S, LEAD_S, TO_GATE_S = 0.05, 0.06, 0.02


def slow_check():
    """It has seen a message that took WAY_S to be followed; the arms rest in the middle of their ranges."""
    check = MotionCheck(ROBOT)
    for arm in ROBOT.arms:
        check.delivery.reported(arm.name, NOW_S - 0.3, 0.0)
        check.delivery.sent(arm.name, NOW_S - 0.25, NOW_S - 0.25)
        for after_s in np.arange(0.0, WAY_S, ROBOT.controller.period_s):
            check.delivery.reported(arm.name, NOW_S - 0.25 + after_s, 0.0)
        check.delivery.reported(arm.name, NOW_S - 0.25 + WAY_S, WAY_S)
    report(check, MIDDLE, NOW_S)
    return check


def second_of_two(check, schedule):
    """Sends one motion and returns the next one, planned 0.3 s later on the way: (message, Handover, when it was planned)."""
    now_s = NOW_S
    for number in range(2):
        present = Present(MIDDLE, np.zeros(14), 0.05 * LIMITS.velocity, NOW_S - 2.0 * number, commanded=True)
        over = schedule.handover(now_s, present)
        begin = schedule.reference(over.switch_s, present)
        rows = begin.position + (0.02 if number else -0.02) * LIMITS.range * np.linspace(0.1, 1.0, 8)[:, None]
        new = plan(rows, step_s=0.1, elapsed_s=0.0, horizon=8, start=begin, limits=LIMITS, lead_s=over.lead_s)
        new = schedule.message(new, over, present)
        if not number:
            check.passed(parts(new), over.stamp_s, now_s)
            schedule.sent(new, over.stamp_s, 0.5)
            now_s += 0.3
    return new, over, now_s


def test_the_policy_leads_by_what_the_gate_says_of_its_way():
    check = slow_check()
    assert check.delivery.longest_s > WAY_S
    ignorant = Schedule(Latency(0.1), lead_s=LEAD_S, observation_period_s=0.1)
    new, over, sent_s = second_of_two(check, ignorant)
    with pytest.raises(LateError):
        check.check(parts(new), over.stamp_s, sent_s + TO_GATE_S)
    check = slow_check()
    told = Schedule(Latency(0.1), lead_s=LEAD_S, observation_period_s=0.1, delay_s=lambda: check.delivery.delay_s)
    new, over, sent_s = second_of_two(check, told)
    passed = check.check(parts(new), over.stamp_s, sent_s + TO_GATE_S)
    assert passed.stamp_s == over.stamp_s, "as it is"


def test_a_slow_way_is_no_delay_any_more_ten_seconds_later():
    check = slow_check()
    assert check.delivery.delay_s > 0.02
    for arm in ROBOT.arms:
        check.delivery.reported(arm.name, NOW_S + 10.1, 0.0)
    assert check.delivery.delay_s == 0.0


def test_a_longer_lead_lets_the_next_decision_begin_sooner():
    way_s = [0.0]
    schedule = Schedule(Latency(0.1), lead_s=LEAD_S, observation_period_s=0.1, delay_s=lambda: way_s[0])
    second_of_two(slow_check(), schedule)
    due = [at_s for at_s in np.arange(NOW_S, NOW_S + 1.0, 0.001) if schedule.due(at_s)]
    way_s[0] = 0.08
    assert schedule.lead_s == pytest.approx(0.08 + LEAD_S)
    sooner = [at_s for at_s in np.arange(NOW_S, NOW_S + 1.0, 0.001) if schedule.due(at_s)]
    assert due[0] - sooner[0] == pytest.approx(0.08, abs=0.0021)


def test_gate_and_policy_speak_of_it():
    pytest.importorskip("rclpy", reason="needs ROS 2")
    pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")
    from fuzz_rig import FuzzedGate, FuzzedPolicy

    with contextlib.closing(FuzzedGate()) as gate:
        said = []
        gate.node._status.publish = said.append
        gate.run(0.5)
        assert said[-1].delivery_delay_s == 0.0
        way = gate.node._arms.motion_check.delivery
        for arm in ROBOT.arms:  # as its reports show it
            way.sent(arm.name, gate.clock.ros_s - 1.0, gate.clock.ros_s - 1.0)
            for after_s in (0.01, 0.03, 0.05):
                way.reported(arm.name, gate.clock.ros_s - 1.0 + after_s, 0.05 * (after_s == 0.05))
        gate.tick()
        assert said[-1].delivery_delay_s == pytest.approx(way.delay_s) and way.delay_s > 0.02
    with contextlib.closing(FuzzedPolicy()) as policy:
        schedule = policy.node._motions.schedule
        for said_s, delay_s in ((0.0, 0.0), (0.05, 0.05), (math.nan, 0.0), (-1.0, 0.0), (math.inf, LONGEST_S)):
            policy.status(delivery_delay_s=said_s)
            assert schedule.lead_s == pytest.approx(LEAD_S + delay_s), said_s
