"""The checkpoint folder: what is written comes back, and nothing damaged or foreign is read."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re

import numpy as np
import pytest
import torch
from policy_cases import observation, tiny_checkpoint
from safetensors.torch import load_file, save_file

from rdvla_ros.model.checkpoint import MANIFEST, WEIGHTS, load_checkpoint, save_checkpoint, sha256_of
from rdvla_ros.model.halting import FixedDepth
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.normalization import MINIMUM_WIDTH, ActionSpace, Scaler, fit_action_space, relative_columns
from rdvla_ros.model.packed_linear import PackedLinear, packing_works
from rdvla_ros.model.policy import Policy
from rdvla_ros.types import CheckpointError, RdvlaError


@pytest.fixture
def folder(tmp_path):
    return save_checkpoint(tmp_path / "policy", tiny_checkpoint(), dtype="float32")


def _edit(folder, change):
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_what_is_saved_decides_the_same_when_loaded(folder):
    before = Policy(tiny_checkpoint(), halting=FixedDepth(2)).decide(observation()).chunk.positions
    after = Policy.load(folder, halting=FixedDepth(2)).decide(observation()).chunk.positions
    np.testing.assert_array_equal(before, after)


def test_half_precision_weights_stay_close_and_take_half_the_room(folder, tmp_path):
    half = save_checkpoint(tmp_path / "half", tiny_checkpoint())
    assert (half / WEIGHTS).stat().st_size < 0.7 * (folder / WEIGHTS).stat().st_size
    chunks = [Policy.load(f, halting=FixedDepth(2)).decide(observation()).chunk.positions for f in (folder, half)]
    assert np.abs(chunks[0] - chunks[1]).max() < 0.01


def test_an_older_checkpoint_is_replaced_whole(folder):
    save_checkpoint(folder, tiny_checkpoint(seed=1), dtype="float32")
    weights = load_checkpoint(folder).model.state_dict()
    assert torch.equal(weights["backbone.latents"], tiny_checkpoint(seed=1).model.state_dict()["backbone.latents"])
    assert sorted(item.name for item in folder.parent.iterdir()) == ["policy"]


def test_weights_that_are_not_finite_are_neither_saved_nor_read(folder, tmp_path):
    broken = tiny_checkpoint()
    with torch.no_grad():
        broken.model.backbone.latents[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="backbone.latents contains NaN"):
        save_checkpoint(tmp_path / "broken", broken)
    assert not (tmp_path / "broken").exists()
    tensors = load_file(folder / WEIGHTS)
    tensors["backbone.latents"][0, 0] = torch.inf
    _replace_weights(folder, tensors)
    with pytest.raises(CheckpointError, match="contains NaN or infinity"):
        load_checkpoint(folder)


def _replace_weights(folder, tensors):
    save_file(tensors, folder / WEIGHTS)
    _edit(folder, lambda m: m["weights"].update(sha256=sha256_of(folder / WEIGHTS), bytes=(folder / WEIGHTS).stat().st_size))


def test_a_flipped_byte_is_noticed(folder):
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_checkpoint(folder)


def test_a_truncated_file_is_noticed(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        load_checkpoint(folder)


def test_weights_of_another_shape_are_named(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["backbone.latents"] = torch.zeros(3, 16)
    _replace_weights(folder, tensors)
    with pytest.raises(CheckpointError, match=r"backbone.latents: expected shape \(2, 16\), got \(3, 16\)"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name, message", [("missing", "missing tensor"), ("extra", "unknown tensor 'extra'")])
def test_missing_and_foreign_tensors_are_named(folder, name, message):
    tensors = load_file(folder / WEIGHTS)
    if name == "missing":
        del tensors["backbone.latents"]
    else:
        tensors["extra"] = torch.zeros(1)
    _replace_weights(folder, tensors)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m.update(format_version=99), "version 99"),
        (lambda m: m.update(colour="red"), "unknown key 'colour'"),
        (lambda m: m["contract"].update(camera_name=[]), "unknown key 'camera_name'.*Did you mean 'camera_names'"),
        (lambda m: m.pop("statistics"), "missing key 'statistics'"),
        (lambda m: m["statistics"].pop("action"), "missing key 'action'"),
        (lambda m: m["statistics"]["action"].update(low=[0.0] * 13), "expected 14 finite numbers"),
        (lambda m: m["statistics"]["action"].update(low=[0.0] * 14, high=[0.0] * 14), "noise into motion"),
        (lambda m: m["contract"].update(representation="sideways"), "expected one of absolute, relative"),
        (lambda m: m["contract"].update(chunk_length=16), "chunk_length: expected 16 as in the contract, got 8"),
        (lambda m: m["model"].update(backbone="huge"), "'huge' is not known"),
        (lambda m: m["model"]["backbone_config"].update(depth=3), "does not describe a 'compact' backbone"),
        (lambda m: m.update(contract=[]), "expected a mapping, got list"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(folder, change, message):
    _edit(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_a_folder_without_manifest_is_refused_with_what_is_there(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="found config.json") as caught:
        load_checkpoint(tmp_path)
    named = re.search(r"(rdvla_ros[\w.]+)\.(\w+) reads", str(caught.value))
    assert hasattr(importlib.import_module(named[1]), named[2]), "what the message names exists"
    with pytest.raises(CheckpointError, match="no such folder"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_manifest_that_is_not_json_is_refused(folder):
    (folder / MANIFEST).write_text("{")
    with pytest.raises(CheckpointError, match="expected JSON"):
        load_checkpoint(folder)


def test_scaling_has_its_inverse_and_an_unmoving_joint_does_not_explode():
    rng = np.random.default_rng(0)
    positions = rng.uniform(-1, 1, (50, 3))
    positions[:, 1] = 0.7  # an arm that never moved in the data
    targets = positions[:, None] + rng.uniform(-0.1, 0.1, (50, 4, 3)) * [1, 0, 1]
    names = ("a", "b", "grip")
    space = fit_action_space(relative_columns("relative", names, ("grip",)), positions, targets)
    np.testing.assert_allclose(space.decode_targets(space.encode_targets(targets, positions), positions), targets, atol=1e-12)
    noise = 1e-3
    moved = space.proprio.normalise(positions + noise) - space.proprio.normalise(positions)
    assert np.abs(moved).max() <= 2 * noise / MINIMUM_WIDTH + 1e-12
    assert np.abs(space.encode_proprio(positions * 100)).max() <= 1.0


def test_a_core_of_unshared_iterations_makes_the_round_trip(tmp_path):
    checkpoint = tiny_checkpoint()
    shared = checkpoint.model.head.config
    torch.manual_seed(3)
    checkpoint.model.head = RDVLAHead(dataclasses.replace(shared, unshared_iterations=3))
    folder = save_checkpoint(tmp_path / "unshared", checkpoint, dtype="float32")
    loaded = load_checkpoint(folder)
    assert loaded.model.head.config.unshared_iterations == 3 and len(loaded.model.head.core) == 3 * len(shared.core_layers)
    chunks = [Policy(c, halting=FixedDepth(4)).decide(observation()).chunk.positions for c in (checkpoint, loaded)]
    np.testing.assert_array_equal(*chunks)
    _edit(folder, lambda m: m["model"]["head_config"].update(unshared_iterations=2))
    with pytest.raises(CheckpointError, match="unknown tensor 'head.core.2"):
        load_checkpoint(folder)


def test_a_policy_that_decides_is_not_saved_without_its_weights(tmp_path):
    """pack() lays large maps out for this machine's kernels and takes them out of the state."""
    checkpoint = tiny_checkpoint()
    if not packing_works(torch.device("cpu"), torch.float32):
        pytest.skip("this build of torch has no packed kernels")
    checkpoint.model.head.output = PackedLinear(checkpoint.model.head.output, 8)
    with pytest.raises(RdvlaError, match="for decisions only"):
        save_checkpoint(tmp_path / "packed", checkpoint)
    assert list(tmp_path.iterdir()) == []


def test_all_statistics_make_the_round_trip():
    rng = np.random.default_rng(0)
    relative = relative_columns("relative", ("a", "grip"), ("grip",))
    space = fit_action_space(relative, rng.normal(size=(50, 2)), rng.normal(size=(50, 4, 2)))
    for original in (space, dataclasses.replace(space, action_std=None)):
        again = ActionSpace.from_dict(json.loads(json.dumps(original.to_dict())), relative)
        np.testing.assert_array_equal(again.proprio.low, space.proprio.low)
        np.testing.assert_array_equal(again.action.high, space.action.high)
        np.testing.assert_array_equal(again.action_std, original.action_std)
    with pytest.raises(CheckpointError, match="action.std': expected 3"):
        ActionSpace.from_dict(space.to_dict(), np.array([True, True, False]))


def test_statistics_make_the_round_trip_through_the_manifest():
    scaler = Scaler(np.array([-1.0, 0.1]), np.array([1.0, 0.3]))
    again = Scaler.from_dict(json.loads(json.dumps(scaler.to_dict())), 2, "action")
    np.testing.assert_array_equal(again.low, scaler.low)
    assert ActionSpace(np.array([False, False]), scaler, again).representation == "absolute"
