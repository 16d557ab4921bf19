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
    """`levels` of grey; places of `patch` × `patch` pixels; `width` channels in `depth` layers; `hidden` units a slot."""

    levels: int = 8
    patch: int = 2
    width: int = 48
    depth: int = 5
    hidden: int = 32
    dropout: float = 0.1
    shift: int = 0
    codec: ClassVar[type[ImageCodec]] = ImageCodec

    @abstractmethod
    def body(self, labels: int) -> Body:
        """The layers that tell this generator from the others."""

    @final
    def build(self, codec: ImageCodec) -> PixelNet:
        if not 2 <= self.levels <= 256:
            raise BadInput(f"levels is {self.levels}: grey values can be cut into 2 to 256 levels")
        grid = Grid(codec.shape, codec.classes, self.levels, self.patch)
        return PixelNet(grid, self.body(len(codec.shares)), torch.from_numpy(codec.shares), self.width, self.hidden)

    @final
    def learn(self, net: PixelNet, rows: Rows, run: Run) -> nn.Module:
        net.grid.measure(rows[0])
        return self.descend(net, rows, run)

    @final
    def loss(self, net: PixelNet, rows: Rows, phase: str) -> Tensor:
        x, y = rows
        if net.training and self.shift:
            x = shifted(x, self.shift)
        if net.training and self.levels == 2:
            image, mask = x[:, : net.grid.channels], x[:, net.grid.channels :]
            x = torch.cat([(torch.rand(image.shape, device=x.device) * 255 < image).to(torch.uint8) * 255, mask], dim=1)
        return net.surprise(net.grid(x), y).mean() / net.grid.inside.sum()

    @final
    def log_prob(self, net: PixelNet, rows: Rows) -> Tensor:
        """log p(x | y) in nats, float [n], of 8-bit images; with 2 levels, of black and white ones."""
        parts = zip(rows[0].split(IMAGES), rows[1].split(IMAGES), strict=True)
        return torch.cat([net.grid.log_within(x) - net.surprise(net.grid(x), y) for x, y in parts])

    @final
    def draw(self, net: PixelNet, labels: Tensor, rng: torch.Generator) -> Tensor:
        return torch.cat([net.grid.images(net.draw(part, rng), rng) for part in labels.split(IMAGES)])


def shifted(x: Tensor, most: int) -> Tensor:
    """Images [n, C, H, W], each moved by up to `most` pixels both ways; the edge is repeated."""
    n, _, height, width = x.shape
    down, right = torch.randint(-most, most + 1, (2, n, 1), device=x.device)
    rows = (torch.arange(height, device=x.device) + down).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device) + right).clamp(0, width - 1)
    return x[torch.arange(n, device=x.device)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
