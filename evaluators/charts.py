"""Scores as charts: where things stand and how paths run, which the pages' template draws as inline SVG.

Places are per cent of a chart's width, paths live in a box of 100 x 100. What is missing or not finite is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.values import number, place, whole, words

PLOTTED_COLUMNS, PLOTTED_PAIRS, BARS = 24, 8, 12
LEVELS = 8  # shades of a heat map
CURVE_POINTS = 300
DISTANCES, SHARES = ("fid", "kid"), ("coverage", "density", "recall", "precision")  # in a space of features of images
LABELS = 8  # worst labels that are shown, and best ones
CONFUSED = 12  # pairs of labels that are shown


@dataclass(frozen=True)
class Scale:
    """A linear axis from low to high with a few round ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: Any) -> float:
        """The place of a value in per cent of the width, kept inside."""
        v = number(value)
        return 0.0 if v is None else round(min(100.0, max(0.0, 100 * (v - self.low) / (self.high - self.low))), 2)


def scale(values: Iterable[Any], ticks: int = 4) -> Scale:
    """The axis that holds all these values between round numbers."""
    finite = [v for v in map(number, values) if v is not None and abs(v) < 1e300] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if high - low <= 1e-12 * max(1.0, abs(low)):
        low, high = low - 0.05 * (abs(low) or 1), high + 0.05 * (abs(high) or 1)
    rough = (high - low) / ticks
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(first * step, last * step, tuple(float(f"{k * step:.10g}") for k in range(first, last + 1)))


def dots(rows: Sequence[Sequence[Any]], reference: str = "real") -> dict[str, Any]:
    """Rows of (style, label, score) on one axis; the score of the row styled `reference` becomes a line through all of them."""
    parts = [
        {"style": s, "label": t, **{k: number(v.get(k)) if isinstance(v, Mapping) else None for k in ("mean", "low", "high")}}
        for s, t, v in rows
    ]
    axis = scale(v for p in parts for v in (p["mean"], p["low"], p["high"]))
    line = next((p["mean"] for p in parts if p["style"] == reference), None)
    return {"axis": axis, "rows": parts, "line": line, "empty": all(p["mean"] is None for p in parts)}


ROLES = {
    "real": "Real (reference)",
    "synthetic": "Synthetic (TSTR)",
    "augmented": "Real + synthetic",
    "augmented_cheat": "Real + real copies",
    "cheat": "Ceiling: real copies",
    "floor": "Floor: shuffled",
}


def panels(utility: Any) -> list[dict[str, Any]]:
    """One chart for each judge and metric, the headline metric first."""
    found = []
    judges = utility.get("judges") if isinstance(utility, Mapping) else None
    for judge, roles in (judges or {}).items():
        order = [*ROLES, *(r for r in roles if r not in ROLES)]
        metrics = dict.fromkeys(m for r in order if isinstance(roles.get(r), Mapping) for m in roles[r])
        for metric in metrics:
            rows = [(role, ROLES.get(role) or words(role), (roles.get(role) or {}).get(metric)) for role in order]
            found.append({"judge": judge, "metric": metric, "rows": rows, "headline": metric == utility.get("headline")})
    first = list(dict.fromkeys(p["metric"] for p in found))  # judges stand side by side
    return sorted(found, key=lambda p: (not p["headline"], first.index(p["metric"])))


def columns(fidelity: Any) -> list[dict[str, Any]]:
    """The plots of columns, worst first, each with its error beside."""
    fidelity = fidelity if isinstance(fidelity, Mapping) else {}
    errors = {c.get("name"): c for c in fidelity.get("columns", [])}
    plots = [{**errors.get(p.get("name"), {}), **p} for p in fidelity.get("plots", {}).get("columns", [])]
    return sorted(plots, key=lambda p: -(number(p.get("error")) or 0.0))[:PLOTTED_COLUMNS]


def pairs(fidelity: Any) -> list[dict[str, Any]]:
    """The plots of pairs, worst first, each with its error beside."""
    fidelity = fidelity if isinstance(fidelity, Mapping) else {}
    errors = {frozenset((p.get("a"), p.get("b"))): p for p in fidelity.get("pairs", [])}
    plots = [{**errors.get(frozenset((p.get("a"), p.get("b"))), {}), **p} for p in fidelity.get("plots", {}).get("pairs", [])]
    return sorted(plots, key=lambda p: -(number(p.get("error")) or 0.0))[:PLOTTED_PAIRS]


