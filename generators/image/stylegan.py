"""Style-based generative adversarial network: a code of style rules every layer of the maker, and noise gives each pixel its detail.

Karras, Laine, Aila: A Style-Based Generator Architecture for Generative Adversarial Networks, 2019, arXiv:1812.04948; as in Karras, Laine,
Aittala, Hellsten, Lehtinen, Aila: Analyzing and Improving the Image Quality of StyleGAN, 2020, arXiv:1912.04958. The game stands in
generators/nets/adversarial.py.

    (1)  w = f([z / |z|, e_y / |e_y|])                                    |.| root mean square; f: two slow layers
    (2)  modulated convolution: h' = d_o sum_i s_i W_oi * h_i,   s = A w + 1,   d_o = 1 / sqrt(sum_i,k (s_i W_oik)^2)
    (3)  h = leaky ReLU(h' + c n + b),   n ~ N(0, 1) for each pixel       from a learnt constant; twice the side after each pair of layers
    (4)  image = sum over the sizes of up(R_size h), R modulated without d
    (5)  mixing: layers below a random one take the style of another draw of the same label, in a share of the images
    (6)  truncation, when sampling: w = mean_y + psi (w - mean_y)
    (7)  critic: h' = (conv conv h + skip h) / sqrt(2) at half the side; last, the deviation within groups of images is one more channel
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.base import Unfolding
from generators.codecs.image import ImageCodec, unsigned
from generators.image.adversary import Adversarial
from generators.image.dcgan import halvings
from generators.nets.adversarial import Game, Players, finished
from generators.train import Training

SLOW = 0.01  # the rate of the layers of f, of that of all others
GROUP = 4  # images whose deviation is seen together
TRACKED = 0.01  # how fast the mean style follows
WIDEST = 512  # channels


def normal(x: Tensor) -> Tensor:
    """x [n, Z] with a mean square of 1."""
    return x * x.square().mean(1, keepdim=True).add(1e-8).rsqrt()


class Slow(nn.Linear):
    """A linear layer whose weights are `SLOW` times its parameters, so that a step moves it as much less."""

    def __init__(self, inner: int, outer: int):
        super().__init__(inner, outer)
        with torch.no_grad():
            self.weight.normal_(std=inner**-0.5 / SLOW)
            self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, SLOW * self.weight, SLOW * self.bias)


class Modulated(nn.Module):
    """h [n, a, H, W], w [n, S] -> [n, b, H, W]."""

    def __init__(self, a: int, b: int, kernel: int, style: int, demodulate: bool):
        super().__init__()
        self.demodulate, self.kernel = demodulate, kernel
        self.weight = nn.Parameter(torch.randn(b, a, kernel, kernel) * (a * kernel * kernel) ** -0.5)
        self.style = nn.Linear(style, a)
        nn.init.zeros_(self.style.bias)

    def forward(self, h: Tensor, w: Tensor) -> Tensor:
        s = self.style(w) + 1
        h = F.conv2d(h * s[:, :, None, None], self.weight, padding=self.kernel // 2)
        if not self.demodulate:
            return h
        return h * (s.square() @ self.weight.square().sum((2, 3)).T + 1e-8).rsqrt()[:, :, None, None]  # (2)


class Layer(nn.Module):
    """(2) and (3)."""

    def __init__(self, a: int, b: int, style: int):
        super().__init__()
        self.convolution = Modulated(a, b, 3, style, demodulate=True)
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(b))

    def forward(self, h: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        h = self.convolution(h, w) + self.strength * noise
        return F.leaky_relu(h + self.bias[:, None, None], 0.2) * 2**0.5  # (3)


class Maker(nn.Module):
    """noise [n, Z], labels [n] -> images; the noise is that of two styles and of every pixel of every layer."""

    centre: Tensor  # [L, S], the mean style of each label

    def __init__(
        self, latent: int, style: int, labels: int, shape: tuple[int, int, int], channels: int, widths: list[int], mixing: float, psi: float
    ):
        super().__init__()
        self.latent, self.channels, self.mixing, self.truncation = latent, channels, mixing, psi
        self.sides = [tuple(-(-side // 2**k) for side in shape[1:]) for k in reversed(range(len(widths)))]
        sizes = list(reversed(widths))
        self.label = nn.Embedding(labels, latent)
        self.styles = nn.Sequential(Slow(2 * latent, style), nn.LeakyReLU(0.2), Slow(style, style), nn.LeakyReLU(0.2))  # (1)
        self.base = nn.Parameter(torch.randn(sizes[0], *self.sides[0]))
        grown = [Layer(a, b, style) for a, b in pairwise(sizes)]
        self.layers = nn.ModuleList(
            [
                Layer(sizes[0], sizes[0], style),
                *(layer for b, up in zip(sizes[1:], grown, strict=True) for layer in (up, Layer(b, b, style))),
            ]
        )
        self.paint = nn.ModuleList(Modulated(size, shape[0], 1, style, demodulate=False) for size in sizes)
        self.register_buffer("centre", torch.zeros(labels, style))
        self.pixels = [height * width for k, (height, width) in enumerate(self.sides) for _ in range(1 if k == 0 else 2)]
        self.noise = 2 * latent + sum(self.pixels)

    def forward(self, noise: Tensor, y: Tensor) -> Tensor:
        if not self.training:
            return self.truncated(noise, y, self.truncation)
        z, other, pixels = noise.split([self.latent, self.latent, sum(self.pixels)], dim=1)
        w, depth = self.style(z, y), len(self.layers)
        self.follow(w, y)
        cut = torch.randint(1, depth, (len(y), 1), device=y.device)
        cut = torch.where(torch.rand(len(y), 1, device=y.device) < self.mixing, cut, depth)
        first = torch.arange(depth, device=y.device) < cut
        return self.image(torch.where(first[:, :, None], w[:, None], self.style(other, y)[:, None]), pixels)  # (5)

    def style(self, z: Tensor, y: Tensor) -> Tensor:
        """w [n, S] of a draw z [n, latent] for labels y [n]."""
        return self.styles(torch.cat([normal(z), normal(self.label(y))], dim=1))  # (1)

    def follow(self, w: Tensor, y: Tensor) -> None:
        """The mean styles go on towards those of this batch."""
        with torch.no_grad():
            total = torch.zeros_like(self.centre).index_add_(0, y, w.detach().to(self.centre))
            count = torch.bincount(y, minlength=len(self.centre))[:, None]
            self.centre.copy_(torch.where(count > 0, self.centre.lerp(total / count.clamp(min=1), TRACKED), self.centre))

    def truncated(self, noise: Tensor, y: Tensor, psi: float) -> Tensor:
        """Images of one style each, nearer to its label's mean."""
        z, _, pixels = noise.split([self.latent, self.latent, sum(self.pixels)], dim=1)
        w = self.centre[y].lerp(self.style(z, y), psi)  # (6)
        return self.image(w[:, None].expand(-1, len(self.layers), -1), pixels)

    def mixed(self, noise: Tensor, y: Tensor, other: Tensor, psi: float) -> Tensor:
        """Images whose upper half of the layers takes the style of one other draw [latent]."""
        z, _, pixels = noise.split([self.latent, self.latent, sum(self.pixels)], dim=1)
        own, fine = (self.centre[y].lerp(self.style(source, y), psi) for source in (z, other.expand_as(z)))
        upper = torch.arange(len(self.layers)) >= len(self.layers) // 2
        return self.image(torch.where(upper[:, None], fine[:, None], own[:, None]), pixels)  # (5)

    def image(self, w: Tensor, pixels: Tensor) -> Tensor:
        """Images of a style for each layer, w [n, layers, S], and noise for each of their pixels."""
        noises = pixels.split(self.pixels, dim=1)
        h, image, place = self.base.expand(len(w), -1, -1, -1), torch.zeros((), device=w.device), 0
        for level, (side, paint) in enumerate(zip(self.sides, self.paint, strict=True)):
            if level:
                h, image = (F.interpolate(t, size=side, mode="bilinear", align_corners=False) for t in (h, image))
            for _ in range(2 if level else 1):
                h = self.layers[place](h, w[:, place], noises[place].view(-1, 1, *side))
                place += 1
            image = image + paint(h, w[:, place - 1])  # (4)
        return finished(image, self.channels)


