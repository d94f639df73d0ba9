"""A table that grows on the disk: small parquet files, each written whole, so that a killed process leaves readable ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rdvla_ros.runs import RunError
from rdvla_ros.runs.schemas import SCHEMAS

MERGED = 60  # parts that become one, so that an hour leaves tens of files and not hundreds
NAME = "{first:07d}-{last:07d}.parquet"  # numbers of the parts that are in it


class TableWriter:
    """`add` keeps a row in memory, `flush` writes those that are there."""

    def __init__(self, folder: Path, table: str):
        self._folder, self._schema = Path(folder), SCHEMAS[table]
        self._rows: list[Mapping[str, Any]] = []
        self._parts: list[Path] = []
        self._number = 0
        self.count = 0

    def add(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)

    def flush(self) -> None:
        """OSError where it cannot be written."""
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        path = self._write(pa.Table.from_pylist(rows, schema=self._schema), self._number, self._number)
        self._parts.append(path)
        self._number, self.count = self._number + 1, self.count + len(rows)
        if len(self._parts) == MERGED:
            self._merge()

    def _merge(self) -> None:
        tables = [pq.ParquetFile(path).read() for path in self._parts]
        self._write(pa.concat_tables(tables), self._number - len(self._parts), self._number - 1)
        for path in self._parts:
            path.unlink()
        self._parts = []

    def _write(self, table: pa.Table, first: int, last: int) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / NAME.format(first=first, last=last)
        part = path.with_suffix(".part")
        try:
            pq.write_table(table, part)
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        return path


def read_table(folder: Path, table: str) -> pa.Table:
    """All rows, in the order in which they were written; none where the table was never written."""
    schema, end, found = SCHEMAS[table], -1, []
    # a merged file comes before the parts that it is made of
    for path in sorted(Path(folder).glob("*.parquet"), key=lambda path: (_numbers(path)[0], -_numbers(path)[1])):
        first, last = _numbers(path)
        if last <= end:  # merged into the one before, and the process was killed before it could be removed
            continue
        try:
            found.append(pq.ParquetFile(path).read())
            found[-1].validate(full=True)
        except (pa.ArrowException, OSError) as error:
            raise RunError(
                f"{path}: expected a parquet table, got a file that cannot be read ({error}). Copy the run again."
            ) from error
        end = last
    if not found:
        return schema.empty_table()
    whole = pa.concat_tables(found, promote_options="permissive")
    for field in schema:  # of a run that another version recorded
        if field.name not in whole.column_names:
            whole = whole.append_column(field, pa.nulls(whole.num_rows, field.type))
    return whole.select(schema.names)


def _numbers(path: Path) -> tuple[int, int]:
    """First and last part that is in a file."""
    first, _, last = path.stem.partition("-")
    try:
        return int(first), int(last)
    except ValueError:
        raise RunError(f"{path}: expected a part of a table such as 0000000-0000000.parquet. Remove the file.") from None
