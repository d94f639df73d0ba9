"""The spread of the demonstrated actions from a published folder's `dataset_statistics.json`, for the KL halting rule.

rule = make_halting({"rule": "action_kl", "threshold": 1e-3}, action_std=load_action_std(folder))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdvla_ros.model.normalization import MINIMUM_STD
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
