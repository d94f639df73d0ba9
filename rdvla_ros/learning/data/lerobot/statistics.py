"""Statistics of a feature as LeRobot keeps them, per episode and over a dataset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
Statistics = dict[str, np.ndarray]


def of_vectors(values: np.ndarray) -> Statistics:
    """(N, A) -> min, max, mean, std and quantiles (A,) each, count (1,)."""
    values = np.asarray(values, dtype=np.float64)
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    return {
        "min": values.min(0),
        "max": values.max(0),
        "mean": values.mean(0),
        "std": values.std(0),
        "count": np.array([len(values)]),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


def of_pictures(pictures: np.ndarray) -> Statistics:
    """(N, height, width, 3) uint8 -> the same of each channel over all pixels, 0..1, shape (3, 1, 1); count is of pictures."""
    pixels = pictures.reshape(-1, 3) / 255.0
    stats = {name: value.reshape(3, 1, 1) for name, value in of_vectors(pixels).items() if name != "count"}
    return {**stats, "count": np.array([len(pictures)])}


def pooled(parts: Sequence[Statistics]) -> Statistics:
    """Statistics of several episodes together. Quantiles are the weighted mean of theirs, as lerobot aggregates them."""
    counts = np.array([float(part["count"][0]) for part in parts])
    weights = counts / counts.sum()
    mean = sum(w * part["mean"] for w, part in zip(weights, parts, strict=True))
    # variance over all = mean of the variances + variance of the means
    spread = sum(w * (part["std"] ** 2 + (part["mean"] - mean) ** 2) for w, part in zip(weights, parts, strict=True))
    return {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean,
        "std": np.sqrt(spread),
        "count": np.array([int(counts.sum())]),
        **{name: sum(w * part[name] for w, part in zip(weights, parts, strict=True)) for name in QUANTILES},
    }
