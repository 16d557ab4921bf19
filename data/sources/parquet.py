"""Parquet: one file, a folder of files, or a release; read in a stream, on this machine or in a store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import BadInput
from data.infer import check_names
from data.sources.sampling import Sample
from data.stores import Place

BATCH = 65_536  # rows in memory at a time


def read(path: Place, sample: Sample | None = None) -> pa.Table:
    """The rows of a parquet file, of a folder's parquet files in the order of their names, or of a release's `data/` folder.

    Of rows that are too many for `sample`, those that it keeps.
    """
    files = [path] if path.is_file() else parts(path)
    sample = sample or Sample()
    names: list[str] = []
    for file in files:
        for table in tables(file):
            names = names or table.column_names
            if set(table.column_names) != set(names):
                odd = sorted(set(table.column_names) ^ set(names))[0]
                raise BadInput(f"{file.name} and {files[0].name} differ in column {odd!r}: give one file, or make them alike")
            sample.add(table.select(names))
    try:
        return sample.table()
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        raise BadInput(f"the parquet files in {path} give one column different types: make them alike") from None


def parts(folder: Place) -> list[Place]:
    """The parquet files of a folder, or of its `data/` folder; none when there are none."""
    found = (sorted((f for f in inner.glob("*.parquet") if f.is_file()), key=str) for inner in (folder, folder / "data"))
    return next((files for files in found if files), [])


def tables(path: Place) -> Iterator[pa.Table]:
    """The rows of one file, dictionaries without an order resolved, pandas' index columns dropped. BadInput: it is not sound parquet."""
    try:
        with pq.ParquetFile(path if isinstance(path, Path) else path.open()) as file:
            check_names(file.schema_arrow.names)
            names = [name for name in file.schema_arrow.names if not re.fullmatch(r"__index_level_\d+__", name)]
            if not names:
                raise BadInput(f"{path} has no columns")
            yield sound(path, file.schema_arrow.empty_table().select(names))
            for batch in file.iter_batches(BATCH):
                yield sound(path, pa.Table.from_batches([batch]).select(names))
    except (pa.ArrowException, OSError):
        raise BadInput(f"{path} cannot be read as parquet: it is damaged, cut short or another format") from None


def sound(path: Place, table: pa.Table) -> pa.Table:
    """The table with plain columns. BadInput names a column that is damaged."""
    table.validate()
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            raise BadInput(f"{path}: column {name!r} holds values that are damaged, or texts that are not UTF-8: write it anew") from None
    return pa.table([plain(column) for column in table.columns], names=table.column_names)


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column without dictionary encoding, unless that says in which order its values stand."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) and not column.type.ordered else column


def is_parquet(path: Place) -> bool:
    """Does the file begin like parquet?"""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"
