"""The tone curve: one rising curve a channel that gives smooth draws the histogram of real pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

KNOTS = 513
CELLS = 1_000_000  # of a channel, at most, that a curve is read off


class Tone(nn.Module):
    """The level below which a share of the drawn pixels lies becomes the level below which as many real ones do."""

    drawn: Tensor  # [C, KNOTS]
    real: Tensor

    def __init__(self, channels: int):
        super().__init__()
        for name in ("drawn", "real"):
            self.register_buffer(name, torch.linspace(0, 1, KNOTS).repeat(channels, 1))

    def learn(self, drawn: Tensor, real: Tensor) -> None:
        """Quantiles of drawn and of real images, float [n, C, ...]."""
        share = torch.linspace(0, 1, KNOTS, dtype=torch.float64)
        for found, images in ((self.drawn, drawn), (self.real, real)):
            for channel, values in enumerate(images.transpose(0, 1).flatten(1)):
                level = values[:: len(values) // CELLS + 1].double().sort().values
                found[channel] = level[(share * (len(level) - 1)).long()]

    def forward(self, x: Tensor) -> Tensor:
        """float [n, C, ...], from the first C channels of x [n, C + K, ...]; the others stay as they are."""
        x = x.clone()
        for channel, (drawn, real) in enumerate(zip(self.drawn, self.real, strict=True)):
            values = x[:, channel].contiguous()
            right = torch.searchsorted(drawn, values, right=True).clamp(1, KNOTS - 1)
            part = ((values - drawn[right - 1]) / (drawn[right] - drawn[right - 1]).clamp(min=1e-9)).clamp(0, 1)
            x[:, channel] = torch.lerp(real[right - 1], real[right], part)
        return x
