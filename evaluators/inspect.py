"""The private page of a run: real data beside synthetic data, and the training rows that synthetic rows come nearest to.

It is for the owner of the real data alone: it stands in the run folder, and no release holds it. Images are compared by their pixels,
the root of the mean squared difference of values from 0 to 255; rows of tables by the root of the distance of `evaluators.privacy`; texts
by their words A and B, whatever their order:

    distance = 1 - |A and B| / |A or B|                                            (1)  Jaccard 1901
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from data.images import decoded, encoded
from data.schema import Column, Dataset, Split
from data.styles import sides
from data.texts import keys, words
from evaluators.pictures import TILES, both_ways, contact, grid, lined, of_kind, tiles, uri
from evaluators.privacy import nearest, points
from evaluators.protocol import capped
from evaluators.report import environment
from evaluators.samples import folded
from evaluators.tabular import judged_as, measured
from evaluators.values import clean

SHOWN = 12  # synthetic rows whose neighbours are shown
NEIGHBOURS = 4  # training images beside each
QUERIES, REFERENCES = 500, 20_000  # rows whose neighbours are looked for, and rows among which
BLOCK = 1_000  # images in memory at a time
SIDE = 64  # images with more pixels than its square are compared, and those of neighbours shown, at a smaller size
COLUMNS, LETTERS = 60, 80  # of a table that are shown
ASKED = 100  # texts that are compared with all training texts at a time


def inspect(
    real: Split,
    synthetic: Dataset,
    name: str,
    *,
    seed: int = 0,
    translate: Callable[[Dataset], Dataset] | None = None,
    asked: Mapping[str, Dataset] | None = None,
) -> str:
    """The private page as self-contained HTML: it holds real rows or images.

    `translate` draws photographs as the model does: the page then shows some of them with their drawings.
    `asked` are the first test rows with other images, "image", and with other captions, "caption".
    """
    real, rng = sides(real).private, np.random.default_rng([seed, 0x1257])
    train, test, made = (
        capped(Dataset.of(data.table, real.train.schema), rows, rng)
        for data, rows in ((real.train, REFERENCES), (real.test, QUERIES), (synthetic, QUERIES))
    )
    found: dict[str, Any] = {"name": name, "train": len(train), "made": len(made), "kind": judged_as(real.train.schema)}
    if found["kind"] in ("image", "multimodal"):
        found |= beside(real.train, synthetic) | images(train, test, made)
        found |= {"strip": strip(test.take(np.arange(min(len(test), TILES))), translate)} if translate else {}
        found |= {"asked": answered(real, asked)} if asked else {}
    elif found["kind"] == "text":
        found |= texts_beside(train, test, made) if len(train) and len(made) else {}
    elif measured(train.schema) and len(train) and len(test) and len(made):
        found |= rows_beside(train, test, made)
    return environment().get_template("inspect.html.j2").render(f=clean(found))


def ladder(distance: np.ndarray) -> list[int]:
    """Up to SHOWN positions from the nearest to the farthest, close to each other among the nearest."""
    places = np.unique(np.geomspace(1, len(distance), SHOWN).round().astype(int)) - 1
    return np.argsort(distance, kind="stable")[places].tolist()


# ---- images


def beside(real: Dataset, made: Dataset) -> dict[str, Any]:
    """A sheet of real and a sheet of synthetic images for each label."""
    left, right = (contact(data.schema, slices(data)) for data in (real, made))
    pairs = [{"label": a["label"], "real": a["sheet"], "made": b["sheet"]} for a, b in zip(left["labels"], right["labels"], strict=True)]
    return {"labels": pairs, "hidden": left["hidden"], "classes": left["classes"], "background": left["background"]}


def strip(photos: Dataset, translate: Callable[[Dataset], Dataset]) -> str:
    """A line of photographs, with their masks where they have some, above a line of their drawings."""
    both = [np.concatenate(list(tiles(data, SIDE * SIDE))) for data in (photos, translate(photos))]
    return uri(grid(np.concatenate([lined(shown) for shown in both])))


def slices(data: Dataset) -> Iterator[Dataset]:
    """The rows, a few at a time."""
    for start in range(0, len(data), BLOCK):
        yield Dataset(data.schema, data.table.slice(start, BLOCK))


def images(train: Dataset, test: Dataset, made: Dataset) -> dict[str, Any]:
    """A few synthetic images with the training images that are nearest to them, and how near held-out images come."""
    if not len(train) or not len(made):
        return {}
    queries = np.concatenate([flat for data in (made, test) for flat in flattened(data)])
    distance, position = closest(queries, train)
    chosen = ladder(distance[: len(made), 0])
    cards = [
        {"made": shown(made, row), "near": [shown(train, int(p), float(d)) for p, d in zip(position[row], distance[row], strict=True)]}
        for row in chosen
    ]
    return {"cards": cards, "reference": reference(distance[: len(made), 0], distance[len(made) :, 0])}


def closest(queries: np.ndarray, train: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(distance float [q, k], position int [q, k]) of the k = NEIGHBOURS training images nearest to flat images, float32 [q, d]."""
    distance = np.full((len(queries), NEIGHBOURS), np.inf)
    position = np.zeros((len(queries), NEIGHBOURS), dtype=np.int64)
    length, start = (queries**2).mean(axis=1)[:, None], 0
    for block in flattened(train):
        squared = length + (block**2).mean(axis=1) - 2 * queries @ block.T / queries.shape[1]
        near = np.argsort(squared, axis=1, kind="stable")[:, :NEIGHBOURS]
        exact = np.stack([np.sqrt(((queries - block[one]) ** 2).mean(axis=1)) for one in near.T], axis=1)  # so that copies are at 0
        both, where = np.hstack([distance, exact]), np.hstack([position, start + near])
        best = np.argsort(both, axis=1, kind="stable")[:, :NEIGHBOURS]
        distance, position = np.take_along_axis(both, best, 1), np.take_along_axis(where, best, 1)
        start += len(block)
    return distance[:, : len(train)], position[:, : len(train)]


