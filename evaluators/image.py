"""Judges of images: a small convolutional net that names what an image shows, and a small U-Net that marks where it is.

Learnt on synthetic images and scored on real ones, the first is the Classification Accuracy Score (Ravuri & Vinyals 2019,
arXiv:1905.10887). The second is a U-Net (Ronneberger, Fischer & Brox 2015, arXiv:1505.04597) scored by the overlap of its mask A with
the true mask B, class by class:

    IoU  = |A and B| / |A or B|                   (1)
    Dice = 2 |A and B| / (|A| + |B|)              (2)

Both learn for a fixed number of steps at a cost that hardly depends on the size of the images: a larger image enters through a wider
stride, or in smaller batches. They are one thread each and draw from a generator of their own, so that a seed decides the scores.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import BadInput
from data.images import measures, pixels
from data.schema import Column, Dataset, Schema
from evaluators.tabular import Scores, codes, cores, label_scores, one_thread, side_by_side, waited

STEPS = 600  # of the classifier, BATCH images each
BATCH = 128
UNET_STEPS = 800
UNET_PIXELS = 8 * 64 * 64  # a step of the U-Net sees as many pixels, in 8 to 64 images
RATE = 6e-3  # the highest learning rate of the one cycle
UNET_RATE = 1e-2
TRIED = 20  # steps that show how long a judge learns
AT_ONCE = 2**20  # pixels that are judged at a time


# ---- what they see


def column_of(schema: Schema, kind: str) -> Column | None:
    """The first column of such a kind."""
    return next((c for c in schema.columns if c.kind == kind), None)


def pictures(data: Dataset, column: Column | None = None) -> np.ndarray:
    """uint8 [n, C, H, W] of a column of images, of the first one unless given. BadInput when they have not the schema's size."""
    column = column or column_of(data.schema, "image")
    if column is None:
        raise BadInput("there is no column of images to judge")
    found = pixels(data.table[column.name])
    size = column.size or found.shape[1:]
    if len(found) and found.shape[1:] != size:
        raise BadInput(f"column {column.name!r} holds images of {measures(found.shape[1:])}, the schema says {measures(size)} (--size)")
    return found if len(found) else np.zeros((0, *size), dtype=np.uint8)


def classes(data: Dataset, column: Column) -> np.ndarray:
    """int64 [n, H, W], the class of each pixel of a mask. BadInput for a value that the schema does not know."""
    values = np.full(256, -1)
    values[[int(value) for value in column.categories]] = np.arange(len(column.categories))
    found = values[pictures(data, column)[:, 0]]
    if (found < 0).any():
        raise BadInput(f"column {column.name!r} holds pixels that are none of its classes, which are {', '.join(column.categories)}")
    return found


# ---- nets


class Classifier(nn.Module):
    """Three convolutions, a pooled 3 x 3 map, and `hidden` features, of which the logits are a linear function."""

    def __init__(self, shape: Sequence[int], answers: int, widths: tuple[int, int, int] = (16, 32, 64), hidden: int = 128) -> None:
        super().__init__()
        channels, height, width = shape
        stride = max(1, 2 ** round(np.log2((height * width) ** 0.5 / 14)))  # after it the map is about 14 x 14 whatever the image
        a, b, c = widths
        self.trunk = nn.Sequential(
            *convolved(channels, a, max(3, 2 * stride - 1), stride),
            *convolved(a, b),
            nn.MaxPool2d(2),
            *convolved(b, c),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Linear(9 * c, hidden),
        )
        self.head = nn.Linear(hidden, answers)

    def forward(self, x: Tensor) -> Tensor:  # [b, C, H, W] -> [b, answers]
        return self.head(F.relu(self.trunk(x)))


class UNet(nn.Module):
    """One level a width, each half the size of the one above, joined on the way up with what was there on the way down."""

    def __init__(self, channels: int, answers: int, widths: tuple[int, ...] = (8, 16, 32, 48)) -> None:
        super().__init__()
        down = [convolved(a, b) for a, b in zip((channels, *widths), widths, strict=False)]
        again = [[], *(convolved(b, b) for b in widths[1:])]
        self.down = nn.ModuleList(nn.Sequential(*first, *second) for first, second in zip(down, again, strict=True))
        self.up = nn.ModuleList(nn.Sequential(*convolved(b + a, a)) for a, b in zip(widths[-2::-1], widths[:0:-1], strict=True))
        self.head = nn.Conv2d(widths[0], answers, 1)

    def forward(self, x: Tensor) -> Tensor:  # [b, C, H, W] -> [b, answers, H, W]
        height, width = x.shape[2:]
        step = 2 ** (len(self.down) - 1)
        x = F.pad(x, (0, -width % step, 0, -height % step), mode="replicate")
        kept = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for block, beside in zip(self.up, kept[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), beside], dim=1))
        return self.head(x)[:, :, :height, :width]


