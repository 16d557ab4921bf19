"""The main job: it publishes or quarantines, a second run does nothing, a killed run goes on, and a schedule fires."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data import releases
from data.errors import BadInput
from data.schema import Dataset, Schema, Split
from data.sources import read
from evaluators.protocol import JUDGES, grounds
from flows import planning, stages
from flows.folders import run_folder
from flows.job import Job
from flows.pipeline import synthesize as plainly
from flows.stages import progress
from generators import train
from generators.fitted import Fitted

ROOT = Path(__file__).parent.parent
LOOSE = {"utility": -99, "detector": 1, "shape": 100, "trend": 100, "copies": 1, "dcr": 100, "membership": 1}
pytestmark = pytest.mark.xdist_group("flows")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALFAR_HOME", str(tmp_path / "home"))


def order(**changes) -> dict:
    return {"source": "iris", "generator": "tabular/marginal", "gates": LOOSE, "to": "out"} | changes


def learner(**changes) -> dict:
    return order(generator={"name": "tabular/made", "hidden": 8, "training": {"steps": 40, "patience": 0}}, **changes)


def rows(folder: Path):
    return pq.read_table(folder / "data").replace_schema_metadata()


def environment(**more: str) -> dict[str, str]:
    """That of another process, with a Prefect of its own: this process has set where its Prefect lives in the first test's folder."""
    own = {"PREFECT_HOME": str(Path.cwd() / "home" / "prefect")}
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **own, **more}


# ---- plain stages: cached, locked, killed


def watched(job: Job):
    """A run and the stages that did any work."""
    seen = []
    token = progress.set(lambda stage, *rest: seen.append(stage))
    try:
        return plainly(job), set(seen)
    finally:
        progress.reset(token)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which the learner's job has run once, undisturbed."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ALFAR_HOME", str(folder / "home"))
        assert not plainly(Job.of(learner())).cached
    return folder


@pytest.fixture(scope="module")
def forks():
    """Processes of their own, forked from one that has imported what a run needs."""
    context = get_context("forkserver")
    needed = ["evaluators.quality", "evaluators.report", "great_expectations", "sklearn.ensemble"]
    context.set_forkserver_preload(["tests.test_flows", *needed])
    return context


