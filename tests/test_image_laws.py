"""The laws of every image generator, run on every "image/" line of the registry: labelled digits, and pairs of an image and a mask.

Generators of image to image read the same images beside others in a style, here their negatives in another order.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from data.errors import BadInput
from data.images import column, pixels
from data.schema import Dataset, Schema
from data.split import split
from generators import fitted as module
from generators import train as loop
from generators.base import Descending, Translating, Unfolding
from generators.fitted import Fitted
from generators.registry import get, make, name_of, names

IMAGE = names("image")
TINY = {"training": {"steps": 30, "batch": 64}}
NEURAL = [name for name in IMAGE if issubclass(get(name), Descending)]


def small(name: str) -> dict:
    """Parameters with which a fit takes a second or two."""
    return TINY if name in NEURAL else {}


@cache
def digits() -> Dataset:
    """Real digits, 8 by 8, 30 of each."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    keep = np.concatenate([np.flatnonzero(bunch.target == k)[:30] for k in range(10)])
    images = (bunch.images[keep] * 255 / 16).round().astype(np.uint8)[:, None]
    table = pa.table({"image": column(images), "label": pa.array(bunch.target[keep].astype(str))})
    return Dataset.of(table, Schema.infer(table, target="label"))


@cache
def pairs() -> Dataset:
    """Colour images, 6 high and 9 wide, of a bright bar, with the bar as their mask."""
    rng = np.random.default_rng(0)
    images, masks = rng.integers(0, 90, (120, 3, 6, 9)).astype(np.uint8), np.zeros((120, 1, 6, 9), dtype=np.uint8)
    for image, mask, left in zip(images, masks, rng.integers(0, 6, 120), strict=True):
        image[:, 1:5, left : left + 3] += 150
        mask[:, 1:5, left : left + 3] = 255
    table = pa.table({"picture": column(images), "mask": column(masks)})
    return Dataset.of(table, Schema.infer(table, target="mask"))


def beside(data: Dataset) -> Dataset:
    """The images beside the negatives of others."""
    x = pixels(data.table[next(c.name for c in data.schema.columns if c.kind == "image")])
    table = data.table.append_column("style", column(255 - x[np.random.default_rng(1).permutation(len(x))]))
    return Dataset.of(table, Schema.infer(table, target="style", kinds={"style": "style"}))


@cache
def read(name: str, images: Callable[[], Dataset] = digits) -> Dataset:
    """The images as this generator reads them."""
    return beside(images()) if issubclass(get(name), Translating) else images()


@cache
def fitted(name: str) -> Fitted:
    return make(name, small(name)).fit(read(name), seed=0)


def drawn(name: str, n: int, model: Fitted | None = None, **asked) -> Dataset:
    """n rows of the model, out of its training rows where it makes none of noise."""
    return (model or fitted(name)).sample(n, of=read(name), **asked)


@pytest.mark.parametrize("name", IMAGE)
def test_length_and_schema_are_as_asked(name):
    for n in (1, 40):
        made = drawn(name, n, seed=1)
        assert len(made) == n
        assert made.schema == digits().schema
        assert made.table.schema.equals(digits().table.schema, check_metadata=True)
        assert pixels(made.table["image"]).shape == (n, 1, 8, 8)
        assert set(made.table["label"].to_pylist()) <= set(map(str, range(10)))


@pytest.mark.parametrize("name", IMAGE)
def test_the_seed_decides_model_and_sample(name):
    assert drawn(name, 30, seed=1).table.equals(drawn(name, 30, seed=1).table)
    assert not drawn(name, 30, seed=1).table.equals(drawn(name, 30, seed=2).table)
    again = make(name, small(name)).fit(read(name), seed=0)
    assert drawn(name, 30, again, seed=1).table.equals(drawn(name, 30, seed=1).table)


@pytest.mark.parametrize("name", IMAGE)
def test_a_saved_model_samples_the_same_rows(name, tmp_path):
    fitted(name).save(tmp_path)
    loaded = Fitted.load(tmp_path)
    assert name_of(type(loaded.generator)) == name
    assert drawn(name, 30, loaded, seed=1).table.equals(drawn(name, 30, seed=1).table)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("name", NEURAL)
