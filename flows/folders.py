"""The private run folder: what a stage makes lies in a folder named by everything that decides it, and is made once.

    $ALFAR_HOME/runs/<dataset>/<stage>-<key>/      finished; stage.json lists its files and their digests
    $ALFAR_HOME/runs/<dataset>/<stage>-<key>.partial/   under way, or killed

The key chains the digests of the stage's inputs, its parameters and the code that runs it, so a finished folder is the result. Real rows
are kept here and nowhere else; the folder is readable by its owner only.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from data.stores import Place

PROJECT = Path(__file__).parent.parent
LARGEST_LOG = 10_000_000  # bytes, after which a log begins anew
LOG = logging.getLogger("alfar")
LOG.setLevel(logging.INFO)
LOG.propagate = False  # `flows.journal` writes what is logged; without it nothing does
LOG.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Done:
    """A finished stage: where its files are, and what it cost when it was made."""

    folder: Path
    cached: bool
    seconds: float
    cpu_seconds: float


@dataclass
class Found:
    """The finished stages that `looking` met, and whether none was missing."""

    folders: list[Path] = field(default_factory=list)
    complete: bool = False


class Missing(Exception):
    """A stage is not there, and is only looked for."""


search: ContextVar[Found | None] = ContextVar("search", default=None)


def home() -> Path:
    """$ALFAR_HOME, or .alfar in the current folder."""
    return Path(os.environ.get("ALFAR_HOME") or ".alfar").absolute()


@contextmanager
def run_folder(dataset: str, waiting: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """The dataset's private folder, held by one run at a time; `waiting` is called when another run holds it.

    The lock goes with the process that holds it, however that ends.
    """
    folder = home() / "runs" / dataset
    home().mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def stage(
    root: Path, name: str, inputs: Mapping[str, Any], work: Callable[[Path], None], *, code: tuple[str, ...], resumes: bool = False
) -> Done:
    """The finished folder of a stage: found, or made by `work(folder)`.

    `inputs` is JSON that decides the result, `code` the packages that make it. A folder that is damaged is made again. What a killed
    run left behind is thrown away, unless the stage `resumes` from it.
    """
    key = keyed(name, inputs, code)
    folder, partial = root / key, root / f"{key}.partial"
    found = search.get()
    if (known := intact(folder)) is not None:
        if found:
            found.folders.append(folder)
        LOG.info("found", extra={"stage": name})
        return Done(folder, True, known["seconds"], known["cpu_seconds"])
    if found:
        raise Missing(key)
    LOG.info("resumed" if resumes and partial.is_dir() else "begun", extra={"stage": name})
    shutil.rmtree(folder, ignore_errors=True)
    if not resumes:
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700, exist_ok=True)
    began, cpu = time.perf_counter(), time.process_time()
    work(partial)
    cost = {"seconds": round(time.perf_counter() - began, 3), "cpu_seconds": round(time.process_time() - cpu, 3)}
    (partial / "stage.json").unlink(missing_ok=True)
    files = {str(path.relative_to(partial)): digest(path) for path in sorted(partial.rglob("*")) if path.is_file()}
    write_json(partial / "stage.json", {"stage": name, "inputs": inputs, **cost, "files": files})
    os.rename(partial, folder)
    LOG.info("done in %.1f s", cost["seconds"], extra={"stage": name})
    return Done(folder, False, **cost)


@contextmanager
def looking() -> Iterator[Found]:
    """Meanwhile no stage works: the finished ones are listed, and the first that is missing ends what is tried."""
    found = Found()
    token = search.set(found)
    try:
        yield found
        found.complete = True
    except Missing:
        pass
    finally:
        search.reset(token)


def retire(root: Path, keep: int) -> None:
    """Remove all finished stages of a private run folder but the newest `keep` of each name."""
    found = sorted(
        (f for f in root.iterdir() if (f / "stage.json").is_file()), key=lambda f: (f / "stage.json").stat().st_mtime, reverse=True
    )
    for name in {folder.name.rpartition("-")[0] for folder in found}:
        for old in [folder for folder in found if folder.name.rpartition("-")[0] == name][keep:]:
            shutil.rmtree(old, ignore_errors=True)


def keyed(name: str, inputs: Mapping[str, Any], code: tuple[str, ...]) -> str:
    """A stage's name with 12 hex digits of everything that decides its result."""
    said = json.dumps([name, inputs, [code_digest(package) for package in code]], sort_keys=True)
    return f"{name}-{hashlib.sha256(said.encode()).hexdigest()[:12]}"


def intact(folder: Path) -> dict[str, Any] | None:
    """What stage.json says, when every file is there as it was written."""
    try:
        known = json.loads((folder / "stage.json").read_text())
        return known if all(digest(folder / name) == sha for name, sha in known["files"].items()) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_digest(package: str) -> str:
    """A digest of a package's source: a result is as old as the code that made it."""
    sink = hashlib.sha256()
    for path in sorted((PROJECT / package).rglob("*.py")):
        sink.update(path.read_bytes())
    return sink.hexdigest()[:12]


def append(path: Path, value: Any) -> None:
    """One line of JSON at the end of a log, which begins anew at `LARGEST_LOG` bytes: the full one becomes `<name>.1`."""
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(value) + "\n")
        file.flush()
        if path.stat().st_size > LARGEST_LOG:
            os.replace(path, path.with_name(f"{path.name}.1"))


def write_json(path: Path, value: Any) -> None:
    """JSON that people read."""
    path.write_text(json.dumps(value, indent=1))


def read_json(path: Place) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text())