def flattened(data: Dataset) -> Iterator[np.ndarray]:
    """The images as float32 [BLOCK, d], so many at a time, 0 to 255, large ones shrunk."""
    image = of_kind(data.schema, "image")
    assert image
    for part in slices(data):
        cells = enumerate(encoded(part.table[image.name]))
        yield np.stack([small(decoded(cell, row)).ravel() for row, cell in cells]).astype(np.float32)


def small(image: np.ndarray) -> np.ndarray:
    """uint8 [C, h, w] with at most about SIDE x SIDE pixels, by averaging squares of whole pixels."""
    factor = int(np.ceil(np.sqrt(image[0].size) / SIDE))
    return image if factor == 1 else np.stack([np.asarray(Image.fromarray(channel).reduce(factor)) for channel in image])


def shown(data: Dataset, row: int, distance: float | None = None) -> dict[str, Any]:
    """One image, under it the same with its mask, and its label and distance."""
    one = data.take(np.array([row]))
    label = next((str(one.table[c.name][0].as_py()) for c in data.schema.columns if c.kind in ("category", "boolean", "text")), None)
    return {"picture": uri(grid(next(tiles(one, SIDE * SIDE))[:, None])), "label": label, "distance": distance}


def reference(made: np.ndarray, test: np.ndarray) -> dict[str, float] | None:
    """The distance that 1 % of held-out rows undercut, and the shares of synthetic rows that do and that are copies."""
    if not len(test):
        return None
    limit = float(np.quantile(test, 0.01))
    return {"limit": limit, "median": float(np.median(test)), "under": float((made < limit).mean()), "copies": float((made == 0).mean())}


def answered(real: Split, asked: Mapping[str, Dataset]) -> list[dict[str, Any]]:
    """A few test rows with the image made for their caption and the caption written for their image, new captions first."""
    columns = [c for c in real.train.schema.columns if c.kind == "text"]
    held = real.test.take(np.arange(len(asked["image"])))
    known = np.isin(keys(held.table, columns), keys(real.train.table, columns))
    some = np.argsort(known, kind="stable")[: 2 * SHOWN]
    tables = [data.take(some).table for data in (held, asked["image"], asked["caption"])]
    return both_ways(Dataset(real.train.schema, pa.concat_tables(tables)))


