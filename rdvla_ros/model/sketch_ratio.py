"""What earlier decisions have shown of how the change of sketches goes with the change of chunks.

A stopping rule that may look at chunks sparingly (see watch.py) predicts a chunk's change from its sketch's. The ratio of the
two differs from head to head, and how steady it is decides how near to the level a prediction may come without a look.
Both are learnt here from the looks that are made anyway. They decide which chunks are decoded, not what is computed.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

REMEMBERED = 64  # comparisons; older ones are forgotten
ENOUGH = 8  # comparisons from which the spread is known
DEVIATIONS = 4.0  # of the logarithm of the ratio: what lies beyond is taken for impossible
NARROWEST = 1.2  # least margin: a spread seen over few decisions is not all there is
WIDEST = 4.0


class Expectation(NamedTuple):
    """What a decision starts with.

    ratio: chunk's measure per sketch's, None where unknown. margin: a change predicted further above the level is surely above.
    firm: seen often enough that a decision need not check the ratio itself.
    """

    ratio: float | None
    margin: float
    firm: bool


class Experience:
    """The last comparisons of chunk and sketch; one per head and rule, fed after every refinement.

    ratio: what to expect before anything was seen (None: unknown). Not for several threads at a time.
    """

    def __init__(self, ratio: float | None = None) -> None:
        self.initial_ratio = ratio
        self._logs: deque[float] = deque(maxlen=REMEMBERED)

    def add(self, ratios: Iterable[float]) -> None:
        """Ratios of one refinement; what is not a positive number says nothing."""
        self._logs.extend(math.log(ratio) for ratio in ratios if 0 < ratio < math.inf)

    def expect(self, margin: float) -> Expectation:
        """margin: of the rule, until enough was seen."""
        if not self._logs:
            return Expectation(self.initial_ratio, margin, False)
        middle = statistics.median(self._logs)
        if len(self._logs) < ENOUGH:
            return Expectation(math.exp(middle), margin, False)
        spread = math.sqrt(statistics.fmean((log - middle) ** 2 for log in self._logs))
        return Expectation(math.exp(middle), min(max(math.exp(min(DEVIATIONS * spread, 10.0)), NARROWEST), WIDEST), True)

    def forget(self) -> None:
        """Start anew: the same observations then lead to the same looks again."""
        self._logs.clear()

    def snapshot(self) -> tuple[float, ...]:
        """For `restore`."""
        return tuple(self._logs)

    def restore(self, snapshot: Iterable[float]) -> None:
        self._logs.clear()
        self._logs.extend(snapshot)

    def __repr__(self) -> str:
        return f"Experience({self.initial_ratio!r}, {len(self._logs)} comparisons)"


def expectation(rule) -> Expectation:
    """What a halting rule expects of this head (its `ratio`: a number, an Experience or None)."""
    if isinstance(rule.ratio, Experience):
        return rule.ratio.expect(rule.margin)
    return Expectation(rule.ratio, rule.margin, False)
