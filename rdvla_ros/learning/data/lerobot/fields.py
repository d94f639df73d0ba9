"""Values of a dataset's files, taken only when they are what they should be. Each error: file, field, found, expected."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rdvla_ros.learning.data.lerobot import DatasetError

AGAIN = "Download the dataset again, or write it again."


def found(value: Any) -> str:
    """A value in an error message."""
    text = repr(value)
    return "nothing" if value is None else text if len(text) <= 60 else f"{text[:60]}..."


def listed(names: list[str]) -> str:
    """The columns of a table in an error message."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "none"


def get(data: Mapping[str, Any], key: str, what: str, path: Path | str, advice: str = AGAIN) -> Any:
    """data[key] where it is `what`: 'text', 'a mapping', 'a list', 'a whole number', 'a number above 0'."""
    if key not in data:
        raise DatasetError(f"{path}: '{key}' is missing: expected {what}, found no such field. {advice}")
    value = data[key]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    right = {
        "text": isinstance(value, str) and bool(value),
        "a mapping": isinstance(value, Mapping),
        "a list": isinstance(value, list),
        "a whole number": number and isinstance(value, int) and 0 <= value < 2**53,
        "a number above 0": number and 0 < value <= 1e6 and math.isfinite(value),
    }[what]
    if not right:
        raise DatasetError(f"{path}: '{key}': expected {what}, found {found(value)}. {advice}")
    return value


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A parquet file, or some of its columns; columns it lacks are named."""
    if not path.is_file():
        raise DatasetError(f"{path}: expected a table of the dataset, found no file. Download the dataset again.")
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            for name in columns or ():
                if name not in names:
                    raise DatasetError(f"{path}: expected a column '{name}', found {listed(names)}. {AGAIN}")
            table = file.read(columns=columns)
            table.validate(full=True)  # text that is none is found here, not by whoever reads it
            return table
    except (pa.ArrowException, OSError, ValueError) as error:
        text = " ".join(str(error).split())
        raise DatasetError(f"{path}: expected a parquet table, found a file that cannot be read ({text}).") from error


def whole_numbers(column: pa.ChunkedArray, name: str, path: Path | str) -> np.ndarray:
    """(N,) int64; a row without a number, or with another kind of value, is named."""
    values = numbers(column, name, path)
    bad = np.flatnonzero((values != np.floor(values)) | (np.abs(values) > 2**53))
    if len(bad):
        raise DatasetError(
            f"{path}: '{name}': expected whole numbers, found {values[bad[0]]:g} in row {bad[0]} ({len(bad)} such rows). {AGAIN}"
        )
    return values.astype(np.int64)


def numbers(column: pa.ChunkedArray, name: str, path: Path | str) -> np.ndarray:
    """(N,) float64, all finite."""
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DatasetError(f"{path}: '{name}': expected a column of numbers, found {kind}. {AGAIN}")
    values = np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        value = column[int(bad[0])].as_py()
        raise DatasetError(
            f"{path}: '{name}': expected a number in every row, found {found(value)} in row {bad[0]} ({len(bad)} such rows). "
            f"{AGAIN}"
        )
    return values


def texts(column: pa.ChunkedArray, name: str, path: Path | str) -> list[str]:
    values = column.to_pylist()
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise DatasetError(f"{path}: '{name}': expected text in every row, found {found(value)} in row {row}. {AGAIN}")
    return values
