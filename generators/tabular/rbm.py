"""Restricted Boltzmann machine for tables: softmax groups and Gaussian units on one side, binary hidden units on the other.

Hinton: Training Products of Experts by Minimizing Contrastive Divergence, 2002; Tieleman: Training Restricted Boltzmann Machines using
Approximations to the Likelihood Gradient, 2008; Welling, Rosen-Zvi, Hinton: Exponential Family Harmoniums, 2005; Salakhutdinov, Murray:
On the Quantitative Analysis of Deep Belief Networks, 2008.

    (1)  E(z, c, h) = sum_j (z_j - m_j)^2 / 2 s_j^2 - b . x - h . a        x = one-hot c;   every h_i is -1 or 1
    (2)  a = d + U^T (x - share) + W^T (z - m) / s^2
    (3)  F(z, c) = sum_j (z_j - m_j)^2 / 2 s_j^2 - b . x - sum_i log 2 cosh a_i                         p(z, c) = exp(-F) / Z
    (4)  p(h_i = 1) = sigmoid(2 a_i);   p(c_k) = softmax_k(b + U h);   p(z_j) = N(m_j + (W h)_j, s_j^2)
    (5)  loss = mean F(rows) - mean F(fantasies), whose slope is that of - log p(rows): fantasies are `k` rounds of (4) away from the
         rows (CD-k), or from the fantasies of the step before (PCD-k)

Inverse temperature 0 is the independent columns, 1 the model: a, W h, U h and what b adds to the log shares are multiplied by it. A sample
climbs this ladder from independent columns, and then stays at the top; log Z is found on the same ladder (nets/harmonium.py). Centred
units (x - share, h = -1 or 1) keep the slopes of weights and biases apart. A quantity is a softmax group of bins of equal mass, which can
have any number of modes, or one Gaussian unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.base import Neural, Rows
from generators.codecs.table import MixedCodec
from generators.nets.harmonium import Harmonium, Units, log_2_cosh
from generators.nets.mlp import binned, draw, within
from generators.train import Training

ROWS = 4096  # rows that walk side by side when sampling


class Machine(Harmonium):
    """The parameters of (1), and the fantasies that persist from step to step. Visible units are z [n, D] and c [n, K].

    With `bins` every quantity is a group, before the categories, and D is 0.
    """

    log_share: Tensor  # [V]: of every token of every group
    starts: Tensor  # [K]: where each group begins
    z: Tensor  # [chains, D]
    c: Tensor  # [chains, K]

    def __init__(self, scores: int, shares: list[np.ndarray], bins: int, hidden: int, chains: int):
        super().__init__()
        self.bins, self.cut = bins, scores if bins else 0  # quantities that are cut into bins
        shares = [np.full(bins, 1 / max(1, bins))] * self.cut + shares
        self.scores, self.sizes = scores - self.cut, [len(share) for share in shares]
        self.register_buffer("log_share", torch.from_numpy(np.concatenate([[], *shares]) + 1e-6).float().log())
        self.register_buffer("starts", torch.tensor([0, *self.sizes]).cumsum(0)[:-1], persistent=False)
        self.weight = nn.Parameter(0.01 * torch.randn(sum(self.sizes), hidden))  # U
        self.slope = nn.Parameter(0.01 * torch.randn(self.scores, hidden))  # W
        self.bias = nn.Parameter(self.log_share.clone())  # b
        self.offset = nn.Parameter(torch.zeros(hidden))  # d
        self.middle = nn.Parameter(torch.zeros(self.scores))  # m
        self.log_scale = nn.Parameter(torch.zeros(self.scores))  # log s
        for name, fantasies in zip(("z", "c"), self.independent(chains, None), strict=True):
            self.register_buffer(name, fantasies)

    def visible(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Visible units of a codec's rows."""
        return z[:, self.cut :], torch.cat([binned(z[:, : self.cut], self.bins), c], dim=1)

    def rows(self, z: Tensor, c: Tensor, rng: torch.Generator) -> Rows:
        """A codec's rows of visible units."""
        return torch.cat([within(c[:, : self.cut], self.bins, rng), z.clamp(-4, 4)], dim=1), c[:, self.cut :]

    def independent(self, n: int, rng: torch.Generator | None) -> Units:
        """n draws at inverse temperature 0."""
        z = self.middle + self.log_scale.exp() * torch.randn(n, self.scores, generator=rng, device=self.middle.device)
        return z.detach(), draw(self.log_share.expand(n, -1), self.sizes, rng)

    def drive(self, z: Tensor, c: Tensor) -> Tensor:
        """a, [n, hidden]."""
        x = F.embedding_bag(c + self.starts, self.weight, mode="sum") if self.sizes else 0.0
        return self.offset + x - self.log_share.exp() @ self.weight + (z - self.middle) * (-2 * self.log_scale).exp() @ self.slope  # (2)

    def free_energy(self, z: Tensor, c: Tensor, beta: float = 1.0) -> Tensor:
        """F at an inverse temperature, float [n]."""
        a = beta * self.drive(z, c)
        spring = 0.5 * ((z - self.middle) * (-self.log_scale).exp()).square().sum(1)
        return spring - self.log_share.lerp(self.bias, beta)[c + self.starts].sum(1) - log_2_cosh(a)  # (3)

    def gibbs(self, z: Tensor, c: Tensor, rng: torch.Generator | None, beta: float = 1.0) -> Units:
        """One round at an inverse temperature: every hidden unit, then every visible one."""
        chance = torch.sigmoid(2 * beta * self.drive(z, c))
        h = beta * (2.0 * (torch.rand(chance.shape, generator=rng, device=z.device) < chance) - 1)
        noise = torch.randn(z.shape, generator=rng, device=z.device)
        c = draw(self.log_share.lerp(self.bias, beta) + h @ self.weight.T, self.sizes, rng)
        return self.middle + h @ self.slope.T + self.log_scale.exp() * noise, c  # (4)

    def log_z_0(self) -> float:
        first = len(self.offset) * math.log(2) + float((self.log_scale + 0.5 * math.log(2 * math.pi)).sum())
        return first + float(sum(part.logsumexp(0) for part in self.log_share.split(self.sizes)))


