"""Resampled real rows: the cheat. It shows what perfect fidelity and no privacy look like, and can never be published.

    (1)  p(row) = 1/n sum_i [row = row_i]

Utility and fidelity are at their ceiling; the copy rate and the distance test must give it away.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from data.errors import BadInput
from data.schema import Dataset, Schema
from generators.base import Codec, Generator, Rows, Run


@dataclass(frozen=True)
class RowCodec(Codec):
    """Rows are (i int64 [n],): the number of a stored row. The one codec that keeps rows, for the one generator that copies them."""

    data: Dataset

    @property
    def cells(self) -> int:
        return len(self.data.schema.columns)

    def filled(self, rows: Rows) -> float:
        return self.cells

    @classmethod
    def fit(cls, data: Dataset) -> Self:
        unfit = [repr(c.name) for c in data.schema.columns if c.kind in ("image", "mask", "text")]
        if unfit:
            raise BadInput(
                f"a generator for tables cannot learn the columns {', '.join(unfit)}: drop them (--drop) or give them another --kind"
            )
        return cls(data)

    def encode(self, data: Dataset, rng: np.random.Generator) -> Rows:
        return (torch.arange(len(data)),)

    def decode(self, rows: Rows, rng: np.random.Generator, *, start: int, seed: int) -> Dataset:
        return self.data.take(rows[0].numpy())

    def condition(self, given: Mapping[str, object]) -> Mapping[str, int]:
        from generators.codecs.table import TokenCodec

        return TokenCodec.fit(self.data).condition(given)

    def matches(self, rows: Rows, condition: Mapping[str, int]) -> Tensor:
        from generators.codecs.table import TokenCodec

        codec = TokenCodec.fit(self.data)
        return codec.matches(
            codec.encode(self.decode(rows, np.random.default_rng(0), start=0, seed=0), np.random.default_rng(0)), condition
        )

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, self.data.table.schema) as writer:
            writer.write_table(self.data.table)
        return {"schema": self.data.schema.to_json()}, {"rows": torch.from_numpy(np.frombuffer(sink.getvalue(), dtype=np.uint8).copy())}

    @classmethod
    def restore(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        table = pa.ipc.open_stream(tensors["rows"].numpy().tobytes()).read_all()
        return cls(Dataset(Schema.from_json(spec["schema"]), table))


@dataclass(frozen=True)
class Copy(Generator):
    """Draws training rows with replacement. No hyper-parameters; not publishable."""

    codec: ClassVar[type[RowCodec]] = RowCodec
    publishable: ClassVar[bool] = False

    def build(self, codec: RowCodec) -> nn.Module:
        net = nn.Module()
        net.register_buffer("rows", torch.tensor(len(codec.data)))
        return net

    def learn(self, net: nn.Module, rows: Rows, run: Run) -> nn.Module:
        return net

    def sample(self, net: Any, n: int, rng: torch.Generator) -> Rows:
        return (torch.randint(int(net.rows), (n,), generator=rng),)  # (1)
