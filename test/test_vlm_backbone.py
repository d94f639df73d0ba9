"""Vision-language models of transformers under the head: the real classes, tiny and random."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from vlm_cases import CAMERAS, NAMES, SIDE, cameras, write_vlm

from rdvla_ros.model.backbones.families import FAMILIES, family_of
from rdvla_ros.model.backbones.vlm_loading import vlm_from_folder, vlm_tokenizer
from rdvla_ros.model.prompt_tokenizer import PADDING
from rdvla_ros.types import CheckpointError, ObservationError

QUERIES = 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: write_vlm(tmp_path_factory.mktemp("vlm") / name, name) for name in NAMES}


def loaded(folders, name, layers=(1, 2)):
    backbone = vlm_from_folder(folders[name], name, cameras(), layers, QUERIES).eval().requires_grad_(False)
    return backbone, vlm_tokenizer(folders[name], name, cameras())


def images(batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randint(0, 256, (batch, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8) for name in CAMERAS}


def ids_of(tokenizer, *instructions):
    return torch.tensor([tokenizer.encode(text) for text in instructions])


@pytest.mark.parametrize("name", NAMES)
def test_states_are_those_of_the_whole_model(folders, name):
    """Against the untouched model with all its layers, the latents put in place of the last embeddings."""
    backbone, tokenizer = loaded(folders, name, (0, 1, 2))
    ids = ids_of(tokenizer, "pick up the red cube").expand(2, -1)
    task, latent = backbone(images(), ids)
    import transformers

    whole = getattr(transformers, FAMILIES[name].model).from_pretrained(folders[name]).eval()
    long = torch.cat([ids, torch.zeros(2, QUERIES, dtype=ids.dtype)], 1)
    place = whole.get_input_embeddings().register_forward_hook(
        lambda _, inputs, output: torch.cat([output[:, :-QUERIES], backbone.latents.expand(2, -1, -1)], 1)
    )
    arguments = FAMILIES[name].pack(backbone.see(images()), whole.config) | FAMILIES[name].extra(long, whole.config)
    states, layers = {}, getattr(whole, FAMILIES[name].decoder).layers
    for i, layer in enumerate(layers):  # what a layer reads, after what a family adds between layers
        layer.register_forward_pre_hook(
            lambda _, inputs, named, i=i: states.update({i: inputs[0] if inputs else named["hidden_states"]}), with_kwargs=True
        )
    with torch.no_grad():
        last = whole(input_ids=long, use_cache=False, **arguments).last_hidden_state
    place.remove()
    assert len(layers) == 3 and len(getattr(backbone.model, FAMILIES[name].decoder).layers) == 2
    everything = vlm_from_folder(folders[name], name, cameras(), (3,), QUERIES).eval()
    everything.latents.data.copy_(backbone.latents)
    torch.testing.assert_close(everything(images(), ids)[1][3].detach(), last[:, -QUERIES:], rtol=1e-4, atol=1e-5)
    for layer in (0, 1, 2):
        want = states[layer][long == whole.config.image_token_id].view(2, backbone.image_tokens, -1)
        torch.testing.assert_close(task[layer], want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(latent[layer], states[layer][:, -QUERIES:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_image_is_what_the_familys_own_processor_makes_of_it(folders, name):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    entry, (backbone, _) = FAMILIES[name], loaded(folders, name)
    common = dict(image_mean=list(entry.means), image_std=list(entry.stds))
    if name.startswith("qwen"):
        limits = dict(min_pixels=SIDE * SIDE, max_pixels=SIDE * SIDE, patch_size=8, merge_size=2, temporal_patch_size=2)
        processor = Qwen2VLImageProcessorPil(**common, **limits)
    elif name == "smolvlm2":
        sizes = dict(size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False)
        processor = SmolVLMImageProcessorPil(**common, **sizes)
    else:
        processor = SiglipImageProcessorPil(**common, size={"height": SIDE, "width": SIDE})
    frames = images(batch=1)
    pictures = [frames[camera][0].permute(1, 2, 0).numpy() for camera in CAMERAS]
    want = processor([pictures], return_tensors="pt") if name == "smolvlm2" else processor(pictures, return_tensors="pt")
    got = entry.pack(backbone.see(frames), backbone.model.config)
    torch.testing.assert_close(got["pixel_values"], want["pixel_values"].float(), rtol=1e-4, atol=1e-4)
    if "image_grid_thw" in got:
        assert torch.equal(got["image_grid_thw"], want["image_grid_thw"])


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing_and_rows_do_not_mix(folders, name):
    backbone, tokenizer = loaded(folders, name)
    short, long = tokenizer.encode("pick"), tokenizer.encode("pick up the red cube and hand it over")
    alone = [backbone({k: v[i : i + 1] for k, v in images().items()}, torch.tensor([ids])) for i, ids in enumerate((short, long))]
    padded = torch.tensor([[PADDING] * (len(long) - len(short)) + short, long])
    together = backbone(images(), padded)
    for part in (0, 1):
        for i in (0, 1):
            torch.testing.assert_close(together[part][2][i], alone[i][part][2][0], rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_camera_and_word_reaches_the_latents_and_gradients_reach_every_part(folders, name):
    backbone = vlm_from_folder(folders[name], name, cameras(), (1, 2), QUERIES)
    tokenizer = vlm_tokenizer(folders[name], name, cameras())
    ids = ids_of(tokenizer, "pick up the red cube")
    with torch.no_grad():
        before = backbone(images(1), ids)[1][2]
        for camera in CAMERAS:
            other = images(1) | {camera: images(1, seed=5)[camera]}
            assert not torch.allclose(backbone(other, ids)[1][2], before)
        other = ids_of(tokenizer, "pick up the red cubf")
        assert other.shape != ids.shape or not torch.allclose(backbone(images(1), other)[1][2], before)
    task, latent = backbone(images(1), ids)
    (task[2].square().mean() + latent[2].square().mean()).backward()
    silent = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    parts = {"latents", "model.get_input_embeddings"} - {"model.get_input_embeddings"}
    assert not parts & set(silent) and len(silent) < 0.3 * len(list(backbone.parameters())), silent


@pytest.mark.parametrize("name", NAMES)
def test_narrow_numbers_leave_rotary_positions_alone(folders, name):
    backbone, tokenizer = loaded(folders, name)
    wide = backbone(images(1), ids_of(tokenizer, "pick"))[1][2]
    buffers = {n: b.clone() for n, b in backbone.named_buffers() if "inv_freq" in n}
    backbone.to(torch.bfloat16)
    assert buffers and all(torch.equal(b, buffers[n]) for n, b in backbone.named_buffers() if n in buffers)
    narrow = backbone(images(1), ids_of(tokenizer, "pick"))[1][2]
    assert narrow.dtype == torch.bfloat16
    assert (narrow.float() - wide).abs().mean() < 0.1 * wide.abs().mean()


def refused(words, call, *arguments):
    with pytest.raises(CheckpointError, match=words):
        call(*arguments)


def test_families_that_do_not_fit_are_refused_with_the_reason(folders, tmp_path):
    refused("encoder-decoder", family_of, "florence2")
    refused("cross-attend", family_of, "mllama")
    refused("nobody has written down.*Known families: smolvlm2", family_of, "gpt2")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "florence2"}))
    refused("Florence|florence2", vlm_from_folder, tmp_path, "smolvlm2", cameras(), (1,), 4)
    refused(
        "expected a 'smolvlm2' model.*found 'paligemma2'", vlm_from_folder, folders["paligemma2"], "smolvlm2", cameras(), (1,), 4
    )


def test_sizes_layers_and_files_that_do_not_fit_are_refused(folders, tmp_path):
    folder = folders["smolvlm2"]
    refused("images of 32 px", vlm_from_folder, folder, "smolvlm2", cameras(48), (1,), 4)
    refused("multiple of 16 px", vlm_from_folder, folders["qwen3-vl"], "qwen3-vl", cameras(40), (1,), 4)
    refused("reads layers \\[1, 4\\], expected indices 0 .. 3", vlm_from_folder, folder, "smolvlm2", cameras(), (1, 4), 4)
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    refused("safetensors files, found none", vlm_from_folder, copy, "smolvlm2", cameras(), (1,), 4)
    data = (copy / "pytorch_model.bin").read_bytes()
    (copy / "model.safetensors").write_bytes(data[:-100])
    refused("model.safetensors: not a whole safetensors file", vlm_from_folder, copy, "smolvlm2", cameras(), (1,), 4)


def test_weights_that_are_missing_are_named(folders, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folders["smolvlm2"], tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    gone = next(name for name in tensors if "layers.0.mlp.up_proj" in name and "text" in name)
    del tensors[gone]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    refused("missing .*layers.0.mlp.up_proj", vlm_from_folder, copy, "smolvlm2", cameras(), (1,), 4)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_that_do_not_fit_are_refused(folders, name):
    backbone, tokenizer = loaded(folders, name)
    ids = ids_of(tokenizer, "pick")
    for change in (lambda: backbone({}, ids), lambda: backbone(images(1) | {"top": images(1)["top"][..., :16]}, ids)):
        with pytest.raises(ObservationError, match="Camera 'top'"):
            change()
    with pytest.raises(ObservationError, match="image tokens \\(3 cameras\\)"):
        first = int((ids[0] == backbone.image_token).nonzero()[0])
        backbone(images(1), torch.cat([ids[:, :first], ids[:, first + 1 :]], 1))
    grey = {camera: torch.zeros(1, 3, SIDE, SIDE) for camera in CAMERAS}  # the mean colour, which SmolVLM drops as padding
    if FAMILIES[name].means == (0.5, 0.5, 0.5):
        with pytest.raises(ObservationError, match="takes for no image"):
            backbone(grey, ids)
    assert np.isfinite(backbone({k: torch.zeros_like(v) for k, v in images(1).items()}, ids)[1][2].numpy()).all(), "black"
