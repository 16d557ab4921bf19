"""Restricted Boltzmann machine for images: black and white pixels and a label on one side, binary hidden units on the other.

Hinton: Training Products of Experts by Minimizing Contrastive Divergence, 2002; Tieleman: Training Restricted Boltzmann Machines using
Approximations to the Likelihood Gradient, 2008; the label beside the pixels: Larochelle, Bengio: Classification using Discriminative
Restricted Boltzmann Machines, 2008; centred units: Melchior, Fischer, Wiskott: How to Center Deep Boltzmann Machines, 2016.

    (1)  E(v, y, h) = - b . v - c_y - h . a        v_j is 0 or 1, every h_i is -1 or 1
    (2)  a = d + W^T (v - share) + U_y - mean U
    (3)  F(v, y) = - b . v - c_y - sum_i log 2 cosh a_i                       p(v, y) = exp(-F) / Z
    (4)  p(h_i = 1) = sigmoid(2 a_i);   p(v_j = 1) = sigmoid(b + W h)_j;   p(y) = softmax(c + U h)
    (5)  P(y|v) = softmax_y(-F(v, y))
    (6)  loss = mean F(rows) - mean F(fantasies): fantasies are `k` rounds of (4) away from the rows (CD-k), or from the fantasies of the
         step before (PCD-k); every second one keeps its label, so half of the slope is that of - log p(v, y), half that of - log p(v|y)

A grey pixel is the chance to be white, and is drawn anew at every step. A draw climbs a ladder of temperatures from independent pixels to
the model with its label held fast, stays there, and gives the chances of white in its last round. Annealed importance sampling climbs the
same ladder for log Z (nets/harmonium.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.base import Descending, Naming, Rows, Run, Unfolding
from generators.codecs.image import ImageCodec
from generators.nets.harmonium import Harmonium, Units, log_2_cosh
from generators.nets.mlp import drawn
from generators.train import Training

LEAST = 0.002  # the share of white of a pixel that never was


class Machine(Harmonium):
    """The parameters of (1), and the fantasies that persist from step to step: v float [chains, D], y int64 [chains]."""

    shares: Tensor  # [L]
    share: Tensor  # [D]: of white
    v: Tensor
    y: Tensor

    def __init__(self, shape: tuple[int, int, int], shares: Tensor, hidden: int, chains: int):
        super().__init__()
        self.shape, cells = shape, math.prod(shape)
        self.weight = nn.Parameter(0.01 * torch.randn(cells, hidden))  # W
        self.label = nn.Parameter(0.01 * torch.randn(len(shares), hidden))  # U
        self.bias = nn.Parameter(torch.zeros(cells))  # b
        self.chance = nn.Parameter(shares.clamp(min=1e-6).log())  # c
        self.offset = nn.Parameter(torch.zeros(hidden))  # d
        self.register_buffer("shares", shares)
        self.register_buffer("share", torch.full((cells,), 0.5))
        self.register_buffer("v", torch.zeros(chains, cells))
        self.register_buffer("y", torch.zeros(chains, dtype=torch.int64))

    def start(self, share: Tensor) -> None:
        """Independent pixels of these shares of white, float [D], and fantasies of them."""
        self.share.copy_(share.clamp(LEAST, 1 - LEAST))
        self.bias.copy_(self.share.logit())
        self.v, self.y = self.independent(len(self.v), None)

    def independent(self, n: int, rng: torch.Generator | None) -> Units:
        y = torch.multinomial(self.shares, n, replacement=True, generator=rng)
        return torch.bernoulli(self.share.expand(n, -1), generator=rng), y

    def drive(self, v: Tensor) -> Tensor:
        """a without its label, [n, hidden]."""
        return self.offset + (v - self.share) @ self.weight - self.label.mean(0)  # (2)

    def free_energy(self, v: Tensor, y: Tensor, beta: float = 1.0) -> Tensor:
        return -v @ self.pixel(beta) - self.prior(beta)[y] - log_2_cosh(beta * (self.drive(v) + self.label[y]))  # (3)

    def free_energies(self, v: Tensor) -> Tensor:
        """F of every label, float [n, L]."""
        drive = self.drive(v)
        hidden = torch.stack([log_2_cosh(drive + u) for u in self.label], dim=1)
        return -(v @ self.bias)[:, None] - self.chance - hidden  # (3)

    def pixel(self, beta: float) -> Tensor:
        """b at an inverse temperature."""
        return self.share.logit().lerp(self.bias, beta)

    def prior(self, beta: float) -> Tensor:
        """c at an inverse temperature."""
        return self.shares.clamp(min=1e-6).log().lerp(self.chance, beta)

    def wake(self, v: Tensor, y: Tensor, rng: torch.Generator | None, beta: float = 1.0) -> Tensor:
        """h times the inverse temperature, float [n, hidden]."""
        chance = torch.sigmoid(2 * beta * (self.drive(v) + self.label[y]))
        return beta * (2.0 * torch.bernoulli(chance, generator=rng) - 1)

    def white(self, h: Tensor, beta: float = 1.0) -> Tensor:
        """The chance of white of every pixel, float [n, D]."""
        return torch.sigmoid(self.pixel(beta) + h @ self.weight.T)  # (4)

    def gibbs(self, v: Tensor, y: Tensor, rng: torch.Generator | None, beta: float = 1.0) -> Units:
        h = self.wake(v, y, rng, beta)
        label = drawn((self.prior(beta) + h @ self.label.T).softmax(1), rng)
        return torch.bernoulli(self.white(h, beta), generator=rng), label  # (4)

    def log_z_0(self) -> float:
        return len(self.offset) * math.log(2) + float(F.softplus(self.share.logit()).sum() + self.prior(0).logsumexp(0))


@dataclass(frozen=True)
class RBM(Descending, Unfolding, Naming):
    """`hidden` units; fantasies that start from the rows, or are `persistent`: `chains` of them; `k` rounds of Gibbs sampling a step, and
    `rounds` for a draw, half of them on the way up."""

    hidden: int = 500
    k: int = 1
    persistent: bool = True
    chains: int = 128
    rounds: int = 100
    training: Training = Training(
        epochs=120, least_steps=1000, batch=128, lr=3e-3, betas=(0.5, 0.99), weight_decay=0.01, ema=0.998, decay=0.8
    )
    codec: ClassVar[type[ImageCodec]] = ImageCodec

    def build(self, codec: ImageCodec) -> Machine:
        return Machine(codec.shape, torch.from_numpy(codec.shares).float(), self.hidden, self.chains)

    def learn(self, net: Machine, rows: Rows, run: Run) -> nn.Module:
        with torch.no_grad():
            net.start(rows[0].flatten(1).double().mean(0).float().to(run.device) / 255)
        return self.descend(net, rows, run)

    def loss(self, net: Machine, rows: Rows, phase: str) -> Tensor:
        data = torch.bernoulli(rows[0].flatten(1).float() / 255), rows[1]
        with torch.no_grad():
            v, y = (net.v, net.y) if self.persistent else data
            for _ in range(self.k):
                v, label = net.gibbs(v, y, None)
                y = label.where(torch.arange(len(y), device=y.device) % 2 == 0, y)
            if self.persistent and net.training:
                net.v, net.y = v, y
        return net.free_energy(*data).mean() - net.free_energy(v, y).mean()  # (6)

    def log_prob(self, net: Machine, rows: Rows, particles: int = 256, steps: int = 2000) -> Tensor:
        """log p(x, y) in nats, float [n], of encoded rows of black and white images; log Z estimated."""
        return -net.free_energy(rows[0].flatten(1).float() / 255, rows[1]) - net.log_z(particles, steps)[0]

    def posterior(self, net: Machine, x: Tensor) -> Tensor:
        """P(y|x), float [n, L], of images uint8 [n, C + K, H, W]."""
        return (-net.free_energies(x.flatten(1).float() / 255)).softmax(dim=1)  # (5)

    def draw(self, net: Machine, labels: Tensor, rng: torch.Generator) -> Tensor:
        return self.frames(net, labels, rng, 1)[-1]

    def frames(self, net: Machine, labels: Tensor, rng: torch.Generator, count: int) -> Tensor:
        shown = {round(self.rounds * (i + 1) / count) for i in range(count)}
        found = [white for t, white in self.walk(net, labels, rng) if t in shown]
        return (torch.stack(found) * 255).round().to(torch.uint8).unflatten(2, net.shape)

    def walk(self, net: Machine, labels: Tensor, rng: torch.Generator) -> Iterator[tuple[int, Tensor]]:
        """(round, the chances of white, float [n, D]) of a chain whose labels stay."""
        v = net.independent(len(labels), rng)[0]
        for t in range(1, self.rounds + 1):
            beta = min(1.0, 2 * t / self.rounds)
            white = net.white(net.wake(v, labels, rng, beta), beta)
            yield t, white
            v = torch.bernoulli(white, generator=rng)
