"""Images as numbers of a decoder: how surprising pixels are under them, and the image that they mean.

A decoder gives [n, C + K, H, W] for C channels of pixels and the K classes of a mask. Its values are those of scores: s(v) = sigmoid(v).

    (1)  grey:      - log p(x|v) = - x log s(v) - (1 - x) log s(-v)                      a chance to be white; a likelihood when x is 0 or 1
    (2)  logistic:  p(x|v) = s((x + 1/510 - s(v)) / b) - s((x - 1/510 - s(v)) / b)       a level of 256 around s(v), the ends open
    (3)  masks:     p(class k|v) = softmax(v)_k

Discretised logistic: Salimans, Karpathy, Chen, Kingma: PixelCNN++, 2017, arXiv:1701.05517.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

HALF = 1 / 510  # of a level


def grey(values: Tensor, x: Tensor, channels: int) -> Tensor:
    """- log p(x|values), float [n], of x [n, C + K, H, W] from 0 to 1."""
    terms = F.binary_cross_entropy_with_logits(values[:, :channels], x[:, :channels], reduction="none")  # (1)
    return terms.flatten(1).sum(1) + masked(values[:, channels:], x[:, channels:])


def logistic(values: Tensor, x: Tensor, channels: int, log_scale: Tensor) -> Tensor:
    """- log p(level of x|values), float [n]; `log_scale` is log b, [C, H, W]."""
    rest, scale = x[:, :channels] - values[:, :channels].sigmoid(), torch.exp(-log_scale)
    above, below = torch.sigmoid((rest + HALF) * scale), torch.sigmoid((rest - HALF) * scale)
    above, below = above.where(x[:, :channels] < 1 - HALF, 1.0), below.where(x[:, :channels] > HALF, 0.0)
    return -(above - below).clamp(min=1e-7).log().flatten(1).sum(1) + masked(values[:, channels:], x[:, channels:])  # (2)


def masked(values: Tensor, x: Tensor) -> Tensor:
    """- log p of the classes x, one-hot [n, K, H, W]."""
    return -(values.log_softmax(1) * x).flatten(1).sum(1)  # (3)


def painted(values: Tensor, channels: int) -> Tensor:
    """The mean image, uint8 [n, C + K, H, W]."""
    mean = torch.cat([values[:, :channels].sigmoid(), values[:, channels:].softmax(1)], dim=1)
    return (mean * 255).round().to(torch.uint8)
