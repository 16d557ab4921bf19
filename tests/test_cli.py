"""What a person types: bad input gets one sentence and code 2, and leaves nothing behind; help comes without heavy imports."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli import main

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALFAR_HOME", str(tmp_path / "home"))


def numbers(n: int, **columns) -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table({"x": rng.normal(size=n).round(2), "y": rng.integers(0, 2, n), **columns})


def csv(text: str | bytes, name: str = "t.csv") -> str:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def parquet(table: pa.Table, name: str = "t.parquet") -> str:
    pq.write_table(table, name)
    return name


def good(n: int = 100) -> str:
    return parquet(numbers(n))


def rows(n: int) -> str:
    return "x,y\n" + "".join(f"{i / 7:.2f},{i % 2}\n" for i in range(n))


def database() -> str:
    with sqlite3.connect("shop.db") as db:
        db.execute("create table sales (x real, y int)")
    return "sqlite:///shop.db"


def job(text: str) -> str:
    Path("job.yaml").write_text(text)
    return "job.yaml"


def nowhere() -> str:
    Path("file").write_text("")
    return "file/releases"


BAD = {
    "a missing file": (lambda: ["nosuch.csv"], "nosuch.csv"),
    "a missing built-in": (lambda: ["diamond"], "diamonds"),
    "an empty CSV": (lambda: [csv("")], "t.csv"),
    "a CSV of one line": (lambda: [csv("x,y\n")], "row"),
    "a ragged CSV": (lambda: [csv(rows(60) + "1,2,3,4\n")], "t.csv"),
    "a binary file": (lambda: [csv(bytes(range(256)) * 40)], "t.csv"),
    "the wrong encoding": (lambda: [csv(("naïve,y\n" + "é,1\n" * 80).encode("latin-1")), "--encoding", "utf-8"], "t.csv"),
    "an encoding that is none": (lambda: [csv(rows(80)), "--encoding", "klingon"], "klingon"),
    "duplicate column names": (lambda: [csv(rows(80).replace("x,y", "x,x"))], "'x'"),
    "an empty column name": (lambda: [csv(rows(80).replace("x,y", "x,"))], "name"),
    "a target that does not exist": (lambda: [good(), "--target", "z"], "'z'"),
    "a constant target": (lambda: [parquet(numbers(80, c=pa.array([1] * 80))), "--target", "c"], "'c' is constant"),
    "a target of nulls": (lambda: [parquet(numbers(80, c=pa.nulls(80, pa.int64()))), "--target", "c"], "'c' is all null"),
    "1 row": (lambda: [csv(rows(1))], "1 row"),
    "2 rows": (lambda: [csv(rows(2))], "2 rows"),
    "10 rows": (lambda: [good(10)], "10 rows"),
    "a column of nulls": (lambda: [parquet(numbers(80, c=pa.nulls(80, pa.float64())))], "'c' is all null"),
    "infinities": (lambda: [parquet(numbers(80, c=pa.array([float("inf")] + [1.5] * 79)))], "'c'.*infinit"),
    "100,000 categories": (
        lambda: [parquet(numbers(100_000, c=pa.array([f"v {i % 99_999}" for i in range(100_000)]))), "--kind", "c=category"],
        "'c'",
    ),
    "a script for a name": (lambda: [parquet(numbers(80, **{"<script>alert(1)</script>": pa.array(range(80))}))], "angle bracket"),
    "a quote in a name": (lambda: [parquet(numbers(80, **{'a"b': pa.array(range(80))}))], "quote"),
    "a line break in a name": (lambda: [parquet(numbers(80, **{"a\nb": pa.array(range(80))}))], "line break"),
    "a name of 10,000 characters": (lambda: [parquet(numbers(80, **{"a" * 10_000: pa.array(range(80))}))], "10,000 characters"),
    "a truncated parquet file": (lambda: [csv(Path(good()).read_bytes()[:300], "cut.parquet")], "cut.parquet"),
    "an unknown key in a job": (lambda: [job("source: diamonds\nrwos: 3")], "job.yaml.*'rows'"),
    "a wrong type in a job": (lambda: [job("source: diamonds\nrows: many")], "job.yaml: rows"),
    "a YAML bomb": (lambda: [job("a: &a [x, x]\nb: [*a, *a]\nsource: diamonds")], "job.yaml.*anchors"),
    "a python tag": (lambda: [job("source: !!python/object/apply:os.system ['touch pwned']")], "job.yaml"),
    "a missing job file": (lambda: ["none.yaml"], "none.yaml"),
    "no rows wanted": (lambda: [good(), "--rows", "0"], "--rows is 0"),
    "fewer than no rows": (lambda: [good(), "--rows", "-5"], "--rows is -5"),
    "rows that are no number": (lambda: [good(), "--rows", "many"], "--rows"),
    "a negative seed": (lambda: [good(), "--seed", "-1"], "--seed"),
    "no minutes": (lambda: [good(), "--minutes", "0"], "--minutes"),
    "an unknown generator": (lambda: [good(), "--generator", "tabular/mad"], "'tabular/made'"),
    "an unknown parameter": (lambda: [good(), "--set", "hiden=3"], "'hidden'"),
    "an unknown nested parameter": (lambda: [good(), "--set", "training.stepz=3"], "'steps'"),
    "a parameter of the wrong type": (lambda: [good(), "--set", "hidden=much"], "hidden"),
    "a parameter without a value": (lambda: [good(), "--set", "hidden"], "--set"),
    "a kind that is none": (lambda: [good(), "--kind", "x=letter"], "--kinds.x is 'letter'"),
    "a kind of no column": (lambda: [good(), "--kind", "z=id"], "'z'"),
    "dropping no column": (lambda: [good(), "--drop", "z"], "'z'"),
    "an unknown gate": (lambda: [good(), "--gate", "utilty=1"], "'utility'"),
    "an unknown option": (lambda: [good(), "--tagret", "y"], "--tagret"),
    "a query without a database": (lambda: [good(), "--query", "select 1"], "query"),
    "an SQL error": (lambda: [database(), "--query", "selekt * from sales"], "SELECT|SQL"),
    "a table that is not in the database": (lambda: [database(), "--query", "select * from nosuch"], "nosuch"),
    "a query that writes": (lambda: [database(), "--query", "drop table sales"], "SELECT"),
    "a query of no rows": (lambda: [database(), "--query", "select * from sales"], "row"),
    "a held-out file that is not there": (lambda: [good(), "--test", "held.parquet"], "held.parquet"),
    "a held-out file without a column": (lambda: [good(), "--test", parquet(numbers(80).drop_columns(["y"]), "h.parquet")], "'y'"),
    "a held-out file of two rows": (lambda: [good(), "--test", parquet(numbers(2), "h.parquet")], "2 rows"),
    "a destination that is no folder": (lambda: [good(), "--to", nowhere()], "file"),
    "a destination that is not writable": (lambda: [good(), "--to", "/proc/releases"], "/proc"),
    "a dataset name that leaves the folder": (lambda: [good(), "--name", "../up"], "--name"),
}


def one_sentence(capsys) -> str:
    err = capsys.readouterr().err
    assert err.startswith("alfar: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert len(err) < 500
    return err


@pytest.mark.parametrize("what", BAD)
def test_bad_input_gets_one_sentence(what, capsys, tmp_path):
    import re

    make, message = BAD[what]
    arguments = make()
    assert main(["run", *arguments, *([] if "--to" in arguments else ["--to", "out"])]) == 2
    assert re.search(message, one_sentence(capsys))
    assert not Path("out").exists()
    assert not Path("pwned").exists()
    assert not list(tmp_path.rglob("*.partial"))


FULL = """
import resource, signal, sys
from flows.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
sys.exit(main(["sample", sys.argv[1], "--rows", "200000", "--to", "out"]))
"""


def test_a_full_disk():
    """A file that cannot grow any more, by a limit on its size: it takes no root and fails in the same place."""
    model = fitted()
    done = subprocess.run([sys.executable, "-c", FULL, model], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("alfar: cannot write")
    assert not list(Path("out").rglob("*.parquet"))


# ---- models


def fitted(name: str = "tabular/marginal") -> str:
    """The folder of a model of a small real table."""
    from flows.job import Job
    from flows.planning import generator_of, plan

    found = plan(Job.of({"source": "iris", "generator": name}))
    generator_of(found.job, found.real.train.schema).fit(found.real.train, seed=0).save(Path("model"))
    return "model"


def damaged(how: str) -> str:
    folder = Path(fitted())
    weights, text = folder / "model.safetensors", json.loads((folder / "model.json").read_text())
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-40])
    if how == "tampered":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    if how == "other version":
        text["format"] = 999
    if how == "other generator":
        text["generator"]["name"] = "os:system"
    if how == "other shape":
        text["codec"] = {}
    if how == "no weights":
        weights.unlink()
    (folder / "model.json").write_text(json.dumps(text)[: 50 if how == "half a description" else None])
    return str(folder)


@pytest.mark.parametrize(
    "how", ["truncated", "tampered", "other version", "other generator", "other shape", "no weights", "half a description"]
)
def test_a_damaged_model_is_refused(how, capsys):
    assert main(["sample", damaged(how), "--rows", "10", "--to", "out"]) == 2
    one_sentence(capsys)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch", "--rows", "5"], "nosuch"),
        (["model", "--rows", "0"], "--rows"),
        (["model", "--rows", "-5"], "--rows"),
        (["model"], "--rows"),
        (["model", "--rows", "5", "--seed", "-1"], "--seed"),
        (["model", "--rows", "5", "--given", "colour=red"], "'colour'"),
        (["model", "--rows", "5", "--given", "target=nine"], "target"),
        (["model", "--rows", "5", "--given", "target"], "--given"),
        (["model", "--rows", "5", "--name", "a/b"], "a/b"),
        (["model", "--rows", "5", "--to", "/proc/x"], "/proc"),
    ],
)
def test_bad_samples(arguments, message, capsys):
    fitted()
    assert main(["sample", *arguments, *([] if "--to" in arguments else ["--to", "out"])]) == 2
    assert message in one_sentence(capsys)
    assert not list(Path().glob("out/*/v*"))


def test_a_yardstick_is_never_published(capsys):
    assert main(["sample", fitted("tabular/copy"), "--rows", "10", "--to", "out"]) == 2
    assert "yardstick" in one_sentence(capsys)
    assert not Path("out").exists()


def test_sampling_a_bare_model_and_its_release(capsys):
    assert main(["sample", fitted(), "--rows", "60", "--to", "out", "--name", "flowers"]) == 0
    release = json.loads(Path("out/flowers/v1/release.json").read_text())
    assert release["verdict"] == "sampled"
    assert "not judged" in " ".join(release["source"]["notes"])
    assert main(["sample", "out/flowers", "--rows", "40", "--seed", "3", "--to", "out"]) == 0  # a dataset's newest release
    second = json.loads(Path("out/flowers/v2/release.json").read_text())
    assert second["parent"]["version"] == "v1"
    assert pq.read_table("out/flowers/v2/data").num_rows == 40
    assert "out/flowers/v2" in capsys.readouterr().out
    main(["releases", "--to", "out"])
    assert capsys.readouterr().out.count("flowers") >= 2


# ---- the other commands


def test_judging_any_two_tables(capsys):
    from data.sources import read

    table = read("iris").table
    pq.write_table(table, "real.parquet")
    pq.write_table(table.take(np.random.default_rng(0).integers(len(table), size=120)), "synthetic.parquet")
    assert main(["judge", "real.parquet", "synthetic.parquet", "--target", "target", "--to", "page.html"]) == 0
    out = capsys.readouterr().out
    assert "FAILED  copies" in out
    assert "<html" in Path("page.html").read_text()
    assert "page.html" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch.parquet", "t.parquet"], "nosuch"),
        (["t.parquet", "nosuch.parquet"], "nosuch"),
        (["t.parquet", "other.parquet"], "'y'"),
        (["t.parquet", "t.parquet", "--target", "z"], "'z'"),
        (["t.parquet", "t.parquet", "--to", "no/such/page.html"], "no/such"),
        (["t.parquet"], "SYNTHETIC"),
    ],
)
def test_bad_judgements(arguments, message, capsys):
    good()
    parquet(pa.table({"x": [1.0]}), "other.parquet")
    assert main(["judge", *arguments]) == 2
    assert message in one_sentence(capsys)
    assert not Path("report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["wine", "--generators", "tabular/made,tabular/gnn"], "'tabular/g"), (["wine", "--seeds", "0"], "--seeds"), (["vine"], "'wine'")],
)
def test_bad_comparisons(arguments, message, capsys):
    assert main(["compare", *arguments]) == 2
    assert message in one_sentence(capsys)


def test_bad_schedules(capsys, tmp_path):
    Path("jobs").mkdir()
    assert main(["serve", "nowhere"]) == 2
    assert "nowhere" in one_sentence(capsys)
    assert main(["serve", "jobs"]) == 2
    assert "schedule" in one_sentence(capsys)
    Path("jobs/a.yaml").write_text("source: wine\nschedule: '0 2 * * *'")
    Path("jobs/b.yaml").write_text("source: wine\nschedule: never")
    assert main(["serve", "jobs"]) == 2
    assert "jobs/b.yaml: schedule" in one_sentence(capsys)


def test_names_are_listed_one_a_line(capsys):
    from generators.registry import names

    assert main(["generators"]) == 0
    assert capsys.readouterr().out.split() == names()
    assert main(["datasets"]) == 0
    assert "diamonds" in capsys.readouterr().out


def test_a_generator_is_shown_with_its_mathematics(capsys):
    assert main(["show", "tabular/made"]) == 0
    out = capsys.readouterr().out
    assert "(1)" in out
    assert "training.lr" in out
    assert main(["show", "tabular/maid"]) == 2
    assert "'tabular/made'" in one_sentence(capsys)


def test_the_options_of_the_command_line_override_the_job_file():
    from flows.cli import parser, values_of

    path = job(
        "source: {path: a.csv, delimiter: ';'}\nrows: 5\ngenerator: {name: tabular/made, hidden: 8, training: {steps: 3}}\nkinds: {a: id}"
    )
    arguments = ["run", path, "--rows", "9", "--set", "training.lr=0.1", "--kind", "b=text", "--encoding", "latin-1"]
    values = values_of(parser().parse_args(arguments))
    assert values["rows"] == 9
    assert values["source"] == {"path": "a.csv", "delimiter": ";", "encoding": "latin-1"}
    assert values["generator"] == {"name": "tabular/made", "hidden": 8, "training": {"steps": 3, "lr": 0.1}}
    assert values["kinds"] == {"a": "id", "b": "text"}
    assert values_of(parser().parse_args(["run", path, "--generator", "tabular/vae"]))["generator"] == {"name": "tabular/vae"}


def test_every_command_has_help(capsys):
    from flows.cli import parser

    commands = next(a.choices for a in parser()._actions if a.choices)
    making = ["datasets", "generators", "show", "run", "sample", "impute", "judge", "compare"]
    assert list(commands) == [*making, "releases", "rollback", "diff", "doctor", "serve"]
    for name in commands:
        assert main([name, "--help"]) == 0
        assert f"alfar {name}" in capsys.readouterr().out


def test_ctrl_c_while_reading(capsys, monkeypatch):
    import flows.planning

    def interrupted(job):
        raise KeyboardInterrupt

    monkeypatch.setattr(flows.planning, "plan", interrupted)
    assert main(["run", "wine", "--to", "out"]) == 130
    one_sentence(capsys)
    assert not Path("out").exists()