class Down(nn.Module):
    """A residual block that halves the side."""

    def __init__(self, a: int, b: int):
        super().__init__()
        self.first, self.second, self.skip = nn.Conv2d(a, a, 3, 1, 1), nn.Conv2d(a, b, 3, 2, 1), nn.Conv2d(a, b, 1, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        deep = F.leaky_relu(self.second(F.leaky_relu(self.first(h), 0.2)), 0.2)
        return (deep + self.skip(F.avg_pool2d(h, 2, ceil_mode=True))) * 0.5**0.5  # (7)


class Reader(nn.Module):
    """images [n, C + K, H, W] -> features [n, F]."""

    def __init__(self, shape: tuple[int, int, int], widths: list[int]):
        super().__init__()
        height, width = (-(-side // 2 ** (len(widths) - 1)) for side in shape[1:])
        self.enter = nn.Conv2d(shape[0], widths[0], 1)
        self.blocks = nn.ModuleList(Down(a, b) for a, b in pairwise(widths))
        self.last = nn.Conv2d(widths[-1] + 1, widths[-1], 3, 1, 1)
        self.features = widths[-1] * height * width

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.enter(x), 0.2)
        for block in self.blocks:
            h = block(h)
        return F.leaky_relu(self.last(torch.cat([h, spread(h)], dim=1)), 0.2).flatten(1)


def spread(h: Tensor) -> Tensor:
    """[n, 1, H, W]: the mean deviation of features h [n, c, H, W] within each group of images that follow each other."""
    group = next(k for k in range(min(GROUP, len(h)), 0, -1) if len(h) % k == 0)
    groups = h.view(-1, group, *h.shape[1:])
    deviation = (groups.var(1, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    return deviation.repeat_interleave(group).view(-1, 1, 1, 1).expand(-1, 1, *h.shape[2:])


@dataclass(frozen=True)
class StyleGAN(Adversarial, Unfolding):
    """Maps of `width` channels at the full size, twice as many at each halving, `WIDEST` at most; styles of `style` numbers; `mixing` is
    the share of (5).

    `truncation` is psi: 1 is P(x|y) as learnt, less is plainer. Its steps are a sweep of psi from 0 to it, and, for the second half
    of the images, fine styles of other draws, a draw for each step, before their own.
    """

    width: int = 12
    style: int = 64
    mixing: float = 0.5
    truncation: float = 1.0
    game: Game = Game(loss="logistic")
    caption: ClassVar[str] = (
        "Upper half: truncation, from the label's mean style, at the left, to the style as drawn. Lower half: style mixing: "
        "all images of a column have its fine style, each line keeps its coarse one, and the last column is a line's own."
    )
    training: Training = Training(epochs=40, least_steps=1000, batch=64, lr=2e-3, betas=(0.0, 0.95), ema=0.999, decay=0.7)

    def maker(self, codec: ImageCodec) -> Maker:
        return Maker(
            self.noise, self.style, len(codec.shares), codec.shape, codec.channels, self.widths(codec), self.mixing, self.truncation
        )

    def reader(self, codec: ImageCodec) -> Reader:
        return Reader(codec.shape, self.widths(codec))

    def widths(self, codec: ImageCodec) -> list[int]:
        """The channels of the maps, from the full size to the smallest."""
        return [min(WIDEST, self.width * 2**k) for k in range(halvings(codec.shape) + 1)]

    def frames(self, net: Players, labels: Tensor, rng: torch.Generator, count: int) -> Tensor:
        maker, half = net.maker, (len(labels) + 1) // 2
        noise = torch.randn(len(labels), maker.noise, generator=rng)
        others = torch.randn(count - 1, maker.latent, generator=rng)
        steps = [
            torch.cat([maker.truncated(noise[:half], labels[:half], psi), maker.mixed(noise[half:], labels[half:], other, self.truncation)])
            for psi, other in zip(torch.linspace(0, self.truncation, count).tolist(), others, strict=False)
        ]
        return torch.stack([unsigned(x) for x in (*steps, maker.truncated(noise, labels, self.truncation))])
