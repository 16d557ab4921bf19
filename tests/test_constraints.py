"""Constraints, conditions, shares and imputation: no row breaks a rule, whoever learnt it; what cannot be made is said honestly."""

import json
from dataclasses import replace
from datetime import date, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.constraints import Rules, constrain
from data.errors import BadInput
from data.layout import Layout
from data.schema import Constraint, Dataset, Schema
from evaluators.quality import quality
from flows.cli import main
from generators.base import Completing
from generators.drawing import Tally, divided
from generators.fitted import Fitted
from generators.registry import get, make, names
from tests.small import SMALL

torch.set_num_threads(1)

OWN = [name for name in names("tabular") if get(name).publishable]
CONDITIONAL = [name for name in OWN if issubclass(get(name), Completing)]
CONSTRAINTS = [
    "total = net + tax",
    {"increasing": ["created", "shipped", "done"]},
    "low < high",
    "a <= b",  # nullable
    {"combinations": ["city", "country"]},
    {"unique": ["net", "created"]},
    "net >= 0",
    "status in ('open', 'closed')",
    "status = 'closed' or done >= '2020-02-01'",
]


@cache
def plain() -> pa.Table:
    rng = np.random.default_rng(0)
    n = 400
    place = rng.choice(5, n, p=[0.4, 0.2, 0.2, 0.1, 0.1])
    net = np.round(rng.lognormal(3, 1, n) * (1 + place), 2)
    tax = np.round(net * rng.choice([0.04, 0.1, 0.21], n), 2)
    days = [rng.integers(0, k, n) for k in (900, 9, 20)]
    created, shipped, done = ([date(2020, 2, 1) + timedelta(days=int(d)) for d in sum(days[: i + 1])] for i in range(3))
    low = rng.normal(size=n).astype(np.float32)
    return pa.table(
        {
            "key": [f"K{i:05d}" for i in range(n)],
            "net": net,
            "tax": tax,
            "total": np.round(net + tax, 2),
            "city": np.array(["Madrid", "Vigo", "Paris", "Lyon", "Köln"])[place],
            "country": np.array(["ES", "ES", "FR", "FR", "DE"])[place],
            "created": created,
            "shipped": shipped,
            "done": done,
            "low": low,
            "high": low + rng.exponential(size=n).astype(np.float32) + np.float32(0.01),
            "a": pa.array(rng.integers(0, 60, n), mask=rng.random(n) < 0.2),
            "b": pa.array(rng.integers(60, 100, n), mask=rng.random(n) < 0.2),
            "status": rng.choice(["open", "closed"], n),
        }
    )


@cache
def shop() -> Dataset:
    return constrain(Dataset.of(plain(), Schema.infer(plain(), target="status")), CONSTRAINTS)


@cache
def fitted(name: str) -> Fitted:
    return make(name, SMALL.get(name, {})).fit(shop(), seed=0)


def assert_kept(table: pa.Table) -> None:
    """Every constraint, in pandas' words."""
    rows = table.to_pandas()
    assert np.allclose(rows.total, rows.net + rows.tax, atol=0.005001)
    assert (rows.created <= rows.shipped).all()
    assert (rows.shipped <= rows.done).all()
    assert (rows.low < rows.high).all()
    assert not (rows.a > rows.b).any()
    pairs = {("Madrid", "ES"), ("Vigo", "ES"), ("Paris", "FR"), ("Lyon", "FR"), ("Köln", "DE")}
    assert set(zip(rows.city, rows.country, strict=True)) <= pairs
    assert not rows.duplicated(["net", "created"]).any()
    assert (rows.net >= 0).all()
    assert set(rows.status) <= {"open", "closed"}
    assert ((rows.status == "closed") | (rows.done >= date(2020, 2, 1))).all()
    assert not rows.key.duplicated().any()


