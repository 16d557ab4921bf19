"""What the codecs of images and of texts share: a label beside what is learnt, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from data.errors import BadInput, suggest
from data.schema import RARE, Column, Dataset, Schema
from data.terms import Test
from generators.base import Codec, Rows

MOST_LABELS = 1000


@dataclass(frozen=True)
class LabelCodec(Codec):
    """Rows are (x [n, ...], y int64 [n]). `shares` float64 [L] is how often each label occurs; without a label there is one."""

    schema: Schema
    shares: np.ndarray
    noun: ClassVar[str]  # what a row is called: image, text

    def one(self, *kinds: str) -> Column | None:
        """The first column of such a kind."""
        return next((c for c in self.schema.columns if c.kind in kinds), None)

    @property
    def label(self) -> Column | None:
        return self.one("category", "boolean")

    def whole(self) -> Self:
        """The codec, which a file describes. ValueError unless there is a share for each label."""
        if len(self.shares) != (len(self.label.categories) if self.label else 1):
            raise ValueError("shares")
        return self

    def frequencies(self, data: Dataset) -> np.ndarray:
        """float64 [L]: the share of each label. BadInput for too many of them, and as in `labels`."""
        if self.label is None:
            return np.ones(1)
        if len(self.label.categories) > MOST_LABELS:
            raise BadInput(f"column {self.label.name!r} has {len(self.label.categories):,} labels; at most {MOST_LABELS} can be learnt")
        return np.bincount(self.labels(data), minlength=len(self.label.categories)) / len(data)

    def labels(self, data: Dataset) -> np.ndarray:
        """int64 [n] of each row's label. BadInput for a label that is null or too rare to be learnt."""
        if self.label is None:
            return np.zeros(len(data), dtype=np.int64)
        known = {value: i for i, value in enumerate(self.label.categories)}
        words = self.label.strings(data.table[self.label.name]).to_pylist()
        odd = next((word for word in words if word not in known), words[0])
        if odd not in known:
            what = "is null" if odd is None else f"holds a label that fewer than {RARE} {self.noun}s have"
            raise BadInput(f"column {self.label.name!r} {what}: leave those rows out")
        return np.array([known[word] for word in words], dtype=np.int64)

    def named(self, y: np.ndarray) -> pa.Array:
        """The column of labels int64 [n]."""
        assert self.label
        return pa.array(self.label.categories, pa.string()).take(pa.array(y)).cast(self.label.arrow)

    def condition(self, given: Mapping[str, object]) -> Mapping[str, int]:
        for name, value in given.items():
            if self.label is None or name != self.label.name:
                raise BadInput(f"the condition names column {name!r}: of {self.noun}s only the label can be given")
            if str(value) not in self.label.categories:
                raise BadInput(
                    f"the condition sets {name!r} to {value!r}, which is not one of its values{suggest(str(value), self.label.categories)}"
                )
        return {name: self.label.categories.index(str(value)) for name, value in given.items() if self.label}

    def matches(self, rows: Rows, condition: Mapping[str, int]) -> Tensor:
        return torch.stack([rows[1] == label for label in condition.values()]).all(0)

    def weights(self, tests: Mapping[str, Test], given: Mapping[str, object]) -> dict[int, Tensor]:
        """{0: float [L]}, which labels are wanted, or nothing when any is. BadInput as in `condition`."""
        if self.label is None:
            return {}
        for label in self.condition(given).values():
            return {0: F.one_hot(torch.tensor(label), len(self.shares)).float()}
        if self.label.name not in tests:
            return {}
        passed = tests[self.label.name](pa.array(self.label.categories, pa.string()).cast(self.label.arrow))
        return {0: torch.from_numpy(passed).float()}
