"""Images from folders and tables: decoded one at a time, brought to one size and one set of channels, kept as PNG.

    folder/cat/1.png                            a folder a class   -> image, label
    folder/images/1.jpg   folder/masks/1.png    pairs              -> image, mask
    folder/1.png                                neither            -> image
    folder/photos/…   folder/paintings/1.jpg    no pairs           -> what photos/ gives, and style, a painting by chance

What cannot be read is left out, each with the reason. Names of files are for the screen only: they never enter the table or its notes.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageOps, UnidentifiedImageError

from data.arrow import IMAGE_TYPE
from data.errors import BadInput
from data.images import encoded, measures, shape_of
from data.infer import MASK_NAME
from data.schema import Schema

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm")
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")  # nothing else is opened, whatever its name: some formats run programs
MOST_PIXELS = 50_000_000  # of one image
MOST_BYTES = 2**31 - 1  # of the PNGs of a column
SIDES = range(4, 1025)  # of the images that are asked for
SPLITS = {"train", "test", "val", "valid", "validation", "dev"}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Unreadable(Exception):
    """Why one image is left out."""


class Found(NamedTuple):
    """A table of images, its target, notes that may be published, and a line for each file that was left out."""

    table: pa.Table
    target: str | None
    notes: tuple[str, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Fit:
    """The size (width, height) that images are brought to, None for their own; `crop` first cuts the middle to its proportions."""

    size: tuple[int, int] | None = None
    crop: bool = False

    @classmethod
    def of(cls, size: int | str | None, crop: bool) -> Fit:
        """32, "32" or "48x32". BadInput for anything else, and for a crop to no size."""
        if size is None:
            if crop:
                raise BadInput("crop cuts images to the proportions of a size: give the size too, e.g. --size 32")
            return cls()
        match = re.fullmatch(r"(\d{1,4})(?:[x×](\d{1,4}))?", str(size))
        width, height = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if width not in SIDES or height not in SIDES:
            raise BadInput(f"the size {str(size)[:40]!r} should be a number of pixels or WIDTHxHEIGHT, each from {SIDES[0]} to {SIDES[-1]}")
        return cls((width, height), crop)


class Cell(NamedTuple):
    """One image: how the screen calls it, and its file or its bytes."""

    name: str
    content: Path | bytes


# ---- folders


def read(folder: Path, fit: Fit) -> Found:
    """The images below a folder, with the label or the mask that its layout gives them. BadInput when that is not clear."""
    paths, skipped = files(folder)
    tops = {path.parts[0] for path in paths if len(path.parts) > 1}
    pair = {top.lower(): top for top in tops if top.lower() in ("images", "masks", "photos", "paintings")}
    if {"images", "masks"} <= pair.keys():
        return pairs(folder, fit, paths, skipped, pair)
    if {"photos", "paintings"} == pair.keys() == {top.lower() for top in tops}:
        return strangers(folder / pair["photos"], folder / pair["paintings"], fit)
    loose = [path for path in paths if len(path.parts) == 1]
    if loose and tops:
        raise BadInput(f"{folder} holds images beside its folders, such as {said(loose[0])}: put each image into the folder of its class")
    if len(tops) == 1:
        (top,) = tops
        raise BadInput(f"{folder} has images in one folder only, {said(top)}: give one folder for each class, or that folder itself")
    if tops and {top.lower() for top in tops} <= SPLITS:
        one, other = sorted(map(said, tops), key=lambda top: top.lower() != "train")[:2]
        raise BadInput(f"{folder} is divided into {one} and {other}: read {folder / one}, with --test {folder / other} if that is held out")
    if odd := next((top for top in sorted(tops) if not top.isprintable()), None):
        raise BadInput(f"the name of the folder {said(odd)} in {folder} is not plain text, and it is to be a label: rename it")
    columns, kept, bad = gathered(([Cell(said(path), folder / path)] for path in paths), (False,), fit, str(folder), len(skipped))
    table = pa.table({"image": columns[0]})
    if tops:
        table = table.append_column("label", pa.array([paths[i].parts[0] for i in kept], pa.string()))
    what = f"{len(tops)} folders, a class each" if tops else "one folder, without labels"
    return Found(table, "label" if tops else None, (f"images of {what}", *notes(fit, skipped + bad, len(paths))), tuple(skipped + bad))


def pairs(folder: Path, fit: Fit, paths: Sequence[Path], skipped: list[str], pair: Mapping[str, str]) -> Found:
    """Images and masks of the same name."""
    images, masks = (
        {path.relative_to(pair[what]).with_suffix(""): path for path in paths if path.parts[0] == pair[what]}
        for what in ("images", "masks")
    )
    both = [stem for stem in images if stem in masks]
    if not both:
        names = f"{said(next(iter(images.values())))} and {said(next(iter(masks.values())))}"
        raise BadInput(f"no image in {folder} has a mask of its name ({names}): call the mask of images/1.jpg masks/1.png")
    skipped += [f"{said(path)}: it has no mask of its name" for stem, path in images.items() if stem not in masks]
    skipped += [f"{said(path)}: it has no image of its name" for stem, path in masks.items() if stem not in images]
    rows = ([Cell(said(side[stem]), folder / side[stem]) for side in (images, masks)] for stem in both)
    (image, mask), _, bad = gathered(rows, (False, True), fit, str(folder), len(skipped))
    return Found(
        pa.table({"image": image, "mask": mask}),
        "mask",
        ("images and masks of the same names", *notes(fit, skipped + bad, len(images))),
        tuple(skipped + bad),
    )


def strangers(photos: Path, paintings: Path, fit: Fit) -> Found:
    """Photographs with what is known of them, and beside each a painting as long as there are any."""
    found, (paths, skipped) = read(photos, fit), files(paintings)
    (cells,), kept, bad = gathered(([Cell(said(path), paintings / path)] for path in paths), (False,), fit, str(paintings), len(skipped))
    with Image.open(io.BytesIO(next(encoded(found.table["image"])))) as first:
        mode = first.mode
    n, rows = min(len(kept), found.table.num_rows), found.table.num_rows
    style = as_column([recoded(cell, mode) for cell in islice(encoded(cells), n)])
    table = found.table.append_column("style", pa.chunked_array([style, pa.nulls(rows - n, IMAGE_TYPE)], IMAGE_TYPE))
    told = [f"{n:,} images of the style" + (f" of {len(kept):,}: each photograph has room for one" if n < len(kept) else "")]
    told += [f"{len(skipped) + len(bad):,} of {len(paths):,} of them left out"] if skipped or bad else []
    return Found(table, "style", (*found.notes, *told), (*found.skipped, *skipped, *bad))


def files(folder: Path) -> tuple[list[Path], list[str]]:
    """Images below a folder, by relative path in order, and a line for each link that is not followed; hidden ones do not count."""

    def refuse(error: OSError) -> None:
        raise BadInput(f"the folder {said(error.filename)} cannot be opened: {error.strerror}")

    root, found, links = folder.resolve(), [], []
    for place, folders, names in os.walk(folder, onerror=refuse):
        here = Path(place)
        folders[:] = sorted(name for name in folders if name[0] != ".")
        links += [f"{said((here / name).relative_to(folder))}: it is a link to a folder" for name in folders if (here / name).is_symlink()]
        for path in (here / name for name in sorted(names) if name[0] != "." and name.lower().endswith(SUFFIXES)):
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                links.append(f"{said(path.relative_to(folder))}: it is a link out of the folder")
            else:
                found.append(path.relative_to(folder))
    if not found:
        but = (
            f", only {len(links):,} links that lead out of it"
            if links
            else f" ({', '.join(SUFFIXES[:5])}, …), and its data/ folder neither"
        )
        raise BadInput(f"the folder {folder} holds no parquet file and no image{but}")
    return sorted(found, key=lambda path: path.parts), links


def notes(fit: Fit, skipped: Sequence[str], total: int) -> list[str]:
    """What was done to the images, without the name of any."""
    found = [f"brought to {fit.size[0]}×{fit.size[1]}" + (", the middle cut out" if fit.crop else "")] if fit.size else []
    return found + ([f"{len(skipped):,} of {total:,} files left out"] if skipped else [])


def said(path: Path | str) -> str:
    """A file's name as one line of a screen."""
    text = path if isinstance(path, str) else path.as_posix()
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


