"""Scores that are learned: a logistic combination of signals, and a small network on the latents.

The network is in the manner of SAFE (Gu et al. 2025): every decision of a run is labelled with the run's end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rdvla_ros.control.supervision.calibration import FURTHEST
from rdvla_ros.learning.evaluation.uncertainty.scores import Scaling, Trace

WIDTH, DROPOUT = 32, 0.3  # of the network
STEPS, BATCH, RATE, DECAY = 600, 256, 1e-3, 0.1


@dataclass(frozen=True)
class Logistic:
    """weights: signal -> weight of its z. The score of a decision is their sum."""

    weights: Mapping[str, float]

    @classmethod
    def fit(cls, found: Sequence[Trace], scalings: Mapping[str, Scaling], names: Sequence[str], penalty: float = 1.0) -> Logistic:
        """Ridge-penalised logistic regression by Newton's method, on all decisions of cut runs; each run weighs the same, and
        failures in all as much as successes."""
        x, y, w = _samples(found, lambda one: features(one, scalings[one.task], names))
        x = np.column_stack([x, np.ones(len(x))])
        beta, ridge = np.zeros(x.shape[1]), np.diag([penalty] * (x.shape[1] - 1) + [1e-6])
        for _ in range(30):
            p = 1.0 / (1.0 + np.exp(-np.clip(x @ beta, -30, 30)))
            gradient = x.T @ (w * (p - y)) + ridge @ beta
            hessian = (x * (w * p * (1 - p))[:, None]).T @ x + ridge
            step = np.linalg.solve(hessian + 1e-9 * np.eye(len(beta)), gradient)
            beta = beta - step
            if np.abs(step).max() < 1e-6:
                break
        return cls(dict(zip(names, beta[:-1].tolist(), strict=True)))

    def score(self, one: Trace, scaling: Scaling) -> np.ndarray:
        return features(one, scaling, list(self.weights)) @ np.array(list(self.weights.values()))


def features(one: Trace, scaling: Scaling, names: Sequence[str]) -> np.ndarray:
    """(N, F): z of each signal, 0 where unknown, as the monitor computes them."""
    z = np.stack([scaling.z(one, name) for name in names], axis=1)
    return np.clip(np.nan_to_num(z, nan=0.0, posinf=FURTHEST, neginf=-FURTHEST), -FURTHEST, FURTHEST)


def _samples(found: Sequence[Trace], of) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs (M, F), labels (M,) and weights (M,), which sum to the number of runs."""
    runs = [one for one in found if len(one.stamp_s)]
    failures = sum(one.failed for one in runs)
    share = {True: len(runs) / 2 / max(1, failures), False: len(runs) / 2 / max(1, len(runs) - failures)}
    x = np.concatenate([of(one) for one in runs])
    y = np.concatenate([np.full(len(one.stamp_s), float(one.failed)) for one in runs])
    w = np.concatenate([np.full(len(one.stamp_s), share[one.failed] / len(one.stamp_s)) for one in runs])
    return x, y, w


class LatentNet:
    """One hidden layer on the scratchpad's mean row, one network for all tasks: logistic loss, Adam, dropout, weight decay."""

    def __init__(self, found: Sequence[Trace], seed: int = 0):
        rng = np.random.default_rng(seed)
        x, y, w = _samples(found, lambda one: one.latents)
        self._mean, self._scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-3)
        x, w = self._z(x), w / w.mean()
        inputs = x.shape[1]
        self._layers = [
            rng.normal(0, (2 / inputs) ** 0.5, (inputs, WIDTH)),
            np.zeros(WIDTH),
            rng.normal(0, 0.1, WIDTH),
            np.zeros(1),
        ]
        first, second = [np.zeros_like(p) for p in self._layers], [np.zeros_like(p) for p in self._layers]
        for step in range(1, STEPS + 1):
            rows = rng.integers(len(x), size=BATCH)
            gradients = self._gradients(x[rows], y[rows], w[rows], rng)
            for i, gradient in enumerate(gradients):
                first[i] = 0.9 * first[i] + 0.1 * gradient
                second[i] = 0.999 * second[i] + 0.001 * gradient**2
                change = first[i] / (1 - 0.9**step) / (np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8)
                self._layers[i] = self._layers[i] - RATE * (change + DECAY * self._layers[i])

    def _z(self, x: np.ndarray) -> np.ndarray:
        return (np.asarray(x, dtype=np.float64).reshape(-1, len(self._mean)) - self._mean) / self._scale

    def _gradients(self, x: np.ndarray, y: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        matrix, bias, out, constant = self._layers
        hidden = x @ matrix + bias
        kept = (hidden > 0.0) * (rng.random(hidden.shape) > DROPOUT) / (1.0 - DROPOUT)
        p = 1.0 / (1.0 + np.exp(-np.clip((hidden * kept) @ out + constant[0], -30, 30)))
        error = w * (p - y) / len(x)
        inner = np.outer(error, out) * kept
        return [x.T @ inner, inner.sum(axis=0), (hidden * kept).T @ error, np.array([error.sum()])]

    def score(self, one: Trace) -> np.ndarray:
        matrix, bias, out, constant = self._layers
        return np.maximum(self._z(one.latents) @ matrix + bias, 0.0) @ out + constant[0]
