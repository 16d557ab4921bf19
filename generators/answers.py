"""Nulls of rows of texts and images, filled: the likeliest label, what a text answers, the image that a caption tells of, a drawing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from data.errors import BadInput
from data.images import column
from data.schema import Column, Dataset
from data.styles import photos, source_of
from generators.base import Answering, Naming, Translating

if TYPE_CHECKING:
    from generators.fitted import Fitted

Way = Literal["label", "last", "others", "style"]
LABELS = ("category", "boolean")


def answered(fitted: Fitted, data: Dataset, seed: int) -> Dataset:
    """The data without nulls. BadInput for a row that lacks what cannot be made of the rest of it, or that is too long."""
    table, able = data.table, fillable(fitted)
    empty = np.stack([table[name].is_null().to_numpy() for name in table.column_names], axis=1)
    for lacks in np.unique(empty, axis=0):
        rows, missing = np.flatnonzero((empty == lacks).all(axis=1)), frozenset(np.array(table.column_names)[lacks].tolist())
        if missing and missing not in able:
            can = " or ".join(" and ".join(map(repr, sorted(names))) for names in able) or "nothing"
            raise BadInput(
                f"row {rows[0]} lacks {' and '.join(map(repr, sorted(missing)))}; the model fills {can}, where the rest is there"
            )
        if missing:
            made = filled(fitted, data.take(rows), missing, able[missing], seed)
            place = np.arange(len(table))
            place[rows] = len(table) + np.arange(len(rows))
            for name in missing:
                both = pa.chunked_array([*table[name].chunks, *made[name].chunks], table[name].type)
                table = replaced(table, name, both.take(pa.array(place)))
    return Dataset(data.schema, table.combine_chunks())


def fillable(fitted: Fitted) -> dict[frozenset[str], Way]:
    """The columns that a row may lack together: its label, its last text, what stands beside that, or an image in another style."""
    columns, target, found = fitted.read.columns, fitted.read.target, dict[frozenset[str], Way]()
    if isinstance(fitted.generator, Translating) and target:
        found |= {frozenset({target}): "style"}
    if isinstance(fitted.generator, Naming):
        found |= {frozenset({c.name}): "label" for c in columns if c.kind in LABELS}
    parts = frozenset(c.name for c in columns if c.kind in ("text", "image"))
    if isinstance(fitted.generator, Answering) and len(parts) > 1:
        last = max((c for c in columns if c.kind == "text"), key=lambda c: c.name == target).name
        found |= {frozenset({last}): "last", parts - {last}: "others"}
    return found


def filled(fitted: Fitted, data: Dataset, missing: frozenset[str], way: Way, seed: int) -> pa.Table:
    """The rows, which all lack these columns, with them: labels and texts are the likeliest, images are drawn."""
    table, schema, rng = data.table, fitted.read, np.random.default_rng(0)
    if way == "style":
        return pa.table({str(schema.target): fitted.translate(photos(data)).table[source_of(schema).name]})
    for name in missing:
        table = replaced(table, name, pa.chunked_array([blank(schema[name], len(data))]))
    x, y = fitted.codec.encode(Dataset(schema, table), rng)
    if len(y) < len(data):
        raise BadInput(
            f"{len(data) - len(y):,} of {len(data):,} rows are longer than any that the model has learnt from: shorten their texts"
        )
    if way == "label":
        assert isinstance(fitted.generator, Naming)
        return fitted.codec.decode((x, fitted.generator.posterior(fitted.net, x).argmax(1)), rng, start=0, seed=0).table
    drawn = any(schema[name].kind == "image" for name in missing)
    return fitted.answer(Dataset(schema, table), seed=seed if drawn else None, back=way == "others").table


def replaced(table: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    """The table with other values in a column."""
    place = table.column_names.index(name)
    return table.set_column(place, table.schema.field(name), values)


def blank(what: Column, n: int) -> pa.Array:
    """n values of a column that say nothing."""
    if what.kind == "image":
        assert what.size
        return column([np.zeros(what.size, dtype=np.uint8)] * n)
    return pa.array(["" if what.kind == "text" else what.categories[0]] * n, pa.string()).cast(what.arrow)
