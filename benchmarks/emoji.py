"""Adversarial generators on emoji: 1,906 small pictures in nine categories, at 32x32, each generator for the same CPU seconds.

    OMP_NUM_THREADS=1 python -m benchmarks.emoji                      dcgan, stylegan and biggan, 240 CPU seconds each
    python -m benchmarks.emoji --only image/biggan --seconds 60
    python -m benchmarks.emoji --tables                               only write the table again

A line of results/images-emoji.jsonl is one fit with the generator's defaults, but for as many steps as it makes in these seconds by its
pace over a few steps, and as many pictures as it learnt from, each under its category. Density and coverage, of pictures held out, as in
docs/evaluation.md, in its two spaces of features. The pictures, on white, lie in $ALFAR_BENCH_DATA/image/emoji_pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "images-emoji.jsonl"
DATA = Path(os.environ.get("ALFAR_BENCH_DATA", "../shared/data")) / "image" / "emoji_pairs" / "data.parquet"
NAMES = ("image/dcgan", "image/stylegan", "image/biggan")
SIDE, FEW = 32, 10  # pixels; a category of fewer pictures is left out
PACED = (10, 30)  # steps between which the pace is taken
SPACES = ("learnt", "random")


def emoji() -> Any:
    """The pictures split: to learn from, to judge on."""
    from data.images import column, pixels
    from data.schema import Dataset, Schema
    from data.sources import read
    from data.split import split

    if not DATA.exists():
        raise SystemExit(f"{DATA} is missing: set ALFAR_BENCH_DATA to the folder of benchmark data")
    table = read(str(DATA), size=SIDE).table
    rgba, category = pixels(table["image"]).astype(np.float64), np.array(table["category"].to_pylist())
    white = (rgba[:, :3] * rgba[:, 3:] / 255 + 255 - rgba[:, 3:]).round().astype(np.uint8)
    names, counts = np.unique(category, return_counts=True)
    kept = np.isin(category, names[counts >= FEW])
    table = pa.table({"image": column(white[kept]), "category": category[kept].tolist()})
    return split(Dataset.of(table, Schema.infer(table, target="category")), seed=0)


def affordable(name: str, train: Any, seconds: float) -> int:
    """The steps that a generator makes in so many CPU seconds."""
    from generators.registry import make

    at: dict[int, float] = {}
    recipe = make(name, {"training": {"steps": PACED[1]}})
    recipe.fit(train, progress=lambda done, total, words: at.update({done: time.process_time()}))
    first, last = PACED
    return max(1, int(seconds * (last - first) / (at[last] - at[first])))


def measured(name: str, seconds: float, seed: int, real: Any) -> dict[str, Any]:
    """One fit, its pictures and how like the real ones they are."""
    from evaluators.likeness import likeness
    from generators.registry import make

    steps, began = affordable(name, real.train, seconds), time.process_time()
    fitted = make(name, {"training": {"steps": steps}}).fit(real.train, seed=seed)
    fit = time.process_time() - began
    found = likeness(real.train, real.test, fitted.sample(len(real.train), seed=seed), seed=seed)
    said = {"generator": name, "seed": seed, "seconds": seconds, "steps": steps, "fit_s": round(fit, 1)}
    return said | {"spaces": found["spaces"], "agreement": found["label_agreement"], "date": time.strftime("%Y-%m-%d")}


def table() -> str:
    """Markdown: the last line of each generator, seconds and seed."""
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    rows = list({(r["generator"], r["seconds"], r["seed"]): r for r in lines}.values())
    heads = [f"{figure}, {space}" for space in SPACES for figure in ("density", "coverage")]
    told = [f"| generator | steps | fit CPU s | {' | '.join(heads)} | category as asked |", f"|---|---:|---:|{'---:|' * len(heads)}---:|"]

    def line(label: str, r: dict[str, Any], side: str, *cost: str) -> str:
        figures = [f"{r['spaces'][space][figure][side]:.3f}" for space in SPACES for figure in ("density", "coverage")]
        return f"| {' | '.join([label, *cost, *figures])} | {r['agreement'][side]:.3f} |"

    told.append(line("real pictures", rows[0], "real", "–", "–"))
    for r in sorted(rows, key=lambda r: -r["spaces"]["learnt"]["coverage"]["synthetic"]):
        label = f"**`{r['generator']}`**" + (f", seed {r['seed']}" if r["seed"] else "")
        told.append(line(label, r, "synthetic", f"{r['steps']:,}", f"{r['fit_s']:.0f}"))
    return "\n".join(told)


CAPTION = (
    "Measured by `python -m benchmarks.emoji`: defaults, one thread, seed 0 unless another is named, as many steps as fit into the same "
    "CPU seconds. Density and coverage against pictures held out, in the features of a classifier that learnt the "
    "categories and of one that learnt nothing "
    "(docs/evaluation.md); the first line is what the real pictures to learn from score. Category as asked: the share of pictures in which "
    "that classifier sees the category that was asked for."
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    options.add_argument("--seconds", type=float, default=240.0, help="CPU seconds of a fit")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--tables", action="store_true", help="measure nothing, write the table")
    given = options.parse_args()
    real = None if given.tables else emoji()
    for name in () if given.tables else given.only:
        found = measured(name, given.seconds, given.seed, real)
        with RESULTS.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(json.dumps(found), flush=True)
    RESULTS.with_suffix(".md").write_text(f"# Emoji: adversarial generators for the same time\n\n{table()}\n\n{CAPTION}\n")


if __name__ == "__main__":
    main()
