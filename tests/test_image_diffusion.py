"""Diffusion of images: the known flow of a Gaussian, the marginals of a DDPM, samplers, and the U-Net."""

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import BadInput
from data.images import column, pixels
from data.schema import Dataset, Schema
from generators.codecs.image import signed
from generators.image.diffusion import PATHS, SHIFT, Diffusion, ancestral, cosine, heun
from generators.nets.unet import UNet
from generators.nets.warp import shifted
from generators.registry import make
from generators.train import Training

torch.set_num_threads(1)

MEAN, SPREAD = 0.2, 0.15
TINY = {"training": {"steps": 3, "batch": 16}, "width": 8, "hidden": 16, "steps": 3}


def known(x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """E[x | x_t] where x ~ N(MEAN, SPREAD^2) and x_t = alpha x + sigma eps."""
    return MEAN + alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * (x - alpha * MEAN)


def on_flow(x: Tensor, t: float) -> Tensor:
    return known(x, 1 - t, t)


def on_ddpm(x: Tensor, t: float) -> Tensor:
    return known(x, *cosine(torch.tensor(t)))


def gaussian(n: int) -> tuple[Tensor, Tensor]:
    """Rows of grey pixels whose signed values are N(MEAN, SPREAD^2), with their labels."""
    values = MEAN + SPREAD * torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return ((values + 1) * 127.5).round().clamp(0, 255).to(torch.uint8), torch.zeros(n, dtype=torch.int64)


class Known(nn.Module):
    """In place of the U-Net: the picture that the Gaussian's velocity, and `more`, lead to; remembers what it was asked."""

    shift = 0.0

    def __init__(self, more: float = 0.0):
        super().__init__()
        self.more, self.x, self.t = more, torch.empty(0), torch.empty(0)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, by: None) -> Tensor:
        self.x, self.t = x, t
        time = t[:, None, None, None]
        return known(x, 1 - time, time) - time * self.more


def pictures(n: int, shape: tuple[int, int, int], classes: int = 0) -> Dataset:
    """Dark pictures with the label "dark", bright ones with "bright"; the mask, if any, is 0 in the left half and 255 in the right."""
    rng = np.random.default_rng(0)
    bright = np.arange(n) % 2
    x = (40 + 160 * bright[:, None, None, None] + rng.integers(0, 40, (n, *shape))).astype(np.uint8)
    table = {"image": column(x), "label": pa.array(np.where(bright, "bright", "dark").tolist())}
    if classes:
        half = np.zeros((1, *shape[1:]), np.uint8)
        half[:, :, shape[2] // 2 :] = 255
        table["mask"] = column([half] * n)
    kinds = {"image": "image"} | ({"mask": "mask"} if classes else {})
    built = pa.table(table)
    return Dataset.of(built, Schema.infer(built, target="label", kinds=kinds))


def test_the_known_flow_carries_noise_to_the_gaussian():
    start = torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    *_, end = heun(on_flow, start, torch.linspace(1, 0, 41).tolist())
    assert end.mean().item() == pytest.approx(MEAN, abs=0.005)
    assert end.std().item() == pytest.approx(SPREAD, rel=0.03)


def test_heun_is_of_second_order():
    start = torch.randn(1000, generator=torch.Generator().manual_seed(0))

    def middle(steps: int) -> Tensor:
        return list(heun(on_flow, start, torch.linspace(0.9, 0.4, steps + 1).tolist()))[-1]

    exact = middle(400)
    assert (middle(8) - exact).abs().mean() > 3 * (middle(16) - exact).abs().mean()


def test_the_flow_loss_is_least_at_the_known_velocity():
    def at(more: float) -> float:
        torch.manual_seed(0)
        net = Known(more)
        return Diffusion().loss(net, gaussian(2000), "").item()

    torch.manual_seed(0)
    net = Known()
    least = Diffusion().loss(net, gaussian(2000), "").item()
    t = net.t
    expected = (SPREAD**2 / ((1 - t) ** 2 * SPREAD**2 + t**2)).mean().item()  # Var(eps - x | x_t)
    assert least == pytest.approx(expected, rel=0.03)
    for more in (-0.1, 0.1):
        assert at(more) == pytest.approx(least + more**2, abs=0.004)


@pytest.mark.parametrize("objective", ["flow", "ddpm"])
def test_noise_hides_the_picture_as_the_path_says(objective):
    torch.manual_seed(0)
    net, (x, y) = Known(), gaussian(4000)
    Diffusion(objective=objective).loss(net, (x, y), "")
    alpha, sigma = (part.view(-1, 1, 1, 1) for part in PATHS[objective](net.t))
    score = (net.x - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2).sqrt()
    for low, high in ((0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)):
        part = score[(net.t >= low) & (net.t < high)]
        assert part.mean().item() == pytest.approx(0, abs=0.03)
        assert part.std().item() == pytest.approx(1, abs=0.03)
    alone = ((net.x - alpha * signed(x)) / sigma).flatten()
    assert torch.corrcoef(torch.stack([alone, x.float().flatten()]))[0, 1].abs() < 0.02


def test_a_cosine_path_keeps_the_variance_and_ends_in_noise():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha, sigma = cosine(t)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(t))
    assert alpha[0] == 1
    assert alpha[-1].abs() < 1e-9
    assert (alpha.diff() < 0).all()


