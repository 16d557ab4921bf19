"""What a Dask cluster gives: rows a second by workers, the cost of a shard as there are more, and hosts with addresses of their own.

    python -m benchmarks.scaling rows --rows 2000000       no cluster, 1 and 2 processes of this machine: seconds, digests of the release
    python -m benchmarks.scaling shards                    1, 10 and 40 shards, and a shard far into a billion rows
    python -m benchmarks.scaling hosts --rows 1000000      scheduler and worker in one network namespace, the run in another (root, Linux)

The model is tabular/made of diamonds, fitted for a minute. What is printed are the rows of benchmarks/results/scaling.md.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

SPECS = (None, "1", "2")
FAR = 9_999  # the last shard of a billion rows
BILLION = 10**9


class Noon(datetime):
    """A clock that stands still: two releases of the same rows are the same files."""

    @classmethod
    def now(cls, zone=UTC):
        return cls(2026, 1, 1, 12, tzinfo=zone)


def fitted(folder: Path) -> None:
    from data.schema import Dataset, Schema
    from data.sources import read
    from generators.registry import make

    source = read("diamonds")
    train = Dataset.of(source.table, Schema.infer(source.table, target="cut"))
    make("tabular/made", {}).fit(train, minutes=1).save(folder / "diamonds")


def rows(n: int, folder: Path) -> None:
    """One release by no cluster, one and two workers."""
    from flows import cluster, publishing

    publishing.datetime = Noon
    write, spent = publishing.write_rows, []

    def timed(*given, **more):
        began = time.perf_counter()
        written = write(*given, **more)
        spent.append(time.perf_counter() - began)
        return written

    publishing.write_rows = timed
    print("| workers | rows | s to join | s to draw and write | rows/s | s for the release | digest of its data | load |")
    print("|---|---:|---:|---:|---:|---:|---|---:|")
    for spec in SPECS:
        began = time.perf_counter()
        with cluster.joined(spec):
            joined, began = time.perf_counter() - began, time.perf_counter()
            made = publishing.resample(folder / "diamonds", n, 0, publishing.Asked(), None, str(folder / f"out-{spec}"))
            whole = time.perf_counter() - began
        said, load = digest(sorted((made.folder / "data").glob("*.parquet"))), os.getloadavg()[0]
        figures = f"{n:,} | {joined:.1f} | {spent[-1]:.1f} | {n / spent[-1]:,.0f} | {whole:.1f} | {said} | {load:.1f}"
        print(f"| {spec or 'none'} | {figures} |", flush=True)


def digest(paths: list[Path]) -> str:
    sink = hashlib.sha256()
    for path in paths:
        sink.update(path.read_bytes())
    return sink.hexdigest()[:16]


def shards() -> None:
    """What one worker needs for a shard, and what this process does to gather and write it, as there are more shards."""
    from data.rows import write_stream
    from flows import cluster, stages
    from generators.drawing import Tally

    cluster.SHARD = 1  # chunks
    with tempfile.TemporaryDirectory() as place, cluster.joined("1"):
        folder = Path(place)
        fitted(folder)
        model, joined = stages.load(folder / "diamonds"), cluster.current.get()
        each = cluster.SHARD * model.chunk
        list(cluster.stream(model, 1000, tally=Tally()))  # the worker has begun
        print(
            f"a shard is {each:,} rows\n\n| shards | worker CPU s a shard | this process, CPU s a shard | wall s a shard | peak MB here |"
        )
        print("|---:|---:|---:|---:|---:|")
        for count in (1, 10, 40):
            tally, wall, cpu = Tally(), time.perf_counter(), time.process_time()
            write_stream(cluster.stream(model, count * each, tally=tally), folder / "rows.parquet", count * each)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"| {count} | {tally.elsewhere / count:.2f} | {cpu / count:.2f} | {wall / count:.2f} | {peak} |", flush=True)
        asked = {"seed": 0, "given": None, "where": None, "shares": None}
        model_, weights = ((folder / "diamonds" / name).read_bytes() for name in ("model.json", "model.safetensors"))
        for number in (0, FAR):
            first = number * cluster.SHARD
            item = (model_, weights, b"", BILLION, asked, first, first + cluster.SHARD, 1)
            ((_, made),) = joined.spread(cluster.shard, [item])
            print(f"shard {number:,} of {BILLION:,} rows: {made['seconds']:.2f} CPU s on the worker", flush=True)


@contextmanager
def namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces, 10.77.0.1 and 10.77.0.2, with a cable between them and nothing else."""
    names = [f"alfar{os.getpid()}{side}" for side in "ab"]
    with ExitStack() as stack:
        for name in names:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
        ip("link", "add", f"v{names[0]}"[:15], "netns", names[0], "type", "veth", "peer", "name", f"w{names[1]}"[:15], "netns", names[1])
        for number, (name, link) in enumerate(zip(names, (f"v{names[0]}"[:15], f"w{names[1]}"[:15]), strict=True), start=1):
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", link)
            for device in ("lo", link):
                ip("-n", name, "link", "set", device, "up")
        yield names[0], names[1]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def hosts(n: int, folder: Path) -> None:
    """The scheduler and its worker see neither the run's folder nor its addresses but the scheduler's; the same rows come out."""
    address, bin_ = "tcp://10.77.0.1:8786", Path(sys.executable).parent
    sample = [sys.executable, "-m", "flows.cli", "sample", str(folder / "diamonds"), "--rows", str(n)]
    subprocess.run([*sample, "--to", str(folder / "here")], check=True)
    with namespaces() as (far, near), ExitStack() as stack:

        def start(command: str) -> None:
            """In the far namespace, with an empty folder over the run's."""
            hidden = f"mount -t tmpfs none {folder} && cd / && exec {command}"
            process = subprocess.Popen(["ip", "netns", "exec", far, "sh", "-c", hidden], env={**os.environ, "PYTHONPATH": os.getcwd()})
            stack.callback(process.wait)
            stack.callback(process.terminate)

        start(f"{bin_}/dask scheduler --host 10.77.0.1 --port 8786 --no-dashboard")
        start(f"{bin_}/dask worker {address} --host 10.77.0.1 --nthreads 1 --no-dashboard --local-directory /tmp --name far")
        there = ["ip", "netns", "exec", near, *sample, "--to", str(folder / "there"), "--cluster", address]
        until = time.monotonic() + 120
        while subprocess.run(there, env={**os.environ, "PYTHONPATH": os.getcwd()}).returncode:
            if time.monotonic() > until:
                raise SystemExit("the scheduler in the other namespace was not reached")
    print(f"the same rows from another namespace: {same(folder / 'here', folder / 'there')}")


def same(*roots: Path) -> bool:
    """Do the newest releases below these folders hold the same rows? Their footers differ by the time."""
    import pyarrow.parquet as pq

    from data import releases

    first, second = (pq.read_table(releases.open_release(root / "diamonds").data) for root in roots)
    return first.replace_schema_metadata().equals(second.replace_schema_metadata())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("which", choices=("rows", "shards", "hosts"))
    options.add_argument("--rows", type=int, default=2_000_000)
    given = options.parse_args()
    if given.which == "shards":
        shards()
        return
    with tempfile.TemporaryDirectory() as place:
        fitted(Path(place))
        (rows if given.which == "rows" else hosts)(given.rows, Path(place))


if __name__ == "__main__":
    main()
