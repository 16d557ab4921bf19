"""Judges of tables: what they see of a row, how they learn, and how their predictions are scored.

A judge learns on one dataset and predicts another. What it returns is not a number but a function from weights of the test rows
to metrics: predictions are made once, and every redraw of the test rows (a column of weights) is then scored by matrix products.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.schema import WORDING, Column, Dataset, Modality, Schema

Scores = Callable[[np.ndarray], dict[str, np.ndarray]]  # weights of the test rows [n, draws] -> metric -> [draws]; the headline first
Judge = Callable[[Dataset, Dataset, int], Scores]  # (train, test, seed) -> how well test was predicted
Learner = Callable[..., np.ndarray]  # (x, y, x_test, categorical, classes, seed) -> [n_test, classes] or [n_test]

LEVELS = 250  # values of a category that a judge tells apart: the most frequent ones; the others count as missing
LINEAR_LEVELS = 30  # the same for the linear judge, which pays for each with a column
CLASSES = 50  # classes a judge learns: the most frequent ones; the others get probability 0
TREES = 300  # trees of a boosted classifier, shared out among its classes, at most 100 each
HERE = threading.local()  # of each thread of `side_by_side`: `dropped` is set when nobody waits for it any more


def measured(schema: Schema) -> list[Column]:
    """The columns with a distribution that can be compared: numbers, dates, categories; no ids, texts or images."""
    return [c for c in schema.columns if c.is_number or c.kind in ("category", "boolean")]


def judged_as(schema: Schema) -> Modality:
    """What rows are judged as: where other columns stand beside texts and their label it is a table, whose texts nobody looks at."""
    beside = any(c.name != schema.target for c in measured(schema)) and schema.task not in WORDING
    return "tabular" if schema.modality == "text" and beside else schema.modality


def codes(column: Column, known: Sequence[Dataset], others: Sequence[Dataset] = (), levels: int | None = None) -> list[np.ndarray]:
    """int64 [n] for each dataset: a category's rank by frequency in `known`, from 0; -1 where null, unknown or past `levels`."""
    strings = [column.strings(data.table[column.name]) for data in (*known, *others)]
    counts = pc.value_counts(pa.chunked_array(strings[: len(known)], pa.string()).drop_null())
    values, numbers = counts.field("values"), counts.field("counts").to_numpy(zero_copy_only=False)
    alphabetic = pc.sort_indices(values).to_numpy()  # ties in frequency must not depend on the order of the rows
    frequent = alphabetic[np.argsort(-numbers[alphabetic], kind="stable")][:levels]
    vocabulary = values.take(pa.array(frequent))
    return [pc.fill_null(pc.index_in(s, vocabulary, skip_nulls=True), -1).to_numpy(zero_copy_only=False).astype(np.int64) for s in strings]


def features(known: Sequence[Dataset], others: Sequence[Dataset] = (), target: str | None = None) -> tuple[list[np.ndarray], np.ndarray]:
    """What a judge sees: float64 [n, d] for each dataset, and bool [d], which of the columns are categories.

    Numbers and dates stand as they are, NaN where null. Categories are codes by the values of the `known` datasets, NaN where
    null, unknown, or not among the `LEVELS` most frequent. Ids, texts, images and the target are left out.
    """
    every = (*known, *others)
    columns = [c for c in measured(known[0].schema) if c.name != target]
    blocks: list[list[np.ndarray]] = [[] for _ in every]
    for column in columns:
        if column.is_number:
            arrays = [column.numbers(data.table[column.name]) for data in every]
        else:
            arrays = [np.where(code < 0, np.nan, code) for code in codes(column, known, others, LEVELS)]
        for block, values in zip(blocks, arrays, strict=True):
            block.append(values)
    if not columns:  # nothing to see: one constant, so that a judge still learns how frequent each answer is
        return [np.zeros((len(data), 1)) for data in every], np.zeros(1, dtype=bool)
    return [np.column_stack(block) for block in blocks], np.array([not c.is_number for c in columns])


def gradient_boosting(train: Dataset, test: Dataset, seed: int) -> Scores:
    """The strong judge: boosted trees on native categories, a fixed number of them."""
    return judge(train, test, seed, boosted)


