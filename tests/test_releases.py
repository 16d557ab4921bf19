"""A release appears whole or not at all, and everybody's reader opens it."""

import io
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data.arrow import IMAGE_TYPE
from data.errors import BadInput
from data.releases import open_release, publish, quarantine, releases, staging, sweep
from data.rows import write_rows
from data.schema import Dataset, Schema

HERE = Path(__file__).parent.parent
AT = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
SCORES = {
    "utility": {
        "headline": "roc_auc",
        "judges": {"gradient_boosting": {"synthetic": {"roc_auc": {"mean": 0.9}}, "real": {"roc_auc": {"mean": 0.95}}}},
    }
}


def table(n: int = 200) -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "n": rng.normal(size=n),
            "k": pa.array(rng.integers(0, 1000, n), pa.int16()),
            "c": pa.array([None if i % 7 == 0 else "abc"[i % 3] for i in range(n)]),
            "t": pa.array([datetime(2024, 1, 1 + i % 28, tzinfo=UTC) for i in range(n)], pa.timestamp("us", "UTC")),
            "y": pa.array([i % 2 == 0 for i in range(n)]),
        }
    )


def dataset(n: int = 200) -> Dataset:
    whole = table(n)
    return Dataset.of(whole, Schema.infer(whole, target="y"))


def chunks(data: Dataset, size: int):
    for start in range(0, len(data), size):
        yield Dataset(data.schema, data.table.slice(start, size))


def released(root: Path, name: str = "shop", data: Dataset | None = None, rows: int | None = None, **options) -> Path:
    data = data or dataset()
    with staging(root, name) as folder:
        write_rows(folder, chunks(data, 64), rows=rows or len(data), provenance={"seed": 1}, **options)
        (folder / "report.html").write_text("<p>fine</p>")
        return publish(folder, root, name, {"scores": SCORES, "verdict": "passed"}, at=AT)


