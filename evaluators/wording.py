"""How like the real texts the synthetic ones are, against held-out real texts.

With p and q shares of words or of pairs of words, m = (p + q) / 2, c a count, h the words before w, n(h) how many words follow h:

    divergence = sum p log2(p / m) / 2 + sum q log2(q / m) / 2                     (1)  Jensen-Shannon: 0 the same, 1 nothing in common
    P(w | h)   = (c(h w) + n(h) P(w | shorter h)) / (c(h) + n(h))                  (2)  Witten & Bell 1991
    perplexity = 2^(-mean log2 P(w | h)) over the words of held-out texts          (3)
    distinct-n = different n-grams by n-grams                                      (4)  Li et al. 2016, arXiv:1510.03055
    self-BLEU  = BLEU of each text with all other texts of its set as references   (5)  Zhu et al. 2018, arXiv:1802.01886

Rows are read as the texts of all columns, one after the other. Counts grow with the rows, so both sides always have the same number, and
every figure stands beside the one of the real training texts in place of the synthetic ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from data.code import parses
from data.schema import RARE, Column, Dataset, Schema
from data.texts import WORD, faithful, words
from evaluators.executing import runs
from evaluators.features import label_of
from evaluators.fidelity import FOLDS, told_apart
from evaluators.histograms import BINS, public
from evaluators.likeness import shares
from evaluators.protocol import EFFORT, capped
from evaluators.text import linear, named, strings, texts_of, told

ROWS = EFFORT["text"].rows  # rows of a side
ORDER = 3  # words that the language model sees at a time
DETECTED = 2_000  # rows a side that the detector sees
COMPARED = 1_000  # rows a side for self-BLEU
LEAST = 2 * FOLDS  # rows of a side
CONFUSED = 20  # pairs of labels that are listed
WORDS = ("perplexity", "divergence", "distinct", "self_bleu", "vocabulary", "length")
FIGURES = (*WORDS, "label_agreement", "faithful", "parses", "executes", "detector", "classes", "answers")
UNKNOWN, STOP = 0, 1  # numbers of words that the real training texts have not, and of the end of a text


def wording(
    real_train: Dataset, real_test: Dataset, synthetic: Dataset, *, seed: int = 0, rows: int = ROWS, database: str | Path | None = None
) -> dict[str, Any]:
    """Perplexity, divergence, variety, vocabulary, lengths, agreement of labels, a detector, shares of classes, and what code does.

    {"kind": "text", "perplexity", "divergence": {"words", "pairs"}, "distinct": {"1", "2"}, "self_bleu", "vocabulary", "length",
    "label_agreement", "faithful", "parses", "executes": each {"synthetic", "real"} or None, "detector": {"train", "test", "real"},
    "classes": {"column", "values", "real", "synthetic"} or None, "answers": {"column", "values", "rows", "real", "synthetic", "confused"}
    or None, "plots": {"columns": [{"name", "kind", "edges", "real", "synthetic"}]}, "rows_used"}. "synthetic" compares synthetic with
    test rows, "real" training with test rows, but for what a row says alone (variety, length, agreement, faithful, parses, executes):
    there it is that of test rows. Perplexity is of test texts under a model learnt on the others. Agreement is the share of rows whose
    label a classifier gives that learnt on the real rows alone; "answers" are the shares of test rows of each label that are named
    rightly after learning on real and on synthetic rows, and the labels that are taken for others most. `database` is where SQL is run.
    From fewer than `LEAST` rows a side no figure is computed.
    """
    rng = np.random.default_rng([seed, 0x30D5])
    schema = real_train.schema
    train, test, made = (capped(Dataset.of(data.table, schema), rows, rng) for data in (real_train, real_test, synthetic))
    sides = {"train": train, "test": test, "synthetic": made}
    n = min(map(len, sides.values()))
    result: dict[str, Any] = {"kind": "text", "rows_used": {name: len(data) for name, data in sides.items()} | {"a_side": n}}
    result |= dict.fromkeys(FIGURES) | {"plots": {"columns": []}}
    if n < LEAST:
        return result
    columns = texts_of(schema)
    alike = {name: capped(data, n, rng) for name, data in sides.items()}
    spelled = {name: [words(text) for text in told(data, columns)] for name, data in alike.items()}
    some = {name: capped(data, min(n, DETECTED), rng) for name, data in alike.items()}
    return (
        result
        | figures(spelled)
        | labels(train, test, made)
        | sayings(schema, test, made, database)
        | {
            "detector": {side: detector(some[a], some[b], rng) for side, a, b in SIDES},
            "classes": shares(test, made) if label_of(train) else None,
            "plots": {"columns": [lengths(c, test, made) for c in columns]},
        }
    )


SIDES = (("train", "train", "synthetic"), ("test", "test", "synthetic"), ("real", "train", "test"))


def beside(function: Callable[[str], float], real: str = "train") -> dict[str, float]:
    """A figure of the synthetic side and of a real one."""
    return {"synthetic": round(float(function("synthetic")), 5), "real": round(float(function(real)), 5)}


# ---- words


def numbered(spelled: Mapping[str, list[list[str]]]) -> dict[str, list[np.ndarray]]:
    """int64 [words + 1] for each text of each side: the number of each word, then STOP; `UNKNOWN` for a word that train has not."""
    known = {word: i + 2 for i, word in enumerate(sorted({word for text in spelled["train"] for word in text}))}
    return {name: [np.array([*(known.get(w, UNKNOWN) for w in text), STOP]) for text in found] for name, found in spelled.items()}


def figures(spelled: Mapping[str, list[list[str]]]) -> dict[str, Any]:
    """What the words of each side say; as many texts a side."""
    numbers = numbered(spelled)
    vocabulary = 2 + len({word for text in spelled["train"] for word in text})
    one, two = ({name: Counter(g for text in found for g in pieces(text, n)) for name, found in spelled.items()} for n in (1, 2))

    def covered(name: str) -> float:
        return sum(count for word, count in one["test"].items() if word in one[name]) / max(1, one["test"].total())

    return {
        "perplexity": beside(lambda name: perplexity(numbers[name], numbers["test"], vocabulary)),
        "divergence": {k: beside(partial(apart, grams)) for k, grams in (("words", one), ("pairs", two))},
        "distinct": {k: beside(partial(varied, grams), "test") for k, grams in (("1", one), ("2", two))},
        "self_bleu": beside(lambda name: self_bleu(spelled[name][:COMPARED]), "test"),
        "vocabulary": beside(covered),
        "length": beside(lambda name: fmean(len(text) for text in spelled[name]), "test"),
    }


def apart(grams: Mapping[str, Counter], name: str) -> float:
    """The divergence of a side from the test texts."""
    return divergence(grams[name], grams["test"])


def varied(grams: Mapping[str, Counter], name: str) -> float:
    """How many of a side's n-grams are different ones."""
    return len(grams[name]) / max(1, grams[name].total())  # (4)