@pytest.mark.parametrize(("eta", "steps"), [(0.0, 100), (1.0, 1000)])
def test_a_known_ddpm_leads_to_the_gaussian(eta, steps):
    start = torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    times = torch.linspace(1, 0, steps + 1).tolist()
    *_, end = ancestral(on_ddpm, start, times, eta, torch.Generator().manual_seed(1))
    *_, other = ancestral(on_ddpm, start, times, eta, torch.Generator().manual_seed(2))
    assert end.mean().item() == pytest.approx(MEAN, abs=0.005)
    assert end.std().item() == pytest.approx(SPREAD, rel=0.05)
    assert torch.equal(end, other) == (eta == 0)


@pytest.mark.parametrize("parameters", [{"objective": "flow"}, {"objective": "ddpm"}, {"objective": "ddpm", "eta": 0.0}])
def test_frames_lead_from_noise_to_what_is_drawn(parameters):
    fitted = make("image/diffusion", TINY | parameters).fit(pictures(64, (1, 8, 8)), seed=0)
    labels = torch.arange(5) % 2
    drawn = fitted.generator.draw(fitted.net, labels, torch.Generator().manual_seed(3))
    frames = fitted.generator.frames(fitted.net, labels, torch.Generator().manual_seed(3), 4)
    assert frames.shape == (4, 5, 1, 8, 8)
    assert frames.dtype == torch.uint8
    assert torch.equal(frames[-1], drawn)
    start = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    assert torch.equal(frames[0], ((start + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))


def test_the_label_decides_the_picture_and_the_mask_comes_with_it():
    recipe = Diffusion(width=8, hidden=32, training=Training(steps=200, batch=32, lr=4e-3, ema=0.99))
    fitted = recipe.fit(pictures(600, (1, 6, 6), classes=2), seed=0)
    for label, mean in (("dark", 60), ("bright", 220)):
        made = fitted.sample(30, seed=0, given={"label": label})
        assert abs(pixels(made.table["image"]).mean() - mean) < 25
        mask = pixels(made.table["mask"])
        assert (mask[..., 3:] == 255).mean() > 0.9
        assert (mask[..., :3] == 0).mean() > 0.9


def test_pictures_move_by_what_is_told_and_all_channels_alike():
    torch.manual_seed(0)
    x = torch.randint(0, 256, (200, 2, 16, 12), dtype=torch.uint8)
    x[:, 1] = 255 - x[:, 0]
    moved, by = shifted(x, 0.25)
    assert torch.equal(moved[:, 1], 255 - moved[:, 0])
    assert set(by[:, 0].tolist()) == set(range(-4, 5))
    assert set(by[:, 1].tolist()) == set(range(-3, 4))
    for before, after, (down, right) in zip(x, moved, by.tolist(), strict=True):
        wide = F.pad(before[None].float(), (4, 4, 4, 4), mode="replicate")[0]  # the edge drawn out
        assert torch.equal(after.float(), wide[:, 4 - down : 20 - down, 4 - right : 16 - right])


def test_only_pairs_are_moved_unless_told_and_the_net_knows_by_how_much():
    training = Training(steps=1, batch=16)

    def shift(recipe: Diffusion, classes: int) -> float:
        return recipe.fit(pictures(64, (1, 8, 8), classes), seed=0).net.shift

    plain = Diffusion(width=8, hidden=16, training=training)
    assert (shift(plain, 0), shift(plain, 2)) == (0, SHIFT)
    fixed = Diffusion(width=8, hidden=16, shift=0.3, training=training)
    assert (shift(fixed, 0), shift(fixed, 2)) == (0.3, 0.3)


def test_pairs_that_are_moved_while_they_are_learnt_are_drawn_where_they_stood():
    recipe = Diffusion(width=8, hidden=32, shift=0.25, training=Training(steps=300, batch=32, lr=4e-3, ema=0.99))
    mask = pixels(recipe.fit(pictures(600, (1, 8, 8), classes=2), seed=0).sample(100, seed=0).table["mask"])
    edge = np.repeat([0, 255], 4)
    assert (mask == edge).mean() > 0.97  # moved by chance, one in seven places would differ


@pytest.mark.parametrize("side", [8, 16])
def test_a_picture_of_twice_the_side_takes_twice_the_steps_as_forecast(side):
    training = Training(epochs=0.1, least_steps=1, root_steps=0.5, batch=16)
    recipe, data = Diffusion(width=8, hidden=16, steps=2, training=training), pictures(64, (1, side, side))
    assert recipe.fit(data, seed=0).log["steps"] == side / 2
    assert recipe.expected(data).wanted == side / 2


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 5), (1, 28, 28), (4, 33, 20), (3, 64, 64), (1, 1, 1)])
def test_the_unet_takes_any_size_and_begins_at_zero(shape):
    net = UNet(shape, labels=3, width=8, finest=16, levels=2, hidden=16, shift=0.0)
    out = net(torch.randn(2, *shape), torch.rand(2), torch.tensor([0, 2]))
    assert out.shape == (2, *shape)
    assert (out == 0).all()


def test_every_pixel_hears_of_every_other_and_of_time_and_label():
    torch.manual_seed(0)
    net = UNet((1, 40, 40), labels=3, width=8, finest=16, levels=2, hidden=16, shift=0.0)
    for weights in net.parameters():
        nn.init.normal_(weights, std=0.2)
    x, t, y = torch.randn(1, 1, 40, 40, requires_grad=True), torch.tensor([0.5]), torch.tensor([1])
    out = net(x, t, y)
    (far,) = torch.autograd.grad(out[0, 0, 0, 0], x, retain_graph=True)
    assert (far != 0).all()
    assert not torch.allclose(out, net(x, t + 0.1, y))
    assert not torch.allclose(out, net(x, t, y + 1))


def test_a_width_that_cannot_be_grouped_is_refused():
    with pytest.raises(BadInput, match="multiple of 8"):
        Diffusion(width=12).fit(pictures(60, (1, 8, 8)))
