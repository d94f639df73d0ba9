"""The legal motion nearest to given targets: a spline of constant jerk per segment, inside limits, ending at rest.

N segments between N + 1 knots, J joints, R targets. With the start state given, position, velocity and acceleration at
any moment are linear in the N jerks of a joint, so tracking with limits is a small quadratic programme, and its matrices are
the same for all joints. Quantities of a joint are divided by its velocity limit first, which makes rad and m comparable.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rdvla_ros.control.motion import quadratic_program
from rdvla_ros.control.motion.limits import JointLimits

# The programme keeps this share of every limit in reserve, so that what lies between the knots is legal too.
MARGIN = 0.03
INSET = 0.001  # and this share of a joint's range


@dataclass(frozen=True)
class Basis:
    """States at M moments as a function of the jerks: state = free motion + matrix @ jerks; each matrix (M, N)."""

    after_s: np.ndarray  # (M, 1) since the first knot
    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray

    @classmethod
    def at(cls, knots_s: np.ndarray, at_s: np.ndarray) -> Basis:
        """knots_s (N+1,), at_s (M,) within them. A segment acts for the time d inside it and is followed by `rest`."""
        at_s = np.asarray(at_s)[:, None]
        d = np.clip(at_s - knots_s[None, :-1], 0.0, np.diff(knots_s)[None, :])
        rest = np.maximum(at_s - knots_s[None, 1:], 0.0)
        velocity = d * (d / 2 + rest)
        return cls(at_s - knots_s[0], d * (d * (d / 6 + rest / 2) + rest**2 / 2), velocity, d)

    def free(self, position: np.ndarray, velocity: np.ndarray, acceleration: np.ndarray) -> tuple[np.ndarray, ...]:
        """Position, velocity, acceleration (M, J) without any jerk, from the start state (J,)."""
        d = self.after_s
        a = np.broadcast_to(acceleration, (len(d), len(acceleration)))
        return position + d * (velocity + d * acceleration / 2), velocity + d * acceleration, a


@dataclass(frozen=True)
class Targets:
    """Where to be: positions (R, J) at times_s (R,), each counted with its weight (R,)."""

    times_s: np.ndarray
    positions: np.ndarray
    weights: np.ndarray


def nearest_motion(
    knots_s: np.ndarray,
    start: tuple[np.ndarray, np.ndarray, np.ndarray],
    targets: Targets,
    bounds: JointLimits,
    smoothing: float,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Positions and velocities (N+1, J) at the knots (N+1,), or None where the limits cannot be kept.

    start: position, velocity and acceleration (J,) at the first knot. smoothing [s^6]: weight of the squared jerk against the
    squared distance. Knot 0 is the given start and is not bounded. The last knot is at rest, velocity and acceleration zero.
    """
    basis, hit = Basis.at(knots_s, knots_s), Basis.at(knots_s, targets.times_s)
    scale = bounds.velocity
    start = tuple(x / scale for x in start)
    free = basis.free(*start)
    h = np.diff(knots_s)

    # x = particular + null @ y meets the two end conditions (velocity and acceleration zero) for every y
    unit = float(np.median(bounds.jerk / scale))  # jerks are counted in this unit, which makes y of order one
    ends = np.stack([basis.velocity[-1], basis.acceleration[-1]]) * unit
    q, r = np.linalg.qr(ends.T, mode="complete")
    null = q[:, 2:]
    particular = q[:, :2] @ np.linalg.solve(r[:2].T, -np.stack([free[1][-1], free[2][-1]]))

    weighted = targets.weights[:, None] * hit.position * unit
    hessian = (hit.position * unit).T @ weighted + smoothing * unit**2 * np.diag(h)
    pull = weighted.T @ (targets.positions / scale - hit.free(*start)[0]) - hessian @ particular
    rows, low, high = _constraints(basis, h, free, bounds, unit)
    fixed = rows @ particular
    low, high, rows = low - fixed, high - fixed, rows @ null
    y = quadratic_program.minimise(null.T @ hessian @ null, null.T @ pull, rows, low, high)
    if (quadratic_program.violation(rows @ y, low, high) > MARGIN / 2).any():
        return None
    x = (particular + null @ y) * unit
    positions = (free[0] + basis.position @ x) * scale
    velocities = (free[1] + basis.velocity @ x) * scale
    velocities[-1] = 0.0
    return positions, velocities


def _constraints(
    basis: Basis, h: np.ndarray, free: tuple[np.ndarray, ...], bounds: JointLimits, unit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (C, N) and bounds (C, J) in scaled quantities: jerk, velocity and position at knots and mid-segments, acceleration.

    basis: at the knots. h (N,): lengths of the segments.
    """
    h = h[:, None]
    scale = bounds.velocity
    middle = basis.velocity[:-1] + basis.acceleration[:-1] * h / 2 + np.diag(h[:, 0] ** 2 / 8)
    middle_free = free[1][:-1] + free[2][:-1] * h / 2
    between = basis.position[:-1] + basis.velocity[:-1] * h / 2 + basis.acceleration[:-1] * h**2 / 8 + np.diag(h[:, 0] ** 3 / 48)
    between_free = free[0][:-1] + free[1][:-1] * h / 2 + free[2][:-1] * h**2 / 8
    inset = INSET * (bounds.upper - bounds.lower)
    lower, upper = (bounds.lower + inset) / scale, (bounds.upper - inset) / scale
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
        (basis.position[1:] * unit, lower - free[0][1:], upper - free[0][1:]),
        (between * unit, lower - between_free, upper - between_free),
    ]
    rows, low, high = (np.concatenate(x) for x in zip(*parts, strict=True))
    return rows, low, high