@pytest.fixture
def once(finished, tmp_path):
    """A copy of that folder to go on in."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)


def test_a_second_run_does_nothing(once):
    again, seen = watched(Job.of(learner()))
    assert again.cached
    assert again.folder == Path("out/iris/v1")
    assert not seen
    assert [r.version for r in releases.releases("out")] == ["v1"]


def test_the_bar_of_judging_moves_with_every_judge_that_has_learnt():
    found = read("iris")
    data = Dataset.of(found.table, Schema.infer(found.table, target=found.target))
    ground = grounds(Split(data, data), 0, None)
    fits = [(name, data) for name in JUDGES["tabular", "classification"]]
    told: list[tuple[int, int]] = []
    token = progress.set(lambda stage, done, total, text: told.append((done, total)))
    try:
        scoring = stages.watched(1, 2, "judges learn")
        for _ in range(2):
            scoring(JUDGES["tabular", "classification"], fits, ground, 0)
    finally:
        progress.reset(token)
    steps = 2 * len(fits)
    assert sorted(told) == [(round(100 + 100 * i / steps), 400) for i in range(steps + 1)]


def test_other_gates_only_publish_again(once):
    other, seen = watched(Job.of(learner(gates={**LOOSE, "copies": 0.9})))
    assert seen == {"publish"}
    assert other.folder.name == "v2"


def test_other_seeds_give_other_rows_and_are_judged_on_the_same_real_ones(once):
    other, seen = watched(Job.of(learner(seed=1)))
    assert seen == {"fit", "draw", "judge", "publish"}
    assert not rows(other.folder).equals(rows(Path("out/iris/v1")))
    assert len(list(Path("home/runs/iris").glob("prepare-*"))) == 1


def test_few_minutes_make_a_smaller_net_and_say_so(capsys, monkeypatch):
    from flows import commands
    from generators.base import Descending, Forecast

    monkeypatch.setattr(Descending, "expected", lambda self, data, **how: Forecast(9 if self.width > 16 else 20, 20, 0.02, 0.0))
    quick = {"name": "image/dcgan", "training": {"steps": 20}}
    job = Job.of(order(source="digits", generator=quick, minutes=0.05, drop=[], rows=20))
    plan = planning.plan(job)
    commands.foretell(plan)
    assert "width 16, 20 steps of the 20" in capsys.readouterr().out
    with run_folder("digits") as root:
        prepared = stages.prepare(plan, root).folder
        settled = stages.sized(job, stages.budget(job, root, prepared).folder)
        assert settled.generator == {**quick, "width": 16}
        stated = Job.of(order(source="digits", generator={**quick, "width": 32}, minutes=0.05))
        assert stages.sized(stated, stages.budget(stated, root, prepared).folder) == stated
        monkeypatch.setattr(Descending, "expected", None)
        assert stages.budget(job, root, prepared).cached, "a job that runs again is the same job"


def test_damaged_folders_are_made_again(once, finished):
    for pattern in ("prepare-*/train.parquet", "fit-*/model/model.safetensors", "draw-*/rows.parquet", "judge-*/scores.json"):
        (file,) = Path("home/runs/iris").glob(pattern)
        file.write_bytes(file.read_bytes()[:-1] + b"\1")
    (Path("out/iris/v1/report.html")).write_text("")  # and the release is no result either
    second, seen = watched(Job.of(learner()))
    assert seen == {"fit", "draw", "judge", "publish"}
    assert second.folder == Path("out/iris/v2")
    assert rows(second.folder).equals(rows(finished / "out/iris/v1"))


def test_each_run_leaves_a_line_of_metrics(once):
    again = plainly(Job.of(learner()))
    plainly(Job.of(learner(gates={**LOOSE, "copies": 0.9}, keep=1)))
    first, second, third = map(json.loads, Path("home/runs/iris/metrics.jsonl").read_text().splitlines())
    assert set(first["stages"]) == {"prepare", "fit", "draw", "refer", "judge"}
    assert not any(stage["cached"] for stage in first["stages"].values())
    assert all(stage["cached"] for stage in second["stages"].values())
    assert (first["run"], first["job"]) == (again.manifest["run"], second["job"])
    assert (third["version"], third["rows"], third["cached"]) == ("v2", 120, False)
    assert third["peak_mib"] > 50
    assert [r.version for r in releases.releases("out")] == ["v2"]  # keep=1
    assert all(len(list(Path("home/runs/iris").glob(f"{name}-*"))) == 1 for name in first["stages"])


def test_the_run_folder_is_private(once):
    assert Path("home").stat().st_mode & 0o077 == 0
    assert Path("home/runs/iris").stat().st_mode & 0o077 == 0


def test_what_a_release_holds(once):
    folder = Path("out/iris/v1")
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "README.md",
        "release.json",
        "_SUCCESS",
        "report.html",
        "model.json",
        "model.safetensors",
        "train-00000-of-00001.parquet",
    }
    footer = pq.read_metadata(folder / "data/train-00000-of-00001.parquet").metadata
    provenance = json.loads(footer[b"alfar.provenance"])
    assert provenance["source"]["fingerprint"] == json.loads((folder / "release.json").read_text())["source"]["fingerprint"]
    assert provenance["scores"]["utility"]["headline"]
    for name in ("release.json", "report.html", "README.md", "model/model.json"):
        assert str(Path.cwd().parent) not in (folder / name).read_text()


def test_a_failed_gate_quarantines_and_leaves_the_last_good_release(once):
    bad, _ = watched(Job.of(learner(gates={**LOOSE, "utility": 5})))
    assert not bad.passed
    assert "utility" in bad.manifest["reasons"][0]
    assert "_quarantine" in bad.folder.parts
    assert Path("out/iris/LATEST").read_text().strip() == "v1"
    assert [r.version for r in releases.releases("out")] == ["v1"]
    again, seen = watched(Job.of(learner(gates={**LOOSE, "utility": 5})))
    assert again.cached
    assert not again.passed
    assert not seen


def test_a_yardstick_is_quarantined_whatever_it_scores():
    outcome, _ = watched(Job.of(order(generator="tabular/copy")))
    assert not outcome.passed
    assert not (outcome.folder / "model").exists()
    assert not releases.releases("out")


def dying(values: dict, where: str, home: Path) -> None:
    """A run that is killed with SIGKILL at a stage; to be run in a process of its own."""
    os.environ["ALFAR_HOME"] = str(home)
    train.CHECKPOINT_SECONDS = 0.0

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def told(stage, done, total, text):
        if stage == where and (stage != "fit" or done > total / 2) and (stage != "publish" or "checking" not in text):
            die()
        if where == "check" and "checking" in text:
            die()

    def after(work):
        return lambda *a, **k: (work(*a, **k), die())

    progress.set(told)
    if where == "prepare":
        Dataset.save = after(Dataset.save)
    if where == "save":
        Fitted.save = after(Fitted.save)
    if where == "rename":
        releases.publish = after(releases.publish)
    plainly(Job.of(values))


def test_a_run_killed_at_every_stage_goes_on_and_ends_alike(finished, forks):
    """One job, killed with SIGKILL at each stage in turn; nothing half done is ever visible, and nothing finished is done twice."""
    for where in ("prepare", "fit", "save", "draw", "judge", "publish", "check", "rename"):
        run = forks.Process(target=dying, args=(learner(), where, Path("home").absolute()))
        run.start()
        run.join()
        assert run.exitcode == -signal.SIGKILL, where
        if where == "fit":
            assert list(Path("home/runs/iris").glob("fit-*.partial/checkpoints/*"))
        if where != "rename":
            assert not releases.releases("out")
            assert not list(Path("out").glob("iris/*"))
    assert [r.version for r in releases.releases("out")] == ["v1"]  # killed right after the one rename
    outcome, seen = watched(Job.of(learner()))
    assert outcome.cached
    assert not seen
    assert rows(outcome.folder).equals(rows(finished / "out/iris/v1"))
    assert not list(Path("home/runs/iris").glob("*.partial"))
    releases.sweep("out")
    assert not list(Path("out/_staging").glob("*"))


def found(values: dict, home: Path) -> bool:
    """Did a run in a process of its own find a release that was there?"""
    os.environ["ALFAR_HOME"] = str(home)
    return plainly(Job.of(values)).cached


def test_two_runs_of_one_job_at_once_make_one_release(forks):
    with ProcessPoolExecutor(2, mp_context=forks) as pool:
        runs = [pool.submit(found, order(), Path("home").absolute()) for _ in range(2)]
        assert sorted(run.result(timeout=120) for run in runs) == [False, True]
    assert [r.version for r in releases.releases("out")] == ["v1"]


# ---- as a flow


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_LOGGING_LEVEL", "CRITICAL")
        from flows import settings

        settings.prepare()
        from prefect.settings import PREFECT_API_URL
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=180):
            yield PREFECT_API_URL.value()


def states(flow_run_id) -> dict[str, str]:
    """The last state's name of each task of a run, when the server has recorded them all."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    with get_client(sync_client=True) as client:
        for _ in range(100):
            runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])))
            found = {run.name.split("-")[0]: run.state.name for run in runs if run.state and run.state.is_final()}
            if len(found) >= 6:
                break
            time.sleep(0.3)
        return found


