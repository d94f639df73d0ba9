"""Scaling and spread of the demonstrated actions from a published folder's `dataset_statistics.json`.

rule = make_halting({"rule": "action_kl", "threshold": 1e-3}, action_std=load_action_std(folder))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdvla_ros.model.normalization import MINIMUM_STD, MINIMUM_WIDTH, ActionSpace, Scaler
from rdvla_ros.types import CheckpointError, nearest_names

FILE = "dataset_statistics.json"
BOUNDS = {"q01_q99": ("q01", "q99"), "min_max": ("min", "max")}
ROUNDING = 1e-8  # the published scaling adds it to every range


def load_action_std(folder: str | Path, *, dataset: str | None = None, bounds: str = "q01_q99") -> np.ndarray:
    """(A,) standard deviation of the actions in the published head's normalised units, at least MINIMUM_STD.

    dataset: which of the file's data sets (None where there is one). bounds: what -1 and 1 stand for, "q01_q99" or "min_max".
    Entries that the file's mask takes out are not scaled, and neither is their spread.
    """
    path = Path(folder) / FILE
    if bounds not in BOUNDS:
        raise CheckpointError(f"bounds: unknown '{bounds}'. {nearest_names(bounds, BOUNDS)}")
    low, high, std, mask = _action_statistics(path, dataset, BOUNDS[bounds])
    scaled = np.where(mask, 2.0 * std / (high - low + ROUNDING), std)
    return np.maximum(scaled, MINIMUM_STD)


def _action_statistics(path: Path, dataset: str | None, bounds: tuple[str, str]) -> tuple[np.ndarray, ...]:
    """(A,) each: low, high, std, mask."""
    action = _dataset(_read(path), dataset, path).get("action")
    wanted = (*bounds, "std")
    if not isinstance(action, Mapping) or any(key not in action for key in wanted):
        found = ", ".join(map(str, action)) if isinstance(action, Mapping) else type(action).__name__
        raise CheckpointError(f"{path}: expected action statistics with {', '.join(wanted)}, found {found or 'nothing'}")
    try:
        low, high, std = (np.asarray(action[key], dtype=np.float64) for key in wanted)
        mask = np.asarray(action.get("mask", [True] * std.size), dtype=bool)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: expected lists of numbers in the action statistics ({error})") from error
    shapes = {low.shape, high.shape, std.shape, mask.shape}
    if len(shapes) > 1 or std.ndim != 1 or not std.size:
        raise CheckpointError(
            f"{path}: expected one number per action dimension in {', '.join(wanted)} and mask, "
            f"found shapes {', '.join(map(str, sorted(shapes)))}"
        )
    if not (np.isfinite([low, high, std]).all() and (std >= 0).all() and (high >= low).all()):
        raise CheckpointError(f"{path}: expected finite numbers, {bounds[0]} at most {bounds[1]} and std at least 0")
    return low, high, std, mask


def _read(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: expected this file beside the head's, found none") from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: expected JSON, found something else ({error})") from error
    if not isinstance(data, dict) or not data or not all(isinstance(value, dict) for value in data.values()):
        raise CheckpointError(f"{path}: expected data sets with their statistics, found {type(data).__name__}")
    return data


def _dataset(data: Mapping[str, Any], dataset: str | None, path: Path) -> Mapping[str, Any]:
    if dataset is None and len(data) > 1:
        raise CheckpointError(f"{path}: expected one data set, found {', '.join(data)}; name one with dataset=")
    name = next(iter(data)) if dataset is None else dataset
    if name not in data:
        raise CheckpointError(f"{path}: no data set '{name}'. {nearest_names(name, data)}")
    return data[name]


def load_space(folder: str | Path, relative: np.ndarray, *, dataset: str | None = None, bounds: str = "q01_q99") -> ActionSpace:
    """The scaling of a published folder as ours: the same numbers, entries that the mask takes out passing through.

    relative: (A,) bool, the columns that are relative to the measured position; A must be the width of both statistics.
    """
    path = Path(folder) / FILE
    if bounds not in BOUNDS:
        raise CheckpointError(f"bounds: unknown '{bounds}'. {nearest_names(bounds, BOUNDS)}")
    parts = {name: _statistics(path, dataset, name, BOUNDS[bounds]) for name in ("proprio", "action")}
    for name, (low, *_) in parts.items():
        if len(low) != len(relative):
            raise CheckpointError(
                f"{path}: expected {name} statistics of {len(relative)} joints, found {len(low)} numbers. A checkpoint whose "
                "actions are not one number per joint (LIBERO: end-effector steps) cannot drive a robot here."
            )
    scalers = {name: _scaler(low, high, mask) for name, (low, high, mask) in parts.items()}
    low, high, _ = _statistics(path, dataset, "proprio", BOUNDS["min_max"], fallback=BOUNDS[bounds])
    middle, half = (low + high) / 2, np.maximum(high - low, MINIMUM_WIDTH) / 2
    std = load_action_std(folder, dataset=dataset, bounds=bounds)
    return ActionSpace(relative, scalers["proprio"], scalers["action"], std, Scaler(middle - half, middle + half))


def load_scalers(folder: str | Path, *, dataset: str | None = None, bounds: str = "q01_q99") -> tuple[Scaler, Scaler]:
    """Scaling of the proprioception and of the actions, whatever their numbers mean; what the mask takes out passes through."""
    path = Path(folder) / FILE
    if bounds not in BOUNDS:
        raise CheckpointError(f"bounds: unknown '{bounds}'. {nearest_names(bounds, BOUNDS)}")
    return tuple(_scaler(*_statistics(path, dataset, part, BOUNDS[bounds])) for part in ("proprio", "action"))


def _scaler(low: np.ndarray, high: np.ndarray, mask: np.ndarray) -> Scaler:
    """-1 and 1 mean themselves where nothing is scaled."""
    return Scaler(np.where(mask, low, -1.0), np.where(mask, high + ROUNDING, 1.0))


def _statistics(
    path: Path, dataset: str | None, part: str, bounds: tuple[str, str], fallback: tuple[str, str] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(A,) each: low, high, mask of 'action' or 'proprio'; by the fallback bounds where the file lacks the others."""
    data = _dataset(_read(path), dataset, path).get(part)
    keys = bounds if fallback is None or (isinstance(data, Mapping) and set(bounds) <= set(data)) else fallback
    if not isinstance(data, Mapping) or not set(keys) <= set(data):
        found = ", ".join(map(str, data)) if isinstance(data, Mapping) else type(data).__name__
        raise CheckpointError(f"{path}: expected {part} statistics with {', '.join(keys)}, found {found or 'nothing'}")
    try:
        low, high = (np.asarray(data[key], dtype=np.float64) for key in keys)
        mask = np.asarray(data.get("mask", [True] * low.size), dtype=bool)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: expected lists of numbers in the {part} statistics ({error})") from error
    if low.ndim != 1 or not low.size or low.shape != high.shape or mask.shape != low.shape:
        raise CheckpointError(f"{path}: expected one number per {part} dimension in {', '.join(keys)} and mask")
    if not (np.isfinite([low, high]).all() and (high >= low).all()):
        raise CheckpointError(f"{path}: expected finite numbers in the {part} statistics, {keys[0]} at most {keys[1]}")
    return low, high, mask
