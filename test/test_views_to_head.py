"""Views and words that go past the transformer to the head, and two views of one camera."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from policy_cases import observation, tiny_checkpoint

from rdvla_ros.model.backbones.compact import CameraInput, CompactBackbone
from rdvla_ros.model.checkpoint import load_checkpoint, save_checkpoint
from rdvla_ros.model.policy import Policy
from rdvla_ros.model.rdvla import RDVLA
from rdvla_ros.types import ObservationError


def with_view(cameras=(), words=1, **changes):
    """A tiny checkpoint whose backbone has one more view, of the camera that it sees already."""
    torch.manual_seed(3)
    old = tiny_checkpoint()
    config = old.model.backbone.config
    first = config.cameras[0]
    view = CameraInput("close", 24, 20, crop=(0.25, 0.25, 0.75, 0.75), keypoints=5, channels=first.channels, camera=first.name,
                       to_head=True)  # fmt: skip
    view = replace(view, **changes)
    config = replace(config, cameras=(*(config.cameras if cameras == () else cameras), view), head_text_tokens=words)
    return replace(old, model=RDVLA(CompactBackbone(config), old.model.head))


def states(checkpoint, images, text="the cube"):
    backbone = checkpoint.model.backbone.eval()
    ids = torch.tensor([checkpoint.tokenizer.encode(text)])
    with torch.no_grad():
        return backbone(images, ids, checkpoint.model.head.config.context_layers)


def pictures(checkpoint, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cameras = checkpoint.model.backbone.config.cameras
    return {c.name: torch.randint(256, (1, 3, c.height, c.width), generator=generator, dtype=torch.uint8) for c in cameras}


def test_keypoints_and_words_stand_beside_the_latents_of_every_layer():
    checkpoint = with_view()
    config = checkpoint.model.backbone.config
    assert config.head_tokens == 5
    task, latents = states(checkpoint, pictures(checkpoint))
    for layer in checkpoint.model.head.config.context_layers:
        assert latents[layer].shape[1] == config.latent_queries + 5 + 1
        assert torch.equal(latents[layer][:, -6:], latents[checkpoint.model.head.config.context_layers[0]][:, -6:])


def test_what_goes_past_the_transformer_changes_nothing_in_it():
    checkpoint = with_view()
    images = pictures(checkpoint)
    changed = {**images, "close": 255 - images["close"]}
    layer = checkpoint.model.head.config.context_layers[-1]
    (task, latents), (other_task, other) = states(checkpoint, images), states(checkpoint, changed)
    assert torch.equal(task[layer], other_task[layer])
    assert torch.equal(latents[layer][:, :-6], other[layer][:, :-6])
    assert not torch.equal(latents[layer][:, -6:-1], other[layer][:, -6:-1])
    assert torch.equal(latents[layer][:, -1], other[layer][:, -1])  # the words'


def test_where_every_view_goes_past_the_transformer_has_the_words():
    checkpoint = with_view(cameras=[])
    images = pictures(checkpoint)
    layer = checkpoint.model.head.config.context_layers[-1]
    task, _ = states(checkpoint, images)
    other, _ = states(checkpoint, images, "the the cube")
    assert task[layer].shape[1] == checkpoint.model.backbone.config.text_tokens
    assert not torch.equal(task[layer], other[layer])


def test_a_policy_with_two_views_of_a_camera_decides_saves_and_loads(tmp_path):
    checkpoint = with_view()
    policy = Policy(checkpoint)
    policy.warm_up(1)
    policy.reseed(1)
    chunk = policy.decide(observation()).chunk.positions
    loaded = Policy(load_checkpoint(save_checkpoint(tmp_path / "view", with_view(), "float32")))
    loaded.reseed(1)
    assert np.allclose(loaded.decide(observation()).chunk.positions, chunk, atol=1e-6)


def test_a_view_of_a_camera_that_is_not_there_names_the_camera():
    policy = Policy(with_view(camera="ceiling"))
    with pytest.raises(ObservationError, match="ceiling"):
        policy.decide(observation())
