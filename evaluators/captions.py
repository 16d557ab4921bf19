"""Judges of images with captions: nets that read off an image what its caption should say, and whether the two agree.

What a caption is about ends it, as English has it: the subjects are the words that end at least `RARE` captions. An image and a caption
agree when the subjects that a reader, who learnt on real rows alone, sees in the image are those of the caption, all of them, in the same
order: what is there, how many, and where. A reader is a small convolutional net with an answer for each place of a sentence.

    coherence = the share of rows in which image and caption agree                 (1)

Rows that are drawn whole have one, and so have images of given captions and captions of given images. It is also told of the rows whose
subjects never stand together in a training row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from data.schema import RARE, Dataset
from data.texts import words
from evaluators.image import BATCH, RATE, answered_by, begun, column_of, convolved, learnt, pictures
from evaluators.tabular import Scores
from evaluators.text import share, strings

MOST = 64  # words that captions can be about
PLACES = 24  # of them in one caption
STEPS = 600  # of the judge of utility
STEPS_OF_COHERENCE = 1_000
WIDTHS, FEATURES, CELLS = (24, 48, 64), 128, 3  # CELLS by CELLS places of a square image are told apart
SHIFTS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))  # pixels by which images are moved while a reader learns
SEED = 0xCA97  # of the reader of coherence: not that of the judge of utility


@dataclass(frozen=True)
class Reader:
    """Names the words of `known` that an image shows, in the order of a caption, at most `places` of them."""

    known: tuple[str, ...]
    places: int
    net: nn.Module

    def read(self, x: np.ndarray) -> np.ndarray:
        """int64 [n, places], words by their number from 1, then 0, off images uint8 [n, C, H, W]."""
        return answered_by(self.net, x)

    def said(self, captions: Sequence[str]) -> np.ndarray:
        """The same of captions."""
        return numbered(captions, self.known, self.places)


def reader(x: np.ndarray, captions: Sequence[str], known: Sequence[str], seed: int, steps: int) -> Reader:
    """A reader of the `known` words that learnt on images uint8 [n, C, H, W] and their captions."""
    places, answers = max((len(row) for row in spoken(captions, known)), default=0) or 1, len(known) + 1
    with torch.device("meta"):
        net = reading(x.shape[1:], answers, places)
    moved = np.concatenate([np.roll(x, shift, axis=(2, 3)) for shift in SHIFTS])
    y = np.tile(numbered(captions, known, places), (len(SHIFTS), 1))
    return Reader(tuple(known), places, learnt(begun(net, seed), moved, y, seed=seed, steps=steps, batch=BATCH, rate=RATE))


def reading(shape: Sequence[int], answers: int, places: int) -> nn.Module:
    """A net [n, C, H, W] -> logits [n, answers, places]."""
    channels, height, width = shape
    stride = max(1, 2 ** round(np.log2((height * width) ** 0.5 / 14)))
    cells = (CELLS * max(1, round(height / width)), CELLS * max(1, round(width / height)))
    a, b, c = WIDTHS
    return nn.Sequential(
        *convolved(channels, a, max(3, 2 * stride - 1), stride),
        *convolved(a, b),
        nn.MaxPool2d(2),
        *convolved(b, c),
        nn.AdaptiveAvgPool2d(cells),
        nn.Flatten(),
        nn.Linear(cells[0] * cells[1] * c, FEATURES),
        nn.ReLU(),
        nn.Linear(FEATURES, answers * places),
        nn.Unflatten(1, (answers, places)),
    )


def spoken(captions: Sequence[str], known: Sequence[str]) -> list[list[int]]:
    """The known words of each caption in order, by their number from 1."""
    number = {word: k for k, word in enumerate(known, start=1)}
    return [[number[word] for word in words(caption) if word in number][:PLACES] for caption in captions]


def numbered(captions: Sequence[str], known: Sequence[str], places: int) -> np.ndarray:
    """int64 [n, places]: the same, then 0."""
    found = np.zeros((len(captions), places), dtype=np.int64)
    for row, codes in zip(found, spoken(captions, known), strict=True):
        row[: len(codes[:places])] = codes[:places]
    return found


def subjects(captions: Sequence[str]) -> list[str]:
    """The words that at least `RARE` captions end with, the most frequent first."""
    counts = Counter(found[-1] for caption in captions if (found := words(caption)))
    return [word for word, n in counts.most_common(MOST) if n >= RARE]


def shown_and_said(data: Dataset) -> tuple[np.ndarray, list[str]]:
    """Images uint8 [n, C, H, W] and captions."""
    column = column_of(data.schema, "text")
    assert column is not None, "a judge of captions needs texts"
    return pictures(data), strings(data, column)


# ---- the judge of utility


def reads(train: Dataset, test: Dataset, seed: int) -> Scores:
    """The share of test rows whose subjects a reader names, all in order, who learnt on train; and of those of their places that it names.

    Subjects are those of the test captions; rows without any count nowhere.
    """
    (x, captions), (x_test, asked) = shown_and_said(train), shown_and_said(test)
    known = subjects(asked)
    net = reader(x, captions, known, seed, STEPS)
    places = max(net.places, max((len(row) for row in spoken(asked, known)), default=1))
    truth, said = numbered(asked, known, places), np.zeros((len(x_test), places), dtype=np.int64)
    said[:, : net.places] = net.read(x_test)
    there = (truth > 0).sum(1)
    parts = share("subjects", (said == truth).all(1), there > 0), share("places", ((said == truth) & (truth > 0)).sum(1), there)
    return lambda weights: {metric: values for part in parts for metric, values in part(weights).items()}


# ---- coherence


def coherence(train: Dataset, test: Dataset, made: Mapping[str, Dataset]) -> dict[str, Any] | None:
    """{"subjects": [...], kind of row: {"synthetic", "real", "unseen", "unseen_real", "rows", "unseen_rows"}}: (1), None without subjects.

    `made` are rows by how they were made. Where their captions were written to real images, "caption", they are the first test rows in
    their order, and their subjects are held against those of the true captions. "real" is what the reader makes of the test rows.
    """
    x, captions = shown_and_said(train)
    known = subjects(captions)
    if not known or not len(test):
        return None
    net = reader(x, captions, known, SEED, STEPS_OF_COHERENCE)
    seen = {tuple(row) for row in net.said(captions).tolist()}
    x_test, truth = pictures(test), net.said(shown_and_said(test)[1])
    real = agreeing(net.read(x_test), truth, seen)
    found: dict[str, Any] = {"subjects": known}
    for kind, data in made.items():
        shown, said = shown_and_said(data)
        asked = truth[: len(data)] if kind == "caption" else net.said(said)
        own = agreeing(net.said(said) if kind == "caption" else net.read(shown), asked, seen)
        found[kind] = {"synthetic": own["all"], "real": real["all"], "unseen": own["unseen"], "unseen_real": real["unseen"]}
        found[kind] |= {"rows": own["rows"], "unseen_rows": own["unseen_rows"]}
    return found


def agreeing(a: np.ndarray, b: np.ndarray, seen: set[tuple[int, ...]]) -> dict[str, float | int | None]:
    """The shares of rows of b, int64 [n, places], with any subject, that a equals: of all, and of those that are not among the seen."""
    right, there = (a == b).all(1), (b > 0).any(1)
    new = there & np.array([tuple(row) not in seen for row in b.tolist()], dtype=bool)
    return {
        "all": mean(right[there]),
        "unseen": mean(right[new]),
        "rows": int(there.sum()),
        "unseen_rows": int(new.sum()),
    }


def mean(right: np.ndarray) -> float | None:
    """The share that is true; None of nothing."""
    return round(float(right.mean()), 5) if len(right) else None
