"""The shortest legal way to rest: the motion of a hold.

J joints (all arms together: one common time base), in controller units; times count from the trajectory's time base.
"""

from __future__ import annotations

import numpy as np

from rdvla_ros.control import cubic
from rdvla_ros.control.limits import JointLimits
from rdvla_ros.control.trajectory import LONGEST_STOP_S, Reference, Trajectory


def stop(
    start: Reference,
    *,
    limits: JointLimits,
    lead_s: float = 0.02,
    now: Reference | None = None,
    longest_s: float = LONGEST_STOP_S,
) -> Trajectory:
    """All joints come to rest together, as soon as their limits allow; a resting start gives a motion that stays.

    start: what the controller follows at lead_s. The acceleration changes evenly to a plateau, stays, and changes evenly to
    zero; the three times are common to all joints, so that from an unaccelerated start the arms slow down along their path.
    A joint that would leave its position limits in that time, or go on accelerating beyond its speed, comes to rest earlier, as
    fast as it may.
    Where even the longest stop exceeds a limit (a start beyond the limits), it is the gentlest one.

    The last point, at rest as the one before, lies longest_s after the start: a controller rejects a message whose end has
    passed, and a stop must be taken also when it comes late.
    """
    times_s, positions, velocities = _braking(start, limits, longest_s)
    peaks = cubic.peaks(times_s, positions, velocities)
    beyond = (peaks["lower"] < np.minimum(limits.lower, start.position)) | (
        peaks["upper"] > np.maximum(limits.upper, start.position)
    )
    beyond |= peaks["velocity"] > np.maximum(limits.velocity, np.abs(start.velocity))
    if beyond.any():
        alone = {j: _braking(_joint(start, j), limits.select([j]), longest_s, slows=True) for j in np.flatnonzero(beyond)}
        whole = times_s, positions, velocities
        times_s = np.unique(np.concatenate([times_s, *(part[0] for part in alone.values())]))
        positions, velocities, _ = cubic.sample(*whole, times_s)
        for j, part in alone.items():
            positions[:, [j]], velocities[:, [j]], _ = cubic.sample(*part, times_s)
        velocities[-1] = 0.0
    if times_s[-1] < longest_s - 0.001:
        times_s = np.append(times_s, longest_s)
        positions, velocities = (np.concatenate([x, x[-1:]]) for x in (positions, velocities))
    return Trajectory(limits.names, np.round(lead_s + times_s, 6), positions, velocities, now)


def _joint(state: Reference, joint: int) -> Reference:
    return Reference(*(getattr(state, field)[[joint]] for field in ("position", "velocity", "acceleration")))


def _braking(
    start: Reference, limits: JointLimits, longest_s: float, *, slows: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times (N,) from the start, positions and velocities (N, J) of the shortest common stop. slows: the speed is limited too."""
    phases, plateau = _stop_phases(start, limits, longest_s, slows)
    states, times_s = [(start.position, start.velocity)], [0.0]
    q, v, a = start.position, start.velocity, start.acceleration
    for duration, end in zip(phases, (plateau, plateau, np.zeros_like(plateau)), strict=True):
        if duration <= 0.0:
            continue
        j = (end - a) / duration
        q = q + duration * (v + duration * (a / 2 + duration * j / 6))
        v = v + duration * (a + end) / 2
        a = end
        states.append((q, v))
        times_s.append(times_s[-1] + duration)
    positions, velocities = (np.stack(x) for x in zip(*states, strict=True))
    velocities[-1] = 0.0
    return np.round(times_s, 6), positions, velocities


def _stop_phases(start: Reference, limits: JointLimits, longest_s: float, slows: bool) -> tuple[np.ndarray, np.ndarray]:
    """(3,) durations of the shortest legal stop on a grid of 5 ms, and its plateau acceleration (J,)."""
    grid = 0.005
    count = int(round(longest_s / grid))
    ramp, flat = (x.ravel() for x in np.meshgrid(np.arange(1, count // 2 + 1), np.arange(0, count - 1), indexing="ij"))
    fits = 2 * ramp + flat <= count
    ramp, flat = ramp[fits] * grid, flat[fits] * grid
    # velocity after the three phases: v + (a + p) / 2 * ramp + p * flat + p / 2 * ramp = 0, solved for the plateau p
    plateau = -(start.velocity + start.acceleration * ramp[:, None] / 2) / (ramp + flat)[:, None]
    share = np.maximum.reduce(
        [
            np.abs(plateau) / limits.acceleration,
            np.abs(plateau - start.acceleration) / ramp[:, None] / limits.jerk,
            np.abs(plateau) / ramp[:, None] / limits.jerk,
        ]
    ).max(axis=1)
    if slows:
        share = np.maximum(share, _top_speed(start, plateau, ramp[:, None], limits))
    total = 2 * ramp + flat
    legal = share <= 1.0
    best = np.lexsort((share, total if legal.any() else share, ~legal))[0]
    return np.array([ramp[best], flat[best], ramp[best]]), plateau[best]


def _top_speed(start: Reference, plateau: np.ndarray, ramp: np.ndarray, limits: JointLimits) -> np.ndarray:
    """(C,) largest share of the speed limits while the acceleration goes from the start's to the plateau; a start that is too
    fast counts as 1."""
    v, a = start.velocity, start.acceleration
    change = plateau - a
    until = np.where(a * v > 0.0, ramp * -a / np.where(change == 0.0, -np.inf, change), 0.0)  # the acceleration is zero then
    top = v + np.clip(until, 0.0, ramp) * a / 2
    return (np.abs(top) / np.maximum(limits.velocity, np.abs(v))).max(axis=1)
