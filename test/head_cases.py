"""Published folders and inputs of random weights and reduced sizes, for the tests of the head."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from head_oracle import Oracle, OracleConfig, random_weights

SMALL = OracleConfig(hidden_dim=32, num_heads=4, prelude=(1,), core=(3, 3), coda=(3,), chunk_length=8, action_dim=7,
                     proprio_dim=5, published_rotary=True)


def write_published_folder(folder: Path, config: OracleConfig, head: dict, projector: dict, *, step="40000",
                           prefix="model.", **settings) -> Path:
    """A folder laid out as the published ones are."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({prefix + name: tensor for name, tensor in head.items()}, folder / f"action_head--{step}_checkpoint.pt")
    module = "module." if prefix.startswith("module.") else ""
    torch.save({module + name: tensor for name, tensor in projector.items()},
               folder / f"proprio_projector--{step}_checkpoint.pt")
    values = {"hidden_dim": config.hidden_dim, "num_heads": config.num_heads, "prelude_vlm_layers": list(config.prelude),
              "recurrent_vlm_layers": list(config.core), "coda_vlm_layers": list(config.coda),
              "action_chunk_len": config.chunk_length, "action_dim": config.action_dim, "mean_recurrence": 32,
              "backprop_depth": 8, "init_std": 0.632, "rms_norm_eps": config.eps, "rope_base": config.rope_base,
              "_type": "recurrent", **settings}
    (folder / f"action_head_config--{step}_checkpoint.json").write_text(json.dumps(values))
    return folder


def random_inputs(config: OracleConfig, batch: int, seed: int, vision: int = 12, latents: int = 5,
                  dtype=torch.float32) -> tuple[dict, dict, torch.Tensor, torch.Tensor]:
    """(task_states, latent_states, proprio, initial state)"""
    generator = torch.Generator().manual_seed(seed)
    layers = sorted({*config.prelude, *config.core, *config.coda})

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    return ({i: draw(batch, vision, config.hidden_dim) for i in layers},
            {i: draw(batch, latents, config.hidden_dim) for i in layers},
            draw(batch, config.proprio_dim), 0.6 * draw(batch, config.chunk_length, config.hidden_dim))


def oracle_case(config: OracleConfig, batch: int, seed: int, **sizes):
    """(head tensors, projector tensors, inputs, Oracle) that belong together."""
    head, projector = random_weights(config, seed)
    task, latent, proprio, state = random_inputs(config, batch, seed + 1, **sizes)
    return head, projector, (task, latent, proprio, state), Oracle(head, projector, config, task, latent, proprio)
