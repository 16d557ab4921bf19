"""Small data of every modality, recipes that learn it in a moment, and the models of both: what the laws of generators are run on.

Tables hold every kind of column. Images are real digits, and bright bars with masks; generators of image to image read them beside their
negatives in another order. Texts are real: the first lines of the docstrings of a few modules of Python's library, with the module as
label. Captions name real digits: "a three", or "a three then a seven" of an image of two.
"""

import importlib
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache, partial

import numpy as np
import pyarrow as pa
import pytest

from data.images import column, pixels
from data.schema import Dataset, Schema
from generators.base import Descending, Translating
from generators.fitted import Fitted
from generators.registry import get, make, modality_of, names

TINY = {"training": {"steps": 30, "batch": 64}}
FEW = {"training": {"steps": 12, "batch": 32}}
OF = {
    "image": FEW,
    "text": {"width": 16, "training": {"steps": 30, "batch": 32}},
    "multimodal": {"codes": 32, "coding": 0.4, "hidden": 16, "width": 32, "depth": 1, "training": {"steps": 30, "batch": 32}},
}
SMALL = {  # parameters with which a fit takes a moment
    "tabular/gmm": {"components": 4, "rounds": 1},
    "tabular/rbm": TINY | {"hidden": 8, "bins": 8},
    "tabular/autoencoder": TINY | {"hidden": 32, "latent": 4, "density": {"components": 4}},
    "tabular/vae": {"training": {"steps": 90, "batch": 64}, "hidden": 32, "latent": 4, "modes": 4},
    "tabular/gan": TINY | {"hidden": 32},
    "tabular/diffusion": TINY | {"hidden": 32, "depth": 1},
    "tabular/transformer": TINY | {"width": 16, "depth": 1, "heads": 2},
    "tabular/made": TINY,
    "sdv/ctgan": {"epochs": 1},
    "sdv/tvae": {"epochs": 1},
    **{name: OF[modality] for modality in OF for name in names(modality) if issubclass(get(name), Descending)},
}
MODULES = (
    "os",
    "math",
    "socket",
    "subprocess",
    "statistics",
    "shutil",
    "tarfile",
    "turtle",
    "unittest.mock",
    "email.message",
    "ast",
    "random",
)
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def each(*modalities: str) -> list:
    """The names of generators, as parameters of tests; what is run of one generator is run by one process."""
    found = [name for modality in modalities or MODALITIES for name in names(modality)]
    return [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in found]


# ---- tables


def dataset(table: pa.Table, target: str | None = None, kinds: dict | None = None) -> Dataset:
    return Dataset.of(table, Schema.infer(table, target=target, kinds=kinds))


@cache
def everything() -> Dataset:
    """Every kind of column and type, with nulls; two planted people who stand out."""
    rng = np.random.default_rng(0)
    n = 400
    group = rng.integers(3, size=n)
    amount = np.round(rng.lognormal(3, 1, n), 2)
    amount[0], amount[1] = 987654.32, 0.0123456
    word = np.array(["red", "green", "blue"])[group].astype(object)
    word[:2] = "Rumpelstilzchen"
    moment = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=int(m)) for m in rng.integers(500_000, size=n)]
    hole = rng.random(n) < 0.25
    columns = {
        "key": pa.array([f"K-{i:05d}" for i in rng.choice(100_000, n, replace=False)]),
        "word": pa.array(word.tolist()),
        "flag": pa.array((rng.random(n) < 0.3).tolist(), mask=rng.random(n) < 0.1),
        "amount": pa.array(amount),
        "height": pa.array((group + rng.normal(size=n)).astype(np.float32), mask=hole),
        "count": pa.array(rng.poisson(200 * (group + 1)), pa.int16()),
        "price": pa.array([Decimal(int(v)) / 100 for v in rng.integers(100, 99999, size=n)], pa.decimal128(9, 2)),
        "day": pa.array(
            [date(2020, 1, 1) + timedelta(days=int(d)) for d in rng.integers(2000, size=n)], pa.date32(), mask=rng.random(n) < 0.2
        ),
        "moment": pa.array(moment, pa.timestamp("us", "Europe/Madrid")),
    }
    return dataset(pa.table(columns), "word")


# ---- images


