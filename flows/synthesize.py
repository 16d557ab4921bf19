"""The main job as a Prefect flow: one task a stage, joined by the files of the run folder.

    from flows.synthesize import synthesize
    synthesize({"source": "diamonds", "rows": 10_000})

It runs with no server started by hand (Prefect starts one for the time of the run) and against the one that PREFECT_API_URL names.
Tasks return short JSON and persist nothing: the run folder is the cache, and a stage that it already holds ends as "Cached".
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from flows import settings

settings.prepare()

from prefect import flow, task  # noqa: E402
from prefect.artifacts import create_markdown_artifact, create_table_artifact  # noqa: E402
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.events import emit_event  # noqa: E402
from prefect.runtime import flow_run  # noqa: E402
from prefect.states import Completed  # noqa: E402

from data.card import plain  # noqa: E402
from flows import auto, cluster, hooks, planning, publishing, stages  # noqa: E402
from flows.folders import LOG, Done, run_folder  # noqa: E402
from flows.job import Job  # noqa: E402
from flows.journal import journal  # noqa: E402
from flows.screen import headlines, number  # noqa: E402


def may_pass(task: Any, run: Any, state: State) -> bool:
    """Is it worth another try? Only what a disk, a network or a database may do better next time; never bad input."""
    return isinstance(state.result(raise_on_failure=False), OSError | ConnectionError)


def told(done: Done) -> Any:
    """A stage's end as a state: what it made, or that it was there."""
    message = str(done.folder) if done.cached else f"{done.folder} in {done.seconds:.1f} s"
    return Completed(name="Cached" if done.cached else None, message=message, data=done)


def ended(state: Any) -> Any:
    """What the state that a task returned holds."""
    return state.result()


@task(persist_result=False, retries=2, retry_delay_seconds=[1, 10], retry_condition_fn=may_pass)
def read(job: Job) -> str:
    """Read the source and check everything that can be checked; the dataset's name."""
    if job.digest not in planning.ready:
        planning.ready[job.digest] = planning.plan(job)
    return planning.ready[job.digest].dataset


@task(persist_result=False)
def prepare(job: Job, root: Path) -> Done:
    """Split the real rows."""
    return told(stages.prepare(planning.ready.pop(job.digest), root))


@task(persist_result=False)
def choose(job: Job, root: Path, prepared: Path) -> Done:
    """Choose the generator."""
    return told(stages.choose(job, root, prepared))


@task(persist_result=False)
def budget(job: Job, root: Path, prepared: Path) -> Done:
    """Foretell the cost, and settle the generator's size."""
    return told(stages.budget(job, root, prepared))


@task(persist_result=False)
def fit(job: Job, root: Path, prepared: Path, dataset: str) -> Done:
    """Train the generator on the training rows, unless the last release's model still fits them."""
    return told(stages.fit(job, root, prepared, dataset))


@task(persist_result=False)
def draw(job: Job, root: Path, prepared: Path, fitted: Path) -> Done:
    """Sample the rows."""
    return told(stages.draw(job, root, prepared, fitted))


@task(persist_result=False)
def refer(job: Job, root: Path, prepared: Path) -> Done:
    """What judges score that learnt on real rows."""
    return told(stages.refer(job, root, prepared))


@task(persist_result=False)
def judge(job: Job, root: Path, prepared: Path, fitted: Path, drawn: Path, referred: Path) -> Done:
    """Utility, fidelity, privacy."""
    return told(stages.judge(job, root, prepared, fitted, drawn, referred))


@task(persist_result=False, retries=2, retry_delay_seconds=[1, 10], retry_condition_fn=may_pass)
def publish(
    job: Job, dataset: str, prepared: Path, fitted: Path, drawn: Path, judged: Path, chosen: Path | None = None
) -> publishing.Outcome:
    """Write, check, gate; then release or quarantine."""
    outcome = publishing.publish(job, dataset, prepared, fitted, drawn, judged, chosen)
    state: Any = Completed(name="Cached" if outcome.cached else None, message=str(outcome.folder), data=outcome)
    return state


