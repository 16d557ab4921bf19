"""log.jsonl in $ALFAR_HOME: what happened when, one line of JSON an event, for whatever collects logs.

    {"time": UTC, "level", "run": one attempt, "job": the digest of what was asked, "source", "stage", "message"}

No message holds a value of a row, a password or a folder: an error is told by its kind.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.folders import LOG, append, home
from flows.job import Job


class Lines(logging.Handler):
    """Records as lines of a file."""

    def __init__(self, path: Path, run: str, job: Job):
        super().__init__(logging.INFO)
        self.path, self.run = path, run
        self.who = {"run": run, "job": job.digest, "source": job.source.shown}

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        stage: Any = getattr(record, "stage", "run")
        append(self.path, {"time": when, "level": record.levelname.lower(), **self.who, "stage": stage, "message": record.getMessage()})


@contextmanager
def journal(job: Job) -> Iterator[str]:
    """Keep the log of one attempt of a job; its id. Within another one it is that one's."""
    if known := [handler for handler in LOG.handlers if isinstance(handler, Lines)]:
        yield known[0].run
        return
    home().mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = Lines(home() / "log.jsonl", uuid.uuid4().hex[:12], job)
    LOG.addHandler(lines)
    try:
        LOG.info("begun")
        yield lines.run
    except BaseException as error:
        LOG.error("stopped by %s", type(error).__name__)
        raise
    finally:
        LOG.removeHandler(lines)
