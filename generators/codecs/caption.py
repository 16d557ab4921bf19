"""The codec of images with a caption: the pixels of a row and the words of its caption are one longer row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from data.errors import BadInput
from data.schema import Dataset, Schema
from generators.base import Rows
from generators.codecs.image import ImageCodec
from generators.codecs.labels import LabelCodec
from generators.codecs.text import EOS, PAD, TextCodec


@dataclass(frozen=True)
class CaptionCodec(LabelCodec):
    """Rows are (x int16 [n, C H W + T], y int64 [n]): the pixels, then the caption as tokens up to its EOS, then PAD; the label."""

    image: ImageCodec
    words: TextCodec
    noun: ClassVar[str] = "image"

    @classmethod
    def fit(cls, data: Dataset) -> Self:
        kinds = [c.kind for c in data.schema.columns]
        unfit = [f"{c.name!r} ({c.kind})" for c in data.schema.columns if c.kind not in ("image", "text", "category", "boolean")]
        if unfit or kinds.count("image") != 1 or kinds.count("text") != 1 or len(kinds) > 3:
            what = f"; it cannot learn {', '.join(unfit)}" if unfit else ""
            raise BadInput(
                f"a generator of captioned images takes one image, one text and at most one label{what}: drop the others (--drop)"
            )
        bare = cls(data.schema, np.ones(1), ImageCodec.fit(part(data, "image")), TextCodec.fit(part(data, "text")))
        return replace(bare, shares=bare.frequencies(data))

    @property
    def pixels(self) -> int:
        """C H W."""
        return self.image.cells

    @property
    def cells(self) -> int:
        return self.pixels + self.words.longest

    def filled(self, rows: Rows) -> float:
        return self.cells

    def encode(self, data: Dataset, rng: np.random.Generator) -> Rows:
        """Captions of more than T tokens are cut."""
        last = self.words.longest - 1
        cut = [[*row[:-1][:last], EOS] for row in self.words.tokens(part(data, "text"))]
        words = torch.tensor([row + [PAD] * (last + 1 - len(row)) for row in cut], dtype=torch.int16)
        shown = self.image.encode(part(data, "image"), rng)[0].flatten(1).to(torch.int16)
        return torch.cat([shown, words.view(len(shown), -1)], dim=1), torch.from_numpy(self.labels(data))

    def decode(self, rows: Rows, rng: np.random.Generator, *, start: int, seed: int) -> Dataset:
        x, y = rows
        shown = x[:, : self.pixels].to(torch.uint8).unflatten(1, self.image.shape)
        parts = (self.image, shown), (self.words, x[:, self.pixels :].long())
        tables = [codec.decode((t, y), rng, start=start, seed=seed).table for codec, t in parts]
        found = {name: table[name] for table in tables for name in table.column_names}
        if self.label:
            found[self.label.name] = self.named(y.numpy())
        return Dataset(self.schema, pa.table([found[name] for name in self.schema.names], schema=self.schema.arrow))

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"schema": self.schema.to_json(), "words": self.words.state()[0]}, {"shares": torch.from_numpy(self.shares)}

    @classmethod
    def restore(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        schema, alone = Schema.from_json(spec["schema"]), torch.ones(1, dtype=torch.float64)
        image = ImageCodec(only(schema, "image"), np.ones(1))
        return cls(schema, tensors["shares"].numpy(), image, TextCodec.restore(spec["words"], {"shares": alone})).whole()


def only(schema: Schema, kind: str) -> Schema:
    """The schema of the columns of one kind."""
    return Schema("density", None, tuple(c for c in schema.columns if c.kind == kind))


def part(data: Dataset, kind: str) -> Dataset:
    """The columns of one kind."""
    schema = only(data.schema, kind)
    return Dataset.of(data.table.select(schema.names), schema)
