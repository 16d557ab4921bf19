"""kill -9 at random moments of runs on tables, images and texts while readers poll: is half a release ever seen, does the next run go on?

    python -m benchmarks.kill [kills]

The real data are built in: penguins, and the first rows of the digits and of what people say to their homes, without their labels.
Every run is forked from one process that has imported everything, as the leader of a group that is killed whole, at a moment drawn evenly
from the length of an undisturbed run; every fourth run finds its stages finished, and is killed on its way to the release. Two readers
look at the destination all the while, where an older release stands: one opens the newest release, checks every digest and reads the
rows; the other reads the folders by itself, without the code under test, and takes what is there as it is. Then the run starts again, and
its rows and weights are compared with the undisturbed run's.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import os
import pkgutil
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import evaluators
import generators.train
from data import sources
from data.errors import BadInput
from data.releases import open_release
from flows.job import Job
from flows.pipeline import synthesize
from flows.screen import table
from generators import registry

RESULT = Path(__file__).parent / "results" / "kill.md"
NAP = 0.003  # seconds between two glances of a reader, who looks closely when anything has changed
SECONDS = 0.1  # and as often when nothing has
LOOSE = {"utility": -99, "detector": 1, "shape": 100, "trend": 100, "copies": 1, "dcr": 100, "membership": 1, "near": 1, "coverage": 0}
EVERY = 4  # of so many kills one comes while a run publishes what earlier ones have made
ROWS = {"digits": 200, "home_intents": 300}  # as many as judges get through in seconds


@dataclass(frozen=True)
class Case:
    """One job: what is read and who learns."""

    source: str
    generator: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.source.replace('_', '-')}-{self.generator['name'].split('/')[1]}"

    def job(self, folder: Path, to: Path, seed: int) -> Job:
        return Job.of(
            {
                "source": str(folder / f"{self.source}.parquet") if self.source in ROWS else self.source,
                "generator": self.generator,
                "rows": 200,
                "seed": seed,
                "gates": LOOSE,
                "name": self.name,
                "to": str(to),
            }
        )


def steps(name: str, steps: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "training": {"steps": steps, "patience": 0}, **more}


CASES = (
    Case("penguins", steps("tabular/made", 200, hidden=32)),
    Case("digits", {"name": "image/gmm"}),
    Case("penguins", {"name": "tabular/gmm"}),
    Case("home_intents", steps("text/gpt", 30)),
    Case("digits", steps("image/vae", 60)),
)


# ---- runs


def warm() -> None:
    """Import what runs import, once for all of them."""
    for module in pkgutil.iter_modules(evaluators.__path__):
        importlib.import_module(f"evaluators.{module.name}")
    for name in ("great_expectations", "great_expectations.expectations", "sklearn.ensemble", "sklearn.linear_model", "sklearn.neighbors"):
        importlib.import_module(name)
    for case in CASES:
        registry.get(case.generator["name"])


def start(job: Job, home: Path) -> int:
    """A run in a process and a group of its own; its pid."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setsid()
        os.environ["ALFAR_HOME"] = str(home)
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        synthesize(job)
        code = 0
    finally:
        os._exit(code)


def ended(pid: int, seconds: float) -> int | None:
    """The exit code within so many seconds, negative for a signal; None while it still runs."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return 0
        time.sleep(0.001)
    return None


def whole(job: Job, home: Path) -> float:
    """Run to the end; the wall seconds. RuntimeError when it fails."""
    began = time.perf_counter()
    _, status = os.waitpid(start(job, home), 0)
    if status:
        raise RuntimeError(f"the run of {job.name} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - began


def under_way(home: Path, to: Path) -> str:
    """The stage that was at work, by the folders that are there."""
    if any((to / "_staging").glob("*")):
        return "publish"
    partial = [p.name.split("-")[0] for p in (home / "runs").glob("*/*.partial")]
    finished = {p.name.split("-")[0] for p in (home / "runs").glob("*/*-*[0-9a-f]") if p.is_dir()}
    return partial[0] if partial else "publish" if "judge" in finished else "between" if finished else "start"


def digest(release: Path) -> tuple[str, str]:
    """Of the rows, as Arrow writes them, and of the weights."""
    rows = pq.read_table(release / "data").replace_schema_metadata().combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    weights = (release / "model" / "model.safetensors").read_bytes()
    return hashlib.sha256(sink.getvalue()).hexdigest(), hashlib.sha256(weights).hexdigest()


# ---- readers


def newest(home: Path) -> Iterator[str]:
    """What is wrong with the newest release, as a consumer finds it."""
    try:
        found = open_release(home, verify=True)
        if pq.read_table(found.data).num_rows != found.rows:
            yield f"{found.version} has other rows than it says"
    except (BadInput, OSError, pa.ArrowException) as error:
        yield str(error)


def listed(home: Path) -> Iterator[str]:
    """What is wrong with anything that stands there, found without Alfar's own code."""
    for name in os.listdir(home):
        folder = home / name
        if name == "LATEST":
            if not (home / folder.read_text().strip() / "_SUCCESS").is_file():
                yield "LATEST leads nowhere"
            continue
        try:
            text = (folder / "release.json").read_bytes()
            sealed = (folder / "_SUCCESS").read_text().strip()
            facts = {file["path"]: file["sha256"] for file in json.loads(text)["files"]}
            there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {"release.json", "_SUCCESS"}
            good = sealed == hashlib.sha256(text).hexdigest() and there == set(facts)
            if not good or any(hashlib.sha256((folder / path).read_bytes()).hexdigest() != sha for path, sha in facts.items()):
                yield f"{name} is not whole"
        except (OSError, ValueError, KeyError) as error:
            yield f"{name}: {error}"


