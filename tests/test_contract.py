"""The contract has room for images, masks and text: a codec and a generator for them need nothing that tables have."""

import io
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import nn

from data.errors import BadInput
from data.schema import Dataset, Schema
from generators.base import Codec, Generator
from generators.registry import make


def png(pixels):
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return {"bytes": sink.getvalue(), "path": None}


def pixels(cell):
    return np.array(Image.open(io.BytesIO(cell["bytes"])))


class PairCodec(Codec):
    """Image and mask as one taller image, uint8 [n, 2, H, W]."""

    def __init__(self, schema):
        self.schema = schema

    @property
    def cells(self):
        return 32

    def filled(self, rows):
        return 32

    @classmethod
    def fit(cls, data):
        return cls(data.schema)

    def encode(self, data, rng):
        pairs = [[pixels(row["image"]), pixels(row["mask"])] for row in data.table.to_pylist()]
        return (torch.from_numpy(np.array(pairs)),)

    def decode(self, rows, rng, *, start, seed):
        cells = rows[0].numpy()
        columns = {"image": [png(c[0]) for c in cells], "mask": [png(c[1]) for c in cells]}
        return Dataset(self.schema, pa.table(columns, schema=self.schema.arrow))

    def condition(self, given):
        return {}

    def matches(self, rows, condition):
        return torch.ones(len(rows[0]), dtype=torch.bool)

    def state(self):
        return {"schema": self.schema.to_json()}, {}

    @classmethod
    def restore(cls, spec, tensors):
        return cls(Schema.from_json(spec["schema"]))


class TextCodec(PairCodec):
    """x SEP y as one sequence of bytes, int64 [n, 16]."""

    def encode(self, data, rng):
        texts = [f"{row['x']}\x1e{row['y']}".encode().ljust(16, b"\0") for row in data.table.to_pylist()]
        return (torch.tensor([list(t) for t in texts]),)

    def decode(self, rows, rng, *, start, seed):
        pairs = [bytes(r).rstrip(b"\0").decode().split("\x1e") for r in rows[0].tolist()]
        return Dataset(self.schema, pa.table({"x": [p[0] for p in pairs], "y": [p[1] for p in pairs]}, schema=self.schema.arrow))


@dataclass(frozen=True)
class Pool(Generator):
    """Keeps eight encoded rows and draws from them: the least that fulfils the contract."""

    codec: ClassVar[type[Codec]] = PairCodec

    def build(self, codec):
        return nn.Module()

    def learn(self, net, rows, run):
        net.rows = rows[0][:8]
        return net

    def sample(self, net, n, rng):
        return (net.rows[torch.randint(len(net.rows), (n,), generator=rng)],)


@dataclass(frozen=True)
class TextPool(Pool):
    codec: ClassVar[type[Codec]] = TextCodec


def pairs(n=60):
    rng = np.random.default_rng(0)
    values = {"image": 255, "mask": 3}
    table = pa.table({name: [png(rng.integers(0, most, (4, 4), dtype=np.uint8)) for _ in range(n)] for name, most in values.items()})
    return Dataset.of(table, Schema.infer(table, target="mask"))


def texts(n=60):
    table = pa.table({"x": [f"turn on {i}" for i in range(n)], "y": [f"on {i}" for i in range(n)]})
    return Dataset.of(table, Schema.infer(table, target="y", kinds={"x": "text", "y": "text"}))


@pytest.mark.parametrize(("data", "generator", "task"), [(pairs(), Pool(), "segmentation"), (texts(), TextPool(), "text-to-text")])
def test_other_kinds_of_data_fit_the_contract(data, generator, task):
    assert data.schema.task == task
    fitted = generator.fit(data, seed=0)
    drawn = fitted.sample(20, seed=1)
    assert len(drawn) == 20
    assert drawn.table.schema.equals(data.schema.arrow)
    assert set(map(str, drawn.table.to_pylist())) <= set(map(str, data.table.to_pylist()))


@pytest.mark.parametrize("data", [pairs(), texts()])
def test_a_dataset_of_them_is_saved_and_opened(data, tmp_path):
    data.save(tmp_path / "d.parquet")
    assert Dataset.open(tmp_path / "d.parquet").table.equals(data.table)


@pytest.mark.parametrize("data", [pairs(), texts()])
def test_generators_for_tables_refuse_them_by_name(data):
    with pytest.raises(BadInput, match=data.schema.names[0]):
        make("tabular/marginal", {}).fit(data)
