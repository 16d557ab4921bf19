"""The laws of image generators alone: frames end in what is drawn, and digits are learnt with the defaults."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from data.images import column, pixels
from data.schema import Dataset, Schema
from data.split import split
from generators.base import Translating, Unfolding
from generators.registry import get, make
from tests.small import beside, each, fitted


@pytest.mark.parametrize("name", [name for name in each("image") if issubclass(get(name.values[0]), Unfolding)])
def test_frames_end_in_what_is_drawn(name):
    model, labels = fitted(name), torch.arange(5)
    with torch.inference_mode():
        frames = model.generator.frames(model.net, labels, torch.Generator().manual_seed(0), 4)
        drawn = model.generator.draw(model.net, labels, torch.Generator().manual_seed(0))
    assert frames.shape == (4, 5, 1, 8, 8)
    assert torch.equal(frames[-1], drawn)


@pytest.mark.slow
@pytest.mark.parametrize("name", each("image"))
def test_digits_are_learnt_with_the_defaults(name):
    """Fit, sample and judge on 8 by 8 digits: well above the floor, and no copies."""
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    bunch = load_digits()
    table = pa.table({"image": column((bunch.images * 255 / 16).round().astype(np.uint8)[:, None]), "label": bunch.target.astype(str)})
    train, test = split(Dataset.of(table, Schema.infer(table, target="label")), seed=0)
    data, turned = (beside(train), True) if issubclass(get(name), Translating) else (train, False)
    model = make(name, {}).fit(data, seed=0)
    made, test = model.sample(len(train), seed=0, of=data), model.translate(test) if turned else test
    x, x_test, x_real = (pixels(data.table["image"]).reshape(len(data), -1) / 255 for data in (made, test, train))
    y, y_test = (np.array(data.table["label"].to_pylist()) for data in (made, test))
    assert SVC().fit(x, y).score(x_test, y_test) > 0.75
    assert len({row.tobytes() for row in x} & {row.tobytes() for row in x_real}) <= 0.01 * len(x)
