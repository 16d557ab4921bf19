"""PixelRNN with Row LSTM: images place by place, by LSTMs that go from row to row for all columns at once.

van den Oord, Kalchbrenner, Kavukcuoglu: Pixel Recurrent Neural Networks, 2016, arXiv:1601.06759. The likelihood, the first kernels and
the net within a place are those of generators/nets/pixels.py.

    (1)  a_i = K_s * s_i-1, j-1…j+1 + K_h * h_i, j-1…j + b_y     state to state: the row above; input to state, masked B: the left
    (2)  o, f, i, g = sigmoid(a_1), sigmoid(a_2), sigmoid(a_3), tanh(a_4)
    (3)  c_i = f c_i-1 + i g,   s_i = o tanh c_i                 the memory of a column, and its state
    (4)  h' = h + O s

A state hears of a triangle of places that opens upwards without end. When sampling, K_s of the row above is computed once a row, and
everything else from place to place.
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
    """(1) to (4)."""

    def __init__(self, width: int, labels: int, dropout: float):
        super().__init__()
        self.down = nn.Conv1d(width, 4 * width, 3, padding=1, bias=False)
        self.along = nn.Conv2d(width, 4 * width, (1, 2), bias=False)
        self.out = nn.Conv2d(width, width, 1)
        self.label = nn.Embedding(labels, 4 * width)
        self.drop = nn.Dropout(dropout)

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        """h [n, c, H, W] -> h'."""
        heard = self.along(F.pad(h, (1, 0))) + self.label(y)[:, :, None, None]
        memory = state = torch.zeros_like(h[:, :, 0])
        states = []
        for row in heard.unbind(2):
            memory, state = step(self.down(state) + row, memory)  # (1)
            states.append(state)
        return h + self.out(self.drop(torch.stack(states, dim=2)))  # (4)


class Rows(Body):
    """`depth` layers of Row LSTM."""

    def __init__(self, width: int, depth: int, labels: int, dropout: float):
        super().__init__()
        self.layers: Any = nn.ModuleList(Layer(width, labels, dropout) for _ in range(depth))

    def forward(self, v: Tensor, h: Tensor, y: Tensor) -> Tensor:
        for layer in self.layers:
            h = layer(h, y)
        return h

    def walk(self, y: Tensor) -> Walk:
        return Cache(self, y)


class Cache(Walk):
    """The memories and states of the row above and of this row, one of each a layer, and the last place of h."""

    def __init__(self, body: Rows, y: Tensor):
        self.body = body
        self.labels = [layer.label(y) for layer in body.layers]
        self.memory: list[Tensor] = []
        self.state: list[Tensor] = []
        self.heard: list[Tensor] = []
        self.left: list[Tensor] = []

    def row(self, v: Tensor) -> None:
        layers = self.body.layers
        self.memory = self.memory or [torch.zeros_like(v[:, :, 0]) for _ in layers]
        self.state = self.state or [torch.zeros_like(v[:, :, 0]) for _ in layers]
        self.heard = [layer.down(state) + label[:, :, None] for layer, state, label in zip(layers, self.state, self.labels, strict=True)]
        self.left = [torch.zeros_like(v[:, :, 0, 0])] * len(layers)

    def column(self, h: Tensor, j: int) -> Tensor:
        for k, layer in enumerate(self.body.layers):
            a = self.heard[k][:, :, j] + at(layer.along, torch.stack([self.left[k], h], dim=2))
            self.memory[k][:, :, j], self.state[k][:, :, j] = step(a, self.memory[k][:, :, j])
            self.left[k], h = h, h + at(layer.out, self.state[k][:, :, j])
        return h


@dataclass(frozen=True)
class PixelRNN(Pixelwise):
    """Row LSTM."""

    depth: int = 3
    training: Training = Training(epochs=8, least_steps=600, batch=32, lr=2e-3, ema=0.995)

    def body(self, labels: int) -> Rows:
        return Rows(self.width, self.depth, labels, self.dropout)


def step(a: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Gates [n, 4c, …] and memory [n, c, …] -> memory and state."""
    leave, keep, enter, fresh = a.chunk(4, dim=1)
    memory = keep.sigmoid() * memory + enter.sigmoid() * fresh.tanh()  # (2, 3)
    return memory, leave.sigmoid() * memory.tanh()
