"""The game of a maker and a critic: its losses, penalties, augmentation and how labels enter, for every adversarial generator.

Goodfellow et al.: Generative Adversarial Networks, 2014, arXiv:1406.2661; relativistic loss: Huang, Gokaslan, Kuleshov, Tompkin: The GAN is
dead; long live the GAN!, 2025, arXiv:2501.05441; hinge, spectral norm: Miyato, Kataoka, Koyama, Yoshida: Spectral
Normalization for Generative Adversarial Networks, 2018, arXiv:1802.05957; labels: Miyato, Koyama: cGANs with Projection Discriminator,
2018, arXiv:1802.05637, and Odena, Olah, Shlens: Conditional Image Synthesis with Auxiliary Classifier GANs, 2016, arXiv:1610.09585;
augmentation: Zhao, Liu, Lin, Zhu, Han: Differentiable Augmentation for Data-Efficient GAN Training, 2020, arXiv:2006.10738, as often as
in Karras et al.: Training Generative Adversarial Networks with Limited Data, 2020, arXiv:2006.06676; orthogonality: Brock, Donahue,
Simonyan: Large Scale GAN Training for High Fidelity Natural Image Synthesis, 2019, arXiv:1809.11096.

    (1)  critic:  E l(D(real, y), D(fake, y)) + r/2 (E |grad D(real, y)|^2 + E |grad D(fake, y)|^2) - E log q(y|real)
    (2)  maker:   E m(D(real, y), D(fake, y)) - c E log q(y|fake),   fake = T(G(noise, y)), real = T(x), y the label of x
    (3)  D(x, y) = (v + w_y) . h(x) + b,   q(y|x) = softmax(A h(x) + a)
    (4)  T(x) = a x(. - shift) + b:   a shift for each image, its edge drawn out; for colour a in [1/2, 1] and |b| <= 1 - a
    (5)  relativistic:  l = softplus(fake - real),                 m = softplus(real - fake)
    (6)  logistic:      l = softplus(-real) + softplus(fake),      m = softplus(-fake);   the slope counts on real images alone
    (7)  hinge:         l = max(0, 1 - real) + max(0, 1 + fake),   m = - fake
    (8)  maker:         + o sum of (W W^T)_ij^2 over i != j, W a matrix of the maker but of labels, W^T if it is high
    (9)  p += sign(E sign D(real) - target) n / SPEED:             T of an image with chance p only
    (10) spectral norm: W / s(W), s the largest singular value, by one round of the power method a step

The critic only ever sees T of an image, real or made, so few images are not learnt by heart, and T stays out of what is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from generators.nets.warp import shifted

COLOUR = 3  # channels
PROBED = 4  # the slope is measured at every fourth image: the same on average as at every fourth step, for a quarter of the cost
SPEED = 50_000  # images in which the chance of T goes from 0 to 1
Part = TypeVar("Part", bound=nn.Module)


@dataclass(frozen=True)
class Game:
    """`penalty` is r on the critic's slope; images move by up to `shift` of a side; `legible` is c, of the right label being read, 0 if
    the critic reads none; `orthogonal` is o.

    With a `target` above 0, T comes as often as it takes for that mean sign of D(real), at first never; else always.
    """

    loss: Literal["relativistic", "logistic", "hinge"] = "relativistic"
    penalty: float = 1.0
    shift: float = 0.05
    legible: float = 0.2
    orthogonal: float = 0.0
    target: float = 0.0


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
    chance: Tensor  # of T

    def __init__(self, maker: Any, critic: Critic, shares: Tensor, channels: int):
        super().__init__()
        self.maker, self.critic, self.channels = maker, critic, channels
        self.register_buffer("shares", shares)
        self.register_buffer("chance", torch.zeros(()))

    def make(self, y: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """int64 [n] -> float [n, C + K, H, W]; `rng` None is the global generator."""
        return self.maker(torch.randn(len(y), self.maker.noise, generator=rng, device=y.device), y)


def play(net: Players, x: Tensor, y: Tensor, phase: str, game: Game) -> Tensor:
    """The loss of this phase's side on real images x, float [n, C + K, H, W] in [-1, 1], with labels y, int64 [n]."""
    n, twice, chance = len(y), torch.cat([y, y]), net.chance if game.target else None
    if phase == "critic":
        with torch.no_grad():
            pair = augmented(torch.cat([x, net.make(y)]), net.channels, game.shift, chance)
        scores, logits = net.critic(pair, twice)
        if game.target:
            net.chance.add_((scores[:n].detach().sign().mean() - game.target).sign() * n / SPEED).clamp_(0, 1)  # (9)
        loss = against(game.loss, scores[:n], scores[n:])
        loss = loss + F.cross_entropy(logits[:n], y) if game.legible else loss
        return loss + penalised(net.critic, pair, twice, n, game) if game.penalty else loss  # (1)
    shown, named = ([x], twice) if game.loss == "relativistic" else ([], y)  # the other losses look at what is made alone
    with frozen(net.critic):
        scores, logits = net.critic(augmented(torch.cat([*shown, net.make(y)]), net.channels, game.shift, chance), named)
    loss = towards(game.loss, scores[:-n], scores[-n:]) + game.legible * F.cross_entropy(logits[-n:], y)  # (2)
    return loss + game.orthogonal * overlap(net.maker) if game.orthogonal else loss


