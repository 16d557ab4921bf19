"""Pairs of an image and a mask: what a segmenter is worth that learnt on synthetic pairs, beside one that learnt on the real ones.

    OMP_NUM_THREADS=1 python -m benchmarks.segmentation                every dataset, every generator of pairs, one seed
    python -m benchmarks.segmentation --only image/diffusion --data digits_on_photos --steps 3000 --seeds 2
    python -m benchmarks.segmentation --tables                         only write the table again

A line of results/segmentation.jsonl is one fit, with its defaults but for the steps that are given, and as many synthetic pairs as there
are real ones to learn from. IoU is that of the project's `unet` judge on real pairs held out: brain's and isbi2012_em_64's lie in other
slices, digits_on_photos is split at random. Seconds are CPU seconds of this process. Nearness as in docs/evaluation.md. isbi2012_em_64
lies in segmentation/ of $ALFAR_BENCH_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import pyarrow.parquet as pq

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "segmentation.jsonl"
DATA = Path(os.environ.get("ALFAR_BENCH_DATA", "../shared/data")) / "segmentation"
MASKS = {  # what the values of each dataset's masks mean
    "brain": ("outside", "fluid", "grey matter", "white matter"),
    "digits_on_photos": ("photo", "digit"),
    "isbi2012_em_64": ("membrane", "inside"),
}
PAIRS = ("image/gmm", "image/vae", "image/dcgan", "image/diffusion")
JUDGES = 2  # seeds of the judge behind an IoU
REAL = "real pairs"


def pairs(name: str) -> Any:
    """The dataset split: pairs to learn from, pairs to judge on."""
    from data.schema import Dataset, Schema, Split
    from data.sources import read
    from data.split import split

    if (DATA / name).exists():
        learnt, held = (pq.read_table(DATA / name / f"{part}.parquet").drop_columns("slice") for part in ("train", "test"))
    elif name == "isbi2012_em_64":
        raise SystemExit(f"{DATA / name} is missing: set ALFAR_BENCH_DATA to the folder of benchmark data")
    else:
        source = read(name)
        learnt, held = source.table, source.test
    whole = Dataset.of(learnt, Schema.infer(learnt, target="mask", kinds={"mask": "mask"}))
    return split(whole) if held is None else Split(whole, Dataset.of(held, whole.schema))


def overlaps(train: Any, test: Any) -> list[dict[str, float]]:
    """What `unet` scores on test, once a seed."""
    from evaluators.image import unet

    def once(seed: int) -> dict[str, float]:
        scores = unet(train, test, seed)(np.ones((len(test), 1)))
        return {metric: round(float(value[0]), 4) for metric, value in scores.items() if "iou" in metric}

    return [once(seed) for seed in range(JUDGES)]


def measured(data: str, name: str, steps: int | None, seed: int) -> dict[str, Any]:
    """One fit, of so many steps if given, its pairs and their scores."""
    from evaluators.privacy import privacy
    from generators.registry import make

    real, began = pairs(data), time.process_time()
    fitted = make(name, {"training": {"steps": steps}} if steps else {}).fit(real.train, seed=seed)
    fit = time.process_time() - began
    made = fitted.sample(len(real.train), seed=seed)
    drawn = time.process_time() - began - fit
    secrets = privacy(real.train, real.test, made, seed=seed)
    return {
        "data": data,
        "generator": name,
        "steps": steps,
        "seed": seed,
        "rows": len(real.train),
        "fit_s": round(fit, 1),
        "sample_s": round(drawn, 1),
        "iou": overlaps(made, real.test),
        "near": 100 * secrets["near"]["synthetic"],
        "near_real": 100 * secrets["near"]["real"],
        "dcr": secrets["dcr"]["share"],
        "dcr_real": secrets["dcr"]["real"],
        "copies": secrets["copies"]["synthetic"],
    }


def results() -> dict[tuple[str, str, int | None, int], dict[str, Any]]:
    """The last line of each dataset, generator, number of steps and seed."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {(r["data"], r["generator"], r["steps"], r["seed"]): r for r in map(json.loads, lines)}


