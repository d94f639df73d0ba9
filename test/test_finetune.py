"""Fine-tuning of pretrained backbones: LoRA on chosen parts, checkpointed activations, frozen weights, resume, merge."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from policy_cases import observation, robot, tiny_config, write_episodes
from published_cases import SIZE, write_folder
from vlm_cases import cameras, write_vlm

from rdvla_ros.learning.config import TrainConfig, TrainingError
from rdvla_ros.learning.training import adapters
from rdvla_ros.learning.training.build import build_model, make_tokenizer
from rdvla_ros.learning.training.parallel import Team
from rdvla_ros.learning.training.train import train
from rdvla_ros.learning.training.trainer import load_state
from rdvla_ros.learning.tuning import Tuning
from rdvla_ros.model.checkpoint import load_checkpoint
from rdvla_ros.model.import_checkpoint import import_checkpoint
from rdvla_ros.model.policy import Policy

peft = pytest.importorskip("peft", reason="requirements-finetune.txt")
LORA = Tuning(vision="lora", projector="full", language="lora", rank=2, alpha=4.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_episodes(tmp_path_factory.mktemp("data") / "set", count=4, steps=4)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    return import_checkpoint(write_folder(folder / "published"), folder / "ours", robot())


@pytest.fixture(scope="module")
def smolvlm(tmp_path_factory):
    return write_vlm(tmp_path_factory.mktemp("vlm") / "smolvlm2", "smolvlm2")


def settings(folder, name="prismatic", tuning=LORA, **changes) -> TrainConfig:
    tiny = tiny_config()
    views = cameras(SIZE) if name == "prismatic" else cameras()
    model = dataclasses.replace(tiny.model, backbone=name, pretrained=str(folder), cameras=views, latent_queries=3)
    values = dict(model=model, steps=2, decay_steps=1, batch_size=4, tuning=tuning)
    return dataclasses.replace(tiny, **{**values, **changes})


def batch(backbone):
    generator = torch.Generator().manual_seed(2)
    images = {c.name: 2 * torch.rand(2, 3, c.height, c.width, generator=generator) - 1 for c in backbone.config.cameras}
    return images


def states(backbone, images, ids):
    task, latents = backbone(images, ids, backbone.config.read_layers)
    return torch.cat([*(x.flatten() for x in task.values()), *(x.flatten() for x in latents.values())])


@pytest.mark.parametrize("name", ["prismatic", "smolvlm2"])
def test_only_the_chosen_parts_learn_and_the_merged_model_is_the_unmerged_one(name, imported, smolvlm):
    config = settings(imported if name == "prismatic" else smolvlm, name)
    tokenizer = make_tokenizer(config, ["pick up the red cube"])
    backbone = build_model(config, tokenizer, 14).backbone
    plain = backbone.state_dict()
    ids = torch.tensor([tokenizer.encode("pick up the red cube")] * 2)
    before = states(backbone, batch(backbone), ids)
    adapters.adapt(backbone, LORA)
    torch.testing.assert_close(states(backbone, batch(backbone), ids), before)  # B begins at zero
    names = set(adapters.learning(backbone))
    assert "latents" in names
    for name_ in names - {"latents"}:
        part = adapters.part_of(name_, backbone.parts)
        assert (".lora_" in name_) == (part != "projector"), name_
    projector = {n for n in plain if adapters.part_of(n, backbone.parts) == "projector"}
    assert projector and projector <= names
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, parameter in adapters.learning(backbone).items():
            if "lora_B" in key:
                parameter.normal_(std=0.3, generator=generator)
    changed = states(backbone, batch(backbone), ids)
    assert not torch.allclose(changed, before, atol=1e-2)
    merged = adapters.merged(backbone)
    assert set(merged.state_dict()) == set(plain)
    torch.testing.assert_close(states(merged, batch(merged), ids), changed, rtol=1e-4, atol=1e-4)


def test_an_imported_model_is_fine_tuned_resumed_and_decides(imported, data, tmp_path):
    config = settings(imported, precision="bfloat16")
    config = dataclasses.replace(config, tuning=dataclasses.replace(LORA, checkpointing=True))
    out = train(config, [data], tmp_path / "a", robot(), resume=False, team=Team())
    checkpoint = load_checkpoint(out)
    assert checkpoint.backbone_name == "prismatic" and checkpoint.tokenizer.kind == "prompt"
    old = load_checkpoint(imported).model.state_dict()
    new = checkpoint.model.state_dict()
    assert set(new) == set(old)
    moved = {key for key in new if not torch.allclose(new[key], old[key], atol=1e-3, rtol=1e-2)}
    assert any(key.startswith("backbone.projector") for key in moved) and any(key.startswith("head.core") for key in moved)
    assert not any("norm1" in key and key.startswith("backbone.dino") for key in moved), "norms are frozen"
    saved = load_state(tmp_path / "a" / "state.pt")["trainer"]["model"]
    assert len(saved) < len(old) and all(value.dtype == torch.float32 for value in saved.values()), "float32 masters"
    longer = dataclasses.replace(config, steps=3)
    train(longer, [data], tmp_path / "a", robot(), resume=True, team=Team())
    train(longer, [data], tmp_path / "b", robot(), resume=False, team=Team())
    policy = Policy.load(out)
    policy.warm_up()
    assert np.isfinite(policy.decide(observation()).chunk.positions).all()


def test_training_sees_what_the_policy_sees(imported, data, tmp_path):
    from rdvla_ros.learning.data.dataset import build_cache, open_cache
    from rdvla_ros.learning.data.source import Wanted
    from rdvla_ros.learning.training.build import resizing

    config = settings(imported)
    backbone = build_model(config, None, 14).backbone
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    wanted = Wanted(config.data, config.model.cameras, robot(), 8, 4, resizing(config))
    small = torch.from_numpy(wanted.picture(image, config.model.cameras[0])).permute(2, 0, 1)[None].float() / 127.5 - 1.0
    torch.testing.assert_close(backbone._normalised(small), backbone.prepare(image, None), rtol=0, atol=0.02)
    build_cache([data], tmp_path / "cache", wanted)
    assert open_cache(tmp_path / "cache", config.model.cameras).images["top"].shape[1:] == (SIZE, SIZE, 3)


@pytest.mark.parametrize("name", ["prismatic", "smolvlm2"])
def test_activations_computed_again_give_the_same_gradient(name, imported, smolvlm):
    config = settings(imported if name == "prismatic" else smolvlm, name, tuning=Tuning())
    tokenizer = make_tokenizer(config, ["x"])
    backbone = build_model(config, tokenizer, 14).backbone.train()
    ids = torch.tensor([tokenizer.encode("pick up the red cube")] * 2)
    found = []
    for saved in (True, False):
        backbone.save_activations(saved)
        backbone.zero_grad()
        states(backbone, batch(backbone), ids).square().mean().backward()
        found.append({key: p.grad.clone() for key, p in backbone.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 10
    for key in found[0]:
        torch.testing.assert_close(found[0][key], found[1][key], rtol=1e-4, atol=1e-6)


def test_what_cannot_be_tuned_is_refused(imported, smolvlm, data, tmp_path, monkeypatch):
    with pytest.raises(TrainingError, match="expected nothing for the compact backbone"):
        tiny_config(tuning=LORA)
    with pytest.raises(TrainingError, match="expected full or lora or frozen, got text 'loar'"):
        Tuning(vision="loar")
    with pytest.raises(TrainingError, match="expected several processes"):
        train(settings(imported, tuning=Tuning(shard=True)), [data], tmp_path / "c", robot(), resume=False, team=Team())
    wide = settings(imported)
    wide = dataclasses.replace(wide, model=dataclasses.replace(wide.model, cameras=cameras(56)))
    with pytest.raises(TrainingError, match="'top': expected 28 x 28 px without crop"):
        make_tokenizer(wide, [])
    long = settings(imported)
    long = dataclasses.replace(long, model=dataclasses.replace(long.model, chunk_length=4))
    with pytest.raises(TrainingError, match="chunk_length: expected 8"):
        build_model(long, None, 14)
    with pytest.raises(TrainingError, match="its actions are 14 numbers, relative; expected 14, absolute"):
        build_model(dataclasses.replace(settings(imported), representation="absolute"), None, 14)
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    config = settings(smolvlm, "smolvlm2")
    with pytest.raises(TrainingError, match="requirements-finetune.txt"):
        adapters.adapt(build_model(config, make_tokenizer(config, ["x"]), 14).backbone, LORA)
