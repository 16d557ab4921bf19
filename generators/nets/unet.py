"""A U-Net for images of any size: convolutions on the way down and up, and in the middle a dense layer that sees the whole picture.

Ronneberger, Fischer, Brox: U-Net, 2015, arXiv:1505.04597; scale and shift by time and label, and layers that begin at zero, as in
Dhariwal, Nichol: Diffusion Models Beat GANs on Image Synthesis, 2021, arXiv:2105.05233.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP = 8  # channels that are normalised together: with fewer, an image would lose its brightness
Layer = TypeVar("Layer", bound=nn.Module)


class Block(nn.Module):
    """h + conv(conv(h)): [n, width, H, W] -> the same. The cue [n, cues] scales and shifts what is between. Begins as the identity."""

    def __init__(self, width: int, cues: int):
        super().__init__()
        self.before, self.between = nn.GroupNorm(width // GROUP, width), nn.GroupNorm(width // GROUP, width, affine=False)
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), zero(nn.Conv2d(width, width, 3, padding=1))
        self.cue = zero(nn.Linear(cues, 2 * width))

    def forward(self, h: Tensor, cue: Tensor) -> Tensor:
        scale, shift = self.cue(cue)[:, :, None, None].chunk(2, dim=1)
        inner = self.between(self.first(F.silu(self.before(h)))) * (1 + scale) + shift
        return h + self.second(F.silu(inner))


class Whole(nn.Module):
    """h + dense(h): every place of [n, width, H, W] hears of all the others, through `thin` channels. Begins as the identity."""

    def __init__(self, width: int, places: int, cues: int, hidden: int, thin: int):
        super().__init__()
        self.norm, self.narrow, self.widen = nn.GroupNorm(width // GROUP, width), nn.Conv2d(width, thin, 1), zero(nn.Conv2d(thin, width, 1))
        self.enter, self.cue = nn.Linear(thin * places, hidden), nn.Linear(cues, hidden)
        self.inner, self.leave = nn.Linear(hidden, hidden), nn.Linear(hidden, thin * places)

    def forward(self, h: Tensor, cue: Tensor) -> Tensor:
        thin = self.narrow(self.norm(h))
        dense = F.silu(self.enter(thin.flatten(1)) + self.cue(cue))
        dense = dense + F.silu(self.inner(dense))
        return h + self.widen(self.leave(dense).view(thin.shape))


class UNet(nn.Module):
    """float [n, C, H, W] at times [n] in [0, 1] with labels [n] -> float [n, C, H, W]; zero before it has learnt.

    With a `shift` it learns from pictures that are moved by up to so much of a side, and is told by how many pixels, [n, 2].

    Patches become places, so that the widest map is at most `finest` a side; each of `levels` maps is half the one before, the first of
    `width` channels, the others of twice as many. Images are padded to whole places.
    """

    waves: Tensor

    def __init__(self, shape: tuple[int, int, int], labels: int, width: int, finest: int, levels: int, hidden: int, shift: float):
        super().__init__()
        self.shape, self.shift = shape, shift
        channels, *sides = shape
        patch = 2 ** max(0, math.ceil(math.log2(max(sides) / finest)))
        grain = patch * 2 ** (levels - 1)
        self.pad = [-side % grain for side in sides]
        places = math.prod((side + pad) // grain for side, pad in zip(sides, self.pad, strict=True))
        widths, cues = [width] + [2 * width] * (levels - 1), 4 * width
        steps = list(pairwise(widths))
        self.register_buffer("waves", torch.logspace(0, 3, width), persistent=False)
        self.clock = nn.Sequential(nn.Linear(2 * width, cues), nn.SiLU(), nn.Linear(cues, cues))
        self.label = nn.Embedding(labels, cues)
        self.enter, self.leave = nn.Conv2d(channels, width, patch, patch), zero(nn.ConvTranspose2d(width, channels, patch, patch))
        self.down = nn.ModuleList(Block(w, cues) for w in widths)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in steps)
        self.middle = Whole(widths[-1], places, cues, hidden, width // 2)
        self.merge = nn.ModuleList(nn.Conv2d(2 * w, w, 1) for w in widths)
        self.up = nn.ModuleList(Block(w, cues) for w in widths)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in steps)
        self.norm = nn.GroupNorm(width // GROUP, width)
        self.moved = zero(nn.Linear(2, cues, bias=False)) if shift else None
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.weight.data = layer.weight.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, by: Tensor | None = None) -> Tensor:
        angle = t[:, None] * self.waves
        cue = self.clock(torch.cat([angle.cos(), angle.sin()], dim=1)) + self.label(y)
        cue = F.silu(cue if self.moved is None or by is None else cue + self.moved(by.float()))
        padded = F.pad(x, (0, self.pad[1], 0, self.pad[0]))
        h = self.enter(padded.contiguous(memory_format=torch.channels_last))
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            h = block(self.shrink[level - 1](h) if level else h, cue)
            kept.append(h)
        h = self.middle(h, cue)
        for level in reversed(range(len(self.up))):
            h = self.up[level](self.merge[level](torch.cat([h, kept[level]], dim=1)), cue)
            h = self.grow[level - 1](h) if level else h
        return self.leave(F.silu(self.norm(h)))[:, :, : x.shape[2], : x.shape[3]]


def zero(layer: Layer) -> Layer:
    """The layer, with zeros for weights."""
    for weights in layer.parameters():
        nn.init.zeros_(weights)
    return layer
