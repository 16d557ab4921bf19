"""Spaces in which images are compared: what a net makes of an image, as a vector.

None is downloaded. "learnt" is what a classifier learns that sees the real training images alone: their labels, or without labels which
way an image is turned (Gidaris, Singh & Komodakis 2018, arXiv:1803.07728). "random" is the same net as it begins, which favours no
task (Naeem et al. 2020, arXiv:2002.09797). An image with a mask is looked at together with the mask. `inception` is there for who has
the weights that published figures are made with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from data.errors import BadInput
from data.schema import Column, Dataset
from evaluators.image import AT_ONCE, BATCH, RATE, Classifier, answered_by, begun, classes, column_of, learnt, pictures, signed
from evaluators.tabular import codes, one_thread

Space = Callable[[np.ndarray], np.ndarray]  # uint8 [n, C, H, W] -> float64 [n, d]

FEATURES = 64
WIDTHS = (24, 48, 64)  # not those of the judge
STEPS = 400
SEED = 0xFEA7  # not a judge's: they take the job's seed


def views(data: Dataset) -> np.ndarray:
    """uint8 [n, C + K, H, W]: the image and, where there is a mask, 0 or 255 for each of its K classes."""
    x, mask = pictures(data), column_of(data.schema, "mask")
    if mask is None:
        return x
    found = classes(data, mask)
    if found.shape[1:] != x.shape[2:]:
        raise BadInput(f"images and masks {mask.name!r} differ in size: bring them to one (--size)")
    return np.concatenate([x, *((found == k)[:, None].astype(np.uint8) * 255 for k in range(len(mask.categories)))], axis=1)


def label_of(data: Dataset) -> Column | None:
    """The target where it is a label."""
    target = data.schema.target
    return data.schema[target] if target is not None and data.schema.task == "classification" else None


@dataclass(frozen=True)
class Eyes:
    """The spaces made from one set of real training images; `answers` names labels, where there are any."""

    spaces: dict[str, Space]
    answers: Callable[[np.ndarray], np.ndarray] | None = None


def eyes(train: Dataset, x: np.ndarray) -> Eyes:
    """The two spaces, from training rows and their `views` x; features are standardised on x, so that a distance has no unit."""
    label = label_of(train)
    y = np.arange(len(x)) % 4 if label is None else codes(label, [train])[0]
    known = y >= 0
    shown = turned(x, y) if label is None else x[known]
    nets = [fresh(x.shape, int(y.max(initial=0)) + 1) for _ in range(2)]
    learnt(nets[0], shown, y[known], seed=SEED, steps=STEPS, batch=BATCH, rate=RATE)
    spaces = {name: standardised(net.trunk, x) for name, net in zip(("learnt", "random"), nets, strict=True)}
    return Eyes(spaces, None if label is None else lambda other: answered_by(nets[0], other))


def fresh(shape: tuple[int, ...], answers: int) -> Classifier:
    """The net with its first weights."""
    with torch.device("meta"):
        net = Classifier(shape[1:], answers, WIDTHS, FEATURES)
    begun(net, SEED)
    return net.eval()


def turned(x: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Each image turned by so many right angles; where it is no square, mirrored in rows (1), columns (2) or both (3)."""
    found = x.copy()
    for k in (1, 2, 3):
        rows = turn == k
        if x.shape[2] == x.shape[3]:
            found[rows] = np.rot90(x[rows], k, axes=(2, 3))
        else:
            found[rows] = np.flip(x[rows], ((2,), (3,), (2, 3))[k - 1])
    return found


def standardised(trunk: nn.Module, x: np.ndarray) -> Space:
    """The net's features less their mean over x, by their deviation."""
    first = run(trunk, x)
    mean, scale = first.mean(axis=0), first.std(axis=0)
    scale = np.where(scale > 0, scale, 1)
    return lambda other: (run(trunk, other) - mean) / scale


def run(net: Callable[[torch.Tensor], torch.Tensor], x: np.ndarray) -> np.ndarray:
    """float64 [n, d] of x uint8 [n, C, H, W], some images at a time."""
    at_once = max(1, AT_ONCE // x[0].size)
    with one_thread(), torch.inference_mode():
        return np.concatenate([net(signed(torch.from_numpy(x[i : i + at_once]))).double().numpy() for i in range(0, len(x), at_once)])


def inception(weights: str | Path) -> Space:
    """The 2,048 features of torch-fidelity's Inception, by which FIDs are published: pass {"inception": inception(path)} to `likeness`.

    `weights` is torch-fidelity's file weights-inception-2015-12-05-6726825d.pth, which is not downloaded; the package unpickles it, so take
    it from a place that you trust. BadInput when the package or the file is missing. It needs 20,000 images and more to say anything.
    """
    if find_spec("torch_fidelity") is None:
        raise BadInput("Inception's features need the package torch-fidelity, which is not installed: pip install torch-fidelity")
    if not Path(weights).is_file():
        raise BadInput(f"there is no file {weights} with Inception's weights: give the path of the one that torch-fidelity uses")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    extractor = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)).eval()

    def space(x: np.ndarray) -> np.ndarray:
        colour = np.repeat(x[:, :1], 3, axis=1) if x.shape[1] < 3 else x[:, :3]  # what follows are masks or transparency
        with torch.inference_mode():
            return np.concatenate([extractor(torch.from_numpy(colour[i : i + 32]))[0].double().numpy() for i in range(0, len(x), 32)])

    return space
