"""Where real tables come from: one file a source, all of them returning Arrow tables of plain values."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from data.arrow import fingerprint
from data.errors import BadInput, suggest
from data.infer import check_names
from data.sources import builtin
from data.sources.builtin import Builtin

TEXT_SUFFIXES = (".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class Source:
    """A real table with its short name, what is known about it beforehand, and notes on how it was read."""

    name: str
    table: pa.Table
    target: str | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the content."""
        return fingerprint(self.table)


def catalogue() -> dict[str, Builtin]:
    """The built-in real datasets by name; loads nothing."""
    return dict(builtin.CATALOGUE)


def read(spec: str, *, query: str | None = None, delimiter: str | None = None, encoding: str | None = None) -> Source:
    """The table that `spec` names: a built-in dataset, a .csv/.tsv/.txt file, a parquet file or folder, or a SQLAlchemy URL.

    A built-in name always means the built-in: write `./diamonds` for a folder of that name. `query` belongs to a URL,
    `delimiter` and `encoding` to a text file. BadInput says in one sentence what cannot be read and why.
    """
    if query is not None and "://" not in spec:
        raise BadInput("a query belongs to a database URL such as sqlite:///shop.db; leave it out for files and built-in datasets")
    if spec in builtin.CATALOGUE:
        entry = builtin.CATALOGUE[spec]
        return Source(spec, builtin.load(spec), entry.target, entry.kinds, (f"built-in: {entry.description}",))
    if "://" in spec:
        from data.sources import sql

        source = Source(slug(sql.name(spec)), sql.read(spec, query))
    else:
        source = read_path(spec, delimiter, encoding)
    check_names(source.table.column_names)
    return source


def read_path(spec: str, delimiter: str | None, encoding: str | None) -> Source:
    """A file or a folder on this machine."""
    from data.sources import delimited, parquet

    path = Path(spec).expanduser()
    try:
        exists, folder = path.exists(), path.is_dir()
        if exists and not folder and not path.is_file():
            raise BadInput(f"{spec[:200]} is neither a file nor a folder")
    except (OSError, ValueError):
        raise BadInput(f"{spec[:60]!r} is neither a built-in dataset nor a path that can be opened") from None
    suffix = path.suffix.lower()
    if not exists:
        if suffix in (*TEXT_SUFFIXES, ".parquet") or len(path.parts) > 1:
            raise BadInput(f"the file {spec[:200]} does not exist: check the path")
        raise BadInput(f"there is no file and no built-in dataset called {spec[:60]!r}{suggest(spec[:60], list(builtin.CATALOGUE))}")
    if folder and suffix in TEXT_SUFFIXES:
        raise BadInput(f"{spec} is a folder where a text file is expected: give the file in it")
    if folder or suffix == ".parquet" or (suffix not in TEXT_SUFFIXES and parquet.is_parquet(path)):
        return Source(path_name(path), parquet.read(path))
    table, notes = delimited.read(path, delimiter=delimiter, encoding=encoding)
    return Source(path_name(path), table, notes=notes)


def path_name(path: Path) -> str:
    """A dataset's name from its path: the first of stem, folder, folder's folder that says more than `train`, `data` or `v3`."""
    stem = re.sub(r"-\d+-of-\d+$", "", path.name if path.is_dir() else path.stem)
    if not re.fullmatch(r"train|data", stem, re.IGNORECASE) and not (path.is_dir() and re.fullmatch(r"v\d+", stem)):
        return slug(stem)
    parents = [part for part in reversed(path.parts[:-1]) if part not in ("/", ".", "..")]
    return slug(next((part for part in parents[:3] if not re.fullmatch(r"data|v\d+", part, re.IGNORECASE)), stem))


def slug(name: str) -> str:
    """Any text as a dataset's name: lower-case [a-z0-9_-], 1 to 60 characters, beginning with a letter or digit."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_-]+", "-", plain).strip("-_")[:60].rstrip("-_") or "dataset"
