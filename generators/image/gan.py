"""Generative adversarial network of plain layers: a maker of images learns from a critic who tells them from real ones.

Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio: Generative Adversarial Networks, 2014, arXiv:1406.2661;
with labels: Mirza, Osindero: Conditional Generative Adversarial Nets, 2014, arXiv:1411.1784. The loss, with which the game is stable,
stands in generators/nets/adversarial.py.

    (1)  G(noise, y) = tanh MLP([noise, e_y]),   noise ~ N(0, I)          a mask's channels by softmax instead
    (2)  D(x, y) = (v + w_y) . h + b,   h = MLP(x)
    (3)  sampling: y ~ p(y), x = G(noise, y)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from generators.base import Labelled, Neural, Rows
from generators.codecs.image import ImageCodec, signed, unsigned
from generators.nets.adversarial import Critic, Players, finished, play
from generators.nets.mlp import MLP
from generators.train import Training

AT_ONCE = 512  # images made together


class Maker(nn.Module):
    """noise [n, Z], labels [n] -> images [n, C + K, H, W]."""

    def __init__(self, noise: int, labels: int, shape: tuple[int, int, int], channels: int, hidden: int, depth: int):
        super().__init__()
        self.shape, self.channels = shape, channels
        self.label = nn.Embedding(labels, noise)
        self.body = MLP(2 * noise, hidden, depth, prod(shape))

    def forward(self, noise: Tensor, y: Tensor) -> Tensor:
        return finished(self.body(torch.cat([noise, self.label(y)], dim=1)).view(-1, *self.shape), self.channels)  # (1)


@dataclass(frozen=True)
class GAN(Neural, Labelled):
    """MLPs of `depth` layers of `hidden`; `noise` dimensions.

    `penalty` is on the critic's slope, images move by up to `shift` of a side, and `legible` weighs that the critic reads the right label.
    """

    noise: int = 64
    hidden: int = 256
    depth: int = 3
    penalty: float = 1.0
    shift: float = 0.05
    legible: float = 0.2
    training: Training = Training(epochs=64, least_steps=1000, batch=128, lr=1e-3, betas=(0.0, 0.95), ema=0.999, decay=0.7)
    phases: ClassVar[tuple[str, ...]] = ("critic", "maker")
    codec: ClassVar[type[ImageCodec]] = ImageCodec

    def build(self, codec: ImageCodec) -> Players:
        labels = len(codec.shares)
        maker = Maker(self.noise, labels, codec.shape, codec.channels, self.hidden, self.depth)
        body = nn.Sequential(nn.Flatten(), MLP(prod(codec.shape), self.hidden, self.depth, self.hidden))
        critic = Critic(body, self.hidden, labels)  # (2)
        return Players(maker, critic, torch.from_numpy(codec.shares).float(), self.noise, codec.channels)

    def loss(self, net: Players, rows: Rows, phase: str) -> Tensor:
        return play(net, signed(rows[0]), rows[1], phase, penalty=self.penalty, shift=self.shift, legible=self.legible)

    def draw(self, net: Players, labels: Tensor, rng: torch.Generator) -> Tensor:
        return torch.cat([unsigned(net.make(part, rng)) for part in labels.split(AT_ONCE)])  # (3)
