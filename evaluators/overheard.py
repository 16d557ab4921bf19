"""What synthetic texts repeat of the texts they were learnt from: near copies, long runs of words, and what belongs to somebody.

Shares of rows alone leave this room; the values themselves are never shown. Each share stands beside that of real test rows, which repeat
the training rows without having seen them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data.schema import RARE, Column, Dataset
from data.texts import keys, names, words
from evaluators.text import strings, texts_of, told

RUNS = (4, 6, 8, 12, 16)  # words that stand in a training text in the same order
PLACES = 2**18  # of the hashed words and characters
SIZE = 128  # of a text as a point
CHARACTERS = (3, 4)  # letters of the pieces of words that are counted
SEED = 0x9EA4  # of the projection, which is the same for all
MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
NUMBER = re.compile(r"\d(?:[ .,/()-]?\d){4,}")  # five digits or more, whatever stands between them

Found = Callable[[str], Sequence[str]]  # the values of one kind in a text


def overheard(train: Dataset, test: Dataset, made: Dataset) -> dict[str, Any]:
    """Shares of synthetic and of test rows that repeat training rows, in the one way or the other.

    {"near_copies": {"synthetic", "real"}, "columns": [{"name", "synthetic", "real"}], "spans": [{"words": length of a run, "synthetic",
    "real"}], "leaks": {kind: {"known", "synthetic", "real", "values": {"synthetic", "real"}}, …, "any": {"synthetic", "real"}}}. Near
    copies use the words of a training row, in whatever order; "columns" are verbatim copies of one column's text; spans are runs of words
    in one text of a row that stand in a training text of that column. Leaks are values that stand in training rows: e-mail addresses,
    numbers of at least five digits, and names in fewer than `RARE` training rows; "known": how many train has, "values": how many come
    again.
    """
    columns = texts_of(train.schema)
    known = keys(train.table, columns)
    return {
        "near_copies": both(test, made, lambda data: np.isin(keys(data.table, columns), known)),
        "columns": [{"name": c.name, **both(test, made, lambda data, c=c: copied(c, train, data))} for c in columns],  # type: ignore[misc]
        "spans": spans(columns, train, test, made),
        "leaks": leaks([c for c in columns if not c.language], train, test, made),
    }


def both(test: Dataset, made: Dataset, function: Callable[[Dataset], np.ndarray]) -> dict[str, float | None]:
    """The share of rows of which something is true, bool [n], among synthetic and test rows; None where there are none."""
    return {side: ratio(function(data)) for side, data in (("synthetic", made), ("real", test))}


def ratio(found: np.ndarray) -> float | None:
    """The share that is true."""
    return round(float(found.mean()), 6) if len(found) else None


def plain(text: str) -> str:
    """A text without what its white space and its capitals say."""
    return " ".join(text.casefold().split())


def copied(column: Column, train: Dataset, data: Dataset) -> np.ndarray:
    """bool [n]: does a row's text stand in this column of a training row?"""
    known = {plain(text) for text in strings(train, column)}
    return np.array([plain(text) in known for text in strings(data, column)], dtype=bool)


def spans(columns: Sequence[Column], train: Dataset, test: Dataset, made: Dataset) -> list[dict[str, Any]]:
    """Shares of rows with a run of so many words of a training text, for each length in `RUNS`."""
    spelled = [[[words(text) for text in strings(data, c)] for data in (train, made, test)] for c in columns]
    found = []
    for n in RUNS:
        hits = [np.zeros(len(data), dtype=bool) for data in (made, test)]
        for known_rows, *others in spelled:
            known = {run for row in known_rows for run in grams(row, n)}
            for hit, rows in zip(hits, others, strict=True):
                hit |= np.array([any(run in known for run in grams(row, n)) for row in rows], dtype=bool)
        found.append({"words": n, "synthetic": ratio(hits[0]), "real": ratio(hits[1])})
    return found


def grams(row: list[str], n: int) -> list[int]:
    """A number for each run of n words."""
    return [hash(run) for run in zip(*(row[i:] for i in range(n)), strict=False)]


def leaks(columns: Sequence[Column], train: Dataset, test: Dataset, made: Dataset) -> dict[str, Any]:
    """How many values of each kind train has, and how many of them and in which share of rows they come again."""
    texts = {name: told(data, columns) for name, data in (("train", train), ("synthetic", made), ("real", test))}
    result: dict[str, Any] = {}
    touched = {side: np.zeros(len(texts[side]), dtype=bool) for side in ("synthetic", "real")}
    for kind, (find, most) in KINDS.items():
        count = Counter(value for text in texts["train"] for value in set(find(text)))
        known = {value for value, rows in count.items() if rows < most}
        again = {side: [known.intersection(find(text)) for text in texts[side]] for side in touched}
        hits = {side: np.array([bool(found) for found in rows], dtype=bool) for side, rows in again.items()}
        for side, hit in hits.items():
            touched[side] |= hit
        result[kind] = {
            "known": len(known),
            **{side: ratio(hit) for side, hit in hits.items()},
            "values": {side: len(set().union(*rows)) for side, rows in again.items()},
        }
    return result | {"any": {side: ratio(hit) for side, hit in touched.items()}}


def mails(text: str) -> list[str]:
    """E-mail addresses."""
    return [found.casefold() for found in MAIL.findall(text)]


def long_numbers(text: str) -> list[str]:
    """Numbers of at least five digits, as their digits alone."""
    return [re.sub(r"\D", "", found) for found in NUMBER.findall(text)]


def capitals(text: str) -> list[str]:
    """Names: words of letters with a capital that do not begin a sentence."""
    return [name for name in names(text) if name[0].isupper() and not any(c.isdigit() for c in name)]


KINDS: dict[str, tuple[Found, float]] = {"emails": (mails, np.inf), "numbers": (long_numbers, np.inf), "names": (capitals, RARE)}


def placed(train: Dataset, datasets: Sequence[Dataset]) -> list[np.ndarray]:
    """float64 [n, SIZE] of each dataset's texts: shares of words and of pieces of words, rare ones counting more, thrown onto `SIZE` axes.

    A throw of unit vectors keeps distances, up to a few percent: texts with the same words lie at one place, others about sqrt(2) apart.
    """
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.random_projection import SparseRandomProjection

    columns = texts_of(train.schema)
    counted = HashingVectorizer(analyzer=bits, n_features=PLACES, norm=None, alternate_sign=False)
    weighed = TfidfTransformer(sublinear_tf=True).fit(counted.transform(told(train, columns)))
    thrown = SparseRandomProjection(SIZE, random_state=SEED).fit(np.zeros((1, PLACES)))
    return [thrown.transform(weighed.transform(counted.transform(told(data, columns)))).toarray() for data in datasets]


def bits(text: str) -> list[str]:
    """The words of a text, and the pieces of each."""
    found = words(text)
    return [*found, *(f"<{word}>"[i : i + n] for word in found for n in CHARACTERS for i in range(len(word) + 3 - n))]
