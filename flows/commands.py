"""What the commands do. Input is checked before Prefect is imported, so that bad input answers at once."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data import releases as store
from data import sources
from data.environment import PASSWORD
from data.errors import BadInput
from data.images import measures
from data.schema import Dataset
from data.sources import images
from data.stores import place, remote
from flows import auto, cluster, planning, publishing, screen, stages
from flows.folders import read_json, run_folder
from flows.job import Job, shown
from flows.room import Room
from flows.server import server

FAILED = 3  # exit code: a gate failed
MOVED = "ALFAR_PASSWORD"


def run(values: dict[str, Any], spread: str | None = None) -> int:
    """Read, check, say what is ahead, run the flow, say what came of it. `spread` is the cluster that work is spread over."""
    job = job_of(values)
    plan = planning.plan(job)
    planning.writable(job.to, plan.dataset)
    describe(plan)
    with screen.progress():
        foretell(plan)
    planning.ready[job.digest] = plan
    with cluster.joined(spread), prefect(), screen.progress():
        from flows.synthesize import synthesize

        outcome = synthesize(job, return_state=True).result()
    return conclude(outcome)


def job_of(values: dict[str, Any]) -> Job:
    """The job of a command line; errors name the job file when there is one.

    A password in a URL of the command line moves into the environment of this process: the job that goes to Prefect has its name.
    """
    file, source = values.get("file", ""), values.get("source")
    spec = source.get("spec", "") if isinstance(source, dict) and not file else ""
    if isinstance(source, dict) and (found := PASSWORD.search(spec)):
        os.environ[MOVED] = unquote(found[2])
        values = {**values, "source": {**source, "spec": PASSWORD.sub(rf"\1:${{{MOVED}}}@", spec)}}
    return Job.of({k: v for k, v in values.items() if k != "file"}, file)


def prefect() -> AbstractContextManager[None]:
    """Prefect with a server, saying nothing of its own: what goes wrong is said once, by `main`."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    return server()


def describe(plan: planning.Plan) -> None:
    """What was read."""
    schema, real = plan.real.train.schema, plan.real
    kinds = [c.kind for c in schema.columns]
    count = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    count += "".join(f"; {c.name} {measures(c.size)}" for c in schema.columns if c.size and c.kind == "image")
    goal = (
        f"target {schema.target} ({schema.task})" if schema.target else "no target: nothing to predict, so utility is not judged (--target)"
    )
    print(f"{plan.dataset}: {len(real.train) + len(real.test):,} real rows, {len(kinds)} columns ({count}); {goal}")
    for note in plan.source["notes"]:
        print(f"  {note}")
    print(f"  {len(real.train):,} rows to learn from, {len(real.test):,} held out to judge on")


def foretell(plan: planning.Plan) -> None:
    """Who will make what, how large, and how long it takes; tried out on this machine, once a job."""
    job, rows = plan.job, plan.job.rows or len(plan.real.train)
    with run_folder(plan.dataset, stages.waiting(plan.dataset)) as root:
        prepared = stages.prepare(plan, root).folder
        done = stages.budget(job, root, prepared)
    found, room = read_json(done.folder / "budget.json"), Room.of(job, prepared, plan.real.train.schema)
    if not done.cached:
        room.check()
    name = f"the best of {len(auto.candidates(job))} generators" if auto.wanted(job) else found["name"]
    total = sum(found["minutes"].values())
    print(f"  {name} will make {rows:,} rows; about {total:.1f} min in all on this machine: {spent(found['minutes'])}")
    print(f"  it takes {room.text()}")
    if found["size"] or found.get("steps", 0) < found.get("wanted", 0):
        size = "".join(f"{key} {value}, " for key, value in found["size"].items())
        print(f"  in {job.minutes:g} min it learns with {size}{found['steps']:,} steps of the {found['wanted']:,} it would make")
    sys.stdout.flush()


def spent(minutes: dict[str, float]) -> str:
    """Minutes of each part of a run."""
    words = {"fit": "to learn", "draw": "to draw", "judge": "to judge", "rest": "for the rest"}
    return ", ".join(f"{value:.1f} {words[part]}" for part, value in minutes.items())


