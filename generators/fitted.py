"""A trained generator: samples rows, and saves to and loads from a folder of two files.

`model.safetensors` holds the weights and the codec's tensors; `model.json` the registry name, parameters, schema, codec and the digest
of the first. Loading builds only what the registry names, checks the digest and every shape, and never runs code from a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data.errors import BadInput
from data.schema import Dataset, Schema
from generators.base import Codec, Generator
from generators.train import few_threads, mix

FORMAT = 1
CHUNK = 65_536  # rows made at a time: what bounds the memory of any number of rows
RAREST = 500_000  # draws without a single match after which a condition is given up


@dataclass(frozen=True)
class Fitted:
    """A recipe, the codec that reads its data, and the trained net. `log` is JSON: steps, seconds, the loss curve."""

    generator: Generator
    codec: Codec
    net: nn.Module
    schema: Schema
    log: dict[str, Any] = field(default_factory=dict)

    def sample(self, n: int, *, seed: int = 0, given: Mapping[str, object] | None = None) -> Dataset:
        """n new rows; the same seed gives the same rows. `given` fixes columns, e.g. {"cut": "Ideal"}.

        BadInput for an unknown column or value, and for a condition too rare to be met.
        """
        return Dataset(self.schema, pa.concat_tables([chunk.table for chunk in self.stream(n, seed=seed, given=given)]).combine_chunks())

    def stream(self, n: int, *, seed: int = 0, given: Mapping[str, object] | None = None) -> Iterator[Dataset]:
        """The rows of `sample` in chunks of constant size; chunk i depends on (seed, i) only."""
        if n < 1:
            raise BadInput(f"{n} rows were asked for; ask for at least 1")
        condition = self.codec.condition(given or {})
        for number, start in enumerate(range(0, n, CHUNK)):
            size = min(CHUNK, n - start)
            rng = torch.Generator().manual_seed(mix(seed, number, 7))
            with torch.inference_mode(), few_threads(self.net):
                rows = self.matching(size, rng, condition) if condition else self.generator.sample(self.net, size, rng)
            chunk = self.codec.decode(rows, np.random.default_rng([seed, number]), start=start, seed=seed)
            yield fixed(chunk, given) if given else chunk

    def matching(self, n: int, rng: torch.Generator, condition: Mapping[str, int]) -> tuple[Tensor, ...]:
        """n draws that meet the condition, by rejection: exact for every generator."""
        kept: list[tuple[Tensor, ...]] = []
        have = drawn = 0
        while have < n:
            size = 4096 if not have else int(min(CHUNK, max(256, 1.2 * (n - have) * drawn / have)))
            rows = self.generator.sample(self.net, size, rng)
            mask = self.codec.matches(rows, condition)
            kept.append(tuple(t[mask] for t in rows))
            have, drawn = have + int(mask.sum()), drawn + size
            if drawn >= RAREST * (1 + have):
                names = " and ".join(repr(name) for name in condition)
                raise BadInput(f"the values given for {names} occur together in fewer than 1 of {RAREST:,} rows: loosen the condition")
        return tuple(torch.cat(parts)[:n] for parts in zip(*kept, strict=True))

    def save(self, folder: Path) -> None:
        """Write model.safetensors and model.json."""
        from generators.registry import name_of

        folder.mkdir(parents=True, exist_ok=True)
        spec, tensors = self.codec.state()
        tensors = {f"codec.{k}": t for k, t in tensors.items()} | {f"net.{k}": t for k, t in self.net.state_dict().items()}
        save_file({k: t.contiguous() for k, t in tensors.items()}, folder / "model.safetensors")
        model = {
            "format": FORMAT,
            "generator": {"name": name_of(type(self.generator)), "parameters": parameters(self.generator)},
            "schema": self.schema.to_json(),
            "codec": spec,
            "log": self.log,
            "sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        }
        (folder / "model.json").write_text(json.dumps(model, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Fitted:
        """What `save` wrote. BadInput when a file is missing, truncated, changed, or made by another version."""
        from generators.registry import make

        try:
            model = json.loads((folder / "model.json").read_text())
            weights = (folder / "model.safetensors").read_bytes()
        except FileNotFoundError as missing:
            raise BadInput(f"{folder} is not a model: it has no {Path(missing.filename).name}") from None
        except (OSError, ValueError):
            raise BadInput(f"{folder}/model.json cannot be read: the file is truncated or damaged; fit the model again") from None
        if not isinstance(model, dict) or model.get("format") != FORMAT:
            raise BadInput(f"{folder} was written by another version of Alfar: fit the model again with this one")
        if hashlib.sha256(weights).hexdigest() != model.get("sha256"):
            raise BadInput(f"{folder}/model.safetensors was changed or truncated after it was written: fit the model again")
        try:
            generator = make(model["generator"]["name"], model["generator"]["parameters"])
            tensors = load_file(folder / "model.safetensors")
            codec = generator.codec.restore(model["codec"], under("codec.", tensors))
            net = generator.build(codec)
            net.load_state_dict(under("net.", tensors))
            return cls(generator, codec, net.eval(), Schema.from_json(model["schema"]), model["log"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, SafetensorError):
            raise BadInput(f"{folder}/model.json does not fit its weights: it was changed; fit the model again") from None


def parameters(generator: Generator) -> dict[str, Any]:
    """The recipe's hyper-parameters as JSON."""
    from dataclasses import asdict

    return json.loads(json.dumps(asdict(generator)))


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name begins with the prefix, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def fixed(chunk: Dataset, given: Mapping[str, object]) -> Dataset:
    """The chunk with the given columns holding exactly the given values (a code may stand for a small range of them)."""
    table = chunk.table
    for name, value in given.items():
        column = pa.array([value] * len(chunk)).cast(chunk.schema[name].arrow)
        table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
    return Dataset(chunk.schema, table)