def pieces(text: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """The n-grams of words."""
    return list(zip(*(text[i:] for i in range(n)), strict=False))


def divergence(a: Counter, b: Counter) -> float:
    """Jensen-Shannon's, in bits, of two counts; 1 when one side is empty and the other is not."""
    if not a or not b:
        return float(bool(a) != bool(b))
    p, q = (np.array([count[key] for key in {**a, **b}]) / count.total() for count in (a, b))
    m = (p + q) / 2
    return float(sum((x[x > 0] * np.log2(x[x > 0] / m[x > 0])).sum() for x in (p, q)) / 2)  # (1)


def perplexity(learnt: list[np.ndarray], asked: list[np.ndarray], vocabulary: int) -> float:
    """How many words are as good as equally likely, on average, to a model of `ORDER` words that learnt on other texts."""
    chance = np.full(sum(map(len, asked)), 1 / vocabulary)
    for order in range(1, ORDER + 1):
        whole, whole_asked = runs_of(learnt, order), runs_of(asked, order)
        seen, count = np.unique(whole, return_counts=True)
        before, first, different = np.unique(seen // BASE, return_index=True, return_counts=True)
        total = np.add.reduceat(count, first)
        hits, (n, c) = looked(whole_asked, seen, count), (looked(whole_asked // BASE, before, k) for k in (different, total))
        chance = np.where(c > 0, (hits + n * chance) / np.maximum(c + n, 1), chance)  # (2)
    known = np.concatenate(asked) != UNKNOWN
    return float(2 ** -np.log2(chance[known]).mean())  # (3)


BASE = 1 << 20  # more than there are words


def runs_of(texts: list[np.ndarray], order: int) -> np.ndarray:
    """int64 [words]: each word with the order - 1 words before it as one number, `STOP` before the first."""
    lines = [np.concatenate([np.full(order - 1, STOP), text]) for text in texts]
    return np.concatenate([sum(line[k : len(line) - order + 1 + k] * BASE ** (order - 1 - k) for k in range(order)) for line in lines])


def looked(keys: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The value of each key among the sorted known ones; 0 for others."""
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[place] == keys, values[place], 0)


def self_bleu(texts: list[list[str]]) -> float:
    """BLEU of the corpus, 0 to 1, each text against all others: how far they repeat each other."""
    logs = []
    for n in range(1, 5):
        grams = [Counter(pieces(text, n)) for text in texts]
        first: dict[Any, tuple[int, int]] = {}  # the two highest counts that one text has of each n-gram
        for gram, count in ((g, c) for found in grams for g, c in found.items()):
            high, next_ = first.get(gram, (0, 0))
            first[gram] = (count, high) if count > high else (high, max(next_, count))
        hits = sum(min(c, first[g][0] if c < first[g][0] or first[g][1] == c else first[g][1]) for found in grams for g, c in found.items())
        total = sum(found.total() for found in grams)
        logs.append(np.log(max(hits, 0.5) / max(total, 1)))
    return float(np.exp(np.mean(logs)))  # (5)


def lengths(column: Column, real: Dataset, made: Dataset) -> dict[str, Any]:
    """The histogram of the number of words of a column, {"name", "kind", "edges", "real", "synthetic"}; what is longer than nearly all
    counts last."""
    counts = [np.array([len(words(text)) for text in strings(data, column)]) for data in (real, made)]
    top = max(1, int(np.ceil(np.quantile(counts[0], 0.99))))
    edges = np.arange(0, top + 1 + (width := max(1, -(-top // BINS))), width) - 0.5
    bins = [np.bincount(np.searchsorted(edges[1:-1], count), minlength=len(edges) - 1) for count in counts]
    return {
        "name": column.name,
        "kind": "text",
        "edges": edges.tolist(),
        **{
            side: public(count, data, hide=side == "real").tolist()
            for side, count, data in zip(("real", "synthetic"), bins, (real, made), strict=True)
        },
    }


# ---- whole rows


def detector(a: Dataset, b: Dataset, rng: np.random.Generator) -> dict[str, float | None]:
    """How well words and pairs of words, marks and capitals tell texts of `a` from texts of `b`: cross-validated area with its
    interval."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    columns = texts_of(a.schema)
    rows = np.array([*told(a, columns), *told(b, columns)], dtype=object)

    def learner(x: np.ndarray, y: np.ndarray, held: np.ndarray) -> np.ndarray:
        vectorizer = TfidfVectorizer(token_pattern=WORD.pattern, lowercase=False, ngram_range=(1, 2), sublinear_tf=True)
        seen = vectorizer.fit_transform(rows[x])
        return LogisticRegression(C=10.0, max_iter=200).fit(seen, y).predict_proba(vectorizer.transform(rows[held]))

    return told_apart(np.arange(len(a)), np.arange(len(a), len(rows)), rng, learner)


def labels(train: Dataset, test: Dataset, made: Dataset) -> dict[str, Any]:
    """ "label_agreement" and "answers", nothing without a label."""
    column = label_of(train)
    if column is None:
        return {}
    truth, by_real = named(train, test, linear)
    by_made, own = named(made, test, linear)[1], named(train, made, linear)
    agreement = {"synthetic": np.mean(own[0] == own[1]), "real": np.mean(truth == by_real)}
    return {
        "label_agreement": {side: round(float(value), 5) for side, value in agreement.items()},
        "answers": {"column": column.name, **answers(column, truth, {"real": by_real, "synthetic": by_made})},
    }


def answers(column: Column, truth: np.ndarray, said: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """{"values", "rows", side: shares named rightly, "confused": [{"true", "said", side: share}]}, of labels that at least `RARE` rows
    have."""
    rows = Counter(truth)
    values = [value for value in column.categories if rows[value] >= RARE]
    pairs = {side: Counter(zip(truth, labels, strict=True)) for side, labels in said.items()}

    def share(side: str, true: str, label: str) -> float:
        return round(pairs[side][true, label] / rows[true], 3)

    wrong = [pair for pair, _ in pairs["synthetic"].most_common() if pair[0] != pair[1] and set(pair) <= set(values)]
    return {
        "values": values,
        "rows": [rows[value] for value in values],
        **{side: [share(side, value, value) for value in values] for side in said},
        "confused": [{"true": a, "said": b, **{side: share(side, a, b) for side in said}} for a, b in wrong[:CONFUSED]],
    }


def sayings(schema: Schema, test: Dataset, made: Dataset, database: str | Path | None) -> dict[str, Any]:
    """ "faithful" of summaries, "parses" and "executes" of code: of synthetic and of test rows."""
    target = next((c for c in texts_of(schema) if c.name == schema.target), None)
    if target is None:
        return {}
    asked, told_ = (
        {"real": told(test, columns), "synthetic": told(made, columns)} for columns in (texts_of(schema, target.name), [target])
    )
    found: dict[str, Any] = {}
    if schema.task == "summarisation":
        counts = {side: [part.sum() for part in faithful(asked[side], told_[side])] for side in told_}
        found["faithful"] = beside(lambda side: counts[side][0] / max(1, counts[side][1]), "real")
    if target.language:
        found["parses"] = beside(lambda side: fmean(parses(target.language, text) for text in told_[side]), "real")
    if target.language == "sql" and database is not None:
        found["executes"] = beside(lambda side: runs(database, told_[side]).mean(), "real")
    return found
