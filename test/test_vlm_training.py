"""A pretrained vision-language model by name in the training configuration: train, save, resume, load, decide."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from policy_cases import INSTRUCTION, observation, robot, tiny_config, write_episodes
from vlm_cases import NAMES, SIDE, cameras, write_vlm

from rdvla_ros.learning.config import TrainConfig, TrainingError
from rdvla_ros.learning.training.build import build_model, make_tokenizer
from rdvla_ros.learning.training.parallel import Team
from rdvla_ros.learning.training.train import train
from rdvla_ros.model.checkpoint import load_checkpoint
from rdvla_ros.model.policy import Policy
from rdvla_ros.types import CheckpointError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_episodes(tmp_path_factory.mktemp("data") / "set", count=4, steps=4)


def settings(folder, name, **changes):
    tiny = tiny_config()
    values = dict(
        backbone=name, pretrained=str(folder), cameras=cameras(), prelude_layers=(1,), core_layers=(2,), coda_layers=(2,)
    )
    model = dataclasses.replace(tiny.model, **{**values, "latent_queries": 3, **changes})
    return dataclasses.replace(tiny, model=model, steps=2, decay_steps=1, batch_size=4)


@pytest.mark.parametrize("name", NAMES)
def test_a_pretrained_family_trains_saves_loads_and_decides(name, data, tmp_path):
    folder = write_vlm(tmp_path / "pretrained", name)
    config = settings(folder, name)
    before = build_model(config, make_tokenizer(config, [INSTRUCTION]), 14).state_dict()
    out = train(config, [data], tmp_path / "run", robot(), resume=False, team=Team())
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["model"]["backbone"] == "vlm" and manifest["model"]["backbone_config"]["family"] == name
    assert manifest["model"]["head_config"]["context_dim"] == 32
    after = load_checkpoint(out).model.state_dict()
    assert set(after) == set(before)
    moved = [key for key in after if not torch.allclose(after[key], before[key].float(), atol=2e-3)]
    assert any("latents" in key or key.startswith("backbone.model") for key in moved), "the backbone learns too"
    policy = Policy.load(out)
    policy.warm_up()
    decision = policy.decide(observation())
    assert decision.chunk.positions.shape == (8, 14) and np.isfinite(decision.chunk.positions).all()
    other = policy.decide(observation(instruction="put it down"), initial_state=decision.refinement.state)
    assert not np.array_equal(other.chunk.positions, decision.chunk.positions)
    longer = dataclasses.replace(config, steps=3)
    train(longer, [data], tmp_path / "run", robot(), resume=True, team=Team())
    assert json.loads((out / "manifest.json").read_text())["training"]["step"] == 3


def test_a_configuration_file_names_the_family(tmp_path):
    file = tmp_path / "train.yaml"
    views = [{"name": camera.name, "width": SIDE, "height": SIDE} for camera in cameras()]
    file.write_text(json.dumps({"model": {"backbone": "smolvlm2", "pretrained": "/models/x", "cameras": views}}))
    config = TrainConfig.load(file)
    assert config.model.backbone == "smolvlm2" and config.model.cameras[0].width == SIDE


def test_what_is_not_there_is_refused_before_anything_is_trained(data, tmp_path):
    with pytest.raises(TrainingError, match="Nothing is downloaded here"):
        train(settings("", "smolvlm2"), [data], tmp_path / "a", robot(), resume=False, team=Team())
    with pytest.raises(CheckpointError, match="Did you mean 'smolvlm2'"):
        train(settings("", "smolvlm"), [data], tmp_path / "b", robot(), resume=False, team=Team())
