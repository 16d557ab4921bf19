"""Nets and fixed filters of style transfer: makers that turn one image into another, critics of patches, edges, and ink that spreads.

Residual makers with normalised instances: Johnson, Alahi, Fei-Fei: Perceptual Losses for Real-Time Style Transfer, 2016,
arXiv:1603.08155; critics of patches: Isola, Zhu, Zhou, Efros: Image-to-Image Translation with Conditional Adversarial Networks, 2016,
arXiv:1611.07004. Images are floats [n, C, H, W] in [-1, 1]; 1 is the paper's white.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LIGHT = (0.299, 0.587, 0.114)  # of red, green, blue in how bright a pixel is
SCALES = (1, 2)  # the images' own pixels, and squares of so many
STEEP, FAINT = 0.04, 0.12  # of the slope at which an edge is half there, in the range of brightness a pixel


class Residual(nn.Module):
    """h + conv(conv(h)): [n, width, H, W] -> the same."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = convolved(width, width), convolved(width, width)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.second(F.relu(self.first(h)))


class Maker(nn.Module):
    """Images of any size -> images of the same, through maps of a quarter of the side; each size also hands its map straight across."""

    def __init__(self, channels: int, width: int, blocks: int):
        super().__init__()
        self.enter = convolved(channels, width)
        self.down = nn.ModuleList(convolved(width * 2**k, width * 2 ** (k + 1), stride=2) for k in range(2))
        self.blocks = nn.Sequential(*(Residual(4 * width) for _ in range(blocks)))
        self.up = nn.ModuleList(grown(width * 2 ** (k + 1), width * 2**k) for k in (1, 0))
        self.leave = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.enter(x))
        kept = [h]
        for down in self.down:
            h = F.relu(down(h))
            kept.append(h)
        h = self.blocks(h)
        for up, across in zip(self.up, kept[-2::-1], strict=True):
            h = F.relu(up(h)[:, :, : across.shape[2], : across.shape[3]]) + across
        return self.leave(h).tanh()


class Critic(nn.Module):
    """Images -> how real each patch of them is, [n, 1, h, w]."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.GroupNorm(1, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 3, 1, 1),
            nn.GroupNorm(1, 4 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 3, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def convolved(inner: int, outer: int, stride: int = 1) -> nn.Sequential:
    """A convolution and its norm."""
    return nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.InstanceNorm2d(outer, affine=True))


def grown(inner: int, outer: int) -> nn.Sequential:
    """A convolution to twice the side, and its norm."""
    return nn.Sequential(nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=False), nn.InstanceNorm2d(outer, affine=True))


def brightness(x: Tensor) -> Tensor:
    """[n, 1, H, W] in [0, 1] of images [n, C, H, W] in [-1, 1], C 1 or 3 and more."""
    weights = torch.tensor(LIGHT if x.shape[1] >= len(LIGHT) else (1.0,), device=x.device, dtype=x.dtype)
    return (x[:, : len(weights)] * weights[:, None, None]).sum(1, keepdim=True) / 2 + 0.5


def edges(x: Tensor) -> Tensor:
    """[n, 1, H, W] in (0, 1): how surely each pixel is on an edge, the surest of its scales; nothing in it is learnt."""
    light, found = brightness(x), []
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=x.device) / 8
    for scale in SCALES:
        small = F.avg_pool2d(light, scale, ceil_mode=True)
        slope = F.conv2d(F.pad(small, (1, 1, 1, 1), mode="replicate"), torch.stack([sobel, sobel.T])[:, None])
        steep = (slope.square().sum(1, keepdim=True) + 1e-8).sqrt()
        found.append(F.interpolate(((steep - FAINT) / STEEP).sigmoid(), size=light.shape[2:], mode="bilinear", align_corners=False))
    return torch.stack(found).amax(0).clamp(1e-4, 1 - 1e-4)


def eroded(x: Tensor, side: int) -> Tensor:
    """The darkest pixel of each square of an odd side around a pixel, of each channel: ink that spreads; beyond the image all is white."""
    return -F.max_pool2d(-x, side, stride=1, padding=side // 2)


def blurred(x: Tensor, side: int) -> Tensor:
    """A Gaussian mean over squares of an odd side, of a deviation of a sixth of it; beyond the image all is white."""
    reach = side // 2
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype) / (side / 6)).square())
    weights, channels = weights / weights.sum(), x.shape[1]
    x = F.pad(x, (reach, reach, reach, reach), value=1.0)
    rows = F.conv2d(x, weights.view(1, 1, side, 1).expand(channels, 1, side, 1), groups=channels)
    return F.conv2d(rows, weights.view(1, 1, 1, side).expand(channels, 1, 1, side), groups=channels)
