"""The equations of the likelihood and energy models of images, checked where the answer is known."""

import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, multivariate_normal

from generators.base import Run
from generators.image.gmm import GMM, Axes
from generators.image.rbm import RBM, Machine
from generators.image.vae import VAE, VAENet
from generators.nets.likelihood import grey, logistic, painted
from generators.nets.mixture import Mixtures
from generators.nets.tone import Tone
from generators.nets.warp import warped
from generators.registry import make

torch.set_num_threads(1)
SHARES = torch.tensor([0.6, 0.4])


class Shape(NamedTuple):
    """What a net is built for, of a codec."""

    shape: tuple[int, int, int]
    channels: int
    shares: np.ndarray


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(n: int, shape: tuple[int, int, int] = (1, 3, 4)) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of two labels, bright above or below, with a few strengths that pixels share."""
    torch.manual_seed(0)
    y = torch.arange(n) % 2
    side = torch.where(torch.arange(math.prod(shape)) % 2 == y[:, None], 160.0, 60.0)
    x = side + torch.randn(n, 3) @ (25 * torch.randn(3, math.prod(shape))) + 5 * torch.randn(n, math.prod(shape))
    return x.round().clamp(0, 255).to(torch.uint8).unflatten(1, shape), y


def mixture_of(axes: int, n: int = 400) -> tuple[GMM, Axes, tuple[torch.Tensor, torch.Tensor]]:
    recipe, rows = GMM(axes=axes, components=2), blobs(n)
    net = Axes((1, 3, 4), 1, SHARES, axes, 2)
    torch.manual_seed(0)
    return recipe, recipe.learn(net, rows, Run(seed=0)), rows


@pytest.mark.parametrize("axes", [5, 12])
def test_the_density_of_the_mixture_is_that_of_its_gaussians(axes):
    """Against scipy, with each component's covariance in pixels written out: A^T S A + s^2 (I - A^T A)."""
    recipe, net, rows = mixture_of(axes)
    x = rows[0][:50].flatten(1).double().numpy() / 255
    found = recipe.log_prob(net, (rows[0][:50], rows[1][:50]))
    for i, y in enumerate(rows[1][:50].tolist()):
        a, total = net.axes[y].double().numpy(), 0.0
        left = float(net.rest[y]) * (np.eye(12) - a.T @ a) if axes < 12 else 0.0
        for m in range(2):
            factor = net.density.spread[y, m].numpy()
            middle = net.middle[y].double().numpy() + net.density.means[y, m].numpy() @ a
            total += float(net.density.weights[y, m]) * multivariate_normal(middle, a.T @ factor @ factor.T @ a + left).pdf(x[i])
        assert found[i].item() == pytest.approx(math.log(float(SHARES[y]) * total), abs=2e-3)  # axes are float32


def test_bayes_and_draws_of_the_mixture():
    recipe, net, rows = mixture_of(6)
    p = recipe.posterior(net, rows[0])
    joint = torch.stack([recipe.log_prob(net, (rows[0], torch.full_like(rows[1], label))) for label in range(2)], dim=1)
    assert torch.allclose(p, joint.softmax(1))
    assert (p.argmax(1) == rows[1]).float().mean() > 0.95
    with torch.inference_mode():
        labels = torch.tensor([0, 1]).repeat(2000)
        made = recipe.draw(net, labels, rng())
    assert made.shape == (4000, 1, 3, 4)
    assert (recipe.posterior(net, made).argmax(1) == labels).float().mean() > 0.9
    for label in range(2):
        real = rows[0][rows[1] == label].float().mean(0)
        assert (made[labels == label].float().mean(0) - real).abs().max() < 12


@pytest.mark.parametrize("n", [4, 12, 40])
def test_a_mixture_of_a_few_images_is_a_density_yet(n):
    recipe, net, _ = mixture_of(10, n)
    assert torch.isfinite(recipe.log_prob(net, blobs(60))).all()
    eye = net.axes @ net.axes.mT
    assert torch.allclose(eye, torch.eye(10).expand(2, -1, -1), atol=1e-5)
    assert recipe.draw(net, torch.tensor([0, 1, 1]), rng()).float().std() > 0


def test_mixtures_learn_and_draw_each_label():
    torch.manual_seed(0)
    mixtures, spots = Mixtures(3, 2, 2), torch.tensor([-4.0, 4.0])
    z = torch.randn(600, 2) * 0.5 + spots[torch.randint(2, (600,)), None] * torch.tensor([1.0, 0.0])
    mixtures.learn(1, z, 1e-3, 0)
    made = mixtures.draw(torch.ones(4000, dtype=torch.int64), rng())
    assert (made[:, 0].abs() - 4).abs().max() < 3
    assert made.std(0).tolist() == pytest.approx(z.std(0).tolist(), rel=0.05)
    assert (mixtures.log_prob(0, z) == -torch.inf).all()


