"""Work spread over Dask: the same rows and scores whoever makes them, a worker that dies loses nothing, and errors are one sentence."""

import hashlib
import os
import re
import shutil
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from dask import config

from data.errors import BadInput
from data.rows import write_stream
from data.schema import Dataset, Schema, Split
from data.sources import read
from evaluators import protocol
from flows import cluster, planning, publishing, stages
from flows.cli import main
from flows.job import Job
from generators import fitted as fitting
from generators.drawing import Tally
from generators.registry import make

CELLS, DRAWS = 5_000, 20
ROOT = Path(__file__).parent.parent
SMALL = {"name": "tabular/made", "hidden": 8, "training": {"steps": 20, "patience": 0}}
pytestmark = pytest.mark.xdist_group("cluster")


@pytest.fixture(scope="module", autouse=True)
def small_chunks():
    """Here, and in every worker that a test starts, so that few rows are many chunks; and few redraws."""
    code = f"from evaluators import protocol; from generators import fitted; fitted.CELLS, protocol.DRAWS = {CELLS}, {DRAWS}"
    with pytest.MonkeyPatch.context() as patch, config.set({"distributed.worker.preload": [code]}):
        patch.setattr(fitting, "CELLS", CELLS)
        patch.setattr(protocol, "DRAWS", DRAWS)
        yield


@pytest.fixture(scope="module")
def workers(small_chunks):
    """Two processes that a scheduler of their own knows."""
    with cluster.dask().LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=":0", silence_logs="CRITICAL"
    ) as found:
        yield found.scheduler_address


@pytest.fixture(scope="module")
def iris():
    source = read("iris")
    return Dataset.of(source.table, Schema.infer(source.table, target="target"))


@pytest.fixture(scope="module")
def model(iris):
    return make("tabular/made", {"hidden": 8, "training": {"steps": 20, "patience": 0}}).fit(iris, seed=0)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALFAR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ALFAR_CLUSTER", raising=False)


def written(model, n, path, **asked):
    """The digest of the file that a stream makes, and what came of the draws."""
    tally = Tally()
    write_stream(cluster.stream(model, n, seed=3, tally=tally, **asked), path, n)
    return hashlib.sha256(path.read_bytes()).hexdigest(), tally.to_json()


# ---- shards


@pytest.mark.parametrize("asked", [{}, {"where": '"sepal length (cm)" > 6'}, {"shares": ("target", {"setosa": 0.5})}])
def test_ranges_of_chunks_are_the_whole_stream(model, monkeypatch, asked):
    monkeypatch.setattr(fitting, "CELLS", 50 * model.codec.cells)
    whole = [chunk.table for chunk in model.stream(520, seed=1, **asked)]
    parts = [chunk.table for only in (range(4), range(4, 9), range(9, 11)) for chunk in model.stream(520, seed=1, only=only, **asked)]
    assert model.chunk == 50
    assert len(whole) == 11
    assert pa.concat_tables(parts).equals(pa.concat_tables(whole))


@pytest.mark.parametrize(
    "asked", [{}, {"where": '"sepal length (cm)" > 6 and "petal width (cm)" < 1.6'}, {"shares": ("target", {"setosa": 0.5})}]
)
def test_workers_make_the_same_file(model, workers, tmp_path, asked):
    n = 5 * model.chunk + 7
    here = written(model, n, tmp_path / "here.parquet", **asked)
    with cluster.joined(workers):
        assert written(model, n, tmp_path / "there.parquet", **asked) == here


def test_what_must_not_repeat_is_drawn_in_one_place(iris, workers):
    from data.constraints import constrain

    table = iris.table.append_column("number", pa.array(range(len(iris))))
    data = constrain(
        Dataset.of(table, Schema.infer(table, target="target", kinds={"number": "integer"})), [{"unique": ["number", "target"]}]
    )
    model = make("tabular/marginal", {}).fit(data, seed=0)
    with cluster.joined(workers):
        tables = [chunk.table for chunk in cluster.stream(model, 100, seed=3, tally=Tally())]
    assert pa.concat_tables(tables).equals(pa.concat_tables([chunk.table for chunk in model.stream(100, seed=3)]))


def test_a_killed_worker_loses_nothing(model, workers, tmp_path):
    n = 60 * model.chunk
    here = written(model, n, tmp_path / "here.parquet")[0]
    with cluster.joined(workers):
        joined = cluster.current.get()
        victim = next(iter(joined.client.run(os.getpid).values()))
        rows = cluster.stream(model, n, seed=3, tally=Tally())

        def interrupted():
            for number, chunk in enumerate(rows):
                yield chunk
                if number == 8:
                    os.kill(victim, signal.SIGKILL)

        write_stream(interrupted(), tmp_path / "there.parquet", n)
        assert victim not in joined.client.run(os.getpid).values()
    assert hashlib.sha256((tmp_path / "there.parquet").read_bytes()).hexdigest() == here


def test_few_parts_are_under_way_however_many_there_are(workers):
    asked = []

    def items():
        for number in range(100):
            asked.append(number)
            yield (number,)

    with cluster.joined(workers):
        results = cluster.current.get().spread(cluster.same, items())
        assert next(results) == 0
        assert len(asked) <= cluster.AHEAD * 2
        assert list(results) == list(range(1, 100))


# ---- judges, candidates, releases


