"""What a synthetic training set is worth: a judge learns on it and is scored on real rows it never saw.

Six training sets, all scored on the same real test rows:

    real             the real training rows (TRTR): what there is to reach
    synthetic        as many synthetic rows (TSTR)
    augmented        real and synthetic rows together (AUG)
    floor            the real rows with every column shuffled on its own: the columns are right, nothing joins them
    cheat            the real rows redrawn with replacement: what a generator that only memorises would score
    augmented_cheat  real and redrawn rows together: twice the rows and no new information, the control for `augmented`

Error bars are 95 % intervals: the test rows are redrawn, the same redraws for every training set, and the spread over independent
synthetic samples is added. Any judge that returns scores as functions of row weights works, whatever the columns hold. Judges of
images cost most, so a judgement of images makes fewer of them learn (`EFFORT`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.schema import WORDING, Dataset, Modality, Schema, Split, Task
from evaluators import captions, image, tabular, text
from evaluators.tabular import Judge, judged_as, side_by_side

DRAWS = 200  # redraws of the test rows behind an interval
KINDS = ("real", "synthetic", "augmented", "floor", "cheat", "augmented_cheat")
SCORED = 20_000  # rows that a judge is scored on, unless told otherwise
CELL_SECONDS = {"tabular": 0.00015, "text": 0.002}  # of judging, a row and column
BESIDE = 3  # fits of a judge that take as long as what else images are judged by
NO_SKILL = {"roc_auc": 0.5, "r2": 0.0}  # what a headline is worth when nothing was learnt; for other headlines: the floor's score
LEAST_SIGNAL = 0.02  # below this distance from no skill there is nothing to keep, and a ratio says nothing
HUNDRED = ("chrf", "bleu")  # scores that go from 0 to 100 by custom; the others go to 1


@dataclass(frozen=True)
class Effort:
    """How much is judged: samples of the model behind an error bar, rows of each, shuffles behind the floor (one may teach by chance)."""

    samples: int
    rows: int
    floors: int


TABLE = Effort(3, 20_000, 3)
EFFORT: Mapping[Modality, Effort] = {
    "tabular": TABLE,
    "text": Effort(2, 15_000, 1),
    "image": Effort(2, 5_000, 1),
    "multimodal": Effort(2, 5_000, 1),
}
JUDGES: Mapping[tuple[Modality, Task], Mapping[str, Judge]] = {
    ("tabular", "classification"): tabular.JUDGES,
    ("tabular", "regression"): tabular.JUDGES,
    ("text", "classification"): text.CLASSIFIERS,
    **{("text", task): text.ANSWERERS for task in WORDING},
    ("image", "classification"): {"cnn": image.cnn},
    ("image", "segmentation"): {"unet": image.unet},
    ("multimodal", "classification"): {"cnn": image.cnn},
    ("multimodal", "captioning"): {"reader": captions.reads},
}


class Ground(NamedTuple):
    """What every training set of one judgement shares."""

    train: Dataset
    test: Dataset
    weights: np.ndarray  # [test rows, 1 + DRAWS]


Fit = tuple[str, Dataset]  # a judge's name, and what it learns on
Scoring = Callable[[Mapping[str, Judge], list[Fit], Ground, int], list[dict[str, np.ndarray]]]  # (…, seed) -> {metric: [1 + DRAWS]} a fit


def beside(
    judges: Mapping[str, Judge], fits: list[Fit], ground: Ground, seed: int, learnt: Callable[[], None] = lambda: None
) -> list[dict[str, np.ndarray]]:
    """Every fit on this machine, side by side; `learnt` is called after each, in any of the threads."""

    def score(fit: Fit) -> dict[str, np.ndarray]:
        found = judges[fit[0]](fit[1], ground.test, seed)(ground.weights)
        learnt()
        return found

    return side_by_side(score, fits)


def references(
    split: Split,
    *,
    seed: int = 0,
    judges: Mapping[str, Judge] | None = None,
    rows: int | None = None,
    scoring: Scoring = beside,
) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """What real rows alone give: the part of `utility` that no synthetic row changes, to be computed once and handed to every judgement.

    {judge: {training set: {metric: float64 [1 + DRAWS]}}} of the four training sets without synthetic rows; arguments as in `utility`.
    Empty where there is nothing to judge.
    """
    judges = judges_of(split.train.schema, judges)
    if judges is None:
        return {}
    ground = grounds(split, seed, rows)
    if not len(ground.train) or not len(ground.test):
        return {}
    return drawn(judges, real_sets(ground.train, EFFORT[judged_as(split.train.schema)].floors, seed), ground, seed, scoring)


def utility(
    split: Split,
    synthetic: list[Dataset],
    *,
    seed: int = 0,
    judges: Mapping[str, Judge] | None = None,
    rows: int | None = None,
    known: Mapping[str, Any] | None = None,
    scoring: Scoring = beside,
    as_drawn: Callable[[Dataset], Dataset] | None = None,
) -> dict[str, Any]:
    """Scores of every judge on every training set, and the share of the real signal that the synthetic rows keep.

    `synthetic` are independent samples of one generator; `rows` caps the rows a judge learns on and is scored on (by default as `EFFORT`
    and `SCORED` say); without `judges` they are those in `JUDGES` for the kind of data and the task; `known` is what `references` gave
    for the same split, seed, judges and rows, where that is known already; `scoring` is where the judges learn. `as_drawn` is for
    synthetic rows that are of another kind than the real ones, photographs drawn in a style of which no real row has a target: it draws
    the test rows, and judges that learnt on synthetic rows alone are scored on these. The shape is
    {"task", "headline", "test_rows", "train_rows", "synthetic_rows", "samples", "judges": {judge: {training set: {metric: {"mean",
    "low", "high"}}}}, "ratio": {"value", "low", "high", "judge", "plain"}}, and where chrF and BLEU are among the metrics "signatures":
    {metric: how sacrebleu calls the way it is computed}. `ratio` is (synthetic - no skill) / (real - no skill) of the
    headline for the judge that is best on real rows; "plain" is synthetic / real as it is. Without a target, or without a judge for
    the task: {"task", "why"}.
    """
    schema = split.train.schema
    if schema.target is None:
        return {"task": schema.task, "why": "no target column: there is nothing to predict"}
    judges = judges_of(schema, judges)
    if judges is None:
        return {"task": schema.task, "why": f"no judge is given for {schema.task}"}
    ground, rng = grounds(split, seed, rows), np.random.default_rng([seed, 0x5A3B])
    samples = [capped(answered(data, split.train), len(ground.train), rng) for data in synthetic]
    if not len(ground.train) or not len(ground.test) or not samples:
        return {"task": schema.task, "why": "no real training row, test row or synthetic sample to judge"}
    known = known or references(split, seed=seed, judges=judges, rows=rows, scoring=scoring)
    sets = {"synthetic": samples, "augmented": [joined(ground.train, sample) for sample in samples]}
    test = as_drawn(ground.test) if as_drawn else ground.test
    parts = [
        drawn(judges, {kind: sets[kind]}, ground._replace(test=test if kind == "synthetic" else ground.test), seed, scoring)
        for kind in sets
    ]
    own = {name: parts[0][name] | parts[1][name] for name in judges}
    every = {name: {kind: {**known[name], **own[name]}[kind] for kind in KINDS} for name in judges}
    metrics = list(next(iter(every.values()))["real"])
    headline, signatures = metrics[0], text.signatures(metrics)
    return {
        "task": schema.task,
        "headline": headline,
        "test_rows": len(ground.test),
        "train_rows": len(ground.train),
        "synthetic_rows": [len(data) for data in samples],
        "samples": len(samples),
        "judges": {
            name: {kind: {metric: interval(values) for metric, values in metrics.items()} for kind, metrics in kinds.items()}
            for name, kinds in every.items()
        },
        "ratio": ratio(every, headline),
        **({"signatures": signatures} if signatures else {}),
    }


def foretold(train: Dataset) -> float:
    """Minutes that judging one generator takes, roughly, references included: nets timed on a few steps, others by rows and columns."""
    kind = judged_as(train.schema)
    effort = EFFORT[kind]
    rows = min(len(train), effort.rows)
    fits = 0 if train.schema.target is None else 3 + effort.floors + 2 * effort.samples
    if kind in CELL_SECONDS:
        asked = kind == "text" and train.schema.task in WORDING and rows
        learning = fits * text.pace(train.take(np.arange(rows))) if asked and fits else 0.0
        return (learning + rows * len(train.schema.columns) * CELL_SECONDS[kind]) / 60
    return (BESIDE + fits) * image.pace(train) / 60


def judges_of(schema: Schema, judges: Mapping[str, Judge] | None) -> Mapping[str, Judge] | None:
    """Those given, or those for the kind of data and the task; None without a target or a judge."""
    return None if schema.target is None else judges or JUDGES.get((judged_as(schema), schema.task))


def grounds(split: Split, seed: int, rows: int | None) -> Ground:
    """The real rows that judges learn on and are scored on, and the redraws of the latter."""
    rng = np.random.default_rng([seed, 0x0711])
    most = (rows or EFFORT[judged_as(split.train.schema)].rows, rows or SCORED)
    train, test = (capped(answered(data, split.train), n, rng) for data, n in zip(split, most, strict=True))
    return Ground(train, test, redraws(len(test), rng))


def drawn(
    judges: Mapping[str, Judge], sets: Mapping[str, list[Dataset]], ground: Ground, seed: int, scoring: Scoring
) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """{judge: {training set: {metric: [1 + DRAWS]}}}: every judge learns on every training set, side by side."""
    luck = np.random.default_rng([seed, 0x10CC]).random((DRAWS, max(map(len, sets.values()))))
    fits = [(name, kind, data) for name in judges for kind, datasets in sets.items() for data in datasets]
    scored = scoring(judges, [(name, data) for name, _, data in fits], ground, seed)
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {name: {} for name in judges}
    for name, kind in dict.fromkeys(fit[:2] for fit in fits):
        found[name][kind] = combine([scores for fit, scores in zip(fits, scored, strict=True) if fit[:2] == (name, kind)], luck)
    return found


def real_sets(train: Dataset, floors: int, seed: int) -> dict[str, list[Dataset]]:
    """The training sets without synthetic rows."""
    n, names, rng = len(train), train.schema.names, np.random.default_rng([seed, 0xF100])
    shuffled = [pa.table({name: train.table[name].take(pa.array(rng.permutation(n))) for name in names}) for _ in range(floors)]
    cheat = train.take(rng.integers(n, size=n))
    return {
        "real": [train],
        "floor": [Dataset(train.schema, table) for table in shuffled],
        "cheat": [cheat],
        "augmented_cheat": [joined(train, cheat)],
    }


def answered(data: Dataset, like: Dataset) -> Dataset:
    """The rows whose target is known, in the types of `like`'s schema."""
    data = Dataset.of(data.table, like.schema)
    return data.take(pc.invert(pc.is_null(data.y, nan_is_null=pa.types.is_floating(data.y.type))).to_numpy().astype(bool))