# ---------------------------------------------------------------- writing


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(50, 400), st.integers(1, 120), st.integers(1, 150), st.data())
def test_exactly_the_rows_asked_for_in_order(tmp_path_factory, n, chunk, per_file, draw):
    data = dataset(n)
    rows = draw.draw(st.integers(1, n))
    folder = tmp_path_factory.mktemp("w")
    paths = write_rows(folder, chunks(data, chunk), rows=rows, provenance={}, rows_per_file=per_file)
    count = -(-rows // per_file)
    assert [p.name for p in paths] == [f"train-{i:05d}-of-{count:05d}.parquet" for i in range(count)]
    assert [pq.read_metadata(p).num_rows for p in paths[:-1]] == [per_file] * (count - 1)
    back = pa.concat_tables(pq.read_table(p) for p in paths).replace_schema_metadata(None)
    assert back.equals(data.table.slice(0, rows).replace_schema_metadata(None))


def test_footers_row_groups_and_progress(tmp_path):
    data = dataset(1000)
    data = Dataset(data.schema, data.table.replace_schema_metadata({b"mine": b"kept"}))
    seen = []
    many = (data for _ in range(250))
    (path,) = write_rows(tmp_path, many, rows=250_000, provenance={"seed": 3}, progress=lambda *a: seen.append(a[:2]))
    meta = pq.read_metadata(path)
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [100_000, 100_000, 50_000]
    assert meta.row_group(0).column(0).compression == "ZSTD"
    assert meta.metadata[b"mine"] == b"kept"
    assert json.loads(meta.metadata[b"alfar.provenance"]) == {"seed": 3}
    assert Schema.from_json(json.loads(meta.metadata[b"alfar.schema"])) == data.schema
    assert seen[-1] == (250_000, 250_000)
    assert Dataset.open(path).schema == data.schema


def test_only_what_is_needed_is_drawn_and_too_little_is_an_error(tmp_path):
    drawn = []

    def endless():
        data = dataset(100)
        while True:
            drawn.append(1)
            yield data

    write_rows(tmp_path, endless(), rows=250, provenance={})
    assert len(drawn) == 3
    with pytest.raises(ValueError, match="stopped early"):
        write_rows(tmp_path, chunks(dataset(100), 30), rows=101, provenance={})


def test_memory_does_not_grow_with_rows(tmp_path):
    code = """
import resource, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from data.rows import write_rows
from data.schema import Dataset, Schema
table = pa.table({f'x{i}': np.random.default_rng(i).normal(size=50_000) for i in range(10)})
data = Dataset.of(table, Schema.infer(table))
def peak(rows):
    write_rows(Path(sys.argv[1]) / str(rows), (data for _ in iter(int, 1)), rows=rows, provenance={})
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small = peak(400_000)
print(peak(1_400_000) - small)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=HERE, check=True)
    assert int(done.stdout) < 40_000  # KiB; the million further rows are 80,000


# ---------------------------------------------------------------- publishing


def test_versions_follow_and_latest_is_the_last(tmp_path):
    first, second = released(tmp_path), released(tmp_path)
    assert (first.name, second.name) == ("v1", "v2")
    assert (tmp_path / "shop" / "LATEST").read_text() == "v2\n"
    assert sorted(p.name for p in second.iterdir()) == ["README.md", "_SUCCESS", "data", "release.json", "report.html"]
    assert [p.name for p in second.joinpath("data").iterdir()] == ["train-00000-of-00001.parquet"]
    assert not list((tmp_path / "_staging").iterdir())
    current = open_release(tmp_path / "shop", verify=True)
    assert (current.dataset, current.version, current.number, current.rows, current.verdict) == ("shop", "v2", 2, 200, "passed")
    assert current.created == AT
    assert current.headline == "roc_auc 0.900 (real 0.950)"
    assert {f["path"] for f in current.manifest["files"]} == {"README.md", "report.html", "data/train-00000-of-00001.parquet"}
    front = yaml.safe_load((second / "README.md").read_text().split("---")[1])
    assert front["configs"][0]["data_files"][0]["path"] == "data/train-*.parquet"


def test_a_number_is_never_used_twice_and_latest_never_goes_back(tmp_path):
    import shutil

    for _ in range(3):
        released(tmp_path)
    shutil.rmtree(tmp_path / "shop" / "v3")
    assert released(tmp_path).name == "v4"
    (tmp_path / "shop" / "LATEST").write_text("v9\n")
    assert released(tmp_path).name == "v10"
    assert (tmp_path / "shop" / "LATEST").read_text() == "v10\n"


def test_an_exception_leaves_nothing(tmp_path):
    def leave():
        with staging(tmp_path, "shop") as folder:
            (folder / "data").mkdir()
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        leave()
    assert not list((tmp_path / "_staging").iterdir())
    assert releases(tmp_path) == []


def test_quarantine_is_aside(tmp_path):
    released(tmp_path)
    data = dataset()
    places = []
    for _ in range(2):
        with staging(tmp_path, "shop") as folder:
            write_rows(folder, chunks(data, 50), rows=200, provenance={})
            places.append(quarantine(folder, tmp_path, "shop", {}, ["copies 0.3 > 0.1"]))
    assert len(set(places)) == 2
    assert {p.parent for p in places} == {tmp_path / "_quarantine" / "shop"}
    assert [r.version for r in releases(tmp_path)] == ["v1"]
    assert (tmp_path / "shop" / "LATEST").read_text() == "v1\n"
    rejected = open_release(places[0], verify=True)
    assert rejected.verdict == "rejected"
    assert rejected.manifest["reasons"] == ["copies 0.3 > 0.1"]


def test_listing_is_sorted_by_number(tmp_path):
    for _ in range(11):
        released(tmp_path, "b")
    released(tmp_path, "a")
    assert [(r.dataset, r.number) for r in releases(tmp_path)] == [("a", 1)] + [("b", n) for n in range(1, 12)]


LOOP = """
import sys
from datetime import UTC, datetime
from itertools import count, islice
import pyarrow as pa
from data.releases import publish, staging
from data.rows import write_rows
from data.schema import Dataset, Schema
table = pa.table({"n": [i * 0.37 for i in range(3000)], "k": list(range(3000))})
data = Dataset.of(table, Schema.infer(table, target="n"))
print("ready", flush=True)
for _ in islice(count(), int(sys.argv[2])):
    with staging(sys.argv[1], "shop") as folder:
        write_rows(folder, iter([data]), rows=3000, provenance={}, rows_per_file=500)
        publish(folder, sys.argv[1], "shop", {}, at=datetime.now(UTC))
"""


def publisher(root: Path, count: int) -> subprocess.Popen:
    """A process that has imported everything and begins to publish."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    run = subprocess.Popen([sys.executable, "-c", LOOP, str(root), str(count)], cwd=HERE, stdout=subprocess.PIPE, env=environment)
    assert run.stdout is not None
    assert run.stdout.readline() == b"ready\n"
    run.stdout.close()
    return run


def test_racing_publishers_each_get_a_number(tmp_path):
    racers = [publisher(tmp_path, 5) for _ in range(3)]
    assert [racer.wait() for racer in racers] == [0, 0, 0]
    assert [r.number for r in releases(tmp_path)] == list(range(1, 16))
    assert open_release(tmp_path / "shop", verify=True).number == 15


def test_killed_at_any_moment_no_half_release_is_ever_seen(tmp_path):
    rng, seen, cut = random.Random(0), 0, 0
    for _ in range(8):
        run = publisher(tmp_path, 10_000)
        end = time.monotonic() + rng.uniform(0.02, 0.6)
        while time.monotonic() < end:
            for release in releases(tmp_path)[seen:]:
                release.verify()
                assert sum(pq.read_metadata(p).num_rows for p in release.data.iterdir()) == 3000
                seen += 1
        run.send_signal(signal.SIGKILL)
        run.wait()
        cut += len(list((tmp_path / "_staging").iterdir())) > cut
        complete = [r.number for r in releases(tmp_path)]
        assert complete == list(range(1, len(complete) + 1))
        assert {p.name for p in (tmp_path / "shop").glob("v*")} == {f"v{n}" for n in complete}
    assert seen > 5
    assert cut > 2  # the kills did hit a release that was being written
    assert len(sweep(tmp_path)) == cut
    assert not list((tmp_path / "_staging").iterdir())
    released(tmp_path)
    assert open_release(tmp_path / "shop", verify=True).number == len(complete) + 1


def test_sweep_spares_the_living(tmp_path):
    import socket

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    place = tmp_path / "_staging"
    dead, other = place / f"{socket.gethostname()}~{gone.pid}~1", place / "elsewhere~1~2"
    with staging(tmp_path, "shop") as mine:
        dead.mkdir()
        other.mkdir()
        assert sweep(tmp_path) == [dead]
        assert mine.exists()
        assert other.exists()
    os.utime(other, (0, 0))
    assert sweep(tmp_path) == [other]
    assert sweep(tmp_path / "none") == []


# ---------------------------------------------------------------- what is refused


def test_what_is_not_a_release(tmp_path):
    released(tmp_path)
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "none", tmp_path / "file", tmp_path / "_staging"):
        with pytest.raises(BadInput, match="not a release"):
            open_release(path)


