"""The pages a person reads: whole, offline, honest about what is missing, and safe whatever the data are called."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from evaluators.charts import Scale, bars, curve, heat, histogram, scale
from evaluators.report import render, render_leaderboard
from evaluators.values import clean, num

HOSTILE = [
    "<script>alert(1)</script>",
    "</bdi></title><img src=x onerror=alert(1)>",
    "\"quoted\" 'twice' & {{ 7 * 7 }}",
    "long" * 500,
    "السعر بالدولار",
    "weight 💎",
    "\u202eright to left\x00\ud800",
    "url(//evil.example/x) javascript:alert(1)",
]
VOID = {"meta", "br", "hr", "img", "input", "link"}
SECTIONS = ["verdict", "utility", "fidelity", "privacy", "quality", "training", "made", "glossary"]


class Page(HTMLParser):
    """Every tag and attribute of a page; fails when tags do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data + " "


def score(mean: float | None) -> dict[str, Any]:
    return {"mean": mean, "low": mean and mean - 0.01, "high": mean and mean + 0.01}


def manifest(names: list[str], bad: float | None = 0.5) -> dict[str, Any]:
    """A release with these columns, every other one a category; `bad` stands wherever a figure may fail."""
    category = [{"name": n, "kind": "category", "labels": [n, *HOSTILE], "real": [0.2] * 9, "synthetic": [0.1] * 9} for n in names[::2]]
    quantity = [{"name": n, "kind": "number", "edges": [0.0, 1.0, 4.0], "real": [0.6, bad], "synthetic": [0.5, 0.5]} for n in names[1::2]]
    pair = {
        "a": names[0],
        "b": names[-1],
        "x": names[:2],
        "y": HOSTILE[:2],
        "real": [[0.2, 0.3], [0.1, bad]],
        "synthetic": [[0.4, 0.1], [0.1, 0.4]],
    }
    roles = ("real", "synthetic", "augmented", "floor", "cheat", "augmented_cheat")
    return {
        "dataset": names[0],
        "version": "v1",
        "created": "2026-01-02T03:04:05+00:00",
        "verdict": "published",
        "rows": 1000,
        "source": {"name": names[-1], "fingerprint": "0123456789abcdef", "rows": 2000, "notes": [names[0]]},
        "generator": {"name": "tabular/made", "parameters": {"layers": 3, "training": {"steps": 10}}},
        "seed": 7,
        "versions": {"alfar": "0.1.0"},
        "reproduce": f"alfar run {names[0]} --seed 7",
        "parent": {"dataset": names[0]},
        "log": {"steps": 10, "seconds": 75, "loss": [[0, 3.0, 3.1], [5, bad, None], [10, 1.0, 1.2]]},
        "scores": {
            "utility": {
                "task": "classification",
                "headline": "roc_auc",
                "test_rows": 400,
                "train_rows": 1600,
                "judges": {"gradient_boosting": {r: {"roc_auc": score(0.9), "accuracy": score(bad)} for r in roles}},
                "ratio": {"value": 0.96, "low": bad, "high": 0.99},
            },
            "fidelity": {
                "shape": {"synthetic": 2.0, "real": bad},
                "trend": {"synthetic": 3.0, "real": 1.0},
                "detector": {k: {"auc": bad, "low": 0.4, "high": 0.6} for k in ("train", "test", "real")},
                "columns": [{"name": n, "kind": "number", "error": 2.0, "real_error": bad} for n in names],
                "pairs": [{"a": names[0], "b": names[-1], "error": 3.0, "real_error": bad}],
                "plots": {"columns": category + quantity, "pairs": [pair] * 8},
            },
            "privacy": {
                "copies": {"synthetic": 0.00125, "real": bad},
                "dcr": {"share": 51.25, "low": 50.0, "high": 52.0, "real": 50.0},
                "membership": {"auc": 0.505, "low": 0.49, "high": 0.52, "real": bad},
            },
            "quality": {
                "passed": False,
                "expectations": 41,
                "failed": [{"expectation": "range", "column": names[0], "what": HOSTILE[0]}],
                "files": 1,
            },
        },
        "gates": [
            {"name": "copies", "value": 0.00125, "limit": 0.002, "passed": True, "why": names[0]},
            {"name": "detector", "value": bad, "limit": 0.8, "passed": bad is not None and math.isfinite(bad), "why": "The detector."},
        ],
        "schema": {
            "task": "classification",
            "target": names[0],
            "columns": [{"name": n, "kind": "number", "type": "double"} for n in names],
        },
    }


