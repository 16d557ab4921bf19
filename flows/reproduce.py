"""The command line that does a run again, as releases and leaderboards say it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from flows.job import Job


def command(job: Job, verb: str = "run", *more: str) -> str:
    """The command line that does the same again; `more` are options that are not the job's."""
    said = job.public()
    reading = said["source"]
    words = ["alfar", verb, reading["spec"], *more]
    for option in ("query", "delimiter", "encoding", "size", "sample"):
        words += [f"--{option}", str(reading[option])] if option in reading else []
    words += ["--crop"] if "crop" in reading else []
    for option in ("target", "task", "test", "database", "rows", "seed", "minutes", "device", "name", "epsilon", "epsilon_budget"):
        words += [f"--{option.replace('_', '-')}", str(said[option])] if option in said else []
    for column in said.get("drop", ()):
        words += ["--drop", column]
    for column, kind in said.get("kinds", {}).items():
        words += ["--kind", f"{column}={kind}"]
    for column, values in said.get("orders", {}).items():
        words += ["--order", f"{column}={json.dumps(values) if ',' in ''.join(map(str, values)) else ','.join(map(str, values))}"]
    for rule in said.get("constraints", ()):
        words += ["--constraint", rule if isinstance(rule, str) else "; ".join(f"{k}: {', '.join(v)}" for k, v in rule.items())]
    for gate, limit in said.get("gates", {}).items():
        words += ["--gate", f"{gate}={limit}"]
    for key, value in flat(said.get("generator", {})):
        words += ["--generator", value] if key == "name" else ["--set", f"{key}={value}"]
    return shlex.join(words)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested parameters as dotted keys and JSON values."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)
