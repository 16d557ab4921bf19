"""The equations of the Boltzmann machine and of the autoencoder, checked where every state can be counted."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from generators.base import Run
from generators.nets.mlp import binned, within
from generators.registry import make
from generators.tabular.autoencoder import Coded, Coder
from generators.tabular.gmm import Mixture
from generators.tabular.rbm import RBM, Machine

torch.set_num_threads(1)
SHARES = [np.array([0.5, 0.3, 0.2]), np.array([0.7, 0.3])]
HIDDEN = 4


def machine(scores: int) -> Machine:
    torch.manual_seed(0)
    net = Machine(scores, list(SHARES), 0, HIDDEN, 8)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return net.eval()


def states() -> torch.Tensor:
    """Every c."""
    return torch.tensor(list(itertools.product(range(3), range(2))))


def hidden() -> torch.Tensor:
    """Every h."""
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=HIDDEN)))


@torch.no_grad()
def energy(net: Machine, z: torch.Tensor, c: torch.Tensor, h: torch.Tensor) -> float:
    """Equation (1) of one state, term by term."""
    total = sum(float((z[j] - net.middle[j]) ** 2 / (2 * net.log_scale[j].exp() ** 2)) for j in range(len(z)))
    x = torch.zeros(5)
    x[c[0]], x[3 + c[1]] = 1, 1
    share = torch.from_numpy(np.concatenate(SHARES)).float() + 1e-6
    a = net.offset + (x - share) @ net.weight
    for j in range(len(z)):
        a = a + (z[j] - net.middle[j]) / net.log_scale[j].exp() ** 2 * net.slope[j]
    return total - float(net.bias @ x) - float(h @ a)


@pytest.mark.parametrize("scores", [0, 2])
def test_free_energy_sums_the_hidden_units_out(scores):
    net = machine(scores)
    for c in states():
        z = torch.randn(scores)
        direct = -math.log(sum(math.exp(-energy(net, z, c, h)) for h in hidden()))
        assert net.free_energy(z[None], c[None]).item() == pytest.approx(direct, abs=1e-4)


def exact_log_z(net: Machine) -> float:
    """Over every hidden state: given h the visible units are independent, so their sums and integrals are closed."""
    total = []
    share = net.log_share.exp()
    for h in hidden():
        scale = net.log_scale.exp()
        middle = h @ net.slope.T
        gauss = float((0.5 * middle.square() / scale**2 + net.log_scale + 0.5 * math.log(2 * math.pi)).sum())
        groups = (net.bias + h @ net.weight.T).split(net.sizes)
        total.append(float(h @ net.offset - h @ (share @ net.weight)) + gauss + sum(float(g.logsumexp(0)) for g in groups))
    return float(torch.tensor(total, dtype=torch.float64).logsumexp(0))


@pytest.mark.parametrize("scores", [0, 2])
def test_annealed_importance_sampling_finds_log_z(scores):
    net = machine(scores)
    with torch.no_grad():
        found, error = net.log_z(2000, 200)
        assert error < 0.05
        assert found == pytest.approx(exact_log_z(net), abs=5 * error + 1e-3)


def test_log_prob_is_a_distribution():
    net = machine(0)
    with torch.no_grad():
        log_p = RBM(bins=0).log_prob(net, (torch.zeros(6, 0), states()), particles=2000, steps=200)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=0.1)


def test_gibbs_rounds_keep_the_distribution():
    """Visible states drawn from p stay distributed as p; with both kinds of unit, so do the moments of z."""
    net, rng = machine(0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        p = (-net.free_energy(torch.zeros(6, 0), states()).double()).softmax(0)
        c = states()[torch.multinomial(p, 20_000, replacement=True, generator=rng)]
        _, c = net.gibbs(torch.zeros(len(c), 0), c, rng)
    counts = np.bincount((c[:, 0] * 2 + c[:, 1]).numpy(), minlength=6)
    assert chisquare(counts, len(c) * p.numpy()).pvalue > 1e-3


def test_the_conditionals_are_those_of_the_energy():
    net, rng = machine(1), torch.Generator().manual_seed(0)
    c, z = states()[3], torch.tensor([0.4])
    odds = torch.tensor([-energy(net, z, c, h) for h in hidden()]).softmax(0)
    with torch.no_grad():
        chance = torch.sigmoid(2 * net.drive(z[None], c[None]))[0]
        assert torch.allclose(chance, ((hidden() > 0) * odds[:, None]).sum(0), atol=1e-5)
        # given the hidden units that these visible ones cause, z has a known mean and at least its own spread
        drawn, _ = net.gibbs(z.expand(40_000, 1), c.expand(40_000, 2), rng)
        mean = net.middle + (odds[:, None] * hidden()).sum(0) @ net.slope.T
    assert drawn.mean().item() == pytest.approx(mean.item(), abs=5 * drawn.std().item() / 200)


@pytest.mark.parametrize("persistent", [True, False])
def test_the_slope_of_the_loss_is_that_of_the_likelihood(persistent):
    """With fantasies that have forgotten where they began, (5) descends - log p: the slopes of the biases are p(model) - p(rows)."""
    net = machine(0).train()
    net.z, net.c = torch.zeros(20_000, 0), torch.zeros(20_000, 2, dtype=torch.int64)
    rows = torch.tensor([[0, 0], [0, 1]]).repeat(10_000, 1)
    torch.manual_seed(0)
    RBM(bins=0, k=60, persistent=persistent).loss(net, (torch.zeros(20_000, 0), rows), "").backward()
    with torch.no_grad():
        p = (-net.free_energy(torch.zeros(6, 0), states())).softmax(0).view(3, 2)
    model = torch.cat([p.sum(1), p.sum(0)])
    data = torch.tensor([1.0, 0.0, 0.0, 0.5, 0.5])
    assert torch.allclose(net.bias.grad, model - data, atol=0.02)


@pytest.mark.parametrize("bins", [0, 8])
def test_a_boltzmann_machine_learns_what_depends_on_what(bins):
    rng = np.random.default_rng(0)
    word = torch.from_numpy(rng.integers(3, size=3000))
    z = torch.from_numpy(0.5 * rng.normal(size=3000) + np.array([-1.2, 0, 1.2])[word.numpy()]).float()[:, None]
    rows = (z / z.std(), torch.stack([word, (word == 1).long()], dim=1))
    recipe = make("tabular/rbm", {"bins": bins, "hidden": 16, "training": {"steps": 400, "batch": 128, "lr": 0.01}})
    torch.manual_seed(0)
    net = Machine(1, [np.full(3, 1 / 3), np.array([2 / 3, 1 / 3])], bins, 16, 256)
    net = recipe.learn(net, rows, Run(seed=0))
    with torch.no_grad():
        made, c = recipe.sample(net, 4000, torch.Generator().manual_seed(0))
    assert ((c[:, 0] == 1) == (c[:, 1] == 1)).float().mean() > 0.9
    assert made[c[:, 0] == 0].mean() < -0.6
    assert made[c[:, 0] == 2].mean() > 0.6
    assert made.shape == (4000, 1)


def test_bins_and_scores_are_inverse():
    z = torch.randn(1000, 2)
    tokens = binned(z, 16)
    assert tokens.min() == 0
    assert tokens.max() == 15
    assert torch.equal(binned(within(tokens, 16, torch.Generator().manual_seed(0)), 16), tokens)


def test_the_autoencoders_density_is_that_of_its_codes():
    """Rows drawn by way of the mixture have the correlation and the spread of the training rows."""
    recipe = make(
        "tabular/autoencoder",
        {"latent": 2, "hidden": 32, "bins": 8, "training": {"steps": 500, "batch": 128, "lr": 5e-3, "weight_decay": 0.0}},
    )
    torch.manual_seed(0)
    z = torch.randn(2000, 2) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]])
    net = Coded(Coder(2, [], 2, 32, 2, 8), Mixture(64, 2, []))
    net = recipe.learn(net, (z, torch.zeros(2000, 0, dtype=torch.int64)), Run(seed=0))
    with torch.no_grad():
        made, _ = recipe.sample(net, 4000, torch.Generator().manual_seed(0))
    assert torch.corrcoef(made.T)[0, 1].item() == pytest.approx(0.8, abs=0.12)
    assert made.std(0).tolist() == pytest.approx([1, 1], abs=0.12)
