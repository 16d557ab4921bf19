"""Laws of schemas, columns, splits and fingerprints."""

import datetime as dt
import json
import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.arrow import IMAGE_TYPE, fingerprint, parse_type, to_numbers
from data.errors import BadInput
from data.infer import check_names, infer_column
from data.schema import RARE, Column, Dataset, Schema
from data.split import split, strata_of

EASY = settings(max_examples=60, deadline=None)
N = 100
RNG = np.random.default_rng(0)

BITS = {f"{u}int{b}": getattr(pa, f"{u}int{b}")() for u in ("", "u") for b in (8, 16, 32, 64)}
QUANTITIES = [
    *BITS.values(),
    pa.float16(),
    pa.float32(),
    pa.float64(),
    pa.decimal128(9, 2),
    pa.decimal128(12, 0),
    pa.decimal256(40, 3),
    pa.date32(),
    pa.date64(),
    *(pa.timestamp(u) for u in ("s", "ms", "us", "ns")),
    pa.timestamp("us", "UTC"),
    pa.timestamp("ms", "Europe/Madrid"),
    pa.timestamp("ns", "+02:00"),
    *(pa.duration(u) for u in ("s", "ms", "us", "ns")),
    pa.time32("s"),
    pa.time32("ms"),
    pa.time64("us"),
    pa.time64("ns"),
]


def example(kind: pa.DataType, n: int = N, nulls: bool = True) -> pa.Array:
    """Plausible values of a type, every tenth one null."""
    whole = [None if nulls and i % 10 == 3 else int(v) for i, v in enumerate(np.random.default_rng(5).integers(1, 120, n))]
    if pa.types.is_floating(kind):
        return pa.array([None if v is None else v / 4 for v in whole], pa.float64()).cast(kind)
    if pa.types.is_decimal(kind):
        return pa.array([None if v is None else Decimal(v).scaleb(-kind.scale) for v in whole], kind)
    if pa.types.is_date(kind):
        return pa.array([None if v is None else dt.date(2020, 1, 1) + dt.timedelta(days=v * 7) for v in whole], kind)
    if pa.types.is_timestamp(kind):
        return pa.array([None if v is None else 1_600_000_000 + v * 3607 for v in whole], pa.timestamp("s", kind.tz)).cast(kind)
    if pa.types.is_duration(kind):
        return pa.array([None if v is None else v * 61 for v in whole], pa.duration("s")).cast(kind)
    if pa.types.is_time(kind):
        return pa.array([None if v is None else v * 61 for v in whole], pa.time32("s")).cast(kind)
    return pa.array(whole, kind)


def mixed(n: int = N) -> pa.Table:
    return pa.table(
        {
            "number": pa.array(np.round(np.random.default_rng(1).normal(size=n), 2)),
            "integer": example(pa.int32(), n),
            "category": pa.array([None if i % 9 == 0 else "abc"[i % 3] for i in range(n)]),
            "boolean": pa.array([i % 4 == 0 for i in range(n)]),
            "datetime": example(pa.timestamp("us", "UTC"), n),
            "order_id": pa.array([f"A-{i:05d}" for i in range(n)]),
        }
    )


# ---------------------------------------------------------------- columns


@pytest.mark.parametrize("kind", QUANTITIES, ids=str)
def test_array_undoes_numbers(kind):
    values = example(kind)
    column = infer_column("x", pa.chunked_array([values]), None, False)
    numbers = column.numbers(values)
    null = np.isnan(numbers)
    assert column.arrow == kind
    assert null.sum() == values.null_count
    assert column.array(np.where(null, 0, numbers), null).equals(values)
    assert column.low <= np.nanmin(numbers) <= np.nanmax(numbers) <= column.high


