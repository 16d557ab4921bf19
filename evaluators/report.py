"""The two pages a person reads: a release's report and a comparison's leaderboard, each one offline HTML file.

`evaluators.values` and `evaluators.charts` turn a manifest (plain JSON of aggregates) into words and into places and paths on charts;
`report.html.j2` says where they stand. Whatever a manifest lacks, or holds as NaN, is said to be missing on the page: nothing vanishes,
nothing raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader

from evaluators.charts import (
    PLOTTED_COLUMNS,
    PLOTTED_PAIRS,
    answers,
    bars,
    classes,
    columns,
    counted,
    curve,
    dots,
    growth,
    heat,
    histogram,
    pairs,
    panels,
    runs,
    spaces,
)
from evaluators.values import clean, duration, figure, interval, num, number, percent, place, share, span, when, whole, words

LOWER_IS_BETTER = {"rmse", "mae", "mse", "log_loss", "brier"}
BOARD = {  # a leaderboard's figures of rows, of images and of texts: key, title, form
    "row": (("shape", "Shape error", "percent"), ("trend", "Trend error", "percent")),
    "image": (
        ("kid", "KID", "num"),
        ("coverage", "Coverage", "num"),
        ("agreement", "Label agreement", "share"),
        ("near", "Near copies", "share"),
    ),
    "text": (
        ("perplexity", "Perplexity", "num"),
        ("agreement", "Label agreement", "share"),
        ("near", "Near copies", "share"),
    ),
}


def render(manifest: Mapping[str, Any], shown: Mapping[str, Any] | None = None) -> str:
    """The report of one release as a self-contained HTML page.

    `manifest` is what `release.json` holds: dataset, version, created, verdict, rows, source, generator, seed, versions, reproduce, parent,
    log, scores, gates, schema, and auto where the generator was chosen (what `choose` wrote). `shown` is what `evaluators.pictures`
    makes of a release of images, or `evaluators.samples` of one of texts. Every part may be missing, which the page then says.
    """
    told, seen = clean(manifest), clean(shown or {})
    return environment().get_template("report.html.j2").render(page="release", m=told, shown=seen, noun=noun_of(told, seen))


def render_leaderboard(board: Mapping[str, Any]) -> str:
    """A comparison of generators as a self-contained HTML page.

    `board`: {"dataset", "target", "created", "headline": metric, "reproduce": command, "winner": generator name, "real": {"mean", "low",
    "high"}, "rows": [row, ...] in the order shown}; a row: {"generator", "role": "floor"|"ceiling"|absent, "seeds": how many, "tstr":
    {"mean", "low", "high"}, "detector": {"train", "test"} areas, what `BOARD` has of its "kind" ("image", "text", or absent: shape and
    trend are per cent of error), "dcr": per cent, "copies": share, "minutes" of fit and sampling, "fit_seconds" and "rows_per_second"
    of CPU time, "error": one sentence or null}.
    """
    told = clean(board)
    kinds = {row.get("kind") for row in told.get("rows", [])}
    noun = next((kind for kind in ("image", "text") if kind in kinds), "row")
    return environment().get_template("report.html.j2").render(page="leaderboard", m=told, noun=noun, head=BOARD[noun])


@cache
def environment() -> Environment:
    """Of the pages' templates, with the forms of values and the charts as their filters."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True
    )
    forms = (num, percent, share, whole, figure, interval, duration, words, when, place, span, number)
    drawn = (dots, panels, columns, pairs, spaces, classes, answers, runs, bars, histogram, heat, curve, counted, growth)
    environment.filters.update({f.__name__: f for f in (*forms, *drawn)})
    environment.globals.update(LOWER_IS_BETTER=LOWER_IS_BETTER, PLOTTED_COLUMNS=PLOTTED_COLUMNS, PLOTTED_PAIRS=PLOTTED_PAIRS)
    return environment


def noun_of(manifest: Mapping[str, Any], shown: Mapping[str, Any]) -> str:
    """What a row of a release is called: an image, a text, or a row of a table."""
    columns = manifest.get("schema", {}).get("columns", [])
    kinds = {column.get("kind") for column in columns if isinstance(column, Mapping)}
    fidelity = manifest.get("scores", {}).get("fidelity", {"kind": "text" if "text" in kinds else ""})  # tables may hold texts too
    return "image" if "image" in kinds or "labels" in shown else "text" if fidelity.get("kind") == "text" or "columns" in shown else "row"
