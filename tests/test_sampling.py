"""Tables of any length are read in bounded memory, as a uniform sample whose error is as it is told."""

import re
import sqlite3
from collections import namedtuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from data import sources
from data.errors import BadInput
from data.sources import delimited, sampling
from data.sources.sampling import Sample
from flows import room
from flows.job import Job
from flows.planning import plan
from flows.room import Room
from flows.stages import prepare


def table(n: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "row": np.arange(n) * 1.5,
            "k": pa.array(rng.integers(0, 40, n)),
            "c": pa.array(np.array(["red", "green", "blue"])[rng.integers(0, 3, n)]),
            "y": pa.array(np.array(["no", "yes"])[(rng.random(n) < 0.3).astype(int)]),
        }
    )


def sampled(whole: pa.Table, rows: int, batch: int) -> Sample:
    sample = Sample(rows)
    for start in range(0, whole.num_rows, batch):
        sample.add(whole.slice(start, batch))
    return sample


def test_every_row_has_the_same_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, hits = pa.table({"row": np.arange(400)}), np.zeros(400)
    for seed in range(300):
        monkeypatch.setattr(sampling, "SEED", seed)
        rows = sampled(whole, 100, 37).table()["row"].to_numpy()
        assert len(rows) == 100
        assert (np.diff(rows) > 0).all()
        hits[rows] += 1
    z = (hits - 75) / np.sqrt(300 * 0.25 * 0.75)
    assert abs(z).max() < 4.5
    assert 0.8 < (z**2).mean() < 1.2
    assert abs(hits[:40].mean() - hits[-40:].mean()) < 4  # neither end is preferred


def test_it_does_not_matter_how_the_rows_come() -> None:
    whole = table(5000)
    assert sampled(whole, 700, 64).table().equals(sampled(whole, 700, 1999).table().combine_chunks())
    assert sampled(whole, 5000, 64).table().equals(whole)
    assert Sample().whole
    assert sampled(whole, 5000, 64).digest == ""


def test_memory_holds_the_sample_and_a_little_more() -> None:
    sample = Sample(1000)
    for start in range(0, 200_000, 500):
        sample.add(pa.table({"row": np.arange(start, start + 500)}))
        assert sum(t.num_rows for t in sample.tables) <= 1000 * sampling.SLACK + 500
    assert sample.total == 200_000
    assert sample.table().num_rows == 1000
    assert sum(t.nbytes for t in sample.tables) <= 8 * 1000  # no slice holds on to what was thrown away


def test_a_change_of_any_row_changes_the_digest() -> None:
    whole = table(3000)
    before, kept = sampled(whole, 100, 500), set(sampled(whole, 100, 500).table()["row"].to_pylist())
    left_out = next(i for i in range(3000) if i * 1.5 not in kept)
    values = whole["k"].to_pylist()
    values[left_out] += 1
    after = sampled(whole.set_column(1, "k", pa.array(values)), 100, 500)
    assert before.table().equals(after.table())
    assert before.digest != after.digest
    assert before.digest == sampled(whole, 100, 500).digest


def test_the_error_is_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pa.table({"half": np.arange(4000) % 2, "rare": np.arange(4000) < 46})
    note = sampled(whole, 800, 1000).notes[0]
    points, often = re.search(r"met to ([\d.]+) points \(95 %\), and a value that ([\d,]+) rows hold", note).groups()
    assert int(often) == 46
    near, seen = [], []
    for seed in range(400):
        monkeypatch.setattr(sampling, "SEED", seed)
        found = sampled(whole, 800, 1000).table()
        near.append(abs(100 * found["half"].to_numpy().mean() - 50) <= float(points))
        seen.append(found["rare"].to_numpy().sum() >= sampling.SURE)
    assert 0.91 < np.mean(near) < 0.985
    assert np.mean(seen) > 0.93


