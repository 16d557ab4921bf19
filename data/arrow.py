"""Between Arrow's types and plain numbers and strings."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import BadInput

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
DAY = 86_400_000_000  # microseconds


def to_numbers(values: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """float64 [n] of a numeric or time column: microseconds since 1970 for times; NaN where null."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if (pa.types.is_duration(kind) or pa.types.is_time(kind)) and kind.unit == "ns":
        return to_numbers(values.cast(pa.int64())) / 1000
    if pa.types.is_date(kind):
        values = values.cast(pa.timestamp("us")).cast(pa.int64())
    elif pa.types.is_timestamp(kind):
        values = values.cast(pa.timestamp("us", tz=kind.tz), safe=False).cast(pa.int64())
    elif pa.types.is_duration(kind):
        values = values.cast(pa.duration("us"), safe=False).cast(pa.int64())
    elif pa.types.is_time(kind):
        values = values.cast(pa.time64("us"), safe=False).cast(pa.int64())
    return np.asarray(
        values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        if isinstance(values, pa.Array)
        else values.cast(pa.float64(), safe=False).to_numpy(),
        dtype=np.float64,
    )


def wall(numbers: np.ndarray, zone: str) -> np.ndarray:
    """float64 [n]: what a clock in the zone shows at these microseconds since 1970 (UTC), NaN kept."""
    null = np.isnan(numbers)
    times = pa.array(np.rint(np.where(null, 0, numbers)).astype(np.int64)).cast(pa.timestamp("us", zone))
    return np.where(null, np.nan, pc.local_timestamp(times).cast(pa.int64()).to_numpy().astype(np.float64))


def instant(clock: np.ndarray, zone: str, near: np.ndarray) -> np.ndarray:
    """The inverse of `wall`, float64 [n]: an hour that a zone has twice is the one nearer to `near`, one that it skips is the next."""
    times = pa.array(np.rint(clock).astype(np.int64)).cast(pa.timestamp("us"))
    first, last = (
        pc.assume_timezone(times, zone, ambiguous=which, nonexistent="latest").cast(pa.int64()).to_numpy().astype(np.float64)
        for which in ("earliest", "latest")
    )
    return np.where(np.abs(last - near) < np.abs(first - near), last, first)


def to_strings(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    """string [n] of a category column: one contiguous array."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return cast(array, pa.string())


def cast(values: Any, kind: pa.DataType) -> Any:
    """Arrow's cast, dictionaries resolved first."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    return values if values.type == kind else values.cast(kind)


def parse_type(name: str) -> pa.DataType:
    """The Arrow type that `str(type)` wrote."""
    if match := re.fullmatch(r"(timestamp|duration|time32|time64)\[(\w+)(?:, tz=([^\]]+))?\]", name):
        make, unit, zone = match.groups()
        return pa.timestamp(unit, zone) if make == "timestamp" else getattr(pa, make)(unit)
    if match := re.fullmatch(r"(decimal32|decimal64|decimal128|decimal256)\((\d+), (-?\d+)\)", name):
        return getattr(pa, match[1])(int(match[2]), int(match[3]))
    if match := re.fullmatch(r"date(32|64)\[\w+\]", name):
        return pa.date32() if match[1] == "32" else pa.date64()
    if name == str(IMAGE_TYPE):
        return IMAGE_TYPE
    try:
        return pa.type_for_alias(name)
    except ValueError:
        raise BadInput(f"the schema names an unknown type: {name[:80]!r}") from None


def hf_dtype(kind: pa.DataType) -> str:
    """Hugging Face's name of a plain type."""
    return {"double": "float64", "float": "float32", "halffloat": "float16"}.get(str(kind), str(kind))


def fingerprint(table: pa.Table) -> str:
    """16 hex digits of the table's names, types and values, whatever its chunks."""
    sink = hashlib.sha256()
    for name in table.column_names:
        sink.update(f"{name}\0{table[name].type}\0".encode())
        column = table[name]
        column = (column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column).combine_chunks()
        column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
        column = column.take(pa.array(np.arange(len(column))))  # fresh buffers: nothing hides below nulls or beyond the end
        batch = pa.record_batch([pa.array([]).cast(column.type) if len(column) == 0 else column], names=["c"])
        sink.update(batch.serialize())
    return sink.hexdigest()[:16]
