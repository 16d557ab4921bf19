"""How a score grows with the rows that a judge learns on: real ones, synthetic ones, and as many of both together."""

from __future__ import annotations

from typing import Any

import numpy as np

from data.schema import Dataset, Split
from evaluators.protocol import JUDGES, answered, capped, joined
from evaluators.tabular import judged_as, side_by_side

MOST = 6_000  # rows of the largest set
STEPS = (27, 9, 3, 1)  # the other sets have these parts of its rows
SCORED = 2_000  # test rows
LEAST, LABELLED = 20, 3  # rows of the smallest set, and for each label


def learning(real: Split, synthetic: Dataset, *, seed: int = 0) -> dict[str, Any] | None:
    """{"judge", "metric", "rows": [n, ...], "real": [score, ...], "synthetic", "both"} of the first judge; "both" learns on n of each.

    Smaller sets are parts of larger ones. None without a judge or with too few rows.
    """
    schema = real.train.schema
    judges = JUDGES.get((judged_as(schema), schema.task))
    if schema.target is None or not judges:
        return None
    rng = np.random.default_rng([seed, 0x1EA2])
    train, made = (shuffled(answered(data, real.train), rng) for data in (real.train, synthetic))
    test = capped(answered(real.test, real.train), SCORED, rng)
    rows = [min(MOST, len(train), len(made)) // part for part in STEPS]
    least = max(LEAST, LABELLED * len(schema[schema.target].categories))
    rows = [n for n in rows if n >= least]
    if not rows or not len(test):
        return None
    name, judge = next(iter(judges.items()))
    sets = [[data.take(np.arange(n)) for data in (train, made)] for n in rows]
    fits = [fit for a, b in sets for fit in (a, b, joined(a, b))]
    found = side_by_side(lambda fit: judge(fit, test, seed)(np.ones((len(test), 1))), fits)
    metric = next(iter(found[0]))
    scores = [round(float(score[metric][0]), 5) for score in found]
    return {"judge": name, "metric": metric, "rows": rows, "real": scores[::3], "synthetic": scores[1::3], "both": scores[2::3]}


def shuffled(data: Dataset, rng: np.random.Generator) -> Dataset:
    """The rows in a random order."""
    return data.take(rng.permutation(len(data)))
