"""What can be wrong with decisions although each of them is legal: the same one again and again, or none that settles.

H = steps of a chunk, A = joints.
"""

from __future__ import annotations

from collections import deque

import numpy as np

SAME = 1e-9  # [policy units] chunks that differ by less are the same


class ConstantOutput:
    """A network that does not respond: `limit` decisions in a row ask for the same, though what they saw differed.

    The same means the same places, or the same steps from wherever the joints are. A residual of 0 is no sign of certainty
    then. limit 0: nothing is ever said.
    """

    def __init__(self, limit: int = 5):
        self._limit = limit
        self._seen: deque[tuple[np.ndarray, np.ndarray, int]] = deque(maxlen=max(2, limit))

    def see(self, chunk: np.ndarray, observed: np.ndarray, seen: int) -> str:
        """chunk (H, A), observed (A,) joint positions, both in policy units; seen: digest of the images. A sentence or empty."""
        self._seen.append((chunk, observed, seen))
        if not self._limit or len(self._seen) < self._limit or len({c.shape for c, _, _ in self._seen}) > 1:
            return ""
        inputs = {(observed.tobytes(), seen) for _, observed, seen in self._seen}
        if len(inputs) < len(self._seen):
            return ""
        places = np.stack([chunk for chunk, _, _ in self._seen])
        steps = np.stack([chunk - observed for chunk, observed, _ in self._seen])
        if min(np.ptp(places, axis=0).max(), np.ptp(steps, axis=0).max()) > SAME:
            return ""
        return (
            f"The last {len(self._seen)} decisions asked for exactly the same, whatever was observed: the network does not "
            "respond (dead weights or constant output)"
        )

    def forget(self) -> None:
        self._seen.clear()
