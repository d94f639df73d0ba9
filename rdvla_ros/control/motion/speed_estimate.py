"""How fast joints are of which only positions are heard: J joints, controller units, times in seconds on one clock."""

from __future__ import annotations

from collections import deque

import numpy as np

from rdvla_ros.control.motion.limits import JointLimits

SPEED_S = (0.015, 0.1)  # positions so far apart in time say how fast a joint is
SPEED_NOISE = 0.05  # share of a joint's largest speed


class Speeds:
    """Over SPEED_S, and zero where it is within the noise of encoders."""

    def __init__(self, limits: JointLimits):
        self._limits = limits
        self._seen: deque[tuple[np.ndarray, float]] = deque(maxlen=64)

    def see(self, position: np.ndarray, at_s: float) -> None:
        if self._seen and not 0.0 < at_s - self._seen[-1][1] <= SPEED_S[1]:
            self._seen.clear()
        self._seen.append((position, at_s))

    def now(self, at_s: float) -> np.ndarray:
        """(J,) within the joints' limits."""
        rest = np.zeros(len(self._limits.names))
        if not self._seen or at_s - self._seen[-1][1] > SPEED_S[1]:
            return rest
        position, last_s = self._seen[-1]
        earlier = [seen for seen in self._seen if last_s - seen[1] >= SPEED_S[0]]
        if not earlier:
            return rest
        speed = (position - earlier[-1][0]) / (last_s - earlier[-1][1])
        speed = np.clip(speed, -self._limits.velocity, self._limits.velocity)
        return np.where(np.abs(speed) < SPEED_NOISE * self._limits.velocity, 0.0, speed)