@pytest.mark.parametrize("name", [*OWN, "sdv/gaussian-copula"])
def test_no_row_breaks_a_constraint(name, monkeypatch, tmp_path):
    monkeypatch.setattr("generators.fitted.CELLS", 150 * len(shop().schema.columns))
    tally = Tally()
    made = pa.concat_tables([chunk.table for chunk in fitted(name).stream(400, seed=1, tally=tally)])
    assert made.num_rows == 400
    assert_kept(made)
    assert tally.kept == 400
    assert 0 < tally.rate <= 1
    pq.write_table(made, tmp_path / "rows.parquet")
    assert not [f for f in quality(shop().schema, [tmp_path / "rows.parquet"])["failed"] if "constraint" in f["expectation"]]
    again = pa.concat_tables([chunk.table for chunk in fitted(name).stream(400, seed=1)])
    assert made.equals(again)


def test_most_rows_keep_the_constraints_by_construction():
    tally = Tally()
    list(fitted("tabular/marginal").stream(2000, seed=1, tally=tally))
    assert tally.rate > 0.8
    assert (
        not {"total = net + tax", "increasing: created, shipped, done", "low < high", "combinations: city, country"} & tally.turned.keys()
    )


def test_a_saved_model_knows_its_constraints(tmp_path):
    fitted("tabular/made").save(tmp_path)
    loaded = Fitted.load(tmp_path)
    assert loaded.schema == shop().schema
    assert Schema.from_json(json.loads(json.dumps(shop().schema.to_json()))) == shop().schema
    assert loaded.sample(50, seed=1).table.equals(fitted("tabular/made").sample(50, seed=1).table)


