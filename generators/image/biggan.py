"""Large generative adversarial network, small: labels in every norm of the maker, noise at every level, spectral norms on both sides.

Brock, Donahue, Simonyan: Large Scale GAN Training for High Fidelity Natural Image Synthesis, 2019, arXiv:1809.11096; attention: Zhang,
Goodfellow, Metaxas, Odena: Self-Attention Generative Adversarial Networks, 2019, arXiv:1805.08318. Hinge loss, projection, spectral norm
and orthogonal regularisation stand in generators/nets/adversarial.py.

    (1)  noise = [z_0, z_1, ...], one part a level; the condition of level l is c_l = [e_y, z_l], e_y shared by all levels
    (2)  conditional norm: (h - mean) / deviation over batch and pixels, times 1 + A c_l, plus B c_l
    (3)  level: up(h) -> norm, ReLU, conv, norm, ReLU, conv, added to conv(up(h))
    (4)  attention: h + g V softmax(Q^T K), on the map of half the side
    (5)  truncation, when sampling: noise ~ N(0, I) kept within [-t, t]
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.codecs.image import ImageCodec
from generators.image.adversary import Adversarial
from generators.image.dcgan import halvings
from generators.nets.adversarial import Game, bounded, finished
from generators.train import Training


class Norm(nn.Module):
    """(2)."""

    def __init__(self, width: int, condition: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.gain, self.bias = (bounded(nn.Linear(condition, width, bias=False)) for _ in range(2))

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        return self.norm(h) * (1 + self.gain(c))[:, :, None, None] + self.bias(c)[:, :, None, None]


class Up(nn.Module):
    """(3)."""

    def __init__(self, a: int, b: int, condition: int):
        super().__init__()
        self.before, self.between = Norm(a, condition), Norm(b, condition)
        self.first, self.second, self.skip = (bounded(nn.Conv2d(i, b, k, 1, k // 2)) for i, k in ((a, 3), (b, 3), (a, 1)))

    def forward(self, h: Tensor, c: Tensor, side: tuple[int, ...]) -> Tensor:
        deep = self.first(F.interpolate(F.relu(self.before(h, c)), size=side))
        return self.second(F.relu(self.between(deep, c))) + F.interpolate(self.skip(h), size=side)


class Attention(nn.Module):
    """(4), keys and values from every fourth place."""

    def __init__(self, width: int):
        super().__init__()
        inner = max(1, width // 4)
        self.query, self.key, self.value, self.out = (
            bounded(nn.Conv2d(a, b, 1, bias=False)) for a, b in ((width, inner), (width, inner), (width, inner), (inner, width))
        )
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, h: Tensor) -> Tensor:
        query, key, value = self.query(h), F.max_pool2d(self.key(h), 2, ceil_mode=True), F.max_pool2d(self.value(h), 2, ceil_mode=True)
        q, k, v = (t.flatten(2).mT for t in (query, key, value))
        seen = (q @ k.mT).softmax(2) @ v  # by hand: a penalty on the critic's slope needs its second derivative
        return h + self.strength * self.out(seen.mT.reshape(query.shape))


class Maker(nn.Module):
    """noise [n, Z], labels [n] -> images."""

    def __init__(
        self, noise: int, shared: int, labels: int, shape: tuple[int, int, int], channels: int, widths: list[int], limit: float | None
    ):
        super().__init__()
        self.noise, self.channels, self.limit = noise, channels, limit
        self.sides = [tuple(-(-side // 2**k) for side in shape[1:]) for k in reversed(range(len(widths)))]
        sizes = list(reversed(widths))
        self.parts = [noise // len(widths) + (k < noise % len(widths)) for k in range(len(widths))]
        self.label = nn.Embedding(labels, shared)
        nn.init.orthogonal_(self.label.weight)  # of length 1: else the label drowns the noise
        self.enter = bounded(nn.Linear(self.parts[0] + shared, sizes[0] * math.prod(self.sides[0])))
        self.ups = nn.ModuleList(Up(a, b, shared + part) for (a, b), part in zip(pairwise(sizes), self.parts[1:], strict=True))
        self.attention = Attention(sizes[-2])
        self.last, self.leave = nn.BatchNorm2d(sizes[-1]), bounded(nn.Conv2d(sizes[-1], shape[0], 3, 1, 1))

    def forward(self, noise: Tensor, y: Tensor) -> Tensor:
        if not self.training and self.limit is not None:
            noise = within(noise, self.limit)
        e, parts = self.label(y), noise.split(self.parts, dim=1)
        conditions = [torch.cat([e, z], dim=1) for z in parts]  # (1)
        h = self.enter(conditions[0]).view(len(y), -1, *self.sides[0])
        for level, (up, c, side) in enumerate(zip(self.ups, conditions[1:], self.sides[1:], strict=True)):
            if level == len(self.ups) - 1:
                h = self.attention(h)
            h = up(h, c, side)
        return finished(self.leave(F.relu(self.last(h))), self.channels)


def within(noise: Tensor, limit: float) -> Tensor:
    """N(0, 1) as the same law kept within [-limit, limit]: by its quantiles."""
    share = math.erf(limit / 2**0.5)
    return 2**0.5 * torch.erfinv(share * torch.erf(noise / 2**0.5))  # (5)


class Down(nn.Module):
    """A residual block of a critic; it halves the side when it goes to other channels."""

    def __init__(self, a: int, b: int):
        super().__init__()
        self.stride = 1 if a == b else 2
        self.first = bounded(nn.Conv2d(a, a, 3, 1, 1))
        self.second = bounded(nn.Conv2d(a, b, 3, self.stride, 1))
        self.skip = bounded(nn.Conv2d(a, b, 1))

    def forward(self, h: Tensor) -> Tensor:
        deep = self.second(F.relu(self.first(F.relu(h))))
        return deep + self.skip(F.avg_pool2d(h, self.stride, ceil_mode=True))


class Reader(nn.Module):
    """images [n, C + K, H, W] -> features [n, F]: the sum over the places of the smallest map."""

    def __init__(self, shape: tuple[int, int, int], widths: list[int]):
        super().__init__()
        self.enter = bounded(nn.Conv2d(shape[0], widths[1], 4, 2, 1))
        self.attention = Attention(widths[1])
        self.blocks = nn.Sequential(*(Down(a, b) for a, b in pairwise([*widths[1:], widths[-1]])))
        self.features = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        margin = [-side % 2 for side in reversed(x.shape[2:])]
        x = F.pad(x, (0, margin[0], 0, margin[1]), mode="replicate") if any(margin) else x
        return F.relu(self.blocks(self.attention(self.enter(x)))).sum((2, 3))


@dataclass(frozen=True)
class BigGAN(Adversarial):
    """Maps of `width` channels at the full size, twice as many at each halving; label vectors of `shared` numbers; `truncation` is t, None
    leaves the noise as it is. The critic makes two steps for one of the maker.
    """

    width: int = 12
    shared: int = 32
    truncation: float | None = None
    game: Game = Game(loss="hinge", penalty=0.0, legible=0.0, orthogonal=1e-4)
    training: Training = Training(epochs=40, least_steps=1000, batch=64, lr=5e-4, betas=(0.0, 0.99), ema=0.999, decay=0.7)
    phases: ClassVar[tuple[str, ...]] = ("critic", "critic", "maker")
    spectral: ClassVar[bool] = True

    def maker(self, codec: ImageCodec) -> Maker:
        return Maker(self.noise, self.shared, len(codec.shares), codec.shape, codec.channels, self.widths(codec), self.truncation)

    def reader(self, codec: ImageCodec) -> Reader:
        return Reader(codec.shape, self.widths(codec))

    def widths(self, codec: ImageCodec) -> list[int]:
        """The channels of the maps, from the full size to the smallest."""
        return [self.width * 2**k for k in range(halvings(codec.shape) + 1)]
