"""The laws of the encodings: what is encoded can be decoded, what is rare is not kept."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data.errors import BadInput
from data.infer import infer_column
from data.schema import RARE, Column, Dataset, Schema
from generators.codecs.columns import Categories, Quantiles, segments
from generators.codecs.ids import Ids
from generators.codecs.table import MixedCodec, TokenCodec

QUICK = settings(max_examples=40, deadline=None)
WORDS = st.lists(st.sampled_from(["a", "b", "cc", "d e", "ü", "", None]), min_size=20, max_size=120)
WHOLE = st.lists(st.integers(-50, 50) | st.none(), min_size=30, max_size=200)
REAL = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=30, max_size=200)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def frequent(values: list) -> set:
    return {v for v in values if v is not None and values.count(v) >= RARE}


@QUICK
@given(WORDS)
def test_frequent_categories_and_nulls_come_back(values):
    assume(frequent(values))
    array = pa.array(values, pa.string())
    code = Categories.fit(Column("word", "category", "string", nullable=True), array)
    back = code.decode(*code.encode(array, rng())).to_pylist()
    for value, again in zip(values, back, strict=True):
        assert again == value or (value not in frequent(values) and again in frequent(values))
    assert set(code.values) == frequent(values)
    assert code.tokens.sum() == pytest.approx(1)


@QUICK
@given(WHOLE)
def test_frequent_numbers_and_nulls_come_back(values):
    assume(sum(v is not None for v in values) >= RARE)
    array = pa.array(values, pa.int64())
    code = Quantiles.fit(infer_column("count", pa.chunked_array([array]), "integer", False), array)
    back = code.decode(*code.encode(array, rng())).to_pylist()
    atoms = set(code.low[code.low == code.high].tolist())
    for value, again in zip(values, back, strict=True):
        assert (value is None) == (again is None)
        assert value not in atoms or again == value
    assert frequent(values) <= atoms
    assert code.tokens.sum() == pytest.approx(1)


@QUICK
@given(REAL)
def test_every_segment_holds_enough_rows(values):
    numbers = np.array(values)
    column = infer_column("x", pa.chunked_array([pa.array(values)]), "number", False)
    low, high, rows, _ = segments(column, numbers)
    assert rows.sum() == len(numbers)
    assert rows.min() >= RARE
    assert np.all(low <= high)
    assert np.all(high[:-1] <= low[1:])
    for atom in low[low == high]:
        assert (numbers == atom).sum() >= RARE or len(low) == 1


@QUICK
@given(REAL)
def test_no_segment_ends_at_a_value_of_few_rows(values):
    numbers = np.array(values)
    assume(len(set(values)) > 2 * RARE and numbers.std() > 1)
    low, high, _, _ = segments(Column("x", "number", "double"), numbers)
    open_ended = low != high
    shared = set(frequent(values))
    ends = set(low[open_ended].tolist()) | set(high[open_ended].tolist())
    middles = {float((a + b) / 2) for a, b in zip(sorted(set(values)), sorted(set(values))[1:], strict=False)}
    assert not (ends & set(values)) - shared - middles


def test_ranks_are_uniform_and_invert():
    from scipy.stats import kstest

    numbers = np.concatenate([np.zeros(500), np.round(rng().lognormal(2, 1, 2500), 1)])
    array = pa.array(numbers)
    code = Quantiles.fit(infer_column("x", pa.chunked_array([array]), "number", False), array)
    ranks = code.ranks(array, rng())
    assert kstest(ranks, "uniform").pvalue > 0.01
    again = code.invert(ranks, None).to_numpy()
    assert np.all(again[:500] == 0)
    # a rank lies in its value's own segment, and segments are short
    assert np.median(np.abs(again - numbers)) < 0.05 * numbers.std()
    fresh = code.invert(rng().random(20_000), None).to_numpy()
    assert np.quantile(fresh, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(numbers, [0.1, 0.5, 0.9]), rel=0.05, abs=0.05)


PATTERNS = {
    "serial": pa.array(np.arange(1000, 1400)),
    "spread": pa.array(np.random.default_rng(0).choice(10**9, 400, replace=False)),
    "code": pa.array([f"AB-{i:06x}" for i in np.random.default_rng(1).choice(16**6, 400, replace=False)]),
    "mail": pa.array([f"u{i:04d}@example.org" for i in range(400)]),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_ids_are_unique_and_of_the_same_form(name):
    real = PATTERNS[name]
    code = Ids.fit(infer_column("id", pa.chunked_array([real]), "id", False), real)
    parts = [code.make(0, 700, 5), code.make(700, 300, 5)]
    made = [value for part in parts for value in part.to_pylist()]
    assert len(set(made)) == 1000
    assert parts[0].type == real.type
    assert made != [value for start, n in ((0, 700), (700, 300)) for value in code.make(start, n, 6).to_pylist()] or code.serial
    if name in ("code", "mail"):
        form = r"AB-[0-9a-f]{6}" if name == "code" else r"u[0-9]{4}@example\.org"
        assert pa.compute.match_substring_regex(pa.array(made), f"^{form}$").to_numpy(zero_copy_only=False).all()
    again = Ids.restore(code.column, *code.state())
    assert again.make(0, 50, 5).equals(code.make(0, 50, 5))


@pytest.mark.parametrize("kind", [pa.string(), pa.int64()])
def test_ids_that_are_all_missing_are_bad_input(kind):
    with pytest.raises(BadInput, match="'code' holds ids, but none"):
        Ids.fit(Column("code", "id", str(kind), nullable=True), pa.chunked_array([pa.nulls(20, kind)]))


def test_ids_outgrow_their_form_without_repeating():
    real = pa.array([f"{a}{b}" for a in "abc" for b in "xyz"] * 6)
    code = Ids.fit(Column("id", "id", "string"), real)
    made = code.make(0, 3000, 0).to_pylist()
    assert len(set(made)) == len(made)


def everything() -> Dataset:
    r = rng()
    n = 300
    table = pa.table(
        {
            "word": pa.array(r.choice(["x", "y", "z"], n)),
            "few": pa.array(r.integers(5, size=n)),
            "hole": pa.array(r.normal(size=n), mask=r.random(n) < 0.3),
            "key": pa.array([f"k{i:04d}" for i in range(n)]),
            "flag": pa.array((r.random(n) < 0.5).tolist(), mask=r.random(n) < 0.2),
        }
    )
    return Dataset.of(table, Schema.infer(table, target="word"))


@pytest.mark.parametrize("codec", [TokenCodec, MixedCodec])
def test_a_codec_comes_back_from_its_state(codec):
    data = everything()
    fitted = codec.fit(data)
    rows = fitted.encode(data, rng())
    spec, tensors = fitted.state()
    again = codec.restore(spec, tensors)
    for a, b in zip(rows, again.encode(data, rng()), strict=True):
        assert a.equal(b)
    one, two = (c.decode(rows, rng(), start=0, seed=0) for c in (fitted, again))
    assert one.table.equals(two.table)
    for name in ("word", "few", "flag"):
        assert one.table[name].to_pylist() == data.table[name].to_pylist(), name
    assert one.table["hole"].null_count == data.table["hole"].null_count


def test_scores_are_standard_normal():
    data = everything()
    codec = MixedCodec.fit(data)
    z, c = codec.encode(data, rng())
    assert z.shape == (300, 1)
    assert c.shape == (300, len(codec.sizes))
    assert codec.sizes == [3, 5, 3, 2]
    assert abs(float(z.mean())) < 0.15
    assert abs(float(z.std()) - 1) < 0.15
    assert all((c[:, k] < size).all() for k, size in enumerate(codec.sizes))


@pytest.mark.parametrize("codec", [TokenCodec, MixedCodec])
def test_matches_are_the_rows_that_meet_the_condition(codec):
    data = everything()
    fitted = codec.fit(data)
    rows = fitted.encode(data, rng())
    for name, value in (("word", "y"), ("few", 3), ("flag", None), ("hole", None)):
        mask = fitted.matches(rows, fitted.condition({name: value})).numpy()
        assert mask.tolist() == [v == value for v in data.table[name].to_pylist()], name


@QUICK
@given(REAL)
def test_digits_of_a_quantity_lead_back_to_its_segment(values):
    values = values * 8  # enough rows for tokens of several segments
    array = pa.array(values + [None] * 7)
    code = Quantiles.fit(infer_column("x", pa.chunked_array([array]), "number", False), array)
    digits = code.split(array, rng())
    assert digits.shape == (len(array), len(code.digits))
    for k, share in enumerate(code.digits):
        assert share.sum(-1) == pytest.approx(np.ones(share.shape[:-1]))
        assert digits[:, k].max() < share.shape[-1]
    back = code.join(digits, rng())
    assert back.null_count == 7
    numbers, again = np.array(values), back.drop_null().to_numpy()
    place = np.minimum(np.searchsorted(code.high, numbers), len(code.high) - 1)
    slack = 1e-9 + 1e-9 * np.abs(numbers) + code.column.step
    assert np.all((code.low[place] - slack <= again) & (again <= code.high[place] + slack))


def test_a_wide_category_is_two_digits():
    words = [f"w{i:04d}" for i in range(1500)]
    array = pa.array([*words * RARE, None])
    code = Categories.fit(infer_column("x", pa.chunked_array([array]), "category", False), array)
    assert [share.shape for share in code.digits] == [(39,), (39, 39)]
    assert code.join(code.split(array, rng()), rng()).equals(array)


def test_the_tail_reaches_the_published_end_and_keeps_the_mean():
    numbers = np.round(rng().lognormal(3, 1, 3000), 1)
    array = pa.array(numbers)
    code = Quantiles.fit(infer_column("x", pa.chunked_array([array]), "number", False), array)
    fresh = code.invert(rng().random(300_000), None).to_numpy()
    assert numbers.max() * 0.9 < fresh.max() <= code.column.high
    assert fresh.mean() == pytest.approx(numbers.mean(), rel=0.01)
