"""Diffusion for tables: one Gaussian noise over scores and one-hot categories, denoised by a regression and a softmax.

Karras, Aittala, Aila, Laine: Elucidating the Design Space of Diffusion-Based Generative Models, 2022, arXiv:2206.00364;
Dieleman et al.: Continuous Diffusion for Categorical Data, 2022, arXiv:2211.15089.

    (1)  x = x_0 + sigma eps,   ln sigma ~ N(centre, spread^2)              x_0 = [z, one-hot c]
    (2)  D_z(x) = c_skip x + c_out F_z(c_in x, sigma),   c_skip = 1 / (sigma^2 + 1),   c_out = sigma c_skip^1/2,   c_in = c_skip^1/2
    (3)  D_c(x) = softmax(F_c(c_in x, sigma) + x / sigma^2)                 E[one-hot | x]: F_c is the prior, x / sigma^2 the evidence
    (4)  loss = |D_z - z|^2 / c_out^2 + cross-entropy of c under D_c
    (5)  dx / d sigma = (x - D(x; sigma)) / sigma                           Heun's method from the largest sigma to the smallest

The mean of a one-hot category given its noisy version is its vector of probabilities, so cross-entropy trains the very denoiser that the
sampler needs, and Bayes' rule gives the part of the logits that depends on the category's own noise.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.base import Neural, Rows
from generators.codecs.table import MixedCodec
from generators.nets.mlp import cross_entropy, draw, log_softmax, one_hot
from generators.train import Training

LARGEST, SMALLEST = 20.0, 0.01  # noise levels between which rows are sampled


class Denoiser(nn.Module):
    """F: residual blocks that are scaled and shifted by the noise level."""

    def __init__(self, scores: int, shares: list[np.ndarray], hidden: int, depth: int):
        super().__init__()
        self.scores, self.sizes = scores, [len(s) for s in shares]
        width = scores + sum(self.sizes)
        self.enter = nn.Linear(width, hidden)
        self.level = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 2 * hidden * depth))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden)) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.leave = nn.Linear(hidden, width)
        with torch.no_grad():
            self.leave.weight.zero_()
            self.leave.bias.zero_()
            for bias, share in zip(self.leave.bias[scores:].split(self.sizes), shares, strict=True):
                bias.copy_(torch.from_numpy(np.log(share + 1e-6)))

    def forward(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """x float [n, D + V], sigma float [n, 1] or [1, 1] -> the denoised scores [n, D] and the logits [n, V] of the categories."""
        skip = 1 / (sigma**2 + 1)
        waves = sigma.log() * (0.25 * 2 ** (torch.arange(16, device=x.device) / 3))
        h = self.enter(x * skip.sqrt())
        scales = self.level(torch.cat([waves.sin(), waves.cos()], dim=1)).chunk(2 * len(self.blocks), dim=1)
        for number, block in enumerate(self.blocks):
            h = h + block(self.norm(h) * (1 + scales[2 * number]) + scales[2 * number + 1])
        f = self.leave(F.silu(self.norm(h)))
        z = skip * x[:, : self.scores] + sigma * skip.sqrt() * f[:, : self.scores]  # (2)
        return z, f[:, self.scores :] + x[:, self.scores :] / sigma**2  # (3)


@dataclass(frozen=True)
class Diffusion(Neural):
    """`depth` blocks of `hidden` units; noise levels around e^`centre`; `steps` of the sampler, two evaluations each."""

    hidden: int = 256
    depth: int = 3
    centre: float = -0.5
    spread: float = 1.4
    steps: int = 16
    training: Training = Training(epochs=40, least_steps=500, batch=256, lr=2e-3, ema=0.998)
    codec: ClassVar[type[MixedCodec]] = MixedCodec

    def build(self, codec: MixedCodec) -> Denoiser:
        return Denoiser(len(codec.scores), codec.priors, self.hidden, self.depth)

    def loss(self, net: Denoiser, rows: Rows, phase: str) -> Tensor:
        z, c = rows
        clean = torch.cat([z, one_hot(c, net.sizes)], dim=1)
        sigma = (self.centre + self.spread * torch.randn(len(z), 1, device=z.device)).exp()
        denoised, logits = net(clean + sigma * torch.randn_like(clean), sigma)  # (1)
        error = ((denoised - z) ** 2 * (sigma**2 + 1) / sigma**2).sum(1)
        return (error + cross_entropy(logits, c, net.sizes)).mean()  # (4)

    def sample(self, net: Denoiser, n: int, rng: torch.Generator) -> Rows:
        parts = [self.integrate(net, min(4096, n - start), rng) for start in range(0, n, 4096)]
        return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))

    def integrate(self, net: Denoiser, n: int, rng: torch.Generator) -> Rows:
        """n draws (z, c) by Heun's method on equation (5)."""
        ends = LARGEST ** (1 / 7), SMALLEST ** (1 / 7)
        levels = [(ends[0] + i / (self.steps - 1) * (ends[1] - ends[0])) ** 7 for i in range(self.steps)]
        x = torch.randn(n, net.scores + sum(net.sizes), generator=rng) * math.hypot(LARGEST, 1)

        def slope(x: Tensor, sigma: float) -> Tensor:
            z, logits = net(x, torch.full((1, 1), sigma))
            return (x - torch.cat([z, log_softmax(logits, net.sizes).exp()], dim=1)) / sigma  # (5)

        for sigma, following in itertools.pairwise(levels):
            first = slope(x, sigma)
            guess = x + (following - sigma) * first
            x = x + (following - sigma) * (first + slope(guess, following)) / 2
        z, logits = net(x, torch.full((1, 1), SMALLEST))
        return z, draw(logits, net.sizes, rng)