@pytest.mark.parametrize("kind", QUANTITIES, ids=str)
def test_any_number_inside_the_range_becomes_a_value(kind):
    column = infer_column("x", pa.chunked_array([example(kind)]), None, False)
    made = column.array(np.random.default_rng(2).uniform(column.low, column.high, 50))
    assert made.type == kind
    assert made.null_count == 0
    assert len(made) == 50


@pytest.mark.parametrize("bits", BITS.values(), ids=str)
def test_integers_beyond_their_type_are_held_at_its_ends(bits):
    column = Column("x", "integer", str(bits))
    made = column.array(np.array([-1e30, 0, 1e30])).to_pylist()
    assert made[0] <= made[1] == 0 < made[2]


@EASY
@given(st.lists(st.integers(-(10**7), 10**7), min_size=1, max_size=30), st.integers(0, 4))
def test_values_stay_on_their_grid(whole, digits):
    values = pa.array([v / 10**digits for v in whole])
    column = infer_column("x", pa.chunked_array([values]), "number", False)
    again = column.array(to_numbers(values)).to_pylist()
    assert again == pytest.approx(values.to_pylist(), abs=10**-digits / 1e6)
    assert column.low <= min(values.to_pylist())
    assert column.high >= max(values.to_pylist())


@EASY
@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e9))
def test_a_range_holds_all_and_discloses_no_extreme(start, width):
    values = pa.array(np.linspace(start, start + width, 60))
    column = infer_column("x", pa.chunked_array([values]), "number", False)
    low, high = min(values.to_pylist()), max(values.to_pylist())
    assert column.low <= low
    assert high <= column.high
    if low != high:
        assert column.high - column.low <= 1.5 * (high - low) + 2 * column.step or column.low == 0


@pytest.mark.parametrize("kind", [*QUANTITIES, pa.string(), pa.bool_(), IMAGE_TYPE], ids=str)
def test_a_type_is_read_back_from_its_name(kind):
    assert parse_type(str(kind)) == kind


# ---------------------------------------------------------------- schemas


def test_kinds_are_guessed():
    schema = Schema.infer(mixed(), target="category")
    assert {c.name: c.kind for c in schema.columns} == {n: n if n != "order_id" else "id" for n in mixed().column_names}
    assert schema.task == "classification"
    assert schema["number"].step == 0.01
    assert [c.name for c in schema.columns if c.nullable] == ["integer", "category", "datetime"]
    assert schema["category"].categories == ("a", "b", "c")
    assert schema["order_id"].categories == ()


def test_kinds_are_overridden_and_targets_set_the_task():
    assert Schema.infer(mixed(), target="number").task == "regression"
    assert Schema.infer(mixed(), target="boolean").task == "classification"
    assert Schema.infer(mixed()).task == "density"
    assert Schema.infer(mixed(), kinds={"boolean": "category"})["boolean"].kind == "category"
    few = pa.table({"y": [i % 3 for i in range(N)], "x": RNG.normal(size=N)})
    assert Schema.infer(few, target="y")["y"].categories == ("0", "1", "2")
    assert Schema.infer(few, target="x")["y"].kind == "integer"


def test_a_schema_is_json_both_ways():
    for target in (None, *mixed().column_names[:5]):
        schema = Schema.infer(mixed(), target=target)
        assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


@EASY
@given(st.lists(st.sampled_from([*"abcdefgh", None]), min_size=50, max_size=120))
def test_no_category_of_fewer_than_five_rows_is_published(values):
    try:
        column = infer_column("c", pa.chunked_array([pa.array(values, pa.string())]), "category", False)
    except BadInput:
        return
    assert set(column.categories) == {v for v in set(values) - {None} if values.count(v) >= RARE}
    assert column.nullable == (None in values)


def test_whatever_the_chunks_and_dictionaries_the_schema_is_the_same():
    whole = mixed()
    chunked = pa.concat_tables([whole.slice(0, 7), whole.slice(7)])
    coded = whole.set_column(2, "category", whole["category"].dictionary_encode())
    schema = Schema.infer(whole, target="category")
    assert Schema.infer(chunked, target="category") == schema
    assert Schema.infer(coded, target="category") == schema
    assert Dataset.of(coded, schema).table.equals(Dataset.of(whole, schema).table)


