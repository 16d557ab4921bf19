"""The seeded split into rows a generator may see and rows it is judged on."""

from __future__ import annotations

import numpy as np

from data.schema import Dataset, Split


def split(data: Dataset, *, seed: int = 0, test_share: float = 0.2) -> Split:
    """A seeded split, stratified by the target (by its deciles when it is a quantity, by one's class when it is a category)."""
    rng = np.random.default_rng([seed, 0x5B117])
    strata = strata_of(data)
    order = rng.permutation(len(data))
    # within each stratum the first test_share of a random order are test rows
    by_stratum = order[np.argsort(strata[order], kind="stable")]
    starts = np.searchsorted(strata[by_stratum], strata[by_stratum])
    rank = np.arange(len(data)) - starts
    size = np.bincount(strata)[strata[by_stratum]]
    test = np.zeros(len(data), dtype=bool)
    test[by_stratum] = rank < np.floor(size * test_share + rng.random(strata.max() + 1)[strata[by_stratum]])
    return Split(data.take(~test), data.take(test))


def strata_of(data: Dataset) -> np.ndarray:
    """int64 [n]: the stratum of each row."""
    if data.schema.target is None or data.schema[data.schema.target].kind in ("image", "mask", "text", "id"):
        return np.zeros(len(data), dtype=np.int64)
    column = data.schema[data.schema.target]
    if column.is_number:
        values = column.numbers(data.y)
        edges = np.unique(np.nanquantile(values, np.linspace(0, 1, 11)[1:-1]))
        return np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values))
    codes = column.strings(data.y).dictionary_encode(null_encoding="encode")
    return codes.indices.to_numpy(zero_copy_only=False).astype(np.int64)