def test_the_tone_curve_gives_draws_the_real_histogram():
    tone, drawn, real = Tone(1), torch.randn(500, 2, 8, 8), (torch.rand(500, 1, 8, 8) - 0.5).clamp(0)
    tone.learn(drawn[:, :1], real)
    made = tone(drawn)
    assert torch.equal(made[:, 1], drawn[:, 1])
    for share in (0.2, 0.6, 0.8, 0.95):
        assert made[:, 0].quantile(share).item() == pytest.approx(real.quantile(share).item(), abs=0.01)
    order = drawn[0, 0].flatten().argsort()
    assert (made[0, 0].flatten()[order].diff() >= 0).all()


def test_levels_are_a_distribution():
    values, levels = torch.full((256, 1, 1, 1), 0.4), torch.arange(256).view(-1, 1, 1, 1) / 255
    for log_scale in (-5.0, -2.0, 0.0):
        p = (-logistic(values, levels, 1, torch.tensor([[[log_scale]]]))).exp()
        assert p.sum().item() == pytest.approx(1, abs=1e-3)


def test_pixels_and_masks_under_a_decoder():
    values, x = torch.randn(3, 3, 2, 2), torch.zeros(3, 3, 2, 2)
    x[:, 0], x[:, 2] = 1, 1  # white, and class 1 of 2
    expected = -(values[:, 0].sigmoid().log() + values[:, 1:].log_softmax(1)[:, 1]).sum((1, 2))
    assert torch.allclose(grey(values, x, 1), expected, atol=1e-5)
    assert torch.equal(painted(values, 1)[:, 1:].argmax(1), values[:, 1:].argmax(1))


def cells(pixels: int) -> torch.Tensor:
    """Every black and white image of so many pixels, uint8 [2^pixels, 1, 1, pixels]."""
    return torch.tensor(list(itertools.product([0, 255], repeat=pixels)), dtype=torch.uint8)[:, None, None]


@pytest.fixture
def line() -> tuple[VAE, VAENet]:
    """A VAE of four pixels whose code is one number, so that its likelihood can be integrated; any weights."""
    recipe = VAE(latent=1, hidden=8, components=2, pixel="binary")
    torch.manual_seed(1)
    net = VAENet((1, 1, 4), 1, SHARES, 1, 8, 2, 2)
    with torch.no_grad():
        net.decoder.leave.weight.mul_(20)
        net.encoder.leave.weight.mul_(0.1)
        net.encoder.leave.bias.copy_(torch.tensor([0.5, 1.0]))  # a wide q: no weight is far above the others
        for label, at in enumerate((-1.0, 2.0)):
            net.prior.learn(label, torch.randn(200, 1) + at, 1e-3, 0)
    return recipe, net.eval()


@torch.no_grad()
def integrated(recipe: VAE, net: VAENet, label: int) -> torch.Tensor:
    """log p(x, label) of every image: p(x|h) summed over a fine grid of h."""
    h, found = torch.linspace(-12, 12, 4801)[:, None], []
    values, density = net.decode(h, net.hot(torch.full((len(h),), label))), net.prior.log_prob(label, h)
    for x in cells(4):
        terms = density - grey(values, x.float().expand(len(h), 1, 1, 4) / 255, 1)
        found.append(SHARES[label].log() + terms.logsumexp(0) + math.log(24 / 4800))
    return torch.stack(found)


def test_the_bound_closes_on_the_likelihood(line):
    recipe, net = line
    for label in range(2):
        exact, rows = integrated(recipe, net, label), (cells(4), torch.full((16,), label))
        assert exact.exp().sum().item() == pytest.approx(float(SHARES[label]), abs=1e-3)
        with torch.no_grad():
            many = recipe.bound(net, rows, 3000, rng())
            again = tuple(part.repeat_interleave(300, 0) for part in rows)
            one, ten = (recipe.bound(net, again, draws, rng()).view(16, 300).mean(1) for draws in (1, 10))
        assert (one < ten).all()
        assert (ten < exact + 0.1).all()
        assert torch.allclose(many, exact, atol=0.15)
        assert (many - exact).mean().item() == pytest.approx(0, abs=0.05)


DESCENT = {"training": {"steps": 400, "batch": 64, "lr": 5e-3}}
CODES = {"latent": 4, "hidden": 32, "components": 2, **DESCENT}
SMALL = {
    "image/gmm": {"axes": 6, "components": 2},
    "image/rbm": {"hidden": 16, "chains": 64, "rounds": 40, **DESCENT},
    "image/autoencoder": CODES,
    "image/vae": {"warm_up": 50, **CODES},
}


