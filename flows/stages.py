"""The stages of the main job as plain functions: each reads files of the run folder and makes files there.

    plan -> prepare -> [choose] -> fit -> draw -> judge -> publish

`plan` reads the source and checks everything that can be checked before work starts. The others are cached by content (`flows.folders`);
`publish` leaves its mark in the release itself. No stage but `prepare` and `judge` reads the test rows. `choose` is there
when the job leaves the generator to `auto` (`flows.auto`); what comes after it runs the job with its choice.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data import releases, sources
from data.arrow import fingerprint
from data.constraints import constrain
from data.errors import BadInput, suggest
from data.schema import WORDING, Dataset, Schema, Split
from data.sources import images
from data.split import split
from flows import auto
from flows.folders import Done, read_json, stage, write_json
from flows.job import Job

if TYPE_CHECKING:
    from generators.base import Generator
    from generators.fitted import Fitted

UNFOLDED, FRAMES = 8, 8  # images shown on their way, in so many steps
LEAST_TEST_ROWS = 10
STEP_SECONDS = 0.0012  # of training, a column
JUDGE_SECONDS = {"tabular": 0.00015, "text": 0.002, "image": 0.0075}  # a row and column
ANSWER_SECONDS = 240.0  # of judges that learn to answer texts with texts, however many
START_MINUTES = 0.6
PACKAGES = ("alfar", "torch", "scikit-learn", "pyarrow", "numpy", "great-expectations", "prefect", "sdv")

Progress = Callable[[str, int, int, str], None]  # stage, done, total, a few words
progress: ContextVar[Progress] = ContextVar("progress", default=lambda stage, done, total, text: None)


def teller(name: str) -> Callable[[int, int, str], None]:
    """What a stage calls as it goes on."""
    tell = progress.get()
    return lambda done, total, text: tell(name, done, total, text)


def waiting(dataset: str) -> Callable[[], None]:
    """What is said while another run holds the dataset."""
    tell = progress.get()
    return lambda: tell("wait", 0, 0, f"another run of {dataset} is under way: waiting for it to end")


# ---- plan


@dataclass(frozen=True)
class Plan:
    """A job whose source is read and whose parameters are checked."""

    job: Job
    dataset: str
    source: dict[str, Any]  # name, fingerprint, rows, notes: what may be told of the real table
    real: Split


ready: dict[str, Plan] = {}  # plans made ahead, each used once


def plan(job: Job) -> Plan:
    """Read the source, infer the schema, split, make the recipe. BadInput is all that can be wrong with the input."""
    from generators import registry

    auto.candidates(job) if auto.wanted(job) else named(job)
    source = read(job.source.spec, job, job.source.query)
    table = without(source.table, job.drop)
    target = job.target or (source.target if source.target in table.column_names else None)
    kinds = {name: kind for name, kind in source.kinds.items() if name in table.column_names} | job.kinds
    orders = {name: [str(value) for value in values] for name, values in job.orders.items()}
    task = job.task or (source.task if target == source.target else None)
    whole = constrain(Dataset.of(table, Schema.infer(table, target=target, kinds=kinds, orders=orders, task=task)), job.constraints)
    known = {"name": source.name, "fingerprint": source.fingerprint, "rows": len(whole), "notes": list(source.notes)}
    held = read(job.test, job).table if job.test else source.test
    if held is None:
        real = split(whole)
    else:
        if held.num_rows < LEAST_TEST_ROWS:
            raise BadInput(f"the held-out file {job.test} has {held.num_rows} rows; at least {LEAST_TEST_ROWS} are needed to judge")
        known["test_fingerprint"] = fingerprint(held)
        real = Split(whole, Dataset.of(images.alike(held, whole.schema, job.test or source.name), whole.schema))
    if job.database is not None:
        has_queries(whole.schema, job.database)
    if not auto.wanted(job):
        generator_of(job, whole.schema)
    elif whole.schema.modality != "tabular":
        able = ", ".join(registry.names(whole.schema.modality)) or "none"
        raise BadInput(f"auto chooses among generators of tables: name one that learns data of kind {whole.schema.modality} ({able})")
    dataset = job.name or source.name
    releases.check_name(dataset)
    return Plan(job, dataset, known, real)


def has_queries(schema: Schema, database: str) -> None:
    """BadInput unless the target is SQL and there is such a database."""
    from evaluators.executing import checked

    if schema.target is None or schema[schema.target].language != "sql":
        raise BadInput(f"a database is for a target that is SQL; {schema.target or 'no column'!r} is none: leave --database out")
    checked(database)


def read(spec: str, job: Job, query: str | None = None) -> sources.Source:
    """A real table, read as the job says. What had to be left out of it is told on the screen, and nowhere else."""
    how = job.source
    source = sources.read(spec, query=query, delimiter=how.delimiter, encoding=how.encoding, size=how.size, crop=how.crop, kinds=job.kinds)
    for line in source.skipped:
        print(f"left out: {line}", file=sys.stderr)
    return source


def named(job: Job) -> Generator | None:
    """The recipe of a job that names its generator. BadInput for an unknown name or parameter."""
    from generators import registry

    choice = dict(job.generator or {})
    name = choice.pop("name", None)
    return None if name is None else registry.make(name, choice)


def generator_of(job: Job, schema: Schema) -> Generator:
    """The job's recipe, or the default for such data with the job's parameters. BadInput also when it learns other data."""
    from generators import registry

    name = str((job.generator or {}).get("name", registry.DEFAULT.get(schema.modality, "")))
    if registry.modality_of(name) != schema.modality:
        able = ", ".join(registry.names(schema.modality)) or "none: drop columns (--drop) or give them another --kind"
        raise BadInput(f"{name or 'no generator'} does not learn data of kind {schema.modality}; what does: {able}")
    return registry.make(name, {k: v for k, v in (job.generator or {}).items() if k != "name"})


def estimate(plan: Plan) -> float:
    """Minutes that a run takes, roughly: training and sampling, then judging, then what starts and checks around them.

    For images the first two are timed on a few steps and draws; for tables they follow from rows and columns, on two cores.
    """
    from evaluators.protocol import EFFORT
    from evaluators.tabular import judged_as
    from generators.base import Descending
    from generators.train import planned

    schema, rows = plan.real.train.schema, len(plan.real.train)
    columns = len(schema.columns)
    effort = EFFORT[judged_as(schema)]
    judged = min(rows, effort.rows) * columns * JUDGE_SECONDS[judged_as(schema)] / 60 + START_MINUTES
    judged += ANSWER_SECONDS / 60 if judged_as(schema) == "text" and schema.task in WORDING else 0
    if auto.wanted(plan.job):
        return (plan.job.minutes or auto.MINUTES) + judged
    generator, seconds = generator_of(plan.job, schema), 5e-6 * rows * columns
    if isinstance(generator, Descending) and schema.modality == "image":
        fit, draw = generator.expected(plan.real.train, minutes=plan.job.minutes, device=plan.job.device)
        return fit + draw * ((plan.job.rows or rows) + (effort.samples - 1) * min(rows, effort.rows)) / 60 + judged
    if isinstance(generator, Descending):
        seconds += planned(generator.training, rows) * columns * STEP_SECONDS
    fit = min(seconds / 60, plan.job.minutes or float("inf"))
    return fit + judged


def without(table: pa.Table, names: list[str]) -> pa.Table:
    """The table less some columns. BadInput when one of them is not there."""
    for name in names:
        if name not in table.column_names:
            raise BadInput(f"the column {name!r} to be dropped does not exist{suggest(name, table.column_names)}")
    return table.drop_columns(names)


def writable(to: str, dataset: str) -> None:
    """BadInput unless a release can be begun there."""
    with releases.staging(to, dataset):
        releases.sweep(to)


# ---- the stages


def prepare(plan: Plan, root: Path) -> Done:
    """The real rows, split: train.parquet, test.parquet, source.json."""
    job = plan.job
    inputs = {"source": plan.source, "schema": plan.real.train.schema.to_json(), "test": job.test is not None}

    def work(folder: Path) -> None:
        plan.real.train.save(folder / "train.parquet")
        plan.real.test.save(folder / "test.parquet")
        write_json(folder / "source.json", plan.source)

    return stage(root, "prepare", inputs, work, code=("data",))


def choose(job: Job, root: Path, prepared: Path) -> Done:
    """What `auto` tried and chose, choice.json, from the training rows alone."""
    limits = {name: job.gates[name] for name in sorted(set(job.gates) & set(auto.PRIVACY))}
    run = {"seed": job.seed, "minutes": job.minutes, "device": job.device}
    inputs = {"prepared": prepared.name, "candidates": auto.candidates(job), "gates": limits, **run}

    def work(folder: Path) -> None:
        train = Dataset.open(prepared / "train.parquet")
        write_json(folder / "choice.json", auto.choose(job, train, teller("choose")))

    return stage(root, "choose", inputs, work, code=("data", "generators", "evaluators", "flows"))


def fit(job: Job, root: Path, prepared: Path) -> Done:
    """The trained model, model/. A killed fit goes on from its checkpoint."""
    generator = generator_of(job, schema_of(prepared / "train.parquet"))
    inputs = {"prepared": prepared.name, "generator": recipe(generator), "seed": job.seed, "minutes": job.minutes, "device": job.device}

    def work(folder: Path) -> None:
        train = Dataset.open(prepared / "train.parquet")
        checkpoints = folder / "checkpoints"
        checkpoints.mkdir(exist_ok=True)
        fitted = generator.fit(train, seed=job.seed, minutes=job.minutes, device=job.device, folder=checkpoints, progress=teller("fit"))
        fitted.save(folder / "model")
        shutil.rmtree(checkpoints)

    return stage(root, "fit", inputs, work, code=("data", "generators"), resumes=True)


def draw(job: Job, root: Path, prepared: Path, fitted: Path) -> Done:
    """The synthetic rows, streamed: rows.parquet; out of how many draws, draws.json; and what sampling them cost, cost.json.

    frames.parquet holds a few images on their way when the model makes them step by step.
    """
    from generators.drawing import Tally

    rows = job.rows or pq.read_metadata(prepared / "train.parquet").num_rows

    def work(folder: Path) -> None:
        model, began, tally = load(fitted), time.process_time(), Tally(teller("draw"))
        avoid = Dataset.open(prepared / "train.parquet") if model.schema.modality == "text" else None
        write_stream(model.stream(rows, seed=job.seed, avoid=avoid, tally=tally), folder / "rows.parquet", rows)
        write_json(folder / "draws.json", tally.to_json())
        write_json(folder / "cost.json", {"rows": rows, "cpu_seconds": round(time.process_time() - began, 3)})
        if frames := model.frames(UNFOLDED, FRAMES, seed=job.seed):
            frames.save(folder / "frames.parquet")

    return stage(root, "draw", {"fitted": fitted.name, "rows": rows, "seed": job.seed}, work, code=("data", "generators"))


def judge(job: Job, root: Path, prepared: Path, fitted: Path, drawn: Path) -> Done:
    """Utility, fidelity and privacy of several samples of the model, the drawn rows among them: scores.json; and the private page.

    inspect.html shows real rows beside synthetic ones. It stays here: no release holds it.
    """
    from evaluators.inspect import inspect
    from evaluators.protocol import EFFORT
    from evaluators.tabular import judged_as

    def work(folder: Path) -> None:
        real = Split(Dataset.open(prepared / "train.parquet"), Dataset.open(prepared / "test.parquet"))
        model = load(fitted)
        effort = EFFORT[judged_as(real.train.schema)]
        n = min(len(real.train), effort.rows)
        first = head(drawn / "rows.parquet", n)
        samples = [first] if len(first) == n else [model.sample(n, seed=job.seed)]
        samples += [model.sample(n, seed=job.seed + i) for i in range(1, effort.samples)]
        write_json(folder / "scores.json", scores(real, samples, job.seed, job.database))
        page = inspect(real, samples[0], str(read_json(prepared / "source.json")["name"]), seed=job.seed)
        (folder / "inspect.html").write_text(page, encoding="utf-8")

    asked = {"database": hashlib.sha256(Path(job.database).read_bytes()).hexdigest()} if job.database else {}
    return stage(root, "judge", {"drawn": drawn.name, "seed": job.seed, **asked}, work, code=("data", "generators", "evaluators"))


def scores(real: Split, samples: list[Dataset], seed: int, database: str | None = None) -> dict[str, Any]:
    """The three judgements of samples of one model (or one table), as JSON; `database` is where SQL is run."""
    from evaluators.fidelity import fidelity
    from evaluators.likeness import likeness
    from evaluators.privacy import privacy
    from evaluators.protocol import utility
    from evaluators.tabular import judged_as
    from evaluators.text import executing
    from evaluators.wording import wording

    alike: dict[str, Callable[..., dict[str, Any]]] = {"tabular": fidelity, "text": partial(wording, database=database), "image": likeness}
    tell = teller("judge")
    tell(0, 3, "utility: judges learn on synthetic rows, scored on real ones")
    result = {"utility": utility(real, samples, seed=seed, judges={"seq2seq": executing(database)} if database else None)}
    tell(1, 3, "fidelity: how like the real rows, and a detector")
    result["fidelity"] = alike[judged_as(real.train.schema)](real.train, real.test, samples[0], seed=seed)
    tell(2, 3, "privacy: copies, distances, membership")
    result["privacy"] = privacy(real.train, real.test, samples[0], seed=seed)
    tell(3, 3, "judged")
    return result


# ---- small things


def schema_of(path: Path) -> Schema:
    """The schema in the footer of a file of rows."""
    return Schema.from_json(json.loads(pq.read_metadata(path).metadata[b"alfar.schema"]))


def load(folder: Path) -> Fitted:
    """The model of a `fit` folder or a release."""
    from generators.fitted import Fitted

    return Fitted.load(folder / "model" if (folder / "model").is_dir() else folder)


def recipe(generator: Generator) -> dict[str, Any]:
    """A generator's name and every parameter, as JSON."""
    from generators.fitted import parameters
    from generators.registry import name_of

    return {"name": name_of(type(generator)), "parameters": parameters(generator)}


def write_stream(chunks: Iterator[Dataset], path: Path, rows: int) -> None:
    """One parquet file out of a stream of chunks, one of them in memory at a time."""
    tell, done = teller("draw"), 0
    writer = None
    for chunk in chunks:
        if writer is None:
            schema = chunk.schema.arrow.with_metadata({b"alfar.schema": json.dumps(chunk.schema.to_json()).encode()})
            writer = pq.ParquetWriter(path, schema, compression="zstd")
        writer.write_table(chunk.table.cast(schema))
        done += len(chunk)
        tell(done, rows, "rows drawn")
    if writer:
        writer.close()


def stream(path: Path) -> Iterator[Dataset]:
    """The rows of a parquet file that `write_stream` wrote, a row group at a time."""
    schema = schema_of(path)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(65_536):
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
