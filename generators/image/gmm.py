"""Gaussian mixture for images: for each label its principal axes, a mixture of full Gaussians on them, and what is left as even noise.

Tipping, Bishop: Mixtures of Probabilistic Principal Component Analysers, 1999; mixtures of Gaussians as generators of images: Richardson,
Weiss: On GANs and GMMs, 2018, arXiv:1805.12462; axes by Halko, Martinsson, Tropp: Finding Structure with Randomness, 2011.

    (1)  z = A_y (x - c_y)                              A_y [d, D]: orthonormal axes of label y, c_y its mean image
    (2)  p(x|y) = p_y(z) N(|x - c_y|^2 - |z|^2; s_y^2)  p_y: a mixture of Gaussians; s_y^2: the variance of the D - d axes that are left
    (3)  P(y|x) = p(y) p(x|y) / sum_y' p(y') p(x|y')
    (4)  a draw is tone(c_y + A_y^T z), z from p_y
    (5)  with `augment`: the rows are warped before they are learnt from, and draws once more: W'(tone(c_y + A_y^T z)), z from W(x)

A turn of the axes has no volume, so (2) is an exact density over the D numbers of an image, taken from 0 to 1, with the one-hot channels
of a mask among them. Even noise looks like haze, so (4) leaves it out; and as a sum of axes has soft edges and no true black, a rising
curve a channel gives the draws the histogram of the real pixels. The density is that of the images before this curve and before W'.
A Gaussian takes a turn for a blend of pictures, which is true of small ones only; W' adds the others, sharp (Frey, Jojic: Estimating
Mixture Models of Images and Inferring Spatial Transformations Using the EM Algorithm, CVPR 1999).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from generators.base import Naming, Rows, Run
from generators.codecs.image import ImageCodec
from generators.nets.mixture import Mixtures
from generators.nets.tone import Tone
from generators.nets.warp import warped

COPIES, WARPED = 64, 32_000  # of an image that is warped, and of all images together
LOOK = 2000  # draws that the tone curve is read off
TINY = 1e-6  # the least variance of a pixel, of 1 between black and white squared


class Axes(nn.Module):
    """The parameters of (1) to (4)."""

    shares: Tensor  # [L]
    middle: Tensor  # [L, D]
    axes: Tensor  # [L, d, D]
    rest: Tensor  # [L]

    def __init__(self, shape: tuple[int, int, int], channels: int, shares: Tensor, axes: int, components: int):
        super().__init__()
        self.shape, cells = shape, math.prod(shape)
        axes = min(axes, cells)
        self.register_buffer("shares", shares)
        self.register_buffer("middle", torch.zeros(len(shares), cells))
        self.register_buffer("axes", torch.zeros(len(shares), axes, cells))
        self.register_buffer("rest", torch.ones(len(shares), dtype=torch.float64))
        self.density, self.tone = Mixtures(len(shares), components, axes), Tone(channels)

    def turned(self, label: int, x: Tensor) -> Tensor:
        """z, float64 [n, d], of x [n, D]."""
        return (x.double() - self.middle[label].double()) @ self.axes[label].double().T  # (1)

    def log_prob(self, label: int, x: Tensor) -> Tensor:
        """log p(x|label), float64 [n], of x [n, D]."""
        z = self.turned(label, x)
        left, count = (x.double() - self.middle[label].double()).square().sum(1) - z.square().sum(1), x.shape[1] - z.shape[1]
        haze = -0.5 * (left / self.rest[label] + count * (2 * math.pi * self.rest[label]).log()) if count else 0.0
        return self.density.log_prob(label, z) + haze  # (2)

    def soft(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Draws before the tone curve, float [n, C + K, H, W]."""
        z, x = self.density.draw(labels, rng), self.middle[labels]
        for label in labels.unique().tolist():
            x[labels == label] += z[labels == label] @ self.axes[label]  # (4)
        return x.unflatten(1, self.shape)


@dataclass(frozen=True)
class GMM(Naming):
    """`axes` and at most `components` a label; `floor` on the variance along an axis, in mean variances. With `augment` it learns from
    up to `COPIES` of each image, warped by so much (generators/nets/warp.py), and draws are warped as much: for few images of what may
    be turned and moved a little."""

    axes: int = 60
    components: int = 20
    floor: float = 0.01
    augment: float = 0.0
    codec: ClassVar[type[ImageCodec]] = ImageCodec

    def build(self, codec: ImageCodec) -> Axes:
        return Axes(codec.shape, codec.channels, torch.from_numpy(codec.shares).float(), self.axes, self.components)

    def learn(self, net: Axes, rows: Rows, run: Run) -> Axes:
        rng = torch.Generator().manual_seed(run.seed)
        copies = max(1, min(COPIES, WARPED // len(rows[1]))) if self.augment else 1
        rows = torch.cat([warped(rows[0], self.augment, rng) for _ in range(copies)]), rows[1].repeat(copies)  # (5)
        x, y = rows[0].flatten(1), rows[1]
        labels = y.unique().tolist()
        with torch.no_grad():
            for done, label in enumerate(labels):
                self.turn(net, label, x[y == label].float() / 255, run.seed)
                if run.progress:
                    run.progress(done + 1, len(labels), "labels")
            some = torch.randperm(len(y), generator=rng)[:LOOK]
            net.tone.learn(net.soft(y[some], rng)[:, : len(net.tone.real)], rows[0][some, : len(net.tone.real)].float() / 255)
        return net

    def turn(self, net: Axes, label: int, x: Tensor, seed: int) -> None:
        """Fit the rows of a label, float [n, D]."""
        net.middle[label] = x.mean(0)
        wanted, centred = net.axes.shape[1], x - x.mean(0)
        leading = torch.svd_lowrank(centred, min(wanted, len(x)), niter=6)[2]
        more = torch.randn(x.shape[1], wanted - leading.shape[1])  # a few rows span few axes: any others complete them
        net.axes[label] = torch.linalg.qr(torch.cat([leading, more], dim=1))[0].T
        z = net.turned(label, x)
        left = centred.double().square().sum() - z.square().sum()
        net.rest[label] = left / max(1, len(x) * (x.shape[1] - wanted)) + TINY
        net.density.learn(label, z, self.floor * float(z.square().mean()) + TINY, seed)

    def log_prob(self, net: Axes, rows: Rows) -> Tensor:
        """log p(x, y) in nats, float64 [n], of encoded rows: a density over pixels from 0 to 1."""
        x = rows[0].flatten(1).double() / 255
        return self.joint(net, x).gather(1, rows[1][:, None]).squeeze(1)

    def posterior(self, net: Axes, x: Tensor) -> Tensor:
        """P(y|x), float64 [n, L], of images uint8 [n, C + K, H, W]."""
        return self.joint(net, x.flatten(1).double() / 255).softmax(dim=1)  # (3)

    def joint(self, net: Axes, x: Tensor) -> Tensor:
        """log p(x, y) of every label, float64 [n, L], of x float [n, D]."""
        return torch.stack([share.log() + net.log_prob(label, x) for label, share in enumerate(net.shares.double())], dim=1)

    def draw(self, net: Axes, labels: Tensor, rng: torch.Generator) -> Tensor:
        made = (net.tone(net.soft(labels, rng)) * 255).round().clamp(0, 255).to(torch.uint8)  # (4)
        return warped(made, self.augment, rng)  # (5)
