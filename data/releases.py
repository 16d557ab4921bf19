"""Publishing and reading back: versioned folders that appear whole, by one rename, or not at all.

    <root>/<dataset>/<version>/   README.md  release.json  _SUCCESS  report.html  model/  data/train-00000-of-00001.parquet
    <root>/<dataset>/LATEST       the current version's name
    <root>/_staging/              what is being written        <root>/_quarantine/<dataset>/<time>/   what its gates rejected

Versions v1, v2, … never change. Rows are written below `_staging` on the same file system, then renamed. Where `<root>` is the URL of an
object store (`data.stores`), they are written on this machine, copied, and `_SUCCESS` is copied last: what lacks it is no release.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data.card import card, headline
from data.disk import locked, sha256, size, sync, write, writing
from data.errors import BadInput
from data.stores import Place, Remote, deliver, place, spool

STALE = 86_400  # seconds after which what another machine left in staging is taken for abandoned
_open: set[Path] = set()  # the staging folders of this process


@contextmanager
def staging(root: Place | str, dataset: str) -> Iterator[Path]:
    """An empty folder of this machine to write a release of `dataset` in; gone afterwards unless it was published.

    Its name carries the owner, host and process, so that `sweep` can tell what a killed run left. BadInput: `root` is not writable.
    """
    check_name(dataset)
    home = place(root)
    for name in ("_staging", "_quarantine", f"_quarantine/{dataset}", dataset):
        inside(home, home / name)
    folder = workshop(home) / f"{socket.gethostname()}~{os.getpid()}~{uuid.uuid4().hex}"
    if isinstance(home, Remote):
        trial = home / "_staging" / folder.name
        trial.write_text("")
        trial.unlink()
    with writing(folder.parent):
        folder.mkdir(parents=True)
    _open.add(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _open.discard(folder)


def workshop(home: Place) -> Path:
    """Where releases are made ready: on the file system of what is published, or on this machine."""
    return home / "_staging" if isinstance(home, Path) else spool()


def sweep(root: Place | str) -> list[Place]:
    """Remove what runs that are gone left unfinished; returns what was removed."""
    home = place(root)
    gone = [folder for folder in workshop(home).glob("*") if abandoned(folder)]
    for folder in gone:
        shutil.rmtree(folder, ignore_errors=True)
    if isinstance(home, Path):
        return [*gone]
    half = [
        f for f in home.glob("*/v*") if _number(f.name) and not _marked(f) and (at := f.changed()) and time.time() - at.timestamp() > STALE
    ]
    for version in half:
        version.remove()
    return [*gone, *half]


def abandoned(folder: Path) -> bool:
    """Is the process that writes this staging folder gone? On another machine: has nothing changed for a day?"""
    host, _, rest = folder.name.partition("~")
    pid = rest.partition("~")[0]
    if host != socket.gethostname() or not pid.isdigit():
        try:
            return time.time() - folder.stat().st_mtime > STALE
        except OSError:
            return False
    if int(pid) == os.getpid():
        return folder not in _open
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def publish(staged: Path, root: Place | str, dataset: str, manifest: Mapping[str, Any], *, at: datetime) -> Place:
    """Make a staged folder the next version of `dataset` and its current one; returns the version's folder.

    `manifest` is completed by dataset, version, time, rows and files (path, bytes, sha256, rows). Nothing is believed before the
    one rename, or the mark that is copied last; LATEST never moves backwards. BadInput when the destination cannot be written.
    """
    check_name(dataset)
    home = place(root) / dataset
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
        with locked(home):
            number = max([_number(f.name) for f in home.iterdir()] + [_number(latest(home) or "")]) + 1
            files = described(staged)
            while not moved(staged, home / f"v{number}", dataset, manifest, files, at, "_SUCCESS"):
                number += 1  # another publisher, where there are no locks, took this number
            newest, said = number, _number(latest(home) or "")
            while newest > said:  # whoever writes looks again: where there are no locks, a newer one may have been published meanwhile
                point(home, newest)
                newest, said = complete(home)[-1], newest
    return home / f"v{number}"


def rollback(root: Place | str, dataset: str, version: str | None = None) -> Release:
    """Make an older version the current one again: the one before it, unless it is named. Nothing is removed.

    BadInput when there is no such version, or when it is not as it was published.
    """
    check_name(dataset)
    home = place(root) / dataset
    inside(place(root), home)
    if not home.is_dir():
        raise BadInput(f"nothing is published as {dataset!r} in {root}: see alfar releases")
    with writing(home), locked(home):
        current = _number(latest(home) or "")
        numbers = complete(home)
        wanted = _number(version) if version is not None else max((n for n in numbers if n < current), default=0)
        if wanted not in numbers:
            which = f"no complete version {version[:20]!r}" if version is not None else f"no version before v{current}"
            raise BadInput(f"{dataset} has {which}: what is there is {', '.join(f'v{n}' for n in numbers) or 'nothing'}")
        found = open_release(home / f"v{wanted}", verify=True)
        point(home, wanted)
    return found


def retire(root: Place | str, dataset: str, keep: int) -> list[str]:
    """Remove all versions but the newest `keep` and the current one; the names of what was removed.

    A reader who has a removed version open keeps what it has open; nobody finds half a version.
    """
    home = place(root) / dataset
    with writing(home), locked(home):
        old = [n for n in complete(home)[::-1][keep:] if n != _number(latest(home) or "")]
        for number in old:
            version = home / f"v{number}"
            if isinstance(version, Remote):
                (version / "_SUCCESS").unlink()
                version.remove()
                continue
            with staging(root, dataset) as grave:
                os.rename(version, grave / "retired")
    return [f"v{number}" for number in old]


def complete(home: Place) -> list[int]:
    """The numbers of a dataset's complete versions, from old to new."""
    return sorted(_number(f.name) for f in home.glob("v*") if _number(f.name) and _marked(f) == "_SUCCESS")