def reader(look: Callable[[Path], Iterator[str]], home: Path, over: Any, said: Any) -> None:
    """Look until it is over; then tell how often, and what was wrong."""
    looks, wrong, known, last = 0, [], None, 0.0
    while not over.is_set():
        seen = [(entry.name, entry.stat().st_mtime_ns) for entry in os.scandir(home)]
        if seen != known or time.monotonic() - last > SECONDS:
            wrong += list(look(home))
            looks, known, last = looks + 1, seen, time.monotonic()
        time.sleep(NAP)
    said.put((looks, wrong[:3], len(wrong)))


# ---- trials


def trial(case: Case, folder: Path, known: Path, seconds: float, rng: random.Random, publishing: bool) -> dict[str, Any] | None:
    """One kill and what came of it; None when the run was over before its moment.

    `publishing` begins where everything but the release is there.
    """
    home, to = folder / "home", folder / "to"
    for place in (home, to):
        shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(known / "older", to)
    if publishing:
        shutil.copytree(known / "home-whole", home)
    job, old = case.job(folder, to, 1), to / case.name
    fork = multiprocessing.get_context("fork")
    over, said = fork.Event(), fork.SimpleQueue()
    readers = [fork.Process(target=reader, args=(look, old, over, said)) for look in (newest, listed)]
    for process in readers:
        process.start()
    try:
        child = start(job, home)
        early = ended(child, rng.uniform(0, seconds)) is not None
        if not early:
            os.killpg(child, signal.SIGKILL) if os.getpgid(child) == child else os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        stage = under_way(home, to)
        at_once = (old / "v2").is_dir()
        checkpoint = any((home / "runs").glob("*/fit-*.partial/checkpoints/*"))
        whole(job, home)
    finally:
        over.set()
        for process in readers:
            process.join()
    looks = [said.get() for _ in readers]
    if early:
        return None
    metrics = json.loads((home / "runs" / case.name / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "stage": "rename" if at_once else stage,
        "looks": sum(n for n, _, _ in looks),
        "half": sum(n for _, _, n in looks),
        "wrong": [w for _, found, _ in looks for w in found],
        "kept": sum(stage["cached"] for stage in metrics["stages"].values()),
        "checkpoint": checkpoint,
        "releases": sorted(os.listdir(old)) == ["LATEST", "v1", "v2"],
        "left": any(p.name.endswith(".partial") for p in (home / "runs" / case.name).iterdir()),
        "same": digest(old / "v2") == digest(known / "whole" / case.name / "v1"),
    }


def report(done: dict[str, list[dict[str, Any]]], early: int, cpu: float) -> str:
    """The results as Markdown."""
    head = ["job", "kills", "looks of readers", "half releases seen", "resumed", "from a checkpoint", "rows and weights identical"]
    lines = [
        [
            name,
            len(found),
            f"{sum(t['looks'] for t in found):,}",
            sum(t["half"] for t in found),
            sum(t["releases"] and not t["left"] for t in found),
            sum(t["checkpoint"] for t in found),
            sum(t["same"] for t in found),
        ]
        for name, found in done.items()
    ]
    lines.append(["**all**", *(f"{sum(int(str(line[i]).replace(',', '')) for line in lines):,}" for i in range(1, len(head)))])
    stages: dict[str, int] = {}
    for t in (t for found in done.values() for t in found):
        stages[t["stage"]] = stages.get(t["stage"], 0) + 1
    rows = "\n".join(f"| {' | '.join(map(str, line))} |" for line in [head, ["---", *["---:"] * (len(head) - 1)], *lines])
    where = ", ".join(f"{stage} {count}" for stage, count in sorted(stages.items(), key=lambda item: -item[1]))
    return f"""# kill -9 at random moments

`OMP_NUM_THREADS=1 python -m benchmarks.kill {sum(map(len, done.values()))}`: {cpu:,.0f} CPU seconds.

{rows}

Killed in: {where} (`rename`: right after the release appeared; `between`: two stages).
{early} runs were over before their moment came and do not count.
Checkpoints were written every 0.2 s instead of every 20 s, since these fits last a few seconds.
"""


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    generators.train.CHECKPOINT_SECONDS = 0.2
    warm()
    rng, early, done = random.Random(0), 0, {case.name: [] for case in CASES}
    with tempfile.TemporaryDirectory() as place:
        folder, known, lengths = Path(place), Path(place) / "known", {}
        for name, rows in ROWS.items():
            source = sources.read(name)  # without its target: judges of images that learn to predict would take minutes a run
            pq.write_table(source.table.drop_columns([source.target]).slice(0, rows), folder / f"{name}.parquet")
        for case in CASES:
            whole(case.job(folder, known / "older", 0), known / "home-older")
            lengths[case.name, False] = whole(case.job(folder, known / "whole", 1), known / "home-whole")
            lengths[case.name, True] = whole(case.job(folder, known / "again", 1), known / "home-whole")
            print(case.name, *(f"{lengths[case.name, part]:.1f} s" for part in (False, True)), flush=True)
        while sum(map(len, done.values())) < kills:
            count = sum(map(len, done.values()))
            case, publishing = CASES[count % len(CASES)], count % EVERY == EVERY - 1
            found = trial(case, folder, known, lengths[case.name, publishing], rng, publishing)
            if found is None:
                early += 1
                continue
            done[case.name].append(found)
            print(case.name, found, flush=True)
            used = os.times()
            RESULT.write_text(report(done, early, sum(used[:4])), encoding="utf-8")
    lines = [[name, len(found), sum(t["half"] for t in found), sum(t["same"] for t in found)] for name, found in done.items()]
    print(table(lines, ["job", "kills", "half seen", "rows identical"]))


if __name__ == "__main__":
    main()
