"""Diffusion of images: noise hides a picture little by little, and one U-Net learns the way back. Two objectives, one net.

Liu, Gong, Liu: Flow Straight and Fast (rectified flow), 2022, arXiv:2209.03003; Lipman et al.: Flow Matching, 2022, arXiv:2210.02747.
Ho, Jain, Abbeel: Denoising Diffusion Probabilistic Models, 2020, arXiv:2006.11239; Nichol, Dhariwal: Improved DDPM, 2021,
arXiv:2102.09672; Song, Meng, Ermon: DDIM, 2020, arXiv:2010.02502.

    (1)  x_t = alpha_t x + sigma_t eps,   eps ~ N(0, 1)               t = 0: the picture, t = 1: noise
    (2)  flow:  alpha_t = 1 - t,   sigma_t = t
         ddpm:  alpha_t = f(t) / f(0),   sigma_t^2 = 1 - alpha_t^2,   f(t) = cos((t + s) / (1 + s) pi / 2)
    (3)  the net says x^(x_t, t, y), the picture;   eps^ = (x_t - alpha_t x^) / sigma_t,   v^ = eps^ - x^
    (4)  flow:  loss = E |v^ - (eps - x)|^2,   t^2 ~ U(0, 1)                      so v^ is E[dx_t / dt | x_t]
    (5)  ddpm:  loss = E |eps^ - eps|^2,   t ~ U(0, 1)
    (6)  flow:  x_t follows dx / dt = v^ from t = 1 to 0, by Heun's rule
    (7)  ddpm:  x_s = alpha_s x^ + (sigma_s^2 - c^2)^1/2 eps^ + c N(0, 1),
                c = eta sigma_s / sigma_t (1 - alpha_t^2 / alpha_s^2)^1/2         eta = 1: ancestral, eta = 0: DDIM

A net that says the picture need not carry the noise through (Li, He: Back to Basics, 2025, arXiv:2511.13720), so patches may be large.
Half of all times lie beyond 0.7, where it is decided what the picture shows; near t = 1 a net that learnt too little shifts every mean. The
times of a batch are spread evenly, as in Kingma et al.: Variational Diffusion Models, 2021, arXiv:2107.00630. An image and the one-hot
of its mask are one taller picture. Pairs are few, since masks are drawn by hand, and are seen hundreds of times: they are moved by some
pixels each time, and the net is told how far, so that it draws them where they stood (Karras, Aittala, Aila, Laine: Elucidating the Design
Space of Diffusion-Based Generative Models, 2022, arXiv:2206.00364).

    (8)  pairs:  x^(x_t, t, y, s) learns from x(. - s),   s ~ U(-shift, shift) in sides, whole pixels;   s = 0 in (6) and (7)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from data.errors import BadInput
from generators.base import Neural, Rows, Unfolding
from generators.codecs.image import ImageCodec, signed, unsigned
from generators.nets.unet import GROUP, UNet
from generators.nets.warp import shifted
from generators.train import Training

CELLS = 250_000  # numbers of pictures that come about side by side
SHIFT = 1 / 8  # of a side: how far pairs are moved
LEAST = 0.05  # sigma_t in the denominator of a loss: what is left of the noise then is hardly seen
Picture = Callable[[Tensor, float], Tensor]  # x^ of x_t [n, C, H, W] at time t


@dataclass(frozen=True)
class Diffusion(Neural, Unfolding):
    """A U-Net of `width` channels (a multiple of 8) and twice as many below, on `levels` maps, the widest at most `finest` a side; a
    dense middle of `hidden`. `steps` to a sample; `eta` of those of a ddpm.
    Pictures are moved by up to `shift` of a side while they are learnt (8): None is `SHIFT` for pairs and 0 for others."""

    objective: Literal["flow", "ddpm"] = "flow"
    width: int = 32
    finest: int = 16
    levels: int = 2
    hidden: int = 512
    steps: int = 10
    eta: float = 1.0
    shift: float | None = None
    training: Training = Training(epochs=30, least_steps=1000, root_steps=63, batch=64, lr=2e-3, ema=0.999, clip=1.0, decay=0.5)
    codec: ClassVar[type[ImageCodec]] = ImageCodec

    def build(self, codec: ImageCodec) -> UNet:
        if self.width % GROUP:
            raise BadInput(f"image/diffusion.width is {self.width}; it takes a multiple of {GROUP}")
        shift = (SHIFT if codec.mask else 0.0) if self.shift is None else self.shift
        net = UNet(codec.shape, len(codec.shares), self.width, self.finest, self.levels, self.hidden, shift)
        net.register_buffer("shares", torch.from_numpy(codec.shares).float())
        return net

    def loss(self, net: UNet, rows: Rows, phase: str) -> Tensor:
        seen, by = shifted(rows[0], net.shift) if net.shift else (rows[0], None)  # (8)
        x, y = signed(seen), rows[1]
        eps, rank = torch.randn_like(x), (torch.arange(len(x)) + torch.rand(len(x))) / len(x)
        t = (rank.sqrt() if self.objective == "flow" else rank).to(x.device)
        alpha, sigma = (part.view(-1, 1, 1, 1) for part in PATHS[self.objective](t))
        noisy = alpha * x + sigma * eps  # (1)
        clean = net(noisy, t, y, by).float()
        guess = (noisy - alpha * clean) / sigma.clamp(min=LEAST)  # (3)
        if self.objective == "flow":
            return F.mse_loss(guess - clean, eps - x)  # (4)
        return F.mse_loss(guess, eps)  # (5)

    def draw(self, net: UNet, labels: Tensor, rng: torch.Generator) -> Tensor:
        return self.frames(net, labels, rng, 1)[0]

    def frames(self, net: UNet, labels: Tensor, rng: torch.Generator, count: int) -> Tensor:
        kept = torch.linspace(self.steps, 0, count).round().long().flip(0).tolist()
        parts = []
        for y in labels.split(max(1, CELLS // math.prod(net.shape))):
            way = {step: unsigned(x) for step, x in enumerate(self.way(net, y, rng)) if step in kept}
            parts.append(torch.stack([way[step] for step in kept]))
        return torch.cat(parts, dim=1)

    def way(self, net: UNet, y: Tensor, rng: torch.Generator) -> Iterator[Tensor]:
        """Pictures [n, C, H, W] of labels [n] after 0, 1, … `steps` steps."""
        noise = torch.randn(len(y), *net.shape, generator=rng)

        def picture(x: Tensor, t: float) -> Tensor:
            return net(x, torch.full((len(y),), t), y)

        times = torch.linspace(1, 0, self.steps + 1).tolist()
        return heun(picture, noise, times) if self.objective == "flow" else ancestral(picture, noise, times, self.eta, rng)


def straight(t: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) of a flow at times of any shape."""
    return 1 - t, t  # (2)