@pytest.mark.parametrize("harm", ["edit", "cut", "missing", "extra", "manifest", "no json", "outside"])
def test_tampering_is_found(tmp_path, harm):
    folder = released(tmp_path)
    part = folder / "data" / "train-00000-of-00001.parquet"
    if harm == "edit":
        part.write_bytes(part.read_bytes().replace(b"alfar", b"alfax"))
    elif harm == "cut":
        part.write_bytes(part.read_bytes()[:-20])
    elif harm == "missing":
        part.unlink()
    elif harm == "extra":
        (folder / "data" / "more.parquet").write_bytes(part.read_bytes())
    elif harm == "manifest":
        (folder / "release.json").write_text((folder / "release.json").read_text().replace("200", "201"))
    elif harm == "no json":
        (folder / "release.json").write_text("[" * 100_000)
    else:
        import hashlib

        facts = {"path": "../../x", "bytes": 1, "sha256": "0"}
        text = json.dumps({"dataset": "shop", "version": "v1", "rows": 1, "created": "2025-01-01", "files": [facts]})
        (folder / "release.json").write_text(text)
        (folder / "_SUCCESS").write_text(hashlib.sha256(text.encode()).hexdigest())
    with pytest.raises(BadInput):
        open_release(folder, verify=True)


def test_unsafe_names(tmp_path):
    for name in ("", "..", "../x", "a/b", "_quarantine", ".x", "A", "x" * 61, "a\n"):
        with pytest.raises(BadInput, match="dataset name"), staging(tmp_path, name):
            pass
    assert not list(tmp_path.iterdir())


