"""Published folders and inputs of random weights and reduced sizes, for the tests of the head."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from head_oracle import Oracle, OracleConfig, random_weights

from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.published import load_head

SMALL = OracleConfig(
    hidden_dim=32,
    num_heads=4,
    prelude=(1,),
    core=(3, 3),
    coda=(3,),
    chunk_length=8,
    action_dim=7,
    proprio_dim=5,
    published_rotary=True,
)


def write_published_folder(
    folder: Path, config: OracleConfig, head: dict, projector: dict, *, step="40000", prefix="model.", **settings
) -> Path:
    """A folder laid out as the published ones are."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({prefix + name: tensor for name, tensor in head.items()}, folder / f"action_head--{step}_checkpoint.pt")
    module = "module." if prefix.startswith("module.") else ""
    torch.save({module + name: tensor for name, tensor in projector.items()}, folder / f"proprio_projector--{step}_checkpoint.pt")
    values = {
        "hidden_dim": config.hidden_dim,
        "num_heads": config.num_heads,
        "prelude_vlm_layers": list(config.prelude),
        "recurrent_vlm_layers": list(config.core),
        "coda_vlm_layers": list(config.coda),
        "action_chunk_len": config.chunk_length,
        "action_dim": config.action_dim,
        "mean_recurrence": 32,
        "backprop_depth": 8,
        "init_std": 0.632,
        "rms_norm_eps": config.eps,
        "rope_base": config.rope_base,
        "_type": "recurrent",
        **settings,
    }
    (folder / f"action_head_config--{step}_checkpoint.json").write_text(json.dumps(values))
    return folder


def random_inputs(
    config: OracleConfig, batch: int, seed: int, vision: int = 12, latents: int = 5, dtype=torch.float32
) -> tuple[dict, dict, torch.Tensor, torch.Tensor]:
    """(task_states, latent_states, proprio, initial state)"""
    generator = torch.Generator().manual_seed(seed)
    layers = sorted({*config.prelude, *config.core, *config.coda})

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    return (
        {i: draw(batch, vision, config.hidden_dim) for i in layers},
        {i: draw(batch, latents, config.hidden_dim) for i in layers},
        draw(batch, config.proprio_dim),
        0.6 * draw(batch, config.chunk_length, config.hidden_dim),
    )


def oracle_case(config: OracleConfig, batch: int, seed: int, converging: bool = False, **sizes):
    """(head tensors, projector tensors, inputs, Oracle) that belong together.

    converging: weights under which the chunk settles as trained ones make it (its change shrinks with every iteration).
    """
    head, projector = random_weights(config, seed, scale=0.4 if converging else 1.0)
    if converging:
        head["adapter.weight"][:, : config.hidden_dim] *= 0.5
    task, latent, proprio, state = random_inputs(config, batch, seed + 1, **sizes)
    return head, projector, (task, latent, proprio, state), Oracle(head, projector, config, task, latent, proprio)


def one_row(inputs, row: int):
    """The inputs of one batch row, as a batch of one."""
    task, latent, proprio, state = inputs
    return (
        {i: t[row : row + 1] for i, t in task.items()},
        {i: t[row : row + 1] for i, t in latent.items()},
        proprio[row : row + 1],
        state[row : row + 1],
    )


def load_case(folder: Path, config: OracleConfig, head: dict, projector: dict) -> RDVLAHead:
    """The package's head with the oracle's weights, by way of a published folder."""
    loaded = load_head(write_published_folder(folder, config, head, projector))
    loaded.requires_grad_(False)
    if not config.published_rotary:
        loaded = with_config(loaded, rotary_form="standard")
    return loaded


def with_config(head: RDVLAHead, **changes) -> RDVLAHead:
    """The same weights under a changed configuration."""
    other = RDVLAHead(replace(head.config, **changes)).to(head.dtype).eval().requires_grad_(False)
    other.load_state_dict(head.state_dict())
    return other


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.double() - expected.double()).abs().max() / expected.double().abs().max())
