"""A job left alone: one run a minute under `alfar serve`, a source that changes every minute, and what grows meanwhile.

    python -m benchmarks.soak [minutes]

The source is penguins in an order of its own each minute, so that every run reads, learns, judges and publishes; `keep: 3` is the
retention. Every 10 seconds the memory, open files and children of all processes under `alfar serve` are read from /proc, and the bytes
below the folders of releases and of private runs, apart from the database of the Prefect server, which keeps the history of all runs.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import psutil
import pyarrow.parquet as pq

from data import sources
from data.releases import latest, open_release

RESULT = Path(__file__).parent / "results" / "soak.md"
EVERY = 10.0
KEEP = 3
LOOSE = {"utility": -99, "detector": 1, "shape": 100, "trend": 100, "copies": 1, "dcr": 100, "membership": 1}


class Sample(NamedTuple):
    """What was seen at a moment; MiB, counts."""

    minute: float
    scheduler: float  # memory of `alfar serve` itself
    server: float  # and of the Prefect server with its keeper
    files: int
    processes: int
    running: int  # processes of runs that are under way
    releases: float
    private: float
    database: float


def lasting(top: psutil.Process) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """The processes that stay, and those of runs: all below the top, and the server, which lives in a session of its own."""
    everyone = [top, *top.children(recursive=True)]
    runs = [p for p in everyone if any("prefect.flow_engine" in word or "prefect.engine" in word for word in cmdline(p))]
    return [p for p in everyone if p not in runs], runs


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def size(folder: Path, without: str = "-") -> float:
    """MiB below a folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if without not in path.parts:
                try:
                    total += path.lstat().st_size
                except FileNotFoundError:
                    continue
    return total / 2**20


def sampled(top: psutil.Process, began: float, place: Path) -> Sample:
    stay, runs = lasting(top)
    memory, files = {True: 0, False: 0}, 0
    for process in stay:
        try:
            memory[process == top] += process.memory_info().rss
            files += process.num_fds()
        except psutil.Error:
            continue
    home = place / "home"
    private, database = size(home, "prefect"), size(home / "prefect")
    minute = (time.monotonic() - began) / 60
    heavy = memory[True] / 2**20, memory[False] / 2**20
    return Sample(minute, *heavy, files, len(stay), len(runs), size(place / "out"), private, database)


def due(database: Path) -> dict[str, int]:
    """The states of all runs that were due by now, as the server has them."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as base:
        query = "select state_name, count(*) from flow_run where expected_start_time <= ? group by 1 order by 2 desc"
        return dict(base.execute(query, [datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")]).fetchall())


def changing(path: Path) -> Iterator[None]:
    """Another order of the real rows each time."""
    table = sources.read("penguins").table
    for seed in range(10_000):
        pq.write_table(table.take(np.random.default_rng(seed).permutation(table.num_rows)), path.with_name("next"))
        os.replace(path.with_name("next"), path)
        yield


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "jobs").mkdir()
        job = {
            "source": str(place / "penguins.parquet"),
            "target": "species",
            "generator": "tabular/gmm",
            "gates": LOOSE,
            "keep": KEEP,
            "schedule": "* * * * *",
            "to": str(place / "out"),
        }
        (place / "jobs" / "minutely.yaml").write_text(json.dumps(job))
        source = changing(place / "penguins.parquet")
        next(source)
        env = {**os.environ, "ALFAR_HOME": str(place / "home"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "flows.cli", "serve", str(place / "jobs")]
        serving = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=open(place / "stderr", "w"))  # noqa: SIM115
        found: list[Sample] = []
        began = time.monotonic()
        try:
            while (now := time.monotonic() - began) < minutes * 60 and serving.poll() is None:
                found.append(sampled(psutil.Process(serving.pid), began, place))
                print(*(f"{value:.1f}" for value in found[-1]), flush=True)
                if int(now / 60) > int((now - EVERY) / 60):
                    next(source)
                time.sleep(max(0.0, EVERY - (time.monotonic() - began - now)))
        finally:
            states = due(place / "home" / "prefect" / "prefect.db")
            serving.terminate()  # as a service manager does
            serving.wait(120)
        RESULT.write_text(report(found, place, minutes, states), encoding="utf-8")
        print((place / "stderr").read_text()[-2000:])


def report(found: list[Sample], place: Path, minutes: float, states: dict[str, int]) -> str:
    """The results as Markdown."""
    home, out = place / "home", place / "out" / "penguins"
    log = [json.loads(line) for line in (home / "log.jsonl").read_text().splitlines()]
    metrics = [json.loads(line) for line in (home / "runs" / "penguins" / "metrics.jsonl").read_text().splitlines()]
    begun, stopped = (len({e["run"] for e in log if e["stage"] == "run" and e["message"].startswith(m)}) for m in ("begun", "stopped"))
    published = max(int(name[1:]) for name in os.listdir(out) if name[0] == "v")
    open_release(out, verify=True)
    fresh = sum(not m["cached"] for m in metrics)
    third = len(found) // 3
    rows = [
        (name, median(getattr(s, field) for s in found[third : 2 * third]), median(getattr(s, field) for s in found[2 * third :]), unit)
        for name, field, unit in (
            ("memory of `alfar serve`", "scheduler", "MiB"),
            ("memory of the Prefect server", "server", "MiB"),
            ("open files of what stays", "files", ""),
            ("processes that stay", "processes", ""),
            ("releases", "releases", "MiB"),
            ("private runs", "private", "MiB"),
            ("Prefect's database", "database", "MiB"),
        )
    ]
    lines = "\n".join(f"| {name} | {a:,.1f} {unit} | {b:,.1f} {unit} |" for name, a, b, unit in rows)
    kept = sorted((f for f in os.listdir(out) if f[0] == "v"), key=lambda name: int(name[1:]))
    return f"""# A job left alone

`OMP_NUM_THREADS=1 python -m benchmarks.soak {minutes:g}`: penguins, one run a minute under `alfar serve`, `keep: {KEEP}`.
{len(found)} samples.

- Runs that were due: {sum(states.values())}, {", ".join(f"{count} {name}" for name, count in states.items())}.
- {begun} runs began by the log, {len(metrics)} ended with a line of metrics.jsonl, {stopped} with an error; the end met what was under way.
- {fresh} of them made a release, {len(metrics) - fresh} found their source unchanged.
- The last version is v{published}; LATEST says {latest(out)}; what is kept: {", ".join(kept)}.
- Most processes of runs at one moment: {max(s.running for s in found)}.

| what | median of the second third | median of the last third |
|---|---:|---:|
{lines}
"""


if __name__ == "__main__":
    main()
