"""The new view's stem learns to see what the symbols say, and the new text token to name it. Signals of training only."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from rdvla_ros.learning.evaluation.pictures.seeing import MAP_WEIGHT, cells_of, disturbed
from rdvla_ros.learning.evaluation.trail_policy.lessons import PadTokens
from rdvla_ros.learning.evaluation.trail_policy.sights import Sights
from rdvla_ros.model.backbones.compact import CameraStem, TextPool
from rdvla_ros.model.tokenizer import WordTokenizer
from rdvla_ros.sim.tasks.follow_trail import COLOURS, INSTRUCTION
from rdvla_ros.sim.trails import PADS

SAVE_EVERY = 50
NO_COLOUR = "unheard"  # stands for any word that was never trained


class EyeTrainer:
    """Steps follow from (stage, step): a run that is taken up takes those of an unbroken one."""

    def __init__(self, stem: CameraStem, tokens: PadTokens, sights: Sights, steps: int, batch: int = 48):
        self.stem, self.tokens, self.sights = stem, tokens, sights
        self.steps, self.step, self._batch = steps, 0, batch
        self._maps: list[Tensor] = []
        self._hook = stem.maps.register_forward_hook(lambda module, given, found: self._maps.append(found))
        self.optimiser = torch.optim.AdamW(stem.parameters(), lr=2e-3, weight_decay=0.01, betas=(0.9, 0.95))

    def take_step(self) -> float:
        """Share of the tokens' variance that is not explained."""
        rng = np.random.default_rng((17, self.step))
        at = torch.from_numpy(rng.integers(len(self.sights), size=self._batch))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        self._maps.clear()
        found = self.stem(disturbed(self.sights.views[at], generator).contiguous(memory_format=torch.channels_last))
        maps = self._maps.pop()
        hidden = self.sights.hidden[at]
        with torch.no_grad():
            wanted = self.tokens.pads(self.sights.following[at], self.sights.places[at], hidden)
        unexplained = F.mse_loss(found, wanted) / wanted.var(dim=(0, 1)).mean()
        cells = cells_of(self.sights.places[at], maps.shape[-2:])
        where = F.cross_entropy(maps.flatten(2)[~hidden], cells[~hidden])
        (unexplained + MAP_WEIGHT * where).backward()
        torch.nn.utils.clip_grad_norm_(self.stem.parameters(), 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, (self.step + 1) / 50, max(0.02, 3.0 * (1.0 - self.step / self.steps)))
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return float(unexplained.detach())

    def run(self, path: Path) -> None:
        if path.is_file():
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.stem.load_state_dict(state["stem"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step = state["step"]
        progress, recent = tqdm(total=self.steps, initial=self.step, desc="seeing", unit="step", mininterval=2.0), []
        while self.step < self.steps:
            with sdpa_kernel(SDPBackend.MATH):
                recent.append(self.take_step())
            progress.update()
            progress.set_postfix_str(f"{np.mean(recent[-20:]):.4f}", refresh=False)
            if self.step % SAVE_EVERY == 0 or self.step == self.steps:
                part = path.with_name(f".{path.name}")
                torch.save({"stem": self.stem.state_dict(), "optimiser": self.optimiser.state_dict(), "step": self.step}, part)
                os.replace(part, path)
        progress.close()
        self._hook.remove()


def instruction_ids(tokenizer: WordTokenizer) -> Tensor:
    """(P + 1, N): the instruction for each colour, then with a word that was never trained."""
    return torch.tensor([tokenizer.encode(INSTRUCTION.format(colour)) for colour in (*COLOURS, NO_COLOUR)])


def teach_words(pool: TextPool, tokenizer: WordTokenizer, tokens: PadTokens, steps: int = 400) -> float:
    """The text token of each instruction becomes the symbols'; returns the largest share of variance that is not explained."""
    ids = instruction_ids(tokenizer)
    with torch.no_grad():
        wanted = tokens.start(torch.arange(PADS + 1)).squeeze(1)
    optimiser = torch.optim.Adam(pool.parameters(), lr=5e-3)
    for step in range(steps):
        error = (pool(ids)[:, 0] - wanted).square().mean(1) / wanted.var(0).mean()
        optimiser.zero_grad()
        error.mean().backward()
        optimiser.param_groups[0]["lr"] = 5e-3 * (1.0 - step / steps)
        optimiser.step()
    return float(error.detach().max())
