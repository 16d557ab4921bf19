"""What a condition is computed with: checked terms over the columns of an Arrow table, in SQL's logic of three values.

A term knows what its values are, so that numbers, text, truth values, dates and times of day are never mixed. Numbers are float64,
durations seconds, dates microseconds since 1970, times of day microseconds; null stays null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.schema import Column

SECOND = 1_000_000  # microseconds

NUMBER, TEXT, TRUTH = "numbers", "text", "truth values"
MOMENT, INSTANT, CLOCK = "dates", "dates with a zone", "times of day"
ORDER: dict[str, tuple[str, Callable[..., Any]]] = {
    "EQ": ("=", pc.equal),
    "NEQ": ("<>", pc.not_equal),
    "LT": ("<", pc.less),
    "LTE": ("<=", pc.less_equal),
    "GT": (">", pc.greater),
    "GTE": (">=", pc.greater_equal),
}
SUMS: dict[str, Callable[..., Any]] = {"Add": pc.add, "Sub": pc.subtract, "Mul": pc.multiply, "Div": pc.divide}


Test = Callable[[pa.Array], np.ndarray]  # values of one column -> bool [n]: which pass
Values = Mapping[str, Any]  # a column's name -> its values
Run = Callable[[Values], Any]  # -> an array with as many entries, or a scalar


@dataclass(frozen=True)
class Term:
    """A checked part of a condition: what its values are, the columns it reads, how it is computed. `literal` is a constant as written."""

    sort: str
    columns: frozenset[str]
    run: Run
    literal: Any = None


def reading(column: Column) -> Callable[[Any], Any]:
    """How a column's values are brought into the unit in which they are compared."""
    if sort_of(column) == TEXT:
        return column.strings
    if sort_of(column) == TRUTH:
        return lambda values: values.cast(pa.bool_())
    unit = SECOND if pa.types.is_duration(column.arrow) else 1
    return lambda values: pa.array(column.numbers(values) / unit, from_pandas=True)


def sort_of(column: Column) -> str:
    """What a column holds, by its type: a code that stands in the table as text is text."""
    kind = column.arrow
    if pa.types.is_boolean(kind):
        return TRUTH
    if pa.types.is_date(kind) or (pa.types.is_timestamp(kind) and kind.tz is None):
        return MOMENT
    if pa.types.is_timestamp(kind):
        return INSTANT
    if pa.types.is_time(kind):
        return CLOCK
    return TEXT if pa.types.is_string(kind) or pa.types.is_large_string(kind) else NUMBER


def added(name: str, left: str, right: str) -> str | None:
    """What comes of a computation: numbers, a date moved by seconds, the seconds between two dates; None when it makes no sense."""
    dates = (MOMENT, INSTANT)
    if left == right == NUMBER:
        return NUMBER
    if name == "Sub" and left == right and left in dates:
        return NUMBER
    if left in dates and right == NUMBER and name in ("Add", "Sub"):
        return left
    return right if right in dates and left == NUMBER and name == "Add" else None


def computed(name: str, sort: str, left: Term, right: Term) -> Term:
    """left + - * / right."""
    work, dates = SUMS[name], {left.sort, right.sort} - {NUMBER}
    scale = [SECOND if dates and sort != NUMBER and term.sort == NUMBER else 1 for term in (left, right)]

    def run(values: Values) -> Any:
        a, b = (pc.multiply(term.run(values), float(unit)) for term, unit in zip((left, right), scale, strict=True))
        if name == "Div":
            b = pc.if_else(pc.equal(b, 0.0), pa.scalar(None, pa.float64()), b)
        return pc.divide(work(a, b), float(SECOND)) if dates and sort == NUMBER else work(a, b)

    return Term(sort, left.columns | right.columns, run)


def constant(sort: str, value: Any) -> Term:
    """A literal."""
    scalar = pa.scalar(value)
    return Term(sort, frozenset(), lambda values: scalar, value)


def compared(left: Term, right: Term, name: str) -> Term:
    """left < right and the like."""
    work = ORDER[name][1]
    return Term(TRUTH, left.columns | right.columns, lambda values: work(left.run(values), right.run(values)))


def among(value: Term, choices: list[Any]) -> Term:
    """value in (…)."""
    known = pa.array(choices)

    def run(values: Values) -> Any:
        found = value.run(values)
        return pc.if_else(pc.is_null(found), pa.scalar(None, pa.bool_()), pc.is_in(found, value_set=known))

    return Term(TRUTH, value.columns, run)


def like(value: Term, pattern: str) -> Term:
    """value like 'A_%'; a backslash is a backslash."""
    escaped = pattern.replace("\\", "\\\\")
    return Term(TRUTH, value.columns, lambda values: pc.match_like(value.run(values), escaped))


def negated(term: Term) -> Term:
    """not term."""
    return Term(TRUTH, term.columns, lambda values: pc.invert(term.run(values)))


def joined(terms: list[Term], work: Callable[[Any, Any], Any]) -> Term:
    """Terms joined by and, or by or."""

    def run(values: Values) -> Any:
        found = terms[0].run(values)
        for term in terms[1:]:
            found = work(found, term.run(values))
        return found

    return Term(TRUTH, frozenset().union(*(term.columns for term in terms)), run)


def whole(values: Any) -> Any:
    """One contiguous array, dictionaries resolved."""
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def marked(truth: Any, null: bool) -> np.ndarray:
    """bool [n] of an array of true, false and null."""
    return np.asarray(pc.fill_null(truth, null).to_numpy(zero_copy_only=False), dtype=bool)
