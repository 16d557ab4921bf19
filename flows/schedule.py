"""Jobs on their schedules: each becomes a Prefect deployment that this process serves."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from data.errors import BadInput
from flows.job import Job
from flows.server import server

CHECK_SECONDS = 5  # how often due runs are looked for


def scheduled(folder: Path) -> dict[str, Job]:
    """The jobs with a schedule in a folder, by file name. BadInput for the first file that is no job."""
    if not folder.is_dir():
        raise BadInput(f"{str(folder)!r} is not a folder of job files")
    jobs = {path.stem: Job.load(path) for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])}
    found = {name: job for name, job in jobs.items() if job.schedule}
    if not found:
        raise BadInput(f'no job file in {str(folder)!r} has a schedule, such as `schedule: "0 2 * * *"`')
    return found


def serve(jobs: dict[str, Job]) -> None:
    """Run each job when it is due, until this process is told to stop."""
    with server():
        from prefect import serve as serve_
        from prefect.schedules import Cron

        from flows.synthesize import synthesize

        deployments: list[Any] = [
            synthesize.to_deployment(
                name,
                schedules=[Cron(job.schedule or "", timezone="UTC")],
                parameters={"job": job.model_dump(mode="json", exclude_defaults=True)},
                concurrency_limit=1,
            )
            for name, job in jobs.items()
        ]
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # SIGTERM ends Prefect's runner in the middle of a connection,
        warnings.filterwarnings("ignore", "coroutine 'Runner.astop'", RuntimeWarning)  # and without awaiting its own end
        serve_(*deployments, pause_on_shutdown=True, print_starting_message=False, query_seconds=CHECK_SECONDS)
