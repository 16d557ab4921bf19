"""Rules that every row keeps, as part of a Schema: written in the job, published with the release, checked on the files as written.

    "pickup <= dropoff"        any condition of `data.conditions`; as in SQL's CHECK, null is not against it
    "total = net + tax"        a formula, which holds to the grid of the column that it gives
    {unique: [customer, day]}  no two rows have the same values there; rows with a null among them do not count
    {combinations: [city, country]}         only combinations that occur in the real table, in at least `RARE` rows
    {increasing: [created, shipped]}        each at least the one before it

`Rules` finds the rows that are against them; `data.layout` makes most of them true by construction.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from data.conditions import Condition, shown
from data.errors import BadInput, suggest
from data.schema import RARE, Constraint, Dataset, Schema
from data.terms import NUMBER, SECOND, Term, sort_of, whole

MOST = 100  # constraints of a table
KINDS = ("unique", "combinations", "increasing")
EXACT = {"float": 1e-5, "halffloat": 1e-2}  # share of a value to which a continuous formula holds, by type; 1e-9 otherwise


@dataclass(frozen=True)
class Rule:
    """A constraint that rows keep one by one. `formula` is (column, the term that gives it), `condition` what has to hold otherwise."""

    constraint: Constraint
    condition: Condition | None
    formula: tuple[str, Term] | None

    @classmethod
    def of(cls, constraint: Constraint, schema: Schema) -> Rule:
        """BadInput when it does not fit the schema."""
        if constraint.kind == "combinations":
            return cls(constraint, None, None)
        condition = Condition.parse(constraint.text or in_order(constraint.columns), schema)
        return cls(constraint, condition, formula(condition, schema))

    def broken(self, table: pa.Table, schema: Schema) -> np.ndarray:
        """bool [n]: the rows that are against it."""
        if self.condition is None:
            known = pa.array([combined(value) for value in self.constraint.values], pa.string())
            return ~pc.is_in(combinations(table, self.constraint.columns, schema), value_set=known).to_numpy(zero_copy_only=False)
        if self.formula is None:
            return self.condition.broken(table)
        name, term = self.formula
        column, wanted = schema[name], computed(schema, name, term, table)
        found = column.numbers(whole(table[name]))
        size = np.maximum(np.abs(found), np.abs(wanted))
        slack = 0.5 * column.step * (1 + 1e-6) + 1e-12 * size if column.step else EXACT.get(column.type, 1e-9) * size
        return np.abs(found - wanted) > slack


@dataclass(frozen=True)
class Rules:
    """The constraints of a schema, read. `rules` concern rows one by one, `unique` all of them together."""

    schema: Schema
    rules: tuple[Rule, ...]
    unique: tuple[Constraint, ...]

    @classmethod
    def of(cls, schema: Schema) -> Rules:
        """BadInput names the constraint that does not fit the schema."""
        single = tuple(Rule.of(c, schema) for c in schema.constraints if c.kind != "unique")
        return cls(schema, single, tuple(c for c in schema.constraints if c.kind == "unique"))

    def broken(self, table: pa.Table) -> dict[str, np.ndarray]:
        """The rows, bool [n], that are against each constraint which concerns rows one by one."""
        return {words(rule.constraint): rule.broken(table, self.schema) for rule in self.rules}


def constrain(data: Dataset, said: Sequence[Any]) -> Dataset:
    """The dataset with these constraints, as a job says them, in its schema.

    BadInput when one cannot be read or does not hold in the table; it tells in how many rows, and nothing of them.
    """
    if len(said) > MOST:
        raise BadInput(f"there are {len(said)} constraints; at most {MOST} are kept")
    schema = replace(data.schema, constraints=tuple(dict.fromkeys(bound(read(one, data.schema), data) for one in said)))
    rules = Rules.of(schema)
    for rule in rules.rules:
        rare = rule.constraint.kind == "combinations"  # those of the table that are missing are too rare to be made, not wrong
        refuse(rule.constraint, 0 if rare else int(rule.broken(data.table, schema).sum()), len(data))
        if rule.formula:
            name, term = rule.formula
            apart = np.isnan(computed(schema, name, term, data.table)) != np.isnan(schema[name].numbers(data.table[name]))
            refuse(rule.constraint, int(apart.sum()), len(data), "one side is null and the other is not")
    for constraint in rules.unique:
        keys = row_keys(data.table, constraint.columns)[1]
        refuse(constraint, len(keys) - len(np.unique(keys)), len(data))
    return Dataset(schema, data.table)


def refuse(constraint: Constraint, rows: int, of: int, why: str = "it does not hold") -> None:
    """BadInput when there is any such row."""
    if rows:
        raise BadInput(
            f"the constraint {shown(words(constraint))}: in {rows:,} of {of:,} real rows {why}; mend the table or leave the constraint out"
        )


def read(said: Any, schema: Schema) -> Constraint:
    """A constraint as a job says it: text, or a mapping of one of three words to columns."""
    if isinstance(said, str):
        return Constraint("condition", said)
    if not isinstance(said, Mapping) or len(said) != 1:
        raise BadInput(f"a constraint is a condition as text, or one of {', '.join(KINDS)} with its columns, not {shown(said)}")
    [(kind, columns)] = said.items()
    if kind not in KINDS:
        raise BadInput(f"there is no constraint {shown(kind)}{suggest(str(kind), KINDS)}")
    least = 1 if kind == "unique" else 2
    if not isinstance(columns, (list, tuple)) or len(set(map(str, columns))) < max(least, len(columns)):
        raise BadInput(f"the constraint {kind} takes a list of at least {least} different column{'s' * (least > 1)}")
    for name in columns:
        if name not in schema.names:
            raise BadInput(f"the constraint {kind} names column {shown(name)}, which does not exist{suggest(str(name), schema.names)}")
        if schema[name].kind in ("image", "mask", "text") or (schema[name].kind == "id" and kind != "unique"):
            raise BadInput(f"the constraint {kind} names column {name!r}, which is of kind {schema[name].kind}: leave it out")
    return Constraint(kind, columns=tuple(columns))


def bound(constraint: Constraint, data: Dataset) -> Constraint:
    """The constraint with the combinations of the table that may be published."""
    if constraint.kind != "combinations":
        return constraint
    counts = pc.value_counts(combinations(data.table, constraint.columns, data.schema))
    values = sorted(v["values"] for v in counts.to_pylist() if v["counts"] >= RARE)
    if not values:
        raise BadInput(f"the constraint {shown(words(constraint))}: no combination occurs in {RARE} rows, so none can be made")
    return replace(constraint, values=tuple(tuple(json.loads(value)) for value in values))


def words(constraint: Constraint) -> str:
    """A constraint in the words of the command line."""
    return constraint.text or f"{constraint.kind}: {', '.join(constraint.columns)}"


# ---- conditions


def in_order(columns: Sequence[str]) -> str:
    """The condition that columns increase: neighbours, then every other pair, so that a null in between hides nothing."""
    pairs = sorted(itertools.combinations(range(len(columns)), 2), key=lambda pair: pair[1] - pair[0])
    return " and ".join(f'"{columns[a]}" <= "{columns[b]}"' for a, b in pairs)


def formula(condition: Condition, schema: Schema) -> tuple[str, Term] | None:
    """(column, term) when the whole condition is `column = term`, with a quantity that is no part of the term."""
    if len(condition.parts) != 1:
        return None
    for comparison in condition.comparisons[0]:
        name, term = comparison.left, comparison.right
        if comparison.sign == "=" and term.columns and name not in term.columns and schema[name].is_number:
            return name, term
    return None


def computed(schema: Schema, name: str, term: Term, table: pa.Table) -> np.ndarray:
    """float64 [n]: what the term gives, in the units of `Column.numbers`; NaN where null."""
    found = term.run({column: whole(table[column]) for column in term.columns})
    scale = SECOND if sort_of(schema[name]) == NUMBER and pa.types.is_duration(schema[name].arrow) else 1
    return np.asarray(pc.fill_null(found, np.nan).to_numpy(zero_copy_only=False)) * scale


# ---- several columns as one


def combined(values: Sequence[str | None]) -> str:
    """One combination as one text."""
    return json.dumps(list(values), ensure_ascii=False)


def combinations(table: pa.Table, columns: Sequence[str], schema: Schema) -> pa.Array:
    """string [n]: each row's combination as `combined` writes it."""
    parts = [schema[name].strings(table[name]).dictionary_encode() for name in columns]
    codes = np.zeros(table.num_rows, dtype=np.int64)
    for part in parts:
        code = part.indices.cast(pa.int64()).fill_null(-1).to_numpy()
        codes = np.unique(codes * (len(part.dictionary) + 1) + code + 1, return_inverse=True)[1]
    first, place = np.unique(codes, return_index=True)[1], codes
    spelt = pa.array([combined(v) for v in zip(*(part.take(pa.array(first)).to_pylist() for part in parts), strict=True)], pa.string())
    return spelt.take(pa.array(place))


def row_keys(table: pa.Table, columns: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(rows int64 [m], digests uint64 [m]): the rows without a null in these columns, and 64 bits of their values there."""
    chosen = table.select(list(columns))
    present = np.logical_and.reduce([c.is_valid().to_numpy() for c in chosen.columns])
    rows = np.flatnonzero(present)
    keys = np.zeros(len(rows), dtype=np.uint64)
    for values in chosen.take(pa.array(rows)).columns:
        text = values.cast(pa.string()).to_pandas()
        part = np.asarray(pd.util.hash_pandas_object(text, index=False, categorize=False), dtype=np.uint64)
        keys = (keys ^ part) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)
        keys ^= keys >> np.uint64(29)
    return rows, keys
