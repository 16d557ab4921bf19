"""Rows of two images: a photograph, one in another style, and what is known of the photograph, its label or its mask.

    image   style (kind image)   label or mask      pairs: the second shows what the first shows
    image   style (kind style)   label or mask      no pairs: the second stands beside the first by chance, and may be missing

A release holds neither photographs nor paintings but what a generator makes of photographs, with what is known of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from data.schema import Column, Dataset, Schema, Split


class Sides(NamedTuple):
    """What synthetic rows are held against: what judges learn on, what they should look like, and what they must not give away."""

    known: Split
    like: Split
    private: Split


def sides(real: Split) -> Sides:
    """All the same rows, but for the task image to image: pairs of the target's style or else photographs, images in it, photographs."""
    if real.train.schema.task != "image-to-image":
        return Sides(real, real, real)
    source, target = (Split(*map(side, real)) for side in (photos, styles))
    return Sides(target if paired(real.train.schema) else source, target, source)


def paired(schema: Schema) -> bool:
    """Does the image in the other style show what the photograph shows?"""
    return schema.target is not None and schema[schema.target].kind == "image"


def source_of(schema: Schema) -> Column:
    """The column of photographs."""
    return next(c for c in schema.columns if c.kind == "image" and c.name != schema.target)


def photos(data: Dataset) -> Dataset:
    """The photographs with what is known of them, as rows of a release."""
    return Dataset.of(data.table, data.schema.drawn)


def styles(data: Dataset) -> Dataset:
    """The images in the other style, as rows of a release; without what is known of photographs unless they show them."""
    schema, target = data.schema.drawn, data.schema.target
    assert target is not None, "there is a style to draw in"
    name = source_of(data.schema).name
    table = data.table.set_column(data.table.column_names.index(name), name, data.table[target])
    if paired(data.schema):
        return Dataset.of(table, schema)
    alone = replace(schema, task="density", target=None, columns=(schema[name],))
    return Dataset.of(table.take(pa.array(np.flatnonzero(data.table[target].is_valid()))), alone)
