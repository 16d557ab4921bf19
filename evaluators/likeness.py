"""How like the real images the synthetic ones are, in spaces of features (`evaluators.features`), against held-out real images.

With means m, covariances S and the kernel k(a, b) = (a.b / d + 1)^3:

    FID       = |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2))                           (1)  Heusel et al. 2017, arXiv:1706.08500
    KID       = mean k(x, x') + mean k(y, y') - 2 mean k(x, y), x not x', y not y'  (2)  Binkowski et al. 2018, arXiv:1801.01401
    precision, recall: the share of one set inside the balls of the other          (3)  Kynkaanniemi et al. 2019, arXiv:1904.06991
    density   = synthetic images in a ball of a real one, by k times their number  (4)  Naeem et al. 2020, arXiv:2002.09797
    coverage  = the share of real images whose ball holds a synthetic one          (5)

A ball reaches from an image to its k-th nearest of its own set. FID grows as images get fewer, so both sides always have the same number,
and every figure stands beside the one of the real training images in place of the synthetic ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from data.schema import Column, Dataset
from evaluators.captions import coherence
from evaluators.features import Eyes, Space, eyes, label_of, views
from evaluators.fidelity import FOLDS, told_apart
from evaluators.image import answered_by, classes, column_of, overlap_scores, pictures, segmenter
from evaluators.protocol import EFFORT, capped
from evaluators.tabular import codes, straight

ROWS = EFFORT["image"].rows  # images of a side
BALLS = 2_000  # images of a side among which balls are drawn
NEIGHBOURS = 5
LEAST = 2 * FOLDS  # images of a side
DETECTED = 2_000  # images of a side that the detector sees
CHUNK = 1_000  # rows of a matrix of kernel values in memory
SEED = 0x1A6E1  # of the net that says which mask an image should have


def likeness(
    real_train: Dataset,
    real_test: Dataset,
    synthetic: Dataset,
    *,
    seed: int = 0,
    rows: int = ROWS,
    spaces: Mapping[str, Space] | None = None,
) -> dict[str, Any]:
    """FID, KID, precision, recall, density and coverage in each space, agreement of labels, a detector, and shares of classes.

    {"kind": "image", "spaces": {space: {figure: {"synthetic", "real"}}}, "label_agreement": {"synthetic", "real"} or None, "detector":
    {"train", "test", "real"}, "classes": {"column", "values", "real", "synthetic"} or None, "rows_used"}. "synthetic" compares
    synthetic with test images, "real" training with test images. Agreement is the share of images whose label a classifier gives that
    knows the real training images alone; for masks, the mean IoU with the mask that a U-Net gives. `spaces` are looked at besides our
    own two. From fewer than `LEAST` images a side no figure is computed.
    """
    rng = np.random.default_rng([seed, 0x11CE])
    schema = real_train.schema
    train, test, made = (capped(Dataset.of(data.table, schema), rows, rng) for data in (real_train, real_test, synthetic))
    looks = {"train": views(train), "test": views(test), "synthetic": views(made)}
    n = min(map(len, looks.values()))
    nothing: dict[str, Any] = {"spaces": {}, "label_agreement": None, "detector": None}
    result = {"kind": "image", "classes": shares(test, made), "rows_used": {name: len(x) for name, x in looks.items()} | {"a_side": n}}
    if n < LEAST:
        return result | nothing
    seen = eyes(train, looks["train"])
    features = {name: {side: space(x) for side, x in looks.items()} for name, space in {**seen.spaces, **(spaces or {})}.items()}
    agreement = agreeing(train, seen)
    own = {side: np.hstack([features[name][side] for name in seen.spaces]) for side in looks}
    shown = {side: some(f, min(n, DETECTED), rng) for side, f in own.items()}
    sides = (("train", "train", "synthetic"), ("test", "test", "synthetic"), ("real", "train", "test"))
    return result | {
        "spaces": {name: beside({side: some(f, n, rng) for side, f in of.items()}, rng) for name, of in features.items()},
        "label_agreement": agreement and {"synthetic": agreement(made), "real": agreement(test)},
        "detector": {side: distinguished(shown[a], shown[b], rng) for side, a, b in sides},
    }


def captioned(
    real_train: Dataset, real_test: Dataset, synthetic: Dataset, *, seed: int = 0, asked: Mapping[str, Dataset] | None = None
) -> dict[str, Any]:
    """`likeness` of the images, {"kind": "multimodal"}, and the "coherence" of `evaluators.captions`: of the rows as drawn, and as asked
    for, "image" and "caption"."""
    found = likeness(real_train, real_test, synthetic, seed=seed)
    return found | {"kind": "multimodal", "coherence": coherence(real_train, real_test, {"drawn": synthetic, **(asked or {})})}


def distinguished(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> dict[str, float | None]:
    """How well a logistic regression tells the features [n, d] of two sets of images apart: cross-validated area with its interval."""
    plain = np.zeros(a.shape[1], dtype=bool)
    return told_apart(a, b, rng, lambda x, y, held: straight(x, y, held, plain, 2, 0))


def some(x: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """n rows of x chosen at random, or all when there are no more."""
    return x if len(x) <= n else x[np.sort(rng.choice(len(x), n, replace=False))]


def beside(sides: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Each figure of synthetic images and of training images against test images; all float64 [n, d]."""
    found = [figures(sides["test"], sides[side], rng) for side in ("synthetic", "train")]
    return {name: {"synthetic": round(found[0][name], 5), "real": round(found[1][name], 5)} for name in found[0]}


