"""Convolutional generative adversarial network, without normalisation over batches.

Radford, Metz, Chintala: Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks, 2015,
arXiv:1511.06434; plain nets with a well-behaved loss: Huang, Gokaslan, Kuleshov, Tompkin, 2025, arXiv:2501.05441; its equations stand in
generators/nets/adversarial.py; normalised pixels: Karras, Aila, Laine, Lehtinen: Progressive Growing of GANs, 2017, arXiv:1710.10196.

    (1)  G(noise, y): [noise, e_y] -> the smallest map -> maps of twice the side and half the channels, by transposed convolutions
    (2)  between layers: h / sqrt(mean of h^2 over the channels of a pixel), leaky ReLU
    (3)  D(x, y): convolutions of stride 2 down to the smallest map, then (v + w_y) . h + b
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.codecs.image import ImageCodec
from generators.image.adversary import Adversarial
from generators.nets.adversarial import finished
from generators.train import Training

SMALLEST = 8  # the longest side that the smallest map may have


class Maker(nn.Module):
    """noise [n, Z], labels [n] -> images [n, C + K, H, W]; a map too large is cut to size."""

    def __init__(self, noise: int, labels: int, shape: tuple[int, int, int], channels: int, widths: list[int]):
        super().__init__()
        self.noise, self.shape, self.channels, self.widths = noise, shape, channels, widths
        self.base = [-(-side // 2 ** len(widths)) for side in shape[1:]]
        self.label = nn.Embedding(labels, noise)
        self.enter = nn.Linear(2 * noise, widths[-1] * self.base[0] * self.base[1])
        sizes = [*reversed(widths), shape[0]]
        self.ups = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise(sizes))

    def forward(self, noise: Tensor, y: Tensor) -> Tensor:
        h = self.enter(torch.cat([noise, self.label(y)], dim=1)).view(-1, *self.base, self.widths[-1]).permute(0, 3, 1, 2)
        for up in self.ups:
            h = up(F.leaky_relu(h * h.square().mean(1, keepdim=True).add(1e-8).rsqrt(), 0.2))  # (1), (2)
        return finished(h[:, :, : self.shape[1], : self.shape[2]], self.channels)


class Reader(nn.Module):
    """images [n, C + K, H, W] -> features [n, F], F in `features`; an image of odd size gets its edge drawn out."""

    def __init__(self, shape: tuple[int, int, int], widths: list[int]):
        super().__init__()
        self.margin = [-side % 2 ** len(widths) for side in shape[1:]]
        height, width = (-(-side // 2 ** len(widths)) for side in shape[1:])
        self.features = widths[-1] * height * width
        sizes = [shape[0], *widths]
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        h = F.pad(x, (0, self.margin[1], 0, self.margin[0]), mode="replicate") if any(self.margin) else x
        for down in self.downs:
            h = F.leaky_relu(down(h), 0.2)
        return h.flatten(1)  # (3)


@dataclass(frozen=True)
class DCGAN(Adversarial):
    """Maps of `width` channels at half the size, twice as many at each halving."""

    width: int = 32
    training: Training = Training(epochs=75, least_steps=1000, batch=64, lr=1e-3, betas=(0.0, 0.95), ema=0.999, decay=0.7)
    sizes: ClassVar[tuple[dict[str, Any], ...]] = ({"width": 16},)

    def maker(self, codec: ImageCodec) -> Maker:
        return Maker(self.noise, len(codec.shares), codec.shape, codec.channels, self.widths(codec))

    def reader(self, codec: ImageCodec) -> Reader:
        return Reader(codec.shape, self.widths(codec))

    def widths(self, codec: ImageCodec) -> list[int]:
        """The channels of the maps, from half the size of an image to the smallest."""
        return [self.width * 2**k for k in range(halvings(codec.shape))]


def halvings(shape: tuple[int, int, int]) -> int:
    """How often an image [C + K, H, W] is halved until it is at most `SMALLEST`, at least once."""
    return next(k for k in range(1, 32) if max(shape[1:]) <= SMALLEST * 2**k)
