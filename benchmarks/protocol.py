"""The judge of the peers' table: one split, one set of scores for any synthetic table, whoever made it.

    python -m benchmarks.protocol synthetic.parquet --real adult      prints the scores as JSON

Real means the training rows for shape, trend and the detector's first figure, the unseen test rows for the second. Shape and trend errors
are 100 (1 - sdmetrics' Column Shapes and Column Pair Trends), thresholds and subsampling switched off. sdmetrics bins each table by its own
minimum and maximum, so that one missing extreme moves the trend a lot; `trend_binned` takes the bins of train for both. The detector is
scikit-learn's histogram gradient boosting, 200 iterations, native categories, 5 folds, equal sizes, never more rows than train has. TSTR is
the same classifier (or regressor) with its defaults, learnt on the synthetic rows. DCR is the percentage of synthetic rows nearer to a
random part of train, of the size of test, than to test. A null category is a category of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import f1_score, r2_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, train_test_split

DATA = Path(os.environ.get("ALFAR_BENCH_DATA", "../shared/data"))
LEVELS = 250  # categories that a tree tells apart; the others are one


@dataclass(frozen=True)
class Real:
    """One benchmark table, split."""

    name: str
    target: str
    train: pd.DataFrame
    test: pd.DataFrame

    @property
    def classification(self) -> bool:
        return not pd.api.types.is_numeric_dtype(self.train[self.target])


@cache
def real(name: str) -> Real:
    """adult, adult_1k, beijing_pm25, diabetes130 or diamonds; a missing file is named."""
    if name == "diamonds":
        from plotnine.data import diamonds

        table, target = diamonds.copy(), "cut"
        for column in table.select_dtypes("category"):
            table[column] = table[column].astype(str)
    else:
        file, target = {
            "adult": ("adult/train", "income"),
            "adult_1k": ("adult/train", "income"),
            "beijing_pm25": ("beijing_pm25/data", "pm2.5"),
            "diabetes130": ("diabetes130/data", "readmitted"),
        }[name]
        path = DATA / "tabular" / f"{file}.parquet"
        if not path.exists():
            raise SystemExit(f"{path} is missing: set ALFAR_BENCH_DATA to the folder of benchmark data")
        table = pq.read_table(path).to_pandas()
    by = table[target] if not pd.api.types.is_numeric_dtype(table[target]) else None
    share: Any = {"train_size": 29_305, "test_size": 3_256} if name.startswith("adult") else {"test_size": 0.1}
    train, test = train_test_split(table, random_state=0, stratify=by, **share)
    if name == "adult_1k":
        train = train.sample(1000, random_state=0)
    drop = {"beijing_pm25": ["No"], "diabetes130": ["encounter_id", "patient_nbr"]}.get(name, [])
    return Real(name, target, train.drop(columns=drop).reset_index(drop=True), test.drop(columns=drop).reset_index(drop=True))


def scores(truth: Real, made: pd.DataFrame, seed: int = 0) -> dict[str, float]:
    """Every figure of one synthetic table."""
    made = alike(made, truth.train)
    found = {"detector_train": detector(truth.train, made, seed), "detector_test": detector(truth.test, made, seed, len(truth.train))}
    found |= shape_and_trend(truth, made) | utility(truth, made, seed) | {"dcr": dcr(truth, made, seed)}
    return {name: round(float(value), 4) for name, value in found.items()}


def alike(made: pd.DataFrame, train: pd.DataFrame) -> pd.DataFrame:
    """The columns of train in its order; text as text, numbers as numbers."""
    made = made[train.columns].copy()
    for name in train:
        if pd.api.types.is_numeric_dtype(train[name]):
            made[name] = pd.to_numeric(made[name], errors="coerce").astype(float)
        else:
            made[name] = made[name].astype(object).where(made[name].notna(), None)
    return made


def matrix(frames: list[pd.DataFrame], by: pd.DataFrame) -> tuple[list[np.ndarray], list[bool]]:
    """Numbers as they are, categories as ranks by frequency in `by`; which are categories."""
    parts: list[list[np.ndarray]] = [[] for _ in frames]
    for name in by:
        if pd.api.types.is_numeric_dtype(by[name]):
            columns = [f[name].to_numpy(float) for f in frames]
        else:
            known = {v: i for i, v in enumerate(by[name].fillna("<null>").value_counts().index[: LEVELS - 1])}
            columns = [f[name].fillna("<null>").map(known).fillna(len(known)).to_numpy(float) for f in frames]
        for part, column in zip(parts, columns, strict=True):
            part.append(column)
    return [np.column_stack(part) for part in parts], [not pd.api.types.is_numeric_dtype(by[name]) for name in by]


def detector(a: pd.DataFrame, b: pd.DataFrame, seed: int, most: int = 1_000_000_000) -> float:
    """AUC of telling b from a, out of fold, with equally many rows of both, `most` at most."""
    n = min(len(a), len(b), most)
    a, b = a.sample(n, random_state=seed), b.sample(n, random_state=seed)
    (x,), categorical = matrix([pd.concat([a, b])], pd.concat([a, b]))
    y = np.repeat([0, 1], n)
    guess = np.zeros(2 * n)
    for fit, ask in StratifiedKFold(5, shuffle=True, random_state=seed).split(x, y):
        model = HistGradientBoostingClassifier(max_iter=200, categorical_features=categorical, early_stopping=False, random_state=seed)
        guess[ask] = model.fit(x[fit], y[fit]).predict_proba(x[ask])[:, 1]
    return roc_auc_score(y, guess)


def shape_and_trend(truth: Real, made: pd.DataFrame) -> dict[str, float]:
    """Errors in percent by sdmetrics, against train; each table at the size of train."""
    from sdmetrics.reports.single_table._properties import ColumnPairTrends, ColumnShapes

    kinds = {n: {"sdtype": "numerical" if pd.api.types.is_numeric_dtype(truth.train[n]) else "categorical"} for n in truth.train}
    trends = ColumnPairTrends()
    trends.real_correlation_threshold = trends.real_association_threshold = 0
    trends.num_rows_subsample = None
    frames = [f.sample(min(len(f), len(truth.train)), random_state=0).reset_index(drop=True) for f in (truth.train, made)]
    coded = frames
    for name in (n for n, kind in kinds.items() if kind["sdtype"] == "categorical"):  # as numbers: the same scores, sooner
        codes = pd.factorize(pd.concat([f[name] for f in frames]).fillna("<null>"))[0]
        coded = [f.assign(**{name: part}) for f, part in zip(coded, np.split(codes, [len(frames[0])]), strict=True)]
    found = {"shape": ColumnShapes().get_score(*coded, {"columns": kinds}), "trend": trends.get_score(*coded, {"columns": kinds})}
    return {name: 100 * (1 - value) for name, value in found.items()} | {"trend_binned": trend_binned(*frames)}


def trend_binned(train: pd.DataFrame, made: pd.DataFrame) -> float:
    """The trend's error in percent with ten bins from the range of train for both tables, two more for what lies outside, one for nulls."""
    number = {name: pd.api.types.is_numeric_dtype(train[name]) for name in train}
    codes = {}
    for name in train:
        both = pd.concat([train[name], made[name]])
        if number[name]:
            edges = np.histogram_bin_edges(train[name].dropna())
            edges[-1] = np.nextafter(edges[-1], np.inf)
            codes[name] = np.where(both.isna(), len(edges) + 1, np.digitize(both, edges)), len(edges) + 2
        else:
            found, values = pd.factorize(both.fillna("<null>"))
            codes[name] = found, len(values)
    errors = []
    for a, b in itertools.combinations(train, 2):
        if number[a] and number[b]:
            errors.append(abs(train[a].corr(train[b]) - made[a].corr(made[b])) / 2)
        else:
            (one, _), (other, size) = codes[a], codes[b]
            cells = pd.factorize(one.astype(np.int64) * size + other)[0]
            parts = [np.bincount(part, minlength=cells.max() + 1) / len(part) for part in (cells[: len(train)], cells[len(train) :])]
            errors.append(np.abs(parts[0] - parts[1]).sum() / 2)
    return 100 * float(np.nanmean(errors))


