"""Judges of texts: who names what a text means, and who answers a text with a text.

Of texts with a label, `tfidf` counts words and pairs of words for a linear classifier, and `bag` averages learnt vectors of them. Of texts
that answer texts, `seq2seq` learns to write the answer (`evaluators.seq2seq`), and what it writes is scored by

    chrF = 5 P R / (4 P + R), P and R the mean shares of 1- to 6-grams of characters found in the other   (1)  Popovic 2015
    BLEU = min(1, e^(1 - r / c)) (p_1 p_2 p_3 p_4)^(1/4), p_n the share of n-grams of words found          (2)  Papineni et al. 2002

as sacrebleu computes them (Post 2018, arXiv:1804.08771), by ROUGE-L (Lin 2004), and by whether it is right to the letter, parses, runs,
or names the right tool. Every row has its counts, so that a score of redrawn rows is a matrix product and as exact as one of the rows
themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F

from data.code import parses
from data.schema import Column, Dataset, Schema
from data.texts import faithful, words
from evaluators.executing import same_answers
from evaluators.seq2seq import Learnt, steps_for
from evaluators.tabular import Judge, Scores, cores, label_scores, one_thread, side_by_side, waited

DECODED = 1_000  # test rows that are answered
TRIED = (20, 1_000)  # steps, of so many pairs, that show how long a judge learns to answer
BAG = 2**15  # places of the table of vectors
BAG_STEPS = 1_200
BAG_BATCH = 64
BAG_WIDTH = 96
BAG_RATE = 1e-2
CHARACTERS = 6  # of the longest pieces that chrF compares


# ---- what they see


def texts_of(schema: Schema, target: str | None = None) -> list[Column]:
    """The columns of texts but the target."""
    return [c for c in schema.columns if c.kind == "text" and c.name != target]


def strings(data: Dataset, column: Column) -> list[str]:
    """The texts of a column, empty where null."""
    return [text or "" for text in data.table[column.name].to_pylist()]


def told(data: Dataset, columns: Sequence[Column]) -> list[str]:
    """The texts of all these columns, one line each."""
    return ["\n".join(row) for row in zip(*(strings(data, c) for c in columns), strict=True)] if columns else [""] * len(data)


def spoken(data: Dataset, target: str) -> list[list[str]]:
    """The words and pairs of words of each row."""
    return [terms(text) for text in told(data, texts_of(data.schema, target))]


def terms(text: str) -> list[str]:
    """The words and pairs of words of a text."""
    found = words(text)
    return [*found, *map(" ".join, pairwise(found))]


# ---- texts with a label


def tfidf(train: Dataset, test: Dataset, seed: int) -> Scores:
    """Accuracy and F1 of a linear classifier of words and pairs of words."""
    return labelled(train, test, partial(linear, seed=seed))


def bag(train: Dataset, test: Dataset, seed: int) -> Scores:
    """Accuracy and F1 of a small net over the mean of learnt vectors of words and pairs of words."""
    return labelled(train, test, partial(averaged, seed=seed))


Namer = Callable[[list[list[str]], np.ndarray, list[list[str]]], np.ndarray]  # (words, labels [n], words of others) -> labels [m]


def labelled(train: Dataset, test: Dataset, namer: Namer) -> Scores:
    """Scores of the labels that a namer who learnt on train gives to test."""
    scores = label_scores(*named(train, test, namer))
    return lambda weights: {metric: scores(weights)[metric] for metric in ("accuracy", "f1")}


def named(train: Dataset, test: Dataset, namer: Namer) -> tuple[np.ndarray, np.ndarray]:
    """object [n_test] each: the true label of each test row as text, and the one that it is given; None where null, or nothing was
    learnt."""
    name = train.schema.target
    assert name is not None, "a judge needs a target"
    y, truth = (np.array(train.schema[name].strings(data.y).to_pylist(), dtype=object) for data in (train, test))
    known = np.array([label is not None for label in y], dtype=bool)
    if not known.any() or not len(truth):
        return truth, np.full(len(truth), None)
    values, code = np.unique(y[known].astype(str), return_inverse=True)
    if len(values) == 1:
        return truth, np.full(len(truth), values[0], dtype=object)
    return truth, values.astype(object)[namer(spoken(train.take(known), name), code, spoken(test, name))]


def linear(rows: list[list[str]], y: np.ndarray, others: list[list[str]], seed: int = 0) -> np.ndarray:
    """The labels of `margins`."""
    return margins(rows, y, others, seed).argmax(1)


def margins(rows: list[list[str]], y: np.ndarray, others: list[list[str]], seed: int = 0) -> np.ndarray:
    """float64 [m, L]: how sure a support vector machine on shares of words, rare words counting more, is of each label from 0 to L - 1."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    vectorizer = TfidfVectorizer(analyzer=list, sublinear_tf=True)
    x = vectorizer.fit_transform([row or [""] for row in rows])
    found = LinearSVC(random_state=seed).fit(x, y).decision_function(vectorizer.transform(others))
    return found if found.ndim > 1 else np.stack([-found, found], axis=1)


