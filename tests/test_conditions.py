"""Conditions: what SQL says of a row, Alfar says; what is not a condition is refused in one sentence and nothing runs."""

import re
import sqlite3
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.conditions import Condition
from data.errors import BadInput
from data.schema import Column, Schema

TYPES = {"x": pa.float64(), "n": pa.int64(), "word": pa.string(), "other name": pa.string(), "day": pa.date32(), "flag": pa.bool_()}
KINDS = {"x": "number", "n": "integer", "word": "category", "other name": "category", "day": "datetime", "flag": "boolean"}
SCHEMA = Schema("density", None, tuple(Column(name, KINDS[name], str(kind)) for name, kind in TYPES.items()))
DAYS = [date(2024, 1, 1) + timedelta(days=i) for i in range(4)]
CELLS = {
    "x": st.sampled_from([-1.5, 0.0, 0.25, 2.0, 3.0]),
    "n": st.integers(-2, 3),
    "word": st.sampled_from(["a", "Ab", "aB%", "b_c", "it's", "ñ"]),
    "other name": st.sampled_from(["a", "b"]),
    "day": st.sampled_from(DAYS),
    "flag": st.booleans(),
}
ROWS = st.lists(st.fixed_dictionaries({name: st.none() | cell for name, cell in CELLS.items()}), min_size=1, max_size=12)

number = st.recursive(
    st.sampled_from(["x", "n", "2", "0.5", "-1", "(n)"]),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    max_leaves=4,
)
words = st.sampled_from(["word", '"other name"', "'a'", "'it''s'"])
days = st.sampled_from(["day", "'2024-01-02'", "'2024-01-03'"])
sign = st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="])
simple = st.one_of(
    *(st.tuples(side, sign, side).map(" ".join) for side in (number, words)),
    st.tuples(st.just("day"), sign, days).map(" ".join),
    st.tuples(number, number, number).map(lambda t: f"{t[0]} between {t[1]} and {t[2]}"),
    st.tuples(number, st.lists(st.sampled_from(["1", "-2", "0.25", "3"]), min_size=1)).map(lambda t: f"{t[0]} in ({', '.join(t[1])})"),
    st.tuples(st.sampled_from(["word in", "word not in"]), st.sampled_from(["('a')", "('Ab', 'it''s')"])).map(" ".join),
    st.tuples(st.sampled_from(["word like", "word not like"]), st.sampled_from(["'a%'", "'_B%'", "'%''s'", "'%'"])).map(" ".join),
    st.tuples(st.sampled_from(list(KINDS)), st.sampled_from(["is null", "is not null"])).map(lambda t: f'"{t[0]}" {t[1]}'),
    st.sampled_from(["flag", "flag = true", "flag <> false"]),
)
conditions = st.recursive(
    simple,
    lambda inner: (
        inner.map(lambda c: f"not ({c})") | st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({' '.join(t)})")
    ),
    max_leaves=5,
)


def table(rows: list[dict]) -> pa.Table:
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in TYPES.items()})


def in_sqlite(rows: list[dict], text: str) -> list[bool]:
    """Which rows SQLite selects; numbers as real, since its division of integers drops the rest."""
    with sqlite3.connect(":memory:") as db:
        db.execute("pragma case_sensitive_like = on")
        db.execute('create table t (i int, x real, n real, word text, "other name" text, day text, flag int)')
        for i, row in enumerate(rows):
            plain = [v.isoformat() if isinstance(v, date) else v for v in (row[name] for name in TYPES)]
            db.execute("insert into t values (?, ?, ?, ?, ?, ?, ?)", [i, *plain])
        found = {i for (i,) in db.execute(f"select i from t where {text}")}
    return [i in found for i in range(len(rows))]


@settings(max_examples=250, deadline=None)
@given(ROWS, conditions)
def test_a_condition_selects_what_sqlite_selects(rows, text):
    text = re.sub(r"(?<![\w.'-])(\d+)(?![\w.'-])", r"\1.0", text)  # SQLite again
    with suppress(BadInput):  # a part that names no column
        agrees(Condition.parse(text, SCHEMA), rows, text)


def agrees(condition: Condition, rows: list[dict], text: str) -> None:
    made = table(rows)
    assert condition.mask(made).tolist() == in_sqlite(rows, text)
    assert condition.broken(made).tolist() == in_sqlite(rows, f"not ({text})")
    for name, test in condition.tests.items():
        assert not (condition.mask(made) & ~test(made[name].combine_chunks())).any(), "a test lets everything through that matches"
    assert set(condition.tests) <= set(condition.columns)


ZONE = "Europe/Madrid"
TIMES = Schema(
    "density",
    None,
    (
        Column("seen", "datetime", f"timestamp[us, tz={ZONE}]"),
        Column("left at", "datetime", "timestamp[us]"),
        Column("born", "datetime", "date32[day]", step=86_400_000_000),
        Column("opens", "integer", "time64[us]"),
        Column("wait", "integer", "duration[us]", step=1_000_000),
        Column("code", "category", "string", categories=("007",)),
        Column("key", "id", "string"),
    ),
)