@cache
def digits() -> Dataset:
    """Real digits, 8 by 8, 30 of each."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    keep = np.concatenate([np.flatnonzero(bunch.target == k)[:30] for k in range(10)])
    images = (bunch.images[keep] * 255 / 16).round().astype(np.uint8)[:, None]
    table = pa.table({"image": column(images), "label": pa.array(bunch.target[keep].astype(str))})
    return Dataset.of(table, Schema.infer(table, target="label"))


@cache
def masked() -> Dataset:
    """Colour images, 6 high and 9 wide, of a bright bar, with the bar as their mask."""
    rng = np.random.default_rng(0)
    images, masks = rng.integers(0, 90, (120, 3, 6, 9)).astype(np.uint8), np.zeros((120, 1, 6, 9), dtype=np.uint8)
    for image, mask, left in zip(images, masks, rng.integers(0, 6, 120), strict=True):
        image[:, 1:5, left : left + 3] += 150
        mask[:, 1:5, left : left + 3] = 255
    table = pa.table({"picture": column(images), "mask": column(masks)})
    return Dataset.of(table, Schema.infer(table, target="mask"))


def beside(data: Dataset) -> Dataset:
    """The images beside the negatives of others."""
    x = pixels(data.table[next(c.name for c in data.schema.columns if c.kind == "image")])
    table = data.table.append_column("style", column(255 - x[np.random.default_rng(1).permutation(len(x))]))
    return Dataset.of(table, Schema.infer(table, target="style", kinds={"style": "style"}))


# ---- texts


@cache
def documented() -> list[tuple[str, str, str]]:
    """(what is documented, its first line, its module), a few hundred."""
    found = []
    for name in MODULES:
        for what, thing in vars(importlib.import_module(name)).items():
            lines = (getattr(thing, "__doc__", None) or "").strip().splitlines() if callable(thing) else []
            if lines and not what.startswith("_"):
                found.append((what, lines[0][:60], name))
    return [row for row in found if len(row[1]) < 40][::3][:200]


def strings(**columns: list[str]) -> pa.Table:
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


@cache
def labelled() -> Dataset:
    found = strings(text=[line for _, line, _ in documented()], module=[name for _, _, name in documented()])
    schema = Schema.infer(found, target="module", kinds={"text": "text", "module": "category"})
    return kept(Dataset.of(found, schema))


def kept(data: Dataset) -> Dataset:
    """The rows whose label is frequent enough to be learnt."""
    return data.take(np.isin(data.y.to_pylist(), data.schema["module"].categories))


@cache
def pairs() -> Dataset:
    found = strings(name=[what for what, _, _ in documented()], text=[line for _, line, _ in documented()])
    return Dataset.of(found, Schema.infer(found, target="text", kinds={"name": "text", "text": "text"}, task="text-to-text"))


@cache
def alone() -> Dataset:
    found = strings(text=[line for _, line, _ in documented()])
    return Dataset.of(found, Schema.infer(found, kinds={"text": "text"}))


# ---- captioned images


def captions(kind: str = "captioned") -> Dataset:
    """Real digits, 8 by 8, alone or two side by side, with what they are in words; "labelled" with how many there are, too."""
    from sklearn.datasets import load_digits

    bunch, rng = load_digits(), np.random.default_rng(0)
    x, counts = (bunch.images * 255 / 16).round().astype(np.uint8), rng.integers(1, 3, 240)
    rows = [rng.integers(0, len(x), 2)[:count] for count in counts]
    images = [np.concatenate([*(x[i] for i in row), *([np.zeros((8, 8), np.uint8)] * (2 - len(row)))], axis=1)[None] for row in rows]
    said = [" then ".join(f"a {WORDS[bunch.target[i]]}" for i in row) for row in rows]
    table = pa.table({"image": column(images), "caption": said, "count": pa.array(counts.astype(str))})
    table, target = (table, "count") if kind == "labelled" else (table.drop_columns(["count"]), "caption" if kind == "captioned" else None)
    return Dataset.of(table, Schema.infer(table, target=target, kinds={"caption": "text"}))


# ---- models


KINDS: dict[str, dict[str, Callable[[], Dataset]]] = {
    "tabular": {"everything": everything},
    "image": {"labelled": digits, "masked": masked},
    "text": {"labelled": labelled, "pairs": pairs, "alone": alone},
    "multimodal": {kind: cache(partial(captions, kind)) for kind in ("captioned", "labelled", "alone")},
}
MODALITIES = tuple(KINDS)


def first(name: str) -> str:
    """The kind of data that a law is run on which holds whatever the kind."""
    return next(iter(KINDS[modality_of(name)]))


def data_of(name: str, kind: str | None = None) -> Dataset:
    """Small data of a generator's modality."""
    return KINDS[modality_of(name)][kind or first(name)]()


def read(name: str, kind: str | None = None) -> Dataset:
    """That data as this generator reads it."""
    data = data_of(name, kind)
    return beside(data) if issubclass(get(name), Translating) else data


def fit(name: str, kind: str | None = None, **how) -> Fitted:
    return make(name, SMALL.get(name, {})).fit(read(name, kind), seed=0, **how)


def fitted(name: str, kind: str | None = None) -> Fitted:
    """Each generator, barely trained, once."""
    return once(name, kind or first(name))


once = cache(fit)


def drawn(name: str, n: int, kind: str | None = None, model: Fitted | None = None, **asked) -> Dataset:
    """n rows of the model, out of its training rows where it makes none of noise."""
    return (model or fitted(name, kind)).sample(n, of=read(name, kind), **asked)
