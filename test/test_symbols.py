"""The bench of trails as symbols: its scenes, what it counts, and that the package's head learns on it."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdvla_ros.learning.config import DepthSampler, TrainingError
from rdvla_ros.learning.evaluation.symbols import main, measure, training
from rdvla_ros.learning.evaluation.symbols.reader import ReaderConfig, SymbolReader
from rdvla_ros.learning.evaluation.symbols.recipes import RECIPES
from rdvla_ros.learning.evaluation.symbols.scenes import draw_scenes

TINY = training.Recipe(
    "tiny", ReaderConfig(pads=4, width=16, heads=2, core_layers=1), DepthSampler(2.0, shallow_fraction=0.0, limit=4),
    backprop_depth=2, last_level=1, batch_size=64, learning_rate=5e-3,
)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), lengths=st.lists(st.integers(0, 8), min_size=1, max_size=12))
def test_the_symbols_alone_lead_from_the_named_colour_to_the_end(seed, lengths):
    """Who reads colours and marks, and nothing else, presses the right pad after so many hops; the targets say the same."""
    scenes = draw_scenes(np.random.default_rng(seed), np.array(lengths))
    rows = torch.arange(len(lengths))
    colour = scenes.start
    for k in range(10):
        pad = (scenes.own == colour[:, None]).int().argmax(1)
        assert (scenes.pressed(scenes.target(k)) == pad).all()
        arrived = k >= torch.tensor(lengths)
        assert (scenes.right(scenes.target(k)) == arrived).all()
        colour = scenes.following[rows, pad]
    assert (scenes.own.sort(1).values == torch.arange(10)).all()
    by_hand = scenes.press.unflatten(-1, (2, 2))
    assert (by_hand[rows, :, 1 - scenes.hand[:, 0]][:, 0] == 0).all()  # the other hand rests
    assert ((scenes.place[..., 0] > 0) == (scenes.hand == 1)).all()


def test_the_head_learns_to_find_the_pad_of_a_colour_in_seconds():
    """Level 0: the named pad is the end. A guess is right in 25 %."""
    trainer = training.SymbolTrainer(TINY, seed=0, steps=400)
    while trainer.step < trainer.steps and 0 not in trainer.mastered:
        trainer.take_step()
    assert 0 in trainer.mastered and trainer.level == 1
    scenes = measure.held_out(0, 256, 4)
    with torch.no_grad():
        right = measure.right_by_depth(trainer.reader, scenes, (4,))[4]
    assert right > 0.75 * 256


def test_a_run_that_is_resumed_takes_the_steps_of_an_unbroken_one(tmp_path):
    whole = training.SymbolTrainer(TINY, seed=3, steps=8)
    losses = [whole.take_step() for _ in range(8)]
    first = training.SymbolTrainer(TINY, seed=3, steps=8)
    for _ in range(5):
        first.take_step()
    training._save(first, tmp_path / "run.pt")
    second = training.SymbolTrainer(TINY, seed=3, steps=8)
    training._resume(second, tmp_path / "run.pt")
    assert [second.take_step() for _ in range(3)] == losses[5:]
    other = training.SymbolTrainer(dataclasses.replace(TINY, batch_size=32), seed=3, steps=8)
    with pytest.raises(TrainingError, match="expected a run with recipe.*another --output"):
        training._resume(other, tmp_path / "run.pt")
    (tmp_path / "run.pt").write_bytes(b"nothing")
    with pytest.raises(TrainingError, match="not a readable training state"):
        training._resume(second, tmp_path / "run.pt")


def test_only_depths_that_suffice_count_for_the_curriculum():
    trainer = training.SymbolTrainer(TINY, seed=0, steps=10)
    trainer.level = 1
    scenes = draw_scenes(np.random.default_rng(0), np.ones(8, int), 4)
    trainer._follow(scenes, 1, scenes.target(9))  # one iteration cannot have made a hop
    assert trainer.rate == 0.0
    for _ in range(200):
        trainer._follow(scenes, 2, scenes.target(9))
    assert trainer.rate > training.MASTERED and 1 in trainer.mastered


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_a_step_and_is_measured(name):
    recipe = RECIPES[name]
    small = dataclasses.replace(recipe.reader, pads=4, width=16, heads=2)
    recipe = dataclasses.replace(recipe, reader=small, batch_size=4, last_level=2)
    trainer = training.SymbolTrainer(recipe, seed=0, steps=2)
    assert np.isfinite([trainer.take_step(), trainer.take_step()]).all()
    found = measure.measure(trainer.reader, 3, {"change": {"rule": "action_change", "threshold": 1e-4}})
    assert set(found["fixed"]) == {0, 1, 2} and set(found["rules"]["change"]["hops"]) == {0, 1, 2}


def test_the_command_writes_tables_and_does_not_run_a_seed_twice(tmp_path, monkeypatch, capsys):
    words = ["--variants", "default", "once", "--steps", "2", "--batch-size", "4", "--scenes", "3", "--output", str(tmp_path)]
    assert main.main([*words, "--seeds", "1"]) == 0
    before = json.loads((tmp_path / "symbols.json").read_text())
    assert main.main([*words, "--seeds", "2"]) == 0
    after = json.loads((tmp_path / "symbols.json").read_text())
    assert after["results"]["default"]["0"] == before["results"]["default"]["0"]
    assert list(after["results"]["once"]) == ["0", "1"]
    text = (tmp_path / "symbols.md").read_text()
    assert "8 (never trained)" in text and "one pass through the core" in text and "two-hit" in text
    assert (tmp_path / "symbols.png").stat().st_size > 5000
    with pytest.raises(TrainingError, match="had steps 2, these have 3.*another --output"):
        main.main([*words, "--steps", "3"])
    with pytest.raises(TrainingError, match="variant 'defualt'.*default"):
        main.main(["--variants", "defualt", "--output", str(tmp_path)])


def test_a_second_decision_hides_the_trail_but_its_end():
    scenes = draw_scenes(np.random.default_rng(1), np.full(20, 3))
    seen = measure._without_trail(scenes)
    assert seen.shape == (20, 7)
    for row in range(20):
        left, trail = set(seen[row].tolist()), set(scenes.route[row].tolist())
        assert left & trail == {int(scenes.end[row])} and left | trail == set(range(10))
    reader = SymbolReader(TINY.reader, TINY.reader.head_config(2))
    found = measure.second_decisions(reader, 3)
    assert all(set(by_hops) == {0, 1, 2} for by_hops in found.values())
    pads = reader.pads(held := measure.held_out(1, 3, 4))
    some = torch.tensor([[0, 2]] * 3)
    torch.testing.assert_close(reader.encode(held, some).core[0].keys, reader.encode(held).core[0].keys[:, :, [0, 2, 4, 5, 6]])
    assert pads.shape == (3, 4, 16)


def test_rank_correlation_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    first = rng.integers(0, 5, 200)
    second = first + rng.integers(0, 3, 200)
    assert measure.spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert measure.spearman(first, np.ones(200)) == 0.0


def test_colours_are_recognised_in_both_roles_by_one_embedding():
    """The pads' own colours and the marks' share their weights in the default recipe, and only there."""
    names = {
        name: [n for n, _ in SymbolReader(r.reader, r.reader.head_config(6)).named_parameters()] for name, r in RECIPES.items()
    }
    assert not [n for n in names["default"] if n.startswith("others")]
    assert [n for n in names["two_embeddings"] if n.startswith("others")]
