"""Rows as they are asked for: with given values, under a condition, in given shares, and keeping the constraints of their schema.

What can be asked of the model is: a `Conditional` draws given values and the parts of a condition that concern one column each by
itself; any other generator draws, and what does not match is thrown away. What is decoded is tested exactly in both cases, so no row
that was not asked for comes out, and the distribution is the model's own, conditioned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from data.conditions import Condition
from data.constraints import row_keys, words
from data.errors import BadInput, suggest
from data.schema import Column, Constraint, Dataset, Schema
from data.terms import TEXT, TRUTH, Test, marked, sort_of
from data.texts import Texts
from generators.base import Choosing, Conditional, Rows, Translating
from generators.choosing import choice

if TYPE_CHECKING:
    from generators.fitted import Fitted

FIRST = 4096  # draws from which it is seen how often a condition is met
LARGEST = 65_536  # draws at a time
RAREST = 500_000  # draws in a row without a match after which a condition is given up
Shares = tuple[str, Mapping[str, float]]  # a column, and the share of rows that each of its values gets; all the same when it is empty


@dataclass
class Tally:
    """What came of the draws so far; `progress` is told how many of the rows are made."""

    progress: Callable[[int, int, str], None] = lambda done, total, text: None
    drawn: int = 0
    kept: int = 0
    turned: dict[str, int] = field(default_factory=dict)  # what was asked -> the draws that were thrown away for it
    elsewhere: float = 0.0  # CPU seconds of other processes that drew

    @property
    def rate(self) -> float:
        """The share of the draws that became rows."""
        return self.kept / max(1, self.drawn)

    def turn(self, what: str, rows: int) -> None:
        """So many rows were thrown away for this."""
        if rows:
            self.turned[what] = self.turned.get(what, 0) + rows

    def to_json(self) -> dict[str, Any]:
        return {"drawn": self.drawn, "kept": self.kept, "rate": round(self.rate, 6), "rejected": dict(self.turned)}


class Wish:
    """The rows of one kind: those with the given values that meet all conditions. BadInput when a value never occurs."""

    def __init__(self, fitted: Fitted, given: Mapping[str, object], conditions: list[Condition], pool: Pool | None = None):
        self.fitted, self.conditions, layout = fitted, conditions, fitted.layout
        computed = set(fitted.schema.names) - layout.plain
        wanted = dict(given)
        for condition in conditions:
            wanted |= {name: value for name, value in condition.fixed.items() if name not in computed and name not in given}
        check_ranges(fitted.schema, wanted)
        self.fixed = {name: value for name, value in wanted.items() if name not in computed}  # what the model is given
        self.exact = {name: equals(fitted.schema[name], value) for name, value in wanted.items() if name in computed}
        tests = [layout.tests({**condition.tests, **self.exact}) for condition in conditions] or [layout.tests(self.exact)]
        self.tests = {name: all_of([t[name] for t in tests if name in t]) for t in tests for name in t if name not in self.fixed}
        self.codes = fitted.codec.condition(self.fixed)
        self.weights: dict[int, torch.Tensor] = {}
        self.pool = pool
        if isinstance(fitted.generator, Conditional | Translating):
            self.weights = fitted.codec.weights(self.tests, self.fixed)  # type: ignore[attr-defined]

    @property
    def rare(self) -> bool:
        """May many draws have to be thrown away?"""
        return not self.weights and bool(self.fixed or self.exact or self.conditions)

    def draw(self, n: int, rng: torch.Generator) -> Rows:
        """Rows out of n draws that have the given values."""
        generator, net = self.fitted.generator, self.fitted.net
        if isinstance(generator, Translating) and self.pool:
            return generator.translate(net, self.pool.take(n, self.weights))
        if isinstance(generator, Conditional) and self.weights:
            return generator.sample_where(net, n, rng, self.weights)
        rows = generator.sample(net, n, rng)
        if self.codes:
            found = self.fitted.codec.matches(rows, self.codes)
            rows = tuple(t[found] for t in rows)
        return rows

    def decode(self, rows: Rows, numbers: np.random.Generator, start: int, seed: int) -> pa.Table:
        """Rows as a table, with exactly the given values."""
        if not len(rows[0]):
            return self.fitted.schema.arrow.empty_table()
        inner = self.fitted.codec.decode(rows, numbers, start=start, seed=seed)
        return self.fitted.layout.backward(fixed(inner, self.fixed)).table

    def misses(self, table: pa.Table) -> dict[str, np.ndarray]:
        """bool [n]: the rows that are not as wanted, by what was asked."""
        found = {f"{name} = …": ~test(table[name].combine_chunks()) for name, test in self.exact.items()}
        return found | {condition.text: ~condition.mask(table) for condition in self.conditions}


class Drawing:
    """One stream of rows. Chunk i depends on (seed, i) alone, but for `unique` constraints, which remember 8 bytes a row."""

    def __init__(self, fitted: Fitted, seed: int, tally: Tally, avoid: Dataset | None):
        self.fitted, self.seed, self.tally = fitted, seed, tally
        self.texts = Texts.of(fitted.schema, avoid)
        self.unseen = Unseen(fitted.layout.rules.unique)
        self.ids = [c.name for c in fitted.schema.columns if c.kind == "id"]

    def rows(self, wish: Wish, n: int, start: int, rng: torch.Generator, numbers: np.random.Generator, of: int) -> pa.Table:
        """n of the `of` rows of the stream; `start` numbers the first of them. BadInput when they are too rare."""
        parts: list[pa.Table] = []
        have = drawn = dry = 0
        size, several = min(n, FIRST) if wish.rare else n, self.several
        while have < n:
            rows = wish.draw(size * several, rng)
            table = wish.decode(rows, numbers, start + have, self.seed)
            keep = self.unseen.take(table, self.chosen(rows, self.passing(wish, table), size, rng), n - have, self.tally)
            table_rows, draws = table.num_rows, len(rows[0]) if wish.weights else size * several
            if len(keep) < table_rows or table_rows < draws:
                table = self.renumbered(wish, rows, table, keep, start + have)
            parts.append(table)
            have, drawn, dry = have + len(keep), drawn + draws, 0 if len(keep) else dry + draws
            last = keep[-1] + 1 if have == n and several == 1 else table_rows  # what lies beyond the last row says nothing of the rate
            self.tally.drawn += round(draws * last / table_rows) if table_rows else draws
            self.tally.kept += len(keep)
            self.tally.progress(self.tally.kept, of, f"rows made out of {self.tally.drawn:,} draws")
            if dry >= RAREST or (wish.weights and not draws):
                raise BadInput(self.hopeless(wish, have, drawn))
            size = 4 * size if not have else int(max(256, 1.1 * (n - have) * drawn / have) / several)
            size = max(1, min(LARGEST // several, size))
        return pa.concat_tables(parts)

    def passing(self, wish: Wish, table: pa.Table) -> np.ndarray:
        """int64 [m]: the rows that are as wanted and keep the constraints."""
        layout = self.fitted.layout
        wrong = np.zeros(table.num_rows, dtype=bool)
        outside = {f"the range of {name}": rows for name, rows in layout.outside(table).items()}
        for what, rows in {**wish.misses(table), **layout.rules.broken(table), **outside, **self.texts.unfit(table)}.items():
            wrong |= rows
            self.tally.turn(what, int(rows.sum()))
        return np.flatnonzero(~wrong)

    @property
    def several(self) -> int:
        """How many rows are drawn for each that is kept."""
        generator = self.fitted.generator
        return generator.several(self.fitted.net) if isinstance(generator, Choosing) else 1

    def chosen(self, rows: Rows, passing: np.ndarray, n: int, rng: torch.Generator) -> np.ndarray:
        """int64 [m], rising: about n of the rows that pass; all of them unless the generator has them chosen."""
        generator = self.fitted.generator
        if not isinstance(generator, Choosing) or self.several == 1 or not len(passing):
            return passing
        tokens, labels = rows[0][passing], rows[1][passing]
        wanted = divided(n, np.bincount(rows[1].numpy()))
        found = choice(tokens, generator.sure(self.fitted.net, (tokens, labels)), labels, torch.from_numpy(wanted), rng)
        self.tally.turn("a row that says less than others", len(passing) - len(found))
        return passing[found.numpy()]

    def renumbered(self, wish: Wish, rows: Rows, table: pa.Table, keep: np.ndarray, start: int) -> pa.Table:
        """The rows that are kept, their ids without gaps."""
        table = table.take(pa.array(keep))
        if self.ids and len(keep):
            again = self.fitted.codec.decode(tuple(t[keep] for t in rows), np.random.default_rng(0), start=start, seed=self.seed).table
            for name in self.ids:
                table = table.set_column(table.column_names.index(name), table.schema.field(name), again[name])
        return table

    def mixed(self, parts: list[pa.Table], numbers: np.random.Generator) -> pa.Table:
        """Rows of several kinds in random order; ids stay in theirs."""
        table = pa.concat_tables(parts)
        order = table.take(pa.array(numbers.permutation(table.num_rows)))
        for name in self.ids:
            order = order.set_column(order.column_names.index(name), order.schema.field(name), table[name])
        return order

    def hopeless(self, wish: Wish, have: int, drawn: int) -> str:
        """Why no more rows are drawn, with the frequency that was seen."""
        asked = [repr(name) for name in wish.fixed | wish.exact] + [f"{c.text!r:.80}" for c in wish.conditions]
        turned = sorted(self.tally.turned.items(), key=lambda item: -item[1])
        names = " and ".join(asked or [f"{what!r:.80}" for what, _ in turned[:3]])
        if not asked:
            have, drawn = self.tally.kept, self.tally.drawn
        hint = " that already have the given values and pass the parts about one column each" if wish.weights else ""
        what = "the condition on" if asked else "the constraints"
        end = f"; loosen {'the condition' if asked else 'them, or ask for fewer rows'}"
        if not drawn:
            return f"{what} {names} is met too rarely: the model makes no such row, however often it is asked{end}"
        return f"{what} {names} is met too rarely: {have:,} of {drawn:,} draws{hint} matched, none of the last {min(drawn, RAREST):,}{end}"


class Pool:
    """Rows (x [n, ...], y int64 [n]) that are given out in a random order; after the last comes the first again."""

    def __init__(self, rows: Rows, rng: torch.Generator):
        order = torch.randperm(len(rows[0]), generator=rng)
        self.rows, self.next = tuple(t[order] for t in rows[:2]), 0

    def take(self, n: int, weights: Mapping[int, torch.Tensor]) -> Rows:
        """The next n, or as many as have a wanted label among the next round of all."""
        size = len(self.rows[0])
        places = (self.next + torch.arange(size if weights else n)) % size
        if weights:
            places = places[weights[0][self.rows[1][places]] > 0][:n]
        self.next = int(places[-1] + 1) % size if len(places) else 0
        return tuple(t[places] for t in self.rows)


class Unseen:
    """Keeps what `unique` constraints forbid to repeat: a sorted array of 64-bit digests each."""

    def __init__(self, constraints: tuple[Constraint, ...]):
        self.seen = {c: np.zeros(0, dtype=np.uint64) for c in constraints}

    def take(self, table: pa.Table, rows: np.ndarray, n: int, tally: Tally) -> np.ndarray:
        """The first n of these rows, int64 [m], that repeat nothing; they are remembered, and repeats are counted."""
        digests = {}
        for constraint, seen in self.seen.items():
            where, keys = row_keys(table, constraint.columns)
            whole = np.zeros(table.num_rows, dtype=np.uint64)
            counts = np.zeros(table.num_rows, dtype=bool)
            whole[where], counts[where] = keys, True
            digests[constraint] = whole, counts
            place = np.minimum(np.searchsorted(seen, whole[rows]), max(0, len(seen) - 1))
            known = seen[place] == whole[rows] if len(seen) else np.zeros(len(rows), dtype=bool)
            first = np.zeros(len(rows), dtype=bool)
            first[np.unique(whole[rows], return_index=True)[1]] = True
            fresh = ~counts[rows] | (first & ~known)
            tally.turn(words(constraint), int((~fresh).sum()))
            rows = rows[fresh]
        rows = rows[:n]
        for constraint, (whole, counts) in digests.items():
            new = np.sort(whole[rows[counts[rows]]])
            self.seen[constraint] = np.insert(self.seen[constraint], np.searchsorted(self.seen[constraint], new), new)
        return rows


# ---- shares


def strata(schema: Schema, shares: Shares) -> list[tuple[dict[str, object], list[Condition], float]]:
    """(given values, conditions, share) of each kind of rows. BadInput for a column without categories, or shares that make no sense."""
    name, wanted = shares
    if name not in schema.names:
        raise BadInput(f"there is no column {name!r} to balance{suggest(name, schema.names)}")
    column = schema[name]
    if column.kind not in ("category", "boolean"):
        raise BadInput(f"column {name!r} is of kind {column.kind}: only the values of a category or boolean column have shares")
    values = column.categories
    for value, share in wanted.items():
        if value not in values:
            raise BadInput(f"column {name!r} has no value {value!r}{suggest(value, values)}")
        if not 0 <= share <= 1:
            raise BadInput(f"the share of {name}={value} is {share:g}; it should lie between 0 and 1")
    if not wanted:
        return [({name: value}, [], 1 / len(values)) for value in values]
    rest = 1 - sum(wanted.values())
    found: list[tuple[dict[str, object], list[Condition], float]] = [({name: value}, [], share) for value, share in wanted.items()]
    if rest < -1e-9 or (rest > 1e-9 and set(wanted) == set(values)):
        raise BadInput(f"the shares of the values of {name!r} add up to {1 - rest:g}; they should add up to 1")
    if rest > 1e-9:
        other = " or ".join([f'"{name}" not in ({", ".join(spelt(column, value) for value in wanted)})', f'"{name}" is null'])
        found.append(({}, [Condition.parse(other, schema)], rest))
    return found


def divided(n: int, amounts: np.ndarray) -> np.ndarray:
    """int64 [k]: n in whole parts, as near as can be to the proportions of `amounts`."""
    exact = n * amounts / amounts.sum()
    parts = np.floor(exact + 1e-9).astype(np.int64)
    parts[np.argsort(parts - exact, kind="stable")[: n - parts.sum()]] += 1
    return parts


# ---- small things


def check_ranges(schema: Schema, wanted: Mapping[str, object]) -> None:
    """BadInput when a quantity is to have a value beyond those it has."""
    for name, value in wanted.items():
        column = schema[name] if name in schema.names else None
        if column is None or not column.is_number or column.low is None or column.high is None or value is None:
            continue
        try:
            number = column.numbers(pa.array([value]).cast(column.arrow))[0]
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            continue  # the codec says what is wrong with it
        if not column.low <= number <= column.high:
            low, high = (column.array(np.array([end]))[0].as_py() for end in (column.low, column.high))
            raise BadInput(f"{name!r} cannot be {str(value)[:40]}: its values lie between {low} and {high}")


def equals(column: Column, value: object) -> Test:
    """Is a value of the column this one?"""
    try:
        array = pa.array([value]).cast(column.arrow)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        raise BadInput(f"the condition sets {column.name!r} to {value!r}, which is not a value of type {column.type}") from None
    if column.categories and value is not None and column.strings(array)[0].as_py() not in column.categories:
        raise BadInput(f"{column.name!r} is never {str(value)[:40]!r}{suggest(str(value), column.categories)}")
    return lambda values: marked(pc.is_null(values) if value is None else pc.equal(values, array[0]), False)


def all_of(tests: list[Test]) -> Test:
    """Do all pass?"""
    return lambda values: np.logical_and.reduce([test(values) for test in tests])


def spelt(column: Column, value: str) -> str:
    """A category as a condition writes it."""
    sort = sort_of(column)
    return "'" + value.replace("'", "''") + "'" if sort == TEXT else value.lower() if sort == TRUTH else value


def fixed(chunk: Dataset, given: Mapping[str, object]) -> Dataset:
    """The chunk with the given columns holding exactly the given values (a code may stand for a small range of them)."""
    table = chunk.table
    for name, value in given.items():
        column = pa.array([value] * len(chunk)).cast(chunk.schema[name].arrow)
        table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
    return Dataset(chunk.schema, table)
