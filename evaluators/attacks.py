"""Attacks on a synthetic table by somebody who holds it and knows something of real people: what it helps beyond what it would anyway.

Giomi, Boenisch, Wehmeyer, Tasnádi: A Unified Framework for Quantifying Privacy Risk in Synthetic Data, 2022, arXiv:2211.10459; Shokri,
Stronati, Song, Shmatikov: Membership Inference Attacks against Machine Learning Models, 2017, arXiv:1610.05820.

    singling    a condition on a few columns, made from one synthetic row, that holds for that row alone: does it for exactly one real row?
    inference   all columns of a real row but one are known: that of the nearest synthetic row is the guess for the missing one
    (1)  risk = (share of training rows hit - share of held-out rows hit) / (1 - share of held-out rows hit)
    informed    the attacker knows of half of the rows whether they were trained on, and learns from these to tell it of the others: from
                the distances to the nearest synthetic rows and to other real rows, half of them trained on

Held-out rows tell what the population tells about anybody. Shadow models would fit the generator many times; (informed) puts known members
in their place, which is a stronger attacker and one fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from data.schema import Dataset, Schema
from evaluators.fidelity import area_and_variance, with_interval
from evaluators.privacy import CHUNK, Points, nearest, points
from evaluators.protocol import joined
from evaluators.tabular import codes, measured

ROWS = 4_000  # of each side, among which a condition is looked up
GUESSES = 1_000  # conditions that are tried, and real rows of each side that are guessed about
AMONG = 20_000  # synthetic rows among which the nearest is looked for
TRIES = 12_000  # conditions, of which few hold for one synthetic row alone
COLUMNS = 6  # that are guessed
WIDTH = 4  # columns in a condition, at most
CLOSE = 0.05  # in rank: a quantity that is guessed so closely is known
NEIGHBOURS = (1, 2, 5, 10)


def attacks(train: Dataset, test: Dataset, made: Dataset, *, seed: int = 0) -> dict[str, Any]:
    """{"singling", "inference": {"train", "control", "risk", "low", "high", "attempts"}, "informed": {"auc", "low", "high"}}.

    Intervals are 95 %. Where nothing can be tried (no condition holds once, no column to guess from), "attempts" and the risk are 0.
    """
    rng = np.random.default_rng([seed, 0xA77])
    return {
        "singling": singling(train, test, made, rng),
        "inference": inference(train, test, made, rng),
        "informed": informed(train, test, made, rng),
    }


def risk(hits: np.ndarray, control: np.ndarray, rows: tuple[int, int]) -> dict[str, float]:
    """(1) of bool [attempts] on training rows and on held-out rows, with its interval; rates as by one more hit and one more miss.

    `rows` are how many rows the attempts of each side began from. Those that begin from the same row are not independent: both the rates
    and the interval count no more attempts than there are rows.
    """
    if not len(hits):
        return {"train": 0.0, "control": 0.0, "risk": 0.0, "low": 0.0, "high": 0.0, "attempts": 0}
    n, m = min(len(hits), rows[0]), min(len(control), rows[1])
    a, b = (hits.mean() * n + 1) / (n + 2), (control.mean() * m + 1) / (m + 2)
    value = (a - b) / (1 - b)  # (1)
    spread = np.hypot(np.sqrt(a * (1 - a) / n) / (1 - b), np.sqrt(b * (1 - b) / m) * (1 - a) / (1 - b) ** 2)
    found = {"train": a, "control": b, "risk": value, "low": value - 1.96 * spread, "high": value + 1.96 * spread}
    return {key: round(float(v), 4) for key, v in found.items()} | {"attempts": len(hits)}


def some(data: Dataset, most: int, rng: np.random.Generator) -> Dataset:
    """At most so many rows, at random."""
    return data.take(np.sort(rng.permutation(len(data))[:most]))


def columns_of(train: Dataset, datasets: list[Dataset]) -> tuple[list[np.ndarray], np.ndarray]:
    """float64 [n, K] of each dataset, categories by their number and NaN where null, and bool [K], which are quantities."""
    blocks: list[list[np.ndarray]] = [[] for _ in datasets]
    columns = measured(train.schema)
    for column in columns:
        found = [column.numbers(d.table[column.name]) for d in datasets] if column.is_number else codes(column, [train], datasets)[1:]
        for block, values in zip(blocks, found, strict=True):
            block.append(values.astype(float))
    return [np.column_stack(block) for block in blocks], np.array([column.is_number for column in columns])


def singling(train: Dataset, test: Dataset, made: Dataset, rng: np.random.Generator) -> dict[str, float]:
    """Conditions that single out one synthetic row, held against as many training rows as held-out rows."""
    n = min(ROWS, len(train), len(test), len(made))
    (real, held, own), quantity = columns_of(train, [some(data, n, rng) for data in (train, test, made)])
    middle = np.nanmedian(np.where(np.isnan(own).all(0), 0, own), axis=0)
    hits: list[tuple[bool, bool]] = []
    begun: set[int] = set()
    for row in rng.integers(n, size=TRIES).tolist():
        chosen = rng.permutation(len(quantity))[: rng.integers(2, WIDTH + 1)]
        once = [holds(values, own[row], chosen, quantity, middle) == 1 for values in (own, real, held)]
        if once[0]:
            hits.append((once[1], once[2]))
            begun.add(row)
        if len(hits) == GUESSES:
            break
    found = np.array(hits, dtype=bool).reshape(-1, 2)
    return risk(found[:, 0], found[:, 1], (len(begun), len(begun)))


def holds(values: np.ndarray, row: np.ndarray, chosen: np.ndarray, quantity: np.ndarray, middle: np.ndarray) -> int:
    """Of how many rows, float64 [n, K], the condition holds that is made from chosen columns of a row: beyond its value, or equal to it."""
    true = np.ones(len(values), dtype=bool)
    for k in chosen:
        if np.isnan(row[k]):
            true &= np.isnan(values[:, k])
        elif quantity[k]:
            true &= values[:, k] >= row[k] if row[k] >= middle[k] else values[:, k] <= row[k]
        else:
            true &= values[:, k] == row[k]
    return int(true.sum())


def inference(train: Dataset, test: Dataset, made: Dataset, rng: np.random.Generator) -> dict[str, float]:
    """One column of real rows guessed from the nearest synthetic row by all others; hits of all guessed columns together."""
    columns = measured(train.schema)
    asked, among = [some(data, GUESSES, rng) for data in (train, test)], some(made, AMONG, rng)
    (*truth, own), quantity = columns_of(train, [*asked, among])
    hits: list[list[np.ndarray]] = [[np.zeros(0, dtype=bool)], [np.zeros(0, dtype=bool)]]
    for k in rng.permutation(len(columns))[: COLUMNS if len(columns) > 1 else 0].tolist():
        rest = without(train.schema, columns[k].name)
        *places, where = points(Dataset.of(train.table, rest), [Dataset.of(data.table, rest) for data in (*asked, among)])
        known = np.sort(train_values(train, k)) if quantity[k] else np.zeros(0)
        for side, place in enumerate(places):
            guess, value = own[nearest(place, where)[1], k], truth[side][:, k]
            if quantity[k]:
                off = np.abs(np.searchsorted(known, guess) - np.searchsorted(known, value)) / max(1, len(known))
                hits[side].append(np.where(np.isnan(value) | np.isnan(guess), np.isnan(value) & np.isnan(guess), off <= CLOSE))
            else:
                hits[side].append(guess == value)
    trained, held = (np.concatenate(side) for side in hits)
    return risk(trained, held, (len(asked[0]), len(asked[1])))


def train_values(train: Dataset, k: int) -> np.ndarray:
    """The values of a quantity that are not null."""
    column = measured(train.schema)[k]
    values = column.numbers(train.table[column.name])
    return values[~np.isnan(values)]


def without(schema: Schema, name: str) -> Schema:
    """The measured columns but one, and no target."""
    return Schema("density", None, tuple(c for c in measured(schema) if c.name != name))


def informed(train: Dataset, test: Dataset, made: Dataset, rng: np.random.Generator) -> dict[str, float | None]:
    """Area of telling training rows from held-out ones by a classifier that has learnt on as many of whom it is known."""
    from scipy.stats import rankdata
    from sklearn.linear_model import LogisticRegression

    n = min(GUESSES, len(test) // 2, len(train) // 2)
    (inside, some_in), (outside, some_out) = (
        (data.take(order[:n]), data.take(order[n : 2 * n])) for data in (train, test) for order in [rng.permutation(len(data))]
    )
    *asked, where, there = points(train, [inside, outside, some(made, AMONG, rng), joined(some_in, some_out)])
    x = np.concatenate([np.column_stack([distances(one, where), distances(one, there)]) for one in asked])
    x = np.log(x + 1e-3)
    member = np.repeat([True, False], [len(inside), len(outside)])
    score, fold = np.zeros(len(x)), np.arange(len(x)) % 2
    for side in (0, 1):
        learnt = fold != side
        middle, scale = x[learnt].mean(0), x[learnt].std(0) + 1e-9
        model = LogisticRegression(C=0.1).fit((x[learnt] - middle) / scale, member[learnt])
        chance = model.decision_function((x[~learnt] - middle) / scale)
        score[~learnt] = rankdata(chance.round(9)) / len(chance)  # two models have no common scale, their ranks have
    value, variance = area_and_variance(member, score)
    return with_interval(value, variance**0.5)


def distances(queries: Points, among: Points) -> np.ndarray:
    """float64 [q, NEIGHBOURS]: squared distances to the nearest, the second nearest, … of some places."""
    found, most = [], min(max(NEIGHBOURS), len(among.ranks))
    length = (among.ranks**2).sum(axis=1)
    for start in range(0, len(queries.ranks), CHUNK):
        q, mark = queries.ranks[start : start + CHUNK], queries.codes[start : start + CHUNK]
        squared = np.maximum(q @ (-2 * among.ranks.T) + length + (q**2).sum(axis=1)[:, None], 0)
        for k in range(mark.shape[1]):
            squared += mark[:, k, None] != among.codes[None, :, k]
        found.append(np.sort(np.partition(squared, most - 1, axis=1)[:, :most], axis=1))
    return np.concatenate(found)[:, [min(k, most) - 1 for k in NEIGHBOURS]]