def test_a_destination_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/alfar")):
        with pytest.raises(BadInput, match="cannot write to"), staging(root, "shop"):
            pass


def _full(root: str, answer) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    try:
        released(Path(root), data=dataset(5000))
    except BadInput as error:
        answer.put(str(error))


def test_no_room_is_one_sentence_and_nothing_half_written(tmp_path):
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    run = context.Process(target=_full, args=(str(tmp_path), answer))
    run.start()
    said = answer.get(timeout=60)
    run.join()
    assert "cannot write to" in said
    assert "\n" not in said
    assert releases(tmp_path) == []
    assert not list((tmp_path / "_staging").iterdir())


# ---------------------------------------------------------------- everybody reads it


def test_pandas_polars_duckdb_and_pyarrow_read_it(tmp_path):
    data = dataset()
    folder = released(tmp_path, data=data, rows_per_file=64) / "data"
    expected = data.table.replace_schema_metadata(None)
    assert pads.dataset(folder).to_table().replace_schema_metadata(None).equals(expected)
    pd.testing.assert_frame_equal(pd.read_parquet(folder), expected.to_pandas())
    assert pl.scan_parquet(folder / "*.parquet").collect().to_dicts() == expected.to_pylist()
    rows = duckdb.sql(f"select count(*), sum(k), count(c) from '{folder}/*.parquet'").fetchall()
    assert rows == [(200, sum(expected["k"].to_pylist()), 200 - expected["c"].null_count)]
    keys = duckdb.sql(f"select key from parquet_kv_metadata('{folder}/*.parquet')").fetchall()
    assert {b"alfar.schema", b"alfar.provenance"} <= {key for (key,) in keys}


def load(folder: Path, cache: Path):
    import datasets

    return datasets.load_dataset(str(folder), cache_dir=str(cache), split="train")


def test_datasets_and_a_torch_loader_read_it(tmp_path):
    from torch.utils.data import DataLoader

    folder = released(tmp_path)
    loaded = load(folder, tmp_path / "cache")
    assert loaded.num_rows == 200
    assert loaded.column_names == ["n", "k", "c", "t", "y"]
    batches = list(DataLoader(loaded.select_columns(["n", "k"]).with_format("torch"), batch_size=64))
    assert [len(batch["n"]) for batch in batches] == [64, 64, 64, 8]
    assert [int(k) for batch in batches for k in batch["k"]] == table()["k"].to_pylist()


def png(pixels: np.ndarray) -> dict:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return {"bytes": sink.getvalue(), "path": None}


def test_images_and_masks_decode(tmp_path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    masks = (pictures[..., 0] > 127).astype(np.uint8)
    whole = pa.table({"image": pa.array([png(p) for p in pictures], IMAGE_TYPE), "mask": pa.array([png(m) for m in masks], IMAGE_TYPE)})
    schema = Schema.infer(whole, target="mask")
    assert schema.task == "segmentation"
    folder = released(tmp_path, data=Dataset.of(whole, schema))
    loaded = load(folder, tmp_path / "cache")
    for i in (0, 59):
        assert isinstance(loaded[i]["image"], Image.Image)
        assert (loaded[i]["image"].mode, loaded[i]["mask"].mode) == ("RGB", "L")
        np.testing.assert_array_equal(np.asarray(loaded[i]["image"]), pictures[i])
        np.testing.assert_array_equal(np.asarray(loaded[i]["mask"]), masks[i])


def test_text_pairs_read_back(tmp_path):
    questions = [f"how many of the {i} things are there in box {i * 7}?" for i in range(60)]
    answers = [f"select count(*) from box where id = {i * 7} and kind = {i}" for i in range(60)]
    whole = pa.table({"question": questions, "answer": answers})
    schema = Schema.infer(whole, target="answer", kinds={"question": "text", "answer": "text"})
    assert schema.task == "text-to-code"
    loaded = load(released(tmp_path, data=Dataset.of(whole, schema)), tmp_path / "cache")
    assert loaded["question"][:] == questions
    assert loaded["answer"][:] == answers
