"""An intervention begins after enough decisions, ends after enough calm ones, and asks in words that a person understands."""

import pytest

from rdvla_ros.control.supervision.interventions import AlarmState, InterventionError, make_intervention, question
from rdvla_ros.control.supervision.uncertainty import Assessment, Threshold

LIMIT = Threshold(2.0, True)


def judged(score, reason="The chunk norm of arm left is unusually high: score 3, alarm above 2."):
    return Assessment(1, score, score, 1, LIMIT, score > 2.0, reason if score > 2.0 else "")


def see(state, scores):
    return [state.see(judged(score), float(i), "wave") for i, score in enumerate(scores)]


def test_one_decision_is_not_enough_and_an_interruption_starts_anew():
    state = AlarmState(make_intervention({"do": "warn", "begin_after": 2}))
    assert see(state, [3.0, 1.0, 3.0]) == [False, False, False]
    assert see(state, [3.0, 3.0]) == [True, False] and state.active.stamp_s == 2.0


def test_it_ends_only_well_below_the_threshold():
    state = AlarmState(make_intervention({"do": "warn", "begin_after": 1, "end_below": 0.8, "end_after": 2}))
    see(state, [3.0, 1.9, 1.9, 1.9, 1.5])
    assert state.active is not None, "1.9 is below the threshold, and not below 80 % of it"
    see(state, [1.9, 1.5, 1.5])
    assert state.active is None
    assert see(state, [3.0]) == [True]


def test_a_reset_forgets():
    state = AlarmState(make_intervention({"do": "hold_and_ask", "begin_after": 2}))
    see(state, [3.0])
    state.reset()
    assert see(state, [3.0]) == [False] and state.active is None


def test_what_each_does():
    shorter, longer = (
        make_intervention({"do": "shorten_horizon", "longest": 3}),
        make_intervention({"do": "think_longer", "factor": 4}),
    )
    assert (shorter.horizon(8), shorter.horizon(2), shorter.limit(16)) == (3, 2, 16)
    assert (longer.horizon(8), longer.limit(16)) == (8, 64)
    assert make_intervention({"do": "hold_and_ask"}).asks and not make_intervention({"do": "warn"}).asks


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"do": "pray"}, "unknown 'pray'"),
        ({"do": "warn", "begin_after": 0}, "begin_after"),
        ({"do": "warn", "end_below": 1.5}, "end_below"),
        ({"do": "shorten_horizon", "longest": 0}, "longest"),
        ({"do": "think_longer", "factor": 1.5}, "factor"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, words):
    with pytest.raises(InterventionError, match=words):
        make_intervention(settings)


def test_a_question_says_what_since_when_and_at_what():
    state = AlarmState(make_intervention({"do": "hold_and_ask", "begin_after": 2}))
    see(state, [3.0, 3.0])
    text = question(state.active, 1.5, "moving left")
    for words in ("moving left", "chunk norm of arm left", "for 1.5 s", "'wave'", "Resume, take over", "another instruction"):
        assert words in text
    assert len(text) < 300, "the gate keeps no more"
