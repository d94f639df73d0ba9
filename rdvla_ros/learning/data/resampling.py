"""Recordings whose frames do not come at an even rate, read by their time stamps.

Observations are frames as they were recorded, about one per step; only the targets between two commands are interpolated.
Over a pause nobody knows what was commanded: an observation whose targets would lie in one is left out.
"""

from __future__ import annotations

import numpy as np

PAUSE_STEPS = 1.5  # of the median time between frames; longer than this and than a step is a pause


def even_frames(times: np.ndarray, step_s: float, horizon_s: float) -> np.ndarray:
    """times (T,) [s], rising -> the frames nearest to a grid of step_s, without those whose next horizon_s hold a pause."""
    grid = np.arange(times[0], times[-1] + 0.5 * step_s, step_s)
    after = np.clip(np.searchsorted(times, grid), 1, max(1, len(times) - 1))
    before, after = after - 1, np.minimum(after, len(times) - 1)
    nearest = np.where(grid - times[before] <= times[after] - grid, before, after)
    frames = np.unique(nearest[np.abs(times[nearest] - grid) <= 0.5 * step_s])
    steps = np.diff(times)
    pauses = np.flatnonzero(steps > max(step_s, PAUSE_STEPS * float(np.median(steps)))) if len(steps) else np.empty(0, int)
    clear = np.ones(len(frames), bool)
    for pause in pauses:  # between frames pause and pause + 1
        clear &= ~((frames <= pause) & (times[frames] + horizon_s > times[pause] + 1e-6))
    return frames[clear]


def timed_labels(times: np.ndarray, actions: np.ndarray, frames: np.ndarray, ahead_s: np.ndarray) -> np.ndarray:
    """actions (T, A) commanded at times (T,) -> (F, R, A) float32: those of the moments ahead_s (R,) after each frame."""
    moments = np.clip(times[frames][:, None] + ahead_s, times[0], times[-1])
    after = np.clip(np.searchsorted(times, moments), 1, max(1, len(times) - 1))
    before, after = after - 1, np.minimum(after, len(times) - 1)
    width = np.maximum(times[after] - times[before], 1e-9)
    share = np.clip((moments - times[before]) / width, 0.0, 1.0)[..., None]
    return ((1.0 - share) * actions[before] + share * actions[after]).astype(np.float32)
