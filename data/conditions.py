"""Conditions on the rows of a table, written as in SQL's WHERE: "age > 60 and sex = 'Female'".

    and  or  not  ( )     =  <>  <  <=  >  >=     [not] in (…)     [not] between … and …     [not] like 'A_%'     is [not] null
    + - * / of numbers; two dates subtracted are seconds; "names with spaces" in double quotes; dates as '2024-05-01 08:30'

The text is not trusted. sqlglot parses it, and every node of the tree must be one of those above: no function, subquery or cast is known
here, so none can run. What passes becomes a tree of pyarrow computations with SQL's logic of three values: a comparison with null is
neither true nor false. Durations count in seconds, a division by zero is null, `like` tells capitals from small letters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import BadInput, suggest
from data.schema import Column, Schema
from data.terms import (
    CLOCK,
    INSTANT,
    MOMENT,
    NUMBER,
    ORDER,
    SECOND,
    SUMS,
    TEXT,
    TRUTH,
    Term,
    Test,
    added,
    among,
    compared,
    computed,
    constant,
    joined,
    like,
    marked,
    negated,
    reading,
    sort_of,
    whole,
)

LONGEST = 20_000  # characters of a condition
WORDS = 5_000  # words and signs of a condition
DEEPEST = 40  # brackets and operators inside each other
TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "<>": "<>"}


@dataclass(frozen=True)
class Comparison:
    """`left sign right`, where left is a column; the sign `is null` has nothing at its right."""

    left: str
    sign: str
    right: Term


@dataclass(frozen=True)
class Condition:
    """A condition on the rows of one schema. `parts` are what its outermost `and` joins."""

    text: str
    schema: Schema
    parts: tuple[Term, ...]
    comparisons: tuple[tuple[Comparison, ...], ...]  # of each part, both ways round; empty when it is no comparison of a column

    @classmethod
    def parse(cls, text: str, schema: Schema) -> Condition:
        """BadInput, in one sentence, for whatever is not a condition on these columns."""
        reader = Reader(text, schema)
        nodes = [unwrapped(node) for node in flat(unwrapped(parsed(text)), "And")]
        parts = tuple(reader.truth(node, 0) for node in nodes)
        if not all(part.columns for part in parts):
            raise BadInput(f"the condition {shown(text)} has a part that names no column: it is always true or never")
        return cls(text, schema, parts, tuple(tuple(reader.comparisons(node)) for node in nodes))

    @property
    def columns(self) -> list[str]:
        """The columns that it reads, in the schema's order."""
        return [name for name in self.schema.names if any(name in part.columns for part in self.parts)]

    def truth(self, table: pa.Table) -> pa.Array:
        """boolean [n]: true, false or null, row by row."""
        values = {name: whole(table[name]) for name in self.columns}
        found: Any = pa.scalar(True)
        for part in self.parts:
            found = pc.and_kleene(found, part.run(values))
        return found

    def mask(self, table: pa.Table) -> np.ndarray:
        """bool [n]: where the condition is true. Null is not true."""
        return marked(self.truth(table), False)

    def broken(self, table: pa.Table) -> np.ndarray:
        """bool [n]: where the condition is false. Null is not false: so SQL reads a CHECK."""
        return ~marked(self.truth(table), True)

    @cached_property
    def tests(self) -> dict[str, Test]:
        """What the parts that read one column each ask of it: a row outside of any of them is outside of the condition."""
        alone = {name: tuple(part for part in self.parts if part.columns == {name}) for name in self.columns}
        return {name: tested(name, parts) for name, parts in alone.items() if parts}

    @cached_property
    def fixed(self) -> dict[str, Any]:
        """The values that parts of the form `column = value` or `column is null` demand, where the column's type can hold them."""
        found: dict[str, Any] = {}
        for comparison in (c for both in self.comparisons for c in both):
            if comparison.sign == "is null":
                found[comparison.left] = None
            if comparison.sign == "=" and comparison.right.literal is not None:
                value = held(self.schema[comparison.left], comparison.right.literal)
                if value is not None:
                    found[comparison.left] = value
        return found


# ---- from text to a checked tree