def times() -> pa.Table:
    noon = datetime(2024, 7, 1, 12, tzinfo=UTC)
    return pa.table(
        {
            "seen": pa.array([noon, None], pa.timestamp("us", ZONE)),
            "left at": pa.array([datetime(2024, 7, 1, 8, 30), datetime(2024, 7, 2)], pa.timestamp("us")),
            "born": pa.array([date(2024, 7, 1), date(2024, 6, 1)]),
            "opens": pa.array([8 * 3_600_000_000, None], pa.time64("us")),
            "wait": pa.array([90_000_000, 10_000_000], pa.duration("us")),
            "code": pa.array(["007", "7"]).dictionary_encode(),
            "key": ["a", "b"],
        }
    )


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        ("seen = '2024-07-01 14:00'", [1, 0]),  # the column's zone
        ("seen = '2024-07-01T12:00:00+00:00'", [1, 0]),
        ('"left at" > born', [1, 1]),
        ('"left at" - born >= 30600 and wait < 91', [1, 1]),  # seconds
        ('born + wait < "left at"', [1, 1]),
        ("opens < '08:30'", [1, 0]),
        ("code = '007'", [1, 0]),
        ("wait in (90)", [1, 0]),
        ("wait / 0 > 1", [0, 0]),
        ("not seen > '2025-01-01'", [1, 0]),
    ],
)
def test_dates_durations_and_codes(text, mask):
    assert Condition.parse(text, TIMES).mask(times()).astype(int).tolist() == mask


def test_the_parts_that_fix_a_value():
    found = Condition.parse("born = '2024-07-01' and (code = '007') and 90 = wait and seen is null and \"left at\" > born", TIMES).fixed
    assert found == {"born": date(2024, 7, 1), "code": "007", "wait": timedelta(seconds=90), "seen": None}
    assert not Condition.parse("born = '2024-07-01 10:00' or code = '007'", TIMES).fixed
    assert not Condition.parse("born = '2024-07-01 10:00'", TIMES).fixed, "no value of the column's type"


HOSTILE = [
    "",
    "   ",
    "-- all of it",
    "word = 'a'; drop table t",
    "word = 'a' union select 1",
    "(select 1)",
    "word in (select word from t)",
    "exists(select 1)",
    "n = (select max(n) from t)",
    "load_extension('x') = 1",
    "lower(word) = 'a'",
    "cast(n as text) = '1'",
    "n::text = '1'",
    "case when n then x end = 1",
    "t.n = 1",
    "n = @x",
    "n = ?",
    "n = :x",
    "* = 1",
    "n = x'41'",
    "word || 'b' = 'ab'",
    "word like 'a' escape '!'",
    "word like word",
    "n % 2 = 0",
    "n & 1 = 1",
    "current_timestamp > day",
    "n over () = 1",
    "n = 1 group by n",
    "n = 1 limit 1",
    "1 = 1",
    "n = 1 and true",
    "n = null",
    "n in ()",
    "n in (1, null)",
    "n in (x)",
    "n = 1e999",
    "n = 'one'",
    "word = 1",
    "word < 2.5",
    "flag = 1",
    "day = 'yesterday'",
    "day = '2024-01-01T00:00+02:00'",
    "day + word > 1",
    "-word = 'a'",
    "x",
    "n < x < 3",
    "wrod = 'a'",
    "other name = 'a'",
    "\0",
    "word = 'a",
    "(" * 5000 + "n = 1" + ")" * 5000,
    "not " * 5000 + "flag",
    "- " * 5000 + "n = 1",
    "n" + " + n" * 5000 + " = 1",
    f"n in ({', '.join(['1'] * 50_000)})",
    "word = '" + "a" * 100_000 + "'",
    " and ".join(["n = 1"] * 50_000),
    "flag or " * 2000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_condition_is_refused_in_one_sentence(text):
    with pytest.raises(BadInput) as caught:
        Condition.parse(text, SCHEMA)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 400


PIECES = ["n", "x", "word", "(", ")", "and", "or", "not", "=", "<", "in", "'a'", "1", ".", ";", "*", "select", ",", '"', "--"]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from(PIECES)).map(" ".join))
def test_any_text_is_a_condition_or_bad_input(text):
    with suppress(BadInput):
        assert Condition.parse(text, SCHEMA).mask(table([dict.fromkeys(KINDS)])).dtype == np.bool_


def test_names_are_suggested():
    for text, hint in (("wrod = 'a'", "'word'"), ("other = 'b'", '"other name", in double quotes')):
        with pytest.raises(BadInput, match=hint):
            Condition.parse(text, SCHEMA)
    with pytest.raises(BadInput, match="identifier"):
        Condition.parse("key = 'a'", TIMES)
