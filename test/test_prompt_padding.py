"""A prompt padded to a fixed length: the same numbers as without padding, and shapes that no instruction changes."""

from __future__ import annotations

import pytest
import torch
from published_cases import inputs, write_folder
from vlm_cases import cameras, write_vlm

from rdvla_ros.model.backbones.vlm_loading import vlm_from_folder, vlm_tokenizer
from rdvla_ros.model.prompt_tokenizer import PADDING, padded
from rdvla_ros.model.published import load_model
from rdvla_ros.types import ObservationError


def test_ids_are_filled_up_to_a_multiple():
    assert padded([5, 6, 7], 4) == [PADDING, 5, 6, 7] and padded([5, 6, 7, 8], 4) == [5, 6, 7, 8]
    assert padded([5, 6, 7], 0) == [5, 6, 7] and len(padded([1] * 33, 32)) == 64


@pytest.mark.parametrize("shifted", [True, False])
def test_padding_changes_no_number_of_the_published_backbone(tmp_path, shifted):
    import dataclasses

    backbone = load_model(write_folder(tmp_path)).backbone
    backbone.config = dataclasses.replace(backbone.config, shifted=shifted)
    pixels, ids = inputs(batch=1)
    exact = backbone(pixels, ids)
    longer = torch.tensor([padded(ids[0].tolist(), 16)])
    for ours, theirs in zip(backbone(pixels, longer), exact, strict=True):
        for layer in theirs:
            assert ours[layer].shape == theirs[layer].shape
            torch.testing.assert_close(ours[layer], theirs[layer], rtol=1e-5, atol=1e-5)


def test_rows_of_a_batch_may_have_prompts_of_different_lengths(tmp_path):
    backbone = load_model(write_folder(tmp_path)).backbone
    pixels, ids = inputs(batch=2, tokens=9)
    short = ids[1, 4:]
    mixed = torch.stack([ids[0], torch.cat([torch.full((4,), PADDING), short])])
    together = backbone(pixels, mixed)
    alone = backbone(pixels[1:], short[None])
    for ours, theirs in zip(together, alone, strict=True):
        for layer in theirs:
            torch.testing.assert_close(ours[layer][1:], theirs[layer], rtol=1e-5, atol=1e-5)
    for wrong in ([1, PADDING, 2, 3], [PADDING, PADDING, PADDING, 1], [PADDING] * 4):
        with pytest.raises(ObservationError, match="padding in front of a prompt"):
            backbone.text(torch.tensor([wrong]))


@pytest.mark.parametrize("name", ["smolvlm2", "qwen2.5-vl", "qwen3-vl", "paligemma2"])
def test_padding_changes_no_number_of_a_family(tmp_path, name):
    folder = write_vlm(tmp_path, name)
    backbone = vlm_from_folder(folder, name, cameras(), (1, 2), 3).eval()
    ids = vlm_tokenizer(folder, name, cameras()).encode("pick up the red cube")
    generator = torch.Generator().manual_seed(1)
    images = {c.name: 2 * torch.rand(1, 3, c.height, c.width, generator=generator) - 1 for c in cameras()}
    with torch.no_grad():
        exact = backbone(images, torch.tensor([ids]))
        longer = backbone(images, torch.tensor([padded(ids, 64)]))
    for ours, theirs in zip(longer, exact, strict=True):
        for layer in theirs:
            torch.testing.assert_close(ours[layer], theirs[layer], rtol=1e-4, atol=1e-4)


def test_a_policy_pads_its_prompts_and_decides_the_same(tmp_path):
    from policy_cases import observation
    from published_cases import robot

    from rdvla_ros.model.import_checkpoint import import_checkpoint
    from rdvla_ros.model.policy import Policy
    from rdvla_ros.types import CheckpointError

    folder = import_checkpoint(write_folder(tmp_path / "published"), tmp_path / "ours", robot())
    plain, filled = Policy.load(folder), Policy.load(folder, prompt_multiple=32)
    compiled = Policy.load(folder, run="compile")
    compiled._states = compiled.model.backbone.recorded(compiled._layers, "compile", backend="eager")  # traced, not built
    for instruction in ("pick up the cube", "put the red cube into the box"):
        decisions = [p.decide(observation(instruction=instruction)) for p in (plain, filled, compiled)]
        for other in decisions[1:]:
            assert abs(other.chunk.positions - decisions[0].chunk.positions).max() < 1e-5
    shapes = {tuple(text.states.shape) for text in filled._text.values()}
    assert len(shapes) == 1 and len({tuple(text.states.shape) for text in plain._text.values()}) == 2
    with pytest.raises(CheckpointError, match="needs a CUDA device"):
        Policy.load(folder, run="graph")
    with pytest.raises(CheckpointError, match="Did you mean 'graph'"):
        Policy.load(folder, run="grpah")


def test_a_recording_replays_what_was_called(tmp_path):
    """The bookkeeping of the CUDA graphs with a recorder that calls again; the graphs themselves need a GPU."""

    def recorder(function, static):
        output = function(static)

        def replay():
            fresh = function(static)
            for old, new in zip(output, fresh, strict=True):
                for layer in old:
                    old[layer].copy_(new[layer])

        return replay, output

    backbone = load_model(write_folder(tmp_path)).backbone.requires_grad_(False)
    call = backbone.recorded(backbone.config.read_layers, "graph", record=recorder)
    kept = []
    for seed, tokens in ((3, 7), (4, 7), (5, 11)):
        pixels, ids = inputs(batch=1, tokens=tokens, seed=seed)
        text = backbone.text(torch.tensor([padded(ids[0].tolist(), 16)]))
        kept.append((call(pixels, text), backbone(pixels, ids)))
    for found, exact in kept:  # compared at the end: an earlier result must not be overwritten by a later replay
        for ours, theirs in zip(found, exact, strict=True):
            for layer in theirs:
                torch.testing.assert_close(ours[layer], theirs[layer], rtol=1e-5, atol=1e-5)
