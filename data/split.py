"""The seeded split into rows a generator may see and rows it is judged on."""

from __future__ import annotations

import numpy as np

from data.errors import BadInput
from data.schema import Dataset, Split
from data.texts import keys

LEAST = 10  # texts that differ


def split(data: Dataset, *, seed: int = 0, test_share: float = 0.2) -> Split:
    """A seeded split, stratified by the target (by its deciles when it is a quantity, by one's class when it is a category).

    Rows whose x are near copies of each other as texts stay on one side, so that nothing is tested that was learnt by heart. BadInput when
    there are too few texts that differ.
    """
    rng = np.random.default_rng([seed, 0x5B117])
    groups = groups_of(data)
    strata = strata_of(data)[np.unique(groups, return_index=True)[1]]
    order = rng.permutation(len(strata))
    # within each stratum the first test_share of a random order are test rows
    by_stratum = order[np.argsort(strata[order], kind="stable")]
    starts = np.searchsorted(strata[by_stratum], strata[by_stratum])
    rank = np.arange(len(strata)) - starts
    size = np.bincount(strata)[strata[by_stratum]]
    test = np.zeros(len(strata), dtype=bool)
    test[by_stratum] = rank < np.floor(size * test_share + rng.random(strata.max() + 1)[strata[by_stratum]])
    return Split(data.take(~test[groups]), data.take(test[groups]))


def groups_of(data: Dataset) -> np.ndarray:
    """int64 [n]: rows of the same number are near copies of each other as texts; a row of anything else is alone."""
    texts = [column for column in data.schema.columns if column.kind == "text" and column.name != data.schema.target]
    if not texts:
        return np.arange(len(data))
    groups = np.unique(keys(data.table, texts), return_inverse=True)[1]
    if groups.max() + 1 < LEAST:
        names = " and ".join(repr(column.name) for column in texts)
        raise BadInput(f"column {names} holds {groups.max() + 1} different texts; at least {LEAST} are needed to set some aside")
    return groups


def strata_of(data: Dataset) -> np.ndarray:
    """int64 [n]: the stratum of each row."""
    if data.schema.target is None or data.schema[data.schema.target].kind in ("image", "mask", "style", "text", "id"):
        return np.zeros(len(data), dtype=np.int64)
    column = data.schema[data.schema.target]
    if column.is_number:
        values = column.numbers(data.y)
        edges = np.unique(np.nanquantile(values, np.linspace(0, 1, 11)[1:-1]))
        return np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values))
    codes = column.strings(data.y).dictionary_encode(null_encoding="encode")
    return codes.indices.to_numpy(zero_copy_only=False).astype(np.int64)
