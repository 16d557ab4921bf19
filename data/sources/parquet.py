"""Parquet: one file, a folder of files, or a release."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import BadInput
from data.infer import check_names


def read(path: Path) -> pa.Table:
    """The rows of a parquet file, of a folder's parquet files in the order of their names, or of a release's `data/` folder."""
    files = [path] if path.is_file() else parts(path)
    tables = [read_file(file) for file in files]
    for file, table in zip(files, tables, strict=True):
        if set(table.column_names) != set(tables[0].column_names):
            odd = sorted(set(table.column_names) ^ set(tables[0].column_names))[0]
            raise BadInput(f"{file.name} and {files[0].name} differ in column {odd!r}: give one file, or make them alike")
    try:
        return pa.concat_tables((t.select(tables[0].column_names) for t in tables), promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        raise BadInput(f"the parquet files in {path} give one column different types: make them alike") from None


def parts(folder: Path) -> list[Path]:
    """The parquet files of a folder, or of its `data/` folder; none when there are none."""
    found = (sorted(f for f in place.glob("*.parquet") if f.is_file()) for place in (folder, folder / "data"))
    return next((files for files in found if files), [])


def read_file(path: Path) -> pa.Table:
    """One file, dictionaries without an order resolved, pandas' index columns dropped. BadInput when it is not sound parquet."""
    try:
        table = pq.ParquetFile(path).read()
        check_names(table.column_names)
        table.validate()
    except (pa.ArrowException, OSError):
        raise BadInput(f"{path} cannot be read as parquet: it is damaged, cut short or another format") from None
    table = table.select([name for name in table.column_names if not re.fullmatch(r"__index_level_\d+__", name)])
    if not table.column_names:
        raise BadInput(f"{path} has no columns")
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            raise BadInput(f"{path}: column {name!r} holds values that are damaged, or texts that are not UTF-8: write it anew") from None
    return pa.table([plain(column) for column in table.columns], names=table.column_names)


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column without dictionary encoding, unless that says in which order its values stand."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) and not column.type.ordered else column


def is_parquet(path: Path) -> bool:
    """Does the file begin like parquet?"""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"
