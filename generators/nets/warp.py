"""Light changes of a picture that leave what it shows as it is: turned, stretched, slanted and moved a little, each by chance.

Simard, Steinkraus, Platt: Best Practices for Convolutional Neural Networks Applied to Visual Document Analysis, ICDAR 2003.

    (1)  x'(p) = x(A p + b),   A = R(turn) [[1 + s, k], [0, 1 + t]],   p from -1 to 1, the edge drawn out
    (2)  turn ~ U(-a, a) radians;   s, t, k ~ U(-a / 2, a / 2);   b ~ U(-a / 2, a / 2) in half sides
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def warped(x: Tensor, amount: float, rng: torch.Generator | None = None) -> Tensor:
    """x' of uint8 [n, C, H, W], each picture in its own way, uint8; `amount` is a in (2), `rng` None the global generator.

    x itself where the amount is 0.
    """
    if not amount:
        return x
    n = len(x)

    def chance(scale: float) -> Tensor:
        return (2 * torch.rand(n, generator=rng) - 1) * scale

    turn, zero = chance(amount), torch.zeros(n)
    round_ = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], dim=1).view(n, 2, 2)
    stretch = torch.stack([1 + chance(amount / 2), chance(amount / 2), zero, 1 + chance(amount / 2)], dim=1).view(n, 2, 2)
    by = torch.stack([chance(amount / 2), chance(amount / 2)], dim=1)[:, :, None]
    places = F.affine_grid(torch.cat([round_ @ stretch, by], dim=2).to(x.device), list(x.shape), align_corners=False)
    return F.grid_sample(x.float(), places, padding_mode="border", align_corners=False).round().to(torch.uint8)  # (1)
