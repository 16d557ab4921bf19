"""Rows of datasets in parquet files, written and read with a part of them in memory at a time.

The footer of every file holds the schema as JSON below `alfar.schema`; those of a release also say where the rows come from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.disk import writing
from data.schema import Dataset, Schema

ROW_GROUP = 100_000
IMAGE_ROW_GROUP = 100
READ = 65_536  # rows that are read at a time
KEY = b"alfar.schema"

Progress = Callable[[int, int, str], None]  # done, total, a few words


def nobody(done: int, total: int, words: str) -> None:
    """Who is told of progress unless somebody asks."""


def write_rows(
    folder: Path,
    chunks: Iterator[Dataset],
    *,
    rows: int,
    provenance: Mapping[str, Any],
    rows_per_file: int = 1_000_000,
    progress: Progress = nobody,
) -> list[Path]:
    """Stream datasets into `<folder>/data/train-….parquet`, exactly `rows` rows, holding one row group in memory at a time.

    The footers carry `alfar.schema` and `alfar.provenance` beside the table's own keys. ValueError when the chunks end early.
    """
    sizes = [min(rows_per_file, rows - start) for start in range(0, rows, rows_per_file)]
    names = [f"train-{i:05d}-of-{len(sizes):05d}.parquet" for i in range(len(sizes))]
    feed = Feed(iter(chunks))
    with writing(folder):
        (folder / "data").mkdir(parents=True, exist_ok=True)
    paths, done = [folder / "data" / name for name in names], 0
    for path, size in zip(paths, sizes, strict=True):
        schema, group = footer(feed.first, provenance)
        with writing(path), pq.ParquetWriter(path, schema, compression="zstd", compression_level=3) as writer:
            for start in range(0, size, group):
                table = feed.take(min(group, size - start))
                writer.write_table(table.cast(schema), row_group_size=group)
                done += table.num_rows
                progress(done, rows, "rows written")
    return paths


def footer(first: Dataset, provenance: Mapping[str, Any]) -> tuple[pa.Schema, int]:
    """The Arrow schema with all footer keys, and the rows of a row group."""
    arrow = first.schema.arrow
    keys = {
        **(first.table.schema.metadata or {}),
        **(arrow.metadata or {}),
        KEY: json.dumps(first.schema.to_json()).encode(),
        b"alfar.provenance": json.dumps(provenance, sort_keys=True).encode(),
    }
    pictures = any(column.kind in ("image", "mask") for column in first.schema.columns)
    return arrow.with_metadata(keys), IMAGE_ROW_GROUP if pictures else ROW_GROUP


class Feed:
    """Chunks of any size, taken in pieces of the size asked for."""

    def __init__(self, chunks: Iterator[Dataset]):
        self.chunks = chunks
        self.first = next(chunks, None) or too_few(0)
        self.left = self.first.table

    def take(self, rows: int) -> pa.Table:
        """The next `rows` rows. ValueError when the chunks end early."""
        parts, missing = [], rows
        while missing:
            if self.left.num_rows == 0:
                self.left = (next(self.chunks, None) or too_few(missing)).table
            parts.append(self.left.slice(0, missing))
            self.left = self.left.slice(parts[-1].num_rows)
            missing -= parts[-1].num_rows
        return pa.concat_tables(parts)


def too_few(missing: int) -> Dataset:
    """ValueError."""
    raise ValueError(f"the generator stopped early: at least {missing or 1:,} rows are missing")


def write_stream(chunks: Iterable[Dataset], path: Path, rows: int, progress: Progress = nobody) -> None:
    """One parquet file out of a stream of chunks, `rows` in all, one of them in memory at a time."""
    writer, done = None, 0
    for chunk in chunks:
        if writer is None:
            schema = chunk.schema.arrow.with_metadata({KEY: json.dumps(chunk.schema.to_json()).encode()})
            writer = pq.ParquetWriter(path, schema, compression="zstd")
        writer.write_table(chunk.table.cast(schema))
        done += len(chunk)
        progress(done, rows, "rows drawn")
    if writer:
        writer.close()


def schema_of(path: Path) -> Schema:
    """The schema in the footer of a file of rows."""
    return Schema.from_json(json.loads(pq.read_metadata(path).metadata[KEY]))


def stream(path: Path) -> Iterator[Dataset]:
    """The rows of a parquet file that `write_stream` wrote, a row group at a time."""
    schema = schema_of(path)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(READ):
            yield Dataset.of(pa.Table.from_batches([batch]), schema)


def head(path: Path, n: int) -> Dataset:
    """The first rows of a parquet file, at most n."""
    parts, have = [], 0
    for chunk in stream(path):
        parts.append(chunk.table.slice(0, n - have))
        have += parts[-1].num_rows
        if have == n:
            break
    return Dataset(chunk.schema, pa.concat_tables(parts))