def parsed(text: str) -> Any:
    """sqlglot's tree of a text that is neither long nor deep."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    if not text.strip():
        raise BadInput("the condition is empty: write one such as \"age > 60 and sex = 'Female'\"")
    if len(text) > LONGEST:
        raise BadInput(f"the condition has {len(text):,} characters; at most {LONGEST:,} are read")
    try:
        words = sqlglot.tokenize(text)
        if len(words) > WORDS:
            raise BadInput(f"the condition {shown(text)} has {len(words):,} words and signs; at most {WORDS:,} are read")
        return sqlglot.parse_one(text, into=exp.Condition)
    except RecursionError:
        raise BadInput(f"the condition {shown(text)} is nested too deeply") from None
    except (SqlglotError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        at = (getattr(error, "errors", None) or [{}])[0].get("highlight")
        near = f" near {shown(at)}" if at else ""
        raise BadInput(
            f"the condition {shown(text)} cannot be read{near}: write it as in SQL's WHERE, text in single quotes, "
            "column names that are not one plain word in double quotes"
        ) from None


@dataclass(frozen=True)
class Reader:
    """Turns sqlglot's nodes into terms; whatever it does not know is refused."""

    text: str
    schema: Schema

    def refuse(self, why: str) -> BadInput:
        """The error of this condition."""
        return BadInput(f"the condition {shown(self.text)}: {why}")

    def parts(self, node: Any, depth: int, *known: str) -> list[Any]:
        """What stands at these places of a node; anything at another place is unknown grammar."""
        if depth > DEEPEST:
            raise self.refuse("it is nested too deeply")
        foreign = [key for key, value in node.args.items() if value and key not in known]
        if foreign:
            raise self.refuse(f"{shown(node.sql())} is more than a condition may say")
        return [node.args.get(key) for key in known]

    def truth(self, node: Any, depth: int) -> Term:
        """A term that is true, false or null."""
        name, deeper = type(node).__name__, depth + 1
        if name == "Paren":
            return self.truth(self.parts(node, depth, "this")[0], deeper)
        if name in ("And", "Or"):
            self.parts(node, depth, "this", "expression")
            return joined([self.truth(inner, deeper) for inner in flat(node, name)], pc.and_kleene if name == "And" else pc.or_kleene)
        if name == "Not":
            return negated(self.truth(self.parts(node, depth, "this")[0], deeper))
        if name in ORDER:
            left, right = self.agreed([self.value(inner, deeper) for inner in self.parts(node, depth, "this", "expression")])
            return compared(left, right, name)
        if name == "Between":
            value, low, high = self.agreed([self.value(inner, deeper) for inner in self.parts(node, depth, "this", "low", "high")])
            return joined([compared(value, low, "GTE"), compared(value, high, "LTE")], pc.and_kleene)
        if name == "In":
            one, many = self.parts(node, depth, "this", "expressions")
            value = self.value(one, deeper)
            if not many:
                raise self.refuse("`in` takes a list of values in brackets")
            choices = [self.agreed([value, self.literal(item, deeper)]) for item in many]
            return among(choices[0][0], [choice.literal for _, choice in choices])
        if name == "Like":
            one, pattern, negate = self.parts(node, depth, "this", "expression", "negate")
            value = self.value(one, deeper)
            if value.sort != TEXT or not is_text(pattern):
                raise self.refuse("`like` compares a column of text with a pattern in single quotes")
            found = like(value, pattern.this)
            return negated(found) if negate else found
        if name == "Is":
            one, other = self.parts(node, depth, "this", "expression")
            if type(other).__name__ != "Null":
                raise self.refuse("`is` goes with null or not null")
            inner = self.value(one, deeper)
            return Term(TRUTH, inner.columns, lambda values: pc.is_null(inner.run(values)))
        found = self.value(node, depth)
        if found.sort != TRUTH:
            raise self.refuse(f"{shown(node.sql())} holds {found.sort} and is neither true nor false: compare it with something")
        return found

    def value(self, node: Any, depth: int) -> Term:
        """A column, a constant or a computation."""
        name, deeper = type(node).__name__, depth + 1
        if name == "Paren":
            return self.value(self.parts(node, depth, "this")[0], deeper)
        if name == "Column":
            return self.column(self.parts(node, depth, "this")[0])
        if name in ("Literal", "Boolean"):
            return self.literal(node, depth)
        if name == "Neg":
            inner = self.value(self.parts(node, depth, "this")[0], deeper)
            if inner.sort != NUMBER:
                raise self.refuse(f"a minus stands before {inner.sort}")
            literal = None if inner.literal is None else -inner.literal
            return Term(NUMBER, inner.columns, lambda values: pc.negate(inner.run(values)), literal)
        if name in SUMS:
            known = ("this", "expression", "typed", "safe") if name == "Div" else ("this", "expression")
            left, right = (self.value(inner, deeper) for inner in self.parts(node, depth, *known)[:2])
            sort = added(name, left.sort, right.sort)
            if sort is None:
                raise self.refuse(f"{shown(node.sql())} computes with {left.sort} and {right.sort}")
            return computed(name, sort, left, right)
        if name == "Null":
            raise self.refuse("a comparison with null is never true: write `is null` or `is not null`")
        raise self.refuse(
            f"{shown(node.sql())} is not something a condition may say: it takes columns, values, comparisons, in, between, like, is null, "
            "and, or, not, and + - * /"
        )

    def column(self, node: Any) -> Term:
        """A column's values in the unit in which they are compared: float64 numbers, seconds or microseconds, text, or truth values."""
        name = node.name
        if name not in self.schema.names:
            quoted = [known for known in self.schema.names if name in known and not known.isidentifier()]
            hint = f'; did you mean "{quoted[0]}", in double quotes?' if quoted else suggest(name, self.schema.names)
            raise self.refuse(f"there is no column {shown(name)}{hint}")
        column = self.schema[name]
        if column.kind in ("id", "image", "mask"):
            what = "an identifier, which is made anew" if column.kind == "id" else f"an {column.kind}"
            raise self.refuse(f"column {name!r} is {what}: no condition can be made of it")
        read = reading(column)
        return Term(sort_of(column), frozenset([name]), lambda values: read(values[name]))

    def literal(self, node: Any, depth: int) -> Term:
        """A constant. Text stays text until `agreed` knows what it is compared with."""
        if type(node).__name__ == "Neg":
            return replace(self.value(node, depth), columns=frozenset())
        if type(node).__name__ == "Boolean":
            return constant(TRUTH, bool(node.this))
        if type(node).__name__ != "Literal":
            raise self.refuse(f"{shown(node.sql())} should be a plain value" + (": null is in no list" if node.sql() == "NULL" else ""))
        if node.is_string:
            return constant(TEXT, node.this)
        number = float(node.this)
        if not math.isfinite(number):
            raise self.refuse(f"the number {shown(node.this)} is too large")
        return constant(NUMBER, number)

    def agreed(self, terms: list[Term]) -> list[Term]:
        """Terms that can be compared with the first; text among dates is read as a date."""
        first = next((term for term in terms if term.columns), terms[0])
        found = []
        for term in terms:
            if term.sort != first.sort and term.sort == TEXT and isinstance(term.literal, str) and first.sort in (MOMENT, INSTANT, CLOCK):
                term = constant(first.sort, self.date(term.literal, first))
            if term.sort != first.sort:
                names = " and ".join(repr(name) for name in sorted(first.columns)) or "it"
                other = f"not {term.sort}" if term.literal is None else f"which {shown(str(term.literal))} is not"
                hint = ": put it in single quotes" if first.sort == TEXT and term.literal is not None else ""
                raise self.refuse(f"{names} holds {first.sort}, {other}{hint}")
            found.append(term)
        return found

    def date(self, text: str, term: Term) -> float:
        """Microseconds of a date or a time of day, in the zone of the column that it is compared with."""
        try:
            if term.sort == CLOCK:
                clock = time.fromisoformat(text)
                return float(((clock.hour * 60 + clock.minute) * 60 + clock.second) * SECOND + clock.microsecond)
            moment = datetime.fromisoformat(text)
        except ValueError:
            example = "'08:30'" if term.sort == CLOCK else "'2024-05-01' or '2024-05-01 08:30'"
            raise self.refuse(f"{shown(text)} is not one of the {term.sort}: write it like {example}") from None
        if term.sort == MOMENT and moment.tzinfo is not None:
            raise self.refuse(f"{shown(text)} has a zone, but the column has none")
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone(self.schema, term.columns) if term.sort == INSTANT else UTC)
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
        return float((since.days * 86_400 + since.seconds) * SECOND + since.microseconds)

    def comparisons(self, node: Any) -> list[Comparison]:
        """The two ways to read `column sign something`; one when the other side is no column; none for anything else."""
        if type(node).__name__ == "Is" and type(unwrapped(node.this)).__name__ == "Column":
            return [Comparison(unwrapped(node.this).this.name, "is null", self.value(node.this, 0))]
        if type(node).__name__ not in ORDER:
            return []
        sign = ORDER[type(node).__name__][0]
        sides = [unwrapped(node.this), unwrapped(node.expression)]
        terms = self.agreed([self.value(side, 0) for side in sides])
        found = []
        for side, other, read in ((0, 1, sign), (1, 0, TURNED[sign])):
            if type(sides[side]).__name__ == "Column":
                found.append(Comparison(sides[side].this.name, read, terms[other]))
        return found


