"""Images as pages show them: grids of small images, each grid one PNG inside a data URI.

A row of a dataset becomes one tile, or two when it has a mask: the image, and the image under the mask's colours. What a page shows in
all is bounded, so that a page of large images stays small: they are shrunk, never cut.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data.images import decoded, encoded
from data.schema import Column, Dataset, Schema

TILES = 12  # across a sheet
LINES = 4  # of a dataset whose labels are few, at least
LABELS = 24  # that have a sheet; the others are counted
BYTES = 1_500_000  # of all sheets of a page, before they are packed
STRIP_LINES, STRIP_BYTES = 8, 400_000  # of the strip of intermediate steps
PAIRS, LETTERS = 24, 300  # images shown with their captions, and characters of these
ROWS = 5_000  # read in search of images of each label
BATCH = 100  # rows in memory at a time
INKS = ((213, 94, 0), (0, 114, 178), (0, 158, 115), (240, 228, 66), (204, 121, 167), (86, 180, 233), (230, 159, 0), (130, 90, 60))


def pictures(files: Sequence[Path], steps: Dataset | None = None, count: int = 1, caption: str = "") -> dict[str, Any]:
    """What the report shows of a release's files as written: `contact` sheets of their first rows, and `strip` of `steps` if given.

    The `caption` stands under the strip in place of the usual one.
    """
    schema = Schema.from_json(json.loads(pq.read_metadata(files[0]).metadata[b"alfar.schema"]))
    shown = contact(schema, islice(batches(files, schema), ROWS // BATCH))
    return shown if steps is None else {**shown, "steps": strip(steps, count), "frames": count, "caption": caption}


def paired(files: Sequence[Path], asked: Dataset | None = None) -> dict[str, Any]:
    """What the report shows of a release of captioned images: the first rows as `cards`, and `both_ways` of `asked` if given."""
    schema = Schema.from_json(json.loads(pq.read_metadata(files[0]).metadata[b"alfar.schema"]))
    few = next(batches(files, schema))
    return {"pairs": cards(few.take(np.arange(min(PAIRS, len(few))))), "asked": [] if asked is None else both_ways(asked)}


def cards(data: Dataset) -> list[dict[str, Any]]:
    """[{"picture": data URI, "caption"}] of each row, the label, where there is one, after the caption."""
    shown = tiles(data, BYTES // (4 * PAIRS * depth(data.schema)))
    told = [data.table[c.name].to_pylist() for c in data.schema.columns if c.kind in ("text", "category", "boolean")]
    lines = (" · ".join(str(value) for value in row if value is not None)[:LETTERS] for row in zip(*told, strict=True))
    return [{"picture": uri(grid(tile[:1, None])), "caption": line} for tile, line in zip(shown, lines, strict=True)]


def both_ways(asked: Dataset) -> list[dict[str, Any]]:
    """[{"row": a card, "image": that of the image made for its caption, "caption": the caption written for its image}].

    `asked` holds the rows, then the rows with other images, then the rows with other captions.
    """
    rows, images, captions = (cards(asked.take(np.arange(len(asked)).reshape(3, -1)[k])) for k in range(3))
    return [
        {"row": row, "image": image["picture"], "caption": caption["caption"]}
        for row, image, caption in zip(rows, images, captions, strict=True)
    ]


def batches(files: Iterable[Path], schema: Schema) -> Iterator[Dataset]:
    """The rows of parquet files, a few at a time."""
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH):
                yield Dataset.of(pa.Table.from_batches([batch]), schema)


def contact(schema: Schema, chunks: Iterable[Dataset]) -> dict[str, Any]:
    """A sheet of the first images of each label.

    {"labels": [{"label": text or None without labels, "count": images, "sheet": data URI or None}], "hidden": labels without a sheet,
    "classes": [{"value", "colour"}] of the mask but the first, the "background"}.
    """
    label, mask = label_of(schema), of_kind(schema, "mask")
    names: list[str | None] = list(label.categories[:LABELS]) if label and label.categories else [None]
    lines = max(1, LINES // len(names))
    found = first(chunks, names, lines * TILES // (2 if mask else 1), BYTES // (len(names) * lines * TILES * depth(schema)))
    sheets = [
        {"label": name, "count": len(tiles), "sheet": uri(grid(lined(np.concatenate(tiles)))) if tiles else None}
        for name, tiles in found.items()
    ]
    values = mask.categories if mask else ()
    colours = [{"value": value, "colour": f"rgb{ink_of(i)}"} for i, value in enumerate(values) if i]
    hidden = max(0, len(label.categories) - len(names)) if label else 0
    return {"labels": sheets, "hidden": hidden, "classes": colours, "background": next(iter(values), None)}


def first(chunks: Iterable[Dataset], names: Sequence[str | None], most: int, area: int) -> dict[str | None, list[np.ndarray]]:
    """The tiles, as `tiles` gives them, of the first rows that have each label, at most so many; None stands for any row."""
    found: dict[str | None, list[np.ndarray]] = {name: [] for name in names}
    for chunk in chunks:
        label = label_of(chunk.schema)
        words = label.strings(chunk.table[label.name]).to_pylist() if label and None not in found else [None] * len(chunk)
        for row, word in enumerate(words):
            if word in found and len(found[word]) < most:
                found[word].append(next(tiles(chunk.take(np.array([row])), area)))
        if all(len(some) == most for some in found.values()):
            break
    return found


def strip(steps: Dataset, count: int) -> str:
    """Images on their way as one data URI, a line each, from the first step to the last.

    `steps` holds `count` frames, one after another, each of the same images. With masks there are two lines an image.
    """
    area = STRIP_BYTES // (STRIP_LINES * count * depth(steps.schema))
    shown = np.stack(list(tiles(steps, area)))  # [count n, T, 4, h, w]
    shown = shown.reshape(count, -1, *shown.shape[1:]).transpose(1, 2, 0, 3, 4, 5)
    return uri(grid(shown.reshape(-1, *shown.shape[2:])[:STRIP_LINES]))


# ---- tiles and grids


def tiles(data: Dataset, area: int) -> Iterator[np.ndarray]:
    """For each row uint8 [T, 4, h, w] with h w at most `area`: the image as RGBA and, when there is a mask (T = 2), the mask upon it."""
    image, mask = of_kind(data.schema, "image"), of_kind(data.schema, "mask")
    assert image, "pictures are made of datasets with an image"
    masks = encoded(data.table[mask.name]) if mask else iter([b""] * len(data))
    for row, (cell, cover) in enumerate(zip(encoded(data.table[image.name]), masks, strict=True)):
        plain = coloured(decoded(cell, row))
        shown = [plain, inked(plain, decoded(cover, row)[0], mask.categories)] if mask else [plain]
        yield np.stack([shrunk(one, area) for one in shown])


def coloured(image: np.ndarray) -> np.ndarray:
    """uint8 [C, h, w] with 1, 3 or 4 channels as RGBA [4, h, w]."""
    if len(image) == 4:
        return image
    colours = np.broadcast_to(image, (3, *image.shape[1:]))
    return np.concatenate([colours, np.full((1, *image.shape[1:]), 255, dtype=np.uint8)])


def inked(image: np.ndarray, mask: np.ndarray, values: Sequence[str]) -> np.ndarray:
    """RGBA [4, h, w] under the colours of a mask, uint8 [h, w]; its first class, the background, stays as it is."""
    result = image.copy()
    for i, value in enumerate(values[1:], start=1):
        covered = mask == int(value)
        for channel, ink in enumerate(ink_of(i)):
            result[channel][covered] = result[channel][covered] // 2 + ink // 2
    return result


def ink_of(place: int) -> tuple[int, int, int]:
    """The colour of a mask's class; the first one has none."""
    return INKS[(place - 1) % len(INKS)]


