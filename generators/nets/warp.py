"""Light changes of a picture that leave what it shows as it is: turned, stretched, slanted and moved a little, each by chance.

Simard, Steinkraus, Platt: Best Practices for Convolutional Neural Networks Applied to Visual Document Analysis, ICDAR 2003.

    (1)  x'(p) = x(A p + b),   A = R(turn) [[1 + s, k], [0, 1 + t]],   p from -1 to 1, the edge drawn out
    (2)  turn ~ U(-a, a) radians;   s, t, k ~ U(-a / 2, a / 2);   b ~ U(-a / 2, a / 2) in half sides

Moved by whole pixels alone, a picture keeps every one of them sharp.
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


def shifted(x: Tensor, shift: float, some: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(x' of x [n, C, H, W], each picture moved down and right by up to `shift` of a side, its edge drawn out; how far, [n, 2] pixels).

    Only pictures where `some` [n] is 1, not 0. By whole pixels, all channels alike.
    """
    n, _, height, width = x.shape
    offset = (2 * torch.rand(2, n, 1, device=x.device) - 1) * shift
    offset = offset if some is None else offset * some[:, None]
    by = [(part * side).round().long() for part, side in zip(offset, (height, width), strict=True)]
    row, column = ((torch.arange(side, device=x.device) - part).clamp(0, side - 1) for part, side in zip(by, (height, width), strict=True))
    each = torch.arange(n, device=x.device)[:, None, None]
    moved = x.permute(0, 2, 3, 1)[each, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)
    return moved, torch.cat(by, dim=1)