def utility(truth: Real, made: pd.DataFrame, seed: int) -> dict[str, float]:
    """TSTR: AUC and F1 (AUC over all classes, one against the rest, for more than two), or R2."""
    made, test = made[made[truth.target].notna()], truth.test[truth.test[truth.target].notna()]
    columns = truth.train.columns.drop(truth.target)
    (x, x_test), categorical = matrix([made[columns], test[columns]], truth.train[columns])
    if not truth.classification:
        model = HistGradientBoostingRegressor(categorical_features=categorical, random_state=seed)
        return {"tstr": r2_score(test[truth.target], model.fit(x, made[truth.target]).predict(x_test))}
    model = HistGradientBoostingClassifier(categorical_features=categorical, random_state=seed)
    model.fit(x, made[truth.target].astype(str))
    chances, y = model.predict_proba(x_test), test[truth.target].astype(str)
    every = np.sort(y.unique())
    full = np.zeros((len(y), len(every)))
    for i, label in enumerate(model.classes_):
        full[:, np.flatnonzero(every == label)] = chances[:, [i]]
    if len(every) == 2:
        return {"tstr": roc_auc_score(y, full[:, 1]), "f1": f1_score(y == every[1], full[:, 1] > 0.5)}
    area = roc_auc_score(y, full / full.sum(1, keepdims=True), multi_class="ovr")
    return {"tstr": area, "f1": f1_score(y, every[full.argmax(1)], average="macro")}


def dcr(truth: Real, made: pd.DataFrame, seed: int) -> float:
    """Percent of synthetic rows nearer to a part of train than to test: numbers by range, categories 0 or 1, nulls their own value."""
    n = min(len(truth.test), len(truth.train), 5000)
    asked = made.sample(min(len(made), 5000), random_state=seed)
    frames = [truth.train.sample(n, random_state=seed), truth.test.sample(n, random_state=seed), asked]
    (part, test, rows), categorical = matrix(frames, truth.train)
    whole = matrix([truth.train], truth.train)[0][0]
    span = np.maximum(np.nanmax(whole, 0) - np.nanmin(whole, 0), 1e-12)
    kind = np.array(categorical)
    nearest = []
    for known in (part, test):
        best = np.empty(len(rows))
        for start in range(0, len(rows), 100):
            block = rows[start : start + 100]
            total = np.zeros((len(block), len(known)))
            for k in range(known.shape[1]):
                a, b = block[:, k, None], known[None, :, k]
                gap = (a != b).astype(float) if kind[k] else np.abs(a - b) / span[k]
                total += np.where(np.isnan(a) | np.isnan(b), (np.isnan(a) != np.isnan(b)).astype(float), gap)
            best[start : start + 100] = total.min(1)
        nearest.append(best)
    return 100 * float(np.mean((nearest[0] < nearest[1]) + 0.5 * (nearest[0] == nearest[1])))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("synthetic", type=Path)
    options.add_argument("--real", default="adult")
    given = options.parse_args()
    print(json.dumps(scores(real(given.real), pd.read_parquet(given.synthetic))))


if __name__ == "__main__":
    main()