def test_a_resumed_run_is_the_same_run(name, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    recipe = make(name, small(name))

    def kill(done, total, words):
        if done == 20:
            raise KilledError

    with pytest.raises(KilledError):
        recipe.fit(read(name), seed=0, folder=tmp_path, progress=kill)
    resumed = recipe.fit(read(name), seed=0, folder=tmp_path)
    for key, tensor in fitted(name).net.state_dict().items():
        assert torch.equal(tensor, resumed.net.state_dict()[key]), key


@pytest.mark.parametrize("name", IMAGE)
def test_given_fixes_the_label(name):
    made = drawn(name, 25, seed=0, given={"label": "7"})
    assert made.table["label"].to_pylist() == ["7"] * 25
    made = drawn(name, 25, seed=0, where="label in ('1', '2')")
    assert set(made.table["label"].to_pylist()) <= {"1", "2"}
    with pytest.raises(BadInput, match="lable"):
        drawn(name, 1, given={"lable": "7"})
    with pytest.raises(BadInput, match="seven"):
        drawn(name, 1, given={"label": "seven"})


@pytest.mark.parametrize("name", IMAGE)
def test_an_image_and_its_mask_are_one_taller_image(name):
    data = read(name, pairs)
    made = make(name, small(name)).fit(data, seed=0).sample(20, seed=0, of=data)
    assert made.table.schema.equals(pairs().table.schema)
    assert pixels(made.table["picture"]).shape == (20, 3, 6, 9)
    assert set(np.unique(pixels(made.table["mask"]))) <= {0, 255}


@pytest.mark.parametrize("name", IMAGE)
def test_chunks_are_the_sample(name, monkeypatch):
    monkeypatch.setattr(module, "CELLS", 20 * 64)
    parts = list(fitted(name).stream(50, seed=5, of=read(name)))
    assert [len(part) for part in parts] == [20, 20, 10]
    assert pa.concat_tables([p.table for p in parts]).combine_chunks().equals(drawn(name, 50, seed=5).table)


@pytest.mark.parametrize("name", [name for name in IMAGE if issubclass(get(name), Unfolding)])
def test_frames_end_in_what_is_drawn(name):
    model, labels = fitted(name), torch.arange(5)
    with torch.inference_mode():
        frames = model.generator.frames(model.net, labels, torch.Generator().manual_seed(0), 4)
        drawn = model.generator.draw(model.net, labels, torch.Generator().manual_seed(0))
    assert frames.shape == (4, 5, 1, 8, 8)
    assert torch.equal(frames[-1], drawn)


@pytest.mark.parametrize("name", IMAGE)
def test_a_model_file_holds_no_training_image(name, tmp_path):
    fitted(name).save(tmp_path)
    names = [c.name for c in read(name).schema.columns if c.kind in ("image", "style")]
    rows = torch.from_numpy(np.concatenate([pixels(read(name).table[c]).reshape(len(digits()), -1) for c in names])).double()
    rows = (rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)
    for key, tensor in load_file(tmp_path / "model.safetensors").items():
        assert len(digits()) not in tensor.shape, f"{key} has an entry an image"
        values = tensor.double().flatten()
        if len(values) >= 64 and len(values) % 64 == 0:  # correlation with every image: scale and shift do not hide it
            stored = values.view(-1, 64)
            stored = (stored - stored.mean(1, keepdim=True)) / stored.std(1, keepdim=True).clamp(min=1e-9)
            assert (stored @ rows.T / 63).max() < 0.995, key


@pytest.mark.parametrize("name", IMAGE)
def test_it_refuses_a_table(name):
    table = pa.table({"a": np.arange(60.0), "b": ["x", "y"] * 30})
    with pytest.raises(BadInput, match="image"):
        make(name, small(name)).fit(Dataset.of(table, Schema.infer(table)))


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGE)
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
