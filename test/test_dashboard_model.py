"""What the dashboard knows and says, without Qt, ROS or a clock: never more than is known, whatever comes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdvla_ros.control.supervision.modes import Mode
from rdvla_ros.dashboard import rules, sentences
from rdvla_ros.dashboard.freshness import Source, State, span
from rdvla_ros.dashboard.model import Chunk, Decision, Gate, Model, Uncertainty, clean
from rdvla_ros.dashboard.pace import FASTEST_S, SLOWEST_S, Pace

ARMS = {"left": 3, "right": 2}
WALL_S = 1.7e9
texts = st.text(max_size=400)
floats = st.floats(allow_nan=True, allow_infinity=True)
AGES_S = st.sampled_from([0.0, 0.3, 0.49, 0.7, 1.9, 2.5, 1e4]) | st.floats(0.0, 4.0)  # stale after 0.5, dead after 2


def gate(mode=Mode.HOLD, **fields):
    values = {"hold_id": 7, "reason": "a hand in the way", "who": "Anna", "since_ros_s": WALL_S - 12.0, "for_s": 12.0}
    return Gate(mode=int(mode), **{**values, **fields})


def decision(sequence=1, **fields):
    values = {
        "at_s": 0.0, "iterations": 3, "limit": 16, "stop_reason": 1, "converged": True, "threshold": 1e-6,
        "change": (math.nan, 1e-3, 1e-7), "horizon": 6, "chunk_length": 8, "step_s": 0.1, "published": True, "note": "",
        "doubts": (), "instruction": "stack", "timings": {"head": 0.02, "total": 0.05},
    }  # fmt: skip
    return Decision(sequence=sequence, **{**values, **fields})


def known(gate_=None, now_s=0.0, model=None):
    """A snapshot at now_s of a gate that was heard at 0."""
    model = model or Model(ARMS, ("top",))
    if gate_ is not None:
        model.on_gate(0.0, gate_)
    return model.snapshot(now_s)


# -- how fresh


@given(st.lists(st.floats(0.0, 1e4), max_size=20), AGES_S, st.sampled_from([None, 0, 1, 5]))
def test_a_source_is_live_only_while_it_is_heard_and_silence_never_makes_it_better(heard, silence_s, publishers):
    now_s = max(heard, default=0.0) + silence_s
    source = Source("x", stale_s=0.5, dead_s=2.0)
    source.publishers = publishers
    for at_s in heard:
        source.hear(at_s)
    seen = source.seen(now_s)
    assert (seen.state is State.UNKNOWN) == (not heard)
    if heard:
        age_s = now_s - max(heard)
        assert seen.live == (age_s <= 0.5)
        assert (seen.state is State.DEAD) == (age_s > 2.0 or (age_s > 0.5 and publishers == 0))
        order = (State.LIVE, State.STALE, State.DEAD)
        assert order.index(source.seen(now_s + 1.0).state) >= order.index(seen.state)


def test_every_state_has_a_sign_and_a_word_of_its_own():
    assert len({state.symbol for state in State}) == len({state.value for state in State}) == len(State)


@given(floats)
def test_every_duration_can_be_said(seconds):
    assert span(seconds)


# -- the sentence


@pytest.mark.parametrize("mode", list(Mode))
def test_the_sentence_says_mode_reason_who_and_since_when(mode):
    snapshot = known(gate(mode), 0.3)
    said = sentences.mode_sentence(snapshot.gate, snapshot.seen("gate"), ("left", "right"), WALL_S)
    assert mode.name in said and "a hand in the way" in said and "by Anna" in said and "12 s" in said
    assert mode.name in sentences.mode_words(snapshot.gate, snapshot.seen("gate"))
    assert len(set(sentences.SYMBOLS.values())) == len(Mode)


@given(st.sampled_from(list(Mode)), AGES_S, st.booleans())
def test_a_mode_is_shown_as_in_force_only_while_the_gate_is_live(mode, now_s, heard):
    snapshot = known(gate(mode) if heard else None, now_s)
    seen = snapshot.seen("gate")
    badge = sentences.mode_words(snapshot.gate, seen)
    said = sentences.mode_sentence(snapshot.gate, seen, ("left", "right"), WALL_S)
    assert (mode.name in badge) == (heard and now_s <= 0.5)
    if not heard:
        assert "UNKNOWN" in badge and "not known" in said
    elif not seen.live:
        assert "Last known" in said
        assert ("what moves the arms is not known" in said) == (seen.state is State.DEAD)


def test_simulated_time_shows_no_time_of_day():
    snapshot = known(gate(since_ros_s=40.0), 0.0)
    assert "for 12 s" in sentences.mode_sentence(snapshot.gate, snapshot.seen("gate"), ("left",), WALL_S)


def test_a_takeover_names_the_arms_and_those_that_rest():
    snapshot = known(gate(Mode.TAKEOVER, taken_over=("left",)))
    said = sentences.mode_sentence(snapshot.gate, snapshot.seen("gate"), ("left", "right"), WALL_S)
    assert "moves left" in said and "right rests" in said


@given(
    st.integers(0, 255), texts, texts, st.floats(-1e12, 1e12), st.none() | floats, st.lists(texts, max_size=3), st.floats(0, 1e6)
)
def test_no_gate_status_and_no_age_breaks_the_sentences_or_the_rules(mode, reason, who, since_s, for_s, causes, now_s):
    snapshot = known(gate(mode, reason=reason, who=who, since_ros_s=since_s, for_s=for_s, causes=tuple(causes)), now_s)
    assert sentences.mode_words(snapshot.gate, snapshot.seen("gate"))
    assert sentences.mode_sentence(snapshot.gate, snapshot.seen("gate"), ("left",), WALL_S).endswith(".")
    rules.resume_obstacles(snapshot, who)
    rules.takeover_step(snapshot, "left", ("left", "right"))


# -- what may be done


@given(
    st.sampled_from([None, *range(6)]),
    AGES_S,
    st.lists(st.just("The left arm is silent."), max_size=2),
    st.sampled_from(["", " ", "Anna"]),
)
def test_a_resume_is_offered_exactly_where_nothing_stands_in_its_way(mode, now_s, causes, who):
    snapshot = known(None if mode is None else gate(mode, causes=tuple(causes)), now_s)
    free = mode in (Mode.HOLD, Mode.PAUSE) and now_s <= 0.5 and not causes and who == "Anna"
    assert (not rules.resume_obstacles(snapshot, who)) == free
    if mode in (Mode.HOLD, Mode.PAUSE) and now_s <= 0.5:
        assert set(causes) <= set(rules.resume_obstacles(snapshot, who))


@given(st.sampled_from(list(Mode)), st.sets(st.sampled_from(["left", "right"])), st.sampled_from(["left", "right"]))
def test_a_takeover_button_adds_its_arm_or_gives_it_back_and_twice_is_as_before(mode, taken, arm):
    arms = ("left", "right")
    snapshot = known(gate(mode, taken_over=tuple(taken) if mode is Mode.TAKEOVER else ()))
    before = set(taken or arms) if mode is Mode.TAKEOVER else set()
    step = rules.takeover_step(snapshot, arm, arms)
    assert set(step.arms) == before ^ {arm}
    assert step.starts == (bool(step.arms) and mode is not Mode.AUTO)
    if step.arms:
        then = known(gate(Mode.TAKEOVER, taken_over=step.arms))
        assert set(rules.takeover_step(then, arm, arms).arms) == before


def test_an_instruction_needs_a_text_a_name_and_a_policy():
    model = Model(ARMS, ())
    assert rules.instruction_obstacles(model.snapshot(0.0), "Anna", "stack")  # nothing was heard of the policy
    model.on_policy_beat(0.0, [])
    now = model.snapshot(0.1)
    assert not rules.instruction_obstacles(now, "Anna", "stack")
    for who, text in (("", "stack"), ("Anna", " "), ("Anna", "a\nb"), ("Anna", "x" * 513)):
        assert rules.instruction_obstacles(now, who, text)


# -- what comes


def test_numbers_that_go_back_begin_the_curves_anew():
    model = Model(ARMS, ())
    for number in (1, 2, 3):
        model.on_decision(0.0, decision(number))
    model.on_decision(0.0, decision(1))
    snapshot = model.snapshot(0.0)
    assert [d.sequence for d in snapshot.decisions] == [1] and snapshot.restarts == 1
    assert "went back to 1" in sentences.decisions_remark(snapshot)
    for number in range(2, 30):
        model.on_decision(0.0, decision(number))
    assert not sentences.decisions_remark(model.snapshot(0.0))


@given(
    st.builds(
        decision,
        sequence=st.integers(0, 2**64 - 1),
        iterations=st.integers(0, 2**32 - 1),
        limit=st.integers(0, 2**32 - 1),
        stop_reason=st.integers(0, 255),
        threshold=floats,
        change=st.lists(floats, max_size=8).map(tuple),
        horizon=st.integers(0, 2**32 - 1),
        step_s=floats,
        published=st.booleans(),
        timings=st.dictionaries(texts, floats, max_size=4),
    ),
    floats,
    floats,
    floats,
)
def test_every_decision_and_uncertainty_can_be_said_and_what_is_odd_is_named(odd, score, window, line):
    model = Model(ARMS, ())
    model.on_decision(0.0, odd)
    model.on_uncertainty(0.0, Uncertainty(0.0, 1, score, window, line, True, False, ""))
    snapshot = model.snapshot(0.1)
    for say in (sentences.decision_words, sentences.change_words, sentences.horizon_words, sentences.timing_words):
        assert say(odd)
    assert sentences.uncertainty_words(snapshot.uncertainties[-1]) and sentences.calibration_words(snapshot.uncertainties[-1])
    if odd.stop_reason > 5:
        assert f"stop reason {odd.stop_reason}" in sentences.decisions_remark(snapshot)
    if not any(math.isfinite(c) for c in odd.change):
        assert "empty" in sentences.decisions_remark(snapshot)


def test_old_curves_are_said_to_be_old_and_why():
    model = Model(ARMS, ())
    assert "No decision has come yet" in sentences.decisions_remark(model.snapshot(0.0))
    model.on_decision(0.0, decision())
    assert not sentences.decisions_remark(model.snapshot(1.0))
    model.on_gate(30.0, gate(Mode.HOLD))
    assert "in HOLD" in sentences.decisions_remark(model.snapshot(30.0))


@given(st.lists(st.tuples(floats, st.lists(floats, max_size=4)), max_size=30))
def test_of_the_joints_only_whole_samples_of_growing_time_are_kept(samples):
    model = Model(ARMS, ())
    for stamp_s, positions in samples:
        model.on_joints(0.0, "left", stamp_s, np.array(positions, dtype=float))
        model.on_chunk("left", Chunk(np.array([stamp_s]), np.array(positions, dtype=float)[None, :]))
    motion = model.snapshot(0.0).arms["left"]
    assert motion.measured.shape == (len(motion.times_s), 3) and np.isfinite(motion.measured).all()
    assert (np.diff(motion.times_s) >= 0.0).all()
    assert motion.chunk is None or motion.chunk.positions.shape == (1, 3)


@given(texts)
def test_texts_from_outside_are_one_printable_bounded_line(text):
    shown = clean(text, 50)
    assert len(shown) <= 50 and all(c.isprintable() for c in shown)


def test_the_first_outcome_of_an_act_counts():
    model = Model(ARMS, ())
    first, second = model.begin_act(0.0, "Anna", "hold"), model.begin_act(0.0, "Anna", "resume of hold 7")
    model.end_act(first, "no answer", False)
    model.end_act(first, "Hold 8 begins", True)
    acts = model.snapshot(0.0).acts
    assert [(a.outcome, a.good) for a in acts] == [("no answer", False), ("", False)]
    assert [a.number for a in model.snapshot(0.0).under_way] == [second]


def test_what_was_drawn_is_not_changed_by_what_comes_later():
    model = Model(ARMS, ("top",))
    model.on_joints(0.0, "left", 1.0, np.zeros(3))
    model.on_decision(0.0, decision())
    before = model.snapshot(0.0)
    model.on_joints(0.0, "left", 1.1, np.ones(3))
    model.on_decision(0.0, decision(2))
    model.on_picture(0.0, "top", b"x")
    assert len(before.arms["left"].times_s) == len(before.decisions) == 1 and not before.pictures


# -- how often it is drawn


@given(st.lists(st.floats(0.0, 1.5), min_size=1, max_size=60))
def test_the_period_stays_within_its_bounds_and_grows_while_the_processor_is_busy(shares):
    pace, now_s, cpu_s = Pace(), 0.0, 0.0
    pace.look(0.0, 0.0)
    for share in shares:
        before = pace.period_s
        now_s, cpu_s = now_s + 2.0, cpu_s + 2.0 * share
        period_s = pace.look(now_s, cpu_s)
        assert FASTEST_S <= period_s <= SLOWEST_S
        assert (period_s > before or before == SLOWEST_S) if share > 0.09 else period_s <= before or share > 0.07
