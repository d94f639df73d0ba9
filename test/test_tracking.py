"""Controllers that must obey, clocks that must go on evenly, an operator who must be there: pure logic, the test's own time."""

import numpy as np
import pytest

from rdvla_ros.control.motion.followed import Present
from rdvla_ros.control.motion.trajectory import Trajectory
from rdvla_ros.control.supervision.clock import ClockWatch
from rdvla_ros.control.supervision.heartbeat import PeerMonitor
from rdvla_ros.control.supervision.operator_presence import ButtonPresence
from rdvla_ros.control.supervision.tracking import ArmTracking, TrackingOptions, skew

NAMES, SPEED = ("a", "b"), np.array([2.0, 2.0])
TIMES_S = np.arange(1, 11) * 0.1
# Joint a moves with 1 rad/s for 0.9 s, joint b rests.
MOTION = Trajectory(
    NAMES,
    TIMES_S,
    np.stack([np.minimum(TIMES_S, 0.95), np.zeros(10)], axis=1),
    np.stack([np.where(TIMES_S < 0.95, 1.0, 0.0), np.zeros(10)], axis=1),
)
BASE_S, ROS_S = 1.8e9, 1.8e9 - 100.0  # the ROS clock is that far from the steady one


def present(at_s, position, velocity=(0.0, 0.0)):
    return Present(np.array(position), np.array(velocity), 0.05 * SPEED, at_s, commanded=True)


def arm(**options):
    tracking = ArmTracking("left", SPEED, TrackingOptions(**options), expected=True)
    tracking.sent(MOTION, BASE_S)
    return tracking


def follow(tracking, until_s, late_s=0.0, begin_s=0.0, accepted=None):
    """Reports at 50 Hz of a controller that follows, so late."""
    for elapsed_s in np.arange(begin_s, until_s, 0.02):
        reference = MOTION.at(max(elapsed_s - late_s, 0.1))
        tracking.reported(present(BASE_S + elapsed_s, reference.position, reference.velocity), accepted, 100.0 + elapsed_s)


def test_a_controller_that_follows_is_no_problem_to_the_end_and_after_it():
    tracking = arm()
    follow(tracking, 3.0)
    assert not tracking.deviates(103.0) and not tracking.problem(103.0)


def test_row_43_a_controller_that_stays_is_found_out_soon_after_its_motion_shows_it():
    tracking = arm()
    for elapsed_s in np.arange(0.0, 1.0, 0.02):
        tracking.reported(present(BASE_S + elapsed_s, [0.1, 0.0]), None, 100.0 + elapsed_s)
        if tracking.deviates(100.0 + elapsed_s):
            break
    # 0.1 rad (what the tolerance allows) after 0.2 s on the motion, then the 0.2 s for which it may be off
    assert 0.38 <= elapsed_s <= 0.46 and "does not follow" in tracking.deviates(100.0 + elapsed_s)
    tracking.forget()
    assert not tracking.deviates(105.0)


def test_what_is_sent_after_a_stop_is_judged_by_itself():
    tracking = arm()

    def stays(begin_s, until_s):
        for elapsed_s in np.arange(begin_s, until_s, 0.02):
            tracking.reported(present(BASE_S + elapsed_s, [0.1, 0.0]), None, 100.0 + elapsed_s)
        return tracking.deviates(100.0 + until_s)

    assert stays(0.0, 0.6)
    tracking.begin_anew()
    tracking.sent(MOTION, BASE_S + 0.6)
    assert not tracking.deviates(100.6) and not stays(0.6, 0.9) and stays(0.9, 1.2)


def test_a_controller_that_was_off_for_a_moment_only_is_no_problem():
    tracking = arm()
    follow(tracking, 0.4)
    tracking.reported(present(BASE_S + 0.42, [0.0, 0.5]), None, 100.42)
    follow(tracking, 0.9, begin_s=0.44)
    assert not tracking.deviates(100.9)


def test_before_the_first_point_nothing_is_said():
    tracking = arm()
    tracking.reported(present(BASE_S + 0.05, [5.0, 5.0]), None, 100.0)
    assert not tracking.deviates(200.0) and tracking.lag is None


@pytest.mark.parametrize(("late_s", "said"), [(0.0, False), (0.03, False), (0.08, True)])
def test_row_44_an_arm_that_started_late_is_told_apart_from_one_that_did_not(late_s, said):
    arms = {"left": arm(), "right": arm()}
    follow(arms["left"], 0.5)
    follow(arms["right"], 0.5, late_s=late_s)
    assert arms["right"].lag[0] == pytest.approx(late_s, abs=0.005)
    assert bool(skew(arms, 100.5, 0.05)) is said


def test_row_44_an_arm_that_never_got_its_part_is_found_by_its_skew():
    arms = {"left": arm(), "right": arm()}
    follow(arms["left"], 0.2)
    for elapsed_s in np.arange(0.0, 0.2, 0.02):
        arms["right"].reported(present(BASE_S + elapsed_s, [0.1, 0.0]), None, 100.0 + elapsed_s)
    assert "'right' is" in skew(arms, 100.2, 0.05) and not arms["right"].deviates(100.2)


