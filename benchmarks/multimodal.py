"""Captioned images: do images show what captions say, and captions say what images show, on digits that are composed as never before?

    OMP_NUM_THREADS=1 python -m benchmarks.multimodal                 captioned digits, every generator, one seed
    python -m benchmarks.multimodal --seeds 2 --models /tmp/models    fits are kept in that folder, and taken from it another time
    python -m benchmarks.multimodal --tables                          only write the table again

A line of results/multimodal.jsonl is one fit with its defaults to the 6,000 captioned digits, and what comes of it. Coherence is the share
of rows in which the digits that the project's reader sees are those of the caption, all of them, in their order: of images that are made
for the captions of the 2,000 held-out rows, and of synthetic rows; and of captions that are written for the held-out images the share that
names the digits of the true one. 700 held-out rows show one of 20 pairs that no training row shows. CAS is the accuracy of the same kind
of net on held-out rows that learnt on 6,000 synthetic ones. Seconds are CPU seconds of this process. Nearness as in docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "multimodal.jsonl"
DATA = "captioned_digits"
REAL, FLOOR = "real rows", "captions shuffled"
WAYS = ("image", "caption", "drawn")


def rows() -> Any:
    """(rows to learn from, rows held out)."""
    from data.schema import Dataset, Schema
    from data.sources import read

    found = read(DATA)
    schema = Schema.infer(found.table, target=found.target, kinds=found.kinds, task=found.task)
    return Dataset.of(found.table, schema), Dataset.of(found.test, schema)


def score(train: Any, test: Any, seed: int) -> float:
    """CAS: what `reads` scores on test after it learnt on train."""
    from evaluators.captions import reads

    return round(float(reads(train, test, seed)(np.ones((len(test), 1)))["subjects"][0]), 4)


def references(seed: int) -> list[dict[str, Any]]:
    """What real rows teach, and real rows whose captions are another's."""
    train, test = rows()
    other = train.table["caption"].take(np.random.default_rng([seed, 0xF1]).permutation(len(train)))
    shuffled = type(train)(train.schema, train.table.set_column(train.schema.names.index("caption"), "caption", other))
    return [{"generator": name, "seed": seed, "cas": score(data, test, seed)} for name, data in ((REAL, train), (FLOOR, shuffled))]


def model(name: str, seed: int, folder: Path | None, train: Any) -> Any:
    """A fit, or the one that is kept in the folder."""
    from generators.fitted import Fitted
    from generators.registry import make

    place = folder and folder / f"{name.replace('/', '-')}-{seed}"
    if place and place.is_dir():
        return Fitted.load(place)
    found = make(name, {}).fit(train, seed=seed)
    if place:
        found.save(place)
    return found


def measured(name: str, seed: int, folder: Path | None) -> dict[str, Any]:
    """One fit, its rows and answers, and their scores."""
    from evaluators.captions import coherence
    from evaluators.privacy import privacy

    train, test = rows()
    fitted = model(name, seed, folder, train)
    began = time.process_time()
    made = fitted.sample(len(train), seed=seed)
    drawn = time.process_time()
    asked = {"image": fitted.answer(test, seed=seed, back=True), "caption": fitted.answer(test), "drawn": made}
    answered = time.process_time()
    found, secrets = coherence(train, test, asked), privacy(train, test, made, seed=seed)
    return {
        "generator": name,
        "seed": seed,
        "parameters": fitted.log["parameters"],
        "fit_s": round(fitted.log["cpu_seconds"], 1),
        "sample_s": round(drawn - began, 1),
        "answer_s": round(answered - drawn, 1),
        "coherence": {way: found[way] for way in WAYS} if found else None,
        "cas": score(made, test, seed),
        "captions": len(set(made.table["caption"].to_pylist())),
        "near": 100 * secrets["near"]["synthetic"],
        "near_real": 100 * secrets["near"]["real"],
        "dcr": secrets["dcr"]["share"],
        "dcr_real": secrets["dcr"]["real"],
        "copies": secrets["copies"]["synthetic"],
    }


def results() -> dict[tuple[str, int], dict[str, Any]]:
    """The last line of each generator and seed."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {(r["generator"], r["seed"]): r for r in map(json.loads, lines)}


def keep(found: dict[str, Any]) -> None:
    with RESULTS.open("a") as file:
        file.write(json.dumps(found | {"measured": time.strftime("%Y-%m-%d")}) + "\n")
    print(json.dumps(found), flush=True)


def told(shares: list[float | None]) -> str:
    """Their mean; a dash where a seed has none, because no row is of that kind."""
    known = [share for share in shares if share is not None]
    return f"{fmean(known):.3f}" if len(known) == len(shares) else "–"


def table() -> str:
    """Markdown."""
    every = list(results().values())

    def cas(name: str) -> float:
        return fmean(r["cas"] for r in every if r["generator"] == name)

    heads = ["", "fit CPU s", "6,000 rows CPU s", "caption → image", "new pairs", "image → caption", "new pairs", "drawn rows", "new pairs"]
    heads += ["CAS", "CAS / real", "nearer to train %", "near copies %"]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' + ' ---: |' * (len(heads) - 1)}"]
    names = list(dict.fromkeys(r["generator"] for r in every if "coherence" in r))
    first = next(r for r in every if "coherence" in r)
    real = [f"{first['coherence']['image'][key]:.3f}" for key in ("real", "unseen_real")]
    nearness = [f"{first['dcr_real']:.1f}", f"{first['near_real']:.1f}"]
    lines.append(f"| {' | '.join([REAL, '–', '–', *real, *real, *real, f'{cas(REAL):.3f}', '1', *nearness])} |")
    for name in names:
        some = [r for r in every if r["generator"] == name]
        both = [told([r["coherence"][way][key] for r in some]) for way in WAYS for key in ("synthetic", "unseen")]
        cells = [f"**`{name}`**", *(f"{fmean(r[key] for r in some):.0f}" for key in ("fit_s", "sample_s")), *both]
        cells += [f"{cas(name):.3f}", f"{cas(name) / cas(REAL):.3f}", *(f"{fmean(r[key] for r in some):.1f}" for key in ("dcr", "near"))]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(f"| {' | '.join([FLOOR, *['–'] * 8, f'{cas(FLOOR):.3f}', f'{cas(FLOOR) / cas(REAL):.3f}', '–', '–'])} |")
    seeds = {name: len([r for r in every if r["generator"] == name]) for name in names}
    said = ", ".join(f"{name} {n}" for name, n in seeds.items())
    notes = (
        "Measured by `python -m benchmarks.multimodal`: defaults, one thread; seeds: "
        f"{said}. Coherence: the share of rows whose digits, all in order, are those that the caption says; the reader that sees them in "
        "images learnt on the real training rows, and the first line is what it makes of the held-out rows themselves, of which "
        f"{first['coherence']['image']['unseen_rows']} show pairs that no training row shows. CAS: the same kind of net, learnt on as "
        "many synthetic rows as there are real ones. Nearer to train, near copies: docs/evaluation.md."
    )
    return "\n".join(["# Captioned images", "", f"## {DATA}", "", *lines, "", notes, ""])


def main() -> None:
    from generators.registry import names

    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--models", type=Path, default=None)
    parser.add_argument("--tables", action="store_true")
    options = parser.parse_args()
    for seed in range(0 if options.tables else options.seeds):
        if (REAL, seed) not in results():
            for line in references(seed):
                keep(line)
        for name in options.only or names("multimodal"):
            keep(measured(name, seed, options.models))
    (HERE / "results" / "multimodal.md").write_text(table(), encoding="utf-8")


if __name__ == "__main__":
    main()
