"""How smooth a controller's reference is, by the measures of ros2_control_demos' example 19 (pull request 1159, of 2026-08).

That example sends positions-only chunks of a mocked VLA policy into a joint_trajectory_controller and judges its reference:
a velocity that changes from one report to the next by more than three times what the reported acceleration explains, and 0.05
rad/s, is a step; a seam at which it changes by more than 0.15 rad/s is its "known limitation". Written anew here, with three
differences: times are those at which the controller sampled, not those at which a report arrived; the largest of all seams
counts, not one; and reports between which an update is missing say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rdvla_ros.bench.controllers.states import SECOND, States, differences

STEP_FACTOR, STEP_LEAST = 3.0, 0.05  # of the velocity [rad/s]
SEAM_LIMIT = 0.15  # [rad/s]
MISSING = 1.5  # periods between two reports
BEFORE_NS, AFTER_NS = SECOND // 5, SECOND // 4  # of a seam


@dataclass(frozen=True)
class Smoothness:
    """Over all joints [rad, s]. velocity_jump: largest change between two reports; expected_jump: largest reported acceleration
    times their distance. seam_jump: the same, near a seam. difference_acceleration: second difference of the positions."""

    velocity: float
    acceleration: float
    difference_acceleration: float
    velocity_jump: float
    expected_jump: float
    seam_jump: float

    @property
    def steps(self) -> bool:
        return self.velocity_jump > STEP_FACTOR * self.expected_jump + STEP_LEAST

    @property
    def seams_step(self) -> bool:
        return self.seam_jump > SEAM_LIMIT


def smoothness(states: States, times_ns: np.ndarray, seams_ns: Sequence[int]) -> Smoothness:
    """seams_ns: when a message replaced a motion."""
    gaps_s = np.diff(times_ns) / SECOND
    period_s = float(np.median(gaps_s))
    jumps = np.where(gaps_s <= MISSING * period_s, np.abs(np.diff(states.velocity, axis=0)).max(axis=1), 0.0)
    acceleration = float(np.nanmax(np.abs(states.acceleration)))
    seams = np.array(seams_ns, dtype=np.int64)
    near = np.zeros(len(jumps), dtype=bool)
    for seam in seams:
        near |= (times_ns[1:] >= seam - BEFORE_NS) & (times_ns[1:] <= seam + AFTER_NS)
    return Smoothness(
        velocity=float(np.nanmax(np.abs(states.velocity))),
        acceleration=acceleration,
        difference_acceleration=float(np.nanmax(np.abs(differences(times_ns, states.position)[1]))),
        velocity_jump=float(np.nanmax(jumps)),
        expected_jump=acceleration * period_s,
        seam_jump=float(np.nanmax(jumps[near], initial=0.0)),
    )
