"""What a release or a rejection sets off: the job's own command or web address, and whatever the caller adds, such as Prefect's event.

`on_publish` and `on_quarantine` are a list, a program and its arguments, never a line for a shell, which finds the message as JSON on
its standard input; or an http(s) address, to which the message goes by POST. `${NAME}` in either is a variable of the environment.
A hook that fails is told in one line and changes nothing: the release stands, and so does the exit code.

A job file may come from anybody, a hook is code: none runs unless the environment of this process says ALFAR_HOOKS=1.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from data.environment import filled
from data.errors import BadInput
from flows.folders import LOG
from flows.job import Job

if TYPE_CHECKING:
    from flows.publishing import Outcome

COMMAND_SECONDS, ADDRESS_SECONDS = 60, 10
CONSENT = "ALFAR_HOOKS"


def permitted(job: Job) -> None:
    """BadInput when the job has a hook and nobody allowed hooks here."""
    if (job.on_publish or job.on_quarantine) and os.environ.get(CONSENT) != "1":
        raise BadInput(f"the job runs a hook (on_publish, on_quarantine): set {CONSENT}=1 where you trust whoever writes its jobs")


def announce(job: Job, outcome: Outcome, also: Callable[[dict[str, Any]], None] = lambda news: None) -> str | None:
    """Tell what became of a run, once: to `also`, then to the job's hook. "done", "failed: …", or None when there was nothing to run.

    A run that was killed before it had told is told by the next one, so a consumer may hear of a release twice and never not at all.
    """
    private = outcome.private
    told = private.with_name(f"{outcome.manifest['run']}.announced") if private else None
    if outcome.cached and told and told.exists():
        return None
    news = message(job, outcome)
    also(news)
    hook, result = job.on_publish if outcome.passed else job.on_quarantine, None
    if hook:
        permitted(job)
        name = "on_publish" if outcome.passed else "on_quarantine"
        why = posted(hook, news) if isinstance(hook, str) else ran(hook, news)
        result = f"failed: {why}" if why else "done"
        if why:
            print(f"alfar: the hook {name} failed, the release stands: {why}", file=sys.stderr)
        LOG.log(30 if why else 20, "%s %s", name, result, extra={"stage": "hook"})
    if told and told.parent.is_dir():
        told.touch()
    return result


def message(job: Job, outcome: Outcome) -> dict[str, Any]:
    """What is told: names, counts and the verdict, no value of a row."""
    manifest = outcome.manifest
    return {key: manifest[key] for key in ("dataset", "version", "verdict", "rows", "run", "reasons")} | {"job": job.digest}


def posted(address: str, news: dict[str, Any]) -> str | None:
    """Send the news to an address; why that failed. The reason does not repeat the address: it may hold a secret."""
    try:
        request = urllib.request.Request(filled(address), json.dumps(news).encode(), {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request, timeout=ADDRESS_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        return f"the address answered {error.code}"
    except BadInput as error:
        return str(error)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        return f"the address cannot be reached ({type(reason).__name__})"


def ran(command: list[str], news: dict[str, Any]) -> str | None:
    """Run a command with the news on its standard input; why that failed."""
    program = os.path.basename(command[0])
    try:
        words = [filled(word) for word in command]
        done = subprocess.run(words, input=json.dumps(news).encode(), stdout=subprocess.DEVNULL, timeout=COMMAND_SECONDS, check=False)
    except BadInput as error:
        return str(error)
    except subprocess.TimeoutExpired:
        return f"{program} did not end within {COMMAND_SECONDS} s"
    except (OSError, ValueError) as error:
        return f"{program} could not be started ({type(error).__name__})"
    return f"{program} ended with {done.returncode}" if done.returncode else None
