"""The codec of image to image: a photograph with its mask as one taller image, its label, and an image in the other style."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from data.errors import BadInput
from data.images import measures, pixels
from data.schema import Column, Dataset, Schema
from data.styles import photos, source_of
from data.terms import Test
from generators.base import Codec, Rows
from generators.codecs.image import ImageCodec

LEAST = 5  # pixels of a side


@dataclass(frozen=True)
class StyleCodec(Codec):
    """Rows are (x uint8 [n, C + K, H, W], y int64 [n], s uint8 [n, C, H, W]): a photograph as `ImageCodec` has it, and one of the style.

    `encode` leaves s out of rows without the column of style, and turns to images of it again where they are fewer than photographs;
    what is decoded are photographs' x and y, as rows of a release.
    """

    schema: Schema
    inner: ImageCodec

    @classmethod
    def fit(cls, data: Dataset) -> Self:
        if data.schema.task != "image-to-image":
            raise BadInput(
                "a generator of image to image takes a photograph and, as target, an image in another style: name that (--target)"
            )
        source, target = source_of(data.schema), data.schema[str(data.schema.target)]
        if source.size != target.size:
            sizes = f"{source.name!r} are {measures(source.size or ())}, those of {target.name!r} {measures(target.size or ())}"
            raise BadInput(f"the images of column {sizes}: bring them to one size (--size) and to the same colours")
        if min((source.size or (0,))[1:], default=0) < LEAST:
            raise BadInput(
                f"images of {measures(source.size or ())} are too small to be drawn: {LEAST} pixels a side is the least (--size)"
            )
        return cls(data.schema, ImageCodec.fit(photos(data)))

    @property
    def target(self) -> Column:
        return self.schema[str(self.schema.target)]

    @property
    def cells(self) -> int:
        return self.inner.cells

    def filled(self, rows: Rows) -> float:
        return self.inner.filled(rows)

    def encode(self, data: Dataset, rng: np.random.Generator) -> Rows:
        rows = self.inner.encode(photos(data), rng)
        if self.target.name not in data.schema.names:
            return rows
        style = torch.from_numpy(pixels(data.table[self.target.name].drop_null()))
        if not len(style):
            raise BadInput(f"column {self.target.name!r} holds no image to learn the style from")
        return *rows, style[torch.arange(len(data)) % len(style)]

    def decode(self, rows: Rows, rng: np.random.Generator, *, start: int, seed: int) -> Dataset:
        return self.inner.decode(rows[:2], rng, start=start, seed=seed)

    def condition(self, given: Mapping[str, object]) -> Mapping[str, int]:
        return self.inner.condition(given)

    def matches(self, rows: Rows, condition: Mapping[str, int]) -> Tensor:
        return self.inner.matches(rows, condition)

    def weights(self, tests: Mapping[str, Test], given: Mapping[str, object]) -> dict[int, Tensor]:
        """As those of `ImageCodec`."""
        return self.inner.weights(tests, given)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        spec, tensors = self.inner.state()
        return spec | {"pair": self.schema.to_json()}, tensors

    @classmethod
    def restore(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        return cls(Schema.from_json(spec["pair"]), ImageCodec.restore(spec, tensors))