def test_a_dataset_is_ordered_and_typed_by_its_schema(tmp_path):
    schema = Schema.infer(mixed(), target="number")
    shuffled = mixed().select(schema.names[::-1])
    data = Dataset.of(shuffled.set_column(5, "number", shuffled["number"].cast(pa.float32())), schema)
    assert data.table.schema.types == [c.arrow for c in schema.columns]
    assert data.x.column_names == schema.names[1:]
    data.save(tmp_path / "d.parquet")
    back = Dataset.open(tmp_path / "d.parquet")
    assert back.schema == schema
    assert back.table.equals(data.table)
    with pytest.raises(BadInput, match="lacks column 'integer'"):
        Dataset.of(mixed().drop_columns(["integer"]), schema)
    with pytest.raises(BadInput, match="does not fit"):
        Dataset.of(mixed().set_column(0, "number", pa.array(["x"] * N)), schema)


BAD = {
    "two rows": (mixed(2), None, "2 rows"),
    "no target": (mixed(), "categroy", "did you mean 'category'"),
    "constant": (mixed().append_column("y", pa.array([1] * N)), "y", "constant"),
    "null target": (mixed().append_column("y", pa.nulls(N, pa.int64())), "y", "target column 'y' is all null"),
    "null column": (mixed().append_column("z", pa.nulls(N)), None, "column 'z' is all null"),
    "infinite": (mixed().append_column("z", pa.array([math.inf] + [0.5] * (N - 1))), None, "infinite"),
    "id target": (mixed(), "order_id", "order_id"),
    "nested": (mixed().append_column("z", pa.array([[1, 2]] * N)), None, "'z'"),
    "struct": (mixed().append_column("z", pa.array([{"a": 1}] * N)), None, "'z'"),
    "binary": (mixed().append_column("z", pa.array([b"x"] * N)), None, "'z'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_one_sentence(name):
    table, target, says = BAD[name]
    with pytest.raises(BadInput, match=says) as caught:
        Schema.infer(table, target=target)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "kind"), [("category", "number"), ("order_id", "datetime"), ("boolean", "integer"), ("list", "category")])
def test_a_kind_that_a_type_cannot_have(name, kind):
    table = mixed().append_column("list", pa.array([[1]] * N))
    with pytest.raises(BadInput, match=f"{name!r} has the type .* cannot be of kind {kind}") as caught:
        Schema.infer(table.drop_columns([] if name == "list" else ["list"]), kinds={name: kind})
    assert "A-0" not in str(caught.value)


def test_bad_kinds():
    with pytest.raises(BadInput, match="does not exist"):
        Schema.infer(mixed(), kinds={"nope": "id"})
    with pytest.raises(BadInput, match="not a kind"):
        Schema.infer(mixed(), kinds={"number": "nummer"})


@pytest.mark.parametrize("name", ["", " ", "<script>", 'a"b', "a'b", "a`b", "a\nb", "a\x00b", "a\u202eb", "x" * 10_000])
def test_unsafe_column_names(name):
    with pytest.raises(BadInput) as caught:
        check_names(["fine", name])
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- splits


def numbered(n: int, target: pa.Array) -> Dataset:
    whole = pa.table({"row": pa.array(np.arange(n) * 3), "y": target})
    return Dataset.of(whole, Schema.infer(whole, target="y", kinds={"row": "integer"}))