def capped(data: Dataset, rows: int | None, rng: np.random.Generator) -> Dataset:
    """At most so many of the rows, chosen at random, in their order."""
    if rows is None or len(data) <= rows:
        return data
    return data.take(np.sort(rng.choice(len(data), rows, replace=False)))


def joined(a: Dataset, b: Dataset) -> Dataset:
    """The rows of both."""
    return Dataset(a.schema, pa.concat_tables([a.table, b.table]))


def redraws(n: int, rng: np.random.Generator) -> np.ndarray:
    """float64 [n, 1 + DRAWS]: how often each row is in each redraw; the first column is the rows as they are."""
    weights = np.ones((n, 1 + DRAWS))
    for draw in range(1, 1 + DRAWS):
        weights[:, draw] = np.bincount(rng.integers(n, size=n), minlength=n)
    return weights


def combine(scored: list[dict[str, np.ndarray]], luck: np.ndarray) -> dict[str, np.ndarray]:
    """[1 + DRAWS] a metric, from one [1 + DRAWS] a sample: their mean, with the samples' own spread added to the redraws.

    `luck` in [0, 1), [DRAWS, at least samples], redraws the samples; their deviations are widened: few samples understate their spread.
    """
    s = len(scored)
    result = {}
    for metric in scored[0]:
        values = np.stack([scores[metric] for scores in scored])  # [samples, 1 + DRAWS]
        mean = values.mean(axis=0)
        if s > 1:
            picks = (luck[:, :s] * s).astype(int)
            mean[1:] += np.sqrt(s / (s - 1)) * (values[:, 0] - mean[0])[picks].mean(axis=1)
        result[metric] = mean
    return result