# ---- tables


def refit(table: pa.Table, fit: Fit, kinds: Mapping[str, str], where: str) -> Found:
    """A table whose image columns (`struct<bytes, …>`) are decoded and brought to one size; its other columns stay as they are."""
    names = [name for name in table.column_names if pictured(table[name].type) and kinds.get(name, "image") in ("image", "mask", "style")]
    if not names:
        if fit.size:
            raise BadInput(f"a size is for images, and {where} holds none: leave out --size")
        return Found(table, None, (), ())
    masks = [kinds.get(name, "mask" if MASK_NAME.search(name) else "image") == "mask" for name in names]
    cells = zip(*(encoded(table[name]) for name in names), strict=True)
    rows = ([Cell(f"{name} of row {i}", cell) for name, cell in zip(names, row, strict=True)] for i, row in enumerate(cells))
    columns, kept, skipped = gathered(rows, masks, fit, where)
    total, table = len(table), table.take(pa.array(kept, pa.int64())) if skipped else table
    for name, column in zip(names, columns, strict=True):
        table = table.set_column(table.column_names.index(name), pa.field(name, IMAGE_TYPE), column)
    target = (
        "label"
        if "label" in set(table.column_names) - set(names)
        else next((n for n, mask in zip(names, masks, strict=True) if mask), None)
    )
    return Found(table, target, tuple(notes(fit, skipped, total)), tuple(skipped))