def test_the_flow_publishes_and_the_second_run_is_cached(server, monkeypatch):
    from flows.synthesize import synthesize

    events = []
    monkeypatch.setattr("flows.synthesize.emit_event", lambda event, resource, payload: events.append((event, resource, payload)))
    first = synthesize(learner(), return_state=True)
    outcome = first.result()
    assert outcome.folder == Path("out/iris/v1")
    assert rows(outcome.folder).num_rows == 120
    second = synthesize(learner(), return_state=True)
    assert second.result().cached
    assert second.result().folder == outcome.folder
    found = states(second.state_details.flow_run_id)
    assert {found[name] for name in ("prepare", "fit", "draw", "judge", "publish")} == {"Cached"}
    lines = [json.loads(line) for line in Path(os.environ["ALFAR_HOME"], "runs/iris/metrics.jsonl").read_text().splitlines()]
    assert [line["cached"] for line in lines[-2:]] == [False, True]
    from prefect.artifacts import Artifact

    assert "published" in Artifact.get("verdict-iris").data
    assert "learnt on synthetic" in Artifact.get("verdict-iris").data
    assert "report.html" in Artifact.get("report-iris").data
    assert "utility" in json.dumps(Artifact.get("scores-iris").data)
    ((event, resource, payload),) = events  # the second run found the release told
    assert (event, resource["prefect.resource.id"]) == ("alfar.release.published", "alfar.dataset.iris")
    assert (payload["version"], payload["rows"], payload["verdict"]) == ("v1", 120, "published")