@task(persist_result=False)
def announce(job: Job, outcome: publishing.Outcome) -> str | None:
    """Tell what became of the run: an event, and the job's hook."""
    said = hooks.announce(job, outcome, emit)
    state: Any = Completed(name="Hook failed" if said and said != "done" else None, message=said or "no hook", data=said)
    return state


def emit(news: dict[str, Any]) -> None:
    """Prefect's event `alfar.release.published` or `alfar.release.quarantined`, which an automation can wait for."""
    what = "quarantined" if news["reasons"] else "published"
    emit_event(f"alfar.release.{what}", {"prefect.resource.id": f"alfar.dataset.{news['dataset']}", **named(news)}, payload=news)


def named(news: dict[str, Any]) -> dict[str, str]:
    """The labels of an event's resource: what triggers can match."""
    return {"prefect.resource.name": news["dataset"], "dataset": news["dataset"], "version": news["version"], "verdict": news["verdict"]}


@flow(name="synthesize", flow_run_name="{job.source.shown}", persist_result=False, log_prints=False)
def synthesize(job: Job) -> publishing.Outcome:
    """A real table in, a judged synthetic release out. Returns the publishing.Outcome."""
    with journal(job) as attempt:
        LOG.info("is Prefect's flow run %s", flow_run.id)
        outcome = followed(job, attempt)
    tell(outcome)
    name = None if outcome.passed else "Quarantined"
    state: Any = Completed(name=name, message=str(outcome.folder), data=outcome)
    return state


def followed(job: Job, attempt: str) -> publishing.Outcome:
    """One attempt, a task a stage."""
    dataset = read(job)
    with cluster.joined(), run_folder(dataset, waiting=stages.waiting(dataset)) as root:
        done: dict[str, Done] = {"prepare": ended(prepare(job, root))}
        prepared = done["prepare"].folder
        if auto.wanted(job):
            done["choose"] = ended(choose(job, root, prepared))
        chosen = done["choose"].folder if "choose" in done else None
        order = auto.settled(job, chosen)
        if job.minutes and not chosen:
            order = stages.sized(job, ended(budget(job, root, prepared)).folder)
        done["fit"] = ended(fit(order, root, prepared, dataset))
        fitted = done["fit"].folder
        done["draw"] = ended(draw(order, root, prepared, fitted))
        drawn = done["draw"].folder
        done["refer"] = ended(refer(order, root, prepared))
        done["judge"] = ended(judge(order, root, prepared, fitted, drawn, done["refer"].folder))
        outcome = ended(publish(job if chosen else order, dataset, prepared, fitted, drawn, done["judge"].folder, chosen))
        publishing.measure(root, job, done, outcome, attempt, ended(announce(job, outcome)))
    return outcome


def tell(outcome: publishing.Outcome) -> None:
    """The run's artifacts: verdict with the first figures, scores with their gates, where the report is."""
    manifest = outcome.manifest
    dataset, made, source = manifest["dataset"], manifest["generator"]["name"], manifest["source"]
    key = re.sub(r"[^a-z0-9]+", "-", dataset).strip("-")
    report = (outcome.folder / "report.html").absolute()
    lines = [
        f"# {dataset} {manifest['version']}: {manifest['verdict']}",
        *(f"- {plain(reason)}" for reason in manifest["reasons"]),
        f"{manifest['rows']:,} rows by {made}, seed {manifest['seed']}, out of {source['rows']:,} real rows of {plain(source['name'])}",
        f"```\n{headlines(manifest['scores'])}\n```",
        f"release `{outcome.folder}`, report `{report}`",
        f"```\n{' '.join(manifest['reproduce'].split())}\n```",
    ]
    create_markdown_artifact("\n\n".join(lines), key=f"verdict-{key}", description=f"What became of {dataset}")
    gates = [
        {"gate": gate["name"], "value": number(gate["value"]), "limit": number(gate["limit"])}
        | {"verdict": "passed" if gate["passed"] else "FAILED", "why": gate["why"]}
        for gate in sorted(manifest["gates"], key=lambda gate: bool(gate["passed"]))
    ]
    create_table_artifact(gates, key=f"scores-{key}", description="Scores and their gates")
    page = f"`{report}`\n\nOne file that needs no network; browsers do not follow links from a server to files, so open it by its name."
    create_markdown_artifact(page, key=f"report-{key}", description="Can the release be trusted?")