def pictured(kind: pa.DataType) -> bool:
    """Does a type hold the bytes of images?"""
    return pa.types.is_struct(kind) and "bytes" in {field.name for field in kind}


def alike(table: pa.Table, schema: Schema, where: str) -> pa.Table:
    """A table to judge by, its images with the channels that the schema's have. BadInput for another size or classes."""
    for column in schema.columns:
        if column.size is None or column.name not in table.column_names or not pictured(table[column.name].type):
            continue
        if table[column.name].null_count:
            raise BadInput(f"column {column.name!r} in {where} lacks images: leave those rows out")
        cells = list(encoded(table[column.name]))
        for shape in {shape_of(cell, row) for row, cell in enumerate(cells)}:
            if shape[1:] != column.size[1:]:
                sizes = f"{measures(shape)}, but those to learn from {measures(column.size)}"
                raise BadInput(f"the images in {where} are {sizes}: bring them to one size (--size)")
        if column.kind != "mask":
            made = [recoded(cell, MODES[column.size[0]]) for cell in cells]
            table = table.set_column(table.column_names.index(column.name), pa.field(column.name, IMAGE_TYPE), as_column(made))
            continue
        for cell in cells:
            with Image.open(io.BytesIO(cell)) as image:
                if odd := {str(value) for _, value in image.getcolors() or ()} - set(column.categories):
                    raise BadInput(f"a mask in {where} holds the class {min(odd)}, which those to learn from do not have: mend it")
    return table


# ---- many images


def gathered(
    rows: Iterable[Sequence[Cell]], masks: Sequence[bool], fit: Fit, where: str, gone: int = 0
) -> tuple[list[pa.Array], list[int], list[str]]:
    """(a column of PNGs for each place of a row, positions of the rows that are kept, a line for each other row).

    One row is in memory at a time. `gone` counts what is missing already. BadInput: sizes differ, a mask in colour, or most unreadable.
    """
    columns: list[list[bytes]] = [[] for _ in masks]
    modes: list[list[str]] = [[] for _ in masks]
    kept, skipped, room = [], [], MOST_BYTES
    first: tuple[str, tuple[int, int]] | None = None
    for position, row in enumerate(rows):
        try:
            images = [picture(cell, mask, fit) for cell, mask in zip(row, masks, strict=True)]
        except Unreadable as error:
            skipped.append(str(error))
            continue
        kept.append(position)
        for cell, image, column, mode in zip(row, images, columns, modes, strict=True):
            first = first or (cell.name, image.size)
            if image.size != first[1]:
                sizes = f"{first[0]} is {across(first[1])}, {cell.name} is {across(image.size)}"
                raise BadInput(f"the images in {where} differ in size ({sizes}): say to which they are brought, e.g. --size 32")
            column.append(png(image))
            mode.append(image.mode)
            room -= len(column[-1])
        if room < 0:
            raise BadInput(f"the images in {where} take more than {MOST_BYTES / 1e9:.1f} GB as PNG: bring them to a smaller size (--size)")
    check_enough(kept, skipped, where, gone)
    return [as_column(one_mode(column, mode)) for column, mode in zip(columns, modes, strict=True)], kept, skipped


