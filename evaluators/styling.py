"""How well photographs were drawn in another style: what of them is still there, and how like the style it is.

    edges  where |grad| of the brightness, smoothed by a pixel, is above twice its root mean square over the image
    F1     of a photograph's edges and its drawing's: 2 P R / (P + R), P and R the shares of one's edges within a pixel of the other's  (1)
    tone   sum over the 256 levels of |the share of pixels up to it of one set - that of the other|: the earth mover's distance        (2)
    void   the share of pixels that are nearly white                                                                                   (3)
    fooled the share of drawings that a classifier takes for the style, which learnt photographs and the style and never saw a drawing (4)
    linked the share of drawings whose own photograph has the edges most like theirs, of all that were drawn                           (5)

Edges: as in the usual threshold of Sobel's operator. Each figure stands beside what it is for photographs, for the style, or by chance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter, gaussian_gradient_magnitude

from data.images import pixels
from data.schema import Dataset, Split
from data.styles import paired, source_of
from evaluators.image import answered_by, classifier, pictures
from evaluators.protocol import capped

LIGHT = (0.299, 0.587, 0.114)
WHITE = 230  # of 255: what is lighter is void
STEEP = 2.0  # times the root mean square
FAINTEST = 2.0  # levels a pixel: less is no edge in any image
SHOWN = 1_000  # drawings that are looked at
STEPS = 200  # of the classifier
SEED = 0x57E1E


def styling(real: Split, drawn: Dataset, *, seed: int = 0) -> dict[str, Any]:
    """How the test photographs were drawn: `drawn` are theirs, row by row; `real` are rows as they were learnt (`data.styles`).

    {"edges": {"drawn", "chance"}, "tone": {"drawn", "photo", "ratio"}, "void": {"photo", "drawn", "style"}, "fooled": {"drawn", "style",
    "photo"}, "linked": {"drawn", "chance"}, "truth": {"drawn", "photo"} or None, "rows"}: the "chance" of edges is F1 with another
    photograph, "ratio" drawn by photo, "truth" the mean absolute difference, 0 to 1, from the image in the other style where rows are
    pairs.
    """
    rows = np.sort(np.random.default_rng([seed, 0x57]).permutation(len(drawn))[:SHOWN])
    target = str(real.train.schema.target)
    photo, made = pictures(real.test.take(rows), source_of(real.train.schema)), pictures(drawn.take(rows))
    style = pixels(real.test.table[target].drop_null())
    photo_edges, made_edges = edges(photo), edges(made)
    tone = {"drawn": earth_mover(made, style), "photo": earth_mover(photo, style)}
    return {
        "edges": {"drawn": f1(photo_edges, made_edges), "chance": f1(np.roll(photo_edges, 1, axis=0), made_edges)},
        "tone": tone | {"ratio": round(tone["drawn"] / tone["photo"], 4) if tone["photo"] else None},
        "void": {"photo": void(photo), "drawn": void(made), "style": void(style)},
        "fooled": fooled(real.train, {"drawn": made, "style": style, "photo": photo}),
        "linked": {"drawn": linked(photo_edges, made_edges), "chance": round(1 / max(1, len(rows)), 4)},
        "truth": {"drawn": apart(made, style[rows]), "photo": apart(photo, style[rows])} if paired(real.train.schema) else None,
        "rows": len(rows),
    }


def brightness(x: np.ndarray) -> np.ndarray:
    """float64 [n, H, W], 0 to 255, of uint8 [n, C, H, W]."""
    return np.tensordot(x[:, :3], LIGHT, axes=(1, 0)) if x.shape[1] >= 3 else x[:, 0].astype(np.float64)


def edges(x: np.ndarray) -> np.ndarray:
    """bool [n, H, W] of uint8 [n, C, H, W]."""
    slope = np.stack([gaussian_gradient_magnitude(one, 1.0, mode="nearest") for one in brightness(x)])
    usual = np.sqrt((slope**2).mean(axis=(1, 2), keepdims=True))
    return slope > np.maximum(STEEP * usual, FAINTEST)


def f1(a: np.ndarray, b: np.ndarray) -> float:
    """Of two sets of edges, bool [n, H, W], the mean over images; two images without any agree."""
    square = np.ones((1, 3, 3), dtype=bool)
    near_a, near_b = binary_dilation(a, square), binary_dilation(b, square)
    hits, found = (b & near_a).sum((1, 2)), b.sum((1, 2))
    met, wanted = (a & near_b).sum((1, 2)), a.sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = hits / found, met / wanted
        score = 2 * precision * recall / (precision + recall)  # (1)
    return round(float(np.where(found + wanted == 0, 1.0, np.nan_to_num(score)).mean()), 4)


def earth_mover(a: np.ndarray, b: np.ndarray) -> float:
    """Between the brightness of all pixels of two sets uint8 [n, C, H, W], in levels."""
    shares = [np.bincount(np.rint(brightness(x)).astype(int).ravel(), minlength=256) / x[:, 0].size for x in (a, b)]
    return round(float(np.abs(np.cumsum(shares[0] - shares[1])).sum()), 4)  # (2)


def void(x: np.ndarray) -> float:
    """Of uint8 [n, C, H, W]."""
    return round(float((brightness(x) > WHITE).mean()), 4)  # (3)


def fooled(train: Dataset, shown: dict[str, np.ndarray]) -> dict[str, float]:
    """Shares of images taken for the style."""
    rng = np.random.default_rng(SEED)
    few = capped(train, 2 * SHOWN, rng)
    sides = [pictures(few, source_of(train.schema)), pixels(few.table[str(train.schema.target)].drop_null())]
    x, y = np.concatenate(sides), np.repeat([0, 1], [len(side) for side in sides])
    net = classifier(x, y, 2, SEED, STEPS)
    return {name: round(float((answered_by(net, images) == 1).mean()), 4) for name, images in shown.items()}  # (4)


def linked(photos: np.ndarray, drawings: np.ndarray) -> float:
    """Of the edges of photographs and of their drawings, bool [n, H, W], softened by a pixel and compared by their cosine."""
    soft = [gaussian_filter(x.astype(np.float32), (0, 1, 1)).reshape(len(x), -1) for x in (photos, drawings)]
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9) for x in soft)
    return round(float(((b @ a.T).argmax(axis=1) == np.arange(len(a))).mean()), 4)  # (5)


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """The mean absolute difference of uint8 [n, C, H, W], 0 to 1."""
    return round(float(np.abs(a.astype(np.int16) - b).mean() / 255), 4)