def board(name: str) -> dict[str, Any]:
    row = {
        "generator": name,
        "seeds": 3,
        "tstr": score(0.9),
        "detector": {"train": 0.7, "test": 0.71},
        "shape": 2.0,
        "trend": 3.0,
        "dcr": 50.0,
    }
    return {
        "dataset": name,
        "headline": "roc_auc",
        "winner": name,
        "real": score(0.93),
        "rows": [
            {**row, "generator": "copy", "role": "ceiling"},
            {**row, "copies": 0.0, "fit_seconds": 90.0, "rows_per_second": 48000.0},
            {"generator": "sdv/ctgan", "seeds": 3, "error": "It ran out of time."},
            {**row, "generator": "marginal", "role": "floor", "tstr": score(math.nan)},
        ],
    }


def pages() -> dict[str, str]:
    many = [f"column {i}" for i in range(50)]
    return {
        "hostile": render(manifest(HOSTILE)),
        "fifty": render(manifest(many)),
        "empty": render({}),
        "board": render_leaderboard(board(HOSTILE[0])),
        "empty board": render_leaderboard({}),
    }


@pytest.mark.parametrize("name", ["hostile", "fifty", "empty", "board", "empty board"])
def test_a_page_is_small_nests_and_loads_nothing(name: str) -> None:
    html = pages()[name]
    assert len(html.encode()) < 300_000
    page = Page(html)
    assert not {"script", "img", "link", "iframe", "object", "embed", "base", "form", "video", "audio", "use", "image"} & {
        t for t, _ in page.tags
    }
    for _, attributes in page.tags:
        assert not [a for a in attributes if a.startswith("on") or a in ("src", "srcset", "xlink:href", "action", "background")]
        assert attributes.get("href", "#").startswith("#")  # type: ignore[union-attr]
        assert "url(" not in (attributes.get("style") or "")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_links_lead_to_sections_that_are_there() -> None:
    tags = Page(render({})).tags
    ids = {a["id"] for _, a in tags if "id" in a}
    assert {a["href"] for t, a in tags if t == "a"} <= {f"#{i}" for i in ids}
    assert set(SECTIONS) <= ids


def test_hostile_names_are_shown_as_text() -> None:
    page = Page(render(manifest(HOSTILE)))
    shown = " ".join(page.text.split())
    for name in [*HOSTILE[:6], HOSTILE[7]]:
        assert " ".join(name.split()) in shown
    assert "49" not in re.findall(r"twice' & (\S+)", shown)  # names are no templates
    assert not set("\u202e\x00\ud800") & set(page.text)


def test_the_figures_of_the_manifest_are_on_the_page() -> None:
    text = " ".join(Page(render(manifest(["a", "b", "c", "d"]))).text.split())
    for figure in (
        "0.900",
        "0.910",
        "96.0 %",
        "51.2 %",
        "0.12 %",
        "0.505",
        "0123456789abcdef",
        "alfar run a --seed 7",
        "1 min 15 s",
        "1,000",
        "41",
    ):
        assert figure in text, figure


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_a_figure_that_is_missing_is_said_to_be(bad: float | None) -> None:
    html = render(manifest(["a", "b", "c", "d"], bad))
    text = Page(html).text
    assert "not measured" in text
    assert "—" in text
    assert "1 of 2 gates failed" in text
    assert not re.search(r"\bnan\b|\binf\b|None|Undefined", html)