def averaged(rows: list[list[str]], y: np.ndarray, others: list[list[str]], seed: int = 0) -> np.ndarray:
    """A net over the mean of vectors of words and pairs; a word that training rows have not says nothing."""
    counts = Counter(word for row in rows for word in set(row))
    place = {word: i for i, (word, _) in enumerate(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:BAG])}
    seen, asked = ([np.array([place[w] for w in row if w in place], dtype=np.int64) for row in some] for some in (rows, others))
    rng = torch.Generator().manual_seed(seed)
    answers = int(y.max()) + 1
    vectors = (torch.randn(len(place) + 1, BAG_WIDTH, generator=rng) * BAG_WIDTH**-0.5).requires_grad_()
    weight = (torch.randn(answers, BAG_WIDTH, generator=rng) * BAG_WIDTH**-0.5).requires_grad_()
    bias = torch.zeros(answers, requires_grad=True)

    def logits(chosen: list[np.ndarray], rate: float = 0.0) -> torch.Tensor:
        flat, starts = torch.from_numpy(np.concatenate(chosen)), np.cumsum([0, *map(len, chosen[:-1])])
        mean = F.embedding_bag(flat, vectors, torch.from_numpy(starts), mode="mean", sparse=True)
        return F.linear(mean * len(weight[0]) ** 0.5, weight, bias)

    sparse, dense = torch.optim.SparseAdam([vectors], lr=BAG_RATE), torch.optim.AdamW([weight, bias], lr=BAG_RATE)
    truth = torch.from_numpy(y)
    with one_thread(), torch.enable_grad():
        for step in waited(range(BAG_STEPS)):
            chosen = torch.randint(len(seen), (BAG_BATCH,), generator=rng)
            loss = F.cross_entropy(logits([seen[i] for i in chosen.tolist()]), truth[chosen], label_smoothing=0.1)
            for optimizer in (sparse, dense):
                optimizer.param_groups[0]["lr"] = BAG_RATE * (1 - step / BAG_STEPS)
                optimizer.zero_grad()
            loss.backward()
            sparse.step()
            dense.step()
    with one_thread(), torch.inference_mode():
        return np.concatenate([logits(asked[i : i + 1_000]).argmax(1).numpy() for i in range(0, len(asked), 1_000)])


# ---- texts that answer texts


def seq2seq(train: Dataset, test: Dataset, seed: int, database: str | Path | None = None) -> Scores:
    """How well what a small net writes, asked with the texts of `DECODED` test rows, agrees with their targets."""
    rows = np.sort(np.random.default_rng([seed, 0x5E25]).permutation(len(test))[:DECODED])
    asked, truth = pairs(test.take(rows))
    said = Learnt(*pairs(train), seed)(asked)
    scores = answer_scores(asked, truth, said, train.schema, database)
    return lambda weights: scores(weights[rows])


def pairs(data: Dataset) -> tuple[list[str], list[str]]:
    """What each row asks, the texts of all columns but the target, and what it answers."""
    name = data.schema.target
    assert name is not None, "a judge needs a target"
    return told(data, texts_of(data.schema, name)), strings(data, data.schema[name])