def convolved(inner: int, outer: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution, its norm and a ramp."""
    return [nn.Conv2d(inner, outer, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]


def begun(net: nn.Module, seed: int) -> nn.Module:
    """The net, made on the "meta" device, with weights that the seed alone decides."""
    rng = torch.Generator().manual_seed(seed)
    net = net.to_empty(device="cpu")
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=rng)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def learnt(net: nn.Module, x: np.ndarray, y: np.ndarray, *, seed: int, steps: int, batch: int, rate: float) -> nn.Module:
    """The net after so many steps on x uint8 [n, C, H, W] and the answers y int64 [n] or [n, H, W]; one cycle of AdamW."""
    images, answers = torch.from_numpy(x), torch.from_numpy(y)
    rng = torch.Generator().manual_seed(seed + 1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-2)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    net.train()
    with one_thread(), torch.enable_grad():
        for _ in waited(range(steps)):
            rows = torch.randint(len(x), (batch,), generator=rng)
            loss = F.cross_entropy(net(signed(images[rows])), answers[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
    return net.eval()


def signed(x: Tensor) -> Tensor:
    """uint8 pixels as floats from -1 to 1, the channels of a pixel side by side in memory."""
    return (x.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def answered_by(net: nn.Module, x: np.ndarray) -> np.ndarray:
    """What the net makes of x uint8 [n, C, H, W], some images at a time: int64, the likeliest of its answers for each image or pixel."""
    at_once = max(1, AT_ONCE // max(1, x[0].size)) if len(x) else 1
    with one_thread(), torch.inference_mode():
        parts = [net(signed(torch.from_numpy(x[i : i + at_once]))).argmax(dim=1).numpy() for i in range(0, len(x), at_once)]
    return np.concatenate(parts)


# ---- judges


def cnn(train: Dataset, test: Dataset, seed: int) -> Scores:
    """Image to label: accuracy (the Classification Accuracy Score), balanced accuracy and F1."""
    name = train.schema.target
    assert name is not None, "a judge needs a target"
    y, truth = codes(train.schema[name], [train, test])
    known = y >= 0
    said = np.full(len(truth), -1)
    if known.any():
        x = pictures(train)[known]
        said = answered_by(classifier(x, y[known], max(y.max(), truth.max(initial=0)) + 1, seed), pictures(test))
    scores = label_scores(truth, said)
    return lambda weights: {metric: scores(weights)[metric] for metric in ("accuracy", "balanced_accuracy", "f1")}


def classifier(x: np.ndarray, y: np.ndarray, answers: int, seed: int, steps: int | None = None) -> nn.Module:
    """The judge of labels, learnt on x uint8 [n, C, H, W] and y int64 [n], in `STEPS` unless given."""
    with torch.device("meta"):
        net: nn.Module = Classifier(x.shape[1:], answers)
    return learnt(begun(net, seed), x, y, seed=seed, steps=steps or STEPS, batch=BATCH, rate=RATE)


def unet(train: Dataset, test: Dataset, seed: int) -> Scores:
    """Image to mask: mean IoU over the classes, mean Dice, the IoU of each class; of two classes the last is the foreground."""
    assert train.schema.target is not None, "a judge needs a target"
    mask = train.schema[train.schema.target]
    y, truth = classes(train, mask), classes(test, mask)
    said = np.full(truth.shape, -1)
    if len(y):
        said = answered_by(segmenter(pictures(train), y, len(mask.categories), seed), pictures(test))
    return overlap_scores(truth, said, mask.categories)


def segmenter(x: np.ndarray, y: np.ndarray, answers: int, seed: int, steps: int | None = None) -> nn.Module:
    """The judge of masks, learnt on x uint8 [n, C, H, W] and y int64 [n, H, W], in `UNET_STEPS` unless given."""
    with torch.device("meta"):
        net: nn.Module = UNet(x.shape[1], answers)
    batch = int(np.clip(UNET_PIXELS // y[0].size, 8, 64))
    return learnt(begun(net, seed), x, y, seed=seed, steps=steps or UNET_STEPS, batch=batch, rate=UNET_RATE)


def pace(train: Dataset) -> float:
    """Seconds that a judge learns where one learns on every core, from a few steps of each."""
    few, target = train.take(np.arange(min(len(train), BATCH))), train.schema.target
    x, mask = pictures(few), column_of(train.schema, "mask") if target is not None else None
    if mask is None:
        learn, steps, y, answers = classifier, STEPS, np.arange(len(x)) % 4, 4
    else:
        learn, steps, y, answers = segmenter, UNET_STEPS, classes(few, mask), len(mask.categories)
    for tried in (1, TRIED):  # the first only warms up
        began = time.perf_counter()
        fits = side_by_side(lambda seed: learn(x, y, answers, seed, tried), range(cores()))  # noqa: B023  (run at once)
    return (time.perf_counter() - began) / TRIED * steps / len(fits)


def overlap_scores(truth: np.ndarray, said: np.ndarray, names: Sequence[str]) -> Scores:
    """Metrics of masks int [n, H, W]; a class that neither mask holds is left out of the means."""
    axes = tuple(range(1, truth.ndim))
    pairs = [(truth == k, said == k) for k in range(len(names))]
    both, true, guess = (np.stack([m.sum(axes) for m in side], axis=0) for side in zip(*[(a & b, a, b) for a, b in pairs], strict=True))

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        hit, sizes = both @ weights, (true + guess) @ weights  # [K, draws]
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = hit / (sizes - hit)  # (1)
            dice = 2 * hit / sizes  # (2)
        found = {"mean_iou": mean_known(iou), "mean_dice": mean_known(dice)}
        if len(names) == 2:
            found["foreground_iou"] = iou[1]
        return found | {f"iou_{name}": iou[k] for k, name in enumerate(names)}

    return scores


def mean_known(values: np.ndarray) -> np.ndarray:
    """[draws], the mean over the first axis of [K, draws] without NaN; NaN where nothing is known."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(0) / known.sum(0)
