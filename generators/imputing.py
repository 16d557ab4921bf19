"""Nulls of tables filled by P(missing | present): rows are completed by a `Completing` until they keep the constraints of their schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from data.constraints import Rule, computed, words
from data.errors import BadInput
from data.layout import Derived
from data.schema import Dataset
from data.terms import marked, whole
from generators.base import Completing
from generators.drawing import Tally, Unseen
from generators.train import mix

if TYPE_CHECKING:
    from generators.fitted import Fitted

ROUNDS = 60  # tries for a row that does not keep the constraints
BLOCK = 16_384  # rows completed at a time


def imputed(fitted: Fitted, generator: Completing, data: Dataset, seed: int) -> Dataset:
    """The data without nulls, but for ids. BadInput as in `Fitted.impute`."""
    schema, layout = fitted.schema, fitted.layout
    columns = [c for c in schema.columns if c.kind != "id"]
    empty = {c.name: data.table[c.name].is_null().to_numpy() for c in columns}
    for rule in layout.rules.rules:
        check_known(rule, data, empty)
    holes = np.logical_or.reduce(list(empty.values()))
    whole_rows, rows = np.flatnonzero(~holes), np.flatnonzero(holes)
    unseen = Unseen(layout.rules.unique)
    unseen.take(data.table, whole_rows, len(data), Tally())
    parts = [data.table.take(pa.array(whole_rows))]
    for number, begin in enumerate(range(0, len(rows), BLOCK)):
        parts.append(completed(fitted, generator, data.take(rows[begin : begin + BLOCK]), seed, number, unseen))
    order = np.argsort(np.concatenate([whole_rows, rows]))
    return Dataset(schema, pa.concat_tables(parts).take(pa.array(order)).combine_chunks())


def completed(fitted: Fitted, generator: Completing, data: Dataset, seed: int, number: int, unseen: Unseen) -> pa.Table:
    """Block `number` of rows with nulls, filled."""
    codec: Any = fitted.codec
    layout = fitted.layout
    rng, numbers = torch.Generator().manual_seed(mix(seed, number, 11)), np.random.default_rng([seed, number, 11])
    weights = codec.weights(layout.tests({c.name: valid for c in fitted.schema.columns if c.nullable and c.kind != "id"}), {})
    known, rows = layout.known(data.table), codec.encode(layout.forward(data), numbers)
    there = torch.zeros(rows[0].shape, dtype=torch.bool)
    for name, place in zip(codec.names, codec.positions, strict=True):
        there[:, place] = torch.from_numpy(known[name])[:, None]
    left, parts, order = np.arange(len(data)), [], []
    for _ in range(ROUNDS):
        given = data.table.take(pa.array(left))
        drawn = generator.complete(fitted.net, tuple(t[left] for t in rows), there[left], rng, weights)
        inner = codec.decode(drawn, numbers, start=0, seed=seed)
        made = layout.backward(Dataset(inner.schema, kept(given, inner.table, layout.plain))).table
        table = filled(fitted, given, made)
        keep = unseen.take(table, np.flatnonzero(fits(fitted, given, table, made)), len(left), Tally())
        parts.append(table.take(pa.array(keep)))
        order.append(left[keep])
        left = np.delete(left, keep)
        if not len(left):
            return pa.concat_tables(parts).take(pa.array(np.argsort(np.concatenate(order))))
    names = ", ".join(words(c) for c in fitted.schema.constraints)
    raise BadInput(f"in {len(left):,} rows no values were found for the nulls that keep the constraints ({names}): mend these rows")


def check_known(rule: Rule, data: Dataset, empty: dict[str, np.ndarray]) -> None:
    """BadInput when values that are there are against a constraint already."""
    if rule.condition is None:
        return
    rows = int(rule.broken(data.table, data.schema).sum())
    if rows:
        raise BadInput(f"{words(rule.constraint)!r} does not hold in {rows:,} of {len(data):,} rows of the table: mend them first")


def filled(fitted: Fitted, table: pa.Table, made: pa.Table) -> pa.Table:
    """What is there, and what was made where nothing is; a term of a formula whose result is there is solved for."""
    merged = kept(table, made, {c.name for c in fitted.schema.columns if c.kind != "id"})
    arrays = {c.name: whole(table[c.name] if c.kind == "id" else merged[c.name]) for c in fitted.schema.columns}
    for d in fitted.layout.derived:
        if d.sign:
            continue
        free = [name for name in d.term.columns if table[name].null_count and fitted.schema[name].is_number]
        for name in sorted(free):
            rows = table[name].is_null().to_numpy() & table[d.name].is_valid().to_numpy()
            arrays[name] = pc.if_else(pa.array(rows), solved(fitted, d, name, arrays), arrays[name])
    return pa.table([arrays[name] for name in table.column_names], schema=table.schema)


def kept(given: pa.Table, made: pa.Table, columns: set[str]) -> pa.Table:
    """What was made; in these columns what is given, where it is."""
    arrays = [pc.coalesce(whole(given[name]), whole(made[name])) if name in columns else made[name] for name in made.column_names]
    return pa.table(arrays, schema=made.schema)


def solved(fitted: Fitted, d: Derived, name: str, arrays: dict[str, pa.Array]) -> pa.Array:
    """The values of one column of a linear formula that give its result; any values where it is not linear."""
    schema, column = fitted.schema, fitted.schema[name]
    n, unit = len(arrays[name]), column.step or 1.0

    def at(number: float) -> np.ndarray:
        values = {**arrays, name: column.array(np.full(n, number))}
        return computed(schema, d.name, d.term, pa.table({c: values[c] for c in d.term.columns}))

    wanted = schema[d.name].numbers(arrays[d.name])
    with np.errstate(divide="ignore", invalid="ignore"):
        found = unit * (wanted - at(0.0)) / (at(unit) - at(0.0))
    return column.array(np.nan_to_num(found, posinf=0.0, neginf=0.0), np.zeros(n, dtype=bool))


def fits(fitted: Fitted, given: pa.Table, table: pa.Table, made: pa.Table) -> np.ndarray:
    """bool [n]: the filled rows of which no cell is null, what is given agrees with what was made, and the constraints hold."""
    layout = fitted.layout
    empty = {c.name: ~valid(whole(given[c.name])) for c in fitted.schema.columns if c.kind != "id"}
    wrong = ~np.logical_and.reduce([valid(whole(table[name])) for name in empty])
    for name, rows in layout.outside(table).items():
        wrong |= rows & empty[name]
    for columns in layout.joint.values():
        some = np.logical_or.reduce([empty[c] for c in columns])
        wrong |= some & ~np.logical_and.reduce([marked(pc.equal(whole(table[c]), whole(made[c])), False) for c in columns])
    for rule in layout.rules.rules:
        touched = True if rule.condition else np.logical_or.reduce([empty[c] for c in rule.constraint.columns])
        wrong |= rule.broken(table, fitted.schema) & touched
    return ~wrong


def valid(values: pa.Array) -> np.ndarray:
    """bool [n]: which are not null."""
    return np.asarray(values.is_valid().to_numpy(zero_copy_only=False), dtype=bool)