def shrunk(image: np.ndarray, area: int) -> np.ndarray:
    """RGBA [4, h, w] brought to at most `area` pixels by averaging squares of whole pixels."""
    factor = 1
    while -(-image.shape[1] // factor) * -(-image.shape[2] // factor) > area:
        factor += 1
    return image if factor == 1 else np.asarray(Image.fromarray(image.transpose(1, 2, 0)).reduce(factor)).transpose(2, 0, 1)


def lined(shown: np.ndarray) -> np.ndarray:
    """[n, 4, h, w] as lines of TILES, [lines, TILES, 4, h, w], the last one filled up with nothing."""
    lines = -(-len(shown) // TILES)
    full = np.zeros((lines * TILES, *shown.shape[1:]), dtype=np.uint8)
    full[: len(shown)] = shown
    return full.reshape(lines, TILES, *shown.shape[1:])


def grid(shown: np.ndarray) -> bytes:
    """One PNG of uint8 [lines, columns, 4, h, w], with transparent gaps between neighbours."""
    lines, columns, channels, height, width = shown.shape
    gap = max(1, width // 24)
    spaced = np.zeros((lines, height + gap, columns, width + gap, channels), dtype=np.uint8)
    spaced[:, :height, :, :width] = shown.transpose(0, 3, 1, 4, 2)
    whole = spaced.reshape(lines * (height + gap), columns * (width + gap), channels)[:-gap, :-gap]
    sink = io.BytesIO()
    Image.fromarray(whole, "RGBA").save(sink, "PNG", optimize=True)
    return sink.getvalue()


def uri(png: bytes) -> str:
    """A PNG inside an address."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def depth(schema: Schema) -> int:
    """Bytes that a pixel of a tile costs: one for grey, more for colours."""
    image = of_kind(schema, "image")
    channels = image.size[0] if image and image.size else 3
    return max(3, channels) if of_kind(schema, "mask") else channels


def of_kind(schema: Schema, *kinds: str) -> Column | None:
    """The first column of such a kind."""
    return next((c for c in schema.columns if c.kind in kinds), None)


def label_of(schema: Schema) -> Column | None:
    """The column that images are sorted by: the target when it is a category, or else the first category."""
    label = schema[schema.target] if schema.target else None
    return label if label and label.kind in ("category", "boolean") else of_kind(schema, "category", "boolean")
