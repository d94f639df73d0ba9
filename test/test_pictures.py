"""From pictures of the task's scenes to the symbol reader's tokens."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from rdvla_ros.learning.config import TrainingError
from rdvla_ros.learning.evaluation.pictures import main as study
from rdvla_ros.learning.evaluation.pictures.run import short_starts
from rdvla_ros.learning.evaluation.pictures.scenes import TOP, pictures_of
from rdvla_ros.learning.evaluation.pictures.seeing import PictureReader, cells_of, picture_place
from rdvla_ros.learning.evaluation.symbols import recipes, training
from rdvla_ros.learning.evaluation.symbols.reader import SymbolReader
from rdvla_ros.sim import SimulationError
from rdvla_ros.sim.tasks.follow_trail import trail_scene


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "some.npz"
    try:
        pictures_of(range(30000, 30003), path)
    except SimulationError as error:
        pytest.skip(f"no GL library on this machine: {error}")
    return pictures_of(range(30000, 30006), path)


def test_pads_are_seen_where_the_labels_say(pictures):
    """The ring of every pad, in the picture, has the colour that the same pad has in another picture."""
    place = picture_place(pictures.places)
    columns, rows = (place[..., 0] * TOP.width).round().long(), (place[..., 1] * TOP.height).round().long()
    assert int(columns.min()) > 4 and int(columns.max()) < TOP.width - 4 and int(rows.min()) > 4
    rings = [[picture[:, r - 5, c - 1 : c + 2].float().mean(1) for r, c in zip(rr, cc, strict=True)]
             for picture, rr, cc in zip(pictures.images, rows, columns, strict=True)]  # fmt: skip
    rings = torch.stack([torch.stack(row) for row in rings])
    nearest = (rings[:, :, None] - rings.median(0).values).norm(dim=-1).argmin(2)
    assert (nearest == torch.arange(10)).float().mean() > 0.9  # the tip of a hand may hide the edge of one
    cells = cells_of(pictures.places, (22, 26))
    assert all(len(set(row.tolist())) == 10 for row in cells)


def test_pictures_as_symbols_are_the_scenes_of_the_task(pictures):
    indices = np.array([4, 1])
    scenes = [trail_scene(30000 + i) for i in indices]
    symbols = pictures.symbols(indices, np.array([s.start for s in scenes]))
    assert symbols.lengths.tolist() == [s.length for s in scenes]
    assert symbols.end.tolist() == [s.end for s in scenes]
    assert symbols.right(symbols.target(9)).all() and symbols.pressed(symbols.target(0)).tolist() == [s.start for s in scenes]
    assert [["left", "right"][int(h)] for h in symbols.hand[0]] == list(scenes[0].sides)
    starts = short_starts(pictures, np.arange(6), np.random.default_rng(0), longest=0)
    assert (pictures.hops()[np.arange(6), starts] == 0).all()


def test_pictures_of_other_seeds_are_not_taken_up(pictures, tmp_path):
    pictures_of(range(30000, 30001), tmp_path / "one.npz")
    with pytest.raises(TrainingError, match="seeds 5..*another --output"):
        pictures_of(range(5, 7), tmp_path / "one.npz")


def test_a_study_trains_its_stages_goes_on_and_measures(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "default", replace(recipes.DEFAULT, batch_size=1))
    monkeypatch.setattr(study, "HELD_OUT", 2)
    monkeypatch.setattr(study, "LONGEST", 1)
    trainer = training.SymbolTrainer(replace(recipes.DEFAULT, batch_size=4), seed=0, steps=1)
    trainer.take_step()
    training._save(trainer, tmp_path / "symbols.pt")
    words = ["--symbols", str(tmp_path / "symbols.pt"), "--pictures", "3", "--batch-sizes", "2", "3", "2"]
    words += ["--motions", "2", "--episodes", "1", "--output", str(tmp_path / "out")]
    assert study.main([*words, "--steps", "3", "2", "1"]) == 0
    found = json.loads((tmp_path / "out/pictures.json").read_text())["results"]
    assert set(found) == {"seen", "trained", "moved"} and set(found["trained"]["0"]["fixed"]) == {"0", "1"}
    log = torch.load(tmp_path / "out/run.pt", weights_only=True)["log"]
    assert [row[:2] for row in log] == [[0, 1], [0, 2], [0, 3], [1, 1], [1, 2], [2, 1]]
    assert "| r = 1 | " in (tmp_path / "out/pictures.md").read_text()
    with pytest.raises(TrainingError, match="expected a run of 'rdvla study symbols'"):
        study.main(["--symbols", str(tmp_path / "none.pt"), "--output", str(tmp_path / "out")])


def test_tokens_of_a_perfect_eye_give_the_symbol_readers_chunks():
    from rdvla_ros.learning.evaluation.symbols.scenes import draw_scenes

    torch.manual_seed(0)
    symbols = SymbolReader(recipes.DEFAULT.reader, recipes.DEFAULT.reader.head_config(6))
    reader, scenes = PictureReader(symbols), draw_scenes(np.random.default_rng(0), np.array([0, 3, 5]))
    state = symbols.head.initial_state(3, torch.Generator().manual_seed(0))
    chunks = []
    for context in (symbols.encode(scenes), reader.encode_tokens(symbols.pads(scenes), scenes.start)):
        chunks.append(symbols.head.decode(context, symbols.head.iterate(context, state)))
    torch.testing.assert_close(*chunks)