def test_judges_say_the_same(iris, workers):
    held = iris.take(np.arange(0, 150, 3))
    ground = protocol.grounds(Split(iris, held), 0, None)
    judges = protocol.judges_of(iris.schema, None)
    fits = [(name, data) for name in judges for data in (iris, iris.take(np.arange(100)))]
    here, learnt = protocol.beside(judges, fits, ground, 0), list[int]()
    with cluster.joined(workers):
        there = cluster.scoring(judges, fits, ground, 0, lambda: learnt.append(1))
    assert len(learnt) == len(fits)
    assert [{k: v.tolist() for k, v in scores.items()} for scores in there] == [
        {k: v.tolist() for k, v in scores.items()} for scores in here
    ]


def test_candidates_are_made_by_workers_once(workers, tmp_path, monkeypatch):
    job = Job.of({"source": "iris", "rows": 60, "generator": "tabular/marginal", "seed": 4})
    diverging = job.model_copy(update={"generator": {**SMALL, "training": {"steps": 20, "lr": 1e30}}})
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    prepared = stages.prepare(planning.plan(job), here).folder
    referred = stages.refer(job, here, prepared).folder
    shutil.copytree(here, there)
    scores = stages.candidate(job, here, prepared, referred)["scores"]
    with cluster.joined(workers):
        made = list(cluster.candidates([job, diverging], there, prepared, referred))
        assert made[0] is None
        assert "loss" in made[1]
        monkeypatch.setattr(cluster, "filled", None)
        assert list(cluster.candidates([job], there, prepared, referred)) == [None]
    assert stages.judge(job, there, prepared, *folders_of(there, "fit", "draw"), referred).cached
    assert stages.candidate(job, there, prepared, referred)["scores"] == scores


def folders_of(root, *names):
    return [next(root.glob(f"{name}-*")) for name in names]


class Noon(datetime):
    """A clock that stands still, so that files are the same byte for byte."""

    @classmethod
    def now(cls, zone=UTC):
        return cls(2026, 1, 1, 12, tzinfo=zone)


def test_a_release_is_the_same_whatever_the_workers(model, workers, tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "datetime", Noon)
    model.save(tmp_path / "flowers")
    found = []
    for number, spec in enumerate((None, "1", workers)):
        with cluster.joined(spec):
            made = publishing.resample(tmp_path / "flowers", 9_000, 1, publishing.Asked(), None, str(tmp_path / f"out{number}"))
        found.append({f["path"]: f["sha256"] for f in made.manifest["files"] if f["path"].startswith("data/")})
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 1


# ---- what is wrong


@pytest.mark.parametrize("spec", ["0", "2000", "localhost", "tcp://host", "http://host:80", "tcp://a b:1"])
def test_what_is_no_address_is_refused(spec):
    with pytest.raises(BadInput, match="--cluster"), cluster.joined(spec):
        pass


def test_an_address_where_nobody_answers_is_one_sentence(model, tmp_path, capsys):
    model.save(tmp_path / "model")
    began = time.monotonic()
    assert main(["sample", "model", "--rows", "5", "--cluster", "tcp://127.0.0.1:9"]) == 2
    assert time.monotonic() - began < 3 * cluster.ANSWER_SECONDS
    said = capsys.readouterr().err.strip().splitlines()
    assert said == ["alfar: nobody answers as a Dask scheduler at tcp://127.0.0.1:9: start one there with `dask scheduler`"]
    assert not (tmp_path / "releases").exists()


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(BadInput, match=r"pip install 'alfar\[dask\]'"), cluster.joined("2"):
        pass


def test_a_cluster_without_workers_is_refused():
    with (
        cluster.dask().LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=":0", silence_logs="CRITICAL") as empty,
        pytest.raises(BadInput, match="has no workers"),
        cluster.joined(empty.scheduler_address),
    ):
        pass


def test_other_versions_are_refused(workers, monkeypatch):
    here = {**cluster.about(), "torch": "1.0"}
    monkeypatch.setattr(cluster, "about", lambda: here)
    with pytest.raises(BadInput, match=r"has torch .* instead of 1\.0"), cluster.joined(workers):
        pass


def test_a_job_file_cannot_name_a_cluster():
    with pytest.raises(BadInput, match="no key 'cluster'"):
        Job.of({"source": "iris", "cluster": "tcp://host:8786"})


def test_what_fails_on_a_worker_is_told_without_its_arguments():
    assert cluster.attempt(cluster.about(), int, "x")[0] == "failed"
    assert cluster.attempt(cluster.about(), cluster.opened, b"secret rows")[0] == "failed"
    assert "secret" not in cluster.attempt(cluster.about(), cluster.opened, b"secret rows")[1]


@pytest.mark.parametrize("path", ["../fit-0123456789ab/x", "/etc/fit-0123456789ab", "fit-0123456789ab/../../x", "lock", "fit/x"])
def test_workers_write_stages_only(tmp_path, path):
    with pytest.raises(BadInput, match="no stage"):
        cluster.unpack({path: b""}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_rows_come_back_as_they_were(iris):
    again = cluster.opened(cluster.packed(iris))
    assert again.schema == iris.schema
    assert again.table.equals(iris.table, check_metadata=True)


def test_only_one_module_knows_dask():
    paths = [path for package in ("data", "generators", "evaluators", "flows") for path in (ROOT / package).rglob("*.py")]
    assert [path.name for path in paths if re.search(r"^\s*(import|from) (dask|distributed)", path.read_text(), re.MULTILINE)] == [
        "cluster.py"
    ]
