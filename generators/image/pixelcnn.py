"""Gated PixelCNN: images place by place, by two stacks of convolutions that see only what was drawn before.

van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu: Conditional Image Generation with PixelCNN Decoders, 2016,
arXiv:1606.05328; sampling from caches in the spirit of Ramachandran et al.: Fast Generation for Convolutional Autoregressive Models,
2017, arXiv:1704.06001. The likelihood, the first kernels and the net within a place are those of generators/nets/pixels.py.

    (1)  g(a; y) = tanh(a_1 + p_y) sigmoid(a_2 + q_y)            the gate, biased by the label
    (2)  a = V * v_i-1…i, j-1…j+1,   v' = g(a)                   the vertical stack: the rows above this one, no blind spot
    (3)  b = H * h_i, j-1…j + L a_ij                             the horizontal stack: what is to the left, and the vertical stack
    (4)  h' = h + O g(b)

Row i of (2) begins with what is above it, so a row of the vertical stack is computed once its forerunner is drawn; (3) and (4) then go
from place to place. Each layer remembers one row of v and one place of h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.image.pixelwise import Pixelwise
from generators.nets.pixels import Body, Walk, at
from generators.train import Training


class Layer(nn.Module):
    """(2) to (4). The vertical stack has no say about its own row: what it reads, (2) of nets/pixels.py, lies above."""

    def __init__(self, width: int, labels: int, dropout: float):
        super().__init__()
        self.down = nn.Conv2d(width, 2 * width, (2, 3), bias=False)
        self.along = nn.Conv2d(width, 2 * width, (1, 2), bias=False)
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        self.label = nn.Embedding(labels, 4 * width)
        self.drop = nn.Dropout(dropout)

    def gates(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The biases of labels [n] in both stacks, [n, 2c, 1, 1] each."""
        down, along = self.label(y)[:, :, None, None].chunk(2, dim=1)
        return down, along

    def vertical(self, v: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """v [n, c, r + 1, W], a row more than is asked for -> v' [n, c, r, W] and what the horizontal stack hears of it [n, 2c, r, W]."""
        a, (down, along) = self.down(F.pad(v, (1, 1))), self.gates(y)
        return gate(a + down), self.link(a) + along  # (2)

    def forward(self, v: Tensor, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """v, h [n, c, H, W] -> v', h'."""
        v, heard = self.vertical(F.pad(v, (0, 0, 1, 0)), y)
        b = self.along(F.pad(h, (1, 0))) + heard  # (3)
        return v, h + self.out(self.drop(gate(b)))  # (4)


class Stacks(Body):
    """`depth` layers."""

    def __init__(self, width: int, depth: int, labels: int, dropout: float):
        super().__init__()
        self.layers: Any = nn.ModuleList(Layer(width, labels, dropout) for _ in range(depth))

    def forward(self, v: Tensor, h: Tensor, y: Tensor) -> Tensor:
        v, h = (t.contiguous(memory_format=torch.channels_last) for t in (v, h))
        for layer in self.layers:
            v, h = layer(v, h, y)
        return h

    def walk(self, y: Tensor) -> Walk:
        return Cache(self, y)


class Cache(Walk):
    """The last row of v, the last place of h, and what the horizontal stack hears in this row: one of each a layer."""

    def __init__(self, body: Stacks, y: Tensor):
        self.body, self.y = body, y
        self.above: list[Tensor] = []
        self.heard: list[Tensor] = []
        self.left: list[Tensor] = []

    def row(self, v: Tensor) -> None:
        self.above = self.above or [torch.zeros_like(v)] * len(self.body.layers)
        self.left = [torch.zeros_like(v[:, :, 0, 0])] * len(self.body.layers)
        self.heard, rows = [], []
        for layer, above in zip(self.body.layers, self.above, strict=True):
            rows.append(v)
            v, heard = layer.vertical(torch.cat([above, v], dim=2), self.y)
            self.heard.append(heard)
        self.above = rows

    def column(self, h: Tensor, j: int) -> Tensor:
        for k, layer in enumerate(self.body.layers):
            b = at(layer.along, torch.stack([self.left[k], h], dim=2)) + self.heard[k][:, :, 0, j]
            self.left[k], h = h, h + at(layer.out, gate(b))
        return h


@dataclass(frozen=True)
class PixelCNN(Pixelwise):
    """Gated PixelCNN."""

    training: Training = Training(epochs=10, least_steps=600, batch=32, lr=2e-3, ema=0.995)

    def body(self, labels: int) -> Stacks:
        return Stacks(self.width, self.depth, labels, self.dropout)


def gate(a: Tensor) -> Tensor:
    """[n, 2c, …] -> [n, c, …]."""
    signal, share = a.chunk(2, dim=1)
    return signal.tanh() * share.sigmoid()  # (1)
