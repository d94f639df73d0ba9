"""A whole published folder: the same numbers as the published computation, and a clear refusal of everything else."""

from __future__ import annotations

import json

import pytest
import torch
from head_cases import relative_error
from head_oracle import Oracle
from published_cases import HEAD, HEADS, KV_HEADS, LAYERS, SIZE, backbone_weights, head_weights, inputs, write_folder
from published_oracle import published_states
from safetensors.torch import load_file, save_file

from rdvla_ros.model import memory
from rdvla_ros.model.halting import FixedDepth
from rdvla_ros.model.published import load_model
from rdvla_ros.model.published_backbone import load_backbone
from rdvla_ros.types import CheckpointError, ObservationError

TOLERANCE = 1e-4


def expected_states(weights, pixels, ids, layers):
    """The oracle's, in double precision: layer -> (B, P, D), layer -> (B, Q, D)."""
    wide = {name: tensor.double() for name, tensor in weights.items()}
    rows = [published_states(wide, p.double(), i, HEADS, KV_HEADS) for p, i in zip(pixels, ids, strict=True)]
    return tuple({layer: torch.stack([row[part][layer] for row in rows]) for layer in layers} for part in (0, 1))


@pytest.mark.parametrize("images, shards", [(1, 1), (3, 4)])
def test_states_and_actions_are_those_of_the_published_computation(tmp_path, images, shards):
    weights = backbone_weights()
    model = load_model(write_folder(tmp_path, weights, shards))
    pixels, ids = inputs(images=images)
    with torch.no_grad():
        task, latent = model.backbone(pixels, ids)
        expected = expected_states(weights, pixels, ids, (2, 3))
        for got, want in zip((task, latent), expected, strict=True):
            assert set(got) == {2, 3}
            assert all(relative_error(got[layer], want[layer]) < TOLERANCE for layer in want)
        proprio, start = torch.rand(2, 14) * 2 - 1, 0.6 * torch.randn(2, 8, 32)
        actions = model.head.refine(model.encode(pixels, ids, proprio), FixedDepth(4), start).actions
        head, projector = ({name: t.double() for name, t in part.items()} for part in head_weights())
        oracle = Oracle(head, projector, HEAD, *expected, proprio.double())
        assert relative_error(actions, oracle.fixed(start.double(), 4)[0]) < TOLERANCE


def test_every_layer_can_be_read_the_last_one_after_the_norm(tmp_path):
    weights, layers = backbone_weights(), tuple(range(LAYERS + 1))
    pixels, ids = inputs(batch=1)
    with torch.no_grad():
        got = load_backbone(write_folder(tmp_path, weights), layers)(pixels, ids)
        for states, want in zip(got, expected_states(weights, pixels, ids, layers), strict=True):
            assert all(relative_error(states[layer], want[layer]) < TOLERANCE for layer in layers)


def test_only_what_is_read_is_kept(tmp_path):
    backbone = load_model(write_folder(tmp_path)).backbone
    assert (len(backbone.dino.blocks), len(backbone.siglip.blocks), len(backbone.language.layers)) == (2, 3, 3)
    assert isinstance(backbone.language.norm, torch.nn.Identity)
    with pytest.raises(CheckpointError, match="layers \\[4\\] were not kept"):
        backbone(*inputs(), (4,))


def test_an_image_is_seen_alike_alone_and_among_others(tmp_path):
    """Random numbers of images and batch rows: each camera's tokens stand in its place."""
    backbone = load_model(write_folder(tmp_path)).backbone
    with torch.no_grad():
        for images in (1, 2, 5):
            pixels, _ = inputs(batch=2, images=images)
            together = backbone.see(pixels).unflatten(1, (images, -1))
            for i, one in enumerate(pixels.split(6, 1)):
                torch.testing.assert_close(together[:, i], backbone.see(one), rtol=1e-4, atol=1e-5)


def test_bfloat16_spoils_no_rotary_position(tmp_path):
    folder = write_folder(tmp_path)
    wide, narrow = load_model(folder).backbone, load_model(folder, dtype=torch.bfloat16).backbone
    moved = load_model(folder).backbone.to(torch.bfloat16)
    with torch.no_grad():
        for other in (narrow, moved):
            assert other.latents.dtype == torch.bfloat16
            torch.testing.assert_close(other.language.rotary_emb.inv_freq, wide.language.rotary_emb.inv_freq)
            task, _ = other(*inputs())
            assert relative_error(task[3].float(), wide(*inputs())[0][3]) < 0.2


def test_layer_scale_may_be_called_gamma(tmp_path):
    weights = backbone_weights()
    renamed = {name.replace("scale_factor", "gamma"): tensor for name, tensor in weights.items()}
    a, b = (load_model(write_folder(tmp_path / n, w)).backbone for n, w in (("a", weights), ("b", renamed)))
    assert torch.equal(a.see(inputs()[0]), b.see(inputs()[0]))


def refused(folder, *words, error=CheckpointError):
    with pytest.raises(error) as caught:
        load_model(folder)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_missing_and_unknown_tensors_are_named(tmp_path):
    weights = backbone_weights()
    del weights["language_model.model.layers.1.mlp.up_proj.weight"], weights["projector.fc2.bias"]
    weights["vision_backbone.featurizer.blocks.0.attn.extra"] = torch.zeros(2)
    folder = write_folder(tmp_path, weights)
    refused(folder, "missing language_model.model.layers.1.mlp.up_proj.weight, projector.fc2.bias", "blocks.0.attn.extra")