def interval(values: np.ndarray) -> dict[str, float | None]:
    """The estimate and its 95 % interval from [1 + DRAWS]; None where it cannot be computed."""
    if np.isnan(values[0]):
        return {"mean": None, "low": None, "high": None}
    low, high = np.nanquantile(values, [0.025, 0.975])
    return {"mean": round(float(values[0]), 5), "low": round(float(low), 5), "high": round(float(high), 5)}


def ratio(drawn: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], headline: str) -> dict[str, Any]:
    """The share of the real signal that synthetic rows keep, for the judge that is best on real rows, from paired redraws."""
    best = max(drawn, key=lambda name: np.nan_to_num(drawn[name]["real"][headline][0], nan=-np.inf))
    kinds = drawn[best]
    none = NO_SKILL.get(headline, kinds["floor"][headline][0])
    real, synthetic = kinds["real"][headline] - none, kinds["synthetic"][headline] - none
    least = LEAST_SIGNAL * (100 if headline in HUNDRED else 1)
    if not real[0] > least:
        why = f"even the real rows do not let the target be predicted: {headline} is no better than without skill"
        return {"value": None, "low": None, "high": None, "judge": best, "why": why}
    spread = interval(synthetic / np.maximum(real, least))
    plain = interval(kinds["synthetic"][headline] / kinds["real"][headline])
    return {"value": spread["mean"], "low": spread["low"], "high": spread["high"], "judge": best, "plain": plain}
