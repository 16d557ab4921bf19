"""Images in tables: each cell is the bytes of a PNG, `struct<bytes, path>`; here they become arrays and arrays become them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from PIL import Image

from data.arrow import IMAGE_TYPE
from data.errors import BadInput

MODES = {"L": 1, "RGB": 3, "RGBA": 4}  # of the images that a table holds, with their channels


def pixels(values: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """uint8 [n, channels, height, width] of a column of images of one size. BadInput when one cannot be read or has another size."""
    cells = list(encoded(values))
    found: np.ndarray | None = None
    for row, cell in enumerate(cells):
        picture = decoded(cell, row)
        if found is None:
            found = np.empty((len(cells), *picture.shape), dtype=np.uint8)
        if picture.shape != found.shape[1:]:
            sizes = f"image {row} is {measures(picture.shape)}, the others are {measures(found.shape[1:])}"
            raise BadInput(f"{sizes}: bring them to one size (--size)")
        found[row] = picture
    return np.zeros((0, 1, 1, 1), dtype=np.uint8) if found is None else found


def encoded(values: pa.ChunkedArray | pa.Array) -> Iterator[bytes]:
    """The bytes of each cell."""
    for chunk in values.chunks if isinstance(values, pa.ChunkedArray) else [values]:
        yield from (value.as_py() or b"" for value in chunk.field("bytes"))


def decoded(cell: bytes, row: int) -> np.ndarray:
    """uint8 [channels, height, width] of one PNG. BadInput names the row that is none."""
    try:
        with Image.open(io.BytesIO(cell), formats=["PNG"]) as image:
            array = np.asarray(image if image.mode in MODES else image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise BadInput(f"image {row} cannot be read: it is damaged, cut short or no image") from None
    return np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def shape_of(cell: bytes, row: int) -> tuple[int, int, int]:
    """(channels, height, width) of one PNG from its header alone. BadInput names the row that is none."""
    try:
        with Image.open(io.BytesIO(cell), formats=["PNG"]) as image:
            return MODES.get(image.mode, 3), image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise BadInput(f"image {row} cannot be read: it is damaged, cut short or no image") from None


def column(arrays: Iterable[np.ndarray]) -> pa.Array:
    """A column of images out of uint8 arrays [channels, height, width] with 1, 3 or 4 channels."""
    return pa.array([{"bytes": png(array), "path": None} for array in arrays], IMAGE_TYPE)


def png(array: np.ndarray) -> bytes:
    """One PNG."""
    sink = io.BytesIO()
    Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0))).save(sink, "PNG")
    return sink.getvalue()


def measures(shape: tuple[int, ...]) -> str:
    """28×28 grey, 64×48 colour: width × height of (channels, height, width)."""
    return f"{shape[2]}×{shape[1]} {({1: 'grey', 3: 'colour', 4: 'colour with alpha'}).get(shape[0], f'with {shape[0]} channels')}"
