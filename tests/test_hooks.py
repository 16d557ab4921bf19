"""What a release sets off, what is logged of a run, and where secrets stand."""

import json
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data import releases
from data.environment import filled
from data.errors import BadInput
from data.sources import sql
from flows import folders, hooks
from flows.job import Job
from flows.pipeline import synthesize
from flows.publishing import Outcome
from flows.reproduce import command

LOOSE = {"utility": -99, "detector": 1, "shape": 100, "trend": 100, "copies": 1, "dcr": 100, "membership": 1}
NEWS = {"dataset", "version", "verdict", "rows", "run", "reasons", "job"}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALFAR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ALFAR_HOOKS", "1")


def order(**changes) -> Job:
    return Job.of({"source": "iris", "generator": "tabular/marginal", "gates": LOOSE, "to": "out"} | changes)


def outcome(tmp_path: Path, reasons=()) -> Outcome:
    manifest = {"dataset": "shop", "version": "v3", "verdict": "published", "rows": 7, "run": "publish-1", "reasons": list(reasons)}
    (tmp_path / "judge").mkdir(exist_ok=True)
    return Outcome(tmp_path / "out", manifest, private=tmp_path / "judge" / "inspect.html")


@pytest.fixture
def listener():
    """A web server on loopback: its address, what it was sent, and what it answers with."""
    heard, answers = [], [200]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append((self.path, self.headers["Content-Type"], json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(answers[0])
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", heard, answers
    server.shutdown()
    server.server_close()


# ---- what a job may say


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("rm -rf /", "takes a list"),
        ("ftp://host/x", "takes a list"),
        ("https://host/a b", "takes a list"),
        ([], "takes a list"),
        (["a", 3], "takes a list"),
        ([""], "takes a list"),
        (["a\0b"], "takes a list"),
        ({"run": "a"}, "takes a list"),
        ("https://me:hunter2@host/x", "holds a password"),
        (["curl", "https://me:hunter2@host/x"], "holds a password"),
    ],
)
def test_what_is_no_hook(value, says):
    with pytest.raises(BadInput, match=says) as caught:
        order(on_publish=value)
    assert "hunter2" not in str(caught.value)


def test_a_hook_is_the_jobs_affair_and_no_release_tells_of_it():
    job = order(on_publish=["tell", "them"], on_quarantine="https://me:${PW}@host/${TOKEN}")
    assert "on_publish" not in json.dumps(job.public())
    assert "tell" not in command(job)
    assert Job.of(job.model_dump(mode="json")) == job


def test_no_job_brings_code_along_unless_it_is_allowed(monkeypatch):
    monkeypatch.delenv("ALFAR_HOOKS")
    with pytest.raises(BadInput, match="ALFAR_HOOKS=1"):
        synthesize(order(on_publish=[sys.executable, "-c", "open('ran', 'w')"]))
    assert not Path("ran").exists()
    assert not Path("out").exists()


# ---- addresses


def test_an_address_gets_a_small_json(tmp_path, listener, monkeypatch):
    address, heard, _ = listener
    monkeypatch.setenv("TOKEN", "s3cret")
    assert hooks.announce(order(on_publish=f"{address}/${{TOKEN}}"), outcome(tmp_path)) == "done"
    ((path, kind, news),) = heard
    assert path == "/s3cret"
    assert kind == "application/json"
    assert set(news) == NEWS
    assert (news["dataset"], news["version"], news["verdict"], news["rows"]) == ("shop", "v3", "published", 7)


def test_an_address_that_fails_is_one_line_without_its_secret(tmp_path, listener, monkeypatch, capsys):
    address, _, answers = listener
    monkeypatch.setenv("TOKEN", "s3cret")
    answers[0] = 503
    for hook, why in (
        (f"{address}/${{TOKEN}}", "503"),
        ("http://127.0.0.1:9/${TOKEN}", "cannot be reached"),
        ("http://${TOKEN}.invalid:x/", "cannot be reached"),
        ("https://h/${NO_SUCH_VARIABLE}", "NO_SUCH_VARIABLE is not set"),
    ):
        said = hooks.announce(order(on_quarantine=hook), outcome(tmp_path, ["utility is 0.1, the limit is 0.7"]))
        err = capsys.readouterr().err
        assert said.startswith("failed")
        assert why in said
        assert err.count("\n") == 1
        assert "the release stands" in err
        assert "s3cret" not in said + err


# ---- commands

WRITE = "import json, sys; json.dump([sys.argv[1:], json.load(sys.stdin)], open('heard.json', 'w'))"


def test_a_command_gets_its_arguments_as_they_are_and_the_news_on_its_input(tmp_path, monkeypatch):
    monkeypatch.setenv("WHO", "a b; touch pwned")
    words = ["$(touch pwned)", "; touch pwned", "${WHO}", "`touch pwned`", "*"]
    assert hooks.announce(order(on_publish=[sys.executable, "-c", WRITE, *words]), outcome(tmp_path)) == "done"
    args, news = json.loads(Path("heard.json").read_text())
    assert args == [*words[:2], "a b; touch pwned", *words[3:]]
    assert set(news) == NEWS
    assert not Path("pwned").exists()


def test_a_command_that_fails_is_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(hooks, "COMMAND_SECONDS", 0.3)
    for words, why in (
        ([sys.executable, "-c", "raise SystemExit(3)"], "ended with 3"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], "did not end within"),
        (["/nowhere/such-program", "x"], "could not be started"),
        ([sys.executable, "${NO_SUCH_VARIABLE}"], "is not set"),
    ):
        said = hooks.announce(order(on_publish=words), outcome(tmp_path))
        assert said.startswith("failed")
        assert why in said
        assert capfd.readouterr().err.count("\n") == 1


