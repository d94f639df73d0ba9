"""Piecewise cubic motion: what a trajectory controller does between points that carry positions and velocities.

N knots, J joints. A cubic Hermite segment has one constant jerk, so a spline whose jerk is constant between its knots is
reproduced by the controller exactly, and its extremes follow in closed form.
"""

from __future__ import annotations

import numpy as np


def coefficients(times_s: np.ndarray, positions: np.ndarray, velocities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,), (N, J), (N, J) -> acceleration at the start of each segment and jerk, both (N-1, J)."""
    h = (times_s[1:] - times_s[:-1])[:, None]
    return _coefficients(h, positions[:-1], positions[1:], velocities[:-1], velocities[1:])


def _coefficients(
    h: np.ndarray, position: np.ndarray, end_position: np.ndarray, velocity: np.ndarray, end_velocity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of segments that last h (M, 1) between states (M, J).

    From q1 = q0 + v0 h + a h^2/2 + j h^3/6 and v1 = v0 + a h + j h^2/2, solved for a and j.
    """
    slope = (end_position - position) / h
    acceleration = (6.0 * slope - 4.0 * velocity - 2.0 * end_velocity) / h
    jerk = (6.0 * (velocity + end_velocity) - 12.0 * slope) / h**2
    return acceleration, jerk


def sample(
    times_s: np.ndarray, positions: np.ndarray, velocities: np.ndarray, at_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position, velocity and acceleration (M, J) at the times (M,), each clamped into the knots' span."""
    at_s = np.minimum(np.maximum(np.asarray(at_s, dtype=np.float64), times_s[0]), times_s[-1])
    if len(times_s) == 1:
        shape = (len(at_s), positions.shape[1])
        return np.broadcast_to(positions[0], shape).copy(), np.broadcast_to(velocities[0], shape).copy(), np.zeros(shape)
    segment = np.minimum(np.searchsorted(times_s, at_s, side="right") - 1, len(times_s) - 2)
    begin_s, q, v = times_s[segment], positions[segment], velocities[segment]
    if len(at_s) < len(times_s):  # a few moments of a long motion: only what they need
        end = segment + 1
        a, j = _coefficients((times_s[end] - begin_s)[:, None], q, positions[end], v, velocities[end])
    else:
        a, j = (x[segment] for x in coefficients(times_s, positions, velocities))
    d = (at_s - begin_s)[:, None]
    return q + d * (v + d * (a / 2 + d * j / 6)), v + d * (a + d * j / 2), a + d * j


def peaks(times_s: np.ndarray, positions: np.ndarray, velocities: np.ndarray) -> dict[str, np.ndarray]:
    """Exact extremes over the whole motion, each (J,): 'lower' and 'upper' position; 'velocity', 'acceleration' and 'jerk',
    the largest absolute values."""
    acceleration, jerk = coefficients(times_s, positions, velocities)
    h = (times_s[1:] - times_s[:-1])[:, None]
    q0, v0 = positions[:-1], velocities[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = -acceleration / jerk  # where the velocity has its extreme
        root = np.sqrt(acceleration**2 - 2.0 * jerk * v0)  # where it is zero, so the position has one
        turns = [(-acceleration + root) / jerk, (-acceleration - root) / jerk, -v0 / acceleration]
    d = _inside(vertex, h)
    top = np.abs(v0 + d * (acceleration + d * jerk / 2))
    lower, upper = positions.min(axis=0), positions.max(axis=0)
    for turn in turns:
        d = _inside(turn, h)
        q = q0 + d * (v0 + d * (acceleration / 2 + d * jerk / 6))
        lower, upper = np.minimum(lower, q.min(axis=0)), np.maximum(upper, q.max(axis=0))
    end = acceleration + h * jerk
    return {
        "lower": lower,
        "upper": upper,
        "velocity": np.maximum(np.abs(velocities).max(axis=0), top.max(axis=0)),
        "acceleration": np.maximum(np.abs(acceleration), np.abs(end)).max(axis=0),
        "jerk": np.abs(jerk).max(axis=0),
    }


def _inside(offset: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Offsets that lie within their segment; all others (NaN and infinity too) become 0, the segment's start."""
    return np.where(np.isfinite(offset) & (offset > 0.0) & (offset < h), offset, 0.0)
