"""The shortest legal way to rest: the motion of a hold.

J joints (all arms together: one common time base), in controller units; times count from the trajectory's time base.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rdvla_ros.control.motion import cubic
from rdvla_ros.control.motion.limits import JointLimits
from rdvla_ros.control.motion.trajectory import LONGEST_STOP_S, Reference, Trajectory

GRID_S = 0.005  # of the durations that are tried
BLOCK = 200  # stops that are tried at once, before longer ones are
ONWARD_S = 0.01  # how much longer a joint follows its motion, from try to try
ROUNDING = 1e-9  # share of a joint's range that is no way beyond it

Motion = tuple[np.ndarray, np.ndarray, np.ndarray]  # times (N,) from the start, positions and velocities (N, J)


@dataclass(frozen=True)
class Onward:
    """The legal motion that the arms would go on with. at(after_s): its state so long after the start of the stop (of all
    joints). knots_s: when its points are due, from there."""

    at: Callable[[float], Reference]
    knots_s: np.ndarray


def stop(
    start: Reference,
    *,
    limits: JointLimits,
    lead_s: float = 0.02,
    now: Reference | None = None,
    longest_s: float = LONGEST_STOP_S,
    onward: Onward | None = None,
) -> Trajectory:
    """All joints come to rest together, as soon as their limits allow; a resting start gives a motion that stays.

    start: what the controller follows at lead_s. The acceleration changes evenly to a plateau, stays, and changes evenly to
    zero; the three times are common to all joints, so that from an unaccelerated start the arms slow down along their path.
    A joint that would leave its position limits in that time, or go on accelerating beyond its speed, comes to rest earlier, as
    fast as it may. Where that leaves its limits too (a joint about to turn at the end of its range must first lose its
    acceleration), it follows its motion, `onward`, until it can come to rest inside them.
    Where even the longest stop exceeds a limit (a start beyond the limits), it is the gentlest one.

    The last point, at rest as the one before, lies longest_s after the start: a controller rejects a message whose end has
    passed, and a stop must be taken also when it comes late.
    """
    times_s, positions, velocities = _braking(start, limits, longest_s)
    beyond = _beyond((times_s, positions, velocities), start, limits)
    if beyond.any():
        alone = {j: _alone(start, j, limits, longest_s, onward) for j in np.flatnonzero(beyond)}
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


def _beyond(motion: Motion, start: Reference, limits: JointLimits) -> np.ndarray:
    """(J,) whether a joint leaves its range, or gets too fast; a start beyond a limit may stay there."""
    peaks, slack = cubic.peaks(*motion), ROUNDING * limits.range
    outside = (peaks["lower"] < np.minimum(limits.lower, start.position) - slack) | (
        peaks["upper"] > np.maximum(limits.upper, start.position) + slack
    )
    return outside | (peaks["velocity"] > np.maximum(limits.velocity, np.abs(start.velocity)) * (1.0 + ROUNDING))


def _alone(start: Reference, j: int, limits: JointLimits, longest_s: float, onward: Onward | None) -> Motion:
    """One joint's own stop: at once, or as soon after that as it stays inside its limits; at once where it never does."""
    limits, begin = limits.select([j]), _joint(start, j)
    at_once = _braking(begin, limits, longest_s, slows=True)
    if onward is None or not _beyond(at_once, begin, limits).any():
        return at_once
    for after_s in np.arange(ONWARD_S, longest_s, ONWARD_S).round(6):
        knots_s = [knot_s for knot_s in onward.knots_s if 0.0 < knot_s < after_s - 1e-6]
        states = [begin, *(_joint(onward.at(at_s), j) for at_s in (*knots_s, after_s))]
        rest = _braking(states[-1], limits, longest_s, slows=True)
        before = (np.stack([getattr(state, field) for state in states[:-1]]) for field in ("position", "velocity"))
        joined = (np.array([0.0, *knots_s]), *before), (rest[0] + after_s, *rest[1:])
        motion = tuple(np.concatenate(parts) for parts in zip(*joined, strict=True))
        if not _beyond(motion, begin, limits).any():
            return motion
    return at_once


def _joint(state: Reference, joint: int) -> Reference:
    return Reference(*(getattr(state, field)[[joint]] for field in ("position", "velocity", "acceleration")))


def _braking(start: Reference, limits: JointLimits, longest_s: float, *, slows: bool = False) -> Motion:
    """The shortest common stop. slows: the speed is limited too."""
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


@functools.cache
def _candidates(longest_s: float) -> tuple[np.ndarray, np.ndarray, tuple[tuple[int, int], ...]]:
    """Ramp and flat durations (C,) of all stops on the grid, the shortest first, and blocks of them (no block ends between
    stops of one duration)."""
    count = int(round(longest_s / GRID_S))
    ramp, flat = (x.ravel() for x in np.meshgrid(np.arange(1, count // 2 + 1), np.arange(0, count - 1), indexing="ij"))
    total = 2 * ramp + flat
    order = np.argsort(total, kind="stable")
    order = order[total[order] <= count]
    ramp, flat, total = ramp[order], flat[order], total[order]
    ends, last = [0], np.flatnonzero(np.diff(total, append=count + 1)) + 1
    for end in last:
        if end - ends[-1] >= BLOCK or end == len(total):
            ends.append(int(end))
    return ramp * GRID_S, flat * GRID_S, tuple(pairwise(ends))


def _stop_phases(start: Reference, limits: JointLimits, longest_s: float, slows: bool) -> tuple[np.ndarray, np.ndarray]:
    """(3,) durations of the shortest legal stop on the grid, and its plateau acceleration (J,); where none is legal, of the one
    that exceeds the limits least."""
    every_ramp, every_flat, blocks = _candidates(longest_s)
    least, best = np.inf, None
    for begin, end in blocks:
        ramp, flat = every_ramp[begin:end], every_flat[begin:end]
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
        legal = share <= 1.0
        chosen = np.lexsort((share, 2 * ramp + flat if legal.any() else share, ~legal))[0]
        if share[chosen] < least:
            least, best = share[chosen], (np.array([ramp[chosen], flat[chosen], ramp[chosen]]), plateau[chosen])
        if legal.any():
            break
    return best


def _top_speed(start: Reference, plateau: np.ndarray, ramp: np.ndarray, limits: JointLimits) -> np.ndarray:
    """(C,) largest share of the speed limits while the acceleration goes from the start's to the plateau; a start that is too
    fast counts as 1."""
    v, a = start.velocity, start.acceleration
    change = plateau - a
    until = np.where(a * v > 0.0, ramp * -a / np.where(change == 0.0, -np.inf, change), 0.0)  # the acceleration is zero then
    top = v + np.clip(until, 0.0, ramp) * a / 2
    return (np.abs(top) / np.maximum(limits.velocity, np.abs(v))).max(axis=1)
