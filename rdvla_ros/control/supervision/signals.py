"""What a decision tells about how the policy is doing: a handful of numbers per decision, in plain numpy, well below 1 ms.

Each is named for what it is. None is a probability of success: what a number is worth says a calibration (calibration.py) and
the study that compares them (docs/uncertainty.md). H steps of a chunk, A joints, D width of the network's state.

Sources: change over the iterations (Geiping et al. 2025; Durasov et al. 2024 for the variance of iterates), its area
(Goetschalckx et al. 2023), difference of consecutive chunks on their overlap (Agia et al. 2024, STAC), distance to the states of
successful runs (Lee et al. 2018, Mahalanobis).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

FLOOR = 1e-12  # smaller changes and variances are rounding
STILL = 2e-3  # [rad, or share of the gripper's opening] a joint commanded less than this per step does not move
NAN = math.nan

SIGNALS: Mapping[str, str] = {
    "refinement_residual": "log10 of the last mean-squared change between two iterations",
    "iterations": "iterations until the halting rule was met",
    "residual_area": "area under log10(change) over the iterations, over a floor of 1e-12",
    "iterate_variance": "log10 of the variance of the last iterates' chunks",
    "scratchpad_spread": "log10 of the variance of the chunk over initial scratchpads, where several were run",
    "chunk_inconsistency": "log10 of the mean-squared difference to the chunk before, where both say something",
    "chunk_norm": "root mean square of the chunk's distance from the measured joints",
    "direction_reversals": "share of the commanded joint steps that turn back on the step before",
    "latent_distance": "Mahalanobis distance of the scratchpad to those of successful runs",
    "elapsed_time": "placebo: seconds since the first decision",
    "random": "placebo: a number drawn by chance",
    "velocity": "placebo: mean commanded speed of the joints",
}
PLACEBOS = ("elapsed_time", "random", "velocity")
OF_TOPICS = tuple(name for name in SIGNALS if name not in ("iterate_variance", "latent_distance", *PLACEBOS))
PER_ARM = ("chunk_inconsistency", "chunk_norm", "direction_reversals")


@dataclass(frozen=True)
class Seen:
    """One decision. stamp_s: of its observation. change: see Refinement.change. chunk: (H, A) policy units, None where it is not
    known; rows step_s apart, of which `horizon` are to be executed. measured: (A,) joints in the observation, or None.
    spread, iterate_variance: NaN where they were not computed. latent: (D,) or None."""

    stamp_s: float
    iterations: int
    change: Sequence[float]
    chunk: np.ndarray | None = None
    step_s: float = NAN
    horizon: int = 0
    measured: np.ndarray | None = None
    spread: float = NAN
    iterate_variance: float = NAN
    latent: np.ndarray | None = None


@dataclass(frozen=True)
class LatentReference:
    """Where the scratchpads of successful runs lie. mean (D,), whiten (D, R): distance = |(x - mean) @ whiten| / sqrt(R)."""

    mean: np.ndarray
    whiten: np.ndarray

    @classmethod
    def fit(cls, latents: np.ndarray, kept: float = 0.99) -> LatentReference:
        """latents (N, D) of successful runs only. Directions that hold `kept` of the variance; the others are noise."""
        latents = np.asarray(latents, dtype=np.float64)
        if latents.ndim != 2 or len(latents) < 2 or not np.isfinite(latents).all():
            raise ValueError(f"latents: expected two or more finite rows, got shape {latents.shape}.")
        mean = latents.mean(axis=0)
        _, scale, directions = np.linalg.svd(latents - mean, full_matrices=False)
        variance = scale**2 / (len(latents) - 1)
        rank = 1 + int(np.searchsorted(np.cumsum(variance) / max(variance.sum(), FLOOR), kept))
        return cls(mean, directions[:rank].T / np.sqrt(np.maximum(variance[:rank], FLOOR)))

    def distance(self, latent: np.ndarray) -> float:
        """latent (D,)."""
        return float(
            np.linalg.norm((np.asarray(latent, dtype=np.float64) - self.mean) @ self.whiten) / self.whiten.shape[1] ** 0.5
        )


class SignalMeter:
    """Signals of one decision after the other. arms: name -> columns of its joints, for the signals that exist per arm, which
    are called <signal>/<arm>. What cannot be computed is NaN; nothing raises for numbers that are not finite."""

    def __init__(self, arms: Mapping[str, slice] | None = None, reference: LatentReference | None = None):
        self._arms, self._reference = dict(arms or {}), reference
        self.reset()

    def reset(self, seed: int = 0) -> None:
        """A new episode or activation: nothing before it counts. seed: of the placebo."""
        self._first_s: float | None = None
        self._before: Seen | None = None
        self._random = np.random.default_rng(seed)

    def add(self, seen: Seen) -> dict[str, float]:
        """Every signal by name. A stamp that does not advance begins anew."""
        if self._before is not None and not seen.stamp_s > self._before.stamp_s:
            self.reset()
        if self._first_s is None:
            self._first_s = seen.stamp_s
        values = {
            **_settling(seen),
            **dict.fromkeys(("chunk_inconsistency", "chunk_norm", "direction_reversals", "velocity", "latent_distance"), NAN),
            "scratchpad_spread": _log10(seen.spread),
            "iterate_variance": _log10(seen.iterate_variance),
            "elapsed_time": seen.stamp_s - self._first_s,
            "random": float(self._random.random()),
        }
        if self._reference is not None and seen.latent is not None:
            values["latent_distance"] = self._reference.distance(seen.latent)
        if seen.chunk is not None and np.isfinite(seen.chunk).all():
            values |= self._of_chunk(seen)
        self._before = seen
        return values

    def _of_chunk(self, seen: Seen) -> dict[str, float]:
        chunk, commanded = seen.chunk, self._commanded(seen)
        overlap, steps = self._overlap(seen), np.diff(commanded, axis=0)
        start = chunk[0] if seen.measured is None else seen.measured
        squares = np.square(chunk - start).mean(axis=0)
        turning, moving = _turns(steps)
        values = {"velocity": float(np.abs(np.diff(chunk[: max(2, seen.horizon)], axis=0)).mean() / seen.step_s)}
        for suffix, columns in [("", slice(None)), *((f"/{arm}", columns) for arm, columns in self._arms.items())]:
            moved = int(moving[:, columns].sum())
            values[f"chunk_inconsistency{suffix}"] = NAN if overlap is None else _log10(float(overlap[columns].mean()))
            values[f"chunk_norm{suffix}"] = float(squares[columns].mean() ** 0.5)
            values[f"direction_reversals{suffix}"] = int(turning[:, columns].sum()) / moved if moved else 0.0
        return values

    def _executed(self, seen: Seen) -> int | None:
        """Rows of the chunk before that were due until this observation; None where they do not join."""
        before = self._before
        if before is None or before.chunk is None or before.chunk.shape != seen.chunk.shape or not seen.step_s > 0.0:
            return None
        steps = (seen.stamp_s - before.stamp_s) / seen.step_s
        whole = steps < len(before.chunk) + 0.5 and np.isfinite(before.chunk).all()  # later than that, something stood between
        return round(steps) if whole else None

    def _overlap(self, seen: Seen) -> np.ndarray | None:
        """(A,) mean-squared difference to the chunk before."""
        executed = self._executed(seen)
        if executed is None or executed >= len(seen.chunk):
            return None
        rows = len(seen.chunk) - executed
        return np.square(seen.chunk[:rows] - self._before.chunk[executed:]).mean(axis=0)

    def _commanded(self, seen: Seen) -> np.ndarray:
        """The rows that were executed since the decision before, and those that will be."""
        executed, new = self._executed(seen), seen.chunk[: max(2, seen.horizon)]
        return new if not executed else np.concatenate([self._before.chunk[:executed], new])


def _settling(seen: Seen) -> dict[str, float]:
    change = np.asarray(seen.change, dtype=np.float64)
    finite = change[np.isfinite(change) & (change >= 0.0)]
    if not finite.size:
        return {"refinement_residual": NAN, "iterations": float(seen.iterations), "residual_area": NAN}
    heights = np.log10(np.maximum(finite, FLOOR))
    area = float((heights - math.log10(FLOOR)).sum())
    return {"refinement_residual": float(heights[-1]), "iterations": float(seen.iterations), "residual_area": area}


def _turns(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """steps (N, A) -> (N - 1, A) twice: a joint turned back; it moved in both steps."""
    moves = np.abs(steps) > STILL
    both = moves[1:] & moves[:-1]
    return both & (np.sign(steps[1:]) != np.sign(steps[:-1])), both


def _log10(value: float) -> float:
    return math.log10(max(value, FLOOR)) if math.isfinite(value) else NAN


def window_maximum(values: Sequence[float], window: int) -> np.ndarray:
    """(N,) largest of the last `window` values at each; NaN counts as nothing, -inf where there is nothing."""
    filled = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    padded = np.concatenate([np.full(window - 1, -np.inf), filled])
    return np.lib.stride_tricks.sliding_window_view(padded, window).max(axis=1) if filled.size else filled
