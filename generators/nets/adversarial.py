"""The game of a maker and a critic: its losses, penalties, augmentation and how labels enter, for every adversarial generator.

Goodfellow et al.: Generative Adversarial Networks, 2014, arXiv:1406.2661; the loss: Huang, Gokaslan, Kuleshov, Tompkin: The GAN is dead;
long live the GAN!, 2025, arXiv:2501.05441; labels: Miyato, Koyama: cGANs with Projection Discriminator, 2018, arXiv:1802.05637;
augmentation: Zhao, Liu, Lin, Zhu, Han: Differentiable Augmentation for Data-Efficient GAN Training, 2020, arXiv:2006.10738.

    (1)  critic:  E softplus(D(T(fake), y) - D(T(real), y)) + r/2 (E |grad D(T(real), y)|^2 + E |grad D(T(fake), y)|^2)
    (2)  maker:   E softplus(D(T(real), y) - D(T(fake), y)),   fake = G(noise, y), y the label of the real image beside it
    (3)  D(x, y) = (v + w_y) . h(x) + b
    (4)  T(x) = a x(. - shift) + b:   a shift for each image, its edge drawn out; for colour a in [1/2, 1] and |b| <= 1 - a

The critic only ever sees T of an image, real or made, so few images are not learnt by heart, and T stays out of what is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COLOUR = 3  # channels


class Players(nn.Module):
    """The two sides: maker(noise [n, Z], y [n]) -> x [n, C + K, H, W]; critic(x, y) -> [n]; `shares` float [L] of the labels."""

    shares: Tensor

    def __init__(self, maker: nn.Module, critic: nn.Module, shares: Tensor, noise: int, channels: int):
        super().__init__()
        self.maker, self.critic, self.noise, self.channels = maker, critic, noise, channels
        self.register_buffer("shares", shares)

    def make(self, y: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """int64 [n] -> float [n, C + K, H, W] in [-1, 1]."""
        return self.maker(torch.randn(len(y), self.noise, generator=rng, device=y.device), y)


class Verdict(nn.Module):
    """Features h [n, F] and labels y [n] -> how real each is as one of its label, [n]."""

    def __init__(self, features: int, labels: int):
        super().__init__()
        self.any = nn.Linear(features, 1)
        self.each = nn.Embedding(labels, features)
        nn.init.normal_(self.each.weight, std=features**-0.5)

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        return self.any(h).squeeze(1) + (self.each(y) * h).sum(1)  # (3)


def play(net: Players, x: Tensor, y: Tensor, phase: str, penalty: float, shift: float) -> Tensor:
    """The loss of this phase's side on real images x, float [n, C + K, H, W] in [-1, 1], with labels y, int64 [n]."""
    twice = torch.cat([y, y])
    if phase == "critic":
        with torch.no_grad():
            pair = augmented(torch.cat([x, net.make(y)]), net.channels, shift)
        pair.requires_grad_()
        scores = net.critic(pair, twice)
        on_real, on_fake = scores.chunk(2)
        return preferred(on_real, on_fake) + penalty * slope(scores, pair)  # (1): the mean over both sides is half of their sum
    with frozen(net.critic):
        on_real, on_fake = net.critic(augmented(torch.cat([x, net.make(y)]), net.channels, shift), twice).chunk(2)
    return preferred(on_fake, on_real)  # (2)


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
