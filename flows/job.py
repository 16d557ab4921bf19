"""Job: what to read, what to learn it with, and where the result goes. Flows, command line and schedules all take one.

A job file is YAML:

    source: sales.csv              # or {path: sales.csv, delimiter: ";"}, or {url: "sqlite:///shop.db", query: "select …"},
                                   # or {path: cats/, size: 32}
    target: churned
    generator: {name: tabular/made, training: {steps: 4000}}
    gates: {utility: 0.8}
    schedule: "0 2 * * *"

A job file is not trusted: it may come from anybody, so nothing in it is imported or run, but hooks where they are allowed (`flows.hooks`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from data.environment import PASSWORD
from data.errors import BadInput, suggest
from data.schema import Kind, Task
from data.stores import place
from generators.presets import resolved

LARGEST = 1_000_000  # bytes of a job file
STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


class Reading(BaseModel):
    """Where the real rows are and how to read them: a built-in name, a path or a SQLAlchemy URL, and what cannot be guessed."""

    model_config = STRICT

    spec: str = Field(min_length=1, max_length=4096, description="a built-in dataset, a file or folder, or a SQLAlchemy URL")
    query: str | None = Field(None, max_length=100_000, description="the SQL query whose rows are read")
    delimiter: str | None = Field(None, min_length=1, max_length=1, description="what separates the fields of a CSV file")
    encoding: str | None = Field(None, min_length=1, max_length=40, description="the encoding of a CSV file")
    size: int | str | None = Field(None, description="the pixels that images are brought to: 32, or 48x32 for width and height")
    crop: bool = Field(False, description="images are cut to the proportions of the size first, instead of being stretched to it")
    sample: int = Field(2_000_000, ge=1000, description="rows that are used, drawn at random, of a source that has more")

    @property
    def shown(self) -> str:
        """The spec as others may see it."""
        return shown(self.spec)

    @model_validator(mode="after")
    def fits(self) -> Self:
        """A size that images can have, and no secret in the URL of an object store."""
        from data.sources.images import Fit

        Fit.of(self.size, self.crop)
        place(self.spec)
        return self


class Job(BaseModel):
    """One order: a real table in, a judged synthetic release out. Every field but the source has a default."""

    model_config = STRICT

    source: Reading
    target: str | None = Field(None, min_length=1, description="the column that the judges predict")
    task: Task | None = Field(None, description="what the judges expect of the target, where the guess is wrong, e.g. translation")
    test: str | None = Field(None, min_length=1, description="a file of held-out real rows; otherwise a fifth is split off")
    database: str | None = Field(None, min_length=1, description="an SQLite database against which SQL is run, read-only, to judge it")
    kinds: dict[str, Kind] = Field(default_factory=dict, description="the kind of a column where the guess is wrong")
    orders: dict[str, list[str | int]] = Field(default_factory=dict, description="the order of a category's values, least first")
    drop: list[str] = Field(default_factory=list, description="columns that are left out")
    constraints: list[str | dict[str, list[str]]] = Field(default_factory=list, max_length=100, description="rules that every row keeps")
    generator: dict[str, Any] | None = Field(None, description="a generator's name, or a mapping of its name, preset and parameters")
    rows: int | None = Field(None, ge=1, le=10**10, description="rows to make; as many as the training data when left out")
    seed: int = Field(0, ge=0, le=2**32 - 1)
    minutes: float | None = Field(None, gt=0, le=10_080, description="bound on the training time")
    epsilon: float | None = Field(None, gt=0, le=1000, description="differential privacy of the fit: the rows' bound, smaller is stricter")
    epsilon_budget: float | None = Field(None, gt=0, le=10_000, description="epsilon that all fits to this source may spend together")
    drift: float | None = Field(None, ge=0, le=1, description="drift of the source up to which the last release's model is kept")
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    gates: dict[str, float] = Field(default_factory=dict, description="thresholds of the verdict")
    name: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9_-]{0,59}$", description="the name of the dataset that is published")
    to: str = Field("releases", min_length=1, max_length=4096, description="the folder of releases")
    keep: int | None = Field(None, ge=1, le=10_000, description="versions that stay after a release, the newest; all when left out")
    schedule: str | None = Field(None, description="cron: minute hour day month weekday, UTC")
    on_publish: str | list[str] | None = Field(None, description="a command or an address that is told of a release, see flows.hooks")
    on_quarantine: str | list[str] | None = Field(None, description="the same for what a gate rejected")

    @field_validator("to", "test")
    @classmethod
    def placed(cls, value: str | None) -> str | None:
        """A folder, or the URL of a place in an object store."""
        if value is not None:
            place(value)
        return value

    @field_validator("source", mode="before", json_schema_input_type=str | dict[str, Any])
    @classmethod
    def one_spec(cls, value: Any) -> Any:
        """A plain string is the spec; `path`, `name` and `url` are three words for it."""
        if isinstance(value, str):
            return {"spec": value}
        if not isinstance(value, Mapping) or "spec" in value:
            return value
        given = [key for key in ("path", "name", "url") if key in value]
        if len(given) != 1:
            raise ValueError("give exactly one of path, name and url")
        return {"spec": value[given[0]], **{k: v for k, v in value.items() if k != given[0]}}

    @field_validator("generator", mode="before", json_schema_input_type=str | dict[str, Any] | None)
    @classmethod
    def named(cls, value: Any) -> Any:
        """A plain string is the name; a preset is what it stands for."""
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and not isinstance(value.get("name", ""), str):
            raise ValueError("takes a name as text, for example {name: tabular/made}")
        return resolved(value) if isinstance(value, Mapping) else value

    @field_validator("constraints", mode="before")
    @classmethod
    def rules(cls, value: Any) -> Any:
        """Each is text, or one word with a list of columns."""
        for one in value if isinstance(value, list) else [value]:
            lists = isinstance(one, Mapping) and len(one) == 1 and all(isinstance(v, list) for v in one.values())
            if not isinstance(value, list) or not (isinstance(one, str) or lists):
                raise ValueError("takes a list of conditions such as 'a <= b' and rules such as {unique: [a, b]}")
        return value

    @field_validator("gates")
    @classmethod
    def known_gates(cls, value: dict[str, float]) -> dict[str, float]:
        """Thresholds are the fields of `evaluators.gates.Thresholds`."""
        from evaluators.gates import Thresholds

        known = [f.name for f in fields(Thresholds)]
        for name in value:
            if name not in known:
                raise ValueError(f"there is no gate {name!r}{suggest(name, known)}")
        return value

    @field_validator("schedule")
    @classmethod
    def cron(cls, value: str | None) -> str | None:
        """Five fields of cron."""
        if value is not None and (why := cron_error(value)):
            raise ValueError(why)
        return value

    @model_validator(mode="after")
    def bounded(self) -> Self:
        """A budget bounds what epsilon spends, and choosing a generator spends what nobody counts."""
        if self.epsilon is None and self.epsilon_budget is not None:
            raise ValueError("epsilon_budget needs epsilon: a fit without one is not bounded at all")
        if self.epsilon is not None and (self.generator or {}).get("name") == "auto":
            raise ValueError("epsilon needs a generator by name: auto would learn from the rows many times")
        if self.epsilon is not None and "://" in self.to:
            raise ValueError("epsilon keeps its ledger beside the releases: it needs a local folder to publish to")
        return self

    @field_validator("on_publish", "on_quarantine", mode="before")
    @classmethod
    def hook(cls, value: Any) -> Any:
        """A program with its arguments, or an address; neither with a password in plain."""
        words = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        sound = bool(words) and all(isinstance(word, str) and 0 < len(word) <= 4096 and "\0" not in word for word in words)
        if value is not None and (not sound or (isinstance(value, str) and not re.match(r"https?://[^\s]+$", value))):
            raise ValueError("takes a list, a program and its arguments, or an address that begins with https:// or http://")
        if any(PASSWORD.search(word) for word in words):
            raise ValueError("holds a password: put it into an environment variable and write ${NAME} in its place")
        return value

    @property
    def digest(self) -> str:
        """16 hex digits of everything that this job says."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]

    def public(self) -> dict[str, Any]:
        """The job as a release may show it: what was set, no password, no folder names of this machine."""
        said = self.model_dump(mode="json", exclude_defaults=True, exclude={"to", "keep", "schedule", "on_publish", "on_quarantine"})
        said["source"]["spec"] = shown(said["source"]["spec"])
        return said | {key: shown(path) for key in ("test", "database") if (path := getattr(self, key))}

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str = "") -> Job:
        """A job from plain values. BadInput names the key; `where` is the file that it stands in, empty for the command line.

        No file holds a password: the command line may, since nothing keeps it.
        """
        try:
            job = cls.model_validate(dict(values))
        except ValidationError as error:
            raise BadInput(sentence(error, where)) from None
        if where and PASSWORD.search(job.source.spec):
            raise BadInput(f"{where}: source holds a password: put it into an environment variable and write ${{NAME}} in its place")
        return job

    @classmethod
    def load(cls, path: Path) -> Job:
        """The job of a YAML file. BadInput when it is no job."""
        return cls.of(read_yaml(path), str(path))


