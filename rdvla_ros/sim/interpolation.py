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


def interpolate(start: Waypoint, end: Waypoint, time_s: float) -> Desired:
    """What is commanded at `time_s` between two points whose times are on the same clock as `time_s`."""
    length, passed = end.time_s - start.time_s, time_s - start.time_s
    if start.velocity is None or end.velocity is None:
        coefficients = _linear(start, end, length)
    elif start.acceleration is None or end.acceleration is None:
        coefficients = _cubic(start, end, length)
    else:
        coefficients = _quintic(start, end, length)
    powers = np.arange(len(coefficients))
    position = sum(c * passed**n for n, c in zip(powers, coefficients))
    velocity = sum(n * c * passed ** (n - 1) for n, c in zip(powers[1:], coefficients[1:]))
    acceleration = sum(n * (n - 1) * c * passed ** (n - 2) for n, c in zip(powers[2:], coefficients[2:]))
    return Desired(position, velocity + np.zeros_like(position), acceleration + np.zeros_like(position))


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
