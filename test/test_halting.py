"""Halting rules: what they measure, when they stop, what a deadline and a non-finite iteration do."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from head_cases import SMALL, load_case, oracle_case

from rdvla_ros.model.decode_plan import Row, Visit
from rdvla_ros.model.halting import (
    ActionChange,
    ActionCosine,
    ActionKL,
    Deadline,
    FixedDepth,
    HaltingError,
    make_halting,
    with_limit,
)
from rdvla_ros.model.refine import refine
from rdvla_ros.model.runner import EagerRunner
from rdvla_ros.model.sketch_ratio import Experience
from rdvla_ros.types import StopReason


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """(head, context, initial state) of two rows whose chunks settle."""
    weights, projector, (*states, start), _ = oracle_case(SMALL, 2, 11, converging=True)
    head = load_case(tmp_path_factory.mktemp("head"), SMALL, weights, projector)
    with torch.no_grad():
        return head, head.encode(*states), start


def chunks(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 8, 7, generator=generator), torch.randn(3, 8, 7, generator=generator)


def test_action_change_is_the_mean_over_the_chunk():
    before, after = chunks()
    expected = ((after - before) ** 2).sum(dim=(1, 2)) / 56
    torch.testing.assert_close(ActionChange(1e-3).measure(before, after), expected)


def test_kl_is_the_divergence_of_two_gaussians():
    before, after = chunks()
    sigma = torch.linspace(0.2, 2.0, 7)
    gaussians = [torch.distributions.Normal(mean.double(), sigma.double()) for mean in (after, before)]
    expected = torch.distributions.kl_divergence(*gaussians).mean(dim=(1, 2))
    torch.testing.assert_close(ActionKL(1e-3, sigma=sigma.tolist()).measure(before, after).double(), expected, rtol=1e-5, atol=0)


def test_kl_of_equal_sigma_is_the_mean_squared_change(case):
    head, context, start = case
    before, after = chunks()
    torch.testing.assert_close(ActionKL(1e-3).measure(before, after), ActionChange(1e-3).measure(before, after))
    for sigma, scale in ((0.5, 2.0), (2.0, 0.125)):  # 1 / (2 sigma^2)
        kl = head.refine(context, ActionKL(1e-4 * scale, sigma=sigma), start)
        change = head.refine(context, ActionChange(1e-4), start)
        assert kl.iterations.tolist() == change.iterations.tolist()


def test_kl_looks_harder_at_dimensions_that_move_little():
    before = torch.zeros(2, 8, 2)
    after = before.clone()
    after[0, :, 0], after[1, :, 1] = 0.1, 0.1
    coarse_moved, fine_moved = ActionKL(1.0, sigma=[1.0, 0.1]).measure(before, after)
    assert fine_moved == pytest.approx(100 * coarse_moved)


def test_cosine_stops_where_the_chunk_keeps_its_direction(case):
    head, context, start = case
    got = head.refine(context, ActionCosine(0.999), start)
    every = (
        head.refine(context, FixedDepth(1), start).actions,
        *(head.refine(context, FixedDepth(k), start).actions for k in range(2, 13)),
    )
    for row in range(2):
        cosines = [torch.cosine_similarity(a[row].flatten(), b[row].flatten(), dim=0) for a, b in pairwise(every)]
        first = next(k for k, cosine in enumerate(cosines, start=2) if cosine > 0.999)
        assert int(got.iterations[row]) == first


def test_two_hits_must_follow_each_other(case):
    head, context, start = case
    trace = head.refine(context, ActionChange(0.0, evaluate="every"), start).change
    for threshold in (1e-2, 1e-3, 1e-5, 1e-7):
        got = head.refine(context, make_halting({"rule": "two_hit", "threshold": threshold}), start)
        for row in range(2):
            hit = [bool(change < threshold) for change in trace[row]]
            first = next((k + 1 for k in range(1, 32) if hit[k] and hit[k - 1]), 32)
            assert int(got.iterations[row]) == first


def test_hits_on_both_sides_of_a_chunk_that_was_not_decoded_do_not_follow_each_other():
    row = Row(0, ActionChange(1e-3, patience=2))
    for at in range(1, 9):
        row.visit(Visit(at, torch.zeros(1), 1e-4), in_block=False)
    for at in (5, 7):
        row.compared(at, 1e-4, 1e-4, torch.zeros(8))
        assert row.reason is None
    row.compared(8, 1e-4, 1e-4, torch.zeros(8))
    assert row.reason == StopReason.CONVERGED and len(row.change) == 8


def test_minimum_and_limit(case):
    head, context, start = case
    for evaluate in ("needed", "every"):
        held = head.refine(context, ActionChange(1e6, min_iterations=5, evaluate=evaluate), start)
        assert held.iterations.tolist() == [5, 5] and held.halted.all()
        # Nothing is decoded before it can matter, unless all is asked for.
        assert held.change[:, 1:4].isnan().all() if evaluate == "needed" else held.change[:, 1:].isfinite().all()
    limited = head.refine(context, ActionChange(0.0, max_iterations=6), start)
    assert limited.iterations.tolist() == [6, 6] and not limited.halted.any()
    assert limited.stop_reason.tolist() == [StopReason.ITERATION_LIMIT] * 2
    assert limited.change[:, 5].isfinite().all()
    one = head.refine(context, ActionChange(1e6, max_iterations=1), start)
    assert one.iterations.tolist() == [1, 1] and not one.halted.any() and one.change.isnan().all()


def test_fixed_depth_decodes_once_and_reports_on_request(case):
    head, context, start = case
    plain = head.refine(context, FixedDepth(6), start)
    assert plain.change.isnan().all() and plain.step_change.isnan().all()
    asked = head.refine(context, FixedDepth(6, report_change=True), start)
    before = head.refine(context, FixedDepth(5), start)
    squared = (asked.actions - before.actions) ** 2
    torch.testing.assert_close(asked.change[:, 5], squared.mean(dim=(1, 2)), rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(asked.step_change, squared.mean(dim=2), rtol=1e-3, atol=1e-9)
    assert asked.stop_reason.tolist() == [StopReason.FIXED_DEPTH] * 2 and asked.halted.all()


class Clock:
    """Time that passes when the head works: one second per iteration, half a second per decoded batch."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class SlowRunner(EagerRunner):
    def __init__(self, head, context, clock, decode_s=0.5):
        super().__init__(head, context)
        self.clock, self.decode_s = clock, decode_s

    def iterate(self, state, count):
        self.clock.now += count
        return super().iterate(state, count)

    def decode(self, states, rows):
        self.clock.now += self.decode_s
        return super().decode(states, rows)


