"""Looking after what runs: rolling a dataset back, comparing two releases, and checking what a run needs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any, NamedTuple

from packaging.requirements import Requirement

from data import releases as store
from data.errors import BadInput
from data.schema import Schema
from data.stores import Remote, place
from flows.folders import home
from flows.screen import number, table

LEAST_DISK, LEAST_MEMORY = 2.0, 4.0  # GiB, below which runs of a usual size fail
GIB = 2**30


def rollback(root: str, dataset: str, wanted: str | None) -> int:
    """An older version is the current one again."""
    found = store.rollback(root, dataset, wanted)
    print(f"{dataset}: {found.version} of {found.created:%Y-%m-%d %H:%M} UTC is current again; nothing was removed")
    return 0


# ---- diff


def diff(first: str, second: str) -> int:
    """What differs between two releases, in tables of plain text; the exit code is 0 whether anything does or not."""
    a, b = (store.open_release(path) for path in (first, second))
    lines = [row for row in facts(a, b) if row[1] != row[2]]
    print(
        table(lines, ["", f"{a.dataset} {a.version}", f"{b.dataset} {b.version}"]) if lines else "the same source, generator and parameters"
    )
    for what, rows in (("columns", columns(a, b)), ("scores", gates(a, b))):
        print(f"\n{what}: " + (f"\n{table(rows)}" if rows else "no difference"))
    return 0


def facts(a: store.Release, b: store.Release) -> Iterator[tuple[str, str, str]]:
    """What each release says of its making."""
    paths = ("verdict", "rows", "source.name", "source.fingerprint", "source.rows", "generator.name", "seed", "created")
    for path in paths:
        yield path, said(a.manifest, path), said(b.manifest, path)
    known = [flat(release.manifest.get("generator", {}).get("parameters", {})) for release in (a, b)]
    for name in dict.fromkeys([*known[0], *known[1]]):
        yield name, str(known[0].get(name, "-")), str(known[1].get(name, "-"))
    for name in dict.fromkeys([*a.manifest.get("versions", {}), *b.manifest.get("versions", {})]):
        yield f"version of {name}", said(a.manifest, f"versions.{name}"), said(b.manifest, f"versions.{name}")


def columns(a: store.Release, b: store.Release) -> list[list[str]]:
    """Columns that came, went, or mean something else."""
    known = [{c.name: c for c in Schema.from_json(release.manifest["schema"]).columns} for release in (a, b)]
    rows = []
    for name in dict.fromkeys([*known[0], *known[1]]):
        one, other = (schema.get(name) for schema in known)
        if one is None or other is None:
            rows.append([f"  {name}", "is new" if one is None else "is gone"])
        elif one != other:
            changed = [field for field in vars(one) if getattr(one, field) != getattr(other, field)]
            rows.append([f"  {name}", "differs in " + ", ".join(changed)])
    return rows


def gates(a: store.Release, b: store.Release) -> list[list[str]]:
    """The figures that gates look at, with their limits, where anything differs."""
    known = [{gate["name"]: gate for gate in release.manifest.get("gates", [])} for release in (a, b)]
    found = []
    for name in dict.fromkeys([*known[0], *known[1]]):
        one, other = (told(gates.get(name)) for gates in known)
        if one != other:
            found.append([f"  {name}", one, "->", other])
    return found


def told(gate: Mapping[str, Any] | None) -> str:
    """A gate in a few words."""
    return f"{number(gate['value'])} (limit {number(gate['limit'])}, {'kept' if gate['passed'] else 'broken'})" if gate else "not there"


def said(manifest: Any, path: str) -> str:
    """What stands at a dotted path, as text."""
    for key in path.split("."):
        manifest = manifest.get(key) if isinstance(manifest, Mapping) else None
    return "-" if manifest is None else str(manifest)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters by dotted names."""
    found: dict[str, str] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return found


# ---- doctor


class Check(NamedTuple):
    """One thing that a run needs: what was found, and what to do when that is not `well`."""

    name: str
    found: str
    well: bool = True
    remedy: str = ""


def doctor(to: str) -> int:
    """Every check on a line; 0 when all is well, 2 when something has to be done first."""
    checks = [*packages(), *folders(to), *machine(), server()]
    print(table([["ok" if c.well else "FIX", c.name, c.found, "" if c.well else c.remedy] for c in checks]))
    ill = sum(not c.well for c in checks)
    if ill:
        raise BadInput(f"{ill} of {len(checks)} checks need attention: see the lines that begin with FIX")
    print("all is well")
    return 0


def packages() -> Iterator[Check]:
    """Python, and each package that has to be there in a version that works."""
    yield Check("python", sys.version.split()[0], sys.version_info >= (3, 11), "install Python 3.11 or later")
    for line in requires("alfar") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            there = version(wanted.name)
        except PackageNotFoundError:
            yield Check(wanted.name, "missing", False, f"pip install '{wanted.name}{wanted.specifier}'")
            continue
        if not wanted.specifier.contains(there, prereleases=True):
            yield Check(wanted.name, there, False, f"pip install '{wanted.name}{wanted.specifier}'")
    extra = "there" if importlib.util.find_spec("sdv") else "not installed: sdv/… generators cannot be compared with"
    yield Check("packages", f"as pyproject.toml asks; sdv is {extra}")


def folders(to: str) -> Iterator[Check]:
    """The folders that are written to, and the room on their disks."""
    for name, folder in (("private runs", home()), ("releases", place(to).absolute())):
        if isinstance(folder, Remote):
            yield reachable(name, folder)
            continue
        there = next(p for p in (folder, *folder.parents) if p.exists())
        try:
            with tempfile.TemporaryDirectory(dir=there):
                pass
        except OSError as error:
            yield Check(name, str(folder), False, f"cannot be written to ({error.strerror}): choose another folder")
            continue
        free = shutil.disk_usage(there).free / GIB
        yield Check(name, f"{folder}, {free:.1f} GiB free", free >= LEAST_DISK, f"make room: {LEAST_DISK:g} GiB at least")


def reachable(name: str, folder: Remote) -> Check:
    """Can an object store be written to?"""
    try:
        with store.staging(folder, "doctor"):
            return Check(name, f"{folder} can be written to")
    except BadInput as error:
        return Check(name, str(folder), False, str(error))


def machine() -> Iterator[Check]:
    """Cores, memory and GPU."""
    import torch

    from evaluators.tabular import cores

    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    yield Check("cores", str(cores()))
    yield Check("memory", f"{memory:.1f} GiB", memory >= LEAST_MEMORY, f"large tables need {LEAST_MEMORY:g} GiB: give the machine more")
    kinds = {"mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    yield Check("GPU", ", ".join(kind for kind, there in kinds.items() if there) or "none: training runs on the cores")


def server() -> Check:
    """The Prefect server that runs report to."""
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return Check("prefect server", "none is named by PREFECT_API_URL: every command starts its own, on loopback")
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5):
            return Check("prefect server", "answers at PREFECT_API_URL")
    except (urllib.error.URLError, OSError, ValueError):
        return Check(
            "prefect server", "does not answer at PREFECT_API_URL", False, "start it (prefect server start) or unset PREFECT_API_URL"
        )
