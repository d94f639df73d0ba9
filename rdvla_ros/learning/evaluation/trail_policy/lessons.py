"""Batches: trails as symbols or as seen, at the start and on the way."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from rdvla_ros.learning.evaluation.pictures.scenes import normalised
from rdvla_ros.learning.evaluation.trail_policy.paths import END_S, PressPaths
from rdvla_ros.learning.evaluation.trail_policy.sights import Sights
from rdvla_ros.model.context import HeadContext
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.normalization import ActionSpace
from rdvla_ros.sim.tasks.follow_trail import COLUMNS_M, JITTER_M, ROWS_M
from rdvla_ros.sim.trails import PADS, draw_trails, hops_to_end

LAG_S = 0.02  # of the measured joints behind their references
NOISE_RAD, FAR_NOISE_RAD, FAR_SHARE = 0.015, 0.03, 0.3  # a decision is not exact, and the next one starts from there
COLD_SHARE = 0.15  # of the batches on the way that begin from a drawn scratchpad


class PadTokens(nn.Module):
    """Symbols as tokens: what the eye is taught to see. Pad i has colour i."""

    def __init__(self, width: int):
        super().__init__()
        self.colours = nn.Embedding(PADS + 1, width)  # the last: a colour that there is no pad of
        self.mark = nn.Linear(width, width)
        self.hands = nn.Embedding(2, width)
        nn.init.normal_(self.hands.weight, std=0.3)
        self.place = nn.Sequential(nn.Linear(2, width), nn.GELU(), nn.Linear(width, width))
        self.instruction = nn.Parameter(0.5 * torch.randn(width))
        self.hidden = nn.Parameter(0.5 * torch.randn(width))

    def pads(self, following: Tensor, places: Tensor, hidden: Tensor) -> Tensor:
        """following, hidden (B, P), places (B, P, 2) -> (B, P, D)."""
        own = self.colours.weight[:PADS]
        seen = self.mark(self.colours(following)) + self.place(places) + self.hands((places[..., 0] > 0).long())
        return own + torch.where(hidden[..., None], self.hidden, seen)

    def start(self, colour: Tensor) -> Tensor:
        """(B,) -> (B, 1, D): what an instruction names."""
        return (self.colours(colour) + self.instruction).unsqueeze(1)


@dataclass(frozen=True)
class TrailBatch:
    """B scenes. route (B, P): the pad after 0, 1, .. hops; the start PADS: a colour that no pad has, the arms are to stay.
    rows: of PressPaths, (B, P, ROWS + 1, A). seen (B, P, D) or None: tokens of real pictures instead of symbols."""

    following: Tensor
    places: Tensor
    hidden: Tensor
    start: Tensor
    route: Tensor
    lengths: Tensor
    rows: Tensor
    time_s: Tensor
    seen: Tensor | None = None

    def pad_after(self, hops: int) -> Tensor:
        return self.route[:, min(hops, self.route.shape[1] - 1)]


class Lessons:
    """Everything that batches are made of."""

    def __init__(self, space: ActionSpace, paths: PressPaths, sights: Sights):
        self.space, self.paths, self.sights = space, paths, sights
        self._low, self._high = (torch.from_numpy(part).float() for part in (space.proprio.low, space.proprio.high))
        self._action_low, self._action_high = (torch.from_numpy(part).float() for part in (space.action.low, space.action.high))
        self._relative = torch.from_numpy(space.relative)
        at_start = sights.time_s == 0.0
        self._ways = torch.nonzero(~at_start).flatten()
        self._hops = torch.from_numpy(hops_to_end(sights.following.numpy()))
        self.tokens: Tensor | None = None  # (N, P, D) what the eye makes of the sights, once it can see

    def symbols(self, rng: np.random.Generator, lengths: np.ndarray, unknown_share: float = 0.04) -> TrailBatch:
        """Scenes at the start of an episode."""
        trails, count = draw_trails(rng, lengths), len(lengths)
        cells = np.argsort(rng.random((count, len(COLUMNS_M) * len(ROWS_M))), 1)[:, :PADS]
        centres = np.stack([np.array(COLUMNS_M)[cells % len(COLUMNS_M)], np.array(ROWS_M)[cells // len(COLUMNS_M)]], -1)
        places = torch.from_numpy(normalised(centres + rng.uniform(-JITTER_M, JITTER_M, centres.shape)))
        rows = self.paths.rows(places, (places[..., 0] > 0).long())
        start = torch.from_numpy(trails.start.copy())
        start = torch.where(torch.from_numpy(rng.random(count) < unknown_share), PADS, start)
        tensors = (torch.from_numpy(np.ascontiguousarray(part)) for part in (trails.following, trails.route, trails.lengths))
        following, route, of = tensors
        hidden = torch.zeros(count, PADS, dtype=torch.bool)
        return TrailBatch(following, places, hidden, start, route, of, rows, torch.zeros(count))

    def seen(self, rng: np.random.Generator, count: int, longest: int) -> tuple[TrailBatch, TrailBatch]:
        """Real pictures: scenes at the start, and the same with the arm on its way to the end of the trail that was named."""
        sights = self.sights
        way = self._ways[torch.from_numpy(rng.integers(len(self._ways), size=count))]
        start = way - 1
        following, places = sights.following[start], sights.places[start]
        route = _routes(following)  # (B, P, P): from every pad
        fits = (route[:, :, -1] == sights.pad[way][:, None]) & (self._hops[start] <= longest)
        choice = torch.where(fits, torch.from_numpy(rng.random(fits.shape)), torch.tensor(-1.0)).argmax(1)
        at = torch.arange(count)
        rows = self.paths.rows(places, (places[..., 0] > 0).long())
        common = following, places, sights.hidden[start], choice, route[at, choice], self._hops[start][at, choice], rows
        tokens = None if self.tokens is None else (self.tokens[start], self.tokens[way])
        first = TrailBatch(*common, torch.zeros(count), tokens and tokens[0])
        later = replace(TrailBatch(*common, sights.time_s[way], tokens and tokens[1]), hidden=sights.hidden[way])
        return first, later

    def on_the_way(self, batch: TrailBatch, rng: np.random.Generator, time_s: Tensor) -> TrailBatch:
        """The same scenes later: an arm hides some pads."""
        count = len(time_s)
        chance = 0.02 + 0.12 * time_s / END_S
        hidden = torch.from_numpy(rng.random((count, PADS))).float() < chance[:, None]
        return replace(batch, hidden=hidden, time_s=time_s, seen=None)

    def position(self, batch: TrailBatch, rng: np.random.Generator) -> Tensor:
        """(B, A) measured positions [policy units]: on the path to the end, or still at rest."""
        at = PressPaths.at(batch.rows, batch.time_s - LAG_S)
        found = at[torch.arange(len(at)), batch.route[:, -1]]
        found = torch.where((batch.start == PADS)[:, None], self.paths.rest, found)
        far = (torch.from_numpy(rng.random(len(found))) < FAR_SHARE) & (batch.time_s > 0.0)
        noise = torch.where(far, FAR_NOISE_RAD, NOISE_RAD)[:, None]
        return found + noise * torch.from_numpy(rng.standard_normal(found.shape)).float()

    def proprio(self, position: Tensor) -> Tensor:
        return (2.0 * (position - self._low) / (self._high - self._low) - 1.0).clamp(-1.0, 1.0)

    def targets(self, batch: TrailBatch, position: Tensor, length: int) -> Tensor:
        """(B, P, H, A): the normalised chunk to every pad."""
        chunk = self.paths.chunk(batch.rows, batch.time_s, length)
        stay = self.paths.rest.expand_as(chunk)
        chunk = torch.where((batch.start == PADS)[:, None, None, None], stay, chunk)
        offset = torch.where(self._relative, position, torch.zeros(()))[:, None, None]
        return 2.0 * (chunk - offset - self._action_low) / (self._action_high - self._action_low) - 1.0


def _routes(following: Tensor) -> Tensor:
    """(B, P) -> (B, P, P): from each pad, the pad after 0, 1, .. hops."""
    place = torch.arange(following.shape[1]).expand_as(following)
    route = [place]
    for _ in range(following.shape[1] - 1):
        route.append(following.gather(1, route[-1]))
    return torch.stack(route, 2)


@dataclass(frozen=True)
class Named:
    """What the backbone makes of the instructions, one row per colour: task (P + 1, T, D), latents (P + 1, Q, D)."""

    task: Tensor
    latents: Tensor


def encode_trail(head: RDVLAHead, tokens: PadTokens, named: Named, batch: TrailBatch, proprio: Tensor) -> HeadContext:
    pads = tokens.pads(batch.following, batch.places, batch.hidden) if batch.seen is None else batch.seen
    latents = torch.cat([named.latents[batch.start], pads, tokens.start(batch.start)], 1)
    (layer,) = head.config.context_layers
    return head.encode({layer: named.task[batch.start]}, {layer: latents}, proprio)