@pytest.mark.parametrize("seconds", [3.0, 4.2, 7.7, 20.0])
@pytest.mark.parametrize(
    "inner",
    [FixedDepth(1000), ActionChange(0.0, 1000), ActionChange(0.0, 1000, evaluate="every")],
    ids=["fixed", "needed", "every"],
)
def test_a_deadline_is_kept_with_the_newest_chunk(case, seconds, inner):
    head, context, start = case
    clock = Clock()
    got = refine(head, context, Deadline(seconds, inner, clock), start, runner=SlowRunner(head, context, clock))
    made = int(got.iterations[0])
    assert clock.now <= seconds
    assert made >= 1 and got.stop_reason.tolist() == [StopReason.DEADLINE] * 2 and not got.halted.any()
    torch.testing.assert_close(got.actions, head.refine(context, FixedDepth(made), start).actions, rtol=1e-4, atol=1e-5)
    if inner == FixedDepth(1000):  # nothing but iterations and the last decode
        assert made == math.floor(seconds - 1.0)  # one second is kept for a decode, until one was measured


def test_a_deadline_in_the_past_still_gives_one_iteration(case):
    head, context, start = case
    got = head.refine(context, Deadline(-1.0, ActionChange(1e-3)), start)
    assert got.iterations.tolist() == [1, 1] and got.actions.isfinite().all()
    assert got.stop_reason.tolist() == [StopReason.DEADLINE] * 2


