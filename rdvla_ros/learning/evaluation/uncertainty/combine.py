"""Scores that are learned: a logistic combination of signals, and a small network on the latents.

The network is in the manner of SAFE (Gu et al. 2025): every decision of a run is labelled with the run's end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rdvla_ros.control.supervision.calibration import FURTHEST
from rdvla_ros.learning.evaluation.uncertainty.scores import Scaling, Trace

STEPS, WIDTH = 300, 32


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
    """One hidden layer on the scratchpad's mean row, one network for all tasks."""

    def __init__(self, found: Sequence[Trace], seed: int = 0):
        torch.manual_seed(seed)
        x, y, w = (torch.from_numpy(part).float() for part in _samples(found, lambda one: one.latents))
        self._mean, self._scale = x.mean(0), x.std(0).clamp_min(1e-3)
        self._net = nn.Sequential(nn.Linear(x.shape[1], WIDTH), nn.ReLU(), nn.Dropout(0.3), nn.Linear(WIDTH, 1))
        optimiser = torch.optim.AdamW(self._net.parameters(), 1e-3, weight_decay=0.1)
        for _ in range(STEPS):
            loss = nn.functional.binary_cross_entropy_with_logits(self._net((x - self._mean) / self._scale)[:, 0], y, w)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        self._net.eval()

    @torch.no_grad()
    def score(self, one: Trace) -> np.ndarray:
        x = torch.from_numpy(one.latents).float().reshape(-1, len(self._mean))
        return self._net((x - self._mean) / self._scale)[:, 0].numpy().astype(np.float64)