def figures(real: np.ndarray, made: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """FID, KID and, among `BALLS` of each side, precision, recall, density and coverage."""
    return {"fid": fid(real, made), "kid": kid(real, made), **balls(some(real, BALLS, rng), some(made, BALLS, rng))}


def fid(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance between the Gaussians with the moments of float64 [n, d] and [m, d]; both n and m at least 2."""
    gap = a.mean(axis=0) - b.mean(axis=0)
    first, second = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    value, vector = np.linalg.eigh(first)
    root = (vector * np.sqrt(np.maximum(value, 0))) @ vector.T
    joint = np.linalg.eigvalsh(root @ second @ root)  # the eigenvalues of S S', which is not symmetric
    return float(gap @ gap + np.trace(first) + np.trace(second) - 2 * np.sqrt(np.maximum(joint, 0)).sum())  # (1)


def kid(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased squared maximum mean discrepancy of float64 [n, d] and [m, d]: 0 on average for equal laws, so it may be below 0."""

    def total(x: np.ndarray, y: np.ndarray) -> float:
        return float(sum(((x[i : i + CHUNK] @ y.T / x.shape[1] + 1) ** 3).sum() for i in range(0, len(x), CHUNK)))

    def within(x: np.ndarray) -> float:
        own = (((x**2).sum(axis=1) / x.shape[1] + 1) ** 3).sum()
        return (total(x, x) - own) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * total(a, b) / (len(a) * len(b)))  # (2)


def balls(real: np.ndarray, made: np.ndarray, k: int = NEIGHBOURS) -> dict[str, float]:
    """Precision, recall, density and coverage of float64 [m, d] as an image of float64 [n, d]; both n and m above k."""
    across = squared(real, made)  # [n, m]
    radius, radius_made = (np.partition(squared(x, x), k, axis=1)[:, k] for x in (real, made))  # place 0 is the image itself
    inside = across <= radius[:, None]
    return {
        "precision": float(inside.any(axis=0).mean()),  # (3)
        "recall": float((across <= radius_made).any(axis=1).mean()),  # (3)
        "density": float(inside.sum() / (k * len(made))),  # (4)
        "coverage": float(inside.any(axis=1).mean()),  # (5)
    }


def squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[n, m] squared distances of float64 [n, d] and [m, d]."""
    return np.maximum((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T, 0)


def agreeing(train: Dataset, seen: Eyes) -> Callable[[Dataset], float | None] | None:
    """How far the labels or masks of images are those that a net gives which learnt on the real training images; None without either."""
    label, mask, known = label_of(train), column_of(train.schema, "mask"), seen.answers
    if label is not None and known is not None:

        def same(data: Dataset) -> float | None:
            return round(float((known(views(data)) == codes(label, [train], [data])[1]).mean()), 5)

        return same
    if mask is None:
        return None
    net = segmenter(pictures(train), classes(train, mask), len(mask.categories), SEED)

    def overlap(data: Dataset) -> float | None:
        scores = overlap_scores(classes(data, mask), answered_by(net, pictures(data)), mask.categories)
        return round(float(scores(np.ones((len(data), 1)))["mean_iou"][0]), 5)

    return overlap


def shares(real: Dataset, made: Dataset) -> dict[str, Any] | None:
    """How often each label, or each class among the pixels of the masks, occurs; None without either."""
    label, mask = label_of(real), column_of(real.schema, "mask")
    column = label or mask
    if column is None:
        return None
    found = {}
    for side, data in (("real", real), ("synthetic", made)):
        code = in_order(column, data) if label else classes(data, column).ravel()
        found[side] = (np.bincount(code, minlength=len(column.categories)) / max(1, len(code))).round(5).tolist()
    return {"column": column.name, "values": list(column.categories), **found}


def in_order(column: Column, data: Dataset) -> np.ndarray:
    """int [m], the place of each label among the schema's categories; others are left out."""
    place = {value: i for i, value in enumerate(column.categories)}
    words = column.strings(data.table[column.name]).to_pylist()
    return np.array([place[word] for word in words if word in place], dtype=np.int64)
