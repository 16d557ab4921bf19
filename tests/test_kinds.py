"""Kinds of data: what a column is in the source, it is in the release; laws over generated columns, codecs and every own generator."""

import datetime as dt
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import sources
from data.arrow import instant, wall
from data.errors import BadInput
from data.infer import infer_column, round_outwards
from data.schema import RARE, Dataset, Schema
from data.sources import parquet
from flows.auto import everything
from flows.cli import main
from flows.job import Job
from flows.reproduce import command
from generators import registry
from generators.codecs.table import TokenCodec

EASY = settings(max_examples=40, deadline=None)
ZONES = ["UTC", "Europe/Madrid", "America/New_York", "Asia/Kolkata", "America/Sao_Paulo", "+02:00", "-09:30"]
N = 400
DAY = 86_400_000_000
TRUTHS = [
    ("yes", "no"),
    ("Y", "N"),
    ("true", "false"),
    ("TRUE", "FALSE"),
    ("t", "f"),
    ("0", "1"),
    ("on", "off"),
    ("sí", "no"),
    ("Sí", "NO"),
]


def kind_of(values, name="x", target=False):
    return infer_column(name, pa.chunked_array([values]), None, target)


def through(values: pa.Array, seed: int = 0, **infer) -> pa.Array:
    """A column encoded and decoded, beside a plain one."""
    table = pa.table({"x": values, "other": pa.array(np.arange(len(values)) % 7)})
    data = Dataset.of(table, Schema.infer(table, **infer))
    codec = TokenCodec.fit(data)
    rng = np.random.default_rng(seed)
    return codec.decode(codec.encode(data, rng), rng, start=0, seed=seed).table["x"].combine_chunks()


def read_csv(folder: Path, words, name: str = "x"):
    path = folder / "words.csv"
    path.write_text(f"{name},other\n" + "".join(f'"{word}",{i % 7}\n' for i, word in enumerate(words)), encoding="utf-8")
    source = sources.read(str(path))
    return source.table[name], source.notes


# ---------------------------------------------------------------- dates with zones


