"""Laws over generated tables: any mix of kinds of columns, under any kind of constraint, on every generator of ours."""

import datetime as dt
from collections.abc import Callable
from dataclasses import fields
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.constraints import constrain
from data.schema import Dataset, Schema
from generators.registry import get, make, names

torch.set_num_threads(1)
OWN = [name for name in names("tabular") if get(name).publishable]
FEW = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
ZONES = ["UTC", "Europe/Madrid", "America/New_York", "+05:30"]
TRUTHS = [("yes", "no"), ("T", "F"), ("sí", "no"), ("on", "off")]
Rng = np.random.Generator


# ---- kinds: each makes a column of n values


def zoned(rng: Rng, n: int) -> pa.Array:
    hours = rng.integers(400_000, 480_000, n) * 3_600_000_000
    return pa.array(hours).cast(pa.timestamp("us", str(rng.choice(ZONES))))


def dated(rng: Rng, n: int) -> pa.Array:
    return pa.array(rng.integers(10_000, 20_000, n).astype(np.int32)).cast(pa.date32())


def lasting(rng: Rng, n: int) -> pa.Array:
    return pa.array(rng.integers(1, 10**6, n)).cast(pa.duration(str(rng.choice(["s", "ms", "us"]))))


def at(rng: Rng, n: int) -> pa.Array:
    return pa.array((rng.integers(0, 1440, n) * 60).astype(np.int32)).cast(pa.time32("s"))


def exact(rng: Rng, n: int) -> pa.Array:
    scale = int(rng.integers(1, 5))
    return pa.array([Decimal(int(v)).scaleb(-scale) for v in rng.integers(-9_999, 99_999, n)], pa.decimal128(12, scale))


def rounded(rng: Rng, n: int) -> pa.Array:
    return pa.array(np.round(rng.lognormal(2, 1, n), int(rng.integers(0, 4))))


def single(rng: Rng, n: int) -> pa.Array:
    return pa.array(rng.normal(size=n).astype(np.float32))


def whole(rng: Rng, n: int) -> pa.Array:
    return pa.array(rng.poisson(rng.integers(2, 300), n).astype(str(rng.choice(["int16", "int32", "uint16", "int64"]))))


def code(rng: Rng, n: int) -> pa.Array:
    return pa.array([f"{v:05d}" for v in rng.integers(0, 9, n)])


def truth(rng: Rng, n: int) -> pa.Array:
    return pa.array(np.array(TRUTHS[rng.integers(len(TRUTHS))])[rng.integers(0, 2, n)])


def flag(rng: Rng, n: int) -> pa.Array:
    return pa.array(rng.random(n) < 0.3)


def sized(rng: Rng, n: int) -> pa.Array:
    return pa.array(rng.choice(["S", "M", "L"], n))


KINDS = [zoned, dated, lasting, at, exact, rounded, single, whole, code, truth, flag, sized]


# ---- constraints: each makes columns that keep it, what a job says, and how to see that made rows keep it


Rule = tuple[dict[str, object], object, Callable[[pd.DataFrame], bool]]


def less(rng: Rng, n: int) -> Rule:
    low = np.round(rng.normal(50, 20, n), 1)
    return {"low": low, "high": low + np.round(rng.exponential(9, n), 1) + 0.1}, "low < high", lambda r: bool((r.low < r.high).all())


def summed(rng: Rng, n: int) -> Rule:
    a, b = rng.integers(0, 400, n), rng.integers(0, 90, n)
    return {"a": a, "b": b, "sum": a + b}, "sum = a + b", lambda r: bool((r["sum"] == r.a + r.b).all())


def increasing(rng: Rng, n: int) -> Rule:
    days = np.cumsum(rng.integers(0, [[900], [9], [30]], (3, n)), axis=0)
    dates = {f"d{i}": [dt.date(2020, 1, 1) + dt.timedelta(days=int(d)) for d in row] for i, row in enumerate(days)}
    return dates, {"increasing": ["d0", "d1", "d2"]}, lambda r: bool(((r.d0 <= r.d1) & (r.d1 <= r.d2)).all())


def combined(rng: Rng, n: int) -> Rule:
    place = rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
    city, land = np.array(["Vigo", "Lugo", "Lyon", "Graz"])[place], np.array(["ES", "ES", "FR", "AT"])[place]
    pairs = set(zip(city, land, strict=True))
    return (
        {"city": city, "land": land},
        {"combinations": ["city", "land"]},
        lambda r: set(zip(r.city, r.land, strict=True)) <= pairs,
    )


def unique(rng: Rng, n: int) -> Rule:
    return {"u": rng.permutation(100_000)[:n]}, {"unique": ["u"]}, lambda r: r.u.is_unique


def positive(rng: Rng, n: int) -> Rule:
    return {"p": np.round(rng.exponential(3, n), 2)}, "p >= 0", lambda r: bool((r.p >= 0).all())


def one_of(rng: Rng, n: int) -> Rule:
    return {"state": rng.choice(["open", "shut"], n)}, "state in ('open', 'shut')", lambda r: set(r.state) <= {"open", "shut"}


RULES = [less, summed, increasing, combined, unique, positive, one_of]


def holes(column: pa.Array, rng: Rng) -> pa.Array:
    """The column with about a sixth of its values null."""
    return pa.array([None if hole else value for value, hole in zip(column.to_pylist(), rng.random(len(column)) < 1 / 6, strict=True)])


def quick(name: str):
    return make(name, {"training": {"steps": 3}} if "training" in {f.name for f in fields(get(name))} else {})


@pytest.mark.parametrize("name", OWN)
@FEW
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.booleans()), min_size=3, max_size=4), st.integers(0, 10**6))
def test_any_kinds_come_out_as_they_went_in(name, columns, seed):
    rng, n = np.random.default_rng(seed), 240
    arrays = {}
    for i, (kind, gaps) in enumerate(columns):
        array = kind(rng, n)
        arrays[f"{kind.__name__}{i}"] = holes(array, rng).cast(array.type) if gaps else array
    table = pa.table(arrays)
    data = Dataset.of(table, Schema.infer(table, orders={c: ["S", "M", "L"] for c in arrays if c.startswith("sized")}))
    made = quick(name).fit(data, seed=0).sample(60, seed=seed).table
    assert made.schema.equals(data.table.schema)
    for column, array in zip(data.schema.columns, made.columns, strict=True):
        assert column.nullable or not array.null_count
        present = array.drop_null()
        if column.categories:
            assert set(column.strings(present).to_pylist()) <= set(column.categories)
        elif len(present):
            numbers = column.numbers(present)
            assert column.low <= numbers.min()
            assert numbers.max() <= column.high
            assert column.array(numbers).equals(present.combine_chunks().cast(column.arrow)), "off the grid of the source"


@pytest.mark.parametrize("name", OWN)
@FEW
@given(st.lists(st.sampled_from(RULES), min_size=2, max_size=3, unique=True), st.sampled_from(KINDS), st.integers(0, 10**6))
def test_no_generated_constraint_is_broken(name, rules, kind, seed):
    rng, n = np.random.default_rng(seed), 240
    found = [rule(rng, n) for rule in rules]
    table = pa.table({name: pa.array(values) for columns, _, _ in found for name, values in columns.items()} | {"more": kind(rng, n)})
    data = constrain(Dataset.of(table, Schema.infer(table)), [said for _, said, _ in found])
    made = quick(name).fit(data, seed=0).sample(60, seed=seed).table
    assert made.num_rows == 60
    rows = made.to_pandas(date_as_object=True)
    for rule, (_, said, kept) in zip(rules, found, strict=True):
        assert kept(rows), (rule.__name__, said)
