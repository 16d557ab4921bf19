"""Releases in an object store, tried against moto's S3 server: a reader never finds half of one."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from data import releases as store
from data import sources, stores
from data.errors import BadInput
from data.releases import latest, open_release, publish, quarantine, releases, retire, rollback, staging, sweep
from data.rows import write_rows
from data.schema import Dataset, Schema
from data.stores import Remote, place
from flows import publishing
from flows.cli import main
from flows.job import Job
from flows.pipeline import synthesize
from flows.publishing import Asked, resample

AT = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
HERE = Path(__file__).parent.parent
LOOSE = {"utility": -99, "detector": 1, "shape": 100, "trend": 100, "copies": 1, "dcr": 100, "membership": 1}


@pytest.fixture(scope="module")
def server():
    """Where an S3 server of our own listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(300):
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    running.kill()
    running.wait()


@pytest.fixture
def bucket(server, request, monkeypatch, tmp_path):
    """The URL of a new bucket; all that is known of it and its owner is in the environment."""
    told = {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "hush-hush", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**told, "ALFAR_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    name = f"b{abs(hash(request.node.name)) % 10**9}"
    pyarrow.fs.S3FileSystem(endpoint_override=server, allow_bucket_creation=True).create_dir(name)
    return f"s3://{name}"


def data(n=80, seed=0):
    rng = np.random.default_rng(seed)
    table = pa.table({"n": rng.normal(size=n).round(3), "m": rng.integers(0, 9, n), "y": pa.array(["a", "b"] * (n // 2))})
    return Dataset.of(table, Schema.infer(table, target="y"))


def release(root, files=2):
    told = data()
    with staging(root, "shop") as folder:
        write_rows(folder, iter([told]), rows=80, provenance={}, rows_per_file=80 // files)
        manifest = {"schema": told.schema.to_json(), "gates": [], "generator": {"name": "g", "parameters": {}}}
        return publish(folder, root, "shop", manifest, at=AT)


def keys(url):
    return sorted(info.path.partition("/")[2] for info in place(url).listed(recursive=True) if info.is_file)


def test_a_release_is_as_on_a_disk(bucket, tmp_path):
    for root in (bucket + "/out", tmp_path / "out"):
        assert str(release(root)) == f"{root}/shop/v1"
        assert str(release(root)).endswith("v2")
    there, here = open_release(f"{bucket}/out/shop", verify=True), open_release(tmp_path / "out" / "shop")
    assert there.manifest == here.manifest
    assert there.version == "v2"
    names = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "out" / "shop").rglob("*") if path.is_file())
    assert keys(bucket) == names  # nothing else is left behind: no claim, no trial
    assert not list((tmp_path / "home" / "staging").iterdir())
    assert [r.version for r in releases(f"{bucket}/out")] == ["v1", "v2"]
    assert releases(f"{bucket}/other") == []
    assert sources.read(f"{bucket}/out/shop/v2").table.equals(sources.read(str(tmp_path / "out" / "shop" / "v2")).table)


def test_what_was_changed_is_found(bucket):
    release(bucket)
    (place(bucket) / "shop" / "v1" / "README.md").write_text("other")
    with pytest.raises(BadInput, match=r"s3://.*README.md is missing or not as it was published"):
        open_release(f"{bucket}/shop", verify=True)
    (place(bucket) / "shop" / "v1" / "release.json").write_text("{}")
    with pytest.raises(BadInput, match=r"s3://.*release.json is"):
        open_release(f"{bucket}/shop")
    assert releases(bucket) == []


def test_stopped_after_any_object_there_is_no_release(bucket, monkeypatch):
    release(bucket)
    whole = len(keys(f"{bucket}/shop/v1"))
    for after in range(whole):
        copied = []

        def copy(self, path, after=after, copied=copied):
            if len(copied) == after:
                raise KeyboardInterrupt
            copied.append(self)
            with self.store.open_output_stream(self.key) as sink:
                sink.write(path.read_bytes())

        monkeypatch.setattr(Remote, "upload", copy)
        with pytest.raises(KeyboardInterrupt):
            release(bucket)
        assert [r.version for r in releases(bucket)] == ["v1"]
        assert open_release(f"{bucket}/shop").version == "v1"
        with pytest.raises(BadInput, match=r"not a complete release|is not a release"):
            open_release(f"{bucket}/shop/v{after + 2}")
    monkeypatch.undo()


def test_killed_while_a_reader_polls(bucket, tmp_path):
    """SIGKILL in the middle of copying, at three moments: all that a reader ever opens is whole, and half versions go in time."""
    release(bucket)
    body = "import sys; sys.path[:0] = sys.argv[2:]; from test_stores import release\nwhile True: release(sys.argv[1], files=4)"
    seen, wrong, stop = set(), [], threading.Event()

    def poll():
        while not stop.is_set():
            try:
                seen.add(open_release(f"{bucket}/shop", verify=True).version)
            except BadInput as error:
                wrong.append(str(error))

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        for moment in range(3):
            before = len(releases(bucket))
            command = [sys.executable, "-c", body, bucket, str(HERE), str(HERE / "tests")]
            running = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
            while len(releases(bucket)) == before:
                time.sleep(0.02)
            time.sleep(0.06 * moment)
            running.send_signal(signal.SIGKILL)
            running.wait()
    finally:
        stop.set()
        reader.join()
    assert not wrong
    assert len(seen) > 1
    half = [f for f in place(bucket).glob("shop/v*") if not (f / "_SUCCESS").exists()]
    assert not set(sweep(bucket)) & set(half)  # what is fresh may be somebody's who is still at it
    old = store.STALE
    try:
        store.STALE = -1
        sweep(bucket)
    finally:
        store.STALE = old
    left = [f.name for f in place(bucket).glob("shop/v*")]
    assert sorted(left) == sorted(r.version for r in releases(bucket))
    number = int(release(bucket).name[1:])
    assert open_release(f"{bucket}/shop", verify=True).number == number


def test_publishers_at_once_get_numbers_of_their_own(bucket):
    found, wrong = [], []

    def work():
        try:
            found.append(str(release(bucket)))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong
    assert len(set(found)) == 6
    numbers = [r.number for r in releases(bucket)]
    assert len(numbers) == 6
    assert latest(place(bucket) / "shop") == f"v{max(numbers)}"
    for one in releases(bucket):
        one.verify()


@pytest.mark.parametrize("where", ["store", "disk without locks"])
def test_whoever_writes_latest_late_leaves_it_on_the_newest(request, tmp_path, monkeypatch, where):
    """The first three times that a publisher is about to write LATEST, another one overtakes it from start to end."""

    def refuse(*_):
        raise OSError

    monkeypatch.setattr("fcntl.flock", refuse)
    root = request.getfixturevalue("bucket") if where == "store" else str(tmp_path / "out")
    module, name = (store, "point") if where == "store" else (os, "replace")
    write, overtakers, said = getattr(module, name), [1, 1, 1], []

    def late(*what):
        if overtakers:
            rest = overtakers[1:]
            overtakers.clear()
            release(root)
            overtakers.extend(rest)
        write(*what)
        said.append(latest(place(root) / "shop"))

    monkeypatch.setattr(module, name, late)
    assert release(root).name == "v1"
    assert said == ["v2", "v1", "v3", "v2", "v4", "v3", "v4"]  # an overtaker's, and the late one, each time


def test_back_retired_and_rejected(bucket):
    for _ in range(4):
        release(bucket)
    assert main(["rollback", "shop", "--version", "v2", "--to", bucket]) == 0
    assert open_release(f"{bucket}/shop").version == "v2"
    assert rollback(bucket, "shop").version == "v1"
    with pytest.raises(BadInput, match="no version before v1"):
        rollback(bucket, "shop")
    assert retire(bucket, "shop", 2) == ["v2"]  # v1 is the current one
    assert [r.version for r in releases(bucket)] == ["v1", "v3", "v4"]
    assert not (place(bucket) / "shop" / "v2" / "release.json").exists()
    assert release(bucket).name == "v5"
    assert main(["diff", f"{bucket}/shop/v3", f"{bucket}/shop"]) == 0
    with staging(bucket, "shop") as folder:
        write_rows(folder, iter([data()]), rows=80, provenance={})
        aside = quarantine(folder, bucket, "shop", {}, ["too bad"])
    assert open_release(aside).verdict == "rejected"
    assert open_release(f"{bucket}/shop").version == "v5"


def test_a_job_from_url_to_url(bucket, capsys):
    told = data(200)
    pq.write_table(told.table, place(bucket).store.open_output_stream(f"{bucket[5:]}/in/sales.parquet"))
    values = {
        "source": f"{bucket}/in/sales.parquet",
        "generator": "tabular/gmm",
        "gates": LOOSE,
        "to": f"{bucket}/out",
        "drift": 0.5,
    }
    job = Job.of(values)
    outcome = synthesize(job)
    assert outcome.passed, outcome.manifest["reasons"]
    made = open_release(outcome.folder, verify=True)
    assert made.manifest["dataset"] == "sales"
    assert "hush-hush" not in json.dumps(made.manifest)
    assert synthesize(job).cached
    more = resample(place(str(outcome.folder)), 30, 1, Asked(), "more", f"{bucket}/out")
    assert more.passed, more.manifest["reasons"]
    assert more.manifest["rows"] == 30
    assert open_release(f"{bucket}/out/more", verify=True).rows == 30
    again = resample(publishing.local(made.model), 30, 1, Asked(), "here", bucket)
    assert sources.read(str(more.folder)).table.equals(sources.read(str(again.folder)).table)
    assert main(["releases", "--to", f"{bucket}/out"]) == 0
    assert "more" in capsys.readouterr().out


def test_what_is_read_by_url(bucket):
    told = data().table
    for i in range(2):
        with place(f"{bucket}/many/{i}.parquet").store.open_output_stream(f"{bucket[5:]}/many/{i}.parquet") as sink:
            pq.write_table(told.slice(40 * i, 40), sink)
    lines = [",".join(map(str, row.values())) for row in told.to_pylist()]
    place(f"{bucket}/shop.csv").write_text("\n".join(["n,m,y", *lines]) + "\n")
    assert sources.read(f"{bucket}/many").table.equals(told)
    assert sources.read(f"{bucket}/many").name == "many"
    assert sources.read(f"{bucket}/many", rows=30).of == 80
    assert sources.read(f"{bucket}/shop.csv").table.equals(told)
    place(f"{bucket}/odd.csv").write_text("a,b\n1,2,3\n1,2\n")
    with pytest.raises(BadInput, match=rf"{bucket}/odd.csv: row 2 has 3 values"):
        sources.read(f"{bucket}/odd.csv")
    with pytest.raises(BadInput, match=rf"there is nothing at {bucket}/none.csv"):
        sources.read(f"{bucket}/none.csv")
    with pytest.raises(BadInput, match="there is nothing at"):
        sources.read(f"{bucket}/none.parquet")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3://me:hush-hush@bucket/x", "no user and no password"),
        ("s3://AKIAX@bucket/x", "no user and no password"),
        ("s3://bucket/x?secret_key=hush-hush", "no option 'secret_key'"),
        ("s3://bucket/../x", "names no place"),
        ("s3:///x", "names no place"),
        ("az://container/x", "AZURE_STORAGE_ACCOUNT"),
    ],
)
def test_a_url_that_is_refused_tells_no_secret(url, why, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT", raising=False)
    for words in (["run", "diamonds", "--to", url], ["run", url], ["releases", "--to", url], ["sample", url, "--rows", "5"]):
        assert main(words) == 2
        said = capsys.readouterr()
        assert why in said.err
        assert "hush" not in said.err + said.out
        assert "Traceback" not in said.err
    assert list(tmp_path.iterdir()) == [] or [p.name for p in tmp_path.iterdir()] == [".alfar"]


def test_a_bucket_that_is_not_there(bucket, capsys):
    assert main(["run", "penguins", "--to", "s3://nowhere/out"]) == 2
    assert "s3://nowhere/out/_staging/" in (said := capsys.readouterr().err)
    assert "check the bucket" in said
    assert main(["compare", "penguins", "--to", f"{bucket}/x"]) == 2
    assert stores.remote("s3://a")
    assert not stores.remote("sqlite:///a")
    assert not stores.remote("s3:/a")
