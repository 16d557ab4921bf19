"""A job file is checked before anything starts, and nothing in it is expanded, imported or run."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import BadInput
from flows.job import Job, cron_error
from flows.reproduce import command

ROOT = Path(__file__).parent.parent


def load(tmp_path: Path, text: str | bytes) -> Job:
    path = tmp_path / "job.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Job.load(path)


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_examples_are_jobs(path):
    from flows.planning import plan

    plan(Job.load(path))


HOSTILE = {
    "an unknown key": ("source: diamonds\nrwos: 5", "rwos.*did you mean 'rows'"),
    "an unknown key of the source": ("source: {path: a.csv, delimeter: ';'}", "source.delimeter.*'delimiter'"),
    "a wrong type": ("source: diamonds\nrows: many", "rows is 'many'"),
    "a float for a count": ("source: diamonds\nrows: 1.5", "rows is 1.5"),
    "a truth value for a count": ("source: diamonds\nrows: yes", "rows is True"),
    "no rows": ("source: diamonds\nrows: 0", "rows is 0"),
    "a seed too large": (f"source: diamonds\nseed: {2**40}", "seed"),
    "no time": ("source: diamonds\nminutes: 0", "minutes"),
    "endless time": ("source: diamonds\nminutes: .inf", "minutes"),
    "time that is no number": ("source: diamonds\nminutes: .nan", "minutes"),
    "no source": ("target: cut", "'source' is missing"),
    "two sources": ("source: {path: a.csv, url: 'sqlite:///a'}", "exactly one"),
    "a generator whose name is no text": ("source: diamonds\ngenerator: {name: 3}", "takes a name as text"),
    "an unknown gate": ("source: diamonds\ngates: {utilty: 0.5}", "did you mean 'utility'"),
    "an unknown kind": ("source: diamonds\nkinds: {cut: letter}", "kinds.cut is 'letter'"),
    "a schedule that is none": ("source: diamonds\nschedule: nightly", "cron"),
    "an hour that is none": ("source: diamonds\nschedule: '0 25 * * *'", "hour"),
    "a name that leaves the folder": ("source: diamonds\nname: ../../etc", "name is '../../etc'"),
    "a python tag": ("source: !!python/object/apply:os.system ['touch pwned']", "line 1"),
    "a python name": ("source: !!python/name:os.system", "line 1"),
    "a tag of one's own": ("source: !x diamonds", "line 1"),
    "an anchor": ("source: &a diamonds\ntarget: *a", "anchors"),
    "a bomb": ("a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nsource: *c", "anchors"),
    "a merge": ("source: {<<: {path: a.csv}}", "key '<<'"),
    "a key twice": ("source: diamonds\nrows: 5\nrows: 6", "twice"),
    "a key that is a number": ("1: 2", "not text"),
    "a list": ("- source: diamonds", "key: value"),
    "nothing": ("", "key: value"),
    "no YAML": ("source: [", "line"),
    "two documents": ("source: diamonds\n---\nsource: wine", "line"),
    "a tab": ("source:\tdiamonds\n\trows: 3", "line"),
    "bytes": (b"\xff\xfe\x00binary", "UTF-8"),
    "a control character": ("source: dia\x00monds", "YAML"),
    "brackets without end": ("[" * 20_000, "YAML|line"),
    "a number without end": ("source: diamonds\nrows: " + "9" * 10_000, "YAML|rows"),
    "a megabyte": ("# " + "x" * 1_000_001, "at most 1 MB"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_get_one_sentence(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, message = HOSTILE[what]
    with pytest.raises(BadInput, match=message) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "job.yaml" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["job.yaml"]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_job_or_bad_input(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    with suppress(BadInput):
        Job.load(path)


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(BadInput, match="job file"):
            Job.load(path)


def test_three_words_for_a_source():
    specs = ["a.csv", {"path": "a.csv"}, {"name": "a.csv"}, {"url": "a.csv"}, {"spec": "a.csv"}]
    assert {Job.of({"source": spec}).digest for spec in specs} == {Job.of({"source": "a.csv"}).digest}


def test_json_and_back_is_the_same_job():
    job = Job.of(
        {
            "source": {"path": "a.csv", "delimiter": ";"},
            "kinds": {"a": "id"},
            "generator": {"name": "x", "training": {"steps": 3}},
            "minutes": 1,
        }
    )
    assert Job.of(json.loads(job.model_dump_json())) == job
    assert Job.of(job.model_dump(mode="json", exclude_defaults=True)) == job


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"rows": 7}, {"target": "y"}, {"gates": {"utility": 0.1}}, {"drop": ["a"]}, {"generator": "b"}]
)
def test_every_part_counts_in_the_digest(change):
    assert Job.of({"source": "a.csv", **change}).digest != Job.of({"source": "a.csv"}).digest


def test_what_is_published_of_a_job_holds_no_password_and_no_folder():
    job = Job.of({"source": {"url": "postgresql://me:s3cret@host/db", "query": "select 1"}, "test": "/home/me/held.csv", "to": "/srv/out"})
    said = json.dumps(job.public()) + command(job)
    assert "s3cret" not in said
    assert "/home/me" not in said
    assert "/srv" not in said
    assert "/home" not in json.dumps(Job.of({"source": "/home/me/a.csv"}).public())


def test_the_command_of_a_job_is_the_job(monkeypatch):
    import shlex

    from flows.cli import parser, values_of

    job = Job.of(
        {
            "source": {"path": "a b.csv", "delimiter": ";"},
            "target": "y",
            "rows": 10,
            "seed": 3,
            "minutes": 2.5,
            "drop": ["c"],
            "kinds": {"k": "id"},
            "gates": {"utility": 0.5},
            "name": "n",
            "generator": {"name": "tabular/made", "hidden": 8, "training": {"steps": 4, "betas": [0.9, 0.99]}},
        }
    )
    values = values_of(parser().parse_args(shlex.split(command(job))[1:]))
    assert Job.of(values) == job


@pytest.mark.parametrize("text", ["0 2 * * *", "*/5 * * * *", "0 0 1,15 * mon-fri", "59 23 31 12 7", "0 0 * jan sun", "10-20/2 1-5 * * 0"])
def test_cron_takes(text):
    from prefect.client.schemas.schedules import CronSchedule

    assert cron_error(text) is None
    CronSchedule(cron=text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "5-1 * * * *",
        "*/0 * * * *",
        "a * * * *",
        "1,,2 * * * *",
        "@daily",
    ],
)
def test_cron_refuses(text):
    assert cron_error(text)
