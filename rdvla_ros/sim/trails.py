"""Trails: which pad leads to which. Nothing of places, colours or arms in here, only the graph, many scenes at a time.

Every pad leads to one pad. A pad that leads to itself is an end. A trail of `length` hops begins at the start and stops at an
end; length 0 means that the start is an end itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rdvla_ros.sim import SimulationError

PADS = 10
LONGEST = PADS - 2  # one pad is left over, and is an end of its own
OTHER_ENDS = 3  # ends besides the trail's, at most


@dataclass(frozen=True)
class Trails:
    """B scenes of P pads. following (B, P): the pad that each pad leads to. start, end (B,). route (B, P): the pad after
    0, 1, .. P - 1 hops from the start; behind the end it stays there. lengths (B,): hops from start to end."""

    following: np.ndarray
    start: np.ndarray
    end: np.ndarray
    route: np.ndarray
    lengths: np.ndarray

    def ends(self) -> np.ndarray:
        """(B, P) bool: the pads that lead to themselves."""
        return self.following == np.arange(self.following.shape[1])


def check_length(length: int, pads: int = PADS) -> int:
    """`length` as a trail's number of hops; SimulationError where `pads` pads have no room for it and one more end."""
    if isinstance(length, bool) or not isinstance(length, int | np.integer) or not 0 <= length <= pads - 2:
        raise SimulationError(
            f"Trail length: expected a whole number of hops from 0 to {pads - 2} ({pads} pads, one of them an end of another "
            f"trail), got {length!r}. Choose a shorter trail."
        )
    return int(length)


def draw_trails(rng: np.random.Generator, lengths: np.ndarray, pads: int = PADS) -> Trails:
    """One random scene per entry of `lengths` (B,).

    The trail of the instruction lies along a random order of the pads. Of the pads that are left over 1 to 3 are ends of
    other trails. Every end gets a pad that leads to it, where there is room: who looks for such an end must not have found the
    answer. Each pad that is left then leads to a random one: trails join, branch, and have every shape that there is room for.
    """
    lengths = np.array([check_length(int(length), pads) for length in lengths], dtype=np.int64)
    scenes, places = np.arange(len(lengths))[:, None], np.arange(pads)[None]
    order = np.argsort(rng.random((len(lengths), pads)), axis=1)
    leads_to = np.floor(rng.random((len(lengths), pads)) * places).astype(np.int64)  # to any pad that was placed before
    room = np.clip((pads - 1 - lengths) // 2, 1, OTHER_ENDS)
    lengths, ends = lengths[:, None], 1 + np.floor(rng.random((len(lengths), 1)) * room[:, None]).astype(np.int64)
    lonely = np.where(lengths == 0, lengths, lengths + 1)  # the first end to which the trail does not lead already
    follower = places - (lengths + ends + 1) + lonely
    leads_to = np.where(follower <= lengths + ends, np.maximum(follower, 0), leads_to)
    leads_to = np.where(places <= lengths + ends, places, leads_to)
    leads_to = np.where(places <= lengths, np.minimum(places + 1, lengths), leads_to)
    following = np.empty_like(order)
    following[scenes, order] = order[scenes, leads_to]
    route = order[scenes, np.minimum(places, lengths)]
    return Trails(following, order[:, 0], route[:, -1], route, lengths[:, 0])


def hops_to_end(following: np.ndarray) -> np.ndarray:
    """(B, P) -> (B, P): from every pad. SimulationError where a trail never ends."""
    place, hops = np.broadcast_to(np.arange(following.shape[1]), following.shape), np.zeros_like(following)
    for _ in range(following.shape[1]):
        onward = np.take_along_axis(following, place, 1)
        hops = hops + (onward != place)
        place = onward
    if (np.take_along_axis(following, place, 1) != place).any():
        raise SimulationError("Trails: expected every trail to stop at an end, got one that goes in a circle.")
    return hops
