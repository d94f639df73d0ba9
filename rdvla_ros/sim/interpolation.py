"""The polynomials of joint_trajectory_controller between two points: linear, cubic or quintic, by what both points carry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Waypoint:
    """One point of a path at an absolute time. Each (J,); what is None is not given."""

    time_s: float
    position: np.ndarray
    velocity: np.ndarray | None = None
    acceleration: np.ndarray | None = None


@dataclass(frozen=True)
class Desired:
    """What the controller commands at one moment; each (J,)."""

    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray


@dataclass(frozen=True)
class Segment:
    """The way between two points: coefficients (6, J) by rising power of the time since begin_s."""

    begin_s: float
    coefficients: np.ndarray

    @classmethod
    def between(cls, start: Waypoint, end: Waypoint) -> Segment:
        length = end.time_s - start.time_s
        if start.velocity is None or end.velocity is None:
            rows = _linear(start, end, length)
        elif start.acceleration is None or end.acceleration is None:
            rows = _cubic(start, end, length)
        else:
            rows = _quintic(start, end, length)
        coefficients = np.zeros((6, len(start.position)))
        coefficients[: len(rows)] = rows
        return cls(start.time_s, coefficients)

    def at(self, time_s: float) -> Desired:
        """Value and two derivatives in one product: this runs for every arm at every step of the simulator."""
        t = time_s - self.begin_s
        t2, t3, t4, t5 = t * t, t**3, t**4, t**5
        powers = [[1.0, t, t2, t3, t4, t5], [0.0, 1.0, 2 * t, 3 * t2, 4 * t3, 5 * t4], [0.0, 0.0, 2.0, 6 * t, 12 * t2, 20 * t3]]
        return Desired(*(np.array(powers) @ self.coefficients))


def _linear(start: Waypoint, end: Waypoint, length: float) -> list[np.ndarray]:
    return [start.position, (end.position - start.position) / length]


def _cubic(start: Waypoint, end: Waypoint, length: float) -> list[np.ndarray]:
    """p(0), v(0), p(T), v(T) given: c2 = (3 d/T - 2 v0 - v1) / T, c3 = (v0 + v1 - 2 d/T) / T^2 with d = p1 - p0."""
    slope = (end.position - start.position) / length
    return [
        start.position,
        start.velocity,
        (3.0 * slope - 2.0 * start.velocity - end.velocity) / length,
        (start.velocity + end.velocity - 2.0 * slope) / length**2,
    ]


def _quintic(start: Waypoint, end: Waypoint, length: float) -> list[np.ndarray]:
    """p, v, a given at both ends: the three remaining coefficients solve a 3 x 3 system, written out."""
    v0, a0, v1, a1 = start.velocity, start.acceleration, end.velocity, end.acceleration
    gap = end.position - start.position - v0 * length - 0.5 * a0 * length**2  # left to c3 T^3 + c4 T^4 + c5 T^5
    speed = v1 - v0 - a0 * length  # left to their first derivative
    bend = a1 - a0  # and to the second
    return [
        start.position,
        v0,
        0.5 * a0,
        (10.0 * gap - 4.0 * speed * length + 0.5 * bend * length**2) / length**3,
        (-15.0 * gap + 7.0 * speed * length - bend * length**2) / length**4,
        (6.0 * gap - 3.0 * speed * length + 0.5 * bend * length**2) / length**5,
    ]