def check_enough(kept: Sequence[int], skipped: Sequence[str], where: str, gone: int) -> None:
    """BadInput, with a line for each, when more images are unreadable than not."""
    if len(skipped) + gone > len(kept):
        error = BadInput(f"{len(skipped) + gone:,} of {len(kept) + len(skipped) + gone:,} images in {where} cannot be read: mend them")
        for line in skipped:
            error.add_note(f"left out: {line}")
        raise error


def one_mode(column: list[bytes], modes: Sequence[str]) -> list[bytes]:
    """PNGs of one mode out of PNGs of L, LA, RGB and RGBA: with alpha when all have it, in colour when one is."""
    found = set(modes)
    colour = bool(found & {"RGB", "RGBA"})
    mode = "RGBA" if found and found <= {"LA", "RGBA"} else "RGB" if colour else "L"
    return [cell if known == mode else recoded(cell, mode) for cell, known in zip(column, modes, strict=True)]


def recoded(cell: bytes, mode: str) -> bytes:
    """A PNG in another mode, L, RGB or RGBA; what shows through is white where alpha is given up."""
    with Image.open(io.BytesIO(cell), formats=("PNG",)) as image:
        if image.mode == mode:
            return cell
        if mode == "RGBA" or image.mode not in ("LA", "RGBA"):
            return png(image.convert(mode))
        return png(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert(mode))


def as_column(cells: Sequence[bytes]) -> pa.Array:
    """A column of images, whose files have no names."""
    return pc.make_struct(pa.array(cells, pa.binary()), pa.nulls(len(cells), pa.string()), field_names=["bytes", "path"])


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG that holds pixels and nothing else."""
    sink = io.BytesIO()
    image.info = {}
    image.save(sink, "PNG")
    return sink.getvalue()


def across(size: tuple[int, int]) -> str:
    """64×48"""
    return f"{size[0]}×{size[1]}"


# ---- one image


def picture(cell: Cell, mask: bool, fit: Fit) -> Image.Image:
    """One image, L, LA, RGB or RGBA, or one mask, L, upright and of the size that is wanted. Unreadable says its name and why not."""
    try:
        image = opened(cell.content, 2 * max(fit.size) if fit.size and not mask else None)
        image = classes(image) if mask else plain(image)
    except Unreadable as error:
        raise Unreadable(f"{cell.name}: {error}") from None
    if mask and image.mode != "L":
        raise BadInput(f"the mask {cell.name} is in colour: a mask has one channel, whose values are the classes; convert it")
    if fit.size is None:
        return image
    method = Image.Resampling.NEAREST if mask else Image.Resampling.BICUBIC
    return ImageOps.fit(image, fit.size, method) if fit.crop else image.resize(fit.size, method)


def opened(content: Path | bytes, least: int | None) -> Image.Image:
    """The first picture in a file, decoded and upright; a JPEG may come smaller, with sides of `least` or more."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise Unreadable(f"it has {image.width:,}×{image.height:,} pixels; at most {MOST_PIXELS // 10**6} million are read")
                if least:
                    image.draft(None, (least, least))
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return image
    except Unreadable:
        raise
    except Image.DecompressionBombError:
        raise Unreadable(f"it has far more than {MOST_PIXELS // 10**6} million pixels") from None
    except UnidentifiedImageError:
        empty = not (content if isinstance(content, bytes) else content.stat().st_size)
        raise Unreadable("it is empty" if empty else "it is no image, whatever its name says, or its beginning is damaged") from None
    except Exception as error:  # a decoder may raise anything over bytes that are not as they should be
        why = error.strerror if isinstance(error, OSError) and error.strerror else None
        raise Unreadable(f"it cannot be opened: {why}" if why else "it is damaged or cut short") from None


def plain(image: Image.Image) -> Image.Image:
    """Any image as L, LA, RGB or RGBA of 8 bits a channel."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise Unreadable("its pixels are 32-bit numbers, of which nothing says how bright they are: convert it to 8 or 16 bits")
    mode = ("L" if image.mode in ("1", "L", "LA", "La") else "RGB") + "A" * image.has_transparency_data
    return image if image.mode == mode else image.convert(mode)


def classes(image: Image.Image) -> Image.Image:
    """A mask as L with its values as they are, those of a palette its indexes; in colour it stays as it is."""
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("L", "P"):
        return Image.fromarray(np.asarray(image))
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    if not np.array_equal(values, values.astype(np.uint8)):
        raise Unreadable("it is a mask with values that are not whole numbers from 0 to 255")
    return Image.fromarray(values.astype(np.uint8))
