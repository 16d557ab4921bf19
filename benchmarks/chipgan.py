"""Photographs drawn in a style: what of them is still there, and how like the style it is.

    OMP_NUM_THREADS=1 python -m benchmarks.chipgan                       both datasets, one seed
    python -m benchmarks.chipgan --data emoji_pairs --seed 1
    python -m benchmarks.chipgan --tables                                only write the table again

photos_to_ink is built in: squares of photographs with a digit on them, beside sheets of handwriting in ink (`alfar list`). emoji_pairs lies
in image/ of $ALFAR_BENCH_DATA: Noto's emoji beside Twemoji's on white paper, with alpha as the mask. It is learnt as if there were no
pairs: the column of the style is shuffled among the rows to learn from. Held-out pairs are then the truth.

A line of results/chipgan.jsonl is one fit with its defaults. Figures as `evaluators.styling` says; KID as in docs/evaluation.md, against
held-out images of the style, in the spaces of nets that saw the style alone. IoU is that of the project's `unet` judge: learnt on drawings
and their photographs' masks and scored on drawings of held-out photographs, by the same judge's learnt and scored on photographs. Seconds
are CPU seconds of this process. Beside it stand the photographs as they are, and what needs no learning: white paper with the edges that
the brush loss sees, in black.
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
import pyarrow.parquet as pq

HERE = Path(__file__).parent
RESULTS, TABLE = HERE / "results" / "chipgan.jsonl", HERE / "results" / "chipgan.md"
EMOJI = Path(os.environ.get("ALFAR_BENCH_DATA", "../shared/data")) / "image" / "emoji_pairs" / "data.parquet"
DATA = ("photos_to_ink", "emoji_pairs")
TITLES = {"photo": "the photograph itself", "filter": "its edges in black", "drawn": "image/chipgan"}


def photos_to_ink() -> tuple[Any, Any]:
    """(rows to learn from and held out, the same)."""
    from data.schema import Dataset, Schema
    from data.sources import read
    from data.split import split

    source = read("photos_to_ink")
    real = split(Dataset.of(source.table, Schema.infer(source.table, target="style", kinds=source.kinds)))
    return real, real


def emoji_pairs() -> tuple[Any, Any]:
    """(rows whose styles are shuffled, pairs): Noto's emoji and Twemoji's on white, Noto's alpha as the mask."""
    from data.images import column, pixels
    from data.schema import Dataset, Schema, Split
    from data.split import split

    if not EMOJI.exists():
        raise SystemExit(f"{EMOJI} is missing: set ALFAR_BENCH_DATA to the folder of benchmark data")
    raw = pq.read_table(EMOJI)
    image, style = (pixels(raw[name]).astype(np.float64) for name in ("image", "style"))
    on_white = [np.rint(255 + (x[:, :3] - 255) * x[:, 3:] / 255).astype(np.uint8) for x in (image, style)]
    masks = (image[:, 3:] >= 128).astype(np.uint8)
    table = pa.table({"image": column(on_white[0]), "mask": column(masks), "style": column(on_white[1])})
    pairs = split(Dataset.of(table, Schema.infer(table, target="style", kinds={"style": "image"})))
    order = pa.array(np.random.default_rng(0).permutation(len(pairs.train)))
    apart = pairs.train.table.set_column(2, "style", pairs.train.table["style"].take(order))
    schema = Schema.infer(table, target="style", kinds={"style": "style"})
    return Split(Dataset.of(apart, schema), Dataset.of(pairs.test.table, schema)), pairs


def filtered(data: Any) -> Any:
    """The photographs' edges in black on white."""
    import torch

    from data.images import column, pixels
    from data.schema import Dataset
    from generators.codecs.image import signed, unsigned
    from generators.nets.ink import edges

    x = signed(torch.from_numpy(pixels(data.table["image"])))
    made = unsigned(1 - 2 * edges(x)).expand(-1, x.shape[1], -1, -1)
    return Dataset.of(data.table.set_column(0, "image", column(made.numpy())), data.schema)


def kids(real: Any, shown: dict[str, Any]) -> dict[str, dict[str, float]]:
    """KID of each side's images against held-out ones of the style, in each space; "style" are those to learn from."""
    from data.images import pixels
    from data.styles import styles
    from evaluators.features import eyes
    from evaluators.likeness import kid

    train, test = (styles(side) for side in real)
    x = {side: pixels(data.table["image"]) for side, data in (shown | {"style": train}).items()}
    held = pixels(test.table["image"])
    n = min(len(held), *map(len, x.values()))
    spaces = eyes(train, x["style"]).spaces
    return {name: {side: round(kid(space(held)[:n], space(images)[:n]), 4) for side, images in x.items()} for name, space in spaces.items()}


