"""The mathematics of text/vae: its divergence, its bound, its causality and its rows."""

import math
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from data.errors import BadInput
from data.schema import Dataset, Schema
from generators.codecs.text import BOS, EOS, FIRST, PAD, SEP
from generators.fitted import Fitted
from generators.text.vae import VAE, codes, kl, write
from generators.train import Training


@cache
def pairs() -> Dataset:
    """Requests and answers of few words."""
    rng = np.random.default_rng(0)
    verbs, things = rng.choice(["open", "show", "close"], 200), rng.choice(["door", "window", "book"], 200)
    spoken = list(zip(verbs, things, strict=True))
    table = pa.table({"ask": [f"{verb} the {thing}" for verb, thing in spoken], "told": [f"{thing} {verb}" for verb, thing in spoken]})
    return Dataset.of(table, Schema.infer(table, target="told", kinds={"ask": "text", "told": "text"}, task="text-to-text"))


@cache
def fitted() -> Fitted:
    with torch.enable_grad():
        return VAE(latent=2, width=16, heads=2, components=2, training=Training(steps=150, batch=64, lr=4e-3)).fit(pairs(), seed=0)


def encoded() -> tuple[torch.Tensor, torch.Tensor]:
    rows = fitted().codec.encode(pairs(), np.random.default_rng(0))
    return rows[0][:20], rows[1][:20]


def test_the_divergence_is_that_of_torch():
    mean, log_scale = torch.randn(50, 4), torch.randn(50, 4)
    assert torch.allclose(kl(mean, log_scale), kl_divergence(Normal(mean, log_scale.exp()), Normal(0.0, 1.0)), atol=1e-4)


@torch.no_grad()
def test_the_bound_rises_to_the_likelihood():
    model, rows = fitted(), encoded()
    recipe, net = model.generator, model.net
    rng, rows = torch.Generator().manual_seed(1), (rows[0][:6], rows[1][:6])
    many = recipe.bound(net, rows, 500, rng)
    one = torch.stack([recipe.bound(net, rows, 1, rng) for _ in range(100)]).mean(0)
    weights, factor = net.prior.weights[0], net.prior.spread[0]
    middle = (weights[:, None] * net.prior.means[0]).sum(0)
    wide = 4 * ((factor @ factor.mT).diagonal(dim1=1, dim2=2).amax(0) + (net.prior.means[0] - middle).square().amax(0)).sqrt()
    axis = (torch.arange(61) + 0.5) / 30.5 - 1
    grid = (middle + torch.cartesian_prod(axis, axis) * wide).float()
    cell = (wide / 30.5).prod().log()
    prior = net.prior.log_prob(0, grid)
    assert math.isclose((prior + cell).exp().sum().item(), 1, abs_tol=0.02)
    exact = []
    for row in rows[0]:
        tokens = row.expand(len(grid), -1)
        said = net.log_prob(tokens, tokens, grid, torch.zeros(len(grid), dtype=torch.int64))
        exact.append((said.double() + prior + cell).logsumexp(0))
    exact = torch.stack(exact)
    assert (one < exact + 0.05).all()
    assert one.mean() < many.mean() - 0.01
    assert math.isclose(many.mean(), exact.mean(), abs_tol=0.08)


@torch.no_grad()
def test_a_place_does_not_see_later_ones_and_padding_changes_nothing():
    net, (rows, labels) = fitted().net, encoded()
    z = torch.randn(len(rows), 2)
    read = torch.nn.functional.pad(rows[:, :-1], (1, 0), value=BOS)
    changed = read.clone()
    changed[:, 4:] = FIRST + 3
    assert torch.allclose(net(read, z, labels)[:, :4], net(changed, z, labels)[:, :4], atol=1e-5)
    assert not torch.allclose(net(read, z, labels)[:, 4], net(changed, z, labels)[:, 4], atol=1e-5)
    wider = torch.nn.functional.pad(rows, (0, 4))
    assert torch.allclose(net.log_prob(rows, rows, z, labels), net.log_prob(wider, wider, z, labels), atol=1e-4)
    for before, after in zip(codes(net, (rows, labels)), codes(net, (wider, labels)), strict=True):
        assert torch.allclose(before, after, atol=1e-5)


@torch.no_grad()
def test_what_is_written_with_a_cache_is_what_the_whole_net_says():
    net, (_, labels) = fitted().net, encoded()
    z = torch.randn(len(labels), 2)
    rows = write(net, z, labels, 1e-3, 1.0, torch.Generator().manual_seed(0))  # so cold that the likeliest token is drawn
    read = torch.nn.functional.pad(rows[:, :-1], (1, 0), value=BOS)
    logits = net.words.logits(net(read, z, labels))
    logits[:, :, :SEP] = -math.inf
    begun = read >= FIRST
    parted = torch.cat([torch.zeros(len(rows), 1), (rows == SEP).cumsum(1)[:, :-1]], dim=1) > 0
    logits[:, :, SEP] = logits[:, :, SEP].where(begun & ~parted, -math.inf)
    logits[:, :, EOS] = logits[:, :, EOS].where(begun & parted, -math.inf)
    live = rows != PAD
    assert (logits.argmax(2)[live] == rows[live]).float().mean() > 0.98
    ended = (rows == EOS).any(1)
    assert ended.float().mean() > 0.8
    assert ((rows == SEP).sum(1)[ended] == 1).all()


def test_the_code_tells_rows_apart():
    """What z says of a row is worth more than what it costs: the posterior did not collapse."""
    model, rows = fitted(), encoded()
    assert model.log["kl"] > 0.4
    with torch.no_grad():
        mean, _ = codes(model.net, rows)
        own = model.net.log_prob(*rows[:1], rows[0], mean, rows[1]).mean()
        others = model.net.log_prob(*rows[:1], rows[0], mean.roll(7, 0), rows[1]).mean()
    assert own > others + 0.2


def test_heads_must_fit_the_width():
    with pytest.raises(BadInput, match="width"):
        VAE(width=30, heads=4).fit(pairs())