def keep(found: dict[str, Any]) -> None:
    with RESULTS.open("a") as file:
        file.write(json.dumps(found | {"measured": time.strftime("%Y-%m-%d")}) + "\n")
    print(json.dumps(found), flush=True)


def table(data: str) -> str:
    """Markdown, best first."""
    every = [r for r in results().values() if r["data"] == data]
    real = next(r for r in every if r["generator"] == REAL)
    kinds = MASKS[data]

    def of(rows: list[dict[str, Any]], metric: str) -> list[float]:
        return [judged[metric] for r in rows for judged in r["iou"]]

    def classes(rows: list[dict[str, Any]]) -> list[str]:
        return [f"{fmean(of(rows, f'iou_{k}')):.3f}" for k in range(len(kinds))]

    def shares(rows: list[dict[str, Any]]) -> list[str]:
        names = ["mean_iou", *(f"iou_{k}" for k in range(len(kinds)))]
        return [f"{fmean(of(rows, m)) / fmean(of([real], m)):.3f}" for m in names]

    titles = ["generator", "fit CPU s", "draw CPU s", "mean IoU", *kinds, "mean / real", *(f"{kind} / real" for kind in kinds)]
    titles += ["nearer to train %", "near copies %"]
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    made = [r for r in every if r["generator"] != REAL]
    lines.append([REAL, "–", "–", score(of([real], "mean_iou")), *classes([real]), *["1"] * (1 + len(kinds))])
    lines[-1] += [f"{made[0]['dcr_real']:.1f}", f"{made[0]['near_real']:.1f}"] if made else ["–", "–"]
    by_name: dict[str, list[dict[str, Any]]] = {}
    for r in made:
        by_name.setdefault(f"**`{r['generator']}`**" + (f", {r['steps']:,} steps" if r["steps"] else ""), []).append(r)
    for name, rows in sorted(by_name.items(), key=lambda item: -fmean(of(item[1], "mean_iou"))):
        mean = {key: fmean(r[key] for r in rows) for key in ("fit_s", "sample_s", "dcr", "near")}
        lines.append([name, f"{mean['fit_s']:.0f}", f"{mean['sample_s']:.1f}", score(of(rows, "mean_iou")), *classes(rows)])
        lines[-1] += [*shares(rows), f"{mean['dcr']:.1f}", f"{mean['near']:.1f}"]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def score(values: list[float]) -> str:
    return f"{fmean(values):.3f} ± {pstdev(values):.3f}"


def write() -> None:
    known = [data for data in MASKS if (data, REAL, None, 0) in results()]
    parts = [f"## {data}, {results()[data, REAL, None, 0]['rows']:,} pairs\n\n{table(data)}\n" for data in known]
    (RESULTS.parent / "segmentation.md").write_text("# Pairs of an image and a mask\n\n" + "\n".join(parts) + f"\n{CAPTION}\n")


CAPTION = (
    "Measured by `python -m benchmarks.segmentation`: defaults but for steps that are named, one thread, one seed of the generator unless "
    "segmentation.jsonl has more; as many synthetic pairs as real ones. IoU: of the `unet` judge on real pairs it never saw; ± is the "
    f"deviation over {JUDGES} seeds of the judge. Nearer to train, near copies: docs/evaluation.md; the first line: what real pairs score."
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=PAIRS, default=PAIRS)
    options.add_argument("--data", nargs="+", choices=MASKS, default=list(MASKS))
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--steps", type=int, help="of training, in place of the recipe's own number")
    options.add_argument("--again", action="store_true", help="measure what is measured already")
    options.add_argument("--tables", action="store_true", help="measure nothing, write the tables")
    given = options.parse_args()
    for data in [] if given.tables else given.data:
        if (data, REAL, None, 0) not in results():
            real = pairs(data)
            keep(
                {"data": data, "generator": REAL, "steps": None, "seed": 0, "rows": len(real.train), "iou": overlaps(real.train, real.test)}
            )
        for name in given.only:
            for seed in range(given.seeds):
                if given.again or (data, name, given.steps, seed) not in results():
                    keep(measured(data, name, given.steps, seed))
    write()


if __name__ == "__main__":
    main()