def test_a_quarantined_run_says_so(server, monkeypatch):
    from flows.synthesize import synthesize

    events = []
    monkeypatch.setattr("flows.synthesize.emit_event", lambda event, resource, payload: events.append((event, payload["reasons"][0])))
    state = synthesize(order(gates={**LOOSE, "utility": 5}), return_state=True)
    assert state.name == "Quarantined"
    assert events[0][0] == "alfar.release.quarantined"
    assert "utility" in events[0][1]
    assert not releases.releases("out")


def test_parameters_are_validated_by_the_job(server):
    from prefect.exceptions import ParameterTypeError

    from flows.synthesize import synthesize

    with pytest.raises(ParameterTypeError, match="rows"):
        synthesize(order(rows=-1))


def test_bad_input_is_not_tried_again(server):
    from flows.synthesize import synthesize

    began = time.monotonic()
    with pytest.raises(BadInput, match="'z'"):
        synthesize(order(target="z"))
    assert time.monotonic() - began < 30
    assert not Path("out").exists()


def test_a_comparison_ranks_and_a_failure_is_a_row(server):
    from flows.compare import compare

    names = ["tabular/marginal", "tabular/copy", "tabular/none"]
    board, folder = compare(Job.of(order(target="target")), names, 2, "boards", return_state=True).result()
    found = {r["generator"]: r for r in board["rows"]}
    assert "tabular/none" in found["tabular/none"]["error"]
    assert found["tabular/copy"]["role"] == "ceiling"
    assert found["tabular/marginal"]["seeds"] == 2
    assert found["tabular/marginal"]["minutes"] > 0
    assert len(list(Path("home").glob("runs/*/refer-*"))) == 1, "the judges learn on real rows once, whoever is compared"
    assert found["redrawn real rows"]["tstr"]["mean"] > found["shuffled columns"]["tstr"]["mean"]
    assert board["rows"][-1]["generator"] == "tabular/none"
    assert board["winner"] is None
    assert {path.name for path in folder.iterdir()} == {"leaderboard.json", "leaderboard.md", "leaderboard.html"}
    assert not releases.releases("out")


@pytest.mark.slow
def test_images_are_compared_on_one_board(server):
    from flows.compare import compare, text

    names = ["image/gmm", "image/vae"]
    board, _ = compare(Job.of({"source": "digits", "minutes": 0.2, "to": "out"}), names, 2, "boards", return_state=True).result()
    assert not any(r["error"] for r in board["rows"])
    floor, ceiling = (next(r for r in board["rows"] if r.get("role") == role) for role in ("floor", "ceiling"))
    for r in board["rows"]:
        assert r["tstr"]["low"] <= r["tstr"]["mean"] <= r["tstr"]["high"]
        assert floor["tstr"]["mean"] <= r["tstr"]["mean"]
    assert ceiling["tstr"]["mean"] > 0.9
    assert {r["generator"] for r in board["rows"] if r.get("minutes")} == set(names)
    assert "minutes" in text(board)


def test_ctrl_c_stops_cleanly():
    """The signal goes to the whole group, as a terminal sends it; no server is there beforehand, and none is left."""
    slow = [
        sys.executable,
        "-m",
        "flows.cli",
        "run",
        "wine",
        "--to",
        "out",
        "--set",
        "training.steps=100000",
        "--set",
        "training.patience=0",
    ]
    run = subprocess.Popen(slow, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True)
    said = [next(line for line in run.stderr if line.startswith("fit"))]
    os.killpg(run.pid, signal.SIGINT)
    said += run.communicate(timeout=60)[1].splitlines()
    assert run.returncode == 130, said
    assert "Traceback" not in "\n".join(said)
    assert said[-1].startswith("alfar: stopped")
    assert not releases.releases("out")
    assert not list(Path("out").glob("_staging/*"))
    assert not servers()


def servers() -> list[int]:
    """The processes whose Prefect lives in this test's folder."""
    home = f"PREFECT_HOME={Path.cwd()}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if home in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def test_a_schedule_fires_and_publishes():
    Path("jobs").mkdir()
    Path("jobs/minutely.yaml").write_text(json.dumps(order(schedule="* * * * *")))
    code = [sys.executable, "-m", "flows.cli", "serve", "jobs"]
    serving = subprocess.Popen(code, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 240
        while not releases.releases("out") and time.monotonic() < until and serving.poll() is None:
            time.sleep(0.5)
        assert [r.version for r in releases.releases("out")] == ["v1"], serving.poll()
    finally:
        serving.send_signal(signal.SIGINT)
        _, err = serving.communicate(timeout=60)
    assert serving.returncode in (0, 130)
    assert "Traceback" not in err
    assert not servers()
