"""The expectations on written files: what holds passes, what is broken is named, nothing vanishes."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.schema import Dataset, Schema
from evaluators.quality import quality, suite

N = 400
MADRID = pa.timestamp("us", "Europe/Madrid")
HOSTILE = "a $b.c; drop--%s{0} ñ"


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(0)
    days = [datetime(2024, 1, 1) + timedelta(hours=int(h)) for h in rng.integers(0, 9000, N)]
    table = pa.table(
        {
            "key_id": [f"u{i:05d}" for i in range(N)],
            HOSTILE: pa.array(rng.normal(50, 10, N), mask=rng.random(N) < 0.1),
            "day": pa.array(days, pa.timestamp("us")).cast(MADRID),
            "cut": [["good", "ideal", "fair"][i % 3] for i in range(N - 1)] + ["secret"],
            "grade": pa.array(rng.integers(1, 5, N), pa.int32()),
            "flag": rng.random(N) < 0.5,
            "note": [f"a few words number {i}" for i in range(N)],
        }
    )
    schema = Schema.infer(table, kinds={"key_id": "id", "note": "text"})
    kept = table.filter(pa.compute.not_equal(table["cut"], "secret"))
    return Dataset.of(kept, schema)


def write(folder: Path, table: pa.Table, name: str = "a.parquet") -> list[Path]:
    pq.write_table(table, folder / name)
    return [folder / name]


def failed(schema: Schema, files: list[Path]) -> set[tuple[str, str | None]]:
    result = quality(schema, files)
    assert result["passed"] is (not result["failed"])
    assert json.loads(json.dumps(result)) == result
    return {(f["expectation"], f["column"]) for f in result["failed"]}


def put(data: Dataset, name: str, values: object) -> pa.Table:
    return data.table.set_column(data.schema.names.index(name), name, values)


def test_what_holds_passes_in_one_file_or_in_several(data, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("evaluators.quality.CHUNK", 150)
    monkeypatch.chdir(tmp_path)
    whole = write(tmp_path, data.table)
    result = quality(data.schema, whole)
    assert result["failed"] == []
    assert result["passed"]
    assert result["rows"] == len(data)
    halves = write(tmp_path, data.table[:200], "b.parquet") + write(tmp_path, data.table[200:], "c.parquet")
    assert quality(data.schema, halves)["passed"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.parquet", "b.parquet", "c.parquet"], "nothing is left in the working folder"
    assert "%|" not in capfd.readouterr().err, "no progress bars"


def test_each_break_is_named(data, tmp_path):
    n = len(data)
    breaks = {
        ("expect_column_values_to_be_between", HOSTILE): put(data, HOSTILE, pa.array(np.full(n, 1e6))),
        ("expect_column_values_to_be_in_set", "cut"): put(data, "cut", pa.array(["secret"] * n)),
        ("expect_column_values_to_not_be_null", "flag"): put(data, "flag", pa.array([None] * n, pa.bool_())),
        ("expect_column_values_to_be_unique", "key_id"): put(data, "key_id", pa.array(["same"] * n)),
        ("stored_type", "grade"): put(data, "grade", data.table["grade"].cast(pa.float64())),
        ("stored_type", "day"): data.table.drop_columns(["day"]),
        ("expect_table_columns_to_match_ordered_list", None): data.table.select(data.schema.names[::-1]),
        ("expect_column_values_to_not_be_null", "note"): put(data, "note", pa.array([None] * n, pa.string())),
        ("row_count", None): data.table[:0],
        ("texts", "note"): put(data, "note", pa.array(["some words"] * (n - 1) + [" "])),
    }
    for expected, table in breaks.items():
        assert expected in failed(data.schema, write(tmp_path, table)), expected


UNTEXT = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 3], np.int32)), pa.py_buffer(b"\xed\xa0\x80"))  # a lone surrogate


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (pa.array([""]), "row 399 holds an empty text"),
        (pa.array(["select 1\0"]), "row 399 holds a text with a control character"),
        (pa.array(["select " + "1" * 200]), "row 399 holds a text that is too long"),
        (pa.array(["select from where"]), "row 399 holds sql that does not parse"),
        (UNTEXT, "a text is not UTF-8"),
    ],
)
def test_what_is_no_text_of_its_column_is_found(tmp_path, last, said):
    queries = pa.array([f"select a from b where c = {i}" for i in range(N)])
    schema = Schema.infer(pa.table({"asked": queries}), kinds={"asked": "text"})
    assert (schema["asked"].language, schema["asked"].high) == ("sql", 30)
    assert quality(schema, write(tmp_path, pa.table({"asked": queries})))["passed"]
    found = quality(schema, write(tmp_path, pa.table({"asked": pa.concat_arrays([queries[:-1], last])})))["failed"]
    assert [(f["expectation"], f["what"]) for f in found] == [("texts", f"a.parquet: {said}")]


def test_dates_out_of_range_fail(data, tmp_path):
    early = (
        pa.array([datetime(1900, 1, 1)] * len(data), pa.timestamp("us"))
        .cast(pa.timestamp("us", "UTC"))
        .cast(pa.timestamp("us", "Europe/Madrid"))
    )
    assert failed(data.schema, write(tmp_path, put(data, "day", early))) == {("expect_column_values_to_be_between", "day")}


def test_ids_are_unique_across_files(data, tmp_path):
    files = write(tmp_path, data.table) + write(tmp_path, data.table, "again.parquet")
    assert failed(data.schema, files) == {("unique_ids", "key_id")}


def test_a_missing_or_broken_file_and_no_file_fail(data, tmp_path):
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no parquet at all")
    good = write(tmp_path, data.table)
    for bad in (tmp_path / "b.parquet", tmp_path / "missing.parquet"):
        assert failed(data.schema, [*good, bad]) == {("readable_file", None)}
    assert failed(data.schema, []) == {("row_count", None)}


def test_a_missing_column_fails_every_expectation_on_it(data, tmp_path):
    found = failed(data.schema, write(tmp_path, data.table.drop_columns(["flag"])))
    assert {
        ("expect_column_values_to_not_be_null", "flag"),
        ("expect_column_values_to_be_in_set", "flag"),
        ("stored_type", "flag"),
    } <= found


def test_the_suite_can_be_published(data):
    text = json.dumps(suite(data.schema))
    assert HOSTILE in json.loads(text)["expectations"][2]["kwargs"].values() or HOSTILE in text.encode().decode("unicode_escape")
    assert "secret" not in text, "a rare category stays home"
    numbers = data.schema[HOSTILE].numbers(data.table[HOSTILE])
    for extreme in (np.nanmin(numbers), np.nanmax(numbers)):
        assert repr(float(extreme)) not in text
        assert f"{extreme:.4f}" not in text


def test_dictionary_columns_are_their_values(data, tmp_path):
    table = put(data, "cut", data.table["cut"].combine_chunks().dictionary_encode())
    assert failed(data.schema, write(tmp_path, table)) == set()
    assert ("expect_column_values_to_be_in_set", "cut") in failed(
        replace(data.schema, columns=tuple(replace(c, categories=("good",)) if c.name == "cut" else c for c in data.schema.columns)),
        write(tmp_path, table),
    )
