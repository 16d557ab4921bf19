"""How far a table has moved from the one that a model was learnt from, told by statistics in which no row can be found.

    reference   of each column the shares of its bins, and of its bins by those of the target: numbers in tenths, categories, levels of
                grey, words of texts
    drift       half of the sum of differences of shares (total variation, 0 to 1), beyond what chance makes of so many rows      (1)

Bins end at rounded values, shares are rounded, and what fewer than `RARE` rows have counts as what nobody has; rare categories and rare
words have no bin of their own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from data.images import decoded, encoded
from data.schema import RARE, Column, Dataset, Schema
from data.texts import words

PARTS, NAMED = 10, 20  # bins of a quantity; of a category, the others are one more
LOOK = 5_000  # images and texts that are looked at
BUCKETS = 64  # of words


def reference(data: Dataset) -> dict[str, Any]:
    """The statistics of a table, as JSON: {"rows", "columns": {name: {"bins", "shares"}}, "pairs": {name: shares}}."""
    columns: dict[str, Any] = {}
    for column in data.schema.columns:
        if column.kind not in ("id", "mask"):
            columns[column.name] = {"bins": bins(column, data)}
    codes = {name: coded(data.schema[name], data, known["bins"]) for name, known in columns.items()}
    for name, known in columns.items():
        known["shares"] = shares(codes[name], size(data.schema[name], known["bins"]))
    pairs = {name: shares(code, width) for name, (code, width) in joint(data.schema, columns, codes).items()}
    return {"rows": len(data), "columns": columns, "pairs": pairs}


def drift(known: Mapping[str, Any], data: Dataset) -> dict[str, Any]:
    """How far the data is from a reference: {"value": the largest, "columns": [{"name", "with", "value"}, worst first]}.

    KeyError, TypeError or ValueError when the reference does not belong to such a schema.
    """
    codes = {name: coded(data.schema[name], data, part["bins"]) for name, part in known["columns"].items()}
    rows = []
    for name, part in known["columns"].items():
        rows.append({"name": name, "with": None, "value": moved(part["shares"], codes[name], known["rows"])})
    for name, (code, _) in joint(data.schema, known["columns"], codes).items():
        rows.append({"name": name, "with": data.schema.target, "value": moved(known["pairs"][name], code, known["rows"])})
    rows.sort(key=lambda row: -row["value"])
    return {"value": rows[0]["value"] if rows else 0.0, "columns": rows}


def moved(before: list[float], code: np.ndarray, rows: int) -> float:
    """(1) between shares [b] of so many rows and the bins int64 [n] of others."""
    p, q = np.array(before), np.array(shares(code, len(before)))
    if len(q) != len(p):
        raise ValueError("other bins")
    mean = (p * rows + q * len(code)) / max(1, rows + len(code))
    chance = np.sqrt(2 / math.pi * mean * (1 - mean) * (1 / max(1, rows) + 1 / max(1, len(code))))
    return round(float(max(0.0, 0.5 * (np.abs(p - q).sum() - chance.sum()))), 4)  # (1)


def shares(code: np.ndarray, width: int) -> list[float]:
    """The share of each of `width` bins, to three places; 0 for fewer than `RARE`."""
    counts = np.bincount(code, minlength=width)
    return np.round(np.where(counts < RARE, 0, counts) / max(1, len(code)), 3).tolist()


def joint(schema: Schema, columns: Mapping[str, Any], codes: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, int]]:
    """The bins of each column by those of the target, int64 [n], and their number; of columns of single values alone."""
    target = schema.target
    if target is None or target not in columns or schema[target].kind in ("image", "text"):
        return {}
    wide = size(schema[target], columns[target]["bins"])
    found = {}
    for name, code in codes.items():
        if name != target and schema[name].kind not in ("image", "text"):
            found[name] = code * wide + codes[target], wide * size(schema[name], columns[name]["bins"])
    return found


def bins(column: Column, data: Dataset) -> list[Any]:
    """Where a column's bins end, or which categories have one."""
    if column.is_number:
        numbers = column.numbers(data.table[column.name])
        numbers = numbers[~np.isnan(numbers)]
        parts = max(1, min(PARTS, len(numbers) // (2 * RARE)))
        cuts = np.quantile(numbers, np.arange(1, parts) / parts) if len(numbers) else np.zeros(0)
        unit = 10.0 ** (math.floor(math.log10((column.high or 0) - (column.low or 0) or 1)) - 2)
        return np.unique(np.round(cuts / unit) * unit).tolist()
    if column.kind in ("category", "boolean"):
        seen = column.strings(data.table[column.name]).drop_null().value_counts()
        often = sorted(((-n.as_py(), value.as_py()) for value, n in zip(seen.field("values"), seen.field("counts"), strict=True)))
        return [value for _, value in often[:NAMED] if value in set(column.categories)]
    return []


def size(column: Column, known: list[Any]) -> int:
    """How many bins there are: the last is for nulls, or for all that has no bin of its own."""
    return BUCKETS if column.kind in ("image", "text") else len(known) + 2


def coded(column: Column, data: Dataset, known: list[Any]) -> np.ndarray:
    """int64, the bin of each value; of images each pixel's, of texts each word's."""
    values = data.table[column.name]
    if column.is_number:
        numbers = column.numbers(values)
        return np.where(np.isnan(numbers), len(known) + 1, np.searchsorted(np.array(known, dtype=float), numbers, side="right"))
    if column.kind == "image":
        some = range(0, len(data), max(1, -(-len(data) // LOOK)))
        cells = list(encoded(values))
        return np.concatenate(
            [(decoded(cells[i], i).ravel() // (256 // BUCKETS)).astype(np.int64) for i in some] or [np.zeros(0, np.int64)]
        )
    if column.kind == "text":
        some = values.take(pa.array(range(0, len(data), max(1, -(-len(data) // LOOK))))).to_pylist()
        return np.array([bucket(word) for text in some for word in words(text or "")], dtype=np.int64)
    place = {value: i for i, value in enumerate(known)}
    return np.array(
        [len(known) + (word is None) if word not in place else place[word] for word in column.strings(values).to_pylist()], np.int64
    )


def bucket(word: str) -> int:
    """Which of the `BUCKETS` a word is counted in."""
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "big") % BUCKETS