def penalised(critic: nn.Module, pair: Tensor, y: Tensor, n: int, game: Game) -> Tensor:
    """The penalty on the critic's slope at some of the images, of which the first n are real."""
    seen, labels = (pair[:n], y[:n]) if game.loss == "logistic" else (pair, y)
    probe = seen[::PROBED].clone().requires_grad_()
    sides = 1 if game.loss == "logistic" else 2  # the mean of both sides is half of their sum
    return sides * game.penalty / 2 * slope(critic(probe, labels[::PROBED])[0], probe)


def against(loss: str, real: Tensor, fake: Tensor) -> Tensor:
    """The critic's loss l, from scores [n] each."""
    if loss == "hinge":
        return (F.relu(1 - real) + F.relu(1 + fake)).mean()  # (7)
    return preferred(real, fake) if loss == "relativistic" else (F.softplus(-real) + F.softplus(fake)).mean()  # (5), (6)


def towards(loss: str, real: Tensor, fake: Tensor) -> Tensor:
    """The maker's loss m."""
    if loss == "hinge":
        return -fake.mean()
    return preferred(fake, real) if loss == "relativistic" else F.softplus(-fake).mean()


def overlap(maker: nn.Module) -> Tensor:
    """How far the rows of a maker's matrices, or their columns where those are fewer, are from orthogonal to each other."""
    matrices = [w.flatten(1) for name, w in maker.named_parameters() if w.ndim > 1 and not name.startswith("label")]
    grams = [w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w for w in matrices]
    return torch.stack([(gram - gram.diagonal().diag()).square().sum() for gram in grams]).sum()  # (8)


def preferred(one: Tensor, other: Tensor) -> Tensor:
    """How far scores `one` are from lying above scores `other`, pair by pair: the relativistic loss, one number."""
    return F.softplus(other - one).mean()


def slope(scores: Tensor, x: Tensor) -> Tensor:
    """E |grad D|^2 of scores [n] with regard to x [n, ...]."""
    (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def augmented(x: Tensor, channels: int, shift: float, chance: Tensor | None = None) -> Tensor:
    """T(x): each image moved by up to `shift` of its sides; one with colours in its first `channels` also dimmed and flattened.

    With a `chance`, only so many of the images.
    """
    n = len(x)
    some = torch.ones(n, device=x.device) if chance is None else (torch.rand(n, device=x.device) < chance).float()
    moved, _ = shifted(x, shift, some)
    if channels < COLOUR:
        return moved
    contrast = 1 - 0.5 * torch.rand(n, 1, 1, 1, device=x.device) * some.view(-1, 1, 1, 1)
    light = (2 * torch.rand(n, 1, 1, 1, device=x.device) - 1) * (1 - contrast)
    return torch.cat([contrast * moved[:, :channels] + light, moved[:, channels:]], dim=1)  # (4)


def bounded(layer: Part) -> Part:
    """A layer under a spectral norm, its weights orthogonal at first."""
    nn.init.orthogonal_(layer.weight)  # type: ignore[arg-type]
    spectral_norm(layer)  # (10)
    return layer


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