def learnt(name: str, more: dict, shape: tuple[int, int, int], rows: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """1,000 draws, labels taking turns, of a small recipe for images of one channel; close to the rows' mean images."""
    recipe, labels = make(name, SMALL[name] | more), torch.tensor([0, 1]).repeat(500)
    torch.manual_seed(0)
    net = recipe.learn(recipe.build(Shape(shape, 1, SHARES.numpy())), rows, Run(seed=0)).eval()
    with torch.inference_mode():
        made = recipe.draw(net, labels, rng())
    for label in range(2):
        assert (made[labels == label].float().mean(0) - rows[0][rows[1] == label].float().mean(0)).abs().max() < 40
    return made


@pytest.mark.parametrize("name", SMALL)
def test_each_learns_where_the_bright_pixels_of_a_label_are(name):
    learnt(name, {}, (1, 3, 4), blobs(600))


@pytest.mark.parametrize(
    ("name", "more"), [("image/gmm", {}), ("image/autoencoder", {}), *(("image/vae", {"pixel": p}) for p in ("binary", "grey", "logistic"))]
)
def test_masks_fit_their_images(name, more):
    x, y = blobs(600)
    above = (x > 110).to(torch.uint8) * 255
    made = learnt(name, more, (3, 3, 4), (torch.cat([x, above, 255 - above], dim=1), y))
    assert ((made[:, 1:].argmax(1) == 0) == (made[:, 0] > 110)).float().mean() > 0.85


HIDDEN, PIXELS = 12, 7


@pytest.fixture
def machine() -> Machine:
    """Seven pixels, two labels, twelve hidden units, any weights."""
    torch.manual_seed(0)
    net = Machine((1, 1, PIXELS), SHARES, HIDDEN, 8)
    with torch.no_grad():
        net.start(torch.linspace(0.2, 0.8, PIXELS))
        for parameter in net.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return net.eval()


ALL = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=HIDDEN)))  # every h
V = torch.tensor(list(itertools.product([0.0, 1.0], repeat=PIXELS))).repeat_interleave(2, 0)  # every v, with every label
Y = torch.arange(len(V)) % 2


