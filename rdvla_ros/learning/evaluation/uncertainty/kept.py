"""Episodes of the study on disk: one parquet file each, one row per decision, with all that signals are made from.

A folder holds <task>/<kind>/<seed>.parquet. A half-written file has another name. Reading needs neither torch nor a simulator.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rdvla_ros.learning.evaluation.uncertainty.perturbations import Kind
from rdvla_ros.types import RdvlaError

EPISODES = "episodes"  # below the output of a study
ABOUT = b"episode"
COLUMNS = pa.schema(
    {
        "stamp_s": pa.float64(),  # of the observation, from the start of the episode
        "iterations": pa.int64(),
        "limit": pa.int64(),
        "threshold": pa.float64(),
        "stop_reason": pa.int64(),
        "converged": pa.bool_(),
        "change": pa.list_(pa.float64()),
        "horizon": pa.int64(),
        "chunk": pa.list_(pa.float64()),  # H * A, policy units
        "measured": pa.list_(pa.float64()),  # A
        "latent": pa.list_(pa.float32()),  # D: the final scratchpad, mean over its rows
        "iterate_variance": pa.float64(),
        "spread": pa.float64(),
        "phase": pa.string(),
        "stage": pa.int64(),
    }
)


@dataclass(frozen=True)
class Kept:
    """One episode on disk. about: what it was and how it ended. rows: column -> one value per decision."""

    about: dict[str, Any]
    rows: dict[str, list]

    @property
    def failed(self) -> bool:
        return not self.about["success"]


def path_of(folder: Path, task: str, kind: str, seed: int) -> Path:
    return folder / task.replace(":", "_") / kind.replace(" ", "_") / f"{seed}.parquet"


def save(path: Path, kept: Kept) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(kept.rows, schema=COLUMNS).replace_schema_metadata({ABOUT: json.dumps(kept.about)})
    part = path.with_suffix(".part")
    pq.write_table(table, part, compression="zstd")
    part.replace(path)


def load(path: Path) -> Kept:
    """RdvlaError where the file is none of ours or damaged."""
    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[ABOUT])
        return Kept(about, {name: table.column(name).to_pylist() for name in COLUMNS.names})
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise RdvlaError(
            f"{path}: expected an episode of 'rdvla study uncertainty', got {type(error).__name__}: {error}. Remove it; the same "
            "command runs it again."
        ) from error


def load_all(folder: Path) -> list[Kept]:
    """Every episode below `folder`, by task, kind and seed."""
    found = [load(path) for path in sorted(folder.rglob("*.parquet"))]
    if not found:
        raise RdvlaError(f"{folder}: expected episodes of 'rdvla study uncertainty' (<task>/<kind>/<seed>.parquet), found none.")
    return sorted(found, key=lambda kept: (kept.about["task"], kept.about["kind"], kept.about["seed"]))


def missing(folder: Path, wanted: Sequence[tuple[str, Kind, int]]) -> Iterator[tuple[str, Kind, int]]:
    """Those that were not run yet."""
    return ((task, kind, seed) for task, kind, seed in wanted if not path_of(folder, task, kind.name, seed).exists())
