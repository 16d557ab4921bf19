"""Image to image: photographs drawn in a style. The maths of the losses, what is held against what, and what leaves and what does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, grey_erosion

from data.errors import BadInput
from data.images import column, pixels
from data.schema import Dataset, Schema, Split
from data.sources import read
from data.split import split
from data.styles import paired, photos, sides, styles
from evaluators import features, protocol
from evaluators import styling as judging
from evaluators.inspect import inspect
from evaluators.protocol import utility
from evaluators.styling import earth_mover, edges, f1, styling
from flows import planning
from flows.job import Job
from flows.pipeline import synthesize
from flows.publishing import Asked, resample
from generators.drawing import Pool
from generators.fitted import Fitted
from generators.image.chipgan import ChipGAN, stroked
from generators.nets import ink
from generators.registry import make, serving
from generators.train import Training

QUICK = {"width": 8, "blocks": 1, "training": {"steps": 3, "batch": 4}}


def rows(n: int = 80, kind: str = "style", size: int = 16, missing: int = 0) -> Dataset:
    """Colour photographs of a bright bar on noise with the bar as mask, beside white sheets with a dark bar elsewhere."""
    rng = np.random.default_rng(0)
    photo, mask = rng.integers(0, 120, (n, 3, size, size)).astype(np.uint8), np.zeros((n, 1, size, size), dtype=np.uint8)
    sheet = np.full((n, 3, size, size), 250, dtype=np.uint8)
    for i, (left, other) in enumerate(rng.integers(0, size - 4, (n, 2))):
        photo[i, :, 3:9, left : left + 4] += 120
        mask[i, :, 3:9, left : left + 4] = 1
        place = left if kind == "image" else other
        sheet[i, :, 3:9, place : place + 4] = 10
    cells = column(sheet).to_pylist()
    cells[n - missing :] = [None] * missing
    table = pa.table({"image": column(photo), "mask": column(mask), "style": pa.array(cells, column(sheet[:1]).type)})
    return Dataset.of(table, Schema.infer(table, target="style", kinds={"style": kind}))


# ---- losses


def gradient(recipe: ChipGAN) -> torch.Tensor:
    """What the maker of ink is told by one batch."""
    codec = recipe.codec.fit(rows())
    torch.manual_seed(0)
    net, batch = recipe.build(codec), tuple(t[:4] for t in codec.encode(rows(), np.random.default_rng(0)))
    recipe.loss(net, batch, "makers").backward()
    assert all(p.grad is None for p in net.critics.parameters()), "the makers' loss leaves the critics alone"
    return torch.cat([p.grad.flatten() for p in net.makers["ink"].parameters()])


@pytest.mark.parametrize("weight", ["wash", "brush", "cycle", "itself"])
def test_each_loss_reaches_the_maker_in_proportion_to_its_weight(weight):
    recipe = ChipGAN(width=8, blocks=1)
    none, one, two = (gradient(replace(recipe, **{weight: w})) for w in (0.0, 1.0, 2.0))
    assert (one - none).norm() > 1e-4 * none.norm()
    assert torch.allclose(two - none, 2 * (one - none), atol=1e-5 * float(two.abs().max()))


def test_the_critic_of_the_wash_learns_what_ink_leaves():
    recipe = ChipGAN(width=8, blocks=1)
    codec = recipe.codec.fit(rows())
    net = recipe.build(codec)
    recipe.loss(net, tuple(t[:4] for t in codec.encode(rows(), np.random.default_rng(0))), "critics").backward()
    assert all(p.grad.abs().sum() > 0 for p in net.critics["wash"].parameters() if p.ndim > 1)
    assert all(p.grad is None for p in net.makers.parameters())


@pytest.mark.parametrize("side", [3, 5])
def test_ink_spreads_as_scipy_erodes(side):
    x = np.random.default_rng(0).uniform(-1, 1, (2, 3, 9, 12)).astype(np.float32)
    ours = ink.eroded(torch.from_numpy(x), side).numpy()
    assert np.array_equal(ours, grey_erosion(x, size=(1, 1, side, side), mode="constant", cval=1.0))


@pytest.mark.parametrize("side", [5, 7])
def test_ink_blurs_as_scipy_does(side):
    x = np.random.default_rng(0).uniform(-1, 1, (2, 3, 9, 12)).astype(np.float32)
    theirs = gaussian_filter(x, (0, 0, side / 6, side / 6), mode="constant", cval=1.0, radius=(0, 0, side // 2, side // 2))
    assert np.allclose(ink.blurred(torch.from_numpy(x), side).numpy(), theirs, atol=1e-5)


def test_edges_are_where_brightness_steps_and_have_a_gradient():
    x = torch.full((1, 3, 12, 12), -1.0)
    x[..., 6:] = 1.0
    x.requires_grad_()
    found = ink.edges(x)
    assert found[0, 0, :, 5:7].min() > 0.9
    assert found[0, 0, :, [0, 1, 10, 11]].max() < 0.2
    found.sum().backward()
    assert x.grad.abs().sum() > 0
    grey = x.detach().mean(1, keepdim=True)
    assert torch.allclose(ink.edges(grey), found.detach(), atol=1e-5)


def test_few_edges_weigh_as_much_as_the_rest():
    wanted = torch.zeros(1, 1, 10, 10)
    wanted[..., 0] = 1.0  # a tenth
    found = torch.full_like(wanted, 0.3)
    expected = -(0.9 * 0.1 * np.log(0.3) + 0.1 * 0.9 * np.log(0.7))
    assert stroked(wanted, found).item() == pytest.approx(expected, rel=1e-5)
    assert stroked(wanted, wanted.clamp(1e-4, 1 - 1e-4)) < stroked(wanted, found)


# ---- rows


def test_what_is_drawn_has_the_style_in_the_place_of_the_photograph():
    data = rows()
    assert data.schema.task == "image-to-image"
    assert data.schema.modality == "image"
    drawn = data.schema.drawn
    assert (drawn.task, drawn.target, drawn.names) == ("segmentation", "mask", ["image", "mask"])
    assert drawn.drawn is drawn
    assert Schema.from_json(data.schema.to_json()) == data.schema
    with pytest.raises(BadInput, match="no other column"):
        Schema.infer(data.table.select(["style", "mask"]), target="style", kinds={"style": "style"})


def test_strangers_are_held_against_photographs_and_pairs_against_the_style():
    for kind in ("style", "image"):
        real = split(rows(kind=kind))
        found = sides(real)
        assert paired(real.train.schema) == (kind == "image")
        assert pixels(found.private.train.table["image"]).mean() < 130 < 200 < pixels(found.like.train.table["image"]).mean()
        assert found.known.train.table.equals((found.like if kind == "image" else found.private).train.table)
        assert found.known.train.schema.target == "mask"
        assert ("mask" in found.like.train.schema.names) == (kind == "image")
    plain = Split(photos(rows()), photos(rows()))
    assert sides(plain) == (plain, plain, plain)


def test_missing_images_of_the_style_are_no_rows():
    data = rows(missing=30)
    assert data.schema["style"].nullable
    assert len(styles(data)) == 50
    codec = ChipGAN.codec.fit(data)
    x, _, style = codec.encode(data, np.random.default_rng(0))
    assert len(x) == len(style) == 80
    assert torch.equal(style[:30], style[50:])


def test_rows_are_each_given_out_once_before_any_is_again():
    pool = Pool((torch.arange(10)[:, None], torch.arange(10) % 2), torch.Generator().manual_seed(0))
    first = torch.cat([pool.take(n, {})[0] for n in (3, 4, 3)]).flatten()
    assert sorted(first.tolist()) == list(range(10))
    assert torch.equal(pool.take(10, {})[0].flatten(), first)
    odd = pool.take(5, {0: torch.tensor([0.0, 1.0])})[0].flatten()
    assert sorted(odd.tolist()) == [1, 3, 5, 7, 9]
    assert not len(pool.take(5, {0: torch.tensor([0.0, 0.0])})[0])


def test_photographs_are_needed_and_their_masks_stay():
    data = rows()
    model = make("image/chipgan", QUICK).fit(data, seed=0)
    with pytest.raises(BadInput, match="give it some"):
        model.sample(5)
    made = model.translate(data)
    assert made.schema == data.schema.drawn
    assert made.table["mask"].equals(data.table["mask"])
    assert not made.table["image"].equals(data.table["image"])
    unknown = model.translate(photos(data))
    assert unknown.table.equals(made.table), "photographs without paintings are drawn as well"
    cells = {(a["bytes"], b["bytes"]) for a, b in zip(made.table["image"].to_pylist(), made.table["mask"].to_pylist(), strict=True)}
    drawn = model.sample(80, seed=3, of=data).table
    assert {(a["bytes"], b["bytes"]) for a, b in zip(drawn["image"].to_pylist(), drawn["mask"].to_pylist(), strict=True)} == cells
    assert ChipGAN(width=8, blocks=1, training=Training(steps=1)).expected(data).row_seconds > 0


def test_who_serves_image_to_image_serves_nothing_else():
    assert serving(rows().schema) == ["image/chipgan"]
    assert "image/chipgan" not in serving(photos(rows()).schema)
    assert planning.generator_of(Job.of({"source": "x"}), rows().schema) == ChipGAN()


def test_what_it_cannot_draw_is_said():
    other = make("image/gmm", {}).fit(photos(rows()), seed=0)
    with pytest.raises(BadInput, match="only a model of image to image"):
        other.translate(photos(rows()))
    with pytest.raises(BadInput, match="target"):
        make("image/chipgan", QUICK).fit(photos(rows()))
    small = rows().table.set_column(2, "style", column(np.zeros((80, 3, 8, 8), dtype=np.uint8)))
    with pytest.raises(BadInput, match="--size"):
        make("image/chipgan", QUICK).fit(Dataset.of(small, Schema.infer(small, target="style", kinds={"style": "style"})))
    tiny = pa.table({name: column(np.zeros((60, 1, 4, 4), dtype=np.uint8)) for name in ("image", "style")})
    with pytest.raises(BadInput, match="4×4"):
        make("image/chipgan", QUICK).fit(Dataset.of(tiny, Schema.infer(tiny, target="style", kinds={"style": "style"})))


# ---- sources


def folders(place: Path, photographs: int = 60, paintings: int = 50, masks: bool = False) -> Path:
    """photos/ with two classes or with masks, and grey paintings/."""
    rng = np.random.default_rng(0)
    for i in range(photographs):
        image, mask = (f"images/{i}.png", f"masks/{i}.png") if masks else (f"{('cat', 'dog')[i % 2]}/{i}.png", None)
        for name, shape, high in ((image, (12, 10, 3), 256), (mask, (12, 10), 2)):
            if name:
                (place / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, high, shape, dtype=np.uint8)).save(place / "photos" / name)
    (place / "paintings").mkdir()
    for i in range(paintings):
        Image.fromarray(rng.integers(200, 256, (12, 10), dtype=np.uint8)).save(place / "paintings" / f"{i}.png")
    return place


def test_two_folders_are_photographs_beside_paintings(tmp_path):
    source = read(str(folders(tmp_path)))
    data = Dataset.of(source.table, Schema.infer(source.table, target=source.target, kinds=source.kinds))
    assert [(c.name, c.kind) for c in data.schema.columns] == [("image", "image"), ("label", "category"), ("style", "style")]
    assert (data.schema.task, data.schema.drawn.target) == ("image-to-image", "label")
    assert data.schema["style"].size == data.schema["image"].size == (3, 12, 10)
    assert data.table["style"].null_count == 10
    assert "50 images of the style" in source.notes
    assert not any("png" in note for note in source.notes)


def test_masks_stay_with_their_photographs_and_what_has_no_room_is_told(tmp_path):
    source = read(str(folders(tmp_path, 55, 70, masks=True)))
    assert source.table.column_names == ["image", "mask", "style"]
    assert (source.target, source.table["style"].null_count) == ("style", 0)
    assert "55 images of the style of 70: each photograph has room for one" in source.notes


def test_photos_to_ink_share_no_digit_and_no_pixel():
    table = read("photos_to_ink").table
    x, mask, style = (pixels(table[name]) for name in ("image", "mask", "style"))
    assert x.shape[1:] == style.shape[1:] == (3, 64, 64)
    assert set(np.unique(mask)) == {0, 1}
    assert 0.03 < mask.mean() < 0.2
    assert len(np.unique(style.reshape(len(style), -1), axis=0)) == len(np.unique(x.reshape(len(x), -1), axis=0)) == len(x)
    assert (style == 255).mean() > 0.6
    assert style.min() == 0


# ---- judging


def test_edges_are_found_again_where_they_are():
    x = pixels(rows().table["image"])
    own = edges(x)
    assert f1(own, own) == 1.0
    assert f1(own, edges(255 - x)) == 1.0
    assert f1(own, np.roll(own, 1, axis=0)) < 0.7
    blank = np.zeros_like(own)
    assert f1(own, blank) == 0.0
    assert f1(blank, blank) == 1.0


def test_tones_are_as_far_apart_as_they_were_moved():
    x = np.random.default_rng(0).integers(0, 200, (4, 3, 8, 8)).astype(np.uint8)
    x[:] = x[:, :1]
    assert earth_mover(x, x) == 0.0
    assert earth_mover(x, x + 7) == pytest.approx(7.0, abs=1e-6)


def test_drawings_are_told_from_photographs(monkeypatch):
    monkeypatch.setattr(judging, "STEPS", 50)
    real = split(rows(200, kind="image"))
    perfect, lazy = styles(real.test), photos(real.test)
    good, bad = (styling(real, made) for made in (perfect, lazy))
    assert good["tone"]["ratio"] == 0.0
    assert good["truth"]["drawn"] == 0.0 < good["truth"]["photo"]
    assert bad["tone"]["ratio"] == 1.0
    assert bad["edges"]["drawn"] == 1.0 > bad["edges"]["chance"]
    assert bad["linked"]["drawn"] > 0.9 > 0.1 > bad["linked"]["chance"]
    assert good["fooled"]["drawn"] == good["fooled"]["style"] > bad["fooled"]["drawn"]
    assert good["void"]["drawn"] == good["void"]["style"] > 0.8 > good["void"]["photo"]


def test_judges_that_learnt_on_drawings_are_scored_on_drawings():
    real = sides(split(rows(300))).known
    tests: dict[str, list[float]] = {}

    def stub(train, test, seed):
        light = [float(pixels(data.table["image"]).mean()) for data in (train, test)]
        tests.setdefault("drawn" if light[0] > 200 else "photo", []).append(light[1])
        return lambda weights: {"mean_iou": np.full(weights.shape[1], 0.5)}

    def bright(data: Dataset) -> Dataset:
        table = data.table.set_column(0, "image", column(np.full_like(pixels(data.table["image"]), 240)))
        return Dataset.of(table, data.schema)

    utility(real, [bright(real.train)], judges={"stub": stub}, as_drawn=bright)
    assert tests["drawn"] == [240.0]
    assert len(tests["photo"]) == 5
    assert max(tests["photo"]) < 130


def shows(page: str, images: np.ndarray) -> bool:
    """Does any image of this page hold one of these, pixel for pixel, anywhere?"""
    import base64
    import io
    import re

    for found in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page):
        sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(found))).convert("RGB")).transpose(2, 0, 1)
        for image in images:
            corner = np.argwhere((sheet[:, : sheet.shape[1] - 15, : sheet.shape[2] - 15] == image[:, :1, :1]).all(0))
            if any(np.array_equal(sheet[:, y : y + 16, x : x + 16], image) for y, x in corner):
                return True
    return False


def indifferent(train: Dataset, test: Dataset, seed: int):
    """A judge that always scores the same."""
    return lambda weights: {"mean_iou": np.full(weights.shape[1], 0.5)}


def test_photographs_are_on_the_private_page_and_nowhere_in_the_release(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALFAR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(protocol, "JUDGES", {("image", "segmentation"): {"unet": indifferent}})
    monkeypatch.setattr(features, "STEPS", 2)
    monkeypatch.setattr(judging, "STEPS", 2)
    data = rows()
    data.save(tmp_path / "real.parquet")
    job = Job.of({"source": str(tmp_path / "real.parquet"), "kinds": {"style": "style"}, "target": "style", "to": "out", "name": "ink"})
    job = job.model_copy(update={"generator": QUICK | {"name": "image/chipgan"}})
    outcome = synthesize(job)
    assert outcome.private
    made = Dataset.of(pq.read_table(outcome.folder / "data"), data.schema.drawn)
    assert made.table.column_names == ["image", "mask"]
    images = pixels(data.table["image"])
    report, private = (outcome.folder / "report.html").read_text(), outcome.private.read_text()
    assert shows(report, pixels(made.table["image"])[:20])
    assert not shows(report, images)
    assert shows(private, images)
    assert "Photographs and their drawings" in private
    assert "Photographs and their drawings" not in report
    assert "Drawings whose photograph can be told by its edges" in report
    assert "so it is not anonymous" in (outcome.folder / "README.md").read_text()
    found = outcome.manifest["scores"]
    assert found["utility"]["judges"]["unet"]["synthetic"]["mean_iou"]["mean"] == 0.5
    assert found["fidelity"]["style"]["rows"] == 16
    assert found["fidelity"]["spaces"]["learnt"]
    assert found["privacy"]["copies"]["synthetic"] == 0.0
    with pytest.raises(BadInput, match="give it some"):
        resample(outcome.folder, 5, 1, Asked(), "more", "out")


def test_the_gates_and_the_report_see_drawings_beside_photographs():
    real = split(rows())
    page = inspect(real, photos(real.train), "ink", translate=photos)
    assert page.count("Photographs and their drawings") == 1
    assert "Photographs and their drawings" not in inspect(sides(real).private, photos(real.train), "plain")


def test_a_saved_model_draws_the_same(tmp_path):
    data = rows()
    model = make("image/chipgan", QUICK).fit(data, seed=0)
    model.save(tmp_path)
    assert Fitted.load(tmp_path).translate(data).table.equals(model.translate(data).table)
