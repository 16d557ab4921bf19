"""What a synthetic table gives away about the rows it was learnt from.

Copies are rows equal to a training row in every column that is no id; images are equal when their pixels are, and rows of texts when
their texts are, whatever their white space and capitals. The other checks measure a distance between rows: numbers by their rank among
the training values (0 to 1), categories and null marks 0 or 1, squared and summed. Between images it is the mean squared difference of
their pixels (0 to 1), both shrunk to at most `SIDE` x `SIDE`: what a faint noise hides from the eye it does not hide from that. Between
texts it is that of the words they use (`evaluators.overheard`). Each figure comes with the one that real rows give in place of synthetic
ones, because some tables repeat themselves without anybody copying.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F

from data.images import decoded, encoded
from data.schema import Column, Dataset, Modality, Schema
from evaluators.fidelity import area_and_variance, with_interval
from evaluators.image import pictures
from evaluators.overheard import overheard, placed, plain
from evaluators.protocol import capped
from evaluators.tabular import LEVELS, codes, judged_as, measured
from evaluators.text import strings, texts_of

QUERIES = 5_000  # rows whose nearest neighbour is looked for, in each check
REFERENCES = 20_000  # rows among which it is looked for
SIDE = 16  # of the images that distances are measured between, at most
DECODED = 500  # images decoded at a time
BINS = 40
CHUNK = 64  # queries at a time: CHUNK x REFERENCES distances are in memory


def privacy(
    real_train: Dataset, real_test: Dataset, synthetic: Dataset, *, seed: int = 0, queries: int = QUERIES, references: int = REFERENCES
) -> dict[str, Any]:
    """Copies, near copies, distance to the closest record and membership inference, each beside its real reference.

    copies      share of synthetic rows that stand in train; "real": share of test rows that do, "real_high" the 95 % bound above it
    near        share of synthetic rows nearer to a training row than 1 % of the test rows are; "real": share of the test rows
    dcr         percent of synthetic rows nearer to a random part of train than to test, both of one size, ties half: 50 is best
    membership  area under the curve of guessing from the distance to the nearest synthetic row whether a real row was trained on:
                0.5 is best; "real": the same with one half of train in place of the synthetic rows and the other half queried

    attacks     of tables: singling out, attribute inference and informed membership inference, as `evaluators.attacks.attacks` says
    distances   of images and texts: histogram of root mean squared distances to the nearest training row, {"edges", "synthetic", "real":
                shares}, and "median_ratio", the synthetic median by that of test rows
    texts       of texts: what else they repeat, as `evaluators.overheard.overheard` says

    Distances are between at most `queries` rows and at most `references` rows, stated in "rows_used"; copies use every row. A check
    that cannot be made (a side without rows, no column with a distance) is None.
    """
    from evaluators.attacks import attacks

    rng = np.random.default_rng([seed, 0x9217])
    schema = real_train.schema
    kind = judged_as(schema)
    train, test, made = (Dataset.of(data.table, schema) for data in (real_train, real_test, synthetic))
    result: dict[str, Any] = {"copies": copies(train, test, made)}
    half = rng.permutation(len(train))
    inside, outside = (capped(train.take(np.sort(part)), references, rng) for part in np.array_split(half, 2))
    rows = {
        "train": capped(train, references, rng),
        "test": capped(test, references, rng),
        "synthetic": capped(made, references, rng),
        "part": capped(train, min(len(test), references), rng),
        "half": inside,
        "other_half": outside,
    }
    rows["test"] = capped(rows["test"], len(rows["part"]), rng)
    if kind in ("text", "multimodal"):
        result |= {"texts": overheard(train, test, made)}
    if not min(map(len, rows.values())) or (kind == "tabular" and not measured(schema)):
        return result | {"near": None, "dcr": None, "membership": None, "rows_used": {name: len(data) for name, data in rows.items()}}
    at = dict(zip(rows, PLACES[kind](train, list(rows.values())), strict=True))
    asked = {name: some.take(queries, rng) for name, some in at.items()}
    from_test, from_made = (nearest(asked[name], at["train"])[0] for name in ("test", "synthetic"))
    if kind != "tabular":
        result |= {"distances": distances(from_test, from_made)}
    else:
        result |= {"attacks": attacks(train, test, made, seed=seed)}
    return result | {
        "near": near(from_test, from_made),
        "dcr": closest_record(asked["synthetic"], at["part"], at["test"]) | {"real": reference(schema, at, rng)},
        "membership": membership(asked, at),
        "rows_used": {"queries": queries, **{name: len(data) for name, data in rows.items()}},
    }


def copies(train: Dataset, test: Dataset, made: Dataset) -> dict[str, float | None]:
    """Shares of synthetic and of test rows that equal a training row in every column but the ids, or in all texts where there are some.

    An image with another caption is the same image.
    """
    texts = texts_of(train.schema) if judged_as(train.schema) == "text" else []
    images = [c for c in train.schema.columns if c.kind == "image"] if judged_as(train.schema) == "multimodal" else []
    columns = texts or images or [c for c in train.schema.columns if c.kind != "id"]
    if not columns or not len(made) or not len(test):
        return {"synthetic": None, "real": None, "real_high": None}
    keys = row_keys(columns, [train, test, made])
    share, n = float(np.isin(keys[1], keys[0]).mean()), len(test)
    high = (share + 2 / n + 2 * np.sqrt(share * (1 - share) / n + 1 / n**2)) / (1 + 4 / n)  # Wilson's bound
    return {"synthetic": round(float(np.isin(keys[2], keys[0]).mean()), 6), "real": round(share, 6), "real_high": round(float(high), 6)}


def row_keys(columns: list[Column], datasets: list[Dataset]) -> list[np.ndarray]:
    """uint64 [n] for each dataset: equal rows have equal keys, different rows different ones (but for one chance in 2^64 a pair)."""
    ends = np.cumsum([len(data) for data in datasets])
    keys = np.zeros(ends[-1], dtype=np.uint64)
    for column in columns:
        arrays = [data.table[column.name].combine_chunks() for data in datasets]
        if column.kind in ("image", "mask"):
            arrays = [pa.array([seen(cell, row) for row, cell in enumerate(encoded(array))], pa.binary()) for array in arrays]
        elif column.kind == "text":
            arrays = [pa.array([plain(text) for text in strings(data, column)], pa.string()) for data in datasets]
        chunks = [part for array in arrays for part in (array.chunks if isinstance(array, pa.ChunkedArray) else [array])]
        values = pa.chunked_array(chunks)
        if pa.types.is_floating(values.type):
            values = pc.add(values, 0.0)  # -0 is 0
        coded = pc.dictionary_encode(values, null_encoding="encode").combine_chunks()
        coded = pa.concat_arrays(coded.chunks) if isinstance(coded, pa.ChunkedArray) else coded
        code = coded.indices.to_numpy(zero_copy_only=False).astype(np.uint64)
        keys = mixed(keys * np.uint64(0x9E3779B97F4A7C15) + code + np.uint64(1))
    return np.split(keys, ends[:-1])


def seen(cell: bytes, row: int) -> bytes:
    """The digest of an image's pixels: two files may hold one image."""
    picture = decoded(cell, row)
    return hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).digest()