def conclude(outcome: publishing.Outcome) -> int:
    """Verdict, figures and places; the exit code."""
    manifest = outcome.manifest
    if outcome.cached:
        print("nothing to do: this job has run before, with the same data, parameters and code")
    if "auto" in manifest:
        print(auto.text(manifest["auto"]))
    print(screen.headlines(manifest["scores"]))
    if not outcome.passed:
        print(f"QUARANTINED, not published: {'; '.join(manifest['reasons'])}")
    else:
        print(f"PUBLISHED: {len(manifest['gates'])} of {len(manifest['gates'])} gates passed")
    print(f"release  {outcome.folder}\nreport   {outcome.folder / 'report.html'}")
    print(f"private page {outcome.private}", flush=True)
    return 0 if outcome.passed else FAILED


def sample(model: str, rows: int, seed: int, asked: publishing.Asked, name: str | None, to: str, spread: str | None = None) -> int:
    """Draw rows from a fitted model into a new release; its report carries the judgement of the model's own release."""
    if rows < 1:
        raise BadInput(f"--rows is {rows}; it should be at least 1")
    if seed < 0:
        raise BadInput(f"--seed is {seed}; it should be at least 0")
    with cluster.joined(spread), screen.progress():
        outcome = publishing.resample(place(model), rows, seed, asked, name, to)
    print(f"{outcome.manifest['verdict'].upper()}: {rows:,} rows of {outcome.manifest['dataset']}")
    print(publishing.told(outcome.manifest["draws"]))
    if not outcome.passed:
        print(f"not published: {'; '.join(outcome.manifest['reasons'])}")
    print(f"release  {outcome.folder}\nreport   {outcome.folder / 'report.html'}")
    return 0 if outcome.passed else FAILED


def impute(model: str, source: str, seed: int, to: Path) -> int:
    """Fill the nulls of a table by a fitted model and write it as parquet. Columns it lacks are added if they can be filled."""
    from generators.answers import fillable

    if seed < 0:
        raise BadInput(f"--seed is {seed}; it should be at least 0")
    if to.suffix != ".parquet" or to.is_dir() or not to.absolute().parent.is_dir():
        raise BadInput(f"--to is {str(to)!r}; it should be a .parquet file in a folder that exists")
    fitted = stages.load(publishing.origin(place(model))[0])
    found = sources.read(source)
    table = images.alike(found.table, fitted.read, source)
    lacking = frozenset(fitted.read.names) - set(table.column_names)
    for name in sorted(lacking) if lacking == {fitted.read.target} or lacking in fillable(fitted) else ():
        table = table.append_column(name, pa.nulls(len(table), fitted.read[name].arrow))
    data = Dataset.of(table, fitted.read)
    filled = fitted.impute(data, seed=seed).table
    count = {name: data.table[name].null_count - filled[name].null_count for name in filled.column_names}
    for name in (name for name, cells in count.items() if cells):
        table = table.set_column(table.column_names.index(name), name, filled[name])
    part = to.with_name(f".{to.name}.partial")
    pq.write_table(table, part, compression="zstd")
    os.replace(part, to)
    print("".join(f"{note}\n" for note in found.notes), end="")
    print(f"filled {sum(count.values()):,} cells in {sum(map(bool, count.values()))} columns of {len(data):,} rows\ntable    {to}")
    return 0


