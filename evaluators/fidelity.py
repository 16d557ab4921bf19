"""How like the real table the synthetic one is: column by column, pair by pair, and to a detector that sees whole rows.

Shapes and trends are sdmetrics' definitions (column shapes; column pair trends without thresholds and without subsampling, numbers
cut into ten bins of the real column where they meet a category), as percent errors: 0 is best. The detector is boosted trees that
learn to tell real rows from synthetic ones; an area of 0.5 means that it cannot. Every figure also comes for held-out real rows
in place of synthetic ones: no honest sample does better than that.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np

from data.schema import Column, Dataset
from evaluators.histograms import column_plot, pair_plot
from evaluators.protocol import capped
from evaluators.tabular import boosted, codes, features, measured, side_by_side

BINS = 10  # bins of a number where it meets a category
ROWS = 100_000  # rows of a table that shapes and trends are computed on
FOLDS = 5
TREES = 200
WORST_PAIRS = 30
PLOTTED_COLUMNS = 60
PLOTTED_PAIRS = 6


def fidelity(
    real_train: Dataset, real_test: Dataset, synthetic: Dataset, *, seed: int = 0, rows: int = ROWS, detector_rows: int = 10_000
) -> dict[str, Any]:
    """Shape and trend errors in percent, the detector's areas with 95 % intervals, the worst columns and pairs, and their histograms.

    `rows` caps the rows of each table, `detector_rows` the rows a side that the detector sees; what was used stands in "rows_used".
    The figures against real rows ("real") compare the test rows with the training rows. Columns in "left_out" (ids, texts, images)
    count in nothing.
    """
    rng = np.random.default_rng([seed, 0xF1DE])
    schema = real_train.schema
    train, test, made = (capped(Dataset.of(data.table, schema), rows, rng) for data in (real_train, real_test, synthetic))
    columns = measured(schema)
    shapes, shapes_real = shape_errors(train, made), shape_errors(train, test)
    trends, trends_real = trend_errors(train, made), trend_errors(train, test)
    worst = sorted(columns, key=lambda c: -shapes[c.name])
    pairs = sorted(trends, key=lambda pair: -trends[pair])
    n = min(detector_rows, len(train), len(test), len(made))
    return {
        "shape": {"synthetic": mean(shapes), "real": mean(shapes_real)},
        "trend": {"synthetic": mean(trends), "real": mean(trends_real)},
        "detector": {
            "train": detector(train, made, seed, detector_rows),
            "test": detector(test, made, seed, detector_rows),
            "real": detector(train, test, seed, detector_rows),
        },
        "columns": [
            {"name": c.name, "kind": c.kind, "error": rounded(shapes[c.name]), "real_error": rounded(shapes_real[c.name])} for c in worst
        ],
        "pairs": [
            {"a": a, "b": b, "error": rounded(trends[a, b]), "real_error": rounded(trends_real.get((a, b)))} for a, b in pairs[:WORST_PAIRS]
        ],
        "left_out": [c.name for c in schema.columns if c not in columns],
        "rows_used": {"train": len(train), "test": len(test), "synthetic": len(made), "detector_a_side": n},
        "plots": {
            "columns": [column_plot(c, train, made) for c in worst[:PLOTTED_COLUMNS]],
            "pairs": [pair_plot(schema[a], schema[b], train, made) for a, b in pairs[:PLOTTED_PAIRS]],
        },
    }


def shape_errors(real: Dataset, other: Dataset) -> dict[str, float]:
    """Percent error of each column's distribution among the values that are not null; 100 where only one side has any."""
    errors = {}
    for column in measured(real.schema):
        if column.is_number:
            a, b = (np.sort(values[~np.isnan(values)]) for values in (column.numbers(data.table[column.name]) for data in (real, other)))
            distance = kolmogorov_smirnov
        else:
            a, b = (code[code >= 0] for code in codes(column, [real, other]))
            distance = total_variation
        errors[column.name] = 100 * distance(a, b) if len(a) and len(b) else 100.0 * (len(a) != len(b))
    return errors


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> float:
    """The largest gap between two empirical distribution functions; both sorted."""
    at = np.concatenate([a, b])
    return float(np.abs(np.searchsorted(a, at, "right") / len(a) - np.searchsorted(b, at, "right") / len(b)).max())


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """Half the summed gaps between the shares of the codes (int, from 0) of two samples."""
    size = int(max(a.max(), b.max())) + 1
    if size > 4_000_000:  # a table of counts would be mostly zeros: renumber
        size, both = 0, np.unique(np.concatenate([a, b]), return_inverse=True)[1]
        a, b = both[: len(a)], both[len(a) :]
    share = [np.bincount(codes, minlength=size or int(max(a.max(), b.max())) + 1) / len(codes) for codes in (a, b)]
    return float(np.abs(share[0] - share[1]).sum() / 2)


