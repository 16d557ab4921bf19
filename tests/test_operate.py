"""Looking after releases: back to an older version, what differs between two, what a run needs, what is kept."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from data.errors import BadInput
from data.releases import latest, open_release, publish, releases, retire, rollback, staging
from data.rows import write_rows
from data.schema import Dataset, Schema
from flows import folders
from flows.cli import main

AT = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


def data(extra=False):
    rng = np.random.default_rng(0)
    table = pa.table({"n": rng.normal(size=80), "y": pa.array(["a", "b"] * 40)})
    table = table.append_column("more", pa.array(rng.normal(size=80))) if extra else table
    return Dataset.of(table, Schema.infer(table, target="y"))


def release(root, value=0.9, limit=0.7, extra=False, seed=0):
    told = data(extra)
    with staging(root, "shop") as folder:
        write_rows(folder, iter([told]), rows=len(told), provenance={})
        gate = {"name": "utility", "value": value, "limit": limit, "passed": value >= limit}
        manifest = {
            "seed": seed,
            "schema": told.schema.to_json(),
            "gates": [gate],
            "generator": {"name": "g", "parameters": {"a": {"b": seed}}},
        }
        return publish(folder, root, "shop", manifest, at=AT)


def test_back_and_on_again(tmp_path):
    for _ in range(3):
        release(tmp_path)
    assert rollback(tmp_path, "shop").version == "v2"
    assert open_release(tmp_path / "shop").version == "v2"
    assert rollback(tmp_path, "shop", "v1").version == "v1"
    with pytest.raises(BadInput, match="no version before v1"):
        rollback(tmp_path, "shop")
    assert [r.version for r in releases(tmp_path)] == ["v1", "v2", "v3"]
    assert release(tmp_path).name == latest(tmp_path / "shop") == "v4"
    assert rollback(tmp_path, "shop").version == "v3"


def test_back_to_what_is_damaged_or_missing_is_refused(tmp_path):
    release(tmp_path)
    release(tmp_path)
    with pytest.raises(BadInput, match="no complete version 'v7'"):
        rollback(tmp_path, "shop", "v7")
    with pytest.raises(BadInput, match=r"no complete version '\.\./x'"):
        rollback(tmp_path, "shop", "../x")
    with pytest.raises(BadInput, match="nothing is published"):
        rollback(tmp_path, "other")
    part = next((tmp_path / "shop" / "v1" / "data").iterdir())
    part.write_bytes(part.read_bytes()[:-5])
    with pytest.raises(BadInput, match="not as it was published"):
        rollback(tmp_path, "shop")
    assert latest(tmp_path / "shop") == "v2"


def test_what_is_not_kept_goes_whole_and_the_current_version_stays(tmp_path):
    for _ in range(5):
        release(tmp_path)
    rollback(tmp_path, "shop", "v2")
    assert retire(tmp_path, "shop", 2) == ["v3", "v1"]
    assert sorted(f.name for f in (tmp_path / "shop").glob("v*")) == ["v2", "v4", "v5"]
    assert list((tmp_path / "_staging").iterdir()) == []
    assert release(tmp_path).name == "v6"


def test_the_newest_stages_of_each_name_are_kept(tmp_path):
    for i in range(4):
        for name in ("fit", "draw"):
            folders.stage(tmp_path, name, {"i": i}, lambda folder: (folder / "x").write_text("1"), code=())
    (tmp_path / "fit-abc.partial").mkdir()
    newest = [folders.stage(tmp_path, name, {"i": 3}, lambda folder: None, code=()) for name in ("fit", "draw")]
    assert all(done.cached for done in newest)
    folders.retire(tmp_path, 2)
    left = sorted(f.name for f in tmp_path.iterdir())
    assert len(left) == 5
    assert {done.folder.name for done in newest} <= set(left)
    assert "fit-abc.partial" in left


def test_what_differs_is_said_and_nothing_else(tmp_path, capsys):
    first, second, third = release(tmp_path), release(tmp_path, seed=1, value=0.6, extra=True), release(tmp_path)
    assert main(["diff", str(first), str(second)]) == 0
    out = capsys.readouterr().out
    for words in ("seed", "a.b", "more", "is new", "0.900 (limit 0.700, kept)", "0.600 (limit 0.700, broken)"):
        assert words in out
    assert "generator.name" not in out
    assert main(["diff", str(first), str(third)]) == 0
    out = capsys.readouterr().out
    assert "columns: no difference" in out
    assert "scores: no difference" in out
    assert main(["diff", str(first), str(tmp_path)]) == 2
    assert "is not a release" in capsys.readouterr().err


def test_a_schema_that_means_something_else(tmp_path, capsys):
    first, second = release(tmp_path), release(tmp_path)
    manifest = json.loads((second / "release.json").read_text())
    schema = Schema.from_json(manifest["schema"])
    changed = replace(schema, columns=tuple(replace(c, nullable=True) if c.name == "n" else c for c in schema.columns))
    with staging(tmp_path, "shop") as folder:
        write_rows(folder, iter([data()]), rows=80, provenance={})
        third = publish(folder, tmp_path, "shop", {**manifest, "schema": changed.to_json()}, at=AT)
    assert main(["diff", str(first), str(third)]) == 0
    assert "differs in nullable" in capsys.readouterr().out


def test_the_doctor_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ALFAR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert main(["doctor", "--to", str(tmp_path / "releases")]) == 0
    out = capsys.readouterr().out
    assert "all is well" in out
    assert "FIX" not in out
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr("flows.operate.requires", lambda name: ["torch>=99", "nothing-of-this-name>=1", "sdv>99; extra == 'baselines'"])
    assert main(["doctor", "--to", str(tmp_path / "releases")]) == 2
    out = capsys.readouterr()
    assert sum(line.startswith("FIX") for line in out.out.splitlines()) == 3
    assert "pip install 'nothing-of-this-name>=1'" in out.out
    assert "3 of" in out.err
