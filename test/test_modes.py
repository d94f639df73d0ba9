"""The gate's mode, the pairing of the arms and the watchdogs: pure logic under a clock that the test turns."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rdvla_ros.control.supervision.modes import GateModes, Mode, PauseRule
from rdvla_ros.control.supervision.pairing import Pairing
from rdvla_ros.control.supervision.watchdog import RateMeter, Streak, StreamWatch


@pytest.fixture
def modes():
    """In AUTO after the start-up hold 1."""
    modes = GateModes(0.0)
    assert modes.resume(1.0, 1, "test", []).accepted
    return modes


def test_it_begins_with_a_hold():
    modes = GateModes(5.0, "start-up")
    assert modes.holding and modes.state.hold_id == 1 and modes.state.reason == "start-up" and modes.state.since_s == 5.0


def test_the_first_reason_of_a_hold_is_kept(modes):
    first, second = modes.hold(2.0, "first", "a"), modes.hold(3.0, "second", "b")
    assert first.changed and second.accepted and not second.changed and "first" in second.message
    assert (modes.state.reason, modes.state.who, modes.state.since_s, modes.state.hold_id) == ("first", "a", 2.0, 2)


def test_a_resume_must_name_the_hold_in_force(modes):
    modes.hold(2.0, "one", "a")
    for wrong in (0, 1, 3, 2**63):
        answer = modes.resume(3.0, wrong, "a", [])
        assert not answer.accepted and "2" in answer.message and modes.holding
    assert modes.resume(4.0, 2, "a", []).accepted and modes.mode is Mode.AUTO and modes.state.since_s == 4.0


def test_a_recorded_resume_lifts_no_later_hold(modes):
    modes.hold(2.0, "one", "a")
    modes.resume(3.0, 2, "a", [])
    modes.hold(4.0, "two", "a")
    assert not modes.resume(5.0, 2, "replayed", []).accepted and modes.holding


def test_a_resume_is_refused_with_the_causes_while_they_last(modes):
    modes.hold(2.0, "one", "a")
    answer = modes.resume(3.0, 2, "a", ["Camera silent.", "Joints silent."])
    assert not answer.accepted and answer.causes == ("Camera silent.", "Joints silent.") and "Camera silent." in answer.message
    assert modes.resume(4.0, 2, "a", []).accepted


def test_row_50_hold_and_resume_raced_ends_in_hold_in_both_orders(modes):
    modes.hold(2.0, "one", "a")
    assert modes.resume(2.0005, 2, "a", []).accepted
    assert modes.hold(2.001, "two", "b").changed and modes.holding
    modes.hold(2.0015, "again", "b")  # somebody wants them held: a resume that was under way lifts nothing
    answer = modes.resume(2.002, modes.state.hold_id, "a", [])
    assert not answer.accepted and "same moment" in answer.message and modes.holding
    assert not modes.resume(2.5, 2, "a", []).accepted  # nor does one that names the hold before
    assert modes.resume(2.5, modes.state.hold_id, "a", []).accepted


def test_auto_is_reached_by_a_resume_only(modes):
    modes.hold(2.0, "one", "a")
    answer = modes.set_mode(3.0, Mode.AUTO, "", "a", [])
    assert not answer.accepted and "resume hold 2" in answer.message and modes.holding
    modes.set_mode(4.0, Mode.TAKEOVER, "", "a", [])
    assert not modes.set_mode(5.0, Mode.AUTO, "", "a", []).accepted and modes.mode is Mode.TAKEOVER
    assert not modes.resume(6.0, 2, "a", []).accepted
    modes.set_mode(7.0, Mode.HOLD, "enough", "a", [])
    assert modes.resume(8.0, modes.state.hold_id, "a", []).accepted and modes.mode is Mode.AUTO


def test_no_takeover_while_something_is_wrong(modes):
    modes.hold(2.0, "one", "a")
    assert not modes.set_mode(3.0, Mode.TAKEOVER, "", "a", ["Joints silent."]).accepted and modes.holding


def test_an_unknown_mode_is_refused_with_the_known_ones(modes):
    answer = modes.set_mode(2.0, 7, "", "a", [])
    assert not answer.accepted and "TAKEOVER" in answer.message and modes.mode is Mode.AUTO


def test_operator_text_becomes_one_bounded_line(modes):
    modes.hold(2.0, "evil\n\x1b[31mred %s " + "x" * 100_000, "who\r\n")
    assert "\n" not in modes.state.reason and "\x1b" not in modes.state.reason and len(modes.state.reason) <= 300
    assert modes.state.who == "who"
    modes.resume(3.0, 2, "", [])
    modes.hold(4.0, "", "")
    assert (modes.state.reason, modes.state.who) == ("operator", "operator")


# -- pauses


@pytest.fixture
def lenient():
    """In AUTO, with pauses that may end by themselves."""
    modes = GateModes(0.0, pauses=PauseRule(auto_resume=True, healthy_s=1.0, longest_s=2.0))
    modes.resume(1.0, 1, "test", [])
    return modes


def test_a_pause_ends_by_itself_after_a_second_in_which_all_was_well(lenient):
    assert lenient.pause(2.0, "Camera 'top' is silent.", "policy").changed and lenient.holding and lenient.state.hold_id == 2
    for now_s, causes in ((2.5, ["silent"]), (2.6, []), (3.0, ["silent"]), (3.1, []), (4.0, [])):
        lenient.review(now_s, causes)
        assert lenient.mode is Mode.PAUSE
    assert lenient.review(4.11, []).changed and lenient.mode is Mode.AUTO and "top" in lenient.state.reason


def test_a_pause_that_lasts_becomes_a_hold_with_its_number_and_reason(lenient):
    lenient.pause(2.0, "Camera 'top' is silent.", "policy")
    lenient.review(4.0, ["silent"])
    assert lenient.mode is Mode.PAUSE
    assert lenient.review(4.01, ["silent"]).changed and lenient.mode is Mode.HOLD
    assert (lenient.state.hold_id, lenient.state.reason) == (2, "Camera 'top' is silent")
    lenient.review(9.0, [])
    assert lenient.mode is Mode.HOLD


def test_an_operators_hold_ends_a_pause_and_its_resuming_by_itself(lenient):
    lenient.pause(2.0, "Camera 'top' is silent.", "policy")
    assert lenient.hold(2.1, "leave it", "operator").changed and lenient.state.hold_id == 3
    lenient.review(4.0, [])
    lenient.review(9.0, [])
    assert lenient.mode is Mode.HOLD and not lenient.resume(9.0, 2, "a", []).accepted


def test_by_default_no_pause_ends_by_itself(modes):
    modes.pause(2.0, "Camera 'top' is silent.", "policy")
    modes.review(2.1, [])
    modes.review(3.9, [])
    assert modes.mode is Mode.PAUSE
    modes.review(4.1, [])
    assert modes.mode is Mode.HOLD
    modes.pause(5.0, "again", "policy")
    assert modes.mode is Mode.HOLD and modes.state.hold_id == 2


def test_a_resume_lifts_a_pause_by_its_number(modes):
    modes.pause(2.0, "Camera 'top' is silent.", "policy")
    assert not modes.resume(2.1, 1, "a", []).accepted and modes.resume(2.2, 2, "a", []).accepted and modes.mode is Mode.AUTO


def test_one_arm_can_be_taken_over_and_an_unknown_one_not():
    modes = GateModes(0.0, arms=["left", "right"])
    assert not modes.set_mode(1.0, Mode.TAKEOVER, "", "a", [], ["middle"]).accepted
    assert modes.set_mode(1.0, Mode.TAKEOVER, "", "a", [], ["right"]).changed and modes.state.arms == ("right",)
    assert not modes.set_mode(1.1, Mode.TAKEOVER, "", "a", [], ["right"]).changed
    assert modes.set_mode(1.2, Mode.TAKEOVER, "", "a", []).changed and modes.state.arms == ("left", "right")
    assert not modes.pause(1.3, "x", "policy").changed
    modes.hold(2.0, "back", "a")
    assert modes.state.arms == ()


class AnyOrder(RuleBasedStateMachine):
    """Requests in any order: hold ids never go back, a hold ends by its own resume or a takeover only."""

    def __init__(self):
        super().__init__()
        pauses = PauseRule(auto_resume=True, healthy_s=1.0, longest_s=2.0)
        self.modes, self.time_s, self.seen_id = GateModes(0.0, pauses=pauses, arms=["left", "right"]), 0.0, 1

    def _tick(self):
        self.time_s += 0.2
        return self.time_s

    @rule(reason=st.text(max_size=20))
    def hold(self, reason):
        before = self.modes.state
        answer = self.modes.hold(self._tick(), reason, "a")
        assert answer.accepted and self.modes.holding
        if before.mode is Mode.HOLD:
            assert self.modes.state == before

    @rule(offset=st.integers(-2, 2), causes=st.lists(st.just("Cause."), max_size=1))
    def resume(self, offset, causes):
        before = self.modes.state
        answer = self.modes.resume(self._tick(), before.hold_id + offset, "a", causes)
        assert answer.accepted == (before.mode in (Mode.HOLD, Mode.PAUSE) and offset == 0 and not causes)
        assert self.modes.mode is (Mode.AUTO if answer.accepted else before.mode)

    @rule(reason=st.text(max_size=20))
    def pause(self, reason):
        before = self.modes.state
        answer = self.modes.pause(self._tick(), reason, "policy")
        assert answer.changed == (before.mode is Mode.AUTO)
        assert self.modes.mode is (Mode.PAUSE if answer.changed else before.mode)

    @rule(causes=st.lists(st.just("Cause."), max_size=1))
    def review(self, causes):
        before = self.modes.state
        self.modes.review(self._tick(), causes)
        if before.mode is not Mode.PAUSE:
            assert self.modes.state == before
        assert self.modes.mode is not Mode.AUTO or before.mode is Mode.AUTO or not causes

    @rule(mode=st.integers(0, 5), causes=st.lists(st.just("Cause."), max_size=1))
    def set_mode(self, mode, causes):
        before = self.modes.state
        answer = self.modes.set_mode(self._tick(), mode, "", "a", causes)
        if not answer.changed:
            assert self.modes.state == before
        assert not (answer.changed and self.modes.mode is Mode.AUTO)

    @invariant()
    def ids_never_go_back(self):
        assert self.modes.state.hold_id >= self.seen_id
        self.seen_id = self.modes.state.hold_id


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


# -- pairing


def test_both_parts_with_one_stamp_make_a_pair_in_the_arms_order():
    pairing = Pairing(["left", "right"], timeout_s=0.1)
    assert pairing.add("right", 1, "R", 0.0) is None
    assert pairing.add("left", 2, "other", 0.01) is None
    assert list(pairing.add("left", 1, "L", 0.02).items()) == [("left", "L"), ("right", "R")]


def test_a_part_alone_is_given_up_after_the_timeout_and_not_before():
    pairing = Pairing(["left", "right"], timeout_s=0.1)
    pairing.add("left", 1, "L", 0.0)
    assert pairing.expired(0.09) == []
    (unpaired,) = pairing.expired(0.11)
    assert (unpaired.stamp, unpaired.came, unpaired.missing) == (1, ("left",), ("right",))
    assert pairing.add("right", 1, "R", 0.12) is None  # its other half is gone


def test_a_flood_of_halves_keeps_few():
    pairing = Pairing(["left", "right"], timeout_s=10.0, depth=4)
    for stamp in range(1000):
        pairing.add("left", stamp, "L", 0.0)
        pairing.expired(0.0)
    assert pairing.add("right", 999, "R", 0.0) and pairing.add("right", 100, "R", 0.0) is None


def test_one_arm_is_its_own_pair():
    assert Pairing(["only"], timeout_s=0.1).add("only", 1, "O", 0.0) == {"only": "O"}


# -- watchdogs


def test_a_stream_is_a_problem_until_it_comes_and_after_it_stops():
    watch = StreamWatch("/left/joint_states", timeout_s=0.25, bad_s=0.05)
    assert "/left/joint_states" in watch.problem(0.0)
    watch.good(1.0)
    assert watch.problem(1.2) == "" and "0.30 s" in watch.problem(1.3)


def test_bad_samples_count_against_the_last_good_one():
    watch = StreamWatch("s", timeout_s=0.25, bad_s=0.05)
    watch.good(1.0)
    watch.bad("Joint 'a' is NaN.")
    assert watch.problem(1.04) == "" and watch.problem(1.06) == "Joint 'a' is NaN."
    watch.good(1.07)
    assert watch.problem(1.2) == ""


def test_a_message_for_others_is_no_fault_and_explains_a_stream_that_never_came():
    watch = StreamWatch("s", timeout_s=0.25, bad_s=0.05)
    watch.ignored("Expected joints of arm 'left', got wheels.")
    assert "wheels" in watch.problem(1.0)
    watch.good(1.0)
    watch.ignored("Expected joints of arm 'left', got wheels.")
    assert watch.problem(1.2) == "" and "Nothing has come on s for" in watch.problem(1.3)


def test_a_streak_is_broken_by_a_success():
    streak = Streak(3)
    assert [streak.failed() for _ in range(3)] == [False, False, True]
    streak.succeeded()
    assert not streak.failed()


def test_a_rate_falls_while_nothing_comes():
    meter = RateMeter()
    assert meter.hz(0.0) == 0.0 and meter.age_s(0.0) == np.inf
    for i in range(20):
        meter.tick(0.1 * i)
    assert meter.hz(1.9) == pytest.approx(10.0) and meter.hz(1.95) == pytest.approx(10.0)
    assert meter.hz(11.9) < 2.0 and meter.age_s(11.9) == pytest.approx(10.0)
