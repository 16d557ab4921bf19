"""The main job as a Prefect flow: one task a stage, joined by the files of the run folder.

    from flows.synthesize import synthesize
    synthesize({"source": "diamonds", "rows": 10_000})

It runs with no server started by hand (Prefect starts one for the time of the run) and against the one that PREFECT_API_URL names.
Tasks return short JSON and persist nothing: the run folder is the cache, and a stage that it already holds ends as "Cached".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
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
from flows import hooks  # noqa: E402
from flows.folders import LOG, Done  # noqa: E402
from flows.job import Job  # noqa: E402
from flows.journal import journal  # noqa: E402
from flows.pipeline import followed, prepare, read  # noqa: E402
from flows.publishing import Outcome, publish  # noqa: E402
from flows.screen import headlines, number  # noqa: E402
from flows.stages import budget, choose, draw, fit, judge, refer  # noqa: E402


def may_pass(task: Any, run: Any, state: State) -> bool:
    """Is it worth another try? Only what a disk, a network or a database may do better next time; never bad input."""
    return isinstance(state.result(raise_on_failure=False), OSError | ConnectionError)


def told(found: Done | Outcome | str) -> Any:
    """A stage's end as a state: what it made, or that it was there."""
    if isinstance(found, str):
        return Completed(message=found, data=found)
    took = f" in {found.seconds:.1f} s" if isinstance(found, Done) and not found.cached else ""
    return Completed(name="Cached" if found.cached else None, message=f"{found.folder}{took}", data=found)


def heard(said: str | None) -> Any:
    """What a hook said, as a state."""
    return Completed(name="Hook failed" if said and said != "done" else None, message=said or "no hook", data=said)


def announce(job: Job, outcome: Outcome) -> str | None:
    """Tell what became of the run: an event, and the job's hook."""
    return hooks.announce(job, outcome, emit)


def tasked(stage: Callable[..., Any], end: Callable[[Any], Any] = told, **tries: Any) -> Any:
    """A stage as a task, which ends in the state that `end` makes of what the stage returns."""

    @wraps(stage)
    def work(*arguments: Any) -> Any:
        return end(stage(*arguments))

    return task(persist_result=False, **tries)(work)


AGAIN: dict[str, Any] = {"retries": 2, "retry_delay_seconds": [1, 10], "retry_condition_fn": may_pass}
TASKS: dict[Callable[..., Any], Any] = {
    **{stage: tasked(stage, **AGAIN) for stage in (read, publish)},
    **{stage: tasked(stage) for stage in (prepare, choose, budget, fit, draw, refer, judge)},
    hooks.announce: tasked(announce, heard),
}


def run(stage: Callable[..., Any], *arguments: Any) -> Any:
    """What a stage returns that runs as its task."""
    return TASKS[stage](*arguments).result()


def emit(news: dict[str, Any]) -> None:
    """Prefect's event `alfar.release.published` or `alfar.release.quarantined`, which an automation can wait for."""
    what = "quarantined" if news["reasons"] else "published"
    emit_event(f"alfar.release.{what}", {"prefect.resource.id": f"alfar.dataset.{news['dataset']}", **named(news)}, payload=news)


def named(news: dict[str, Any]) -> dict[str, str]:
    """The labels of an event's resource: what triggers can match."""
    return {"prefect.resource.name": news["dataset"], "dataset": news["dataset"], "version": news["version"], "verdict": news["verdict"]}


@flow(name="synthesize", flow_run_name="{job.source.shown}", persist_result=False, log_prints=False)
def synthesize(job: Job) -> Outcome:
    """A real table in, a judged synthetic release out. Returns the Outcome."""
    with journal(job) as attempt:
        LOG.info("is Prefect's flow run %s", flow_run.id)
        outcome = followed(job, attempt, run)
    tell(outcome)
    name = None if outcome.passed else "Quarantined"
    state: Any = Completed(name=name, message=str(outcome.folder), data=outcome)
    return state


def tell(outcome: Outcome) -> None:
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
