"""The codec of images with a label or a mask: an image and the one-hot of its mask are one taller image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from data.errors import BadInput
from data.images import column, measures, pixels
from data.schema import Column, Dataset, Schema
from generators.base import Rows
from generators.codecs.labels import LabelCodec


@dataclass(frozen=True)
class ImageCodec(LabelCodec):
    """Rows are (x uint8 [n, C + K, H, W], y int64 [n]): the image's channels, then 0 or 255 for each of the mask's K classes; the label.

    Without a mask K is 0.
    """

    noun: ClassVar[str] = "image"

    @classmethod
    def fit(cls, data: Dataset) -> Self:
        kinds = [c.kind for c in data.schema.columns]
        unfit = [f"{c.name!r} ({c.kind})" for c in data.schema.columns if c.kind not in ("image", "mask", "category", "boolean")]
        if unfit or kinds.count("image") != 1 or kinds.count("mask") > 1 or len(kinds) > 1 + kinds.count("mask") + 1:
            what = f"; it cannot learn {', '.join(unfit)}" if unfit else ""
            rule = "a generator of images takes one image, at most one mask and at most one label"
            raise BadInput(f"{rule}{what}: drop the other columns (--drop)")
        return cls(data.schema, cls(data.schema, np.ones(1)).frequencies(data))

    @property
    def image(self) -> Column:
        return next(c for c in self.schema.columns if c.kind == "image")

    @property
    def mask(self) -> Column | None:
        return self.one("mask")

    @property
    def channels(self) -> int:
        """C: those of the image alone."""
        return self.image.size[0] if self.image.size else 0

    @property
    def classes(self) -> int:
        """K: those of the mask."""
        return len(self.mask.categories) if self.mask else 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C + K, H, W)."""
        assert self.image.size
        return self.channels + self.classes, *self.image.size[1:]

    @property
    def cells(self) -> int:
        return int(np.prod(self.shape))

    def filled(self, rows: Rows) -> float:
        return self.cells

    def encode(self, data: Dataset, rng: np.random.Generator) -> Rows:
        x = torch.from_numpy(pixels(data.table[self.image.name]))
        if self.image.size and len(x) and x.shape[1:] != self.image.size:
            raise BadInput(
                f"images {self.image.name!r} are {measures(tuple(x.shape[1:]))}, not {measures(self.image.size)}: bring them to that size"
            )
        if self.mask:
            values = torch.tensor([int(value) for value in self.mask.categories], dtype=torch.uint8)
            mask = torch.from_numpy(pixels(data.table[self.mask.name]))
            if mask.shape[2:] != x.shape[2:]:
                raise BadInput(f"images {self.image.name!r} and masks {self.mask.name!r} differ in size: bring them to one (--size)")
            x = torch.cat([x, (mask == values.view(-1, 1, 1)).to(torch.uint8) * 255], dim=1)
        return x, torch.from_numpy(self.labels(data))

    def decode(self, rows: Rows, rng: np.random.Generator, *, start: int, seed: int) -> Dataset:
        x, y = rows[0].numpy(), rows[1].numpy()
        found = {self.image.name: column(x[:, : self.channels])}
        if self.mask:
            values = np.array([int(value) for value in self.mask.categories], dtype=np.uint8)
            found[self.mask.name] = column(values[x[:, self.channels :].argmax(axis=1)][:, None])
        if self.label:
            found[self.label.name] = self.named(y)
        return Dataset(self.schema, pa.table([found[name] for name in self.schema.names], schema=self.schema.arrow))

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"schema": self.schema.to_json()}, {"shares": torch.from_numpy(self.shares)}

    @classmethod
    def restore(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        return cls(Schema.from_json(spec["schema"]), tensors["shares"].numpy()).whole()


def signed(x: Tensor) -> Tensor:
    """uint8 pixels as floats from -1 to 1."""
    return x.float() / 127.5 - 1


def unsigned(x: Tensor) -> Tensor:
    """The inverse of `signed`, rounded; what lies beyond the ends is cut."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
