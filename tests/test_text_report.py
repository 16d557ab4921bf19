"""The pages about texts: samples as they are written, labels one by one, and no real text where none belongs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from data.schema import Dataset, Schema, Split
from data.texts import words
from evaluators.charts import answers, growth
from evaluators.inspect import inspect
from evaluators.learning import learning
from evaluators.privacy import privacy
from evaluators.report import render, render_leaderboard
from evaluators.samples import FOLDED, MOST, folded, samples
from evaluators.wording import wording
from flows import stages
from flows.job import Job
from flows.pipeline import synthesize
from flows.publishing import Asked, resample
from generators import registry
from generators.base import Labelled
from generators.codecs.text import EOS, FIRST, TextCodec
from tests.test_report import HOSTILE, Page, manifest, score

SAFE = [name for name in HOSTILE if "\x00" not in name]
SPELT = ["<|sep|> typed by a user", "a tab\tand\na second line", "عربي من اليمين", "😀🏽 👩‍👩‍👧"]


def dataset(said: list[str], labels: list[str]) -> Dataset:
    table = pa.table({"said": said, "intent": labels})
    return Dataset.of(table, Schema.infer(table, target="intent", kinds={"said": "text", "intent": "category"}))


def pairs(sources: list[str], targets: list[str]) -> Dataset:
    table = pa.table({"target": targets, "source": sources})
    return Dataset.of(table, Schema.infer(table, target="target", kinds=dict.fromkeys(table.column_names, "text")))


def spoken(n: int, seed: int = 0) -> Dataset:
    """Texts with two labels, no two with the same words."""
    rng = np.random.default_rng(seed)
    said = [f"{'open' if i % 2 else 'close'} the {' '.join(rng.choice(list('abcdefghij'), 3))} door {seed}{i}" for i in range(n)]
    return dataset(said, ["open" if i % 2 else "close" for i in range(n)])


def sides(synthetic: float | None, real: float | None) -> dict[str, float | None]:
    return {"synthetic": synthetic, "real": real}


def told(labels: list[str], bad: float | None = 0.25) -> dict[str, Any]:
    """A release of texts with these labels; `bad` stands wherever a figure may fail."""
    made = manifest(["a", "b"])
    roles = ("real", "synthetic", "augmented", "floor", "cheat", "augmented_cheat")
    shares = np.linspace(0.05, 0.95, len(labels)).round(3).tolist()
    made["scores"]["utility"] |= {
        "headline": "accuracy",
        "judges": {
            "tfidf": {r: {"accuracy": score(0.9), "f1": score(bad)} for r in roles},
            "bag": {r: {"accuracy": score(0.8)} for r in roles},
        },
        "learning": {
            "judge": "tfidf",
            "metric": "accuracy",
            "rows": [20, 60, 180],
            "real": [0.5, 0.7, 0.9],
            "synthetic": [0.4, bad, 0.8],
            "both": [0.6] * 3,
        },
        "signatures": {"chrf": "nrefs:1|case:mixed"},
    }
    made["scores"]["fidelity"] = {
        "kind": "text",
        "perplexity": sides(17.25, bad),
        "divergence": {"words": sides(0.11, 0.07), "pairs": sides(bad, 0.31)},
        "distinct": {"1": sides(0.12, 0.13), "2": sides(0.4, 0.5)},
        "self_bleu": sides(0.33, 0.32),
        "vocabulary": sides(0.97, 0.98),
        "length": sides(8.25, 8.5),
        "label_agreement": sides(0.91, 0.93),
        "parses": None,
        "detector": {k: {"auc": bad, "low": 0.4, "high": 0.6} for k in ("train", "test", "real")},
        "classes": {"column": "intent", "values": labels, "real": shares, "synthetic": shares},
        "answers": {
            "column": "intent",
            "values": labels,
            "rows": [20] * len(labels),
            "real": [0.9] * len(labels),
            "synthetic": shares,
            "confused": [{"true": labels[0], "said": labels[-1], "synthetic": 0.45, "real": 0.15}],
        },
        "plots": {"columns": [{"name": "said", "kind": "text", "edges": [-0.5, 4.5, 9.5], "real": [0.2, bad], "synthetic": [0.3, 0.7]}]},
        "rows_used": {"train": 400, "test": 100, "synthetic": 400, "a_side": 100},
    }
    made["scores"]["privacy"] |= {
        "near": sides(0.021, bad),
        "texts": {
            "near_copies": sides(0.0, 0.041),
            "columns": [{"name": "said", **sides(bad, 0.061)}],
            "spans": [{"words": n, **sides(0.5 / n, bad)} for n in (4, 6, 8)],
            "leaks": {"emails": {"known": 7, **sides(0.003, 0.0), "values": {"synthetic": 2, "real": 0}}, "any": sides(0.003, 0.0)},
        },
        "distances": {"edges": [0.0, 0.5, 1.0], "real": [0.4, 0.6], "synthetic": [0.5, bad], "median_ratio": bad},
    }
    made["schema"] = {
        "task": "classification",
        "target": "intent",
        "columns": [
            {"name": "said", "kind": "text", "type": "string", "high": 120.0},
            {"name": "intent", "kind": "category", "type": "string", "categories": labels},
        ],
    }
    return made


def shown(data: Dataset, folder: Path) -> dict[str, Any]:
    data.save(folder / "train-00000.parquet")
    return samples(data.schema, [folder / "train-00000.parquet"])


def plain(html: str) -> str:
    return " ".join(Page(html).text.split()).replace("\N{NO-BREAK SPACE}", " ")


# ---- samples


def test_samples_are_the_first_rows_with_the_target_last(tmp_path: Path) -> None:
    rows = [*SPELT, *(f"word {i} and more" for i in range(60))]
    found = shown(pairs(rows, [f"palabra {i} y más" for i in range(len(rows))]), tmp_path)
    assert [c["name"] for c in found["columns"]] == ["source", "target"]
    assert [row[0]["seen"] for row in found["rows"]] == rows[:20]
    assert [row[1]["seen"] for row in found["rows"]] == [f"palabra {i} y más" for i in range(20)]


def test_long_texts_are_folded_and_very_long_ones_cut() -> None:
    for length in (FOLDED, FOLDED + 1, MOST, MOST + 7, 100_000):
        found = folded("x" * length)
        assert len(found["seen"]) + len(found["rest"]) + found["cut"] == length
        assert len(found["seen"]) == FOLDED
        assert bool(found["rest"]) is (length > FOLDED)
        assert bool(found["cut"]) is (length > MOST)
    assert folded(None) == {"seen": "", "rest": "", "cut": 0}


# ---- the report


def test_a_report_shows_samples_as_text_whatever_they_spell(tmp_path: Path) -> None:
    rows = [*SAFE, *SPELT, "y" * 100_000, *(f"word {i} and more" for i in range(60))]
    data = pairs(rows, [f"select a from b where c = '{i}'" for i in range(len(rows))])
    assert data.schema["target"].language == "sql"
    html = render(told(["x", "y"]), shown(data, tmp_path))
    page, text = Page(html), plain(html)
    assert len(html.encode()) < 300_000
    assert not {"script", "img", "iframe", "link"} & {tag for tag, _ in page.tags}
    assert all(" ".join(row.split()) in text for row in [*SPELT, *SAFE[:3], *SAFE[4:]] if "\u202e" not in row)
    assert f"{100_000 - MOST:,} characters more" in text
    assert "yyyy" in text
    assert "y" * (MOST + 1) not in html
    assert not set("\u202e\x00") & set(page.text)
    assert sum(a.get("class") == "code" for tag, a in page.tags if tag == "td") == 20
    assert {"#texts", "#utility"} <= {a.get("href") for tag, a in page.tags if tag == "a"}
    assert "synthetic texts, no real one" in text


def test_the_figures_of_texts_are_on_the_page() -> None:
    text = plain(render(told([f"label {i:02d}" for i in range(40)])))
    for figure in (
        "17.25",
        "0.110",
        "97.0 %",
        "91.0 %",
        "45.0 %",
        "8.25",
        "Words, linear",
        "nrefs:1|case:mixed",
        "up to 120 characters",
        "of 40 labels",
        "4.1 %",
        "2 of 7 come again",
        "8 words 6.2 %",
    ):
        assert figure in text
    assert "words 0 10 The longest" in text, "the ends of the lengths"
    assert "Code that parses" not in text, "what the task does not have is not asked for"
    text = text[text.index("Labels, worst and best") :]
    worst, best = text.index("label 00 5.0 %"), text.index("label 39 95.0 %")
    assert worst < best


def test_what_is_measured_is_shown() -> None:
    train, test, made = spoken(400), spoken(150, seed=1), spoken(400, seed=2)
    found = told(["x"])
    found["scores"]["fidelity"] = wording(train, test, made)
    found["scores"]["privacy"] = privacy(train, test, made)
    found["scores"]["utility"]["learning"] = learning(Split(train, test), made)
    found["schema"] = train.schema.to_json()
    text = plain(render(found, {}))
    text = text[text.index("Fidelity: does it look real?") : text.index("Quality: are the files")]
    assert not re.search(r"not (measured|recorded|run)|—", text), "every key that is shown is one that is measured"
    assert all(word in text for word in ("Worst", "open", "close", "Length of said", "Shares of intent", "16 words"))
    found["scores"] |= {"fidelity": wording(train, test, train), "privacy": privacy(train, test, train)}
    assert "100.0 %" in plain(render(found)), "copies are seen"


def test_labels_are_sorted_from_the_worst_and_from_the_best() -> None:
    found = answers({"answers": {"values": list("abcdefghijklmnopqrst"), "real": [1.0] * 20, "synthetic": [i / 20 for i in range(20)]}})
    assert [line["label"] for line in found["worst"]] == list("abcdefgh")
    assert [line["label"] for line in found["best"]] == list("tsrqponm")
    few = answers({"answers": {"values": ["a", "b"], "real": [1, 1], "synthetic": [0.5, 0.2]}})
    assert ([line["label"] for line in few["worst"]], few["best"]) == (["b", "a"], [])
    pairs = [{"true": "a", "said": said, "synthetic": share} for said, share in (("b", 0.1), ("c", 0.4), ("d", None))]
    assert [pair["said"] for pair in answers({"answers": {"confused": pairs}})["confused"]] == list("cbd")
    assert answers({}) == {"worst": [], "best": [], "confused": []}


@pytest.mark.parametrize("labels", [SAFE, [f"label {i}" for i in range(150)]])
def test_a_page_of_texts_nests_and_escapes_its_labels(labels: list[str]) -> None:
    html = render(told(labels))
    page = Page(html)
    assert not {"script", "img", "iframe", "link"} & {tag for tag, _ in page.tags}
    assert len(html.encode()) < 300_000
    assert "No texts are shown" in page.text


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_what_is_missing_is_said(bad: float | None) -> None:
    made = told(["x", "y"], bad)
    text = plain(render(made))
    assert "nan" not in text.lower().split()
    assert "inf" not in text.lower().split()
    made["scores"]["fidelity"] = {"kind": "text"}
    made["scores"]["utility"]["learning"] = None
    text = plain(render(made))
    assert "Labels were not measured one by one" in text
    assert "No learning curve" in text
    assert "Lengths were not recorded" in text
    assert "The detector was not run" in text
    made["scores"]["fidelity"] = None
    assert "Fidelity was not measured" in plain(render(made))


def test_a_leaderboard_of_texts_has_their_figures() -> None:
    row = {"generator": "text/ngram", "kind": "text", "seeds": 2, "tstr": score(0.9), "perplexity": 21.5, "agreement": 0.875, "near": 0.01}
    text = plain(render_leaderboard({"dataset": "shop", "headline": "accuracy", "rows": [row]}))
    assert all(figure in text for figure in ("Perplexity", "21.5", "Label agreement", "87.5 %", "Near copies", "1.0 %"))


def test_a_learning_curve_rises_from_left_to_right() -> None:
    drawn = growth({"rows": [10, 100, 1000], "real": [0.0, 0.5, 1.0], "synthetic": [0.0, None, 1.0], "both": []})
    assert drawn
    assert (drawn["real"], drawn["synthetic"], drawn["both"]) == ("M0 100L50 50L100 0", "M0 100L100 0", "")
    assert growth(None) is growth({"rows": [10], "real": [1.0]}) is None


def test_scores_grow_with_rows_of_either_kind() -> None:
    rng = np.random.default_rng(0)

    def table(n: int, noise: float) -> Dataset:
        x = rng.normal(size=n)
        found = pa.table({"x": x, "z": rng.normal(size=n), "y": np.where(x + noise * rng.normal(size=n) > 0, "a", "b")})
        return Dataset.of(found, Schema.infer(found, target="y"))

    split = Split(table(900, 0.3), table(400, 0.3))
    found = learning(split, table(700, 3.0))
    assert found
    assert found["rows"] == [25, 77, 233, 700]
    assert found["real"][-1] > max(found["real"][0], found["synthetic"][-1])
    assert found["real"][-1] > 0.9 > found["synthetic"][-1]
    assert len(found["both"]) == 4
    assert learning(Split(split.train.take(np.arange(9)), split.test), split.train) is None


# ---- the private page


def test_the_private_page_shows_texts_beside_those_with_the_same_words() -> None:
    real = spoken(300)
    train, test = real.take(np.arange(250)), real.take(np.arange(250, 300))
    copy = dataset([text.upper() for text in train.table["said"].to_pylist()[:60]], train.table["intent"].to_pylist()[:60])
    text = plain(inspect(Split(train, test), copy, HOSTILE[0]))
    assert text.index("do not share") < text.index("The nearest training texts")
    assert "100.0 % at distance 0" in text
    assert copy.table["said"][0].as_py() in text
    assert train.table["said"][0].as_py() in text
    assert not [said for said in test.table["said"].to_pylist() if said in text]


def test_the_nearest_texts_are_those_of_a_full_search() -> None:
    train, made = spoken(120), spoken(60, seed=1)
    html = inspect(Split(train, spoken(50, seed=2)), made, "shop")
    sets = [set(words(said)) for said in train.table["said"].to_pylist()]

    def nearest(said: str) -> float:
        return min(1 - len(set(words(said)) & other) / len(set(words(said)) | other) for other in sets)

    distances = sorted(map(nearest, made.table["said"].to_pylist()))
    found = [float(number) for number in re.findall(r'scope="rowgroup">([\d.]+)', html)]
    assert found == sorted(found)
    assert len(found) > 8
    assert (found[0], found[-1]) == (pytest.approx(distances[0], abs=1e-3), pytest.approx(distances[-1], abs=1e-3))


def test_the_private_page_escapes_and_survives_few_rows() -> None:
    rows = [*SAFE, *SPELT, *(f"word {i} and more" for i in range(60))]
    data = pairs(rows, [f"palabra {i} y más" for i in range(len(rows))])
    page = Page(inspect(Split(data, data.take(np.arange(0))), data.take(np.arange(len(SAFE))), SAFE[0]))
    assert not {"script", "img", "iframe", "link"} & {tag for tag, _ in page.tags}
    nothing = data.take(np.arange(0))
    assert "no texts to compare" in plain(inspect(Split(nothing, nothing), data, "none"))


# ---- the flow


class Shares(nn.Module):
    def __init__(self, codec: TextCodec) -> None:
        super().__init__()
        self.register_buffer("shares", torch.from_numpy(codec.shares).float())
        self.size, self.longest = codec.size, codec.longest


@dataclass(frozen=True)
class Stub(Labelled):
    """Pieces at random."""

    codec = TextCodec

    def build(self, codec: TextCodec) -> nn.Module:
        return Shares(codec)

    def learn(self, net: Any, rows: Any, run: Any) -> nn.Module:
        return net

    def draw(self, net: Any, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        tokens = torch.randint(FIRST + 256, net.size, (len(labels), net.longest), generator=rng)
        tokens[:, min(6, net.longest - 1) :] = EOS
        return tokens


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALFAR_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(registry.GENERATORS, "text/stub", f"{Stub.__module__}:Stub")
    monkeypatch.setattr(stages, "scores", lambda *_: {"utility": {"task": "classification", "why": "not judged here"}})


def order(tmp_path: Path) -> Job:
    real = spoken(300)
    lines = [f'{{"said": "{row["said"]}", "intent": "{row["intent"]}"}}' for row in real.table.to_pylist()]
    (tmp_path / "real.jsonl").write_text("\n".join(lines))
    more = {"kinds": {"said": "text"}, "rows": 200, "to": "out", "generator": "text/stub", "name": "planted"}
    return Job.of({"source": str(tmp_path / "real.jsonl"), "target": "intent", **more})


@pytest.mark.usefixtures("catalogue")
def test_real_texts_are_on_the_private_page_and_nowhere_in_the_release(tmp_path: Path) -> None:
    outcome = synthesize(order(tmp_path))
    assert outcome.manifest["scores"]["quality"]["passed"]
    real = spoken(300).table["said"].to_pylist()
    assert outcome.private
    assert any(said in outcome.private.read_text() for said in real)
    made = samples(Schema.from_json(outcome.manifest["schema"]), sorted((outcome.folder / "data").glob("*.parquet")))
    report = plain((outcome.folder / "report.html").read_text())
    assert all(" ".join(row[0]["seen"].split()) in report for row in made["rows"])
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [said for said in real if said.encode() in content], path
    again = resample(outcome.folder, 50, 1, Asked(), "more", "out") if outcome.passed else None
    assert again is None or "The first rows of the files" in (again.folder / "report.html").read_text()


@pytest.mark.usefixtures("catalogue")
def test_no_text_of_a_yardstick_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stub, "publishable", False)
    assert "No texts are shown" in (synthesize(order(tmp_path)).folder / "report.html").read_text()
