"""Small quadratic programmes, many at once: minimise 1/2 y'Hy - p'y with low <= Ry <= high.

H (n, n) and R (C, n) are common, p (n, P), low and high (C, P) differ from column to column. Where the unlimited minimum keeps
its limits it is the answer; the other columns go through Mehrotra's predictor-corrector interior point method.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ITERATIONS = 25
GAP = 1e-7  # between slack and multiplier, and between a row and its slack, where a column counts as solved


def minimise(hessian: np.ndarray, pull: np.ndarray, rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(n, P) minima. Where the limits contradict each other a column is far from keeping them: look with `violation`."""
    size = np.trace(hessian) / len(hessian)
    hessian, pull = hessian / size, pull / size
    y = np.linalg.solve(hessian + 1e-9 * np.eye(len(hessian)), pull)
    beyond = violation(rows @ y, low, high) > 0.0
    if beyond.any():
        y[:, beyond] = _interior_point(hessian, pull[:, beyond], rows, low[:, beyond], high[:, beyond], y[:, beyond])
    return y


def violation(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(P,) how far each column (C, P) goes beyond its limits at most; negative inside, infinite where it is not a number."""
    beyond = np.maximum(low - values, values - high).max(axis=0)
    return np.where(np.isfinite(beyond), beyond, np.inf)


@dataclass(frozen=True)
class _Point:
    """An iterate, one row per problem: y (P, n), slack and multiplier (P, 2C), both positive."""

    y: np.ndarray
    slack: np.ndarray
    multiplier: np.ndarray

    def moved(self, step: _Point, length: np.ndarray) -> _Point:
        return _Point(self.y + length * step.y, self.slack + length * step.slack, self.multiplier + length * step.multiplier)

    def longest(self, step: _Point) -> np.ndarray:
        """(P, 1) share of a step, at most 1, that keeps slack and multiplier positive."""
        return np.minimum(_to_zero(self.slack, step.slack), _to_zero(self.multiplier, step.multiplier))

    @property
    def gap(self) -> np.ndarray:
        """(P, 1) mean product of slack and multiplier: 0 at the solution."""
        return (self.slack * self.multiplier).mean(axis=1, keepdims=True)


class _Newton:
    """The linearised conditions at an iterate. With slack s = bound - Gy and multiplier m:

    H dy + G' dm = -(Hy - pull + G'm),  G dy + ds = -(Gy + s - bound),  s dm + m ds = -complementarity
    """

    def __init__(self, at: _Point, hessian: np.ndarray, pull: np.ndarray, stacked: np.ndarray, bound: np.ndarray):
        self._at, self._stacked = at, stacked
        self._dual = at.y @ hessian - pull + at.multiplier @ stacked
        self.primal = at.y @ stacked.T + at.slack - bound
        half = len(stacked) // 2
        ratio = at.multiplier / at.slack
        both = ratio[:, :half] + ratio[:, half:]
        rows = stacked[:half]
        self._inverse = np.linalg.inv(hessian + np.einsum("ci,pc,cj->pij", rows, both, rows, optimize=True))

    def step(self, complementarity: np.ndarray) -> _Point:
        at = self._at
        right = -self._dual - ((at.multiplier * self.primal - complementarity) / at.slack) @ self._stacked
        y = np.einsum("pij,pj->pi", self._inverse, right)
        slack = -self.primal - y @ self._stacked.T
        return _Point(y, slack, (-complementarity - at.multiplier * slack) / at.slack)


def _interior_point(
    hessian: np.ndarray, pull: np.ndarray, rows: np.ndarray, low: np.ndarray, high: np.ndarray, y: np.ndarray
) -> np.ndarray:
    stacked, bound, pull = np.concatenate([rows, -rows]), np.concatenate([high, -low]).T, pull.T
    slack = np.maximum(bound - y.T @ stacked.T, 0.1)
    point = _Point(y.T, slack, np.full_like(slack, 0.1))
    for _ in range(ITERATIONS):
        try:
            newton = _Newton(point, hessian, pull, stacked, bound)
        except np.linalg.LinAlgError:  # limits that contradict each other: the multipliers grow beyond all bounds
            break
        open_ = (point.gap > GAP) | (np.abs(newton.primal).max(axis=1, keepdims=True) > GAP)
        if not open_.any():
            break
        product = point.slack * point.multiplier
        predicted = newton.step(product)
        ahead = point.moved(predicted, point.longest(predicted)).gap
        centre = point.gap * (ahead / point.gap) ** 3
        corrected = newton.step(product + predicted.slack * predicted.multiplier - centre)
        point = point.moved(corrected, np.where(open_, 0.99 * point.longest(corrected), 0.0))  # solved columns stay
    return point.y.T


def _to_zero(values: np.ndarray, change: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.minimum(1.0, np.where(change < 0.0, -values / change, np.inf).min(axis=1, keepdims=True))