def judge(values: dict[str, Any], synthetic: str, report: Path) -> int:
    """Judge one table against another and write the report."""
    from evaluators.gates import Thresholds, check
    from evaluators.pictures import paired, pictures
    from evaluators.quality import quality
    from evaluators.report import render

    job = job_of(values)
    if report.is_dir() or not report.absolute().parent.is_dir():
        raise BadInput(f"the report {report} must be a file in a folder that exists")
    plan = planning.plan(job)
    schema, real = plan.real.train.schema.drawn, plan.real
    other = planning.read(synthetic, job)
    made = Dataset.of(images.alike(other.table, schema, synthetic), schema)
    if not len(made):
        raise BadInput(f"{synthetic} has no rows: there is nothing to judge")
    with screen.progress(), tempfile.TemporaryDirectory() as folder:
        scores = stages.scores(real, parts(made, len(real.train), job.seed), job.seed, database=job.database)
        file = Path(folder) / "synthetic.parquet"
        made.save(file)
        scores["quality"] = quality(schema, [file])
        kind = schema.modality
        sheets = pictures([file]) if kind == "image" else paired([file]) if kind == "multimodal" else None
    gates = check(scores, Thresholds(**job.gates), publishable=True)
    manifest = {
        "dataset": f"{other.name}, judged against {plan.dataset}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": "judged",
        "rows": len(made),
        "source": plan.source,
        "job": job.public(),
        "seed": job.seed,
        "versions": publishing.versions(),
        "reproduce": publishing.command(job, "judge", shown(synthetic)),
        "scores": scores,
        "gates": gates,
        "schema": schema.to_json(),
    }
    report.write_text(render(manifest, sheets), encoding="utf-8")
    print(screen.headlines(scores))
    for gate in gates:
        print(f"{'passed' if gate['passed'] else 'FAILED'}  {publishing.reason(gate)}")
    print(f"report   {report}")
    return 0


def parts(made: Dataset, n: int, seed: int) -> list[Dataset]:
    """Disjoint samples of n rows out of a table, at most as many as a model would be judged by; the whole table when it is small."""
    from evaluators.protocol import EFFORT
    from evaluators.tabular import judged_as

    effort = EFFORT[judged_as(made.schema)]
    n = min(n, effort.rows)
    order = np.random.default_rng([seed, 0x9A47]).permutation(len(made))
    return [made.take(order[i * n : (i + 1) * n]) for i in range(max(1, min(effort.samples, len(made) // n)))]


def compare(values: dict[str, Any], generators: str, seeds: int, to: str | None, spread: str | None = None) -> int:
    """Rank generators on one dataset."""
    from generators import registry

    job = job_of(values)
    listed = [] if generators == "all" else [name.strip() for name in generators.split(",")]
    for name in listed:
        registry.get(name)
    if to is not None and remote(to):
        raise BadInput("compare writes its board on this machine: give --to a folder")
    if seeds < 1:
        raise BadInput(f"--seeds is {seeds}; it should be at least 1")
    plan = planning.plan(job)
    chosen = listed or registry.serving(plan.real.train.schema)
    describe_comparison(plan, chosen, seeds)
    planning.ready[job.digest] = plan
    with cluster.joined(spread), prefect(), screen.progress():
        from flows.compare import compare as flow
        from flows.compare import text

        board, folder = flow(job, chosen, seeds, to)
    print(text(board))
    print(
        f"winner   {board['winner'] or 'none: no publishable generator passed the privacy gates'}\nboard    {folder / 'leaderboard.html'}"
    )
    return 0


def describe_comparison(plan: planning.Plan, chosen: list[str], seeds: int) -> None:
    """What will be compared."""
    budget = f"{plan.job.minutes:g} min of training split evenly" if plan.job.minutes else "no bound on the training time (--minutes)"
    train, test = plan.real
    print(f"{plan.dataset}: {len(train):,} rows to learn from, {len(test):,} to judge on, target {train.schema.target}")
    print(f"  {len(chosen)} generators, {seeds} fit{'s' * (seeds > 1)} each, {budget}", flush=True)


def releases(to: str) -> int:
    """Everything that is published below a folder."""
    rows = [
        [r.dataset, r.version, r.rows, f"{r.created:%Y-%m-%d %H:%M}", r.manifest["generator"]["name"], r.headline, str(r.folder)]
        for r in store.releases(to)
    ]
    print(
        screen.table(rows, ["dataset", "version", "rows", "created", "generator", "utility", "folder"])
        if rows
        else f"nothing is published in {to}"
    )
    return 0


def serve(folder: Path) -> int:
    """Serve the jobs of a folder until Ctrl-C."""
    from flows.schedule import scheduled
    from flows.schedule import serve as start

    jobs = scheduled(folder)
    for name, job in jobs.items():
        print(f"{name}: {job.schedule} UTC, {shown(job.source.spec)} -> {job.to}")
    print("serving; stop with Ctrl-C", file=sys.stderr, flush=True)
    start(jobs)
    return 0
