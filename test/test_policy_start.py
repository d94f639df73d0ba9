"""Where a policy's decisions start, and what it forgets."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from policy_cases import observation, tiny_checkpoint

from rdvla_ros.model.checkpoint import MANIFEST, load_checkpoint, save_checkpoint
from rdvla_ros.model.halting import FixedDepth, HaltingError
from rdvla_ros.model.initial_state import StartError
from rdvla_ros.model.normalization import fit_action_space
from rdvla_ros.model.policy import Policy


def policy(**options):
    return Policy(tiny_checkpoint(), **options)


def chunks(subject, count=2, **keys):
    return [subject.decide(observation(), **keys).chunk.positions for _ in range(count)]


@pytest.mark.parametrize("name, repeats", [("seeded", True), ("zeros", True), ("drawn", False)])
def test_a_start_without_chance_repeats_its_decision(name, repeats):
    first, second = chunks(policy(start={"start": name}, halting=FixedDepth(1)))
    assert np.array_equal(first, second) == repeats


def test_an_averaged_start_reports_the_spread():
    assert policy(start={"start": "averaged", "draws": 3}).decide(observation()).spread > 0
    assert np.isnan(policy().decide(observation()).spread)


def test_a_warm_start_goes_on_from_the_plan_before_shifted_by_what_was_executed():
    subject = policy(start={"start": "warm"}, halting=FixedDepth(2))
    before = subject.decide(observation()).refinement.state
    seen = []
    refine = subject.model.head.refine
    subject.model.head.refine = lambda context, rule, start: seen.append(start) or refine(context, rule, start)
    subject.decide(observation(), executed_steps=3)
    assert torch.equal(seen[-1][:, :-3], before[:, 3:])
    for forget in (subject.reset, lambda: subject.reseed(5)):
        last = subject.decide(observation(), executed_steps=0).refinement.state
        forget()
        subject.decide(observation(), executed_steps=0)
        assert not torch.equal(seen[-1], last)
    last = subject.decide(observation()).refinement.state  # how much was executed is not known
    subject.decide(observation())
    assert not torch.equal(seen[-1], last)


def test_reseeding_replays_decisions_to_the_last_bit():
    settings = {"rule": "action_change", "threshold": 1e-3}
    for start in ("drawn", "warm"):
        subject = policy(halting=settings, start={"start": start})
        subject.reseed(4)
        first = chunks(subject, 4, executed_steps=2)
        chunks(subject, 9)
        subject.reseed(4)
        np.testing.assert_array_equal(chunks(subject, 4, executed_steps=2), first)


def test_the_start_and_the_spread_of_actions_travel_in_the_manifest(tmp_path):
    from dataclasses import replace

    plain = tiny_checkpoint()
    std = np.linspace(0.2, 0.5, len(plain.contract.joint_names))
    checkpoint = replace(
        plain,
        start={"start": "zeros"},
        space=replace(plain.space, action_std=std),
        halting={"rule": "action_kl", "threshold": 1e-3, "ratio": 1.5},
    )
    loaded = Policy(load_checkpoint(save_checkpoint(tmp_path / "new", checkpoint)))
    assert loaded.halting.sigma == pytest.approx(tuple(std)) and loaded.halting.ratio.initial_ratio == 1.5
    np.testing.assert_array_equal(*chunks(loaded))
    with pytest.raises(StartError, match="Known: drawn"):
        policy(start={"start": "cold"})


def test_a_manifest_of_an_older_release_draws_and_says_what_it_lacks(tmp_path):
    folder = save_checkpoint(tmp_path / "old", tiny_checkpoint())
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["inference"]["start"]
    manifest["statistics"]["action"].pop("std", None)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert load_checkpoint(folder).start == {"start": "drawn"}
    Policy.load(folder).decide(observation())
    with pytest.raises(HaltingError, match="these statistics lack"):
        Policy.load(folder, halting={"rule": "action_kl", "threshold": 1e-3})


def test_the_spread_of_actions_is_in_normalised_units():
    generator = np.random.default_rng(0)
    targets = generator.normal(0, 0.3, (4000, 2, 1)) * [1.0, 10.0]  # the same after scaling
    space = fit_action_space(np.array([False, False]), targets[:, 0], targets)
    np.testing.assert_allclose(space.action_std, space.action.normalise(targets).std(axis=(0, 1)))
    assert space.action_std[0] == pytest.approx(space.action_std[1], rel=0.01)


def test_a_carried_start_goes_on_from_the_scratchpad_as_it_is_however_much_was_executed():
    subject = policy(start={"start": "carried"}, halting=FixedDepth(2))
    before = subject.decide(observation()).refinement.state
    seen = []
    refine = subject.model.head.refine
    subject.model.head.refine = lambda context, rule, start=None, **keys: (
        seen.append(start) or refine(context, rule, start, **keys)
    )
    subject.decide(observation(), executed_steps=100)
    assert torch.equal(seen[-1], before)
    subject.decide(observation())  # how much was executed is not known: a new episode, or arms that were moved by hand
    assert seen[-1] is None


@pytest.mark.parametrize("start", ["warm", "carried"])
def test_another_instruction_does_not_begin_from_the_scratchpad_of_the_one_before(start):
    subject = policy(start={"start": start}, halting=FixedDepth(2))
    subject.decide(observation())
    kept = []
    refine = subject.start.refine
    object.__setattr__(
        subject,
        "start",
        type(
            "Spy", (), {"refine": lambda self, *a, previous, **k: kept.append(previous) or refine(*a, previous=previous, **k)}
        )(),
    )
    subject.decide(observation(), executed_steps=1)
    subject.decide(observation(instruction="the peg"), executed_steps=1)
    assert kept[0] is not None and kept[1] is None
