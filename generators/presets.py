"""Presets: the sizes of a generator by the machine that is to train it, and what they cost.

    alfar run mnist --generator image/dcgan --preset gpu          in a job file: generator: {name: image/dcgan, preset: gpu}

`cpu-smoke` makes 100 steps, which show that everything runs; `cpu` is the defaults, ten minutes at most on a dataset of thousands of rows;
`gpu` has sizes of the papers that are named beside them, or of their order. What is said beside a preset overrides it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from data.errors import BadInput, suggest

if TYPE_CHECKING:
    from data.schema import Dataset
    from generators.base import Generator

GPU: dict[str, dict[str, Any]] = {
    "tabular/vae": {"latent": 128, "hidden": 512, "training": {"epochs": 300}},
    "tabular/gan": {"noise": 128, "hidden": 256, "training": {"batch": 500, "epochs": 300}},  # Xu et al. 2019: CTGAN
    "tabular/diffusion": {"hidden": 1024, "training": {"batch": 4096, "epochs": 200}},  # Kotelnikov et al. 2023: TabDDPM
    "tabular/transformer": {"width": 192, "depth": 3, "heads": 8, "training": {"lr": 2e-3}},  # Gorishniy et al. 2021: FT-Transformer
    "image/rbm": {"hidden": 2000, "k": 25, "training": {"lr": 1e-3}},  # Salakhutdinov, Murray 2008: 25 rounds
    "image/autoencoder": {"latent": 30, "hidden": 1000, "depth": 3, "training": {"lr": 1e-3}},  # Hinton, Salakhutdinov 2006
    "image/vae": {"latent": 64, "hidden": 1024, "depth": 3, "training": {"lr": 1e-3}},
    "image/gan": {"noise": 100, "hidden": 1200, "depth": 2, "training": {"lr": 2e-4}},  # Goodfellow et al. 2014
    "image/dcgan": {"noise": 100, "width": 128, "training": {"batch": 128, "lr": 2e-4}},  # Radford et al. 2015
    "image/stylegan": {"noise": 512, "style": 512, "width": 128, "training": {"epochs": 500, "ema": 0.9998}},  # Karras et al. 2020
    "image/biggan": {"noise": 120, "shared": 128, "width": 96, "training": {"batch": 256, "lr": 2e-4, "ema": 0.9999}},  # Brock et al. 2019
    "image/chipgan": {"width": 64, "blocks": 9, "training": {"lr": 2e-4}},  # Zhu et al. 2017: the makers of CycleGAN
    "image/pixelcnn": {"levels": 256, "patch": 1, "width": 128, "depth": 15, "training": {"lr": 1e-3}},  # van den Oord et al. 2016
    "image/pixelrnn": {"levels": 256, "patch": 1, "width": 128, "depth": 12, "training": {"lr": 1e-3}},  # van den Oord et al. 2016
    "image/diffusion": {"width": 128, "levels": 3, "hidden": 1024, "steps": 50, "training": {"batch": 128, "lr": 2e-4, "ema": 0.9999}},
    "text/gpt": {"width": 768, "depth": 12, "heads": 12, "training": {"lr": 6e-4}},  # Radford et al. 2019: GPT-2, the smallest
    "text/transformer": {"width": 512, "depth": 6, "heads": 8, "training": {"lr": 5e-4}},  # Vaswani et al. 2017: base
    "text/vae": {"latent": 32, "width": 768, "depth": 12, "heads": 12, "training": {"lr": 5e-4}},  # Li et al. 2020: Optimus
    "multimodal/caption_image": {"codes": 512, "code": 64, "hidden": 128, "width": 768, "depth": 12, "heads": 12, "training": {"lr": 6e-4}},
}
SMOKE: dict[str, Any] = {"training": {"steps": 100}}
PRESETS = {name: {"cpu-smoke": SMOKE, "cpu": {}, "gpu": sizes} for name, sizes in GPU.items()}
BATCH = 4  # rows of the step that is counted
LIKE = {
    "tabular": "tables of 8 numbers and 4 categories",
    "image": "images of 32x32x3 with 10 labels",
    "text": "texts of 12 words with 10 labels",
    "multimodal": "images of 32x32x3 with captions of 12 words",
    "image-to-image": "photographs of 32x32x3 with 10 labels, and as many images of a style",
}  # what `example` gives


class Cost(NamedTuple):
    """The parameters of the net, and floating point operations of a training step, forwards and back, for each row of its batch."""

    parameters: int
    flops: float


def resolved(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A generator's name and parameters with those of its `preset` put in; parameters beside it win. BadInput for an unknown preset."""
    said = {k: v for k, v in recipe.items() if k != "preset"}
    if "preset" not in recipe:
        return said
    wanted, name = str(recipe["preset"]), str(recipe.get("name", ""))
    if name not in PRESETS:
        raise BadInput(f"preset {wanted!r} belongs to a generator that has presets: name one of {', '.join(PRESETS)}")
    if wanted not in PRESETS[name]:
        raise BadInput(f"{name} has no preset {wanted!r}{suggest(wanted, list(PRESETS[name]))}")
    sizes = PRESETS[name][wanted]
    inner = {k: {**v, **said[k]} for k, v in sizes.items() if isinstance(v, Mapping) and isinstance(said.get(k), Mapping)}
    return {**sizes, **said, **inner}


def cost(generator: Generator, data: Dataset) -> Cost:
    """What one step on `BATCH` rows of the data counts, of a generator that has presets: the first of the net that is trained first."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from generators.base import Descending
    from generators.nets.counting import Counting

    assert isinstance(generator, Descending)
    counts: list[int] = []
    one = replace(generator, training=replace(generator.training, steps=1, batch=BATCH, patience=0))
    with sdpa_kernel(SDPBackend.MATH), Counting() as counter:  # attention as the products that it is made of
        fitted = one.fit(data, device="cpu", progress=lambda done, total, words: counts.append(counter.flops))
    return Cost(fitted.log["parameters"], counts[0] / BATCH)


def example(name: str) -> Dataset:
    """100 rows of chance of the data that a generator learns, as `LIKE` says."""
    import numpy as np
    import pyarrow as pa

    from data.images import column
    from data.schema import Dataset, Schema

    rng, n, kind = np.random.default_rng(0), 100, learns(name)
    label = pa.array([str(k % 10) for k in range(n)])
    words = ["".join(rng.choice(list("abcdefghij"), 5)) for _ in range(500)]
    text = pa.array([" ".join(rng.choice(words, 12)) for _ in range(n)])
    photos, style = (column(rng.integers(0, 256, (n, 3, 32, 32)).astype(np.uint8)) for _ in range(2))
    cells = {f"x{k}": rng.normal(size=n) for k in range(8)} | {f"c{k}": rng.choice(list("abcde"), n) for k in range(3)}
    columns = {
        "tabular": cells | {"label": label},
        "image": {"image": photos, "label": label},
        "text": {"text": text, "label": label},
        "multimodal": {"image": photos, "caption": text},
        "image-to-image": {"image": photos, "label": label, "style": style},
    }
    table = pa.table(columns[kind])
    kinds = {"image": "image", "style": "style", "text": "text", "caption": "text"}
    known = {key: value for key, value in kinds.items() if key in table.column_names}
    return Dataset.of(table, Schema.infer(table, target=table.column_names[-1], kinds=known))


def learns(name: str) -> str:
    """The kind of data of `LIKE` that a generator learns."""
    from generators.registry import ONLY, modality_of

    return ONLY.get(name, modality_of(name))
