"""The pages about images, and the private page: small, offline, honest about what is missing, and no real image where none belongs."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from data.errors import BadInput
from data.images import column, pixels, png
from data.schema import Dataset, Schema, Split
from evaluators import image as judging
from evaluators import inspect as inspecting
from evaluators import pictures as drawing
from evaluators.inspect import closest, compared, inspect, ladder
from evaluators.pictures import contact, inked, pictures, shrunk, strip, tiles
from evaluators.report import render, render_leaderboard
from evaluators.values import words
from flows import stages
from flows.job import Job
from flows.pipeline import synthesize
from flows.publishing import Asked, resample
from generators import registry
from generators.base import Unfolding
from generators.codecs.image import ImageCodec
from generators.fitted import Fitted
from tests.test_report import HOSTILE, SECTIONS, Page, manifest, parts, without

NAMES = [name for name in HOSTILE if "\x00" not in name]


def dataset(images: np.ndarray, labels: list[str] | None = None, masks: np.ndarray | None = None) -> Dataset:
    """A dataset of uint8 [n, C, h, w] with labels, masks, both or neither."""
    columns: dict[str, Any] = {"image": column(images)}
    columns |= {"mask": column(masks)} if masks is not None else {}
    columns |= {"label": pa.array(labels)} if labels is not None else {}
    table = pa.table(columns)
    schema = Schema.infer(table, target="mask" if masks is not None else "label" if labels else None)
    return Dataset.of(table, schema)


def digits(n: int = 400, start: int = 0) -> Dataset:
    found = load_digits()
    images = (found.images[start : start + n, None] * 255 / 16).round().astype(np.uint8)
    return dataset(images, found.target[start : start + n].astype(str).tolist())


def noise(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def opened(address: str) -> np.ndarray:
    """uint8 [h, w, 4] of a data URI."""
    assert address.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def tiles_on(page: str, height: int, width: int) -> Iterator[np.ndarray]:
    """uint8 [h, w, 3]: whatever stands at the places of tiles of this size on any picture of a page."""
    gap = max(1, width // 24)
    for tag, attributes in Page(page).tags:
        if tag == "img":
            sheet = opened(str(attributes["src"]))
            for y in range(0, sheet.shape[0] - height + 1, height + gap):
                for x in range(0, sheet.shape[1] - width + 1, width + gap):
                    yield sheet[y : y + height, x : x + width, :3]


def shows(page: str, images: np.ndarray) -> bool:
    """Is one of these images, uint8 [n, 1, h, w], on the page?"""
    known = {image[0].tobytes() for image in images}
    return any(tile[..., 0].tobytes() in known for tile in tiles_on(page, *images.shape[2:]))


def fidelity() -> dict[str, Any]:
    one = {k: {"synthetic": 0.25, "real": 0.5} for k in ("fid", "kid", "density", "coverage", "precision", "recall")}
    return {
        "kind": "image",
        "spaces": {"classifier": one, HOSTILE[0]: one},
        "label_agreement": {"synthetic": 0.9412, "real": 0.9876},
        "detector": {k: {"auc": 0.7, "low": 0.6, "high": 0.8} for k in ("train", "test", "real")},
        "classes": {"column": "label", "values": [HOSTILE[0], "7"], "synthetic": [0.25, 0.75], "real": [0.375, 0.625]},
        "rows_used": {"train": 1234, "synthetic": 1234},
    }


def told(schema: Schema) -> dict[str, Any]:
    """The manifest of a release of images."""
    found = manifest(["image", "label"]) | {"schema": schema.to_json()}
    found["scores"]["fidelity"] = fidelity()
    found["scores"]["privacy"] |= {
        "near": {"synthetic": 0.0044, "real": 0.01},
        "distances": {"edges": [0.0, 1.0, 2.0], "synthetic": [0.25, 0.75], "real": [0.5, 0.5]},
    }
    return found


# ---- the report


def crowded(folder: Path) -> tuple[Dataset, dict[str, Any]]:
    """The worst a page can be asked to hold: many labels, large incompressible images with masks, intermediate steps."""
    labels = [NAMES[i] if i < len(NAMES) else f"\U00020000 {i}" for i in range(30)]  # the hostile ones are first
    masks = noise(300, 1, 120, 90, seed=1) % 4
    made = dataset(noise(300, 4, 120, 90), [labels[i % 30] for i in range(300)], masks)
    made.save(folder / "rows.parquet")
    return made, pictures([folder / "rows.parquet"], made.take(np.arange(64)), 8)


def test_a_page_of_images_is_small_nests_and_loads_nothing(tmp_path: Path) -> None:
    made, shown = crowded(tmp_path)
    html = render(told(made.schema), shown)
    assert len(html.encode()) < 3_000_000
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio", "use", "image"} & {t for t, _ in page.tags}
    sources = [a["src"] for _, a in page.tags if "src" in a]
    assert len(sources) == 24 + 1
    assert all(re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+", str(source)) for source in sources)
    for _, attributes in page.tags:
        assert not [a for a in attributes if a.startswith("on")]
        assert attributes.get("href", "#").startswith("#")  # type: ignore[union-attr]
        assert "url(" not in (attributes.get("style") or "")
    assert all(a.get("alt") for t, a in page.tags if t == "img")
    text = " ".join(page.text.split())
    for name in NAMES:
        assert " ".join(name.split()) in text
    assert "6 more labels are not shown" in text


def test_the_figures_of_images_are_on_the_page() -> None:
    made = digits(120)
    text = " ".join(Page(render(told(made.schema), contact(made.schema, [made]))).text.split())
    for figure in (
        "94.1 %",
        "98.8 %",
        "0.44 %",
        "FID 0.250, real against real 0.500",
        "KID",
        "Coverage",
        "1,234 train",
        "Near copies",
        "75.0 %",
    ):
        assert figure in text, figure
    assert "Column shapes" not in text
    assert "real row" not in text
    segmented = told(made.schema) | {"schema": {**made.schema.to_json(), "task": "segmentation"}}
    text = " ".join(Page(render(segmented, contact(made.schema, [made]))).text.split())
    assert "a mean IoU of 0.941" in text
    assert "Mask agreement" in text
    assert [words(name) for name in ("iou_2", "mean_iou", "learnt", "cnn")] == ["IoU of 2", "Mean IoU", "Learnt features", "CNN"]


def test_any_part_of_images_may_be_missing_and_no_section_goes() -> None:
    made = digits(120)
    whole = told(made.schema)
    for path in parts(whole):
        page = Page(render(without(whole, path), {"labels": []}))
        assert {*SECTIONS, "images"} <= {a.get("id") for _, a in page.tags}, path
    spaces = {"a": {}, "b": {"fid": {"synthetic": math.nan}}}
    scores = {"fidelity": {"kind": "image", "spaces": spaces}, "privacy": {"copies": None, "near": None, "x": 1}}
    text = Page(render(whole | {"scores": scores})).text
    for sentence in (
        "No images are shown",
        "No intermediate steps",
        "Label agreement was not measured",
        "The detector was not run",
        "The distances to the nearest training images were not recorded",
        "Utility was not measured",
        "Exact copies was not measured",
        "Nearness to the training images was not measured",
        "FID not measured",
    ):
        assert sentence in " ".join(text.split()), sentence
    text = Page(render(whole | {"scores": {"fidelity": {"kind": "image"}}})).text
    assert "FID, KID, coverage, density, recall and precision were not measured" in text


def test_the_leaderboard_of_images_has_their_figures() -> None:
    row = {"kind": "image", "generator": "image/gmm", "seeds": 2, "kid": 0.00321, "coverage": 0.81, "agreement": 0.972, "near": 0.0123}
    text = " ".join(Page(render_leaderboard({"rows": [row, {"generator": "image/vae", "error": "It failed."}]})).text.split())
    for figure in ("KID", "0.003", "0.810", "97.2 %", "1.2 %", "It failed."):
        assert figure in text, figure
    assert "Shape error" not in text.split("Glossary")[0]


# ---- pictures


def test_a_sheet_holds_the_first_images_of_its_label_pixel_for_pixel() -> None:
    made = digits(400)
    images, labels = pixels(made.table["image"]), np.array(made.table["label"].to_pylist())
    shown = contact(made.schema, [made.take(np.arange(i, i + 50)) for i in range(0, 400, 50)])
    assert [sheet["label"] for sheet in shown["labels"]] == [str(i) for i in range(10)]
    for sheet in shown["labels"]:
        assert sheet["count"] == 12
        grid = opened(sheet["sheet"])
        assert grid.shape == (8, 12 * 9 - 1, 4)
        for place, image in enumerate(images[labels == sheet["label"]][:12]):
            np.testing.assert_array_equal(grid[:, 9 * place : 9 * place + 8, 0], image[0])
            assert (grid[:, 9 * place : 9 * place + 8, 3] == 255).all()


def test_labels_without_images_and_images_without_labels() -> None:
    made = digits(100)
    some = made.take(np.array([label != "3" for label in made.table["label"].to_pylist()]))
    shown = contact(made.schema, [some])["labels"]
    assert [(s["label"], s["sheet"] is None) for s in shown if not s["count"]] == [("3", True)]
    assert "No image of this label" in Page(render({}, {"labels": shown})).text
    plain = contact(*(lambda d: (d.schema, [d]))(dataset(noise(60, 3, 9, 7))))
    assert [(s["label"], s["count"]) for s in plain["labels"]] == [(None, 48)]


def test_masks_lie_over_their_images_in_colour() -> None:
    image = np.full((4, 2, 2), 100, dtype=np.uint8)
    under = inked(image, np.array([[0, 7], [7, 9]]), ("0", "7", "9"))
    assert under[:3, 0, 0].tolist() == [100, 100, 100]
    assert under[:3, 0, 1].tolist() == [50 + ink // 2 for ink in drawing.INKS[0]]
    assert under[:3, 1, 1].tolist() == [50 + ink // 2 for ink in drawing.INKS[1]]
    made = dataset(noise(60, 1, 12, 12), masks=noise(60, 1, 12, 12, seed=1) % 2)
    shown = contact(made.schema, [made])
    assert [s["count"] for s in shown["labels"]] == [24]
    assert [c["value"] for c in shown["classes"]] == ["1"]
    grid = opened(shown["labels"][0]["sheet"])
    np.testing.assert_array_equal(grid[:12, :12, 0], pixels(made.table["image"])[0, 0])
    np.testing.assert_array_equal(grid[:12, 13:25, :3], next(tiles(made, 10_000))[1, :3].transpose(1, 2, 0))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (9, 7), (64, 64), (301, 5), (33, 250)])
def test_what_is_shrunk_keeps_its_mean_and_its_bound(height: int, width: int) -> None:
    image = np.full((4, height, width), 77, dtype=np.uint8)
    small = shrunk(image, 500)
    assert small.shape[1] * small.shape[2] <= 500
    assert np.abs(small.astype(int) - 77).max() <= 1
    assert (small is image) == (height * width <= 500)


def test_a_strip_goes_from_the_first_step_to_the_last() -> None:
    shades = np.arange(64, dtype=np.uint8).reshape(8, 8)  # frame, image
    steps = dataset(np.broadcast_to(shades.reshape(64, 1, 1, 1), (64, 1, 4, 4)).copy())
    grid = opened(strip(steps, 8))
    np.testing.assert_array_equal(grid[::5, ::5, 0], shades.T)


# ---- the private page


def test_the_private_page_warns_shows_both_sides_and_escapes() -> None:
    names = NAMES[:3]
    real = dataset(noise(90, 1, 8, 8), [names[i % 3] for i in range(90)])
    made = dataset(noise(90, 1, 8, 8, seed=1), [names[i % 3] for i in range(90)])
    html = inspect(Split(real.take(np.arange(60)), real.take(np.arange(60, 90))), made, HOSTILE[0])
    page = Page(html)
    text = " ".join(page.text.split())
    assert text.index("do not share") < text.index("Real beside synthetic")
    assert all(name in text for name in names)
    assert not {"script", "iframe", "link"} & {t for t, _ in page.tags}
    assert all(str(a["src"]).startswith("data:image/png;base64,") for t, a in page.tags if t == "img")
    assert shows(html, pixels(real.table["image"])[:60])
    assert shows(html, pixels(made.table["image"]))
    assert not shows(html, pixels(real.table["image"])[60:])


def test_the_nearest_images_are_those_of_a_full_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspecting, "BLOCK", 7)
    train = dataset(noise(60, 3, 5, 6)).take(np.arange(50))
    real = pixels(train.table["image"]).reshape(50, -1).astype(np.float32)
    queries = np.concatenate([noise(9, 90, seed=2).astype(np.float32), real[[33, 4]]])
    distance, position = closest(queries, train)
    exact = np.sqrt(((queries[:, None] - real[None]) ** 2).mean(-1))
    np.testing.assert_allclose(distance, np.sort(exact, axis=1)[:, :4], rtol=1e-5)
    np.testing.assert_array_equal(position, np.argsort(exact, axis=1)[:, :4])
    assert distance[-2:, 0].tolist() == [0, 0]
    assert position[-2:, 0].tolist() == [33, 4]
    assert closest(queries, train.take(np.arange(2)))[0].shape == (11, 2)


def test_a_ladder_goes_from_the_nearest_to_the_farthest() -> None:
    distance = np.random.default_rng(0).uniform(size=500)
    rungs = ladder(distance)
    assert len(rungs) == 12
    assert rungs[:3] == np.argsort(distance)[:3].tolist()
    assert distance[rungs[-1]] == distance.max()
    assert ladder(np.array([2.0, 1.0])) == [1, 0]


def test_rows_stand_beside_their_nearest_and_differing_cells_are_marked() -> None:
    rng = np.random.default_rng(0)
    table = pa.table(
        {"id": [f"{i:06d}" for i in range(300)], "x": rng.normal(size=300), "a & b": rng.choice(["<i>u</i>", "v"], 300).tolist()}
    )
    real = Dataset.of(table, Schema.infer(table, target="a & b", kinds={"id": "id"}))
    train, test = real.take(np.arange(200)), real.take(np.arange(200, 300))
    copy = train.take(np.arange(5))
    page = Page(inspect(Split(train, test), copy, "people"))
    assert "<i>u</i>" in page.text
    assert "100.0 % at distance 0" in " ".join(page.text.split()).replace("\N{NO-BREAK SPACE}", " ")
    assert not [a for t, a in page.tags if a.get("class") == "differs"]
    moved = Dataset.of(copy.table.set_column(1, "x", pa.array(copy.table["x"].to_numpy() + 1e-9)), train.schema)
    page = Page(inspect(Split(train, test), moved, "people"))
    assert len([a for t, a in page.tags if a.get("class") == "differs"]) == 2 * 5  # x of both rows
    column = train.schema["x"]
    assert not compared(column, math.nan, math.nan)["differs"]
    assert compared(column, None, 1.0) == {"made": "", "real": "1.0", "differs": True}
    assert not compared(train.schema["id"], "a", "b")["differs"]
    assert "no column with a distance" in Page(inspect(Split(*[d.take(np.arange(0)) for d in (train, test)]), copy, "none")).text


# ---- the flow


class Means(nn.Module):
    def __init__(self, codec: ImageCodec) -> None:
        super().__init__()
        self.register_buffer("shares", torch.from_numpy(codec.shares).float())
        self.register_buffer("mean", torch.zeros(len(codec.shares), *codec.shape))


@dataclass(frozen=True)
class Stub(Unfolding):
    """Each label's mean image under noise, which comes about by fading in."""

    codec = ImageCodec

    def build(self, codec: ImageCodec) -> nn.Module:
        return Means(codec)

    def learn(self, net: Any, rows: Any, run: Any) -> nn.Module:
        for label in rows[1].unique():
            net.mean[label] = rows[0][rows[1] == label].float().mean(0)
        return net

    def draw(self, net: Any, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        mean = net.mean[labels]
        return (mean + 20 * torch.randn(mean.shape, generator=rng)).clamp(0, 255).byte()

    def frames(self, net: Any, labels: torch.Tensor, rng: torch.Generator, count: int) -> torch.Tensor:
        return torch.stack([(self.draw(net, labels, rng) * ((k + 1) / count)).byte() for k in range(count)])


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator of a moment, and judges that learn for one: what matters here is what stands where."""
    monkeypatch.setattr(judging, "STEPS", 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALFAR_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(registry.GENERATORS, "image/stub", f"{Stub.__module__}:Stub")
    monkeypatch.setattr(stages, "scores", lambda *_: {"utility": {"task": "classification", "why": "not judged here"}})


@pytest.mark.usefixtures("catalogue")
def test_real_images_are_on_the_private_page_and_nowhere_in_the_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = digits(300)
    marked = noise(10, 1, 8, 8, seed=5)  # one image of each label that is like no other
    images = np.concatenate([pixels(real.table["image"]), marked])
    planted = dataset(images, real.table["label"].to_pylist() + [str(i) for i in range(10)])
    planted = planted.take(np.concatenate([np.arange(300, 310), np.arange(300)]))
    planted.save(tmp_path / "real.parquet")
    digits(100, 300).save(tmp_path / "held.parquet")
    job = Job.of(
        {"source": str(tmp_path / "real.parquet"), "test": str(tmp_path / "held.parquet"), "target": "label", "rows": 200, "to": "out"}
        | {"generator": "image/stub", "name": "planted"}
    )
    outcome = synthesize(job)
    report, private = (outcome.folder / "report.html").read_text(), outcome.private
    assert private
    assert private.name == "inspect.html"
    assert (tmp_path / "home" / "runs" / "planted") in private.parents
    assert outcome.folder not in private.parents
    assert shows(private.read_text(), marked)
    assert shows(report, pixels(Dataset.of(pq.read_table(outcome.folder / "data"), real.schema).table["image"]))
    assert not shows(report, images)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name == "inspect.html"]
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(png(image) in content or base64.b64encode(png(image)) in content for image in images), path
            assert b"inspect.html" not in content, path
            assert image_free(content, marked), path
    assert "How an image comes about" in report
    assert "8 of the steps" in " ".join(Page(report).text.split())
    assert synthesize(job).private == private
    monkeypatch.setattr(Stub, "caption", "A sweep of nothing.")
    more = resample(outcome.folder, 50, 1, Asked(), "more", "out")
    assert more.private is None
    assert (more.folder / "report.html").read_text().count('<img class="sheet"') == 10 + 1
    assert "A sweep of nothing." in (more.folder / "report.html").read_text()


@pytest.mark.usefixtures("catalogue")
def test_no_image_of_a_yardstick_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stub, "publishable", False)
    digits(100).save(tmp_path / "real.parquet")
    job = Job.of({"source": str(tmp_path / "real.parquet"), "target": "label", "to": "out", "generator": "image/stub", "name": "stub"})
    report = (synthesize(job).folder / "report.html").read_text()
    assert "data:image/png" not in report
    assert "No images are shown" in report


def image_free(content: bytes, images: np.ndarray) -> bool:
    """Do the raw pixels of none of these images stand in a file, as bytes or as floats?"""
    return not any(form.tobytes() in content for image in images for form in (image, image.astype(np.float32)))


def test_frames_are_told_apart_from_images_made_at_once() -> None:
    data = digits(100)
    fitted = Stub().fit(data, seed=0)
    frames = fitted.frames(4, 3, seed=1)
    assert frames is not None
    assert len(frames) == 12
    assert frames.table["label"].to_pylist() == ["0", "1", "2", "3"] * 3
    again = fitted.frames(4, 3, seed=1)
    assert again is not None
    assert again.table.equals(frames.table)
    assert Fitted(Plain(), fitted.codec, fitted.net, data.schema).frames(4, 3) is None


@dataclass(frozen=True)
class Plain(registry.get("tabular/marginal")):  # type: ignore[misc]
    """A generator whose rows come about at once."""


def test_a_picture_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    made = digits(120)
    broken = made.table.set_column(0, "image", pa.array([{"bytes": b"no", "path": None}] * 120, made.schema["image"].arrow))
    Dataset(made.schema, broken.cast(made.schema.arrow)).save(tmp_path / "rows.parquet")
    with pytest.raises(BadInput, match="cannot be read"):
        pictures([tmp_path / "rows.parquet"])
