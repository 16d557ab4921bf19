"""Where real tables come from: one file a source, all of them returning Arrow tables of plain values, of images and of texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from data import stores
from data.arrow import fingerprint
from data.errors import BadInput, suggest
from data.infer import check_names
from data.memory import available, gib
from data.schema import Task
from data.sources import builtin
from data.sources.builtin import Builtin
from data.sources.sampling import Sample
from data.stores import Place

if TYPE_CHECKING:
    from data.sources.images import Fit, Found

TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
IN_MEMORY = 8  # bytes for each byte of a text file that is read at once
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
    of: int | None = None  # rows, where the table is a sample of more
    digest: str = ""  # of all of them

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the content."""
        return self.digest or fingerprint(self.table)


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
    rows: int | None = None,
) -> Source:
    """What `spec` names: a built-in dataset, a file, a folder, the URL of one in an object store, or a SQLAlchemy URL.

    Files are .csv, .tsv, .txt, .jsonl, .ndjson, .json, .parquet, .po and .mo; folders are of parquet files, of images, or of .po and .mo.

    A built-in name always means the built-in: write `./diamonds` for a folder of that name. `query` belongs to a URL,
    `delimiter` and `encoding` to a text file, `size` (32 or "48x32") and `crop` to images; `kinds` tells masks from images where a column's
    name does not. Of more than `rows` rows in parquet, in a database or in a large text file a uniform sample of so many is read, in
    bounded memory. BadInput says in one sentence what cannot be read and why.
    """
    from data.sources import images, messages, parquet

    if stores.remote(spec):
        return read_remote(spec, delimiter=delimiter, encoding=encoding, size=size, crop=crop, kinds=kinds, rows=rows)
    if query is not None and ("://" not in spec or stores.remote(spec)):
        raise BadInput("a query belongs to a database URL such as sqlite:///shop.db; leave it out for anything else")
    fit = images.Fit.of(size, crop)
    if spec in builtin.CATALOGUE:
        return read_builtin(spec, fit)
    if "://" in spec:
        from data.sources import sql

        sample = Sample(rows)
        source = sampled(Source(slug(sql.name(spec)), sql.read(spec, query, sample)), sample)
    elif (path := existing(spec)).is_dir() and not parquet.parts(path) and not messages.files(path):
        found = images.read(path, fit)
        return with_images(Source(path_name(path), found.table), found)
    else:
        source = read_file(path, delimiter, encoding, rows)
    check_names(source.table.column_names)
    return with_images(source, images.refit(source.table, fit, kinds or {}, spec))


def read_remote(spec: str, *, rows: int | None, **how: Any) -> Source:
    """What lies in an object store: parquet in a stream, anything else by way of a copy on this machine."""
    from data.sources import parquet

    path = stores.place(spec)
    if not path.exists():
        raise BadInput(f"there is nothing at {path}: check the URL")
    if path.suffix.lower() == ".parquet" or parquet.parts(path):
        sample = Sample(rows)
        return sampled(Source(path_name(path), parquet.read(path, sample)), sample)
    with TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        stores.fetch(path, copy)
        try:
            return read(str(copy), rows=rows, **how)
        except BadInput as error:
            raise BadInput(str(error).replace(str(copy), str(path))) from None


def sampled(source: Source, sample: Sample) -> Source:
    """A source that says of what its table is a sample."""
    return replace(source, notes=(*source.notes, *sample.notes), of=None if sample.whole else sample.total, digest=sample.digest)


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


def read_file(path: Path, delimiter: str | None, encoding: str | None, rows: int | None) -> Source:
    """A parquet file, a folder of them, catalogues of messages, records, or a text file."""
    from data.sources import delimited, images, messages, parquet, records

    suffix = path.suffix.lower()
    if suffix in messages.SUFFIXES or (path.is_dir() and not parquet.parts(path)):
        table, notes = messages.read(path)
        return Source(path_name(path), table, "target", messages.KINDS, notes, task="translation")
    if path.is_dir() or suffix == ".parquet" or (suffix not in TEXT_SUFFIXES and parquet.is_parquet(path)):
        sample = Sample(rows)
        return sampled(Source(path_name(path), parquet.read(path, sample)), sample)
    if suffix in images.SUFFIXES:
        raise BadInput(f"{path} is one image: give the folder of all of them")
    if suffix not in records.SUFFIXES and rows is not None and path.stat().st_size > delimited.LARGE:
        sample = Sample(rows)
        table, notes = delimited.stream(path, sample, delimiter=delimiter, encoding=encoding)
        return sampled(Source(path_name(path), table, notes=notes), sample)
    need, free = IN_MEMORY * path.stat().st_size, available()
    if need > free:
        raise BadInput(f"{path} may take {gib(need)} of memory and {gib(free)} are free: write it as parquet, which is read in a stream")
    if suffix in records.SUFFIXES:
        table, notes = records.read(path, encoding=encoding)
        return Source(path_name(path), table, notes=notes)
    table, notes = delimited.read(path, delimiter=delimiter, encoding=encoding)
    return Source(path_name(path), table, notes=notes)


def path_name(path: Place) -> str:
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
