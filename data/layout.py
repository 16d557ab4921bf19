"""Constraints by construction: the table that is learnt is not the table that is made, and whatever is learnt of it obeys.

    column = term        the column is left out and computed                          (formula)
    column >= term       column - term is learnt, a quantity that is never negative   (gap; <= likewise, < and > too)
    combinations         the columns are learnt as one category of the combinations that may occur

A layout follows from the schema alone, so a model file keeps nothing for it. What it cannot arrange (a second rule on a column, nulls,
single columns) is left to rejection: `Layout.outside` and `data.constraints.Rules` find the rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from data.constraints import Rules, combinations, computed
from data.schema import Column, Dataset, Schema
from data.terms import Term, Test, whole

WIDEST = 1e300  # the largest gap above a computed value


@dataclass(frozen=True)
class Derived:
    """A column that is `term + sign * gap`; sign 0 leaves no gap. `least` is the smallest gap."""

    name: str
    term: Term
    sign: int
    least: float


@dataclass(frozen=True)
class Layout:
    """`schema` is that of the rows, `inner` of what is learnt. `derived` stand in the order in which they are computed."""

    schema: Schema
    inner: Schema
    derived: tuple[Derived, ...]
    joint: Mapping[str, tuple[str, ...]]  # a column of `inner` -> the columns that it stands for

    @classmethod
    def of(cls, schema: Schema) -> Layout:
        """The layout that makes as many constraints as it can true."""
        rules = Rules.of(schema).rules
        found: dict[str, Derived] = {}
        for rule in rules:
            if rule.formula and free(rule.formula[0], rule.formula[1], found):
                found[rule.formula[0]] = Derived(*rule.formula, 0, 0.0)
        gaps: dict[str, Column] = {}
        for rule in rules:
            for both in rule.condition.comparisons if rule.condition and not rule.formula else ():
                pairs = zip(both, [c.left for c in reversed(both)] if len(both) == 2 else [None], strict=False)
                for comparison, other in sorted(pairs, key=lambda pair: pair[0].sign[0] != ">"):  # rather the larger by the smaller
                    name, term = comparison.left, comparison.right
                    sign = {"<": -1, ">": 1}.get(comparison.sign[0], 0) if comparison.sign != "<>" else 0
                    present = term.columns and not any(schema[c].nullable for c in term.columns | {name})
                    if sign and present and schema[name].is_number and free(name, term, found):
                        gaps[name] = gap(schema[name], schema[other] if other else None, sign, strict="=" not in comparison.sign)
                        found[name] = Derived(name, term, sign, gaps[name].low or 0.0)
                        break
        joint: dict[str, tuple[str, ...]] = {}
        for rule in rules:
            columns = rule.constraint.columns if rule.constraint.kind == "combinations" else ()
            if columns and not set(columns) & (set(found) | {c for known in joint.values() for c in known}):
                joint[unused(" + ".join(columns), schema.names)] = columns
        return cls(schema, inner(schema, found, gaps, joint), tuple(in_turn(found)), joint)

    @property
    def plain(self) -> set[str]:
        """The columns that are learnt as they are."""
        return set(self.schema.names) - {d.name for d in self.derived} - {c for columns in self.joint.values() for c in columns}

    def forward(self, data: Dataset) -> Dataset:
        """The table that is learnt."""
        if self.inner is self.schema:
            return data
        arrays = {name: whole(data.table[name]) for name in self.plain}
        for d in self.derived:
            if d.sign:
                numbers = self.schema[d.name].numbers(data.table[d.name]) - computed(self.schema, d.name, d.term, data.table)
                arrays[d.name] = self.inner[d.name].array(np.nan_to_num(d.sign * numbers), np.isnan(numbers))
        for name, columns in self.joint.items():
            arrays[name] = combinations(data.table, columns, self.schema)
        return Dataset(self.inner, pa.table([arrays[name] for name in self.inner.names], schema=self.inner.arrow))

    def backward(self, data: Dataset) -> Dataset:
        """The rows of a table that was made as it was learnt."""
        if self.inner is self.schema:
            return data
        arrays = {name: whole(data.table[name]) for name in self.plain}
        for name, columns in self.joint.items():
            arrays |= self.apart(columns, whole(data.table[name]))
        for d in self.derived:
            numbers = computed(self.schema, d.name, d.term, pa.table({c: arrays[c] for c in d.term.columns}))
            if d.sign:
                numbers = numbers + d.sign * np.maximum(self.inner[d.name].numbers(data.table[d.name]), d.least)
            null = ~np.isfinite(numbers)
            arrays[d.name] = self.schema[d.name].array(np.where(null, 0.0, numbers), null)
        return Dataset(self.schema, pa.table([arrays[name] for name in self.schema.names], schema=self.schema.arrow))

    def apart(self, columns: tuple[str, ...], values: pa.Array) -> dict[str, pa.Array]:
        """Combinations taken apart again."""
        found = values.dictionary_encode()
        parts = [json.loads(word) for word in found.dictionary.to_pylist()]
        return {
            name: pa.array([part[i] for part in parts], pa.string()).cast(self.schema[name].arrow).take(found.indices)
            for i, name in enumerate(columns)
        }

    def outside(self, table: pa.Table) -> dict[str, np.ndarray]:
        """bool [n] for each computed column: where it leaves its range, or is null and may not be."""
        found = {}
        for d in self.derived:
            column = self.schema[d.name]
            numbers = column.numbers(whole(table[d.name]))
            found[d.name] = np.isnan(numbers) & (not column.nullable)
            if column.low is not None and column.high is not None:
                found[d.name] |= (numbers < column.low) | (numbers > column.high)
        return found

    def tests(self, tests: Mapping[str, Test]) -> dict[str, Test]:
        """What tests of columns ask of the columns that are learnt; tests of computed columns are left out."""
        found = {name: test for name, test in tests.items() if name in self.plain}
        for name, columns in self.joint.items():
            asked = {column: tests[column] for column in columns if column in tests}
            if asked:
                found[name] = self.of_parts(columns, asked)
        return found

    def of_parts(self, columns: tuple[str, ...], asked: Mapping[str, Test]) -> Test:
        """A test of combinations that asks this of their parts."""

        def test(values: pa.Array) -> np.ndarray:
            parts = self.apart(columns, whole(values).fill_null(json.dumps([None] * len(columns))))
            return np.logical_and.reduce([ask(parts[name]) for name, ask in asked.items()])

        return test

    def known(self, table: pa.Table) -> dict[str, np.ndarray]:
        """bool [n] for each column that is learnt: the rows in which all that it is made of is there."""
        present = {name: table[name].is_valid().to_numpy() for name in self.schema.names}
        found = {name: present[name] for name in self.plain}
        for d in self.derived:
            if d.sign:
                found[d.name] = np.logical_and.reduce([present[c] for c in (d.name, *d.term.columns)])
        return found | {name: np.logical_and.reduce([present[c] for c in columns]) for name, columns in self.joint.items()}

    @cached_property
    def rules(self) -> Rules:
        """What every row has to keep."""
        return Rules.of(self.schema)


def free(name: str, term: Term, found: Mapping[str, Derived]) -> bool:
    """May this column be computed by this term: not computed otherwise, and no part of what the term itself is computed by?"""
    reach, new = set(), set(term.columns)
    while new:
        reach |= new
        new = {c for n in new if n in found for c in found[n].term.columns} - reach
    return name not in found and name not in reach


def in_turn(found: Mapping[str, Derived]) -> list[Derived]:
    """Each after those that its term reads."""
    order: list[Derived] = []
    while len(order) < len(found):
        done = {d.name for d in order}
        order += [d for d in found.values() if d.name not in done and not (d.term.columns & found.keys()) - done]
    return order


def gap(column: Column, other: Column | None, sign: int, strict: bool) -> Column:
    """The column that a gap is learnt as; between two columns it has their grid and range."""
    if other is None:
        return Column(column.name, "number", "double", low=0.0, high=WIDEST)
    fine, coarse = sorted((column.step, other.step))
    step = fine if fine and abs(coarse / fine - round(coarse / fine)) < 1e-9 else 0.0
    upper, lower = (column, other) if sign > 0 else (other, column)
    widest = upper.high - lower.low if upper.high is not None and lower.low is not None else WIDEST
    least = step if strict else 0.0
    return Column(column.name, "number", "double", step=step, low=least, high=max(widest, least))


def inner(schema: Schema, found: Mapping[str, Derived], gaps: Mapping[str, Column], joint: Mapping[str, tuple[str, ...]]) -> Schema:
    """The schema of what is learnt."""
    if not found and not joint:
        return schema
    names = {columns[0]: name for name, columns in joint.items()}
    gone = {c for columns in joint.values() for c in columns} | {d.name for d in found.values() if not d.sign}
    columns, target = [], schema.target
    for column in schema.columns:
        if column.name in names:
            columns.append(Column(names[column.name], "category", "string"))
        elif column.name not in gone:
            columns.append(gaps.get(column.name, column))
    if target in gone:
        target = next((name for name, parts in joint.items() if target in parts), None)
    task = schema.task if target else "density"
    return Schema(task, target, tuple(columns))


def unused(name: str, names: list[str]) -> str:
    """The name, made longer until no column has it."""
    while name in names:
        name += "+"
    return name
