"""Lessons of the policy that follows trails while it moves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from policy_cases import robot

from rdvla_ros.learning.config import DepthSampler
from rdvla_ros.learning.evaluation.pictures.motions import ROWS, STEP_S, ExpertMotions
from rdvla_ros.learning.evaluation.symbols.reader import ReaderConfig, SymbolReader
from rdvla_ros.learning.evaluation.trail_policy import build
from rdvla_ros.learning.evaluation.trail_policy.eye import EyeTrainer, instruction_ids, teach_words
from rdvla_ros.learning.evaluation.trail_policy.lessons import Lessons
from rdvla_ros.learning.evaluation.trail_policy.paths import END_S, PressPaths
from rdvla_ros.learning.evaluation.trail_policy.sights import Sights
from rdvla_ros.learning.evaluation.trail_policy.training import Settings, Trainer
from rdvla_ros.model.policy import Policy
from rdvla_ros.sim.tasks.follow_trail import COLOURS, INSTRUCTION
from rdvla_ros.sim.trails import PADS, draw_trails, hops_to_end
from rdvla_ros.types import Observation

JOINTS, SCENES = 14, 6


def made_up_paths() -> PressPaths:
    """A motion is linear in the place."""
    generator = np.random.default_rng(0)
    weights = np.zeros((2, 15, ROWS * JOINTS))
    weights[:, :6] = 0.3 * generator.standard_normal((2, 6, ROWS * JOINTS))
    motions = ExpertMotions(weights, np.linspace(-0.2, 0.3, JOINTS), np.full(JOINTS, 0.5), 0.0)
    return PressPaths(motions, torch.full((JOINTS,), 0.1))


def made_up_sights() -> Sights:
    rng = np.random.default_rng(1)
    trails = draw_trails(rng, np.array([0, 1, 2, 3, 4, 5]))
    following = torch.from_numpy(trails.following).repeat_interleave(2, 0)
    ends = torch.from_numpy(trails.end.copy()).repeat_interleave(2)
    places = torch.from_numpy(rng.uniform(-1, 1, (SCENES, PADS, 2)).astype(np.float32)).repeat_interleave(2, 0)
    views = torch.from_numpy(rng.integers(0, 256, (2 * SCENES, 3, build.VIEW.height, build.VIEW.width), dtype=np.uint8))
    time_s = torch.tensor([0.0, 1.0] * SCENES) * torch.linspace(0.5, 2.5, 2 * SCENES)
    hidden = torch.zeros(2 * SCENES, PADS, dtype=torch.bool)
    hidden[1::2, 0] = True
    return Sights(views, places, following, hidden, ends, time_s)


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    config = ReaderConfig(width=16, heads=2)
    reader = SymbolReader(config, config.head_config(6))
    paths = made_up_paths()
    checkpoint = build.new_checkpoint(reader, robot(), paths, paths._motions)
    return reader, checkpoint, build.symbol_tokens(reader), Lessons(checkpoint.space, paths, made_up_sights())


def test_a_path_begins_at_rest_goes_through_its_rows_and_stays_at_its_end():
    paths = made_up_paths()
    place = torch.tensor([[[0.2, -0.4]], [[-0.3, 0.1]]])
    rows = paths.rows(place, (place[..., 0] > 0).long())
    assert rows.shape == (2, 1, ROWS + 1, JOINTS)
    assert torch.allclose(paths.at(rows, torch.zeros(2))[:, 0], paths.rest.expand(2, -1))
    assert torch.allclose(paths.at(rows, torch.full((2,), 0.25)), (rows[:, :, 2] + rows[:, :, 3]) / 2, atol=1e-5)
    assert torch.allclose(paths.at(rows, torch.full((2,), END_S + 9.0)), rows[:, :, -1], atol=1e-3)
    chunk = paths.chunk(rows, torch.full((2,), END_S - STEP_S), 3)
    assert torch.allclose(chunk, rows[:, :, -1:].expand(-1, -1, 3, -1), atol=1e-3)


def test_the_target_of_a_pad_is_the_motion_to_it_in_the_units_of_the_checkpoint(parts):
    _, checkpoint, _, lessons = parts
    rng = np.random.default_rng(3)
    batch = lessons.symbols(rng, np.array([2, 0, 5]), unknown_share=0.0)
    position = lessons.position(batch, rng)
    targets = lessons.targets(batch, position, build.CHUNK)
    for scene in range(3):
        end = int(batch.route[scene, -1])
        decoded = checkpoint.space.decode_targets(targets[scene, end].double().numpy(), position[scene].double().numpy())
        assert np.allclose(decoded, batch.rows[scene, end, 1:].numpy(), atol=1e-3)


def test_a_colour_that_no_pad_has_asks_the_arms_to_stay(parts):
    _, checkpoint, _, lessons = parts
    rng = np.random.default_rng(4)
    batch = lessons.symbols(rng, np.array([3, 1]), unknown_share=1.0)
    assert batch.start.tolist() == [PADS, PADS]
    position = lessons.position(batch, rng)
    targets = lessons.targets(batch, position, build.CHUNK)
    decoded = checkpoint.space.decode_targets(targets[0].double().numpy(), position[0].double().numpy())
    assert np.allclose(decoded, lessons.paths.rest.numpy(), atol=1e-4)


def test_real_pictures_are_of_trails_that_end_where_the_arm_goes(parts):
    _, _, _, lessons = parts
    sights = lessons.sights
    lessons.tokens = torch.arange(len(sights), dtype=torch.float32)[:, None, None].expand(-1, PADS, 16)
    first, later = lessons.seen(np.random.default_rng(5), 40, longest=5)
    lessons.tokens = None
    of_way = later.seen[:, 0, 0].long()
    assert (of_way % 2 == 1).all() and torch.equal(first.seen[:, 0, 0].long(), of_way - 1)
    assert torch.equal(first.route[:, -1], sights.pad[of_way]) and (first.lengths <= 5).all()
    assert torch.equal(first.route[:, 0], first.start) and (later.time_s > 0).all() and (first.time_s == 0).all()
    assert torch.equal(torch.from_numpy(hops_to_end(first.following.numpy()))[torch.arange(40), first.start], first.lengths)
    assert (later.hidden[:, 0]).all() and not first.hidden.any()


def settings(**changes) -> Settings:
    return Settings(steps=4, batch=4, depth=DepthSampler(mean=3.0, shallow_fraction=0.0, limit=5), **changes)


def trainer(parts) -> Trainer:
    reader, _, _, lessons = parts
    torch.manual_seed(7)
    checkpoint = build.new_checkpoint(reader, robot(), lessons.paths, lessons.paths._motions)
    return Trainer(checkpoint.model.head, build.symbol_tokens(reader), build.named_by(checkpoint), lessons, settings())


def test_a_training_that_is_taken_up_takes_the_steps_of_an_unbroken_one(parts, tmp_path):
    whole = trainer(parts)
    losses = [whole.take_step() for _ in range(3)]
    assert all(set(row) == {"start", "naming", "way"} and np.isfinite(list(row.values())).all() for row in losses)
    begun = trainer(parts)
    begun.take_step()
    begun.save(tmp_path / "state.pt")
    resumed = trainer(parts)
    resumed.restore(tmp_path / "state.pt")
    assert resumed.take_step() == pytest.approx(losses[1], rel=1e-5)
    resumed.take_step()
    for name, tensor in whole.head.state_dict().items():
        assert torch.allclose(tensor, resumed.head.state_dict()[name], atol=1e-6), name


def test_the_words_become_the_symbols_and_unknown_ones_have_a_token_of_their_own(parts):
    _, checkpoint, tokens, _ = parts
    pool = checkpoint.model.backbone.text.beside
    assert teach_words(pool, checkpoint.tokenizer, tokens, steps=300) < 0.2
    with torch.no_grad():
        named = pool(instruction_ids(checkpoint.tokenizer))[:, 0]
        apart = (named[:, None] - tokens.start(torch.arange(PADS + 1)).squeeze(1)).norm(dim=-1).argmin(1)
    assert apart.tolist() == list(range(PADS + 1))


def test_the_eye_learns_from_pictures_and_goes_on_where_it_stopped(parts, tmp_path):
    reader, checkpoint, tokens, lessons = parts
    stem = build.new_checkpoint(reader, robot(), lessons.paths, lessons.paths._motions).model.backbone.stems[build.VIEW.name]
    before = {name: tensor.clone() for name, tensor in stem.state_dict().items()}
    EyeTrainer(stem, tokens, lessons.sights, steps=2, batch=3).run(tmp_path / "eye.pt")
    after = stem.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    other = build.new_checkpoint(reader, robot(), lessons.paths, lessons.paths._motions).model.backbone.stems[build.VIEW.name]
    EyeTrainer(other, tokens, lessons.sights, steps=2, batch=3).run(tmp_path / "eye.pt")  # over already: its weights are read
    assert all(torch.equal(after[name], tensor) for name, tensor in other.state_dict().items())


def test_the_policy_decides_for_the_robot_and_later_decisions_begin_from_the_one_before(parts):
    _, checkpoint, _, _ = parts
    policy = Policy(dataclasses.replace(checkpoint, halting={"rule": "fixed", "iterations": 3}))
    policy.require_robot(robot().joint_names, robot().camera_names, "relative", robot().gripper_joints)
    pictures = {"top": np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)}
    observation = Observation(pictures, np.zeros(JOINTS), INSTRUCTION.format(tuple(COLOURS)[0]), 0.0)
    first = policy.decide(observation)
    assert first.chunk.positions.shape == (build.CHUNK, JOINTS)
    again = policy.decide(observation, executed_steps=18)
    fresh = policy.decide(observation)
    change = [np.abs(other.chunk.positions - first.chunk.positions).max() for other in (again, fresh)]
    assert change[0] > 0.0 and change[1] > 0.0