def test_every_kind_of_source_is_sampled(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = table(6000)
    (tmp_path / "parts").mkdir()
    for i in range(3):
        pq.write_table(whole.slice(i * 2000, 2000), tmp_path / "parts" / f"{i}.parquet", row_group_size=300)
    pq.write_table(whole, tmp_path / "one.parquet")
    pyarrow.csv.write_csv(whole, tmp_path / "one.csv")
    with sqlite3.connect(tmp_path / "one.db") as base:
        base.execute("create table t (row real, k integer, c text, y text)")
        base.executemany("insert into t values (?, ?, ?, ?)", zip(*(column.to_pylist() for column in whole.columns), strict=True))
    small = sources.read(str(tmp_path / "one.csv"), rows=5000)
    assert small.of is None  # it fits into memory
    monkeypatch.setattr(delimited, "LARGE", 1000)
    query = {"query": "select * from t"}
    found = [
        sources.read(str(tmp_path / "parts"), rows=1000),
        sources.read(str(tmp_path / "one.parquet"), rows=1000),
        sources.read(str(tmp_path / "one.csv"), rows=1000),
        sources.read(f"sqlite:///{tmp_path / 'one.db'}", rows=1000, **query),
    ]
    for source in found:
        assert source.of == 6000
        assert source.table.num_rows == 1000
        assert source.table.schema.names == whole.schema.names
        assert source.table["row"].to_pylist() == found[0].table["row"].to_pylist()
        assert "1,000 of 6,000 rows" in " ".join(source.notes)
        assert len(source.fingerprint) == 16
    assert sources.read(str(tmp_path / "one.csv"), rows=10_000).table.equals(small.table)  # streamed or not, it is the same table
    assert sources.read(str(tmp_path / "one.parquet")).table.num_rows == 6000  # without a bound nothing is left out


def test_a_job_learns_from_the_sample(tmp_path) -> None:
    pq.write_table(table(9000), tmp_path / "big.parquet")
    found = plan(Job.of({"source": {"path": str(tmp_path / "big.parquet"), "sample": 2000}, "target": "y"}))
    assert len(found.real.train) + len(found.real.test) == 2000
    assert found.source["of"] == 9000


def test_a_large_csv_that_is_not_sound(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "LARGE", 10)
    path = tmp_path / "odd.csv"
    path.write_text("a,b\n" + "1,2\n" * 100 + "1,2,3\n" + "4,5\n" * 100)
    with pytest.raises(BadInput, match=r"odd.csv: row 102 has 3 values where the header has 2 names"):
        sources.read(str(path), rows=1000)
    path.write_bytes(b"a,b\n" + b"1,2\n" * 3_000_000 + b"\xff\xfe,2\n")  # beyond what is looked at for the encoding
    with pytest.raises(BadInput, match="look for an open quote, or give delimiter and encoding"):
        sources.read(str(path), rows=1000)


def test_what_does_not_fit_into_the_memory_is_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(table(9000), tmp_path / "big.parquet")
    (tmp_path / "big.jsonl").write_text('{"a": 1, "b": 2}\n' * 20_000)
    monkeypatch.setattr(sampling, "available", lambda: 100_000.0)
    monkeypatch.setattr(sources, "available", lambda: 100_000.0)
    with pytest.raises(BadInput, match=r"a sample of 9,000 rows does not fit .*: 9,000 of them take .* \(--sample 3000\)"):
        sources.read(str(tmp_path / "big.parquet"), rows=9000)
    with pytest.raises(BadInput, match=r"big.jsonl may take .*: write it as parquet"):
        sources.read(str(tmp_path / "big.jsonl"), rows=9000)


def test_a_run_without_room_is_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALFAR_HOME", str(tmp_path / "home"))
    pq.write_table(table(3000), tmp_path / "t.parquet")
    job = Job.of({"source": str(tmp_path / "t.parquet"), "target": "y", "rows": 10**9, "to": str(tmp_path / "out")})
    found = plan(job)
    (tmp_path / "root").mkdir()
    prepared = prepare(found, tmp_path / "root").folder
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: usage(0, 0, 2**30))
    with pytest.raises(BadInput, match=r"1,000,000,000 rows take up to .* GiB of disk and 1.0 GiB are free .*\(--rows (\d+)\)") as refused:
        Room.of(job, prepared, found.real.train.schema).check()
    fewer = job.model_copy(update={"rows": int(re.search(r"--rows (\d+)", str(refused.value))[1])})
    Room.of(fewer, prepared, found.real.train.schema).check()  # what is proposed has room
    monkeypatch.setattr(room, "available", lambda: 1.0)
    monkeypatch.setattr(room, "held", lambda: 0.0)
    with pytest.raises(BadInput, match=r"learning takes up to .* \(--sample\)"):
        Room.of(fewer, prepared, found.real.train.schema).check()
    Room.of(fewer, prepared, found.real.train.schema).check(learning=False)
    files = [{"path": "data/train-00000-of-00001.parquet", "rows": 1000, "bytes": 50_000}, {"path": "README.md", "bytes": 10**12}]
    room.sampled({"files": files}, 1_000_000, str(tmp_path))
    with pytest.raises(BadInput, match=r"100,000,000 rows take up to 9.3 GiB of disk and 1.0 GiB are free"):
        room.sampled({"files": files}, 100_000_000, str(tmp_path))
