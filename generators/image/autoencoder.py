"""Autoencoder for images, with a mixture of Gaussians for the codes of each label, fitted afterwards.

Ghosh, Sajjadi, Vergari, Black, Schölkopf: From Variational to Deterministic Autoencoders, 2020, arXiv:1903.12436.

    (1)  h = encoder(x) + sigma eps                                        one sigma for all codes: nothing variational
    (2)  loss = - log p(x|h) + pull |encoder(x)|^2 / 2                     the pull keeps the codes together, sigma keeps them apart
    (3)  p(h|y) = sum_m w_ym N(h; mu_ym, S_ym)                             EM on the codes (1) of the rows of label y

The decoder knows no label: a draw's label is where its code comes from. A draw is the decoder's mean image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from generators.base import Descending, Labelled, Rows, Run
from generators.codecs.image import ImageCodec
from generators.nets.likelihood import grey, painted
from generators.nets.mixture import Mixtures
from generators.nets.mlp import MLP
from generators.train import Training

BATCH = 1024  # images that pass through a net at once
FLOOR = 1e-4  # added to the variance of a code
COPIES = 8  # codes of each image that the density is fitted to: it shall not fit their noise


class Coder(nn.Module):
    """Encoder and decoder MLPs over pixels from 0 to 1."""

    def __init__(self, shape: tuple[int, int, int], channels: int, latent: int, hidden: int, depth: int):
        super().__init__()
        self.shape, self.channels, cells = shape, channels, math.prod(shape)
        self.encoder = MLP(cells, hidden, depth, latent)
        self.decoder = MLP(latent, hidden, depth, cells)

    def encode(self, x: Tensor) -> Tensor:
        """Codes, float [n, latent], of images uint8 [n, C + K, H, W]."""
        return self.encoder(x.float().flatten(1) / 255)

    def decode(self, h: Tensor) -> Tensor:
        """The decoder's values, float [n, C + K, H, W]."""
        return self.decoder(h).unflatten(1, self.shape)


class Coded(nn.Module):
    """A coder, and the density of its codes."""

    shares: Tensor  # [L]

    def __init__(self, coder: Coder, density: Mixtures, shares: Tensor):
        super().__init__()
        self.coder, self.density = coder, density
        self.register_buffer("shares", shares)


@dataclass(frozen=True)
class Autoencoder(Descending, Labelled):
    """`latent` dimensions; MLPs of `depth` layers of `hidden`; `sigma` and `pull` on the codes; at most `components` a label."""

    latent: int = 24
    hidden: int = 400
    depth: int = 2
    sigma: float = 0.3
    pull: float = 0.3
    components: int = 2
    training: Training = Training(epochs=40, least_steps=1500, batch=128, lr=2e-3, weight_decay=0.01, ema=0.998)
    codec: ClassVar[type[ImageCodec]] = ImageCodec

    def build(self, codec: ImageCodec) -> Coded:
        shares = torch.from_numpy(codec.shares).float()
        coder = Coder(codec.shape, codec.channels, self.latent, self.hidden, self.depth)
        return Coded(coder, Mixtures(len(shares), self.components, self.latent), shares)

    def learn(self, net: Coded, rows: Rows, run: Run) -> Coded:
        coder: Any = self.descend(net.coder, rows, replace(run, minutes=run.minutes and 0.9 * run.minutes))
        net.coder = coder
        with torch.no_grad():
            codes = torch.cat([coder.encode(part.to(run.device)) for part in rows[0].split(BATCH)]).cpu()
            rng = torch.Generator().manual_seed(run.seed)
            noisy = codes + self.sigma * torch.randn(COPIES, *codes.shape, generator=rng)  # (1)
            net.density.cpu()
            for label in rows[1].unique().tolist():
                net.density.learn(label, noisy[:, rows[1] == label].flatten(0, 1), FLOOR, run.seed, COPIES)  # (3)
        return net

    def loss(self, net: Coder, rows: Rows, phase: str) -> Tensor:
        code = net.encode(rows[0])
        values = net.decode(code + self.sigma * torch.randn_like(code))  # (1)
        return (grey(values, rows[0].float() / 255, net.channels) + self.pull * code.square().sum(1) / 2).mean()  # (2)

    def draw(self, net: Coded, labels: Tensor, rng: torch.Generator) -> Tensor:
        codes = net.density.draw(labels, rng)
        return torch.cat([painted(net.coder.decode(part), net.coder.channels) for part in codes.split(BATCH)])
