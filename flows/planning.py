"""From a job to a plan: the source read, its schema known, the rows split, and all that can be wrong with what was asked found out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from data import releases, sources
from data.arrow import fingerprint
from data.constraints import constrain
from data.errors import BadInput, suggest
from data.schema import Dataset, Schema, Split
from data.sources import images
from data.split import split
from flows import auto
from flows.hooks import permitted
from flows.job import Job

if TYPE_CHECKING:
    from generators.base import Generator

LEAST_TEST_ROWS = 10


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

    permitted(job)
    auto.candidates(job) if auto.wanted(job) else named(job)
    source = read(job.source.spec, job, job.source.query)
    table = without(source.table, job.drop)
    target = job.target or (source.target if source.target in table.column_names else None)
    kinds = {name: kind for name, kind in source.kinds.items() if name in table.column_names} | job.kinds
    orders = {name: [str(value) for value in values] for name, values in job.orders.items()}
    task = job.task or (source.task if target == source.target else None)
    whole = constrain(Dataset.of(table, Schema.infer(table, target=target, kinds=kinds, orders=orders, task=task)), job.constraints)
    known = {"name": source.name, "fingerprint": source.fingerprint, "rows": len(whole), "notes": list(source.notes)}
    known |= {"of": source.of} if source.of else {}
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
        able = ", ".join(registry.serving(whole.schema)) or "none"
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
    source = sources.read(
        spec,
        query=query,
        delimiter=how.delimiter,
        encoding=how.encoding,
        size=how.size,
        crop=how.crop,
        kinds=job.kinds,
        rows=how.sample,
    )
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

    name = str((job.generator or {}).get("name", registry.DEFAULT.get(schema.task, registry.DEFAULT.get(schema.modality, ""))))
    if registry.modality_of(name) != schema.modality:
        able = ", ".join(registry.serving(schema)) or "none: drop columns (--drop) or give them another --kind"
        raise BadInput(f"{name or 'no generator'} does not learn data of kind {schema.modality}; what does: {able}")
    given = {k: v for k, v in (job.generator or {}).items() if k != "name"}
    return registry.make(name, given if job.epsilon is None else private(name, given))


def private(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """What is given of a recipe's fields, on those that suit a fit under epsilon. BadInput when the generator cannot make one."""
    from generators import registry
    from generators.private import installed

    installed()
    suited = registry.get(name).private
    if suited is None:
        able = ", ".join(n for n in registry.names() if registry.get(n).private is not None)
        raise BadInput(f"{name} cannot be fitted under epsilon; what can: {able}")
    training = given.get("training", {})
    return {**suited, **given, "training": {**suited["training"], **training}} if isinstance(training, Mapping) else given


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


def recipe(generator: Generator) -> dict[str, Any]:
    """A generator's name and every parameter, as JSON."""
    from generators.fitted import parameters
    from generators.registry import name_of

    return {"name": name_of(type(generator)), "parameters": parameters(generator)}
