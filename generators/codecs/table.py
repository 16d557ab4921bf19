"""Codecs for tables: `TokenCodec` makes every column one token, `MixedCodec` quantities normal scores and the rest tokens."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from scipy.special import ndtr, ndtri
from torch import Tensor

from data.errors import BadInput, suggest
from data.schema import Dataset, Schema
from data.terms import Test
from generators.base import Codec, Rows
from generators.codecs.columns import Categories, Code, Quantiles
from generators.codecs.ids import Ids
from generators.private import Privacy

KINDS: dict[str, type[Categories] | type[Quantiles] | type[Ids]] = {
    "category": Categories,
    "boolean": Categories,
    "number": Quantiles,
    "integer": Quantiles,
    "datetime": Quantiles,
    "id": Ids,
}


@dataclass(frozen=True)
class TableCodec(Codec):
    """What both table codecs share: a code for each column, ids that are made anew, and conditions."""

    schema: Schema
    codes: tuple[Code, ...]  # the learnt columns, in the schema's order
    ids: tuple[Ids, ...]
    seen: int  # rows that it was fitted to

    @classmethod
    def fit(cls, data: Dataset) -> Self:
        unfit = [f"{c.name!r} ({c.kind})" for c in data.schema.columns if c.kind not in KINDS]
        if unfit:
            raise BadInput(
                f"a generator for tables cannot learn the columns {', '.join(unfit)}: drop them (--drop) or give them another --kind"
            )
        fitted = [KINDS[c.kind].fit(c, data.table[c.name]) for c in data.schema.columns]
        codes = tuple(code for code in fitted if not isinstance(code, Ids))
        if not codes:
            raise BadInput("every column is an identifier: there is nothing to learn")
        return cls(data.schema, codes, tuple(code for code in fitted if isinstance(code, Ids)), len(data))

    @property
    def cells(self) -> int:
        return len(self.schema.columns)

    def filled(self, rows: Rows) -> float:
        return self.cells

    def noised(self, privacy: Privacy) -> Self:
        """The same with shares of its tokens under noise: a row adds 1 to one token of each column.

        A column's counts are drawn together by as much as the noise makes of their differences (James, Stein: Estimation with Quadratic
        Loss, 1961), and a token keeps a row at least.
        """
        tokens = [code.tokens for code in self.codes]
        counts, noise = privacy.summed(np.concatenate(tokens) * self.seen, len(tokens) ** 0.5)
        codes = []
        for code, part in zip(self.codes, np.split(counts, np.cumsum([len(t) for t in tokens])[:-1]), strict=True):
            kept = max(0.0, 1 - noise**2 / max(part.var(), 1e-12))
            even = np.maximum(part.mean() + kept * (part - part.mean()), 1.0)
            codes.append(code.reweighted(even / even.sum()))
        return replace(self, codes=tuple(codes))

    @property
    def names(self) -> list[str]:
        """The learnt columns."""
        return [code.column.name for code in self.codes]

    @property
    def target(self) -> int | None:
        """The target's position among the learnt columns."""
        return self.names.index(self.schema.target) if self.schema.target in self.names else None

    @property
    def shares(self) -> list[np.ndarray]:
        """For each learnt column, how often each of its tokens occurs."""
        return [code.tokens for code in self.codes]

    def assemble(self, arrays: list[pa.Array], n: int, start: int, seed: int) -> Dataset:
        """The decoded columns and fresh ids in the schema's order."""
        found = dict(zip(self.names, arrays, strict=True)) | {code.column.name: code.make(start, n, seed) for code in self.ids}
        return Dataset(self.schema, pa.table([found[name] for name in self.schema.names], schema=self.schema.arrow))

    def condition(self, given: Mapping[str, object]) -> Mapping[str, int]:
        codes = dict(zip(self.names, self.codes, strict=True))
        found = {}
        for name, value in given.items():
            if name not in codes:
                raise BadInput(f"the condition names column {name!r}, which does not exist or is an identifier{suggest(name, self.names)}")
            code = codes[name]
            try:
                array = pa.array([value]).cast(code.column.arrow)
            except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
                raise BadInput(f"the condition sets {name!r} to {value!r}, which is not a value of type {code.column.type}") from None
            if isinstance(code, Categories) and value is not None and code.column.strings(array)[0].as_py() not in code.values:
                raise BadInput(
                    f"the condition sets {name!r} to {value!r}, which is not one of its values{suggest(str(value), code.values)}"
                )
            if value is None and not (code.null if isinstance(code, Categories) else code.nulls):
                raise BadInput(f"the condition sets {name!r} to null, but the column has no nulls")
            found[name] = int(code.encode(array, np.random.default_rng(0))[0][0])
        return found

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        spec: dict[str, Any] = {"schema": self.schema.to_json(), "rows": self.seen, "columns": {}}
        tensors: dict[str, Tensor] = {}
        for number, code in enumerate((*self.codes, *self.ids)):
            spec["columns"][code.column.name], arrays = code.state()
            tensors |= {f"{number}.{key}": torch.from_numpy(np.ascontiguousarray(a)) for key, a in arrays.items()}
        return spec, tensors

    @classmethod
    def restore(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        schema = Schema.from_json(spec["schema"])
        found: list[Any] = []
        for number, (name, state) in enumerate(spec["columns"].items()):
            arrays = {k.removeprefix(f"{number}."): t.numpy() for k, t in tensors.items() if k.startswith(f"{number}.")}
            found.append(KINDS[schema[name].kind].restore(schema[name], state, arrays))
        return cls(schema, tuple(c for c in found if not isinstance(c, Ids)), tuple(c for c in found if isinstance(c, Ids)), spec["rows"])


class TokenCodec(TableCodec):
    """Rows are one tensor, int64 [n, K]: one token or two (coarse, then fine) for each learnt column."""

    @property
    def shares(self) -> list[np.ndarray]:
        """The share of each token at each of the K positions: [V], or [V before, V] given the token at the position before."""
        return [digit for code in self.codes for digit in code.digits]

    @property
    def sizes(self) -> list[int]:
        """The vocabulary at each position."""
        return [share.shape[-1] for share in self.shares]

    @property
    def ranks(self) -> list[np.ndarray | None]:
        """For each position whose tokens have an order, the rank of each token in (0, 1), NaN where it has none; otherwise None."""
        return [rank for code in self.codes for rank in (code.order, *[None] * (len(code.digits) - 1))]

    @property
    def positions(self) -> list[slice]:
        """Where each learnt column's tokens stand."""
        ends = np.cumsum([0, *(len(code.digits) for code in self.codes)]).tolist()
        return [slice(begin, end) for begin, end in itertools.pairwise(ends)]

    def encode(self, data: Dataset, rng: np.random.Generator) -> Rows:
        columns = [code.split(data.table[code.column.name], rng) for code in self.codes]
        return (torch.from_numpy(np.concatenate(columns, axis=1)),)

    def decode(self, rows: Rows, rng: np.random.Generator, *, start: int, seed: int) -> Dataset:
        tokens = rows[0].numpy()
        arrays = [code.join(tokens[:, part], rng) for code, part in zip(self.codes, self.positions, strict=True)]
        return self.assemble(arrays, len(tokens), start, seed)

    def weights(self, tests: Mapping[str, Test], given: Mapping[str, object]) -> dict[int, Tensor]:
        """For each position that a condition bears on, the share of each token, float [V], that passes.

        `tests` tell which values of a column pass, `given` holds fixed values; a test bears on a column's first token only, so that rows
        drawn with these weights still have to be tested. BadInput as in `condition`.
        """
        found: dict[int, Tensor] = {}
        places = dict(zip(self.names, zip(self.codes, self.positions, strict=True), strict=True))
        for name in self.condition(given):
            code, part = places[name]
            digits = code.split(pa.array([given[name]]).cast(code.column.arrow), np.random.default_rng(0))[0]
            for k, digit in zip(range(part.start, part.stop), digits.tolist(), strict=True):
                found[k] = F.one_hot(torch.tensor(digit), self.sizes[k]).float()
        for name in tests.keys() - given.keys():
            code, part = places[name]
            passed = code.passing(tests[name])
            found[part.start] = torch.from_numpy(passed).float()
        return found

    def matches(self, rows: Rows, condition: Mapping[str, int]) -> Tensor:
        first = {name: part.start for name, part in zip(self.names, self.positions, strict=True)}
        return torch.stack([rows[0][:, first[name]] == token for name, token in condition.items()]).all(0)


class MixedCodec(TableCodec):
    """Rows are (z float32 [n, D], c int64 [n, K]): normal scores of the quantities, and tokens of everything else.

    A quantity's score is Phi^-1 of its rank, so each column is standard normal; a quantity of few values counts as a category, and one
    with nulls brings a second category, 1 where null.
    """

    FEW: ClassVar[int] = 32

    @property
    def scores(self) -> list[int]:
        """The positions of the columns that are scores."""
        return [
            k for k, code in enumerate(self.codes) if isinstance(code, Quantiles) and not (code.discrete and len(code.tokens) <= self.FEW)
        ]

    @property
    def categories(self) -> list[int]:
        """The positions of the columns that are tokens."""
        return [k for k in range(len(self.codes)) if k not in self.scores]

    @property
    def holes(self) -> list[int]:
        """The positions of the scores that may be null."""
        return [k for k in self.scores if self.codes[k].nulls]  # type: ignore[union-attr]

    @property
    def priors(self) -> list[np.ndarray]:
        """How often each token of each of the K categories occurs: the columns first, then the null flags."""
        nulls = [self.shares[k][-1] for k in self.holes]
        return [self.shares[k] for k in self.categories] + [np.array([1 - share, share]) for share in nulls]

    @property
    def sizes(self) -> list[int]:
        """The vocabulary of each of the K categories."""
        return [len(prior) for prior in self.priors]

    def encode(self, data: Dataset, rng: np.random.Generator) -> Rows:
        columns = [data.table[code.column.name] for code in self.codes]
        scores = [ndtri(self.codes[k].ranks(columns[k], rng)) for k in self.scores]  # type: ignore[union-attr]
        tokens = [self.codes[k].encode(columns[k], rng)[0] for k in self.categories]
        flags = [np.isnan(self.codes[k].column.numbers(columns[k])).astype(np.int64) for k in self.holes]
        z = np.stack(scores, axis=1) if scores else np.zeros((len(data), 0))
        c = np.stack(tokens + flags, axis=1) if tokens + flags else np.zeros((len(data), 0), dtype=np.int64)
        return torch.from_numpy(z).float().clamp(-4, 4), torch.from_numpy(c)

    def decode(self, rows: Rows, rng: np.random.Generator, *, start: int, seed: int) -> Dataset:
        ranks, tokens = ndtr(rows[0].double().numpy()), rows[1].numpy()
        arrays: dict[int, pa.Array] = {}
        for j, k in enumerate(self.categories):
            arrays[k] = self.codes[k].decode(tokens[:, j], rng.random(len(tokens)))
        for j, k in enumerate(self.scores):
            null = tokens[:, len(self.categories) + self.holes.index(k)] == 1 if k in self.holes else None
            arrays[k] = self.codes[k].invert(ranks[:, j], null)  # type: ignore[union-attr]
        return self.assemble([arrays[k] for k in range(len(self.codes))], len(tokens), start, seed)

    def matches(self, rows: Rows, condition: Mapping[str, int]) -> Tensor:
        ranks = ndtr(rows[0].double().numpy())
        found = np.ones(len(ranks), dtype=bool)
        for name, token in condition.items():
            k = self.names.index(name)
            if k in self.categories:
                found &= rows[1][:, self.categories.index(k)].numpy() == token
                continue
            code = self.codes[k]
            assert isinstance(code, Quantiles)
            null = (
                rows[1][:, len(self.categories) + self.holes.index(k)].numpy() == 1 if k in self.holes else np.zeros(len(ranks), dtype=bool)
            )
            bounds = code.bounds
            here = np.searchsorted(bounds, ranks[:, self.scores.index(k)], side="right") - 1
            found &= np.where(null, len(bounds) - 1, np.clip(here, 0, len(bounds) - 2)) == token
        return torch.from_numpy(found)
