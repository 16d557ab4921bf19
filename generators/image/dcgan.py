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

from generators.base import Labelled, Neural, Rows
from generators.codecs.image import ImageCodec, signed, unsigned
from generators.nets.adversarial import Critic, Players, finished, play
from generators.nets.warp import warped
from generators.train import Training

SMALLEST = 8  # the longest side that the smallest map may have
AT_ONCE = 256  # images made together


class Maker(nn.Module):
    """noise [n, Z], labels [n] -> images [n, C + K, H, W]; a map too large is cut to size."""

    def __init__(self, noise: int, labels: int, shape: tuple[int, int, int], channels: int, widths: list[int]):
        super().__init__()
        self.shape, self.channels, self.widths = shape, channels, widths
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
class DCGAN(Neural, Labelled):
    """Maps of `width` channels at half the size, twice as many at each halving; real images are warped by up to `augment`
    (generators/nets/warp.py), and so are those it makes; the other fields as in image/gan."""

    noise: int = 64
    width: int = 32
    penalty: float = 1.0
    shift: float = 0.05
    legible: float = 0.2
    augment: float = 0.0
    training: Training = Training(epochs=75, least_steps=1000, batch=64, lr=1e-3, betas=(0.0, 0.95), ema=0.999, decay=0.7)
    phases: ClassVar[tuple[str, ...]] = ("critic", "maker")
    sizes: ClassVar[tuple[dict[str, Any], ...]] = ({"width": 16},)
    codec: ClassVar[type[ImageCodec]] = ImageCodec

    def build(self, codec: ImageCodec) -> Players:
        longest, labels = max(codec.shape[1:]), len(codec.shares)
        halvings = next(k for k in range(1, 32) if longest <= SMALLEST * 2**k)
        widths = [self.width * 2**k for k in range(halvings)]
        maker = Maker(self.noise, labels, codec.shape, codec.channels, widths)
        reader = Reader(codec.shape, widths)
        critic = Critic(reader, reader.features, labels)
        net = Players(maker, critic, torch.from_numpy(codec.shares).float(), self.noise, codec.channels)
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(self, net: Players, rows: Rows, phase: str) -> Tensor:
        x = signed(warped(rows[0], self.augment))
        return play(net, x, rows[1], phase, penalty=self.penalty, shift=self.shift, legible=self.legible)

    def draw(self, net: Players, labels: Tensor, rng: torch.Generator) -> Tensor:
        return torch.cat([unsigned(net.make(part, rng)) for part in labels.split(AT_ONCE)])