def mixed(keys: np.ndarray) -> np.ndarray:
    """uint64 [n] spread over all 64 bits (the finaliser of splitmix64)."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


class Points(NamedTuple):
    """Rows as places: `ranks` float64 [n, numbers] in 0 to 1, `codes` uint8 [n, categories and null marks]."""

    ranks: np.ndarray
    codes: np.ndarray

    def take(self, most: int, rng: np.random.Generator) -> Points:
        """At most so many of them, chosen at random."""
        n = len(self.ranks)
        rows = np.sort(rng.choice(n, most, replace=False)) if n > most else np.arange(n)
        return Points(self.ranks[rows], self.codes[rows])


def points(train: Dataset, datasets: list[Dataset]) -> list[Points]:
    """Every dataset's rows, numbers by their rank among the training values, categories by the training values (others are one more)."""
    n = [len(data) for data in datasets]
    ranks: list[list[np.ndarray]] = [[np.zeros((k, 0))] for k in n]
    marks: list[list[np.ndarray]] = [[np.zeros((k, 0), dtype=np.uint8)] for k in n]
    for column in measured(train.schema):
        if column.is_number:
            known = column.numbers(train.table[column.name])
            known, count = np.unique(known[~np.isnan(known)], return_counts=True)
            middle = (np.cumsum(count) - count / 2) / max(1, count.sum())
            coded = [column.numbers(data.table[column.name]) for data in datasets]
            for block, values in zip(ranks, coded, strict=True):
                place = np.interp(values, known, middle) if len(known) else np.zeros(len(values))
                block.append(np.where(np.isnan(values), 0.5, place)[:, None])
            coded = [np.isnan(values) for values in coded]
        else:
            coded = codes(column, [train], datasets, LEVELS)[1:]
            null = [data.table[column.name].is_null().to_numpy() for data in datasets]
            coded = [np.where(is_null, LEVELS + 1, np.where(code < 0, LEVELS, code)) for code, is_null in zip(coded, null, strict=True)]
        for block, code in zip(marks, coded, strict=True):
            block.append(code.astype(np.uint8)[:, None])
    return [Points(np.hstack(a), np.asfortranarray(np.hstack(b))) for a, b in zip(ranks, marks, strict=True)]


def shrunk(train: Dataset, datasets: list[Dataset]) -> list[Points]:
    """Every dataset's images as `ranks` [n, C * side * side], such that a squared distance is the mean squared difference of pixels."""
    return [Points(np.concatenate(list(thumbnails(data))), np.zeros((len(data), 0), dtype=np.uint8)) for data in datasets]


def thumbnails(data: Dataset) -> Iterator[np.ndarray]:
    """float64 [b, C * side * side] of the images, `DECODED` at a time."""
    for start in range(0, len(data), DECODED):
        x = torch.from_numpy(pictures(data.take(np.arange(start, min(start + DECODED, len(data))))))
        small = F.adaptive_avg_pool2d(x.double() / 255, (min(SIDE, x.shape[2]), min(SIDE, x.shape[3]))).flatten(1)
        yield (small / small.shape[1] ** 0.5).numpy()


