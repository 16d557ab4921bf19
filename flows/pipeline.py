"""The main job, stage after stage: here as plain calls, in `flows.synthesize` as Prefect's tasks. The order stands here alone.

read -> prepare -> [choose or budget] -> fit -> draw -> refer -> judge -> publish -> announce
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows import auto, cluster, planning, stages
from flows.folders import LOG, Done, append, run_folder
from flows.hooks import announce
from flows.job import Job
from flows.journal import journal
from flows.publishing import Outcome, publish
from flows.stages import budget, choose, draw, fit, judge, refer, sized

Run = Callable[..., Any]  # (stage, *arguments) -> what the stage returns


def read(job: Job) -> str:
    """Read the source and check everything that can be checked; the dataset's name."""
    if job.digest not in planning.ready:
        planning.ready[job.digest] = planning.plan(job)
    return planning.ready[job.digest].dataset


def prepare(job: Job, root: Path) -> Done:
    """Split the real rows."""
    return stages.prepare(planning.ready.pop(job.digest), root)


def plainly(stage: Callable[..., Any], *arguments: Any) -> Any:
    """A stage as a plain call."""
    return stage(*arguments)


def synthesize(job: Job) -> Outcome:
    """The whole job as plain calls, without Prefect."""
    with journal(job) as attempt:
        return followed(job, attempt, plainly)


def followed(job: Job, attempt: str, run: Run) -> Outcome:
    """One attempt, from source to release, each stage by `run`."""
    dataset = run(read, job)
    with cluster.joined(), run_folder(dataset, stages.waiting(dataset)) as root:
        done: dict[str, Done] = {"prepare": run(prepare, job, root)}
        prepared = done["prepare"].folder
        if auto.wanted(job):
            done["choose"] = run(choose, job, root, prepared)
        chosen = done["choose"].folder if "choose" in done else None
        order = auto.settled(job, chosen)
        if job.minutes and not chosen:
            order = sized(job, run(budget, job, root, prepared).folder)
        done["fit"] = run(fit, order, root, prepared, dataset)
        fitted = done["fit"].folder
        done["draw"] = run(draw, order, root, prepared, fitted)
        drawn = done["draw"].folder
        done["refer"] = run(refer, order, root, prepared)
        done["judge"] = run(judge, order, root, prepared, fitted, drawn, done["refer"].folder)
        outcome = run(publish, job if chosen else order, dataset, prepared, fitted, drawn, done["judge"].folder, chosen)
        measure(root, job, done, outcome, attempt, run(announce, job, outcome))
    return outcome


def measure(root: Path, job: Job, done: Mapping[str, Done], outcome: Outcome, attempt: str, hook: str | None) -> None:
    """One line of metrics.jsonl in the private run folder: when, which job and run, what became of it, and what each stage cost.

    `attempt` is the run of the log; `hook` what `flows.hooks.announce` said.
    """
    verdict, number = outcome.manifest["verdict"], outcome.manifest["version"]
    LOG.info("%s %s%s", verdict, number, ", found" if outcome.cached else "", extra={"stage": "publish"})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    line = {
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "job": job.digest,
        "attempt": attempt,
        "run": outcome.manifest["run"],
        "verdict": outcome.manifest["verdict"],
        "version": outcome.manifest["version"],
        "rows": outcome.manifest["rows"],
        "cached": outcome.cached,
        "hook": hook,
        "peak_mib": round(peak, 1),
        "stages": {name: {"cached": d.cached, "seconds": d.seconds, "cpu_seconds": d.cpu_seconds} for name, d in done.items()},
    }
    append(root / "metrics.jsonl", line)