def test_a_deadline_far_away_changes_nothing(case):
    head, context, start = case
    for inner in (ActionChange(1e-4), FixedDepth(7)):
        timed, plain = (head.refine(context, rule, start) for rule in (Deadline(1e3, inner), inner))
        assert timed.iterations.tolist() == plain.iterations.tolist()
        assert timed.stop_reason.tolist() == plain.stop_reason.tolist()
        torch.testing.assert_close(timed.actions, plain.actions)


class Poisoned(EagerRunner):
    """From iteration `at` on, row 0 is `value`."""

    def __init__(self, head, context, at, value):
        super().__init__(head, context)
        self.made, self.poison_at, self.value = 0, at, value

    def iterate(self, state, count):
        states = super().iterate(state, count).clone()
        first = max(0, self.poison_at - self.made - 1)  # of the block
        self.made += count
        if len(states[0]) == 2:
            states[first:, 0, 3, 5] = self.value
        return states


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", [1, 2, 6])
@pytest.mark.parametrize(
    "rule", [ActionChange(1e-9), ActionChange(1e-9, evaluate="every"), FixedDepth(9)], ids=["needed", "every", "fixed"]
)
def test_a_non_finite_iteration_stops_its_row_only(case, rule, at, value):
    head, context, start = case
    got = refine(head, context, rule, start, runner=Poisoned(head, context, at, value))
    assert int(got.iterations[0]) == at
    assert got.stop_reason[0] == StopReason.NON_FINITE and not got.halted[0]
    assert got.change[0, at - 1] == math.inf
    assert got.actions[0].isnan().all()
    healthy = head.refine(context, rule, start)
    assert int(got.iterations[1]) == int(healthy.iterations[1])
    torch.testing.assert_close(got.actions[1], healthy.actions[1], rtol=1e-4, atol=1e-5)


class RunningAway(EagerRunner):
    """Row 0 settles for six iterations; from then on each leaves it further from where it was."""

    def __init__(self, head, context):
        super().__init__(head, context)
        generator = torch.Generator().manual_seed(0)
        self.made, self.away = 0, torch.randn(head.config.rows, head.config.hidden_dim, generator=generator)

    def iterate(self, state, count):
        states = []
        for _ in range(count):
            state = super().iterate(state, 1)[0].clone()
            self.made += 1
            if self.made > 6 and len(state) == 2:
                state[0] += 0.02 * 2.0 ** (self.made - 6) * self.away
            states.append(state)
        return torch.stack(states)


@pytest.mark.parametrize("evaluate", ["needed", "every"])
def test_iterations_that_run_away_are_stopped_and_never_look_converged(case, evaluate):
    head, context, start = case
    rule = ActionChange(1e-10, evaluate=evaluate, max_iterations=32)
    got = refine(head, context, rule, start, runner=RunningAway(head, context))
    assert got.stop_reason[0] == StopReason.DIVERGED and not got.halted[0] and 6 < int(got.iterations[0]) < 20
    assert got.change[0, int(got.iterations[0]) - 1] == math.inf and got.actions[0].isnan().all()
    healthy = head.refine(context, rule, start)
    assert got.stop_reason[1] == healthy.stop_reason[1] and int(got.iterations[1]) == int(healthy.iterations[1])


def test_a_coda_that_overflows_never_looks_converged(case):
    head, context, start = case

    class Overflowing(EagerRunner):
        def decode(self, states, rows):
            return torch.full_like(super().decode(states, rows), math.inf)

    for rule in (ActionChange(1e6), ActionCosine(0.0), ActionKL(1e6), FixedDepth(3)):
        got = refine(head, context, rule, start, runner=Overflowing(head, context))
        assert not got.halted.any() and got.stop_reason.tolist() == [StopReason.NON_FINITE] * 2
        assert got.change.isposinf().any(dim=1).all()


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"rule": "action-change", "threshold": 1}, "Did you mean 'action_change'"),
        ({}, "Known: fixed, action_change"),
        ({"rule": "action_change"}, "missing threshold"),
        ({"rule": "action_change", "treshold": 1e-3}, "unknown key 'treshold'"),
        ({"rule": "action_change", "threshold": float("nan")}, "at least 0"),
        ({"rule": "action_change", "threshold": 1e-3, "max_iterations": 0}, "at least 1, got 0"),
        ({"rule": "action_change", "threshold": 1e-3, "min_iterations": 1}, "at least 2, got 1"),
        ({"rule": "action_change", "threshold": 1e-3, "evaluate": "all"}, "Known: needed, every"),
        ({"rule": "action_cosine", "threshold": 2.0}, "0 to 1"),
        ({"rule": "action_kl", "threshold": 1e-3, "sigma": [1.0, 0.0]}, "above 0"),
        ({"rule": "fixed", "iterations": 2.5}, "whole number"),
        ({"rule": "fixed", "iterations": 2, "deadline_s": "soon"}, "expected a number, got 'soon'"),
    ],
)
def test_refused_settings_say_what_exists(settings, words):
    with pytest.raises(HaltingError) as error:
        make_halting(settings)
    assert words in str(error.value)


