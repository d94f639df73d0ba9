"""The published way of running a whole decision, written plainly: what `rdvla bench policy` compares with.

Every image goes through both towers alone, every block and every layer is computed, the hidden states of all layers and
tokens are stacked, and logits are made that nobody reads.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rdvla_ros.bench.head.baseline import Baseline
from rdvla_ros.model.backbones.prismatic import CHANNELS, PrismaticBackbone, language_model
from rdvla_ros.model.backbones.prismatic_config import PrismaticConfig, TextConfig
from rdvla_ros.model.backbones.vit import Block, VisionTower
from rdvla_ros.model.halting import FixedDepth
from rdvla_ros.model.rdvla import RDVLA


class PlainBackbone(nn.Module):
    """The weights of `fast`, shared, with the blocks and layers above them that `fast` leaves out."""

    def __init__(self, fast: PrismaticBackbone) -> None:
        super().__init__()
        self.fast, self.config = fast, fast.config
        reference = next(fast.parameters())
        with torch.device("meta"):
            self.language = language_model(self.config.text, self.config.text.layers, True)
        fresh = language_model(_one_layer(self.config), 1, True)
        kept = len(fast.language.layers)
        for index in range(kept, self.config.text.layers):  # the same random numbers again: nobody reads what becomes of them
            self.language.layers[index] = copy.deepcopy(fresh.layers[0])
            self.language.layers[index].self_attn.layer_idx = index  # its place in a cache of keys and values
        for index in range(kept):
            self.language.layers[index] = fast.language.layers[index]
        self.language.embed_tokens, self.language.norm = fast.language.embed_tokens, fresh.norm
        self.language.rotary_emb = fast.language.rotary_emb
        self.last_blocks = nn.ModuleList(Block(tower.config) for tower in (fast.dino, fast.siglip))
        self.to(reference.device, reference.dtype).requires_grad_(False)

    def tower(self, tower: VisionTower, last: Block, image: Tensor) -> Tensor:
        x = tower.patch_embed(image) + tower.pos_embed
        prefix = [getattr(tower, name) for name in ("cls_token", "reg_token") if hasattr(tower, name)]
        x = torch.cat([*prefix, x], 1)
        for block in tower.blocks:
            x = block(x)
        last(x)
        return x[:, tower.config.prefix :]

    def see(self, pixels: Tensor) -> Tensor:
        tokens = []
        for image in pixels.split(CHANNELS, 1):
            parts = zip((self.fast.dino, self.fast.siglip), self.last_blocks, image.split(3, 1), strict=True)
            tokens.append(self.fast.projector(torch.cat([self.tower(*part) for part in parts], -1)))
        return torch.cat(tokens, 1)

    def think(self, vision: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """-> hidden states (L + 1, T, D) of all layers, and the last one for the logits."""
        text = self.language.embed_tokens(ids)
        stop = self.language.embed_tokens(torch.full((1, 1), 2, device=ids.device))
        sequence = torch.cat([text[:, :1], vision, text[:, 1:], self.fast.latents[None], stop], 1)
        output = self.language(inputs_embeds=sequence, use_cache=False, output_hidden_states=True)
        return torch.stack([state[0] for state in output.hidden_states]), output.last_hidden_state

    def states(self, hidden: Tensor, patches: int, tokens: int) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        first = patches + tokens - 1
        last = first + self.config.latent_queries
        layers = self.config.read_layers
        return {i: hidden[None, i, :patches] for i in layers}, {i: hidden[None, i, first:last] for i in layers}


def _one_layer(config: PrismaticConfig) -> TextConfig:
    return replace(config.text, layers=1, vocabulary=8)


class Clock:
    """Seconds of each stage of one decision."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, {}

    def __call__(self, stage: str, function: Callable[[], Any]) -> Any:
        self._wait()
        started = time.perf_counter()
        result = function()
        self._wait()
        self.seconds[stage] = time.perf_counter() - started
        return result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@torch.inference_mode()
def plain_decision(plain: PlainBackbone, head: Baseline, inputs: Any, iterations: int) -> tuple[Tensor, dict[str, float]]:
    """(chunk (1, H, A), seconds per stage)."""
    clock = Clock(inputs.ids.device)
    pixels = clock("preprocess", lambda: inputs.pixels(plain.fast))
    vision = clock("vision", lambda: plain.see(pixels))
    hidden, last = clock("language", lambda: plain.think(vision, inputs.ids))
    clock("logits", lambda: last @ plain.language.embed_tokens.weight.T)
    task, latent = plain.states(hidden, vision.shape[1], inputs.ids.shape[1])
    actions = clock("head", lambda: head.run(task, latent, inputs.proprio, inputs.start, iterations)[0])
    return actions, clock.seconds


@torch.inference_mode()
def fast_decision(model: RDVLA, inputs: Any, iterations: int) -> tuple[Tensor, dict[str, float]]:
    """The same of this package's model."""
    clock, backbone, head = Clock(inputs.ids.device), model.backbone, model.head
    pixels = clock("preprocess", lambda: inputs.pixels(backbone))
    vision = clock("vision", lambda: backbone.see(pixels))
    states = clock("language", lambda: backbone.fuse(vision, backbone.text(inputs.ids), backbone.config.read_layers))
    context = clock("encode", lambda: head.encode(*states, inputs.proprio))
    refinement = clock("refine", lambda: head.refine(context, FixedDepth(iterations), inputs.start))
    return refinement.actions, clock.seconds
