"""Folders of vision-language models that are refused before anything runs, with the reason and the way out."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from vlm_cases import cameras, tokenizer, write_vlm

from rdvla_ros.model import memory
from rdvla_ros.model.backbones.vlm_loading import vlm_from_folder, vlm_tokenizer
from rdvla_ros.types import CheckpointError

NAME = "smolvlm2"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_vlm(tmp_path_factory.mktemp("vlm") / NAME, NAME)


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def sharded(folder):
    """The same weights in two files with their index."""
    tensors = load_file(folder / "model.safetensors")
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    places = {key: names[i % 2] for i, key in enumerate(sorted(tensors))}
    for name in names:
        save_file({k: v for k, v in tensors.items() if places[k] == name}, folder / name, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "model.safetensors").unlink()
    return folder, names


def load(folder, queries=4):
    return vlm_from_folder(folder, NAME, cameras(), (1,), queries)


def test_shards_load_and_a_truncated_or_missing_one_is_named(folder, whole):
    expected = load(whole).model.state_dict()
    folder, names = sharded(folder)
    assert all(torch.equal(value, expected[key]) for key, value in load(folder).model.state_dict().items())
    data = (folder / names[1]).read_bytes()
    for keep in (0, 9, len(data) // 2, len(data) - 1):
        (folder / names[1]).write_bytes(data[:keep])
        with pytest.raises(CheckpointError, match=f"{names[1]}: not a whole safetensors file.*again"):
            load(folder)
    (folder / names[1]).unlink()
    with pytest.raises(CheckpointError, match="could not read them"):
        load(folder)


class Runs:
    """A pickle of it runs code where somebody reads it."""

    def __reduce__(self):
        return pytest.exit, ("pickled code ran",)


def test_code_in_the_folder_never_runs(folder):
    (folder / "modeling_evil.py").write_text("raise SystemExit('remote code ran')")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "modeling_evil.Config", "AutoModelForImageTextToText": "modeling_evil.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Runs()))
    load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="found none. Pickled weights are not read"):
        load(folder)


def test_memory_is_asked_for_before_the_weights_are_read(folder, monkeypatch):
    monkeypatch.setattr(memory, "SPARE", 1 << 60)
    monkeypatch.setattr("transformers.SmolVLMModel.from_pretrained", lambda *_, **__: pytest.fail("the weights were read"))
    with pytest.raises(CheckpointError, match="GiB of memory to load it.*are free on this machine"):
        load(folder)


def test_a_tokenizer_that_makes_another_count_of_image_tokens_is_refused(folder):
    vlm_tokenizer(folder, NAME, cameras())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "image_token_id": config["image_token_id"] - 1}))
    with pytest.raises(CheckpointError, match="The tokenizer is of another model"):
        vlm_tokenizer(folder, NAME, cameras())
    (folder / "config.json").write_text(json.dumps(config))
    words = tokenizer(NAME)
    words.add_special_tokens(["<image><image>"])  # two image tokens become one of another kind
    words.save(str(folder / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="image tokens in a prompt, its tokenizer makes"):
        vlm_tokenizer(folder, NAME, cameras())


def test_a_number_format_that_the_device_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)  # the device is there
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    memory.require_device(torch.device("cuda"), torch.float32)
    with pytest.raises(CheckpointError, match="'cuda': it does not compute in bfloat16. Use dtype float32"):
        memory.require_device(torch.device("cuda"), torch.bfloat16)