def worded(train: Dataset, datasets: list[Dataset]) -> list[Points]:
    """Every dataset's texts as `ranks`: another label makes no other text of a copy."""
    return [Points(place, np.zeros((len(place), 0), dtype=np.uint8)) for place in placed(train, datasets)]


PLACES: Mapping[Modality, Callable[[Dataset, list[Dataset]], list[Points]]] = {
    "tabular": points,
    "text": worded,
    "image": shrunk,
    "multimodal": shrunk,
}


def nearest(queries: Points, among: Points) -> tuple[np.ndarray, np.ndarray]:
    """(squared distance float64 [q], position int [q]) of each query's nearest point."""
    distance, position = np.empty(len(queries.ranks)), np.empty(len(queries.ranks), dtype=np.int64)
    length = (among.ranks**2).sum(axis=1)
    used = [k for k in range(among.codes.shape[1]) if np.ptp(np.concatenate([queries.codes[:, k], among.codes[:, k]]))]
    differs = np.empty((CHUNK, len(among.codes)), dtype=bool)
    for start in range(0, len(queries.ranks), CHUNK):
        rows = slice(start, start + CHUNK)
        q, mark = queries.ranks[rows], queries.codes[rows]
        squared = q @ (-2 * among.ranks.T) + length + (q**2).sum(axis=1)[:, None]
        mismatches = np.zeros(squared.shape, dtype=np.uint16)
        for k in used:
            np.not_equal(mark[:, k, None], among.codes[None, :, k], out=differs[: len(q)])
            mismatches += differs[: len(q)]
        squared = np.round(np.maximum(squared, 0), 10) + mismatches  # rounded, so that equal rows are at distance 0
        position[rows] = squared.argmin(axis=1)
        distance[rows] = squared[np.arange(len(q)), position[rows]]
    return distance, position


def near(from_test: np.ndarray, from_made: np.ndarray) -> dict[str, float]:
    """Shares of synthetic and of test rows nearer to a training row than the nearest 1 % of test rows."""
    limit = np.quantile(from_test, 0.01)
    return {"synthetic": round(float((from_made < limit).mean()), 5), "real": round(float((from_test < limit).mean()), 5)}


def distances(from_test: np.ndarray, from_made: np.ndarray) -> dict[str, Any]:
    """The histogram of the roots of squared distances, shares of each side, and the ratio of the medians."""
    real, made = np.sqrt(from_test), np.sqrt(from_made)
    edges = np.linspace(0, max(real.max(), made.max(), 1e-6) * 1.02, BINS + 1)
    middle = float(np.median(real))
    return {
        "edges": edges.round(5).tolist(),
        "synthetic": (np.histogram(made, edges)[0] / len(made)).round(5).tolist(),
        "real": (np.histogram(real, edges)[0] / len(real)).round(5).tolist(),
        "median_ratio": round(float(np.median(made)) / middle, 4) if middle else None,
    }


def closest_record(asked: Points, part: Points, test: Points) -> dict[str, float]:
    """The percent of rows nearer to `part` of train than to `test`, ties half, with a 95 % interval.

    The interval counts rows that share a nearest real row as one observation: a few real rows can be nearest to many.
    """
    (to_part, a), (to_test, b) = nearest(asked, part), nearest(asked, test)
    nearer = np.where(to_part < to_test, 1.0, np.where(to_part == to_test, 0.5, 0.0))
    share = nearer.mean()
    owner = np.where(to_part <= to_test, a, len(part.ranks) + b)
    deviation = np.sqrt((np.bincount(owner, nearer - share) ** 2).sum()) / len(nearer)
    low, high = np.clip([share - 1.96 * deviation, share + 1.96 * deviation], 0, 1)
    return {"share": round(100 * float(share), 2), "low": round(100 * float(low), 2), "high": round(100 * float(high), 2)}


def reference(schema: Schema, at: dict[str, Points], rng: np.random.Generator) -> float:
    """The percent of one half of train nearer to the other half than to test. Rows of a table are split at random, so it is 50.

    Images and texts often come with test rows of another origin, and all that resembles train is then nearer to it.
    """
    if judged_as(schema) == "tabular":
        return 50.0
    n = min(len(at["other_half"].ranks), len(at["test"].ranks))
    return closest_record(at["half"].take(QUERIES, rng), at["other_half"].take(n, rng), at["test"].take(n, rng))["share"]


def membership(asked: dict[str, Points], at: dict[str, Points]) -> dict[str, float | None]:
    """The area of guessing training rows by their nearness to the synthetic rows; "real": by their nearness to unrelated real rows."""

    def area(members: str, among: str) -> tuple[float, float]:
        inside, outside = nearest(asked[members], at[among])[0], nearest(asked["test"], at[among])[0]
        return area_and_variance(np.repeat([True, False], [len(inside), len(outside)]), -np.concatenate([inside, outside]))

    value, variance = area("train", "synthetic")
    return with_interval(value, variance**0.5) | {"real": round(area("other_half", "half")[0], 4)}