def test_unique_across_chunks_until_there_is_nothing_left(monkeypatch):
    monkeypatch.setattr("generators.fitted.CELLS", 7 * 2)
    monkeypatch.setattr("generators.drawing.RAREST", 20_000)
    table = pa.table({"a": [f"v{i % 30}" for i in range(300)], "b": [["x", "y"][i // 30 % 2] for i in range(300)]})
    data = Dataset.of(table, Schema.infer(table))
    rules = replace(data.schema, constraints=(Constraint("unique", columns=("a", "b")),))
    model = make("tabular/marginal", {}).fit(Dataset(rules, data.table), seed=0)
    made = model.sample(60, seed=0).table.to_pandas()
    assert not made.duplicated().any()
    with pytest.raises(BadInput, match=r"unique.* 60 of [\d,]+ draws matched"):
        model.sample(61, seed=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(50, 90), st.sampled_from([1, 0.01, 0.0]), st.booleans())
def test_a_layout_is_reversible_and_whatever_is_learnt_obeys(seed, n, step, strict):
    rng = np.random.default_rng(seed)
    a, gap, c = (rng.exponential(100, n) for _ in range(3))
    pair = np.array([["p", "r"], ["p", "s"], ["q", "r"], ["q", "s"]])[rng.permutation(n) % 4].T  # none of them rare
    if step:
        a, gap, c = (np.rint(x / step) * step for x in (a, gap, c))
        gap += step * strict
    columns = {"a": a, "b": a + gap, "c": c, "sum": a + gap - 2 * c, "x": pair[0], "y": pair[1]}
    table = pa.table({k: np.round(v, 2) if step and v.dtype == float else v for k, v in columns.items()})
    said = ["a < b" if strict else "a <= b", "b - 2 * c = sum", {"combinations": ["y", "x"]}]
    data = constrain(Dataset.of(table, Schema.infer(table)), said)
    layout = Layout.of(data.schema)
    back = layout.backward(layout.forward(data)).table
    for name in table.column_names:
        left, right = back[name].to_numpy(), data.table[name].to_numpy()
        assert np.allclose(left, right) if left.dtype == float else (left == right).all()
    learnt = layout.forward(data)
    mixed = pa.table(
        [learnt.table[name].take(pa.array(rng.permutation(n))) for name in learnt.table.column_names], schema=learnt.table.schema
    )
    made = layout.backward(Dataset(layout.inner, mixed)).table
    broken = Rules.of(data.schema).broken(made)
    assert not any(rows.any() for what, rows in broken.items() if not (strict and not step and what == said[0])), broken


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("net > 50", r"in [\d,]+ of 400 real rows"),
        ("total = net", "in 400 of 400"),
        ({"unique": ["status"]}, "in 398 of 400"),
        ({"increasing": ["done", "created"]}, "real rows it does not hold"),
        ({"unique": []}, "at least 1"),
        ({"increasing": ["done"]}, "at least 2"),
        ({"combinations": ["city", "city"]}, "different"),
        ({"combinations": ["city", "contry"]}, "'country'"),
        ({"combinations": ["key", "net"]}, "kind id"),
        ({"uniqe": ["city"]}, "'unique'"),
        ({"combinations": ["net", "created"]}, "no combination occurs"),
        ("total = net + a", "null"),
        (7, "condition as text"),
        ("a in (select 1)", "more than a condition"),
        ("status = 1", "single quotes"),
    ],
)
def test_a_constraint_that_does_not_hold_or_cannot_be_read(said, message):
    table = plain()
    if "net + a" in str(said):
        total = pa.array(np.where(table["a"].is_null().to_numpy(), 1.0, table["net"].to_numpy() + table["a"].fill_null(0).to_numpy()))
        table = table.set_column(3, "total", total)
    with pytest.raises(BadInput, match=message) as caught:
        constrain(Dataset.of(table, Schema.infer(table)), [said])
    assert "\n" not in str(caught.value)


def test_the_files_are_checked_as_written(tmp_path):
    for column, value in (("total", 1.0), ("created", date(2022, 6, 1)), ("country", "DE"), ("status", "lost"), ("high", -9.0)):
        table = plain()
        array = pa.array([value] * 400, table[column].type)
        pq.write_table(table.set_column(table.column_names.index(column), column, array), tmp_path / "rows.parquet")
        assert any("constraint" in f["expectation"] for f in quality(shop().schema, [tmp_path / "rows.parquet"])["failed"]), column
    pq.write_table(plain(), tmp_path / "a.parquet")
    assert not quality(shop().schema, [tmp_path / "a.parquet"])["failed"]
    twice = quality(shop().schema, [tmp_path / "a.parquet", tmp_path / "a.parquet"])["failed"]
    assert any(f["expectation"] == "constraint unique: net, created" for f in twice), "repeats across files"


# ---- where, given, shares


@pytest.mark.parametrize("name", ["tabular/marginal", "tabular/made", "tabular/vae"])
@pytest.mark.parametrize(
    ("where", "test"),
    [
        ("city = 'Vigo' and status = 'open' and a is null", lambda r: (r.city == "Vigo") & (r.status == "open") & r.a.isna()),
        ("total > 150 or shipped > created", lambda r: (r.total > 150) | (r.shipped > r.created)),
        ("net between 20 and 21 and city <> 'Paris'", lambda r: r.net.between(20, 21) & (r.city != "Paris")),
    ],
)
def test_only_rows_that_meet_the_condition_come_out(name, where, test):
    made = fitted(name).sample(70, seed=2, where=where).table
    assert len(made) == 70
    assert test(made.to_pandas()).all()
    assert_kept(made)
    assert made.equals(fitted(name).sample(70, seed=2, where=where).table)


@pytest.mark.parametrize("name", ["tabular/marginal", "tabular/made"])
def test_a_condition_that_is_never_met_stops_honestly(name, monkeypatch):
    monkeypatch.setattr("generators.drawing.RAREST", 30_000)
    for where in ("net > 100 and net < 50", "total < 0", "city = 'Vigo' and country = 'FR'"):
        with pytest.raises(BadInput, match="too rarely"):
            fitted(name).sample(10, where=where)
    for wanted in ({"net": 1e9}, {"city": "Vigoo"}):
        with pytest.raises(BadInput, match=r"never|between|not one of"):
            fitted(name).sample(10, given=wanted)


@pytest.mark.parametrize("name", ["tabular/marginal", "tabular/made"])
def test_a_condition_leaves_the_other_columns_their_distribution(name):
    """P(row | where): the rows that a condition selects out of many, and the rows made under it, look alike."""
    where = "city in ('Madrid', 'Paris') and net < 60"
    many = fitted(name).sample(40_000, seed=3).table.to_pandas()
    chosen = many[many.city.isin(["Madrid", "Paris"]) & (many.net < 60)]
    made = fitted(name).sample(4000, seed=4, where=where).table.to_pandas()
    assert abs((made.city == "Madrid").mean() - (chosen.city == "Madrid").mean()) < 0.04
    assert abs((made.status == "open").mean() - (chosen.status == "open").mean()) < 0.04
    assert abs(made.net.mean() - chosen.net.mean()) < 2


def test_shares_are_exact_and_the_rows_are_mixed(monkeypatch):
    monkeypatch.setattr("generators.fitted.CELLS", 64 * len(shop().schema.columns))
    model = fitted("tabular/made")
    equal = model.sample(201, seed=0, shares=("city", {})).table
    assert sorted(pd.Series(equal["city"].to_pylist()).value_counts()) == [40, 40, 40, 40, 41]
    some = model.sample(200, seed=0, shares=("status", {"open": 0.9}), where="net > 20").table
    assert some["status"].to_pylist().count("open") == 180
    assert_kept(some)
    assert len(set(some["status"].to_pylist()[:40])) == 2
    assert some["key"].to_pylist() == model.sample(200, seed=0).table["key"].to_pylist(), "ids are numbered without gaps"
    for shares in (("net", {}), ("citi", {}), ("city", {"Vigoo": 0.5}), ("city", {"Vigo": 1.5}), ("status", {"open": 0.5, "closed": 0.4})):
        with pytest.raises(BadInput):
            model.sample(10, shares=shares)


@given(st.integers(1, 10_000), st.lists(st.integers(0, 50), min_size=1, max_size=9).filter(any))
def test_a_number_is_divided_without_a_rest(n, amounts):
    parts = divided(n, np.array(amounts))
    assert parts.sum() == n
    assert (abs(parts - n * np.array(amounts) / sum(amounts)) < 1 + 1e-9).all()
    assert not parts[np.array(amounts) == 0].any()


# ---- nulls


def holes(table: pa.Table, columns: list[str], share: float = 0.2) -> pa.Table:
    for seed, name in enumerate(columns):
        missing = (np.random.default_rng(seed).random(len(table)) < share) | table[name].is_null().to_numpy()
        array = pa.array(table[name].to_pylist(), table[name].type, mask=missing)
        table = table.set_column(table.column_names.index(name), name, array)
    return table


@pytest.mark.parametrize("name", CONDITIONAL)
def test_nulls_are_filled_and_nothing_else_changes(name):
    table = holes(plain(), ["tax", "total", "city", "shipped", "high", "a", "status"])
    filled = fitted(name).impute(Dataset.of(table, shop().schema), seed=1).table
    assert filled.column_names == table.column_names
    assert not any(column.null_count for column in filled.columns)
    assert_kept(filled)
    for column in table.column_names:
        there = table[column].is_valid()
        assert filled[column].filter(there).equals(table[column].filter(there)), column
    assert filled.equals(fitted(name).impute(Dataset.of(table, shop().schema), seed=1).table)
    one = (table["net"].is_valid().to_numpy()) & table["tax"].is_null().to_numpy() & table["total"].is_valid().to_numpy()
    right = np.abs(filled["tax"].to_numpy() - plain()["tax"].to_numpy()) < 0.011
    assert right[one].all(), "a formula leaves no choice"


@pytest.mark.parametrize("name", [n for n in OWN if n not in CONDITIONAL])
def test_who_cannot_fill_nulls_says_who_can(name):
    with pytest.raises(BadInput, match="tabular/made"):
        fitted(name).impute(shop())


def test_what_is_filled_depends_on_what_is_there():
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=900)
    table = pa.table({"word": np.array(["x", "y", "z"])[group], "n": 100 * group + rng.integers(0, 10, 900), "m": rng.normal(size=900)})
    model = make("tabular/made", {"training": {"steps": 150, "batch": 128}}).fit(Dataset.of(table, Schema.infer(table)), seed=0)
    open_ = table.set_column(0, "word", pa.nulls(900, pa.string()))
    filled = model.impute(Dataset.of(open_, model.schema)).table
    assert np.mean([a == b for a, b in zip(filled["word"].to_pylist(), table["word"].to_pylist(), strict=True)]) > 0.9


def test_known_values_against_a_constraint_are_refused():
    table = plain().set_column(6, "created", pa.array([date(2030, 1, 1)] * 400))
    with pytest.raises(BadInput, match="in 400 of 400"):
        fitted("tabular/made").impute(Dataset.of(table, shop().schema))


# ---- the command line


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fitted("tabular/made").save(Path("model"))
    asked = ["--where", "net > 20 and city = 'Vigo'", "--balance", "status=open:0.75"]
    assert main(["sample", "model", "--rows", "80", *asked, "--to", "out", "--name", "shop"]) == 0
    release = json.loads(Path("out/shop/v1/release.json").read_text())
    assert release["where"] == asked[1]
    assert release["balance"] == {"status": {"open": 0.75}}
    assert release["draws"]["kept"] == 80 <= release["draws"]["drawn"]
    assert "--where" in release["reproduce"]
    rows = pq.read_table("out/shop/v1/data")
    assert set(rows["city"].to_pylist()) == {"Vigo"}
    assert rows["status"].to_pylist().count("open") == 60
    table = holes(plain(), ["tax", "status"]).append_column("note", pa.array(["kept"] * 400))
    pq.write_table(table, "orders.parquet")
    assert main(["impute", "model", "orders.parquet", "--to", "full.parquet"]) == 0
    full = pq.read_table("full.parquet")
    assert full.column_names == table.column_names
    assert not any(full[c].null_count for c in ("tax", "status"))
    assert full["note"].equals(table["note"])
    capsys.readouterr()
    for bad in (
        ["sample", "model", "--rows", "9", "--where", "net >"],
        ["sample", "model", "--rows", "9", "--where", "net = (select 1)"],
        ["sample", "model", "--rows", "9", "--balance", "city", "--balance", "status"],
        ["sample", "model", "--rows", "9", "--balance", "city=Vigo:much"],
        ["impute", "model", "orders.parquet", "--to", "full.csv"],
        ["impute", "model", "nosuch.parquet", "--to", "full.parquet"],
        ["run", "orders.parquet", "--constraint", "net < 0", "--to", "new"],
        ["run", "orders.parquet", "--constraint", "unique: nett", "--to", "new"],
    ):
        assert main(bad) == 2, bad
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("alfar: ")
    assert not Path("new").exists()


def test_constraints_of_a_job():
    from flows.cli import parser, values_of
    from flows.job import Job
    from flows.reproduce import command

    options = ["run", "t.parquet", "--constraint", "a <= b", "--constraint", "unique: a, b c"]
    job = Job.of(values_of(parser().parse_args(options)))
    assert job.constraints == ["a <= b", {"unique": ["a", "b c"]}]
    assert "--constraint 'unique: a, b c'" in command(job)
    for wrong in ("a <= b", [3], [{"unique": "a"}], [{"unique": ["a"], "increasing": ["b"]}]):
        with pytest.raises(BadInput, match="constraints"):
            Job.of({"source": "t.parquet", "constraints": wrong})