@EASY
@given(st.integers(60, 400), st.integers(0, 5), st.sampled_from([0.1, 0.2, 0.5]), st.booleans())
def test_a_split_is_seeded_disjoint_complete_and_stratified(n, seed, share, quantity):
    rng = np.random.default_rng(n)
    y = pa.array(rng.normal(size=n)) if quantity else pa.array(np.array(["a", "b", "c"])[np.arange(n) % 3])
    data = numbered(n, y)
    one, again = split(data, seed=seed, test_share=share), split(data, seed=seed, test_share=share)
    train, test = set(one.train.table["row"].to_pylist()), set(one.test.table["row"].to_pylist())
    assert one.train.table.equals(again.train.table)
    assert train.isdisjoint(test)
    assert train | test == set(data.table["row"].to_pylist())
    assert len(train) + len(test) == n
    strata = strata_of(data)
    held = np.isin(data.table["row"].to_numpy(), list(test))
    for stratum in np.unique(strata):
        size = (strata == stratum).sum()
        assert abs(held[strata == stratum].sum() - size * share) < 1 + 1e-9
    if n >= 200:
        assert test != set(split(data, seed=seed + 1, test_share=share).test.table["row"].to_pylist())


def test_a_split_holds_null_targets_too():
    data = numbered(100, pa.array([None if i % 5 == 0 else float(i) for i in range(100)]))
    parts = split(data)
    assert parts.test.y.null_count == 4
    assert len(parts.train) + len(parts.test) == 100


# ---------------------------------------------------------------- fingerprints

VALUES = {
    "i": st.none() | st.integers(-(2**60), 2**60),
    "f": st.none() | st.floats(allow_nan=False),
    "s": st.none() | st.text(max_size=5),
    "b": st.none() | st.booleans(),
    "d": st.none() | st.dates(),
    "w": st.booleans(),
}
ARROW = pa.schema([("i", pa.int64()), ("f", pa.float64()), ("s", pa.string()), ("b", pa.bool_()), ("d", pa.date32()), ("w", pa.bool_())])
TABLES = st.lists(st.fixed_dictionaries(VALUES), max_size=25).map(lambda rows: pa.Table.from_pylist(rows, schema=ARROW))


@EASY
@given(TABLES, st.data())
def test_a_fingerprint_is_of_values_not_of_chunks(table, draw):
    n = table.num_rows
    cut, start = draw.draw(st.integers(0, n)), draw.draw(st.integers(0, n))
    assert fingerprint(pa.concat_tables([table.slice(0, cut), table.slice(cut)])) == fingerprint(table)
    fresh = pa.Table.from_pylist(table.slice(start).to_pylist(), schema=ARROW)
    assert fingerprint(table.slice(start)) == fingerprint(fresh)
    head = pa.Table.from_pylist(table.slice(0, cut).to_pylist(), schema=ARROW)
    assert fingerprint(table.slice(0, cut)) == fingerprint(head)
    masked = pa.table({c: pa.compute.if_else(pa.array([True] * n), table[c], table[c]) for c in table.column_names}, schema=ARROW)
    assert fingerprint(masked) == fingerprint(table)


@EASY
@given(TABLES, TABLES)
def test_other_values_have_another_fingerprint(one, other):
    assert (fingerprint(one) == fingerprint(other)) == one.equals(other)


def test_a_fingerprint_sees_names_types_order_and_dictionaries():
    base = pa.table({"a": [1, 2, 3]})
    others = [pa.table({"b": [1, 2, 3]}), pa.table({"a": [1.0, 2.0, 3.0]}), pa.table({"a": [1, 3, 2]}), pa.table({"a": [1, 2, None]})]
    assert len({fingerprint(t) for t in [base, *others]}) == 5
    coded = [pa.table({"a": pa.array(list(words)).dictionary_encode()}) for words in ("xyx", "pqp", "xyy")]
    assert len({fingerprint(t) for t in coded}) == 3


def test_hidden_values_below_nulls_do_not_count():
    hidden = [pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\x01"), pa.array([7, other]).buffers()[1]]) for other in (8, 9)]
    assert hidden[0].equals(hidden[1])
    assert fingerprint(pa.table({"a": hidden[0]})) == fingerprint(pa.table({"a": hidden[1]}))