def linear(train: Dataset, test: Dataset, seed: int) -> Scores:
    """The plain judge: logistic or ridge regression on standardised numbers, null marks and one-hot categories."""
    return judge(train, test, seed, straight)


JUDGES: dict[str, Judge] = {"gradient_boosting": gradient_boosting, "linear": linear}


def judge(train: Dataset, test: Dataset, seed: int, learner: Learner) -> Scores:
    """Fit a learner on the train rows that have a target and score it on the test rows, all of which must have one."""
    name = train.schema.target
    assert name is not None, "a judge needs a target"
    column = train.schema[name]
    (x, x_test), categorical = features([train], [test], name)
    if train.schema.task == "regression":
        y, truth = column.numbers(train.y), column.numbers(test.y)
        rows = ~np.isnan(y)
        predicted = learner(x[rows], y[rows], x_test, categorical, 0, seed) if rows.any() else np.full(len(truth), truth.mean())
        return regression_scores(truth, predicted)
    y, truth = codes(column, [train, test])
    frequency = np.bincount(y[y >= 0], minlength=1)
    learnt = np.argsort(-frequency, kind="stable")[:CLASSES]
    learnt = np.sort(learnt[frequency[learnt] > 0])
    chances = np.zeros((len(truth), max(y.max(initial=0), truth.max(initial=0)) + 1))  # what was never seen has probability 0
    if len(learnt) == 1:
        chances[:, learnt] = 1
    elif len(learnt) > 1:
        rows = np.isin(y, learnt)
        chances[:, learnt] = learner(x[rows], np.searchsorted(learnt, y[rows]), x_test, categorical, len(learnt), seed)
    return classification_scores(truth, chances)


def boosted(
    x: np.ndarray, y: np.ndarray, x_test: np.ndarray, categorical: np.ndarray, classes: int, seed: int, trees: int = 0
) -> np.ndarray:
    """[n_test, classes] probabilities, or [n_test] numbers when `classes` is 0."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    seen = ~np.isnan(x).all(axis=0)  # a column of nulls teaches nothing, and scikit-learn cannot bin it
    x, x_test, categorical = x[:, seen], x_test[:, seen], categorical[seen]
    if not seen.any():
        x, x_test, categorical = np.zeros((len(x), 1)), np.zeros((len(x_test), 1)), np.zeros(1, dtype=bool)
    options = {"categorical_features": categorical, "early_stopping": False, "random_state": seed}
    with threadpool_limits(1, "openmp"):  # a second thread inside one fit waits more than it works: 50 times slower on a busy machine
        if not classes:
            return HistGradientBoostingRegressor(max_iter=trees or 100, **options).fit(x, y).predict(x_test)
        trees = trees or min(100, max(6, TREES // (1 if classes == 2 else classes)))
        return HistGradientBoostingClassifier(max_iter=trees, **options).fit(x, y).predict_proba(x_test)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """The function of each item, in order, one thread a core: how this package uses more than one core.

    An interruption, or an error of one, ends the others at the next of their `waited` steps.
    """
    import scipy.linalg  # noqa: F401  (its BLAS has to be loaded to be limited)
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # filters are the whole process's and scikit-learn resets them in each thread, so warnings are collected and sorted out afterwards
    dropped = threading.Event()
    pool = ThreadPoolExecutor(cores(), initializer=partial(setattr, HERE, "dropped", dropped))
    with one_thread(), threadpool_limits(1, "blas"), warnings.catch_warnings(record=True) as heard, pool:
        try:
            results = list(pool.map(function, items))
        except BaseException:
            dropped.set()
            raise
    for w in heard:
        expected = issubclass(w.category, ConvergenceWarning)  # a hundred steps are the linear judge's definition
        race = "sklearn.utils.parallel.delayed" in str(w.message)  # it met filters that another thread had just reset
        if not (expected or race):
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
    return results


def waited(steps: Iterable[Any]) -> Iterator[Any]:
    """The steps of something that takes long, as long as somebody waits for it. CancelledError after that."""
    dropped = getattr(HERE, "dropped", None)
    for step in steps:
        if dropped is not None and dropped.is_set():
            raise CancelledError
        yield step


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, in this thread and in those that begin meanwhile, so that nets learn side by side and always the same."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def straight(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, categorical: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """[n_test, classes] probabilities, or [n_test] numbers when `classes` is 0."""
    from sklearn.linear_model import LogisticRegression, Ridge

    x, x_test = design(x, x_test, categorical)
    if not classes:
        return Ridge().fit(x, y).predict(x_test)
    return LogisticRegression(max_iter=100, tol=1e-3).fit(x, y).predict_proba(x_test)


def design(x: np.ndarray, x_test: np.ndarray, categorical: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [n, d'] of both: numbers standardised by `x` and cut at 8 deviations, null marks, one-hot categories."""
    blocks = []
    for column, test, is_category in zip(x.T, x_test.T, categorical, strict=True):
        both = np.concatenate([column, test])
        null = np.isnan(both)
        blocks.append(null[:, None].astype(np.float32))
        if is_category:
            blocks.append((both[:, None] == np.arange(min(LINEAR_LEVELS, np.nanmax(column, initial=-1) + 1))).astype(np.float32))
        elif not np.isnan(column).all():
            scaled = (both - np.nanmean(column)) / (np.nanstd(column) or 1.0)
            blocks.append(np.where(null, 0, np.clip(scaled, -8, 8))[:, None].astype(np.float32))
    matrix = np.hstack(blocks)
    return matrix[: len(x)], matrix[len(x) :]