# ---- small things


def tested(name: str, parts: tuple[Term, ...]) -> Test:
    """Do all of these parts, which read this column alone, hold?"""
    return lambda values: np.logical_and.reduce([marked(part.run({name: whole(values)}), False) for part in parts])


def held(column: Column, literal: Any) -> Any:
    """The value as the column's type holds it; None when it cannot hold exactly this one."""
    if sort_of(column) in (TEXT, TRUTH):
        return literal
    number = float(literal) * (SECOND if pa.types.is_duration(column.arrow) else 1)
    array = column.array(np.array([number]))
    return array[0].as_py() if column.numbers(array)[0] == number else None


def zone(schema: Schema, columns: frozenset[str]) -> Any:
    """The zone of the first of these columns."""
    name = schema[min(columns)].arrow.tz
    return datetime.fromisoformat(f"2000-01-01T00:00{name}").tzinfo if name[0] in "+-" else ZoneInfo(name)


def flat(node: Any, name: str) -> list[Any]:
    """What a chain of one operator joins, from left to right, without going deep."""
    found = []
    while type(node).__name__ == name:
        found.append(node.expression)
        node = node.this
    return [node, *reversed(found)]


def unwrapped(node: Any) -> Any:
    """Without the brackets around it."""
    while type(node).__name__ == "Paren":
        node = node.this
    return node


def is_text(node: Any) -> bool:
    """Is it text in single quotes?"""
    return type(node).__name__ == "Literal" and bool(node.is_string)


def shown(text: str) -> str:
    """A text as an error shows it: one short line."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())
    return repr(plain if len(plain) <= 60 else plain[:59] + "…")