def cosine(t: Tensor, s: float = 0.008) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) of a ddpm at times of any shape."""
    alpha = torch.cos((t + s) / (1 + s) * torch.pi / 2) / math.cos(s / (1 + s) * math.pi / 2)  # (2)
    return alpha, (1 - alpha.square()).clamp(min=0).sqrt()


PATHS = {"flow": straight, "ddpm": cosine}


def heun(picture: Picture, x: Tensor, times: Sequence[float]) -> Iterator[Tensor]:
    """x at each of the falling times of a flow; the last step, to 0, is Euler's."""
    yield x
    for now, then in pairwise(times):
        slope = (x - picture(x, now)) / now
        ahead = x + (then - now) * slope
        x = x + (then - now) * (slope + (ahead - picture(ahead, then)) / then) / 2 if then > 0 else ahead  # (6)
        yield x


def ancestral(picture: Picture, x: Tensor, times: Sequence[float], eta: float, rng: torch.Generator) -> Iterator[Tensor]:
    """x at each of the falling times of a ddpm."""
    yield x
    for now, then in pairwise(times):
        (alpha, sigma), (alpha_s, sigma_s) = cosine(torch.tensor(now)), cosine(torch.tensor(then))
        clean = picture(x, now)
        noise = (x - alpha * clean) / sigma  # (3)
        c = eta * sigma_s / sigma * (1 - (alpha / alpha_s).square()).sqrt()
        x = alpha_s * clean + (sigma_s.square() - c.square()).clamp(min=0).sqrt() * noise + c * torch.randn(x.shape, generator=rng)  # (7)
        yield x