def overlap(train: Any, test: Any) -> dict[str, float]:
    """What `unet` scores on test."""
    from evaluators.image import unet

    scores = unet(train, test, 0)(np.ones((len(test), 1)))
    return {metric: round(float(value[0]), 4) for metric, value in scores.items() if metric in ("mean_iou", "foreground_iou")}


def measured(data: str, seed: int) -> dict[str, Any]:
    """One fit and its drawings."""
    from data.styles import photos
    from evaluators.styling import styling
    from generators.registry import make

    real, truth = {"photos_to_ink": photos_to_ink, "emoji_pairs": emoji_pairs}[data]()
    began = time.process_time()
    fitted = make("image/chipgan", {}).fit(real.train, seed=seed)
    fit = time.process_time() - began
    test = photos(real.test)
    sides = {"photo": test, "filter": filtered(test), "drawn": fitted.translate(real.test)}
    drawn = time.process_time() - began - fit
    found = {name: styling(truth, side) for name, side in sides.items()}
    iou = {"photo": overlap(photos(real.train), test), "drawn": overlap(fitted.translate(real.train), sides["drawn"])}
    return {
        "data": data,
        "seed": seed,
        "train": len(real.train),
        "test": len(real.test),
        "size": list(test.schema["image"].size),
        "steps": fitted.log["steps"],
        "parameters": fitted.log["parameters"],
        "fit_s": round(fit, 1),
        "draw_s": round(drawn, 1),
        "style": found,
        "kid": kids(real, sides),
        "iou": iou,
    }


def results() -> dict[tuple[str, int], dict[str, Any]]:
    """The last line of each dataset and seed."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {(r["data"], r["seed"]): r for r in map(json.loads, lines)}


def table(r: dict[str, Any]) -> str:
    """One fit as markdown."""
    truth = r["style"]["photo"]["truth"] is not None
    spaces = list(r["kid"])
    titles = [
        "",
        "edge F1",
        "by chance",
        "tone distance",
        "of the photograph's",
        "void",
        "taken for the style",
        *(f"KID {s}" for s in spaces),
    ]
    titles += ["L1 to the truth"] if truth else []
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    for side, title in TITLES.items():
        s = r["style"][side]
        cells = [f"{s['edges']['drawn']:.3f}", f"{s['edges']['chance']:.3f}", f"{s['tone']['drawn']:.1f}", f"{s['tone']['ratio']:.3f}"]
        cells += [f"{100 * s['void']['drawn']:.1f} %", f"{100 * s['fooled']['drawn']:.1f} %", *(f"{r['kid'][k][side]:.3f}" for k in spaces)]
        lines.append([f"**{title}**", *cells, *([f"{s['truth']['drawn']:.3f}"] if truth else [])])
    s = r["style"]["photo"]
    cells = ["–", "–", "0", "0", f"{100 * s['void']['style']:.1f} %", f"{100 * s['fooled']['style']:.1f} %"]
    lines.append(["**the style**", *cells, *(f"{r['kid'][k]['style']:.3f}" for k in spaces), *(["0"] if truth else [])])
    photo, drawn = r["iou"]["photo"], r["iou"]["drawn"]
    size = f"{r['size'][2]}×{r['size'][1]}"
    return "\n".join(
        [
            f"## {r['data']}, seed {r['seed']}",
            "",
            f"{r['train']:,} rows of {size} to learn from, {r['test']:,} held out; {r['steps']:,} steps, {r['parameters']:,} parameters; "
            f"fit {r['fit_s']:.0f} CPU s.",
            "",
            *(f"| {' | '.join(line)} |" for line in lines),
            "",
            "Masks carried over, a U-Net learnt and scored on drawings by one learnt and scored on photographs: "
            + "; ".join(f"{k.replace('_', ' ')} {drawn[k]:.3f} by {photo[k]:.3f}, ratio {drawn[k] / photo[k]:.3f}" for k in drawn)
            + ".",
            "",
        ]
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--tables", action="store_true")
    given = options.parse_args()
    if not given.tables:
        for data in given.data:
            found = measured(data, given.seed)
            with RESULTS.open("a") as file:
                file.write(json.dumps(found | {"measured": time.strftime("%Y-%m-%d")}) + "\n")
            print(json.dumps(found), flush=True)
    head = "# Photographs in another style\n\nWritten by `python -m benchmarks.chipgan`, which says what the figures are.\n\n"
    TABLE.write_text(head + "\n".join(table(r) for _, r in sorted(results().items())), encoding="utf-8")


if __name__ == "__main__":
    main()
