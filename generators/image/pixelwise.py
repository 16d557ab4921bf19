"""What PixelCNN and PixelRNN share as generators: tokens, loss, exact likelihood and sampling; the net is in generators/nets/pixels.py."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from data.errors import BadInput
from generators.base import Descending, Labelled, Rows, Run
from generators.codecs.image import ImageCodec
from generators.nets.pixels import Body, Grid, PixelNet

IMAGES = 256  # at work side by side


@dataclass(frozen=True)
class Pixelwise(Descending, Labelled):
    """`levels` of grey, 2 for black and white; places of `patch` × `patch` pixels, each with a small net of `hidden` units a slot;
    `width` channels in `depth` layers.
    """

    levels: int = 8
    patch: int = 2
    width: int = 48
    depth: int = 5
    hidden: int = 32
    dropout: float = 0.1
    codec: ClassVar[type[ImageCodec]] = ImageCodec

    @abstractmethod
    def body(self, labels: int) -> Body:
        """The layers that tell this generator from the others."""

    @final
    def build(self, codec: ImageCodec) -> PixelNet:
        if not 2 <= self.levels <= 256:
            raise BadInput(f"levels is {self.levels}: grey values can be cut into 2 to 256 levels")
        if self.patch < 1:
            raise BadInput(f"patch is {self.patch}: a place is at least 1 pixel wide")
        grid = Grid(codec.shape, codec.classes, self.levels, self.patch)
        return PixelNet(grid, self.body(len(codec.shares)), torch.from_numpy(codec.shares), self.width, self.hidden)

    @final
    def learn(self, net: PixelNet, rows: Rows, run: Run) -> nn.Module:
        net.grid.measure(rows[0])
        return self.descend(net, rows, run)

    @final
    def loss(self, net: PixelNet, rows: Rows, phase: str) -> Tensor:
        x, y = rows
        if self.levels == 2:  # a pixel is white with probability its grey value; masks stay
            x = (torch.rand(x.shape, device=x.device) * 255 < x).to(torch.uint8) * 255
        return net.surprise(net.grid(x), y).mean() / net.grid.inside.sum()

    @final
    def log_prob(self, net: PixelNet, rows: Rows) -> Tensor:
        """log p(x | y) in nats, float [n], of 8-bit images; with 2 levels, of black and white ones, and -inf of others.

        Over - log 2 and the number of values of an image, these are bits a dimension.
        """
        parts = zip(rows[0].split(IMAGES), rows[1].split(IMAGES), strict=True)
        return torch.cat([net.grid.log_within(x) - net.surprise(net.grid(x), y) for x, y in parts])

    @final
    def draw(self, net: PixelNet, labels: Tensor, rng: torch.Generator) -> Tensor:
        return torch.cat([net.grid.images(net.draw(part, rng), rng) for part in labels.split(IMAGES)])