def test_another_architecture_is_refused(tmp_path):
    weights = {name: t for name, t in backbone_weights().items() if "fused" not in name}
    refused(write_folder(tmp_path, weights), "missing vision_backbone.fused_featurizer.patch_embed", "another architecture")
    plain = {"model.layers.0.mlp.weight": torch.zeros(2, 2)}
    refused(write_folder(tmp_path, plain), "model.layers.0.mlp.weight", "another architecture")


@pytest.mark.parametrize(
    "name, tensor, words",
    [
        ("projector.fc1.weight", torch.zeros(320, 81), "projector.fc1.weight: expected 320 x 80, found 320 x 81"),
        ("vision_backbone.featurizer.pos_embed", torch.zeros(1, 5, 32), "5 positions"),
        ("vision_backbone.featurizer.pos_embed", torch.zeros(1, 9, 32), "same images and patches"),
        ("action_queries.weight", torch.zeros(3, 31), "action_queries.weight: expected 3 x 32, found 3 x 31"),
        ("language_model.model.norm.weight", torch.zeros(3), None),  # read by nobody here
        ("language_model.model.layers.0.self_attn.k_proj.weight", torch.zeros(12, 32), "rows of q_proj"),
        ("projector.fc3.bias", torch.full((32,), torch.nan), "projector.fc3.bias contains NaN"),
    ],
)
def test_tensors_of_wrong_size_or_content_are_named(tmp_path, name, tensor, words):
    folder = write_folder(tmp_path, backbone_weights() | {name: tensor})
    refused(folder, words) if words else load_model(folder)


@pytest.mark.parametrize("keep", [0, 9, 0.5, 0.999])
def test_a_truncated_file_or_shard_is_refused(tmp_path, keep):
    folder = write_folder(tmp_path, shards=3)
    path = folder / "model-00002-of-00003.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    refused(folder, path.name, "not a whole safetensors file")
    path.unlink()
    refused(folder, f"found no {path.name}")


def test_an_index_that_names_what_is_not_there_is_refused(tmp_path):
    folder = write_folder(tmp_path, shards=2)
    path = folder / "model-00001-of-00002.safetensors"
    tensors = load_file(path)
    gone = sorted(tensors)[0]
    save_file({name: tensors[name] for name in tensors if name != gone}, path)
    refused(folder, "names tensors that its files lack", gone)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": []}))
    refused(folder, "expected weight_map")


def test_a_file_outside_the_folder_is_not_read(tmp_path):
    folder = write_folder(tmp_path / "in", shards=2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] = {name: f"../{file}" for name, file in index["weight_map"].items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    load_model(folder)  # those of the same name inside it


def test_pickled_weights_and_code_are_not_touched(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "modeling_prismatic.py").write_text("raise SystemExit('remote code ran')")
    (folder / "configuration_prismatic.py").write_text("raise SystemExit('remote code ran')")
    load_model(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "expected model.safetensors", "pytorch_model.bin may hold code and is not read")


def test_a_head_of_another_model_is_refused(tmp_path):
    folder = write_folder(tmp_path, backbone_weights(width=64))
    refused(folder, "32 wide", "64 wide")
    config = folder / "action_head_config--40000_checkpoint.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"coda_vlm_layers": [9]}))
    refused(folder, "layers [2, 3, 9]", "0 .. 4")


def test_heads_that_the_tensors_contradict_fall_back_or_are_refused(tmp_path):
    refused(write_folder(tmp_path, config={"num_attention_heads": 7}), "num_attention_heads 7")


def test_memory_is_asked_for_before_anything_is_read(tmp_path, monkeypatch):
    folder = write_folder(tmp_path)
    monkeypatch.setattr(memory, "SPARE", 1 << 60)
    refused(folder, "GiB of memory to load it", "dtype bfloat16")


@pytest.mark.parametrize(
    "pixels, ids, words",
    [
        (torch.zeros(1, 7, SIZE, SIZE), torch.zeros(1, 3, dtype=torch.long), "(batch, 6 per image, 28, 28)"),
        (torch.zeros(1, 6, SIZE, 14), torch.zeros(1, 3, dtype=torch.long), "got (1, 6, 28, 14)"),
        (torch.zeros(6, SIZE, SIZE), torch.zeros(1, 3, dtype=torch.long), "pixel_values"),
        (torch.zeros(1, 6, SIZE, SIZE), torch.zeros(1, 0, dtype=torch.long), "with a token"),
        (torch.zeros(1, 6, SIZE, SIZE), torch.full((1, 3), 400), "of another checkpoint"),
        (torch.zeros(1, 6, SIZE, SIZE), torch.zeros(1, 600, dtype=torch.long), "at most 512 tokens, got 610"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(tmp_path, pixels, ids, words):
    backbone = load_model(write_folder(tmp_path)).backbone
    with pytest.raises(ObservationError) as caught:
        backbone(pixels, ids)
    assert words in str(caught.value)