def shown(spec: str) -> str:
    """A source as others may see it: a URL without its password, the last part of a path."""
    return PASSWORD.sub(r"\1:***@", spec) if "://" in spec else Path(spec).name


def sentence(error: ValidationError, where: str) -> str:
    """The first thing that is wrong, in one sentence."""
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"] if part != "[key]")
    key = f"{where}: {path}" if where else f"--{path.replace('source.', '')}" if path else "the job"
    if first["type"] == "extra_forbidden":
        known = list((Reading if path.startswith("source.") else Job).model_fields)
        return f"{where or 'the job'}: there is no key {path!r}{suggest(path.split('.')[-1], known)}"
    if first["type"] == "missing":
        return f"{where or 'the job'}: the key {path!r} is missing"
    what = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    value = repr(first["input"])
    if first["type"] == "value_error":
        return f"{key}: {what}"
    return f"{key} is {value if len(value) <= 60 else value[:59] + '…'}; it {what}"


# ---- YAML


class Loader(yaml.SafeLoader):
    """Plain YAML: no anchors (a few lines of them can fill the memory) and no key given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse anchors and aliases before anything is built."""
        if getattr(event := self.peek_event(), "anchor", None):
            raise ComposerError(None, None, "anchors and aliases (& and *) are not allowed in a job file", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that is given twice, or that is no text."""
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str" or key.value in seen:
                twice = "is given twice" if key.value in seen else "is not text: put it in quotes"
                raise ConstructorError(None, None, f"the key {str(key.value)[:60]!r} {twice}", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a small YAML file. BadInput names the file and line of what is not plain YAML."""
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise BadInput(f"there is no job file {str(path)!r}") from None
    except OSError as error:
        raise BadInput(f"the job file {str(path)!r} cannot be read: {error.strerror}") from None
    if len(content) > LARGEST:
        raise BadInput(f"{path}: a job file has at most {LARGEST // 1_000_000} MB")
    try:
        values = yaml.load(content.decode("utf-8"), Loader)
    except UnicodeDecodeError:
        raise BadInput(f"{path}: is not a UTF-8 text file") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise BadInput(f"{path}: {line}{(error.problem or 'this is not YAML').splitlines()[0]}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise BadInput(f"{path}: this is not plain YAML") from None
    if not isinstance(values, dict):
        raise BadInput(f"{path}: a job file is a list of `key: value` lines, at least `source: …`")
    return values


# ---- cron

CRON = (("minute", 0, 59, ""), ("hour", 0, 23, ""), ("day", 1, 31, ""), ("month", 1, 12, "jan feb mar apr may jun jul aug sep oct nov dec"),
        ("weekday", 0, 7, "sun mon tue wed thu fri sat"))  # fmt: skip


def cron_error(text: str) -> str | None:
    """Why these are not five cron fields; None when they are."""
    parts = text.lower().split()
    if len(parts) != len(CRON):
        return f"{text[:60]!r} is not a cron schedule: it takes five fields, minute hour day month weekday, such as '0 2 * * *'"
    for (what, low, high, words), part in zip(CRON, parts, strict=True):
        for word, number in zip(words.split(), range(low, high + 1), strict=False):
            part = part.replace(word, str(number))
        for piece in part.split(","):
            match = re.fullmatch(r"(?:\*|(\d{1,2})(?:-(\d{1,2}))?)(?:/(\d{1,2}))?", piece)
            numbers = [int(n) for n in match.group(1, 2) if n is not None] if match else []
            if not match or numbers != sorted(numbers) or any(not low <= n <= high for n in numbers) or match[3] in ("0", "00"):
                return f"{part[:40]!r} is not a {what} of a cron schedule: it takes {low} to {high}, *, lists, ranges and steps"
    return None