def test_what_was_told_is_not_told_again_and_what_was_not_is(tmp_path):
    heard = []
    found = outcome(tmp_path)
    assert hooks.announce(order(), found, heard.append) is None
    hooks.announce(order(), replace(found, cached=True), heard.append)
    assert len(heard) == 1
    (tmp_path / "judge" / "publish-1.announced").unlink()  # killed between the release and the telling
    hooks.announce(order(), replace(found, cached=True), heard.append)
    assert len(heard) == 2


# ---- a whole run


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in Path("home", name).read_text().splitlines()]


def test_a_run_tells_logs_and_measures(capfd):
    hook = [sys.executable, "-c", WRITE]
    first = synthesize(order(on_publish=hook))
    news = json.loads(Path("heard.json").read_text())[1]
    assert (news["version"], news["rows"], news["verdict"]) == ("v1", 120, "published")
    Path("heard.json").unlink()
    synthesize(order(on_publish=hook))
    assert not Path("heard.json").exists(), "the same release is told once"
    bad = synthesize(order(gates={**LOOSE, "utility": 99}, on_publish=hook, on_quarantine=["/nowhere/x"]))
    assert not bad.passed
    assert not Path("heard.json").exists()
    assert "on_quarantine failed" in capfd.readouterr().err
    said = [line["hook"] for line in lines("runs/iris/metrics.jsonl")]
    assert said == ["done", None, "failed: x could not be started (FileNotFoundError)"]
    log = lines("log.jsonl")
    assert {frozenset(line) for line in log} == {frozenset({"time", "level", "run", "job", "source", "stage", "message"})}
    runs = list(dict.fromkeys(line["run"] for line in log))
    assert runs == [line["attempt"] for line in lines("runs/iris/metrics.jsonl")]
    of = [[line["stage"] for line in log if line["run"] == run] for run in runs]
    assert of[0] == ["run", *(stage for stage in ("prepare", "fit", "draw", "refer", "judge") for _ in range(2)), "hook", "publish"]
    assert of[1] == ["run", "prepare", "fit", "draw", "refer", "judge", "publish"]
    assert log[-1]["message"] == f"quarantined {bad.folder.name}"
    assert [line["level"] for line in log if line["stage"] == "hook"] == ["info", "warning"]
    assert first.manifest["run"]


def test_a_run_that_fails_says_so_in_the_log_and_names_no_value(tmp_path):
    Path("secret-name.csv").write_text("a,b\n" + "\n".join(f"hunter{i},x" for i in range(5)))
    with pytest.raises(BadInput):
        synthesize(order(source=str(tmp_path / "secret-name.csv"), target="c"))
    log = lines("log.jsonl")
    assert (log[-1]["level"], log[-1]["message"]) == ("error", "stopped by BadInput")
    text = Path("home/log.jsonl").read_text()
    assert "hunter" not in text
    assert str(tmp_path) not in text
    assert Path("home").stat().st_mode & 0o077 == 0


def test_a_log_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "LARGEST_LOG", 1000)
    for i in range(200):
        folders.append(tmp_path / "log.jsonl", {"line": i})
    found = [p.stat().st_size for p in tmp_path.glob("log.jsonl*")]
    assert len(found) == 2
    assert max(found) < 1100
    kept = [json.loads(line)["line"] for name in ("log.jsonl.1", "log.jsonl") for line in (tmp_path / name).read_text().splitlines()]
    assert kept == list(range(kept[0], 200))


# ---- secrets


def test_passwords_stand_in_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DB_PASSWORD", "p@ss:w/rd")
    url = "postgresql://me:${DB_PASSWORD}@host/db"
    assert sql.parse(url).password == "p@ss:w/rd"
    assert sql.parse(url).host == "host"
    assert "p@ss" not in json.dumps(order(source={"url": url, "query": "select 1"}).public())
    monkeypatch.delenv("DB_PASSWORD")
    with pytest.raises(BadInput, match="DB_PASSWORD is not set"):
        sql.parse(url)
    assert filled("$HOME $(id) %PATH% ${}") == "$HOME $(id) %PATH% ${}"
    job = tmp_path / "job.yaml"
    job.write_text("source: {url: 'postgresql://me:hunter2@host/db', query: select 1}")
    with pytest.raises(BadInput, match="holds a password") as caught:
        Job.load(job)
    assert "hunter2" not in str(caught.value)
    job.write_text(f"source: {{url: '{url}', query: select 1}}")
    assert Job.load(job).source.shown == url


def test_a_password_of_the_command_line_goes_no_further(monkeypatch):
    from flows.commands import job_of

    monkeypatch.setenv("ALFAR_PASSWORD", "")
    job = job_of({"source": {"spec": "postgresql://me:p%40ss@host/db", "query": "select 1"}})
    assert "ss@" not in job.model_dump_json()
    assert sql.parse(job.source.spec).password == "p@ss"
    assert command(job) == "alfar run 'postgresql://me:${ALFAR_PASSWORD}@host/db' --query 'select 1'"
    assert job_of({"source": {"spec": "iris"}}).source.spec == "iris"


# ---- where a release may be written


@pytest.mark.parametrize("name", ["iris", "_staging", "_quarantine", "_quarantine/iris"])
def test_no_link_leads_a_release_out_of_its_destination(name, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    link = tmp_path / "out" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with pytest.raises(BadInput, match="a link that leads out"):
        synthesize(order(gates={**LOOSE, "utility": 99} if "quarantine" in name else LOOSE))
    assert not list(outside.iterdir())


def test_a_destination_may_be_a_link_itself(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    assert synthesize(order()).passed
    assert [r.version for r in releases.releases("real")] == ["v1"]
