"""Identifiers: never learnt, always made anew: unique, and of the form that the real ones have."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import BadInput
from data.schema import Column

ALPHABETS = (
    string.digits,
    string.digits + "abcdef",
    string.digits + "ABCDEF",
    string.ascii_lowercase,
    string.ascii_uppercase,
    string.ascii_lowercase + string.digits,
    string.ascii_uppercase + string.digits,
    string.ascii_letters + string.digits,
)


@dataclass(frozen=True)
class Ids:
    """A pattern: one alphabet a position (of one letter where all real ids agree). Whole numbers in a row are numbered from 1."""

    column: Column
    alphabets: tuple[str, ...]
    serial: bool

    @classmethod
    def fit(cls, column: Column, array: Any) -> Ids:
        words = column.strings(array).drop_null()
        if not len(words):
            raise BadInput(f"column {column.name!r} holds ids, but none in the training rows: drop it")
        whole = pa.types.is_integer(column.arrow)
        if whole:
            span = pc.min_max(array)
            if span["max"].as_py() - span["min"].as_py() < 2 * len(array):
                return cls(column, (), True)
        lengths, often = np.unique(pc.utf8_length(words).to_numpy(), return_counts=True)
        length = int(lengths[-1] if whole else lengths[often.argmax()])
        sample = [w for w in words.to_pylist() if len(w) == length]
        alphabets = [narrowest({w[i] for w in sample}) for i in range(length)]
        if whole:
            alphabets[0] = string.digits[1:]
        return cls(column, tuple(alphabets), False)

    def make(self, start: int, n: int, seed: int) -> pa.Array:
        """Ids number start … start + n - 1 of the series `seed`; none occurs twice in a series."""
        if self.serial:
            return pa.array(np.arange(start + 1, start + n + 1)).cast(self.column.arrow)
        radices = [len(a) for a in self.alphabets]
        capacity, chosen = 1, 0  # the last positions count through a permutation; the others are drawn
        for radix in reversed(radices):
            if capacity > 2**40:
                break
            capacity, chosen = capacity * radix, chosen + 1
        rng = np.random.default_rng([seed, 0x1D5])
        shift = int(rng.integers(capacity))
        factor = coprime(int(capacity * 0.6180339887) | 1, capacity)
        number = ((np.arange(start, start + n, dtype=object) * factor + shift) % capacity).astype(np.int64)
        overflow = np.arange(start, start + n) // capacity  # more rows than ids of this form: they grow by a counter
        draws = np.random.default_rng([seed, 0x1D6, start])
        letters: list[np.ndarray] = []
        for position in reversed(range(len(radices))):
            radix = radices[position]
            if position >= len(radices) - chosen:
                number, digit = np.divmod(number, radix)
            else:
                digit = draws.integers(radix, size=n)
            letters.append(np.array(list(self.alphabets[position]))[digit])
        text = np.array([""] * n, dtype=object)
        for column in reversed(letters):
            text = text + column.astype(object)
        if overflow[-1]:
            text = np.where(overflow > 0, overflow.astype(str).astype(object) + text, text)
        return pa.array(text.tolist(), pa.string()).cast(self.column.arrow)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {"alphabets": list(self.alphabets), "serial": self.serial}, {}

    @classmethod
    def restore(cls, column: Column, spec: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Ids:
        return cls(column, tuple(spec["alphabets"]), bool(spec["serial"]))


def narrowest(letters: set[str]) -> str:
    """The smallest usual alphabet that holds these letters; a single letter stands for itself."""
    if len(letters) == 1:
        return letters.pop()
    return next((a for a in ALPHABETS if letters <= set(a)), ALPHABETS[-1])


def coprime(start: int, modulus: int) -> int:
    """The first number from `start` on that shares no factor with the modulus."""
    import math

    return next(k for k in range(max(1, start), start + modulus + 2) if math.gcd(k, modulus) == 1)