def trend_errors(real: Dataset, other: Dataset) -> dict[tuple[str, str], float]:
    """Percent error of each pair of columns in the schema's order: of the correlation of two numbers, else of the joint shares.

    A pair of numbers without a correlation in the real rows (one is constant) is left out; one that only the other rows lack
    counts as a correlation of 0.
    """
    columns = measured(real.schema)
    numbers = [c for c in columns if c.is_number]
    values = [[c.numbers(data.table[c.name]) for c in numbers] for data in (real, other)]
    position = {c.name: i for i, c in enumerate(numbers)}
    binned = {c.name: bins(c, a, b) for c, a, b in zip(numbers, *values, strict=True)}
    binned |= {c.name: [code + 1 for code in codes(c, [real, other])] for c in columns if not c.is_number}
    size = {name: int(max(a.max(initial=0), b.max(initial=0))) + 1 for name, (a, b) in binned.items()}
    correlation = [correlations(np.column_stack(v)) for v in values] if numbers else []
    errors = {}
    for a, b in combinations(columns, 2):
        if a.is_number and b.is_number:
            r, s = (matrix[position[a.name], position[b.name]] for matrix in correlation)
            if not np.isnan(r):
                errors[a.name, b.name] = 50 * abs(float(r) - float(np.nan_to_num(s)))
        else:
            joint = [x * size[b.name] + y for x, y in zip(binned[a.name], binned[b.name], strict=True)]
            errors[a.name, b.name] = 100 * total_variation(*joint)
    return errors


def bins(column: Column, real: np.ndarray, other: np.ndarray) -> list[np.ndarray]:
    """int [n] of both: 1 to `BINS` by equal widths over the real values, the ends open; nulls in one more."""
    known = real[~np.isnan(real)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
    inner = np.linspace(low, high, BINS + 1)[1:-1]
    return [np.where(np.isnan(x), BINS + 1, np.searchsorted(inner, x, "right") + 1) for x in (real, other)]


def correlations(x: np.ndarray) -> np.ndarray:
    """[d, d] Pearson correlations of [n, d], each over the rows where both columns are known; NaN where undefined."""
    known = ~np.isnan(x)
    m = known.astype(float)
    n = np.maximum(m.sum(0), 1)
    z = np.where(known, x, 0.0)
    z = np.where(known, x - z.sum(0) / n, 0.0)
    scale = np.sqrt((z**2).sum(0) / n)
    z = z / np.where(scale > 0, scale, 1.0)
    count, total, square = m.T @ m, z.T @ m, (z**2).T @ m  # total[i, j]: sum of column i over the rows where j is known too
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = z.T @ z - total * total.T / count
        variance = square - total**2 / count
        variance[(variance < 1e-9 * count) | (count < 2)] = np.nan
        return covariance / np.sqrt(variance * variance.T)


def detector(a: Dataset, b: Dataset, seed: int, rows: int) -> dict[str, float | None]:
    """How well boosted trees tell rows of `a` from rows of `b`: cross-validated area under the curve with its 95 % interval.

    Both sides have the same number of rows, at most `rows`. 0.5: they cannot be told apart; 1: always.
    """
    rng = np.random.default_rng([seed, 0xC257])
    n = min(len(a), len(b), rows)
    if n < 2 * FOLDS:
        return {"auc": None, "low": None, "high": None}
    (x_a, x_b), categorical = features([capped(a, n, rng), capped(b, n, rng)])
    return told_apart(x_a, x_b, rng, lambda x, y, held: boosted(x, y, held, categorical, 2, seed, TREES))


def told_apart(x_a: np.ndarray, x_b: np.ndarray, rng: np.random.Generator, learner: Callable[..., np.ndarray]) -> dict[str, float | None]:
    """The area of any learner (x, y, x_held -> chances [held, 2]) that tells float64 [n, d] from [n, d], n at least 2 * `FOLDS`."""
    n = len(x_a)
    x, y = np.concatenate([x_a, x_b]), np.repeat([0, 1], n)
    fold = np.concatenate([rng.permutation(n) % FOLDS, rng.permutation(n) % FOLDS])

    def area(k: int) -> tuple[float, float]:
        held = fold == k
        score = learner(x[~held], y[~held], x[held])[:, 1]
        return area_and_variance(y[held] == 1, score)

    areas, variances = zip(*side_by_side(area, range(FOLDS)), strict=True)
    return with_interval(float(np.mean(areas)), float(np.sum(variances)) ** 0.5 / FOLDS)


def area_and_variance(positive: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """The area under the ROC curve and the variance of that estimate (the method of placements, DeLong 1988)."""
    up, down = np.sort(score[positive]), np.sort(score[~positive])

    def beaten(values: np.ndarray, by: np.ndarray) -> np.ndarray:
        return (np.searchsorted(by, values, "left") + np.searchsorted(by, values, "right")) / 2 / len(by)

    wins, losses = beaten(up, down), beaten(down, up)
    return float(wins.mean()), float(wins.var(ddof=1) / len(up) + losses.var(ddof=1) / len(down))


def with_interval(area: float, deviation: float) -> dict[str, float | None]:
    """An area with its 95 % interval, inside [0, 1]."""
    low, high = np.clip([area - 1.96 * deviation, area + 1.96 * deviation], 0, 1)
    return {"auc": round(area, 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def mean(errors: dict[Any, float]) -> float | None:
    """The average error, or None when there is nothing to average."""
    return rounded(float(np.mean(list(errors.values())))) if errors else None


def rounded(error: float | None) -> float | None:
    """Three decimals of a percent."""
    return None if error is None else round(error, 3)
