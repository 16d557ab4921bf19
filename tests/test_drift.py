"""Drift: none between halves of a table, much when it is another one, and nothing of one row in what is told."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data.drift import drift, reference
from data.releases import open_release
from data.schema import RARE, Dataset, Schema
from data.sources import read
from flows.job import Job
from flows.pipeline import synthesize

LOOSE = {"utility": -99, "detector": 1, "shape": 100, "trend": 100, "copies": 1, "dcr": 100, "membership": 1}
pytestmark = pytest.mark.xdist_group("drift")


def builtin(name):
    source = read(name)
    return Dataset.of(source.table, Schema.infer(source.table, target=source.target, kinds=source.kinds))


def through(told):
    return json.loads(json.dumps(told))


@pytest.mark.parametrize("name", ["diamonds", "penguins", "txhousing", "breast_cancer", "digits"])
def test_halves_of_a_table_are_alike_and_a_moved_one_is_not(name):
    data = builtin(name)
    order, half = np.random.default_rng(0).permutation(len(data)), len(data) // 2
    known, other = through(reference(data.take(order[:half]))), data.take(order[half:])
    assert drift(known, other)["value"] < 0.1
    if name == "digits":
        return
    number = next(c for c in data.schema.columns if c.kind == "number")
    values = number.numbers(other.table[number.name])
    moved = number.array(values + np.nanstd(values), np.isnan(values)).cast(number.arrow)
    table = other.table.set_column(other.table.column_names.index(number.name), other.table.schema.field(number.name), moved)
    found = drift(known, Dataset.of(table, data.schema))
    assert found["value"] > 0.2
    assert found["columns"][0]["name"] == number.name


def test_a_change_of_the_joint_alone_is_seen():
    data = builtin("penguins")
    known = reference(data)
    place = data.schema.names.index("bill_length_mm")
    mixed = data.table[place].take(pa.array(np.random.default_rng(0).permutation(len(data))))
    found = drift(known, Dataset.of(data.table.set_column(place, data.table.schema.field(place), mixed), data.schema))
    assert (found["columns"][0]["name"], found["columns"][0]["with"]) == ("bill_length_mm", "species")
    assert found["value"] > 0.2
    assert all(row["value"] == 0 for row in found["columns"] if row["with"] is None)


def test_what_few_rows_have_is_not_told():
    n = 400
    table = pa.table(
        {"city": ["Paris"] * (n - RARE + 1) + ["Atlantis"] * (RARE - 1), "x": np.r_[np.zeros(n - 1), 1e9], "y": ["a", "b"] * (n // 2)}
    )
    told = json.dumps(reference(Dataset.of(table, Schema.infer(table, target="y", kinds={"city": "category"}))))
    assert "Paris" in told
    assert "Atlantis" not in told
    assert "1000000000" not in told
    shares = json.loads(told)["columns"]["city"]["shares"]
    assert sum(shares) < 1


def job(source, **more):
    return Job.of(
        {"source": str(source), "target": "y", "generator": "tabular/marginal", "to": "out", "name": "shop", "gates": LOOSE, **more}
    )


def written(path, seed, shift=0.0, n=300):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n) + shift
    lines = [f"{a:.3f},{'yes' if a + b > shift else 'no'}" for a, b in zip(x, rng.normal(size=n), strict=True)]
    Path(path).write_text("x,y\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with a first release of a source."""
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ALFAR_HOME", str(folder / "home"))
        first = synthesize(job(written("a.csv", 0), drift=0.15))
    assert first.passed
    assert "drift" not in first.manifest
    return folder


@pytest.fixture
def first(published, tmp_path, monkeypatch):
    """The first release, in a copy of that folder to go on in."""
    shutil.copytree(published, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALFAR_HOME", str(tmp_path / "home"))
    return open_release("out/shop")


def test_a_model_is_kept_until_its_source_has_moved(first):
    second = synthesize(job(written("b.csv", 1), drift=0.15))
    assert second.manifest["drift"]["kept"]
    assert second.manifest["drift"]["from"] == "v1"
    assert second.manifest["log"] == first.manifest["log"]
    assert second.manifest["reference"] == first.manifest["reference"]
    assert (second.folder / "model/model.safetensors").read_bytes() == (first.folder / "model/model.safetensors").read_bytes()
    assert "was kept" in (second.folder / "report.html").read_text()
    third = synthesize(job(written("c.csv", 2, shift=2.0), drift=0.15))
    assert not third.manifest["drift"]["kept"]
    assert third.manifest["drift"]["columns"][0]["name"] == "x"
    assert third.manifest["reference"] != first.manifest["reference"]
    assert "learnt anew" in (third.folder / "report.html").read_text()


def test_without_a_limit_every_new_source_is_learnt(first):
    second = synthesize(job(written("b.csv", 1)))
    assert "drift" not in second.manifest
    assert second.manifest["log"]["seconds"] >= 0
    assert synthesize(job("b.csv")).cached


def test_a_damaged_last_release_is_said_and_not_kept(first, capsys):
    model = first.folder / "model/model.safetensors"
    model.write_bytes(model.read_bytes()[:-8])
    second = synthesize(job(written("b.csv", 1), drift=0.15))
    assert second.passed, second.manifest["reasons"]
    assert "drift" not in second.manifest
    assert "the last release of shop cannot be compared with, so the model is learnt anew" in capsys.readouterr().err
