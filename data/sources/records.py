"""JSON: a record a line (.jsonl, .ndjson), or one list of records (.json).

Texts are kept as they are written, spaces and all. A column has one type throughout; whole numbers and decimals together are decimals,
texts that are ISO dates throughout become dates. Nothing is flattened: a value that is itself a list or a record is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.errors import BadInput
from data.infer import check_names
from data.sources.delimited import MAX_LINE, by_words, decoded, iso_times

SUFFIXES = (".jsonl", ".ndjson", ".json")
MOST_COLUMNS = 2_000
NAMES = {str: "text", bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "a record"}


def read(path: Path, *, encoding: str | None = None) -> tuple[pa.Table, tuple[str, ...]]:
    """The table of a file of records, and notes. BadInput names the file and the line or record, never a value."""
    raw = path.read_bytes()
    text, encoding = decoded(path, raw.removeprefix(b"\xef\xbb\xbf"), encoding)
    if not text.strip():
        raise BadInput(f"{path} is empty: it holds no records")
    whole = path.suffix.lower() == ".json" and not text.lstrip().startswith("{")
    columns, rows = collected(path, listed(path, text) if whole else lines(path, text))
    check_names(list(columns))
    arrays = [array(path, name, cells, rows) for name, cells in columns.items()]
    return pa.table(arrays, names=list(columns)), ("one list of records" if whole else "a record a line", f"encoding {encoding}")


def lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Each line that is not empty: what it is called, and its value."""
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > MAX_LINE:
            raise BadInput(f"{path}: line {number:,} has more than {MAX_LINE:,} characters: it is no record of values")
        if line.strip():
            yield f"line {number:,}", value(path, f"line {number:,}", line)


def listed(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Each record of one list."""
    found = value(path, "", text)
    if not isinstance(found, list):
        raise BadInput(f"{path} is no list of records: write [{{…}}, {{…}}], or a record a line")
    for number, record in enumerate(found, 1):
        yield f"record {number:,}", record


def value(path: Path, where: str, text: str) -> Any:
    """One JSON value. BadInput for what is none, for a key that stands twice, and for half a surrogate pair."""
    at = f"{path}: {where}" if where else str(path)
    try:
        found = json.loads(text, object_pairs_hook=unique)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(found, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise BadInput(
            f"{at} is no JSON ({error.msg.lower()} at {error.lineno if not where else 'character'} {error.colno}): mend it"
        ) from None
    except UnicodeEncodeError:
        raise BadInput(f"{at} holds half of a surrogate pair (\\ud…), which is no character: mend it") from None
    except KeyError as error:
        raise BadInput(f"{at} has the key {str(error.args[0])[:40]!r} twice: leave one out") from None
    except (ValueError, RecursionError):
        raise BadInput(f"{at} holds a number or a nesting too long to be read: mend it") from None
    return found


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A record of these keys. KeyError for one that is there twice."""
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise KeyError(next(name for name in names if names.count(name) > 1))
    return record


def collected(path: Path, records: Iterator[tuple[str, Any]]) -> tuple[dict[str, list[tuple[int, str, Any]]], int]:
    """The cells of each column in the order in which they first occur: row, what it is called, and a value that is not null."""
    columns: dict[str, list[tuple[int, str, Any]]] = {}
    rows = 0
    for where, record in records:
        if not isinstance(record, Mapping):
            raise BadInput(f"{path}: {where} is {NAMES.get(type(record), 'null')} where a record {{…}} is expected")
        for name, cell in record.items():
            if isinstance(cell, list | dict):
                raise BadInput(f"{path}: {where} has {NAMES[type(cell)]} in {name[:60]!r}: flatten it into plain values, or leave it out")
            column = columns.setdefault(name, [])
            if cell is not None:
                column.append((rows, where, cell))
        if len(columns) > MOST_COLUMNS:
            raise BadInput(f"{path}: the records up to {where} have more than {MOST_COLUMNS:,} different keys: they are no table")
        rows += 1
    if not columns:
        raise BadInput(f"{path} holds no records with values")
    return columns, rows


def array(path: Path, name: str, cells: list[tuple[int, str, Any]], rows: int) -> pa.ChunkedArray:
    """A column [rows] of one type. BadInput names two places where the types differ."""
    values: list[Any] = [None] * rows
    for row, where, cell in cells:
        if NAMES[type(cell)] != NAMES[type(cells[0][2])]:
            kinds = f"{NAMES[type(cells[0][2])]} in {cells[0][1]} and {NAMES[type(cell)]} in {where}"
            raise BadInput(f"{path}: {name[:60]!r} is {kinds}: make them alike")
        values[row] = cell
    if any(isinstance(cell, float) for _, _, cell in cells):
        values = [None if cell is None else float(cell) for cell in values]
    try:
        column = pa.chunked_array([pa.array(values)])
    except (pa.ArrowInvalid, OverflowError):
        raise BadInput(f"{path}: {name[:60]!r} holds a whole number of more than 64 bits: write it as text") from None
    return (by_words(column, iso_times) if pa.types.is_string(column.type) else None) or column
