"""Small quadratic programmes, many at once: minimise 1/2 y'Hy - p'y with low <= Ry <= high.

H (n, n) and R (C, n) are common, p (n, P), low and high (C, P) differ from column to column. Where the unlimited minimum keeps
its limits it is the answer; the other columns go through DAQP's dual active set method.
"""

from __future__ import annotations

import daqp
import numpy as np

REGULAR = 1e-9  # of the mean diagonal: makes H safely positive definite
SOLVED = 1  # DAQP's exit flag


def minimise(hessian: np.ndarray, pull: np.ndarray, rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(n, P) minima; NaN in a column whose limits contradict each other."""
    size = np.trace(hessian) / len(hessian)
    hessian, pull = hessian / size + REGULAR * np.eye(len(hessian)), pull / size
    y = np.linalg.solve(hessian, pull)
    for column in np.flatnonzero(violation(rows @ y, low, high) > 0.0):
        vectors = (-pull[:, column], rows, high[:, column], low[:, column])
        solution, _, flag, _ = daqp.solve(hessian, *(np.ascontiguousarray(x) for x in vectors))
        y[:, column] = solution if flag == SOLVED else np.nan
    return y


def violation(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(P,) how far each column (C, P) goes beyond its limits at most; negative inside, infinite where it is not a number."""
    beyond = np.maximum(low - values, values - high).max(axis=0)
    return np.where(np.isfinite(beyond), beyond, np.inf)
