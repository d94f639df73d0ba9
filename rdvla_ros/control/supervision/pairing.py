"""Both arms or none: the parts of one decision, known by their common stamp, become one motion."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Part = TypeVar("Part")


@dataclass(frozen=True)
class Unpaired:
    """Parts that were given up: their stamp, the arms that came and the arms that did not."""

    stamp: Hashable
    came: tuple[str, ...]
    missing: tuple[str, ...]


class Pairing(Generic[Part]):
    """Collects one part per arm. Time comes in as an argument [s]; at most `depth` incomplete stamps are kept."""

    def __init__(self, arms: Sequence[str], *, timeout_s: float, depth: int = 4):
        self._arms = tuple(arms)
        self._timeout_s = timeout_s
        self._depth = depth
        self._waiting: dict[Hashable, tuple[float, dict[str, Part]]] = {}

    def add(self, arm: str, stamp: Hashable, part: Part, now_s: float) -> dict[str, Part] | None:
        """All parts in the arms' order once the last one is there; a second part for the same arm replaces the first."""
        if arm not in self._arms:
            return None
        since, parts = self._waiting.pop(stamp, (now_s, {}))
        parts[arm] = part
        if len(parts) == len(self._arms):
            return {name: parts[name] for name in self._arms}
        self._waiting[stamp] = (since, parts)
        return None

    def expired(self, now_s: float) -> list[Unpaired]:
        """Give up what has waited for longer than the timeout, and the oldest of too many."""
        over = [stamp for stamp, (since, _) in self._waiting.items() if now_s - since > self._timeout_s]
        over += [stamp for stamp in list(self._waiting)[: max(0, len(self._waiting) - self._depth)] if stamp not in over]
        return [self._give_up(stamp) for stamp in over]

    def clear(self) -> None:
        self._waiting.clear()

    def _give_up(self, stamp: Hashable) -> Unpaired:
        _, parts = self._waiting.pop(stamp)
        came = tuple(arm for arm in self._arms if arm in parts)
        return Unpaired(stamp, came, tuple(arm for arm in self._arms if arm not in parts))
