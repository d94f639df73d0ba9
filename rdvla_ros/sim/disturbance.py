"""Disturbed execution of the expert: where its demonstrations go wrong a little, and recover.

The disturbance moves the reference that is executed; labels come from the undisturbed expert, asked in the states that
are visited. So the data shows how to come back, and no label contains noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rdvla_ros.sim.kinematics import JOINTS_PER_ARM
from rdvla_ros.sim.scene import ARMS, JOINT_NAMES

DRIFT_TIME_S = 0.35  # correlation time of the velocity noise
IS_GRIPPER = np.array([name.endswith("gripper") for name in JOINT_NAMES])


@dataclass(frozen=True)
class DisturbanceConfig:
    """How much goes wrong. drift: velocity noise of the arm joints [rad/s]; probabilities per episode."""

    drift: float = 0.12
    start_offset: float = 0.10  # [rad] of the arm joints at the start
    quiet_share: float = 0.3  # episodes without drift
    pause_chance: float = 0.3
    fumble_chance: float = 0.35  # a gripper opens or closes by itself for a moment
    duration_s: float = 6.0  # pauses and fumbles begin within it


# Millimetres decide about an insertion: what a cube forgives would leave no peg in its hole.
DISTURBANCES = {
    "transfer_cube": DisturbanceConfig(),
    "insertion": DisturbanceConfig(drift=0.06, start_offset=0.08),
    "follow_trail": DisturbanceConfig(drift=0.06, duration_s=3.0),  # a drift that presses a wrong pad ends the episode
}


class Disturbance:
    """One episode's disturbance, drawn from a seed: a start offset, drift in bursts, at most one pause and one fumble."""

    def __init__(self, config: DisturbanceConfig, rng: np.random.Generator):
        self._rng = rng
        self._scale = 0.0 if rng.random() < config.quiet_share else config.drift * rng.uniform(0.3, 1.2)
        self._noise = np.zeros(len(JOINT_NAMES))
        self._burst = rng.uniform(0.5, 2.0)  # [s] until the drift is switched on or off
        self._drifting = bool(rng.random() < 0.5)
        self.start_offset = np.where(IS_GRIPPER, 0.0, rng.uniform(-1.0, 1.0, len(JOINT_NAMES)) * config.start_offset)
        if rng.random() < 0.2:  # some episodes begin with a gripper that stands open
            self.start_offset[IS_GRIPPER] = rng.uniform(0.0, 0.035, len(ARMS))
        self._pause = _span(rng, config.pause_chance, config.duration_s, (0.2, 0.6))
        self._fumble = _span(rng, config.fumble_chance, config.duration_s, (0.2, 0.5))
        self._fumble_column = JOINTS_PER_ARM * int(rng.integers(len(ARMS))) + JOINTS_PER_ARM - 1
        self._fumble_opening = float(rng.integers(2))

    def apply(self, time_s: float, before: np.ndarray, after: np.ndarray, period_s: float) -> np.ndarray:
        """The reference to execute instead of `after`, (14,) policy units; `before` is the one of the last period."""
        if self._pause[0] <= time_s < self._pause[1]:
            return before
        self._burst -= period_s
        if self._burst < 0.0:
            self._drifting, self._burst = not self._drifting, self._rng.uniform(0.4, 1.5)
        target = self._scale if self._drifting else 0.0
        decay = np.exp(-period_s / DRIFT_TIME_S)
        kick = self._rng.standard_normal(len(JOINT_NAMES)) * target * np.sqrt(1.0 - decay**2)
        self._noise = np.where(IS_GRIPPER, 0.0, decay * self._noise + kick)
        result = after + self._noise * period_s
        if self._fumble[0] <= time_s < self._fumble[1]:
            old = before[self._fumble_column]
            result[self._fumble_column] = np.clip(self._fumble_opening, old - 2.2 * period_s, old + 2.2 * period_s)
        return result


def _span(rng: np.random.Generator, chance: float, latest_s: float, length_s: tuple[float, float]) -> tuple[float, float]:
    """(begin, end) [s] of an event that happens with `chance`; an empty span otherwise."""
    happens, begin, length = rng.random() < chance, rng.uniform(0.0, latest_s), rng.uniform(*length_s)
    return (begin, begin + length) if happens else (0.0, 0.0)