def test_a_resting_motion_tells_nothing_of_time():
    arms = {"left": arm(), "right": arm()}
    follow(arms["left"], 2.0)
    follow(arms["right"], 2.0, late_s=0.2)
    assert not skew(arms, 102.0, 0.05)


def test_row_42_a_controller_that_reports_nothing_is_a_problem_from_the_start_and_when_it_stops():
    tracking = arm(silence_s=0.25)
    assert "is it active" in tracking.problem(100.0)
    follow(tracking, 0.1)
    assert not tracking.problem(100.2) and "has it been stopped" in tracking.problem(100.5)
    assert not ArmTracking("left", SPEED, TrackingOptions(), expected=False).problem(100.0)


def test_row_61_a_count_that_goes_back_is_a_restart():
    tracking = arm()
    follow(tracking, 0.1, accepted=7)
    follow(tracking, 0.2, begin_s=0.1, accepted=8)
    assert tracking.restarts == 0
    follow(tracking, 0.3, begin_s=0.2, accepted=0)
    assert tracking.restarts == 1


# -- clocks


def test_a_clock_that_is_slewed_is_even_and_one_that_is_stepped_is_not():
    watch = ClockWatch()
    said = [watch.look(ROS_S + 1.0005 * t, t, simulated=False) for t in np.arange(0.0, 5.0, 0.01)]
    assert not any(said)
    assert "jumped by -5" in watch.look(ROS_S - 0.01, 5.0, simulated=False)
    assert not watch.look(ROS_S, 5.01, simulated=False)
    assert "jumped by 5" in watch.look(ROS_S + 5.01, 5.02, simulated=False)


def test_row_23_simulated_time_may_run_at_any_speed_but_not_back_nor_stand_still():
    watch = ClockWatch(stopped_s=0.5)
    assert "use_sim_time" in (watch.look(0.0, 0.0, simulated=True) or watch.standing(0.0, simulated=True))
    for t in np.arange(0.0, 2.0, 0.01):
        assert not watch.look(5.0 + 10.0 * t, t, simulated=True) and not watch.standing(t, simulated=True)
    assert not watch.look(24.9, 2.3, simulated=True) and not watch.standing(2.3, simulated=True)
    watch.look(24.9, 2.9, simulated=True)
    assert "stood still" in watch.standing(2.9, simulated=True)
    assert "back by" in watch.look(3.0, 3.0, simulated=True)
    assert not watch.standing(9.0, simulated=False)


# -- signs of life


def test_a_peer_lives_by_beats_that_grow():
    pulse = PeerMonitor("/policy", 0.06)
    assert "has come yet" in pulse.lost(0.0)
    assert pulse.beat(0.0, 1) and not pulse.lost(0.06) and "for 0.07 s" in pulse.lost(0.07)
    assert pulse.beat(0.1, 2, ["Camera silent."], "why") and pulse.causes == ("Camera silent.",) and pulse.hold == "why"
    assert not pulse.beat(0.15, 2) and pulse.lost(0.17)
    assert pulse.beat(0.2, 1) and pulse.lives == 2 and not pulse.causes and not pulse.hold


def button():
    return ButtonPresence("joystick", timeout_s=0.5, longest_press_s=10.0)


def test_row_63_two_peers_of_one_name_are_told_apart_from_one_that_begins_anew():
    pulse = PeerMonitor("/policy", 0.06)
    for beat in range(50):  # one that was started anew
        pulse.beat(0.02 * beat, beat % 25 + 1)
        assert not pulse.lost(0.02 * beat)
    for beat in range(5):
        pulse.beat(1.0 + 0.02 * beat, 26 + beat)
        pulse.beat(1.01 + 0.02 * beat, 1 + beat)
    assert "More than one sender beats as /policy" in pulse.lost(1.1)
    for beat in range(60):  # the second one ended
        pulse.beat(1.1 + 0.02 * beat, 100 + beat)
    assert not pulse.lost(1.1 + 0.02 * 59)


def test_row_54_a_joystick_that_repeats_its_last_message_is_no_presence():
    presence = button()
    presence.heard(0.0, 1, False)
    for i in range(20):
        presence.heard(0.1 + 0.05 * i, 2, True)  # an unplugged one may go on so for ever
    assert not presence.problem(0.5) and "Nothing new" in presence.problem(1.0)


def test_row_54_a_stuck_button_is_no_presence():
    presence = button()
    assert "Nothing has come" in presence.problem(0.0)
    presence.heard(0.0, 0, True)
    assert "release it and press it" in presence.problem(0.1)  # pressed before anybody looked
    presence.heard(0.1, 1, False)
    assert "not pressed" in presence.problem(0.1)
    presence.heard(0.2, 2, True)
    assert not presence.problem(0.2)
    presence.stopped()
    presence.heard(0.3, 3, True)
    assert "since before the stop" in presence.problem(0.3)
    presence.heard(0.4, 4, False)
    for i in range(120):
        presence.heard(0.5 + 0.1 * i, 5 + i, True)
        assert bool(presence.problem(0.5 + 0.1 * i)) is (i > 100)