@dataclass(frozen=True)
class RBM(Neural):
    """`hidden` units; `bins` a quantity, or 0 for Gaussian units; fantasies that start from the rows, or are `persistent`: `chains` of
    them; `k` rounds of Gibbs sampling a step, and `rounds` for a sample, half of them on the way up."""

    hidden: int = 128
    bins: int = 64
    k: int = 1
    persistent: bool = True
    chains: int = 512
    rounds: int = 24
    training: Training = Training(epochs=20, least_steps=500, batch=256, lr=3e-3, betas=(0.5, 0.99), weight_decay=0.1, ema=0.998)
    codec: ClassVar[type[MixedCodec]] = MixedCodec
    private: ClassVar[Mapping[str, Any]] = {
        "hidden": 64,
        "bins": 32,
        "persistent": False,
        "training": {"steps": 1000, "batch": 512, "lr": 3e-3, "weight_decay": 0.0, "clip": 1.0, "ema": 0.99},
    }

    def build(self, codec: MixedCodec) -> Machine:
        return Machine(len(codec.scores), codec.priors, self.bins, self.hidden, self.chains)

    def loss(self, net: Machine, rows: Rows, phase: str) -> Tensor:
        data = net.visible(*rows)
        with torch.no_grad():
            z, c = (net.z, net.c) if self.persistent else data
            for _ in range(self.k):
                z, c = net.gibbs(z, c, None)
            if self.persistent:
                net.z, net.c = z, c
        return net.free_energy(*data).mean() - net.free_energy(z, c).mean()  # (5)

    def log_prob(self, net: Machine, rows: Rows, particles: int = 256, steps: int = 2000) -> Tensor:
        """log p(row) in nats, float [n], of encoded rows: of tokens and bins, or a density where units are Gaussian; log Z estimated."""
        return -net.free_energy(*net.visible(*rows)) - net.log_z(particles, steps)[0]

    def sample(self, net: Machine, n: int, rng: torch.Generator) -> Rows:
        parts = [self.walk(net, min(ROWS, n - start), rng) for start in range(0, n, ROWS)]
        return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))

    def walk(self, net: Machine, n: int, rng: torch.Generator) -> Rows:
        """n draws, encoded as the codec's rows."""
        z, c = net.independent(n, rng)
        for t in range(1, self.rounds + 1):
            z, c = net.gibbs(z, c, rng, min(1.0, 2 * t / self.rounds))
        return net.rows(z, c, rng)
