"""Where real tables come from: one file a source, all of them returning Arrow tables of plain values, of images and of texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from data.arrow import fingerprint
from data.errors import BadInput, suggest
from data.infer import check_names
from data.schema import Task
from data.sources import builtin
from data.sources.builtin import Builtin

if TYPE_CHECKING:
    from data.sources.images import Fit, Found

TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
FILE_SUFFIXES = (*TEXT_SUFFIXES, ".jsonl", ".ndjson", ".json", ".po", ".mo")


@dataclass(frozen=True)
class Source:
    """A real table with its short name, what is known about it beforehand, and notes on how it was read.

    `test` are rows that the source itself holds out, `task` is what its target is for.
    `skipped` says of each file that was left out why: it is for the screen alone.
    """

    name: str
    table: pa.Table
    target: str | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    test: pa.Table | None = None
    task: Task | None = None
    skipped: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the content."""
        return fingerprint(self.table)


def catalogue() -> dict[str, Builtin]:
    """The built-in real datasets by name; loads nothing."""
    return dict(builtin.CATALOGUE)


def read(
    spec: str,
    *,
    query: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    size: int | str | None = None,
    crop: bool = False,
    kinds: Mapping[str, str] | None = None,
) -> Source:
    """What `spec` names: a built-in dataset, a file, a folder, or a SQLAlchemy URL.

    Files are .csv, .tsv, .txt, .jsonl, .ndjson, .json, .parquet, .po and .mo; folders are of parquet files, of images, or of .po and .mo.

    A built-in name always means the built-in: write `./diamonds` for a folder of that name. `query` belongs to a URL,
    `delimiter` and `encoding` to a text file, `size` (32 or "48x32") and `crop` to images; `kinds` tells masks from images where a column's
    name does not. BadInput says in one sentence what cannot be read and why.
    """
    from data.sources import images, messages, parquet

    if query is not None and "://" not in spec:
        raise BadInput("a query belongs to a database URL such as sqlite:///shop.db; leave it out for files and built-in datasets")
    fit = images.Fit.of(size, crop)
    if spec in builtin.CATALOGUE:
        return read_builtin(spec, fit)
    if "://" in spec:
        from data.sources import sql

        source = Source(slug(sql.name(spec)), sql.read(spec, query))
    elif (path := existing(spec)).is_dir() and not parquet.parts(path) and not messages.files(path):
        found = images.read(path, fit)
        return with_images(Source(path_name(path), found.table), found)
    else:
        source = read_file(path, delimiter, encoding)
    check_names(source.table.column_names)
    return with_images(source, images.refit(source.table, fit, kinds or {}, spec))


def read_builtin(name: str, fit: Fit) -> Source:
    """A built-in dataset, its images brought to a size that is asked for."""
    from data.sources import images

    entry = builtin.CATALOGUE[name]
    table, test = builtin.load(name)
    source = Source(name, table, entry.target, entry.kinds, (f"built-in: {entry.description}",), test, entry.task)
    if fit.size is None:
        return source
    held = test and images.refit(test, fit, {}, name).table
    return replace(with_images(source, images.refit(table, fit, {}, name)), test=held)


def with_images(source: Source, found: Found) -> Source:
    """A source whose images were read; their labels are categories."""
    told = {"label": "category", "style": "style"} if found.target in ("label", "style") else {}
    kinds = {**source.kinds, **{name: kind for name, kind in told.items() if name in found.table.column_names}}
    notes = (*source.notes, *found.notes)
    return replace(source, table=found.table, target=source.target or found.target, kinds=kinds, notes=notes, skipped=found.skipped)


def existing(spec: str) -> Path:
    """A file or a folder on this machine. BadInput when there is none."""
    path = Path(spec).expanduser()
    try:
        exists, folder = path.exists(), path.is_dir()
        if exists and not folder and not path.is_file():
            raise BadInput(f"{spec[:200]} is neither a file nor a folder")
    except (OSError, ValueError):
        raise BadInput(f"{spec[:60]!r} is neither a built-in dataset nor a path that can be opened") from None
    suffix = path.suffix.lower()
    if not exists:
        if suffix in (*FILE_SUFFIXES, ".parquet") or len(path.parts) > 1:
            raise BadInput(f"the file {spec[:200]} does not exist: check the path")
        raise BadInput(f"there is no file and no built-in dataset called {spec[:60]!r}{suggest(spec[:60], list(builtin.CATALOGUE))}")
    if folder and suffix in FILE_SUFFIXES:
        raise BadInput(f"{spec} is a folder where a file is expected: give the file in it")
    return path


def read_file(path: Path, delimiter: str | None, encoding: str | None) -> Source:
    """A parquet file, a folder of them, catalogues of messages, records, or a text file."""
    from data.sources import delimited, images, messages, parquet, records

    suffix = path.suffix.lower()
    if suffix in messages.SUFFIXES or (path.is_dir() and not parquet.parts(path)):
        table, notes = messages.read(path)
        return Source(path_name(path), table, "target", messages.KINDS, notes, task="translation")
    if path.is_dir() or suffix == ".parquet" or (suffix not in TEXT_SUFFIXES and parquet.is_parquet(path)):
        return Source(path_name(path), parquet.read(path))
    if suffix in images.SUFFIXES:
        raise BadInput(f"{path} is one image: give the folder of all of them")
    if suffix in records.SUFFIXES:
        table, notes = records.read(path, encoding=encoding)
        return Source(path_name(path), table, notes=notes)
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