@EASY
@given(st.sampled_from(ZONES), st.integers(0, 2**31), st.sampled_from([1, 60, 3600, 86_400]))
def test_a_zone_and_its_wall_clock_are_kept(zone, seed, step):
    rng = np.random.default_rng(seed)
    clock = rng.integers(0, 40 * 365 * 86_400 // step, N) * step * 1_000_000.0
    times = pa.array(instant(clock, zone, clock).astype(np.int64)).cast(pa.timestamp("us", zone))
    made = through(times, seed % 1000)
    assert made.type == times.type
    shown = pc.local_timestamp(made).cast(pa.int64()).to_numpy()
    on_grid = shown % (step * 1_000_000) == 0
    assert np.mean(on_grid) > 0.98  # but for the hours that a zone skips


@EASY
@given(st.sampled_from(ZONES), st.lists(st.integers(-(10**15), 4 * 10**15), min_size=1, max_size=20))
def test_the_wall_clock_is_undone(zone, instants):
    numbers = np.array(instants, dtype=float)
    assert np.array_equal(instant(wall(numbers, zone), zone, numbers), numbers)


def test_midnights_of_a_zone_stay_midnights_the_year_round():
    days = [dt.datetime(2024, 1, 1, tzinfo=ZoneInfo("Europe/Madrid")) + dt.timedelta(days=i % 366) for i in range(2 * N)]
    column = kind_of(pa.array(days, pa.timestamp("us", "Europe/Madrid")))
    assert column.step == DAY
    made = column.array(np.random.default_rng(0).uniform(column.low, column.high, 500))
    assert {t.as_py().time() for t in made} == {dt.time(0)}
    numbers = column.numbers(made)
    assert column.low <= numbers.min()
    assert numbers.max() <= column.high


@EASY
@given(st.integers(-(10**16), 10**16), st.integers(0, 10**16), st.sampled_from([1.0, 1_000_000.0, 3_600_000_000.0, float(DAY)]))
def test_a_range_lies_on_the_grid(start, width, step):
    low, high = round_outwards(np.array([start, start + width], dtype=float) // step * step, step)
    assert low % step == high % step == 0


def test_csv_keeps_one_zone_and_says_when_there_are_several(tmp_path):
    one, notes = read_csv(tmp_path, [f"2024-03-{d:02d}T10:00:00+02:00" for d in range(1, 29)] * 3)
    assert one.type == pa.timestamp("us", "+02:00")
    assert not [n for n in notes if "zone" in n]
    two, notes = read_csv(tmp_path, [f"2024-03-{d:02d}T10:00:00+0{1 + d % 2}:00" for d in range(1, 29)] * 3)
    assert two.type == pa.timestamp("us", "UTC")
    assert [n for n in notes if "several zones" in n]


# ---------------------------------------------------------------- durations and times of day


@EASY
@given(
    st.sampled_from([pa.duration(u) for u in ("s", "ms", "us", "ns")] + [pa.time32("ms"), pa.time64("us"), pa.time64("ns")]),
    st.lists(st.integers(0, 86_399_999), min_size=5, max_size=30),
    st.integers(0, 3),
)
def test_durations_and_times_of_day_keep_type_unit_and_digits(kind, whole, nulls):
    values = pa.array([*whole, *[None] * nulls], pa.int64()).cast(pa.int32() if kind == pa.time32("ms") else pa.int64()).cast(kind)
    column = kind_of(values)
    numbers = column.numbers(values)
    null = np.isnan(numbers)
    assert column.arrow == kind
    assert column.is_number
    assert column.array(np.where(null, 0, numbers), null).equals(values)


def test_csv_times_of_day_and_durations(tmp_path):
    cases = {
        "time64[us]": ["08:30", "23:59", "0:05"],
        "duration[us]": ["1 day, 2:03:04", "0:10:00", "-1 days +23:59:59", "5 days"],
        "time64[ns]": ["10:00:00.123456789", "11:00:00"],
    }
    for kind, words in cases.items():
        found, _ = read_csv(tmp_path, words * 20)
        assert str(found.type) == kind
    found, _ = read_csv(tmp_path, ["26:00:01", "1:00:00", "100:59:59"] * 20)
    assert found[0].as_py() == dt.timedelta(hours=26, seconds=1)
    for word in ("90:15", "1:75", "8:3"):
        assert pa.types.is_string(read_csv(tmp_path, [word, "00:10"] * 30)[0].type)


# ---------------------------------------------------------------- numbers


@EASY
@given(st.integers(0, 4), st.integers(0, 2**31), st.booleans())
def test_decimals_keep_their_scale(scale, seed, nulls):
    rng = np.random.default_rng(seed)
    whole = rng.normal(0, 10**5, N).astype(int).tolist()
    values = pa.array([None if nulls and i % 9 == 0 else Decimal(v).scaleb(-scale) for i, v in enumerate(whole)], pa.decimal128(18, scale))
    made = through(values, seed % 1000)
    assert made.type == values.type
    floats = through(values.cast(pa.float64()), seed % 1000).drop_null().to_numpy()
    assert np.array_equal(np.round(floats, scale), floats)


@EASY
@given(st.integers(0, 3), st.integers(0, 2**31))
def test_short_floats_keep_their_decimals(scale, seed):
    whole = np.random.default_rng(seed).integers(1, 9999, N)
    values = pa.array((whole / 10**scale).astype(np.float32))
    assert kind_of(values).step <= 10.0**-scale
    made = through(values, seed % 1000)
    assert made.type == pa.float32()
    exact = np.round(made.to_numpy().astype(float), scale).astype(np.float32)
    assert np.array_equal(exact, made.to_numpy())


def test_nan_is_null():
    values = pa.array([float("nan") if i % 3 == 0 else float(i) for i in range(N)])
    column = kind_of(values)
    assert column.nullable
    assert (column.kind, through(values).null_count > 0) == ("integer", True)
    with pytest.raises(BadInput, match="nothing but NaN"):
        kind_of(pa.array([float("nan")] * N))


@EASY
@given(st.sampled_from([pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64()]), st.integers(0, 2**31))
def test_integers_stay_integers_with_nulls(kind, seed):
    rng = np.random.default_rng(seed)
    values = pa.array([None if i % 6 == 0 else int(v) for i, v in enumerate(rng.integers(0, 120, N))], kind)
    made = through(values, seed % 1000)
    assert made.type == kind
    assert made.null_count == pytest.approx(values.null_count, abs=40)
    assert kind_of(values).kind == "integer"


def test_integers_of_csv_stay_integers_with_nulls(tmp_path):
    assert read_csv(tmp_path, ["3", "", "12", "7"] * 30)[0].type == pa.int64()


# ---------------------------------------------------------------- codes


@EASY
@given(st.lists(st.from_regex(r"0[0-9]{1,7}|[0-9]{2,8}", fullmatch=True), min_size=2, max_size=8, unique=True))
def test_codes_with_leading_zeros_stay_text_of_their_lengths(tmp_path_factory, codes):
    codes = ["007", *codes]
    found, _ = read_csv(tmp_path_factory.mktemp("c"), codes * 20)
    assert pa.types.is_string(found.type)
    assert set(through(found.combine_chunks()).to_pylist()) <= set(codes)


def test_phone_numbers_and_post_codes(tmp_path):
    phones, _ = read_csv(tmp_path, [f"+346{i:08d}" for i in range(60)])
    assert pa.types.is_string(phones.type)
    signs, _ = read_csv(tmp_path, ["+1", "-3", "+25"] * 20)
    assert signs.type == pa.int64()
    codes = pa.array([int(f"9{i % 40:04d}") for i in range(N)])
    assert kind_of(codes, "zip_code").kind == "category"
    assert kind_of(codes, "unzip").kind == "integer"
    assert kind_of(pa.array(np.random.default_rng(0).integers(6e8, 7e8, N)), "phone").kind == "id"


# ---------------------------------------------------------------- truth values


@EASY
@given(st.sampled_from(TRUTHS), st.booleans(), st.integers(0, 2**31))
def test_truth_values_in_any_spelling_are_boolean_and_keep_it(pair, nulls, seed):
    rng = np.random.default_rng(seed)
    values = pa.array([None if nulls and i % 8 == 0 else pair[int(b)] for i, b in enumerate(rng.random(N) < 0.3)])
    assert kind_of(values).kind == "boolean"
    assert set(through(values, seed % 1000).drop_null().to_pylist()) <= set(pair)


@pytest.mark.parametrize("words", [("yes", "maybe"), ("yes",), ("a", "b"), ("yes", "no", "unknown")], ids=str)
def test_other_words_are_categories(words):
    assert kind_of(pa.array(list(words) * 100)).kind == "category"


def test_csv_truth_values(tmp_path):
    assert read_csv(tmp_path, ["true", "FALSE"] * 30)[0].type == pa.bool_()  # what Arrow itself calls a truth value
    assert read_csv(tmp_path, ["Y", "N"] * 30)[0].to_pylist()[:2] == ["Y", "N"]


# ---------------------------------------------------------------- categories


@EASY
@given(st.permutations(["S", "M", "L", "XL"]), st.integers(0, 3))
def test_ordered_categories_keep_their_order(order, rare):
    codes = [i % 3 for i in range(60)] + [3] * rare  # the last one is rare
    values = pd.Series(pd.Categorical.from_codes(codes, categories=order, ordered=True))
    table = pa.Table.from_pandas(pd.DataFrame({"size": values}), preserve_index=False)
    column = Schema.infer(table)["size"]
    assert (column.kind, column.ordered, column.categories) == ("category", True, tuple(order[:3]))
    again = Schema.infer(pa.table({"size": table["size"].cast(pa.string())}), orders={"size": order})["size"]
    assert again == column


def test_ordered_numbers_are_categories_and_parquet_keeps_the_order(tmp_path):
    frame = pd.DataFrame(
        {
            "grade": pd.Categorical([3, 1, 2] * 30, categories=[2, 3, 1], ordered=True),
            "size": pd.Categorical(list("SLM") * 30, categories=list("SML"), ordered=True),
            "plain": pd.Categorical(list("ab") * 45),
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    read = parquet.read(tmp_path / "t.parquet")  # a parquet file says so of text only
    assert read["plain"].type == pa.string()
    assert Schema.infer(read)["size"].categories == ("S", "M", "L")
    table = pa.Table.from_pandas(frame)
    column = Schema.infer(table)["grade"]
    assert (column.kind, column.categories, column.ordered, column.type) == ("category", ("2", "3", "1"), True, "int64")
    assert Dataset.of(table, Schema.infer(table)).table["grade"].to_pylist()[:3] == [3, 1, 2]


def test_an_order_must_name_a_column_and_every_shared_value():
    table = pa.table({"size": ["S", "M", "L"] * 30})
    with pytest.raises(BadInput, match="leaves out the value 'L'"):
        Schema.infer(table, orders={"size": ["S", "M"]})
    with pytest.raises(BadInput, match="'sise', which does not exist"):
        Schema.infer(table, orders={"sise": ["S"]})
    with pytest.raises(BadInput, match="the kind id"):
        Schema.infer(table, kinds={"size": "id"}, orders={"size": ["S", "M", "L"]})


def test_an_order_in_a_job_is_in_its_command():
    job = Job.of({"source": "a.csv", "orders": {"size": ["S", "M"], "grade": [1, 2]}})
    assert "--order size=S,M --order grade=1,2" in command(job)


def test_an_order_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_text("size,n\n" + "S,1\nM,2\nL,3\n" * 40)
    assert main(["run", str(path), "--order", "size=S,M"]) == 2
    assert "leaves out the value 'L'" in capsys.readouterr().err


def test_mostly_rare_values_are_refused_with_what_to_do():
    words = pa.array([f"w{i // 2}" for i in range(N)])
    with pytest.raises(BadInput, match=r"--drop x.*--kind x=id"):
        kind_of(words)


def test_many_categories_are_all_kept():
    values = np.char.add("c", (np.arange(RARE * 20_000) % 20_000).astype(str))
    column = kind_of(pa.array(values))
    assert len(column.categories) == 20_000


# ---------------------------------------------------------------- every own generator


@pytest.fixture(scope="module")
def composite() -> Dataset:
    rng = np.random.default_rng(1)
    n = 300
    zone = "Europe/Madrid"
    days = [dt.datetime(2024, 1, 1, tzinfo=ZoneInfo(zone)) + dt.timedelta(days=int(d)) for d in rng.integers(0, 366, n)]
    table = pa.table(
        {
            "when": pa.array(days, pa.timestamp("us", zone)),
            "took": pa.array(rng.integers(1, 10**6, n), pa.int64()).cast(pa.duration("ns")),
            "at": pa.array(rng.integers(0, 1440, n) * 60).cast(pa.int32()).cast(pa.time32("s")),
            "price": pa.array([Decimal(int(v)).scaleb(-2) for v in rng.integers(100, 99_999, n)], pa.decimal128(9, 2)),
            "count": pa.array([None if i % 7 == 0 else int(v) for i, v in enumerate(rng.poisson(4, n))], pa.int32()),
            "code": pa.array([f"{v:05d}" for v in rng.integers(0, 9, n)]),
            "paid": pa.array(np.where(rng.random(n) < 0.4, "sí", "no")),
            "size": pa.array(rng.choice(["S", "M", "L"], n)),
        }
    )
    return Dataset.of(table, Schema.infer(table, target="paid", orders={"size": ["S", "M", "L"]}))


@pytest.mark.parametrize("name", sorted({recipe["name"] for recipe in everything()}))
def test_every_kind_comes_out_as_it_went_in(composite, name):
    learns = "training" in {f.name for f in fields(registry.get(name))}
    quick = registry.make(name, {"training": {"steps": 3}} if learns else {})
    made = quick.fit(composite, seed=0, minutes=0.05).sample(200, seed=0)
    assert made.table.schema.equals(composite.table.schema)
    rows = made.table
    assert {t.time() for t in rows["when"].to_pylist()} == {dt.time(0)}
    assert {t.tzinfo.key for t in rows["when"].to_pylist()} == {"Europe/Madrid"}
    assert all(t.second == 0 for t in rows["at"].to_pylist())
    assert all(v == round(v, 2) for v in rows["price"].to_pylist())
    assert set(rows["count"].drop_null().to_pylist()) <= set(range(30))
    for column in ("code", "paid", "size"):
        assert set(rows[column].to_pylist()) <= set(composite.schema[column].categories)
    for column in ("when", "took", "at", "price"):
        numbers = composite.schema[column].numbers(rows[column])
        assert composite.schema[column].low <= numbers.min()
        assert numbers.max() <= composite.schema[column].high