def parts(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every part of a manifest that is a mapping or a list, and of every key."""
    return [p for k, v in value.items() for p in [(*path, k), *(parts(v, (*path, k)) if isinstance(v, dict) else [])]]


def without(value: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    rest = {k: v for k, v in value.items() if k != path[0]}
    return rest if len(path) == 1 else {**rest, path[0]: without(value[path[0]], path[1:])}


def test_any_part_may_be_missing_and_no_section_goes() -> None:
    whole = manifest(["a", "b", "c", "d"])
    for path in parts(whole):
        page = Page(render(without(whole, path)))
        assert set(SECTIONS) <= {a.get("id") for _, a in page.tags}, path
        if path[0] == "scores" and len(path) == 2:
            assert "was not" in page.text, path


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scores": {"utility": {"task": "density", "why": "no target column"}}}, "no target column"),
        ({"verdict": "sampled", "scores": {}, "gates": []}, "these rows were not judged"),
        ({"log": {}}, "No training curve"),
        ({"gates": []}, "No gates were set"),
        ({"verdict": "surprise"}, "No verdict"),
        ({"verdict": "quarantined", "reasons": ["It is a yardstick."]}, "It is a yardstick."),
        ({"reproduce": None}, "No command was recorded"),
    ],
)
def test_what_is_absent_or_special_is_said(change: dict[str, Any], sentence: str) -> None:
    assert sentence in Page(render(manifest(["a", "b", "c", "d"]) | change)).text


def test_failed_gates_come_first() -> None:
    text = Page(render(manifest(["a", "b"], None))).text
    assert text.index("Failed:") < text.index("Passed:")


def test_columns_stand_worst_first_and_the_rest_in_a_table() -> None:
    names = [f"column {i}" for i in range(50)]
    told = manifest(names)
    for error, column in enumerate(told["scores"]["fidelity"]["columns"]):
        column["error"] = float(error)
    html = render(told)
    assert html.index("<strong><bdi>column 49</bdi>") < html.index("<strong><bdi>column 48</bdi>")
    assert html.count("<figcaption><strong><bdi>column") == 24 + 8
    assert "All 50 columns as a table, 26 of them not plotted" in html


def test_the_leaderboard_shows_every_line_and_the_winner() -> None:
    text = Page(render_leaderboard(board("tabular/made"))).text
    for figure in ("tabular/made wins", "winner", "sdv/ctgan", "It ran out of time.", "floor", "ceiling", "0.930", "48,000"):
        assert figure in " ".join(text.split()), figure
    assert "No winner" in Page(render_leaderboard({})).text


def test_a_scale_holds_its_values_in_order() -> None:
    for values in ([0.1, 0.2], [5.0], [-1e9, 1e9], [0.0, 0.0], [1e-12, 2e-12], [None, math.nan], []):
        axis = scale(values)
        assert isinstance(axis, Scale)
        assert axis.low < axis.high
        places = [axis.at(v) for v in sorted(v for v in values if v is not None and math.isfinite(v))]
        assert places == sorted(places)
        assert all(0 <= p <= 100 for p in places)


def test_shapes_of_charts() -> None:
    shown = bars({"labels": [str(i) for i in range(40)], "real": [i / 780 for i in range(40)], "synthetic": [1 / 40] * 40})
    assert len(shown) == 12
    assert sum(b["real"] for b in shown) == pytest.approx(1)
    drawn = histogram({"edges": [0, 1, 4], "real": [0.5, 0.5], "synthetic": [0.5, 0.5]})
    assert drawn is not None
    assert drawn["real"] == "M0 100V6H25V68.67H100V100"  # a bin three times as wide is a third as high
    assert histogram({"edges": [1], "real": [], "synthetic": []}) is None
    cells = heat({"x": ["a", "b"], "y": ["c", "null"], "real": [[0.2, 0], [0.8, 0]], "synthetic": [[0.6, 0], [0.5, 0]]})
    assert cells is not None
    assert cells["gap"] == {"x": "a", "y": "c", "real": 0.2, "synthetic": 0.6}
    assert cells["y"] == ["c"]
    assert heat({"x": [], "y": [], "real": [], "synthetic": []}) is None
    assert curve([[0, 1.0, None]]) is None


def test_clean_and_num() -> None:
    assert clean({"a": math.nan, "b": [1, None, {"c": math.inf}], "d": "x\x07"}) == {"b": [1, None, {}], "d": "x\N{REPLACEMENT CHARACTER}"}
    assert [num(v) for v in (0.9129, 53940, 12345.6, 1.2e-5, None, "x", True)] == ["0.913", "53,940", "12,346", "1.2e-05", "—", "—", "—"]