def roc_auc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[draws] area under the ROC curve, ties half; `positive` bool [n], `weights` [n, draws]; NaN where one side is empty."""
    up, down = np.flatnonzero(positive), np.flatnonzero(~positive)
    down = down[np.argsort(score[down], kind="stable")]
    below = np.zeros((len(down) + 1, weights.shape[1]))  # below[i]: weight of the i lowest negatives
    np.cumsum(weights[down], axis=0, out=below[1:])
    left, right = (np.searchsorted(score[down], score[up], side) for side in ("left", "right"))  # type: ignore[call-overload]
    won = np.einsum("nb,nb->b", weights[up], below[left] + below[right]) / 2
    with np.errstate(invalid="ignore"):
        return won / (weights[up].sum(0) * below[-1])


def classification_scores(truth: np.ndarray, chances: np.ndarray) -> Scores:
    """Metrics of class probabilities [n, classes] for true classes int [n]; `f1` is the rarer class's when there are two, else macro."""
    label = np.where(chances.max(axis=1) > 0, chances.argmax(axis=1), -1)
    labels, judged = label_scores(truth, label), judged_classes(truth)

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a class that a redraw does not hold is left out of its mean
            return {"roc_auc": np.nanmean([roc_auc(truth == c, chances[:, c], weights) for c in judged], axis=0), **labels(weights)}

    return scores


def judged_classes(truth: np.ndarray) -> np.ndarray:
    """The classes whose scores are averaged: the rarer one when there are two, else all that occur."""
    present, counts = np.unique(truth, return_counts=True)
    return present[[-1 if counts[-1] <= counts[0] else 0]] if len(present) == 2 else present


def label_scores(truth: np.ndarray, label: np.ndarray) -> Scores:
    """Metrics of predicted classes int [n], -1 for none; `f1` as in `classification_scores`."""
    present = np.unique(truth)
    is_true, is_said = truth[:, None] == present, label[:, None] == present
    chosen = np.isin(present, judged_classes(truth))

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        hit, true, said = (mask.T.astype(float) @ weights for mask in (is_true & is_said, is_true, is_said))  # each [classes, draws]
        with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a class that a redraw does not hold is left out of its mean
            return {
                "balanced_accuracy": np.nanmean(hit / true, axis=0),
                "f1": np.nanmean((2 * hit / (true + said))[chosen], axis=0),
                "accuracy": hit.sum(0) / weights.sum(0),
            }

    return scores


def regression_scores(truth: np.ndarray, predicted: np.ndarray) -> Scores:
    """R2, root mean squared and mean absolute error of numbers [n]."""
    centred, miss = truth - truth.mean(), truth - predicted
    columns = np.stack([centred, centred**2, miss**2, np.abs(miss)])

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        first, second, squared, absolute = columns @ weights / weights.sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            r2 = np.where(second - first**2 > 0, 1 - squared / (second - first**2), np.nan)
        return {"r2": r2, "rmse": np.sqrt(squared), "mae": absolute}

    return scores
