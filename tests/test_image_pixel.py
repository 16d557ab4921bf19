"""PixelCNN and PixelRNN: who sees whom, exact probabilities, and sampling from caches."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.stats import chisquare

from data.errors import BadInput
from data.images import column
from data.schema import Dataset, Schema
from generators.image.pixelcnn import Stacks
from generators.image.pixelrnn import Rows
from generators.nets.pixels import Grid, PixelNet
from generators.registry import make

torch.set_num_threads(1)
KINDS = {"pixelcnn": Stacks, "pixelrnn": Rows}


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


def net(kind: str, shape=(1, 6, 5), classes=0, levels=4, patch=1, depth=2) -> PixelNet:
    """Every parameter away from zero, so that what can be seen is seen."""
    torch.manual_seed(0)
    made = PixelNet(Grid(shape, classes, levels, patch), KINDS[kind](8, depth, 3, 0.3), torch.ones(3) / 3, 8, 16)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


def influence(model: PixelNet, of: tuple[int, int, int]) -> torch.Tensor:
    """bool [D, h, w]: the tokens whose embeddings move the logits of slot d at place (i, j)."""
    d, i, j = of
    seen: list[torch.Tensor] = []
    embedded = model.within.embedded

    def watched(tokens):
        seen.append(embedded(tokens).detach().requires_grad_())
        return seen[-1]

    model.within.embedded = watched
    tokens = torch.randint(2, (1, model.grid.slots, *model.grid.size))
    model(tokens, torch.tensor([1]))[0, i, j, d, :2].diff().sum().backward()
    del model.within.embedded
    return seen[0].grad.unflatten(1, (model.grid.slots, -1)).abs().sum(2)[0] > 0


def test_a_place_sees_those_before_it_and_none_after(kind):
    model = net(kind, depth=3)
    row, column = torch.arange(6)[:, None], torch.arange(5)
    for i, j in ((0, 0), (2, 0), (3, 2), (5, 4)):
        seen = influence(model, (0, i, j))[0]
        before = (row < i) | ((row == i) & (column < j))
        assert not seen[~before].any()
        if kind == "pixelcnn":  # all that three layers reach, without a blind spot
            assert seen[before].all()
        else:  # a triangle that opens upwards
            assert seen[before & ((column - j).abs() <= 3 + (i - 1 - row).clamp(min=0))].all()


def test_colours_are_drawn_red_green_blue_then_the_mask(kind):
    model = net(kind, shape=(3 + 2, 3, 3), classes=2, levels=4)
    assert model.grid.tokens.tolist() == [4, 4, 4, 2]
    for d in range(4):
        seen = influence(model, (d, 1, 1))
        assert seen[:, 0].all()
        assert seen[:, 1, 0].all()
        assert seen[:, 1, 1].tolist() == [k < d for k in range(4)]
        assert not seen[:, 1, 2].any()
        assert not seen[:, 2].any()


def every_image(shape: tuple[int, int, int], levels: int) -> torch.Tensor:
    """uint8 [levels^pixels, C, H, W] with the lowest grey value of each level."""
    steps = [math.ceil(256 * level / levels) for level in range(levels)]
    return torch.tensor(list(itertools.product(steps, repeat=math.prod(shape))), dtype=torch.uint8).view(-1, *shape)


@pytest.mark.parametrize(("shape", "levels", "patch"), [((1, 2, 2), 2, 1), ((1, 2, 2), 2, 2), ((2, 1, 3), 3, 1), ((1, 3, 3), 2, 2)])
def test_the_probabilities_of_all_images_sum_to_one(kind, shape, levels, patch):
    model = net(kind, shape, levels=levels, patch=patch)
    images = every_image(shape, levels)
    with torch.no_grad():
        for label in range(3):
            p = -model.surprise(model.grid(images), torch.full((len(images),), label))
            assert p.double().exp().sum().item() == pytest.approx(1, abs=1e-5)
            assert p.std() > 0.1


def test_on_eight_bits_too(kind):
    """Three levels over the 256 values of one pixel."""
    model = net(kind, (1, 1, 1), levels=3)
    model.grid.measure(torch.tensor([0, 0, 0, 7, 100, 200, 255] * 200, dtype=torch.uint8).view(-1, 1, 1, 1))
    recipe = make(f"image/{kind}", {"levels": 3})
    x, y = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1), torch.zeros(256, dtype=torch.int64)
    with torch.no_grad():
        p = recipe.log_prob(model, (x, y)).double().exp()
        drawn = recipe.draw(model, torch.zeros(4000, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    assert p[0] / p[7] == pytest.approx(3, rel=1e-2)
    assert p[8] / p[7] < 1e-4
    counts = np.bincount(drawn.flatten().numpy(), minlength=256)
    often = p.numpy() > 1e-3
    assert counts[~often].sum() < 10
    assert chisquare(counts[often], counts[often].sum() * p.numpy()[often] / p.numpy()[often].sum()).pvalue > 1e-3


@pytest.mark.parametrize(("shape", "classes", "patch"), [((1, 6, 5), 0, 1), ((3, 7, 6), 0, 2), ((4, 8, 8), 3, 2), ((2, 4, 9), 0, 4)])
def test_drawing_from_caches_equals_the_full_forward(kind, shape, classes, patch, monkeypatch):
    model = net(kind, shape, classes, patch=patch)
    y = torch.tensor([0, 1, 2, 2])
    features, found = [], []
    model.within.register_forward_hook(lambda module, given, out: features.append(given[0]))
    draw = model.within.draw
    monkeypatch.setattr(model.within, "draw", lambda f, inside, rng: (found.append(f), draw(f, inside, rng))[1])
    with torch.no_grad():
        tokens = model.draw(y, torch.Generator().manual_seed(0))
        model(tokens, y)
    cached = torch.stack(found, dim=2).unflatten(2, model.grid.size)
    torch.testing.assert_close(cached, features[0], rtol=1e-4, atol=1e-5)
    assert not tokens[:, ~model.grid.inside].any()


def test_drawing_has_the_probabilities_of_the_likelihood(kind):
    model = net(kind, (2, 2, 1), levels=2, patch=2)
    images = every_image((2, 2, 1), 2)
    with torch.no_grad():
        p = (-model.surprise(model.grid(images), torch.zeros(len(images), dtype=torch.int64))).double().exp().numpy()
        drawn = model.draw(torch.zeros(6000, dtype=torch.int64), torch.Generator().manual_seed(1))
    places = model.grid.inside.nonzero(as_tuple=True)
    code = 2 ** torch.arange(len(places[0]))
    order = (model.grid(images)[:, *places] @ code).argsort()
    counts = np.bincount((drawn[:, *places] @ code).numpy(), minlength=len(images))
    assert chisquare(counts, counts.sum() * p[order] / p.sum()).pvalue > 1e-3


def test_the_label_changes_every_place(kind):
    model = net(kind)
    tokens = torch.zeros(3, 1, 6, 5, dtype=torch.int64)
    with torch.no_grad():
        logits = model(tokens, torch.arange(3)).log_softmax(-1)
    assert (logits[0] - logits[1]).abs().amax(-1).min() > 1e-4
    assert (logits[1] - logits[2]).abs().amax(-1).min() > 1e-4


@pytest.mark.parametrize(("shape", "classes", "patch"), [((1, 8, 8), 0, 2), ((3, 7, 5), 0, 2), ((4, 9, 6), 3, 4), ((6, 5, 5), 3, 1)])
def test_tokens_and_images(shape, classes, patch):
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(256, (6, *shape), generator=rng).to(torch.uint8)
    colours = shape[0] - classes
    if classes:
        x[:, colours:] = torch.nn.functional.one_hot(torch.randint(classes, (6, *shape[1:]), generator=rng)).permute(0, 3, 1, 2) * 255
    exact, coarse = (Grid(shape, classes, levels, patch) for levels in (256, 5))
    assert torch.equal(exact.images(exact(x), rng), x)
    coarse.measure(x)
    again = coarse.images(coarse(x), rng)
    assert torch.equal(coarse(again), coarse(x))
    assert torch.equal(again[:, colours:], x[:, colours:])
    assert set(again[:, :colours].flatten().tolist()) - set(x[:, :colours].flatten().tolist()) == set()


def test_it_learns_a_joint_of_known_entropy(kind):
    """Each row is the one above, moved round by the label: what is random is the first row alone, of uneven bits."""
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=2000)
    first = rng.random((2000, 6)) < 0.3
    x = np.stack([np.stack([np.roll(bits, i * label) for i in range(6)]) for bits, label in zip(first, y, strict=True)])
    table = pa.table({"picture": column((x * 255).astype(np.uint8)[:, None]), "turn": pa.array(np.array(["a", "b", "c"])[y])})
    data = Dataset.of(table, Schema.infer(table, target="turn", kinds={"picture": "image"}))
    recipe = make(f"image/{kind}", {"levels": 2, "width": 16, "depth": 2, "training": {"steps": 150, "batch": 64, "lr": 1e-2}})
    fitted = recipe.fit(data, seed=0)
    rows = fitted.codec.encode(data, rng)
    with torch.no_grad():
        surprise = -recipe.log_prob(fitted.net, rows).mean().item()
    entropy = -6 * (0.3 * math.log(0.3) + 0.7 * math.log(0.7))
    assert entropy - 0.2 < surprise < entropy + 0.6
    made = fitted.sample(200, seed=0)
    drawn, label = (t.numpy() for t in fitted.codec.encode(made, rng))
    right = [np.array_equal(image[0, 5], np.roll(image[0, 0], 5 * turn)) for image, turn in zip(drawn, label, strict=True)]
    assert np.mean(right) > 0.9


@pytest.mark.parametrize(("key", "value"), [("levels", 1), ("levels", 257), ("patch", 0)])
def test_what_cannot_be_built_is_refused(kind, key, value):
    x = np.zeros((60, 1, 4, 4), dtype=np.uint8)
    table = pa.table({"picture": column(x)})
    data = Dataset.of(table, Schema.infer(table, kinds={"picture": "image"}))
    with pytest.raises(BadInput, match=key):
        make(f"image/{kind}", {key: value}).fit(data)