def point(home: Place, number: int) -> None:
    """LATEST says this version, at once."""
    if isinstance(home, Remote):
        (home / "LATEST").write_text(f"v{number}\n")
    else:
        with staging(home.parent, home.name) as own:
            write(own / "LATEST", f"v{number}\n")
            os.replace(own / "LATEST", home / "LATEST")
        sync(home)


def quarantine(staged: Path, root: Place | str, dataset: str, manifest: Mapping[str, Any], reasons: Sequence[str]) -> Place:
    """Keep a rejected release aside with the reasons, in `<root>/_quarantine/<dataset>/<UTC time>`; what is published stays."""
    check_name(dataset)
    now = datetime.now(UTC)
    home = place(root) / "_quarantine" / dataset
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
        files, number = described(staged), 0
        while True:
            target = home / (now.strftime("%Y%m%dT%H%M%SZ") + (f"-{number}" if number else ""))
            if moved(staged, target, dataset, {**manifest, "reasons": list(reasons)}, files, now, "_REJECTED"):
                return target
            number += 1


def moved(
    staged: Path, target: Place, dataset: str, manifest: Mapping[str, Any], files: list[dict[str, Any]], at: datetime, mark: str
) -> bool:
    """Complete a staged folder (card, manifest, mark last), make it durable and rename or copy it; False when the target is taken."""
    if target.exists():
        return False
    full = {**manifest, "dataset": dataset, "version": target.name, "created": at.astimezone(UTC).isoformat(timespec="seconds")}
    full["rows"] = sum(f.get("rows", 0) for f in files)
    write(staged / "README.md", card(full, schema_of(staged)))
    full["files"] = [*files, entry(staged, staged / "README.md")]
    write(staged / "release.json", json.dumps(full, indent=1, ensure_ascii=False) + "\n")
    write(staged / mark, sha256(staged / "release.json") + "\n")
    if isinstance(target, Remote):
        return deliver(staged, target, mark)
    for inner, _, names in os.walk(staged, topdown=False):
        for path in [*(Path(inner) / name for name in names), Path(inner)]:
            sync(path)
    try:
        os.rename(staged, target)
    except OSError:
        if target.exists():
            return False
        raise
    sync(target.parent)
    return True


def described(staged: Path) -> list[dict[str, Any]]:
    """Path, bytes and sha256 of each file of a staged folder, and the rows of each parquet file. ValueError without rows."""
    own = {staged / name for name in ("README.md", "release.json", "_SUCCESS", "_REJECTED")}
    files = [entry(staged, path) for path in sorted(staged.rglob("*")) if path.is_file() and path not in own]
    if not any("rows" in f for f in files):
        raise ValueError("a release needs at least one parquet file in data/")
    return files