@torch.no_grad()
def energies(net: Machine, v: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Equation (1) of visible states and every hidden one, float64 [n, 2^12]."""
    a = net.offset + (v - net.share) @ net.weight + net.label[y] - net.label.mean(0)
    return -((v @ net.bias + net.chance[y])[:, None] + a @ ALL.T).double()


def log_p(net: Machine) -> torch.Tensor:
    """The exact log p(v, y), by summing over all that can be."""
    return (-energies(net, V, Y)).logsumexp(1).log_softmax(0)


def test_free_energy_sums_the_hidden_units_out(machine):
    direct = -(-energies(machine, V, Y)).logsumexp(1)
    with torch.no_grad():
        assert torch.allclose(machine.free_energy(V, Y).double(), direct, atol=1e-4)
        assert torch.allclose(machine.free_energies(V)[torch.arange(len(V)), Y].double(), direct, atol=1e-4)


def test_annealed_importance_sampling_finds_the_exact_constant(machine):
    exact = (-energies(machine, V, Y)).logsumexp((0, 1)).item()
    with torch.no_grad():
        found, error = machine.log_z(2000, 200)
        everything = RBM().log_prob(machine, (cells(PIXELS).repeat_interleave(2, 0), Y), 2000, 200)
    assert error < 0.05
    assert found == pytest.approx(exact, abs=5 * error + 1e-3)
    assert torch.allclose(everything.double(), log_p(machine), atol=5 * error + 1e-3)


def test_a_round_keeps_the_distribution_and_knows_the_label(machine):
    p = log_p(machine).exp()
    start = torch.multinomial(p, 20_000, replacement=True, generator=rng())
    v, y, noise = V[start], Y[start], rng(1)
    code = 2 ** torch.arange(PIXELS - 1, -1, -1.0)
    with torch.no_grad():
        for _ in range(3):
            v, y = machine.gibbs(v, y, noise)
        after = RBM().posterior(machine, cells(PIXELS))
    counts = np.bincount(((v @ code).long() * 2 + y).numpy(), minlength=256)
    keep = p.numpy() * 20_000 > 5
    assert chisquare(counts[keep], p.numpy()[keep] / p.numpy()[keep].sum() * counts[keep].sum()).pvalue > 1e-3
    assert torch.allclose(after.double(), p.view(-1, 2) / p.view(-1, 2).sum(1, keepdim=True), atol=1e-4)


def test_the_conditionals_are_those_of_the_energy(machine):
    v, y = V[101:102], Y[101:102]
    odds = energies(machine, v, y).neg().softmax(1)
    with torch.no_grad():
        woken = machine.wake(v.expand(20_000, -1), y.expand(20_000), rng())
        assert torch.allclose(woken.mean(0).double(), (odds @ ALL.double())[0], atol=0.04)
        white = machine.white(ALL[5:6])[0]
    for j in range(PIXELS):
        on, off = v.clone(), v.clone()
        on[0, j], off[0, j] = 1, 0
        direct = torch.sigmoid(energies(machine, off, y)[0, 5] - energies(machine, on, y)[0, 5])
        assert white[j].item() == pytest.approx(direct.item(), abs=1e-5)


def test_a_draw_has_its_label_held_fast(machine):
    """Mean images of long chains are those of p(v|y), label by label; the frames end with the draw."""
    recipe, p = RBM(rounds=60), log_p(machine).exp().view(-1, 2)
    labels = torch.tensor([0, 1]).repeat(4000)
    with torch.no_grad():
        made = recipe.draw(machine, labels, rng())
        frames = recipe.frames(machine, labels, rng(), 4)
    assert frames.shape == (4, 8000, 1, 1, PIXELS)
    assert torch.equal(frames[-1], made)
    for label in range(2):
        exact = (p[:, label : label + 1] * cells(PIXELS).flatten(1)).sum(0) / p[:, label].sum()
        assert (made[labels == label].double().flatten(1).mean(0) - exact).abs().max() < 8


@pytest.mark.parametrize("persistent", [True, False])
def test_the_slope_of_the_loss_is_that_of_the_likelihood(machine, persistent):
    """With fantasies that have forgotten where they began, the slope of a bias is that of p(model) - p(rows), half with labels kept."""
    net = machine.train()
    kept = torch.tensor([0.25, 0.75]) if persistent else torch.tensor([0.0, 1.0])
    net.v, net.y = torch.zeros(20_000, PIXELS), (torch.arange(20_000) // 2 % 4 > 0).long()
    torch.manual_seed(0)
    x = torch.zeros(20_000, 1, 1, PIXELS, dtype=torch.uint8)
    RBM(k=40, persistent=persistent).loss(net, (x, torch.ones(20_000, dtype=torch.int64)), "").backward()
    p = log_p(net).exp().view(-1, 2)
    means = (p / p.sum(0)).T @ V[::2].double()  # the mean image of either label
    assert torch.allclose(net.bias.grad.double(), 0.5 * (p.sum(0) + kept) @ means, atol=0.02)
    assert torch.allclose(net.chance.grad.double(), 0.5 * (p.sum(0) + kept) - torch.tensor([0.0, 1.0]), atol=0.02)


# ---- warps


def dot(side: int = 33) -> torch.Tensor:
    """A bright dot in the middle of black."""
    x = torch.zeros(1, 1, side, side, dtype=torch.uint8)
    x[..., side // 2 - 1 : side // 2 + 2, side // 2 - 1 : side // 2 + 2] = 255
    return x


def test_a_warp_of_nothing_changes_nothing_and_a_seed_decides_it():
    x = torch.randint(0, 256, (3, 2, 5, 7), dtype=torch.uint8, generator=rng())
    assert torch.equal(warped(x, 0.0), x)
    assert torch.equal(warped(x, 0.3, rng(1)), warped(x, 0.3, rng(1)))
    assert not torch.equal(warped(x, 0.3, rng(1)), warped(x, 0.3, rng(2)))


def test_a_warp_moves_the_middle_as_far_as_it_may():
    """b of (2) moves the middle by up to a / 4 of the sides, and what is turned and stretched besides by less than as much again."""
    many, places = warped(dot().repeat(400, 1, 1, 1), 0.4, rng()).float()[:, 0], torch.arange(33.0) - 16
    for axis in (1, 2):
        middle = (many.sum(3 - axis) * places).sum(1) / many.sum((1, 2))
        assert 0.8 * 0.4 / 4 * 33 < middle.abs().max() < 2 * 0.4 / 4 * 33
        assert middle.mean().abs() < 0.4


def test_pictures_that_are_warped_spread_the_density():
    rows = blobs(60)
    plain, turned = (GMM(axes=5, augment=a) for a in (0.0, 0.3))
    nets = []
    for recipe in (plain, turned):
        torch.manual_seed(0)
        nets.append(recipe.learn(Axes((1, 3, 4), 1, SHARES, 5, 20), rows, Run(seed=0)))
    other = warped(rows[0], 0.3, rng(5)), rows[1]
    assert turned.log_prob(nets[1], other).mean() > plain.log_prob(nets[0], other).mean()


def test_a_mixture_that_learnt_from_warped_pictures_warps_what_it_draws():
    plain, turned = (GMM(axes=5, augment=a) for a in (0.0, 0.3))
    torch.manual_seed(0)
    net = turned.learn(Axes((1, 3, 4), 1, SHARES, 5, 20), blobs(60), Run(seed=0))
    y, same = torch.tensor([0, 1] * 20), rng(3)
    assert torch.equal(turned.draw(net, y, rng(3)), warped(plain.draw(net, y, same), 0.3, same))
