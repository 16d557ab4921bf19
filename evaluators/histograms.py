"""Histograms that may be published: what a plot needs to lay a synthetic column over a real one, and no real row.

Only shares leave this room, rounded to a thousandth; a bin that fewer than `RARE` real rows share shows none; bins of numbers end at
rounded percentiles, never at an extreme, and what lies beyond counts in the last bin; only published categories have a name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.arrow import DAY
from data.infer import round_outwards
from data.schema import RARE, Column, Dataset

BINS = 24
COARSE = 8  # bins a side where two columns meet
OTHER, NULL = "other", "null"


def column_plot(column: Column, real: Dataset, synthetic: Dataset) -> dict[str, Any]:
    """{"name", "kind", "edges" | "labels", "real": [shares], "synthetic": [shares], "null": {"real", "synthetic"}}.

    n + 1 `edges` or n `labels` for n shares; dates have edges in microseconds since 1970 and "edge_labels" for people. Nulls have
    their own share and are none of the bins.
    """
    place, labels, edges = places(column, real, BINS)
    counts = [np.bincount(place(data) + 1, minlength=len(labels) + 1) for data in (real, synthetic)]
    shares = [public(count, data, hide=data is real) for count, data in zip(counts, (real, synthetic), strict=True)]
    plot: dict[str, Any] = {"name": column.name, "kind": column.kind}
    if edges is None:
        plot["labels"] = labels
    else:
        plot["edges"] = [float(edge) for edge in edges]
        if column.kind == "datetime":
            plot["edge_labels"] = [spelled(column, edge) for edge in edges]
    return plot | {
        "real": shares[0][1:].tolist(),
        "synthetic": shares[1][1:].tolist(),
        "null": {"real": float(shares[0][0]), "synthetic": float(shares[1][0])},
    }


def pair_plot(a: Column, b: Column, real: Dataset, synthetic: Dataset) -> dict[str, Any]:
    """{"a", "b", "x": labels of a, "y": labels of b, "real": shares [x][y], "synthetic": shares [x][y]}; nulls are a label of their own."""
    (place_a, x, _), (place_b, y, _) = (places(column, real, COARSE) for column in (a, b))
    tables = []
    for data in (real, synthetic):
        rows, columns = place_a(data) % (len(x) + 1), place_b(data) % (len(y) + 1)  # null, -1, becomes the last
        counts = np.bincount(rows * (len(y) + 1) + columns, minlength=(len(x) + 1) * (len(y) + 1))
        tables.append(public(counts, data, hide=data is real).reshape(len(x) + 1, len(y) + 1).tolist())
    return {"a": a.name, "b": b.name, "x": [*x, NULL], "y": [*y, NULL], "real": tables[0], "synthetic": tables[1]}


def public(counts: np.ndarray, data: Dataset, hide: bool) -> np.ndarray:
    """Shares to a thousandth; those of fewer than `RARE` rows are zero when `hide` is set."""
    return np.round(np.where(counts < RARE, 0, counts) / max(1, len(data)) if hide else counts / max(1, len(data)), 3)


Place = Callable[[Dataset], np.ndarray]  # int [n]: the bin of each row, -1 where null


def places(column: Column, real: Dataset, most: int) -> tuple[Place, list[str], np.ndarray | None]:
    """Where rows fall: a function, the bins' labels, and for numbers their edges; about `most` bins."""
    if not column.is_number:
        return category_places(column, real, most)
    edges = safe_edges(column, column.numbers(real.table[column.name]), most)

    def place(data: Dataset) -> np.ndarray:
        values = column.numbers(data.table[column.name])
        return np.where(np.isnan(values), -1, np.searchsorted(edges[1:-1], values, "right"))

    half = column.step / 2  # the edges of a grid stand between its values
    spans = [(spelled(column, a + half), spelled(column, b - half)) for a, b in pairwise(edges)]
    return place, [a if a == b else f"{a} to {b}" for a, b in spans], edges


def category_places(column: Column, real: Dataset, most: int) -> tuple[Place, list[str], None]:
    """The most frequent published categories, in their order where they have one; whatever else is "other"."""
    strings = column.strings(real.table[column.name])
    found = pc.index_in(strings, pa.array(column.categories, pa.string()), skip_nulls=True).drop_null().to_numpy()
    frequent = np.argsort(-np.bincount(found, minlength=len(column.categories)), kind="stable")[:most]
    kept = [column.categories[i] for i in (np.sort(frequent) if column.ordered else frequent)]

    def place(data: Dataset) -> np.ndarray:
        strings = column.strings(data.table[column.name])
        index = pc.fill_null(pc.index_in(strings, pa.array(kept, pa.string()), skip_nulls=True), len(kept))
        return np.where(strings.is_null().to_numpy(zero_copy_only=False), -1, index.to_numpy(zero_copy_only=False))

    return place, [*kept, OTHER], None


def safe_edges(column: Column, values: np.ndarray, most: int) -> np.ndarray:
    """float64: bounds of equal bins between the 1st and the 99th percentile, rounded outwards and put between the steps of a grid."""
    values = values[~np.isnan(values)]
    low, high = round_outwards(np.quantile(values, [0.01, 0.99]), column.step) if len(values) else (0.0, 1.0)
    if not column.step:
        return (
            np.array([float(f"{edge:.6g}") for edge in np.linspace(low, high, most + 1)])
            if high > low
            else np.array([low - 0.5, low + 0.5])
        )
    width = max(1, math.ceil(((high - low) / column.step + 1) / most)) * column.step
    return low - column.step / 2 + width * np.arange(math.floor((high - low + column.step / 2) / width) + 2)


def spelled(column: Column, number: float) -> str:
    """A number or a date for people."""
    if column.kind != "datetime":
        return f"{number:.6g}"
    moment = np.datetime64(int(number), "us")
    return str(np.datetime_as_string(moment, unit="D" if column.step >= DAY else "m"))