def test_settings_make_the_rules_they_name(case):
    head, context, start = case
    assert make_halting({"rule": "action_change", "threshold": 5e-4, "max_iterations": 20}) == ActionChange(5e-4, 20)
    assert make_halting({"rule": "two_hit", "threshold": 5e-4}) == ActionChange(5e-4, patience=2)
    assert make_halting({"rule": "action_kl", "threshold": 1e-3}, action_std=[0.5, 0.25]).sigma == (0.5, 0.25)
    timed = make_halting({"rule": "fixed", "iterations": 4, "deadline_s": 9.0})
    assert isinstance(timed, Deadline) and timed.inner == FixedDepth(4) and timed.max_iterations == 4
    with pytest.raises(HaltingError, match="expected 7 numbers"):
        head.refine(context, ActionKL(1e-3, sigma=[1.0, 2.0]), start)


def test_what_a_rule_has_learnt_spares_looks_and_changes_no_stop(case):
    head, context, start = case
    for threshold in (1e-3, 1e-5):
        fresh = head.refine(context, ActionChange(threshold, margin=16.0), start)
        rule = ActionChange(threshold, margin=16.0, ratio=Experience())
        first = head.refine(context, rule, start)
        assert first.iterations.tolist() == fresh.iterations.tolist()
        again = head.refine(context, rule, start)
        assert again.iterations.tolist() == fresh.iterations.tolist()
        assert again.change[:, 1].isnan().all() and first.change[:, 1].isfinite().all()  # the ratio is known now
        rule.ratio.forget()
        assert torch.equal(head.refine(context, rule, start).actions, first.actions)


def test_the_margin_follows_the_spread_of_the_ratio():
    steady, erratic, new = Experience(), Experience(), Experience(1.7)
    assert new.expect(2.5) == (1.7, 2.5, False)
    steady.add([1.3] * 7)
    assert steady.expect(2.5).margin == 2.5 and not steady.expect(2.5).firm  # too few to tell
    steady.add([1.3, math.nan, 0.0, math.inf])  # what is no ratio says nothing
    assert steady.expect(2.5).ratio == pytest.approx(1.3) and steady.expect(2.5).margin == 1.2 and steady.expect(2.5).firm
    erratic.add([0.3, 3.0] * 8)
    assert erratic.expect(2.5).margin == 4.0
    kept = erratic.snapshot()
    erratic.forget()
    assert erratic.expect(2.5) == (None, 2.5, False)
    erratic.restore(kept)
    assert erratic.expect(2.5).firm


@pytest.mark.parametrize("rule", [FixedDepth(3), ActionChange(1e-3, 3), Deadline(1.0, ActionKL(1e-3, 3))])
def test_a_rule_with_another_limit_is_the_same_rule(rule):
    longer = with_limit(rule, 12)
    assert longer.max_iterations == 12 and type(longer) is type(rule) and rule.max_iterations == 3


def test_kl_without_statistics_is_refused():
    for settings in ({"rule": "action_kl", "threshold": 1e-3}, {"rule": "action_kl", "threshold": 1e-3, "sigma": "statistics"}):
        with pytest.raises(HaltingError, match="these statistics lack"):
            make_halting(settings)
        assert make_halting(settings, action_std=[0.5, 0.25]).sigma == (0.5, 0.25)
