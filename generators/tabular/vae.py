"""Variational autoencoder for tables, with a learnt mixture as its prior.

Kingma, Welling: Auto-Encoding Variational Bayes, 2013, arXiv:1312.6114; mixture prior as in Tomczak, Welling: VAE with a VampPrior,
2017, arXiv:1705.07120; the mixed likelihood in the spirit of Xu et al.'s TVAE, 2019, arXiv:1907.00503.

    (1)  q(h|x) = N(mu(x), diag sigma(x)^2),   h = mu + sigma eps          the encoder, reparametrised
    (2)  p(h) = sum_m w_m N(h; m_m, diag s_m^2)                           the prior, learnt with the rest
    (3)  log p(x|h) = sum_k log softmax_k(h)[c_k] + sum_j log softmax_j(h)[bin of z_j]
    (4)  loss = - log p(x|h) + beta (log q(h|x) - log p(h))                beta rises from 0 to its value while warming up

A score z is standard normal, so bins of equal mass cut its rank Phi(z) evenly: a histogram can follow steps, gaps and several modes,
which a Gaussian cannot. Sampling draws h from the prior, then every column from its likelihood (never its mean).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from generators.base import Neural, Rows
from generators.codecs.table import MixedCodec
from generators.nets.mixture import normal
from generators.nets.mlp import MLP, cross_entropy, draw, one_hot
from generators.train import Training


class VAENet(nn.Module):
    """Encoder and decoder MLPs, and the prior's parameters. The decoder's groups are the categories, then the bins of each score."""

    warm: Tensor

    def __init__(self, scores: int, sizes: list[int], latent: int, hidden: int, depth: int, bins: int, modes: int):
        super().__init__()
        self.sizes, self.bins, self.groups = sizes, bins, sizes + [bins] * scores
        self.encoder = MLP(scores + sum(sizes), hidden, depth, 2 * latent)
        self.decoder = MLP(latent, hidden, depth, sum(self.groups))
        self.weights = nn.Parameter(torch.zeros(modes))
        self.means = nn.Parameter(torch.randn(modes, latent))
        self.scales = nn.Parameter(torch.zeros(modes, latent))  # logarithms
        self.register_buffer("warm", torch.zeros(()))  # steps of warm-up done

    def prior(self, h: Tensor) -> Tensor:
        """log p(h), float [n]."""
        terms = normal(h[:, None], self.means, self.scales).sum(2)
        return torch.logsumexp(terms + self.weights.log_softmax(0), dim=1)  # (2)

    def tokens(self, z: Tensor, c: Tensor) -> Tensor:
        """int64 [n, K + D]: the categories, then the bin of each score."""
        return torch.cat([c, (torch.special.ndtr(z) * self.bins).long().clamp(0, self.bins - 1)], dim=1)


@dataclass(frozen=True)
class VAE(Neural):
    """`latent` dimensions; MLPs of `depth` layers of `hidden`; `bins` a score; `modes` in the prior; `beta` weighs the KL term."""

    latent: int = 16
    hidden: int = 256
    depth: int = 3
    bins: int = 64
    modes: int = 64
    beta: float = 1.0
    warm_up: int = 500
    training: Training = Training(epochs=40, least_steps=300, batch=512, lr=2e-3, weight_decay=0.01, ema=0.995)
    codec: ClassVar[type[MixedCodec]] = MixedCodec
    private: ClassVar[Mapping[str, Any]] = {
        "hidden": 64,
        "depth": 2,
        "bins": 32,
        "modes": 16,
        "warm_up": 0,
        "training": {"steps": 1000, "batch": 512, "lr": 3e-3, "weight_decay": 0.0, "clip": 1.0, "ema": 0.99},
    }

    def build(self, codec: MixedCodec) -> VAENet:
        return VAENet(len(codec.scores), codec.sizes, self.latent, self.hidden, self.depth, self.bins, self.modes)

    def loss(self, net: VAENet, rows: Rows, phase: str) -> Tensor:
        z, c = rows
        mean, log_scale = net.encoder(torch.cat([z, one_hot(c, net.sizes)], dim=1)).chunk(2, dim=1)
        h = mean + log_scale.exp() * torch.randn_like(mean)  # (1)
        kl = normal(h, mean, log_scale).sum(1) - net.prior(h)
        surprise = cross_entropy(net.decoder(h), net.tokens(z, c), net.groups)  # (3)
        beta = self.beta
        if net.training and self.warm_up:
            net.warm += 1
            beta *= min(1.0, net.warm.item() / self.warm_up)
        return (surprise + beta * kl).mean()  # (4)

    def sample(self, net: VAENet, n: int, rng: torch.Generator) -> Rows:
        mode = torch.multinomial(net.weights.softmax(0), n, replacement=True, generator=rng)
        h = net.means[mode] + net.scales[mode].exp() * torch.randn(n, self.latent, generator=rng)
        tokens = draw(net.decoder(h), net.groups, rng)
        c, bins = tokens[:, : len(net.sizes)], tokens[:, len(net.sizes) :]
        rank = (bins + torch.rand(bins.shape, generator=rng, dtype=torch.float64)) / net.bins
        return torch.special.ndtri(rank.clamp(1e-9, 1 - 1e-9)).float(), c