def entry(folder: Path, path: Path) -> dict[str, Any]:
    """One file as the manifest lists it."""
    facts: dict[str, Any] = {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": sha256(path)}
    if path.parent == folder / "data":
        facts["rows"] = pq.read_metadata(path).num_rows
    return facts


def schema_of(folder: Path) -> dict[str, Any]:
    """The schema JSON in the footer of a folder's first data file."""
    first = sorted((folder / "data").glob("*.parquet"))[0]
    return json.loads((pq.read_metadata(first).metadata or {}).get(b"alfar.schema", b'{"columns": []}'))


def check_name(dataset: str) -> None:
    """BadInput unless the name is safe as a folder."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,59}", dataset):
        raise BadInput(f"the dataset name {dataset[:80]!r} must be 1 to 60 of a-z, 0-9, _ and -, beginning with a letter or digit")


def inside(root: Place, path: Place) -> None:
    """BadInput when a link leads from a folder below the destination to one outside of it; an object store has no links."""
    if isinstance(path, Path) and isinstance(root, Path) and not path.resolve().is_relative_to(root.resolve()):
        raise BadInput(f"{path} is a link that leads out of {root}: nothing is written there; remove the link")


def latest(home: Place) -> str | None:
    """What `<home>/LATEST` says, if it stands for a version."""
    try:
        name = (home / "LATEST").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError):
        return None
    return name if _number(name) else None


def _number(version: str) -> int:
    return int(version[1:]) if re.fullmatch(r"v[1-9][0-9]{0,8}", version) else 0


@dataclass(frozen=True)
class Release:
    """A published (or quarantined) folder and its manifest."""

    folder: Place
    manifest: Mapping[str, Any]
    dataset: str
    version: str  # v3; for a quarantined release its time
    rows: int
    created: datetime

    @classmethod
    def of(cls, folder: Place, manifest: Mapping[str, Any]) -> Release:
        """A folder with its manifest. KeyError, TypeError or ValueError when the manifest lacks what a release has."""
        for file in manifest["files"]:
            _ = file["path"], file["bytes"], file["sha256"]
        created = datetime.fromisoformat(manifest["created"])
        return cls(folder, manifest, str(manifest["dataset"]), str(manifest["version"]), int(manifest["rows"]), created)

    @property
    def number(self) -> int:
        """3 for `v3`; 0 for a quarantined release."""
        return _number(self.version)

    @property
    def verdict(self) -> str:
        """`passed` or `rejected`."""
        return "rejected" if _marked(self.folder) == "_REJECTED" else "passed"

    @property
    def headline(self) -> str:
        """The utility in one line."""
        return headline(self.manifest)

    @property
    def data(self) -> Place:
        """The folder that readers of parquet are pointed at: it holds nothing else."""
        return self.folder / "data"

    @property
    def model(self) -> Place:
        """The folder of the fitted model, which need not exist."""
        return self.folder / "model"

    def verify(self) -> None:
        """BadInput unless every file is there with the size and digest that the manifest states, and the data holds no other."""
        listed = {f["path"]: f for f in self.manifest["files"]}
        for name, facts in listed.items():
            path = self.folder / name
            if not path.resolve().is_relative_to(self.folder.resolve()):  # type: ignore[arg-type]
                raise BadInput(f"{self.folder}: the manifest names a file outside the release")
            if not path.is_file() or size(path) != facts["bytes"] or sha256(path) != facts["sha256"]:
                raise BadInput(f"{path} is missing or not as it was published: take another copy of the release")
        if extra := sorted({f"data/{p.name}" for p in self.data.iterdir()} - set(listed)):
            raise BadInput(f"{self.folder / extra[0]} does not belong to the release: remove it")


def open_release(path: Place | str, *, verify: bool = False) -> Release:
    """The release in a version's folder, or the current one of a dataset's folder. BadInput for anything else."""
    folder = place(path)
    if not (folder / "release.json").is_file():
        name = latest(folder)
        if name is None and not (numbers := complete(folder)):
            raise BadInput(f"{folder} is not a release: give the folder of a dataset or of one of its versions")
        folder = folder / (name or f"v{numbers[-1]}")
    if not _marked(folder):
        raise BadInput(f"{folder} is not a complete release: it lacks _SUCCESS")
    try:
        text = (folder / "release.json").read_bytes()
        release = Release.of(folder, json.loads(text))
        sealed = (folder / _marked(folder)).read_text(encoding="utf-8").strip()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise BadInput(f"{folder / 'release.json'} is damaged: take another copy of the release") from None
    if hashlib.sha256(text).hexdigest() != sealed:
        raise BadInput(f"{folder / 'release.json'} is not as it was published: take another copy of the release")
    if verify:
        release.verify()
    return release


def releases(root: Place | str) -> list[Release]:
    """All complete releases below `root`, by dataset and version; what is half there or damaged is not listed."""
    found = []
    for folder in place(root).glob("*/v*"):
        if folder.parent.name[0] not in "._" and _number(folder.name) and _marked(folder) == "_SUCCESS":
            with suppress(BadInput):
                found.append(open_release(folder))
    return sorted(found, key=lambda r: (r.dataset, r.number))


def _marked(folder: Place) -> str:
    return next((mark for mark in ("_SUCCESS", "_REJECTED") if (folder / mark).is_file()), "")