# ---- tables


def rows_beside(train: Dataset, test: Dataset, made: Dataset) -> dict[str, Any]:
    """A few synthetic rows with the training row that is nearest to each, cell by cell."""
    at, asked, held = points(train, [train, made, test])
    distance, position = nearest(asked, at)
    distance = np.sqrt(distance)
    columns = train.schema.columns[:COLUMNS]
    rows = [
        {
            "distance": float(distance[row]),
            "cells": [compared(c, made.table[c.name][row].as_py(), train.table[c.name][int(position[row])].as_py()) for c in columns],
        }
        for row in ladder(distance)
    ]
    hidden = len(train.schema.columns) - len(columns)
    return {
        "columns": [c.name for c in columns],
        "rows": rows,
        "hidden": hidden,
        "reference": reference(distance, np.sqrt(nearest(held, at)[0])),
    }


# ---- texts


def texts_beside(train: Dataset, test: Dataset, made: Dataset) -> dict[str, Any]:
    """A few synthetic rows with the training row whose texts have most words in common with theirs."""
    asked = [worded(data) for data in (train, made, test)]
    place = {word: i for i, word in enumerate(sorted({word for row in asked[0] for word in row}))}
    known, queries, held = (Bags(rows, place) for rows in asked)
    distance, position = queries.nearest(known)
    columns = sorted(train.schema.columns, key=lambda c: c.name == train.schema.target)
    rows = [
        {
            "distance": float(distance[row]),
            "cells": [
                {"made": folded(made.table[c.name][row].as_py()), "real": folded(train.table[c.name][int(position[row])].as_py())}
                for c in columns
            ],
        }
        for row in ladder(distance)
    ]
    shown = [{"name": c.name, "code": bool(c.language), "text": c.kind == "text"} for c in columns]
    return {"columns": shown, "rows": rows, "reference": reference(distance, held.nearest(known)[0]) if len(test) else None}


def worded(data: Dataset) -> list[set[tuple[int, str]]]:
    """The different words of each row, those of each column apart."""
    columns = [data.table[c.name].to_pylist() for c in data.schema.columns if c.kind == "text"]
    return [{(k, word) for k, text in enumerate(row) for word in words(text or "")} for row in zip(*columns, strict=True)]


class Bags:
    """Rows of different words; `place` numbers the words that count, the others only make a row longer."""

    def __init__(self, rows: list[set[tuple[int, str]]], place: dict[tuple[int, str], int]):
        from scipy.sparse import csr_matrix

        found = [[place[word] for word in row if word in place] for row in rows]
        starts, flat = np.cumsum([0, *map(len, found)]), np.array([i for row in found for i in row], dtype=np.int64)
        self.rows = csr_matrix((np.ones(len(flat)), flat, starts), shape=(len(rows), max(1, len(place))))
        self.sizes = np.array([len(row) for row in rows])

    def nearest(self, known: Bags) -> tuple[np.ndarray, np.ndarray]:
        """(distance float64 [q], position int64 [q]) of the nearest of the known rows."""
        distance, position = np.empty(len(self.sizes)), np.empty(len(self.sizes), dtype=np.int64)
        for start in range(0, len(distance), ASKED):
            rows = slice(start, start + ASKED)
            both = (self.rows[rows] @ known.rows.T).toarray()
            either = self.sizes[rows, None] + known.sizes - both
            apart = 1 - both / np.maximum(either, 1)  # (1)
            position[rows] = apart.argmin(axis=1)
            distance[rows] = apart.min(axis=1)
        return distance, position


def compared(column: Column, made: Any, real: Any) -> dict[str, Any]:
    """Two cells as text, and whether they differ; ids, which are made anew, are not compared."""
    texts = [cell(value) for value in (made, real)]
    same = made == real or (made != made and real != real)  # NaN is like NaN
    return {"made": texts[0], "real": texts[1], "differs": column.kind != "id" and not same}


def cell(value: Any) -> str:
    """A value as short text."""
    text = "" if value is None else str(value)
    return text if len(text) <= LETTERS else text[: LETTERS - 1] + "…"
