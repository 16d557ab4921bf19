"""Generative adversarial network of plain layers: a maker of images learns from a critic who tells them from real ones.

Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio: Generative Adversarial Networks, 2014, arXiv:1406.2661;
with labels: Mirza, Osindero: Conditional Generative Adversarial Nets, 2014, arXiv:1411.1784. The loss, with which the game is stable,
stands in generators/nets/adversarial.py.

    (1)  G(noise, y) = tanh MLP([noise, e_y]),   noise ~ N(0, I)          a mask's channels by softmax instead
    (2)  D(x, y) = (v + w_y) . h + b,   h = MLP(x)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from generators.codecs.image import ImageCodec
from generators.image.adversary import Adversarial
from generators.nets.adversarial import finished
from generators.nets.mlp import MLP
from generators.train import Training


class Maker(nn.Module):
    """noise [n, Z], labels [n] -> images [n, C + K, H, W]."""

    def __init__(self, noise: int, labels: int, shape: tuple[int, int, int], channels: int, hidden: int, depth: int):
        super().__init__()
        self.noise, self.shape, self.channels = noise, shape, channels
        self.label = nn.Embedding(labels, noise)
        self.body = MLP(2 * noise, hidden, depth, prod(shape))

    def forward(self, noise: Tensor, y: Tensor) -> Tensor:
        return finished(self.body(torch.cat([noise, self.label(y)], dim=1)).view(-1, *self.shape), self.channels)  # (1)


class Reader(nn.Module):
    """images [n, C + K, H, W] -> features [n, F]."""

    def __init__(self, shape: tuple[int, int, int], hidden: int, depth: int):
        super().__init__()
        self.features = hidden
        self.body = MLP(prod(shape), hidden, depth, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.flatten(1))  # (2)


@dataclass(frozen=True)
class GAN(Adversarial):
    """MLPs of `depth` layers of `hidden`."""

    hidden: int = 256
    depth: int = 3
    training: Training = Training(epochs=64, least_steps=1000, batch=128, lr=1e-3, betas=(0.0, 0.95), ema=0.999, decay=0.7)

    def maker(self, codec: ImageCodec) -> Maker:
        return Maker(self.noise, len(codec.shares), codec.shape, codec.channels, self.hidden, self.depth)

    def reader(self, codec: ImageCodec) -> Reader:
        return Reader(codec.shape, self.hidden, self.depth)
