"""The legal motion nearest to given targets: a spline of constant jerk per segment, inside limits, ending at rest.

N segments between N + 1 knots, J joints, R targets. With the start state given, position, velocity and acceleration at
every knot are linear in the N jerks of a joint, so tracking with limits is a small quadratic programme, and its matrices are
the same for all joints. Quantities of a joint are divided by its velocity limit first, which makes rad and m comparable.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rdvla_ros.control import quadratic

# The programme keeps this share of every limit in reserve, so that what lies between the knots is legal too.
MARGIN = 0.03


@dataclass(frozen=True)
class Basis:
    """States at the knots as a function of the jerks: state = free motion + matrix @ jerks; each matrix (N+1, N)."""

    times_s: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray

    @classmethod
    def at(cls, times_s: np.ndarray) -> Basis:
        h = np.diff(times_s)[None, :]
        after = np.maximum(times_s[:, None] - times_s[None, 1:], 0.0)  # time since the end of segment m at knot k
        done = times_s[:, None] > times_s[None, :-1]  # segment m lies before knot k
        return cls(
            times_s,
            position=done * (h**3 / 6 + h**2 / 2 * after + h * after**2 / 2),
            velocity=done * (h**2 / 2 + h * after),
            acceleration=done * np.broadcast_to(h, done.shape),
        )

    def free(self, position: np.ndarray, velocity: np.ndarray, acceleration: np.ndarray) -> tuple[np.ndarray, ...]:
        """Position, velocity, acceleration (N+1, J) at the knots without any jerk, from the start state (J,)."""
        d = (self.times_s - self.times_s[0])[:, None]
        a = np.broadcast_to(acceleration, (len(d), len(acceleration)))
        return position + d * (velocity + d * acceleration / 2), velocity + d * acceleration, a


@dataclass(frozen=True)
class Bounds:
    """Limits (J,) for the knots. Knot 0 is the given start and is not bounded."""

    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray


def nearest_motion(
    times_s: np.ndarray,
    start: tuple[np.ndarray, np.ndarray, np.ndarray],
    targets: np.ndarray,
    weights: np.ndarray,
    bounds: Bounds,
    smoothing: float,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Positions and velocities (N+1, J) at the knots, or None where the limits cannot be kept.

    targets: (N+1, J), one per knot; weights: (N+1,), 0 where a knot has no target. smoothing [s^6]: weight of the squared
    jerk against the squared distance. The last knot is at rest, velocity and acceleration zero.
    """
    basis = Basis.at(times_s)
    scale = bounds.velocity
    free = [x / scale for x in basis.free(*start)]
    h = np.diff(times_s)

    # x = particular + null @ y meets the two end conditions (velocity and acceleration zero) for every y
    ends = np.stack([basis.velocity[-1], basis.acceleration[-1]])
    wanted = -np.stack([free[1][-1], free[2][-1]])
    unit = float(np.median(bounds.jerk / scale))  # jerks are counted in this unit, which makes y of order one
    particular = np.linalg.lstsq(ends * unit, wanted, rcond=None)[0]
    null = np.linalg.svd(ends)[2][2:].T

    weighted = weights[:, None] * basis.position * unit
    hessian = (basis.position * unit).T @ weighted + smoothing * unit**2 * np.diag(h)
    pull = weighted.T @ (targets / scale - free[0]) - hessian @ particular
    rows, low, high = _constraints(basis, free, bounds, unit)
    low, high = low - rows @ particular, high - rows @ particular
    y = quadratic.minimise(null.T @ hessian @ null, null.T @ pull, rows @ null, low, high)
    if (quadratic.violation(rows @ null @ y, low, high) > MARGIN / 2).any():
        return None
    x = (particular + null @ y) * unit
    positions = (free[0] + basis.position @ x) * scale
    velocities = (free[1] + basis.velocity @ x) * scale
    velocities[-1] = 0.0
    return positions, velocities


def _constraints(basis: Basis, free: list[np.ndarray], bounds: Bounds, unit: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (C, N) and bounds (C, J) in scaled quantities: jerk, velocity at knots and mid-segments, acceleration, position."""
    h = np.diff(basis.times_s)[:, None]
    scale = bounds.velocity
    middle = basis.velocity[:-1] + basis.acceleration[:-1] * h / 2 + np.diag(h[:, 0] ** 2 / 8)
    middle_free = free[1][:-1] + free[2][:-1] * h / 2
    speed = np.full_like(scale, 1.0 - MARGIN)
    most = bounds.acceleration / scale * (1.0 - MARGIN)
    step = float(np.median(bounds.acceleration / scale))
    jerk = bounds.jerk / scale * (1.0 - MARGIN) / unit
    ones = np.ones((len(h), 1))
    parts = [
        (np.eye(len(h)), -jerk * ones, jerk * ones),
        (basis.velocity[1:] * unit, -speed - free[1][1:], speed - free[1][1:]),
        (middle * unit, -speed - middle_free, speed - middle_free),
        (basis.acceleration[1:] * unit / step, (-most - free[2][1:]) / step, (most - free[2][1:]) / step),
        (basis.position[1:] * unit, bounds.lower / scale - free[0][1:], bounds.upper / scale - free[0][1:]),
    ]
    rows, low, high = (np.concatenate(x) for x in zip(*parts, strict=True))
    return rows, low, high