def pace(train: Dataset) -> float:
    """Seconds that a judge learns to answer where one learns on every core, from a few steps of each."""
    steps, rows = TRIED
    asked, answers = pairs(train.take(np.arange(0, len(train), -(-len(train) // rows))))
    for tried in (1, steps):  # the first only warms up
        found = side_by_side(lambda seed: Learnt(asked, answers, seed, tried), range(cores()))  # noqa: B023  (run at once)
    return fmean(learnt.seconds for learnt in found) / steps * steps_for(len(train), found[0].batch) / len(found)


def executing(database: str | Path) -> Judge:
    """`seq2seq` whose answers are also run against an SQLite database: the first score is the share that answers as the true query
    does."""
    return partial(seq2seq, database=database)


def answer_scores(
    asked: Sequence[str], truth: Sequence[str], said: Sequence[str], schema: Schema, database: str | Path | None = None
) -> Scores:
    """The scores that the schema's task calls for, the most telling one first."""
    assert schema.target is not None
    language = schema[schema.target].language
    parts: dict[str, Scores] = {"chrf": chrf(truth, said), "bleu": bleu(truth, said)}
    right = share("exact_match", np.array([plain(a) == plain(b) for a, b in zip(truth, said, strict=True)], float))
    if schema.task == "summarisation":
        parts = {"rouge_l": share("rouge_l", rouge(truth, said)), **parts, "faithful": share("faithful", *faithful(asked, said))}
    elif schema.task == "text-to-code":
        parts = {"exact_match": right, **parts}
        if language:
            parts["parses"] = share("parses", np.array([parses(language, text) for text in said], float))
        else:
            parts["tool"] = share("tool", np.array([a.split()[:1] == b.split()[:1] for a, b in zip(truth, said, strict=True)], float))
        if database is not None:
            parts = {"executes": share("executes", *same_answers(database, said, truth)), **parts}
    else:
        parts["exact_match"] = right
    return lambda weights: {metric: values for part in parts.values() for metric, values in part(weights).items()}


def plain(text: str) -> str:
    """A text without what its white space says."""
    return " ".join(text.split())


def share(metric: str, hits: np.ndarray, of: np.ndarray | None = None) -> Scores:
    """The sum of hits [n] by the sum of what was there to hit [n], 1 a row unless given; NaN where there was nothing."""
    total = np.ones(len(hits)) if of is None else of.astype(float)
    hits = np.where(total > 0, hits, 0).astype(float)

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore"):
            return {metric: (hits @ weights) / (total @ weights)}

    return scores


def chrf(truth: Sequence[str], said: Sequence[str]) -> Scores:
    """chrF2 of the corpus, 0 to 100, as sacrebleu has it."""
    counts = np.array([characters(a, b) for a, b in zip(truth, said, strict=True)], float).reshape(-1, 3 * CHARACTERS)

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        made, true, both = (counts.T @ weights).reshape(CHARACTERS, 3, -1).transpose(1, 0, 2)
        known = (made > 0) & (true > 0)
        orders = np.maximum(known.sum(0), 1)
        precision, recall = (np.where(known, both / np.maximum(n, 1e-12), 0).sum(0) / orders for n in (made, true))
        return {"chrf": 100 * 5 * precision * recall / np.maximum(4 * precision + recall, 1e-12)}  # (1)

    return scores


def characters(truth: str, said: str) -> list[int]:
    """For pieces of 1 to `CHARACTERS` characters: how many were said, how many are true, how many are both."""
    truth, said = "".join(truth.split()), "".join(said.split())
    counts = []
    for n in range(1, CHARACTERS + 1):
        true, made = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (truth, said))
        counts += [made.total() if true else 0, true.total(), (true & made).total()]
    return counts


def bleu(truth: Sequence[str], said: Sequence[str]) -> Scores:
    """BLEU of the corpus, 0 to 100, as sacrebleu has it: its words, and its smoothing of orders without a hit."""
    from sacrebleu.metrics import BLEU

    metric = BLEU(effective_order=True)
    found = [metric.sentence_score(b, [a]) for a, b in zip(truth, said, strict=True)]
    counts = np.array([[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in found], float).reshape(-1, 10)

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        made, true, *rest = counts.T @ weights  # [draws] each
        hits, total = np.stack(rest[:4]), np.stack(rest[4:])
        halved = 2.0 ** np.cumsum(hits == 0, axis=0)  # an order without a hit counts as half a hit, the next one as a quarter, …
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.log(np.where(hits > 0, hits, 1 / halved) / total)
            short = np.minimum(1, np.exp(1 - true / made))
            value = 100 * short * np.exp(shares.mean(0))  # (2)
        return {"bleu": np.where((total > 0).all(0) & (hits > 0).any(0), value, 0)}

    return scores


def rouge(truth: Sequence[str], said: Sequence[str]) -> np.ndarray:
    """float [n]: ROUGE-L F of each answer, 0 to 1."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    return np.array([scorer.score(a, b)["rougeL"].fmeasure for a, b in zip(truth, said, strict=True)])


def signatures(metrics: Sequence[str]) -> dict[str, str]:
    """How sacrebleu names these metrics as they are computed here, so that others can compute the same."""
    from sacrebleu.metrics import BLEU, CHRF

    known = {"chrf": CHRF(), "bleu": BLEU()}
    for metric in known.values():
        metric.corpus_score(["one"], [["one"]])
    return {name: str(known[name].get_signature()) for name in metrics if name in known}


CLASSIFIERS: dict[str, Judge] = {"tfidf": tfidf, "bag": bag}
ANSWERERS: dict[str, Judge] = {"seq2seq": seq2seq}
