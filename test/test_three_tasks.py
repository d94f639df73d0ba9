"""Two heads become one: what the sum keeps, and a tiny run of its training."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from test_trail_policy import made_up_paths, made_up_sights, parts  # noqa: F401
from torch import nn

from rdvla_ros.learning.config import DepthSampler, TrainingError
from rdvla_ros.learning.evaluation.three_tasks.build import free_directions, rescale_proprio
from rdvla_ros.learning.evaluation.three_tasks.direct_sum import Sizes, direct_sum, norms_of
from rdvla_ros.learning.evaluation.three_tasks.observed import Observed, joined
from rdvla_ros.learning.evaluation.three_tasks.training import JointTrainer, KnownSettings, Teacher
from rdvla_ros.learning.evaluation.three_tasks.widened import wide_config, widened
from rdvla_ros.learning.evaluation.trail_policy.lessons import Lessons, PadTokens
from rdvla_ros.learning.evaluation.trail_policy.training import Settings
from rdvla_ros.model.config import HeadConfig
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.normalization import Scaler
from rdvla_ros.sim.trails import PADS

JOINTS, CONTEXT, ROWS, LATENTS, PATCHES, NARROW = 14, 24, 4, 2, 3, 16
KNOWN = HeadConfig(
    hidden_dim=24, num_heads=3, prelude_layers=(1,), core_layers=(2,), coda_layers=(2,), chunk_length=ROWS, action_dim=JOINTS,
    proprio_dim=JOINTS, mean_recurrence=1,
)  # fmt: skip


def tokens_of(count: int) -> tuple[dict, dict]:
    generator = torch.Generator().manual_seed(3)
    shapes = (PATCHES, LATENTS)
    return tuple({layer: torch.randn(count, n, CONTEXT, generator=generator) for layer in (1, 2)} for n in shapes)


def decided(head: RDVLAHead, task: dict, latents: dict) -> torch.Tensor:
    proprio = torch.zeros(len(task[1]), JOINTS)
    with torch.no_grad():
        context = head.encode(task, latents, proprio)
        state = head.initial_state(len(proprio), torch.Generator().manual_seed(5))
        for k in range(3):
            state = head.iterate(context, state, k)
        return head.decode(context, state)


def quiet(head: RDVLAHead) -> RDVLAHead:
    """Nothing of it moves: all its rows stay zero."""
    with torch.no_grad():
        head.action_queries.zero_()
        head.adapter_state.weight.zero_()
        for layer in (*head.prelude, *head.core, *head.coda):
            for part in (layer.o_self, layer.o_cross, layer.ffn_down):
                part.weight.zero_()
        head.output.bias.fill_(0.25)
    return head


def test_a_head_beside_one_that_says_nothing_decides_as_alone():
    torch.manual_seed(0)
    first, second = RDVLAHead(KNOWN), quiet(RDVLAHead(wide_config(KNOWN, 16)))
    for layer in (*first.prelude, *first.core, *first.coda):
        nn.init.constant_(layer.gate, 0.4)
    second.proprio.load_state_dict(first.proprio.state_dict())
    task, latents = tokens_of(5)

    def run(head: RDVLAHead) -> None:
        decided(head, task, latents)

    sizes = norms_of(first, run)
    ones = dict.fromkeys(sizes, 1.0)
    exact = Sizes(sizes, dict.fromkeys(sizes, 0.0), sizes, ones)
    both = direct_sum(first, second, exact, torch.full((JOINTS,), 0.25))
    assert both.config.hidden_dim == 40 and both.config.num_heads == 5
    # The quiet half is zero after every norm, so the common rms is the first one's, by a factor that the weights make up for.
    with torch.no_grad():
        both.action_queries[:, 24:] = 0.0
        alone, proprio = first.encode(task, latents, torch.zeros(5, JOINTS)), torch.zeros(5, JOINTS)
        state = first.initial_state(5, torch.Generator().manual_seed(5))
        together = torch.cat([state, torch.zeros(5, ROWS, 16)], 2)
        context = both.encode(task, latents, proprio)
        for k in range(3):
            state, together = first.iterate(alone, state, k), both.iterate(context, together, k)
        assert torch.allclose(both.decode(context, together), first.decode(alone, state), atol=2e-3)


def test_heads_of_other_rows_are_refused():
    with pytest.raises(TrainingError, match="same rows"):
        direct_sum(RDVLAHead(KNOWN), RDVLAHead(dataclasses.replace(KNOWN, scratchpad_rows=1)), None, torch.zeros(JOINTS))


def test_joints_in_another_scale_are_read_as_before():
    torch.manual_seed(1)
    head, position = RDVLAHead(KNOWN), np.linspace(-0.4, 0.7, JOINTS)
    before, after = (Scaler(np.full(JOINTS, low), np.full(JOINTS, high)) for low, high in ((-0.5, 1.0), (-1.0, 1.5)))
    with torch.no_grad():
        wanted = head.proprio(torch.from_numpy(before.normalise(position)).float())
        rescale_proprio(head, before, after)
        assert torch.allclose(head.proprio(torch.from_numpy(after.normalise(position)).float()), wanted, atol=1e-5)


def test_a_tiny_run_learns_all_three(parts):  # noqa: F811
    """The whole chain: a one-row head of trails widened, made one with another, a few steps; the known half's error falls."""
    torch.manual_seed(0)
    _, checkpoint, _, _ = parts
    lessons = Lessons(checkpoint.space, made_up_paths(), made_up_sights())
    narrow = RDVLAHead(
        HeadConfig(
            hidden_dim=NARROW, num_heads=2, prelude_layers=(1,), core_layers=(1,), coda_layers=(1,), chunk_length=8,
            action_dim=JOINTS, proprio_dim=JOINTS, scratchpad_rows=1, ffn_multiple=4,
        )
    )  # fmt: skip
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.standard_normal((40, 2, PATCHES + LATENTS, CONTEXT))).half()
    observed = Observed(
        tokens[:, :, :PATCHES], tokens[:, :, PATCHES:], 0.2 * torch.from_numpy(rng.standard_normal((40, JOINTS))).float(),
        (torch.arange(40) - 1).clamp(min=0),
    )  # fmt: skip
    directions = free_directions(observed.latents.flatten(0, 2).float(), NARROW)
    assert torch.allclose(directions.T @ directions, torch.eye(NARROW), atol=1e-4)
    first = RDVLAHead(KNOWN)
    wide = widened(narrow, wide_config(KNOWN, 16), directions)
    ones = dict.fromkeys(norms_of(first, lambda head: decided(head, *tokens_of(2))), 1.0)
    joint = direct_sum(first, wide, Sizes(ones, ones, ones, ones), torch.zeros(JOINTS))
    settings = Settings(steps=6, batch=2, depth=DepthSampler(mean=2.0, shallow_fraction=0.0, limit=4), seen_share=0.0)
    naming = nn.Linear(joint.config.hidden_dim, 2 * NARROW)
    trainer = JointTrainer(joint, PadTokens(NARROW), lessons, settings, naming, directions, observed, seed=2)
    known = joined([observed, observed.with_tokens(torch.zeros(40, 0, CONTEXT))])
    assert known.before[40] == 40 and known.before[41] == 40
    known = known.with_tokens(torch.zeros(80, PADS + 1, CONTEXT))
    trainer.teach(Teacher(first, PADS + 1, KnownSettings(batch=16)), known, torch.arange(80))
    before = trainer.error(joint, torch.arange(80))
    losses = [trainer.take_step() for _ in range(6)]
    assert {"start", "naming", "way", "known"} == set(losses[0])
    assert trainer.error(joint, torch.arange(80)) < before