def spaces(fidelity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each space of features in which images were compared: its distances, and the shares of 1 as bars."""
    found = []
    for name, space in fidelity.get("spaces", {}).items():
        figures = {k: tuple(number(space.get(k, {}).get(side)) for side in ("real", "synthetic")) for k in (*DISTANCES, *SHARES)}
        top = max((v for k in SHARES for v in figures[k] if v is not None), default=1.0) or 1.0
        lines = [
            {"label": words(k), "real": figures[k][0], "synthetic": figures[k][1], "wide": [92 * (v or 0) / top for v in figures[k]]}
            for k in SHARES
        ]
        found.append({"name": name, "bars": lines, "distances": [(words(k), *figures[k]) for k in DISTANCES]})
    return found


def classes(fidelity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The shares of the labels, or of the classes of masks, as bars."""
    found = fidelity.get("classes", {})
    return bars({"labels": found.get("values", []), **{side: found.get(side, []) for side in ("real", "synthetic")}})


def answers(fidelity: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The labels whose texts are named rightly least and most often after learning on synthetic texts, as bars; what is confused most."""
    found = fidelity.get("answers", {})
    sides = (found.get(key, []) for key in ("values", "real", "synthetic"))
    rows = [(str(t), number(r) or 0.0, number(s) or 0.0) for t, r, s in zip(*sides, strict=False)]
    rows = sorted(rows, key=lambda row: (row[2], row[2] - row[1]))
    lines = [{"label": t, "real": r, "synthetic": s, "wide": [round(92 * r, 2), round(92 * s, 2)]} for t, r, s in rows]
    worst = lines[:LABELS]
    confused = sorted(found.get("confused", []), key=lambda pair: -(number(pair.get("synthetic")) or 0.0))
    return {"worst": worst, "best": lines[len(worst) :][-LABELS:][::-1], "confused": confused[:CONFUSED]}


def runs(spans: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The shares of rows with a run of so many words of a training text, as bars."""
    found = []
    for run in spans:
        real, made = (number(run.get(side)) or 0.0 for side in ("real", "synthetic"))
        found.append({"label": f"{whole(run.get('words'))} words", "real": real, "synthetic": made, "wide": [92 * real, 92 * made]})
    return found


def bars(plot: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A category's bars; the commonest stand alone, the others are added up in the last one."""
    rows = [(str(t), number(r) or 0.0, number(s) or 0.0) for t, r, s in zip(plot["labels"], plot["real"], plot["synthetic"], strict=False)]
    rows = [row for row in rows if max(row[1:]) > 0]
    kept = set(sorted(range(len(rows)), key=lambda i: -max(rows[i][1:]))[: BARS if len(rows) <= BARS else BARS - 1])
    rest = [row for i, row in enumerate(rows) if i not in kept]
    rows = [row for i, row in enumerate(rows) if i in kept]
    if rest:
        rows.append((f"{len(rest):,} others", sum(r[1] for r in rest), sum(r[2] for r in rest)))
    top = max((max(r[1:]) for r in rows), default=0.0) or 1.0
    return [{"label": t, "real": r, "synthetic": s, "wide": [round(92 * r / top, 2), round(92 * s / top, 2)]} for t, r, s in rows]


def histogram(plot: Mapping[str, Any]) -> dict[str, Any] | None:
    """Two outlines of densities (share by width of bin) and the axis; equal widths when the edges are not numbers."""
    edges, size = list(plot["edges"]), min(len(plot["edges"]) - 1, len(plot["real"]), len(plot["synthetic"]))
    if size < 1:
        return None
    spots = [number(e) for e in edges[: size + 1]]
    xs = [float(i) for i in range(size + 1)] if None in spots or sorted(set(spots)) != spots else spots  # type: ignore[type-var]
    low, wide = xs[0], xs[-1] - xs[0]  # type: ignore[operator]
    at = [100 * (x - low) / wide for x in xs]  # type: ignore[operator]
    tall = {k: [(number(v) or 0.0) / (b - a) for v, a, b in zip(plot[k], at, at[1:], strict=False)] for k in ("real", "synthetic")}
    top = max(max(tall["real"]), max(tall["synthetic"])) or 1.0
    names = plot.get("edge_labels") or [place(edge, plot.get("kind", "number")) for edge in edges]
    middle = [names[size // 2]] if size > 2 else []

    def outline(heights: list[float]) -> str:
        return "M0 100" + "".join(f"V{100 - 94 * h / top:.4g}H{b:.4g}" for h, b in zip(heights, at[1:], strict=False)) + "V100"

    return {
        "real": outline(tall["real"]),
        "synthetic": outline(tall["synthetic"]),
        "ticks": [names[0], *middle, names[min(size, len(names) - 1)]],
    }


def counted(plot: Mapping[str, Any]) -> dict[str, Any]:
    """A histogram of whole numbers, whose edges lie halfway between them: named by the least number above each."""
    return {**plot, "edge_labels": [whole(math.ceil(e)) if (e := number(edge)) is not None else "" for edge in plot["edges"]]}


def heat(plot: Mapping[str, Any]) -> dict[str, Any] | None:
    """Three maps of cells (real, synthetic, their difference) as one path a shade, and the cell with the largest gap in words.

    `real[i][j]` belongs to `x[i]` and `y[j]`; labels without any row are left out. The same strength of colour is the same share of
    rows in all three maps.
    """
    found = [
        (str(a), str(b), number(r) or 0.0, number(s) or 0.0)
        for a, reals, fakes in zip(plot["x"], plot["real"], plot["synthetic"], strict=False)
        for b, r, s in zip(plot["y"], reals, fakes, strict=False)
    ]
    x, y = ([str(t) for t in plot[side] if any(c[k] == str(t) and max(c[2:]) > 0 for c in found)] for k, side in enumerate(("x", "y")))
    cells = [(x.index(a), y.index(b), r, s) for a, b, r, s in found if a in x and b in y]
    top = max((max(r, s) for _, _, r, s in cells), default=0.0)
    if top <= 0:
        return None
    worst = max(cells, key=lambda c: abs(c[3] - c[2]))

    def shades(amounts: Iterable[tuple[int, int, float]]) -> Iterator[tuple[float, str]]:
        paths: dict[int, str] = {}
        for i, j, amount in amounts:
            level = round(LEVELS * math.sqrt(max(0.0, amount) / top))
            paths[level] = paths.get(level, "") + f"M{i} {len(y) - 1 - j}h1v1h-1z"
        return ((round(level / LEVELS, 3), path) for level, path in sorted(paths.items()) if level)

    return {
        "real": list(shades((i, j, r) for i, j, r, _ in cells)),
        "synthetic": list(shades((i, j, s) for i, j, _, s in cells)),
        "less": list(shades((i, j, r - s) for i, j, r, s in cells)),
        "more": list(shades((i, j, s - r) for i, j, r, s in cells)),
        "gap": {"x": x[worst[0]], "y": y[worst[1]], "real": worst[2], "synthetic": worst[3]},
        "x": x,
        "y": y,
    }


def growth(learning: Any) -> dict[str, Any] | None:
    """The scores by rows as a path a side in a box of 100 x 100, rows on a logarithmic axis; None unless two sizes were measured."""
    learning = learning if isinstance(learning, Mapping) else {}
    rows = [n for n in map(number, learning.get("rows", [])) if n is not None and n > 0]
    sides = {side: list(map(number, learning.get(side, []))) for side in ("real", "synthetic", "both")}
    values = [v for side in sides.values() for v in side if v is not None]
    if len(rows) < 2 or not values:
        return None
    y, ends = scale(values), (math.log(min(rows)), math.log(max(rows)))
    at = [round(100 * (math.log(n) - ends[0]) / ((ends[1] - ends[0]) or 1), 2) for n in rows]

    def path(side: list[float | None]) -> str:
        spots = [f"{x:.4g} {100 - y.at(v):.4g}" for x, v in zip(at, side, strict=False) if v is not None]
        return "M" + "L".join(spots) if spots else ""

    return {**{side: path(found) for side, found in sides.items()}, "y": y, "ticks": list(zip(at, rows, strict=True))}


def curve(points: Any) -> dict[str, Any] | None:
    """The training curve as two paths in a box of 100 x 100 with its axes; the first, steep losses may leave the box at the top."""
    points = [p for p in points or [] if isinstance(p, list) and len(p) >= 2 and number(p[0]) is not None]
    points = points[:: max(1, len(points) // CURVE_POINTS)]
    losses = sorted(v for p in points for v in map(number, p[1:3]) if v is not None)
    if len(points) < 2 or not losses:
        return None
    x, y = scale([p[0] for p in points]), scale([losses[0], losses[min(len(losses) - 1, int(0.97 * len(losses)))]])

    def path(k: int) -> str:
        spots = [(x.at(p[0]), 100 - y.at(p[k])) for p in points if len(p) > k and number(p[k]) is not None]
        return "M" + "L".join(f"{a:.4g} {b:.4g}" for a, b in spots) if spots else ""

    return {"train": path(1), "heldout": path(2), "x": x, "y": y}
