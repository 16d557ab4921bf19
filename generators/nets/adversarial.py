"""The game of a maker and a critic: its losses, penalties, augmentation and how labels enter, for every adversarial generator.

Goodfellow et al.: Generative Adversarial Networks, 2014, arXiv:1406.2661; relativistic loss: Huang, Gokaslan, Kuleshov, Tompkin: The GAN is
dead; long live the GAN!, 2025, arXiv:2501.05441; labels: Miyato, Koyama: cGANs with Projection Discriminator, 2018,
arXiv:1802.05637, and Odena, Olah, Shlens: Conditional Image Synthesis with Auxiliary Classifier GANs, 2016, arXiv:1610.09585;
augmentation: Zhao, Liu, Lin, Zhu, Han: Differentiable Augmentation for
Data-Efficient GAN Training, 2020, arXiv:2006.10738.

    (1)  critic:  E l(D(real, y), D(fake, y)) + r/2 (E |grad D(real, y)|^2 + E |grad D(fake, y)|^2) - E log q(y|real)
    (2)  maker:   E m(D(real, y), D(fake, y)) - c E log q(y|fake),   fake = T(G(noise, y)), real = T(x), y the label of x
    (3)  D(x, y) = (v + w_y) . h(x) + b,   q(y|x) = softmax(A h(x) + a)
    (4)  T(x) = a x(. - shift) + b:   a shift for each image, its edge drawn out; for colour a in [1/2, 1] and |b| <= 1 - a
    (5)  relativistic:  l = softplus(fake - real),                 m = softplus(real - fake)
    (6)  logistic:      l = softplus(-real) + softplus(fake),      m = softplus(-fake);   the slope counts on real images alone

The critic only ever sees T of an image, real or made, so few images are not learnt by heart, and T stays out of what is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COLOUR = 3  # channels
PROBED = 4  # the slope is measured at every fourth image: the same on average as at every fourth step, for a quarter of the cost


@dataclass(frozen=True)
class Game:
    """`penalty` is r on the critic's slope; images move by up to `shift` of a side; `legible` is c, of the right label being read."""

    loss: Literal["relativistic", "logistic"] = "relativistic"
    penalty: float = 1.0
    shift: float = 0.05
    legible: float = 0.2


class Critic(nn.Module):
    """x [n, C + K, H, W] and labels y [n] -> how real each x is as one of its label, [n], and logits of its label, [n, L].

    `body` turns x into features h [n, F].
    """

    def __init__(self, body: nn.Module, features: int, labels: int):
        super().__init__()
        self.body = body
        self.real, self.label = nn.Linear(features, 1), nn.Linear(features, labels)
        self.each = nn.Embedding(labels, features)
        nn.init.normal_(self.each.weight, std=features**-0.5)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.real(h).squeeze(1) + (self.each(y) * h).sum(1), self.label(h)  # (3)


class Players(nn.Module):
    """The two sides: maker(noise [n, Z], y [n]) -> x [n, C + K, H, W] in [-1, 1], and a Critic; `shares` float [L] of the labels.

    The maker's `noise` is Z.
    """

    shares: Tensor

    def __init__(self, maker: Any, critic: Critic, shares: Tensor, channels: int):
        super().__init__()
        self.maker, self.critic, self.channels = maker, critic, channels
        self.register_buffer("shares", shares)

    def make(self, y: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """int64 [n] -> float [n, C + K, H, W]; `rng` None is the global generator."""
        return self.maker(torch.randn(len(y), self.maker.noise, generator=rng, device=y.device), y)


def play(net: Players, x: Tensor, y: Tensor, phase: str, game: Game) -> Tensor:
    """The loss of this phase's side on real images x, float [n, C + K, H, W] in [-1, 1], with labels y, int64 [n]."""
    n, twice = len(y), torch.cat([y, y])
    if phase == "critic":
        with torch.no_grad():
            pair = augmented(torch.cat([x, net.make(y)]), net.channels, game.shift)
        scores, logits = net.critic(pair, twice)
        loss = against(game.loss, scores[:n], scores[n:]) + F.cross_entropy(logits[:n], y)
        return loss + penalised(net.critic, pair, twice, n, game) if game.penalty else loss  # (1)
    with frozen(net.critic):
        scores, logits = net.critic(augmented(torch.cat([x, net.make(y)]), net.channels, game.shift), twice)
    return towards(game.loss, scores[:n], scores[n:]) + game.legible * F.cross_entropy(logits[n:], y)  # (2)


def penalised(critic: nn.Module, pair: Tensor, y: Tensor, n: int, game: Game) -> Tensor:
    """The penalty on the critic's slope at some of the images, of which the first n are real."""
    seen, labels = (pair[:n], y[:n]) if game.loss == "logistic" else (pair, y)
    probe = seen[::PROBED].clone().requires_grad_()
    sides = 1 if game.loss == "logistic" else 2  # the mean of both sides is half of their sum
    return sides * game.penalty / 2 * slope(critic(probe, labels[::PROBED])[0], probe)


def against(loss: str, real: Tensor, fake: Tensor) -> Tensor:
    """The critic's loss l, from scores [n] each."""
    return preferred(real, fake) if loss == "relativistic" else (F.softplus(-real) + F.softplus(fake)).mean()  # (5), (6)


def towards(loss: str, real: Tensor, fake: Tensor) -> Tensor:
    """The maker's loss m."""
    return preferred(fake, real) if loss == "relativistic" else F.softplus(-fake).mean()


def preferred(one: Tensor, other: Tensor) -> Tensor:
    """How far scores `one` are from lying above scores `other`, pair by pair: the relativistic loss, one number."""
    return F.softplus(other - one).mean()


def slope(scores: Tensor, x: Tensor) -> Tensor:
    """E |grad D|^2 of scores [n] with regard to x [n, ...]."""
    (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def augmented(x: Tensor, channels: int, shift: float) -> Tensor:
    """T(x): each image moved by up to `shift` of its sides; one with colours in its first `channels` also dimmed and flattened."""
    n, _, height, width = x.shape
    offset = (2 * torch.rand(2, n, 1, device=x.device) - 1) * shift
    row, column = (
        (torch.arange(side, device=x.device) - (by * side).round().long()).clamp(0, side - 1)
        for by, side in zip(offset, (height, width), strict=True)
    )
    moved = x.permute(0, 2, 3, 1)[torch.arange(n, device=x.device)[:, None, None], row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)
    if channels < COLOUR:
        return moved
    contrast = 0.5 + 0.5 * torch.rand(n, 1, 1, 1, device=x.device)
    light = (2 * torch.rand(n, 1, 1, 1, device=x.device) - 1) * (1 - contrast)
    return torch.cat([contrast * moved[:, :channels] + light, moved[:, channels:]], dim=1)  # (4)


def finished(scores: Tensor, channels: int) -> Tensor:
    """Scores [n, C + K, H, W] -> pixels in [-1, 1], and a mask that is nearly one-hot, -1 or 1, in the last K."""
    image, mask = scores[:, :channels].tanh(), scores[:, channels:]
    return torch.cat([image, 2 * mask.softmax(1) - 1], dim=1) if mask.shape[1] else image


@contextmanager
def frozen(part: nn.Module) -> Iterator[None]:
    """What is computed through `part` leaves its weights without gradient."""
    part.requires_grad_(False)
    try:
        yield
    finally:
        part.requires_grad_(True)
