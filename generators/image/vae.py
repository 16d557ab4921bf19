"""Conditional variational autoencoder for images, whose prior is refitted to the codes of each label.

Kingma, Welling: Auto-Encoding Variational Bayes, 2013, arXiv:1312.6114; labels as in Sohn, Lee, Yan: Learning Structured Output
Representation using Deep Conditional Generative Models, 2015; a second density for the codes: Dai, Wipf: Diagnosing and Enhancing VAE
Models, 2019, arXiv:1903.05789; bound (5): Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, 2015, arXiv:1509.00519.

    (1)  q(h|x, y) = N(mu, diag sigma^2),   h = mu + sigma eps             the encoder, reparametrised
    (2)  p(x|h, y): chances of white, or levels around a mean, and classes of a mask, of the decoder
    (3)  loss = - log p(x|h, y) + beta (log q(h|x, y) - log N(h; 0, 1))    beta rises from 0 to its value while warming up
    (4)  p(h|y) = sum_m w_ym N(h; m_ym, S_ym)                              in place of N(0, 1) in the end: EM on codes (1) of the rows
    (5)  log p(x, y) >= log p(y) + E log mean_k p(x|h_k, y) p(h_k|y) / q(h_k|x, y),   h_k from (1)

A draw is the decoder's mean image: noise of single pixels teaches nobody anything. `binary` draws the black or white of every pixel anew
from its grey at every step, so that (5) bounds the likelihood of binary images; `grey` takes the grey values as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.base import Descending, Labelled, Rows, Run
from generators.codecs.image import ImageCodec
from generators.nets.likelihood import grey, logistic, painted
from generators.nets.mixture import Mixtures, normal
from generators.nets.mlp import MLP
from generators.nets.warp import warped
from generators.train import Training

BATCH = 256  # images that are encoded or drawn at once
FLOOR = 1e-4  # added to the variance of a code
COPIES = 8  # codes of each image that the density is fitted to: it shall not fit their noise


class VAENet(nn.Module):
    """Encoder and decoder MLPs over pixels from 0 to 1, the width of the levels, and the density of codes."""

    shares: Tensor  # [L]
    warm: Tensor

    def __init__(self, shape: tuple[int, int, int], channels: int, shares: Tensor, latent: int, hidden: int, depth: int, components: int):
        super().__init__()
        self.shape, self.channels, cells = shape, channels, math.prod(shape)
        self.encoder = MLP(cells + len(shares), hidden, depth, 2 * latent)
        self.decoder = MLP(latent + len(shares), hidden, depth, cells)
        self.prior = Mixtures(len(shares), components, latent)
        self.log_scale = nn.Parameter(torch.full((channels, *shape[1:]), -3.0))
        self.register_buffer("shares", shares)
        self.register_buffer("warm", torch.zeros(()))  # steps of warm-up done

    def encode(self, x: Tensor, hot: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log sigma, float [n, latent], of x [n, C + K, H, W] and one-hot labels [n, L]."""
        mean, log_scale = self.encoder(torch.cat([x.flatten(1), hot], dim=1)).chunk(2, dim=1)
        return mean, log_scale

    def decode(self, h: Tensor, hot: Tensor) -> Tensor:
        """The decoder's values, float [n, C + K, H, W]."""
        return self.decoder(torch.cat([h, hot], dim=1)).unflatten(1, self.shape)

    def hot(self, labels: Tensor) -> Tensor:
        """float [n, L]."""
        return F.one_hot(labels, len(self.shares)).float()


@dataclass(frozen=True)
class VAE(Descending, Labelled):
    """`latent` dimensions; MLPs of `depth` layers of `hidden`; at most `components` a label; what a pixel is; `beta` weighs the KL term.
    With `augment` every step sees its images warped by so much (generators/nets/warp.py): for few images of what may be turned a little."""

    latent: int = 20
    hidden: int = 400
    depth: int = 2
    components: int = 1
    pixel: Literal["binary", "grey", "logistic"] = "grey"
    beta: float = 1.0
    warm_up: int = 500
    augment: float = 0.0
    training: Training = Training(epochs=80, least_steps=1500, batch=128, lr=2e-3, weight_decay=0.01, ema=0.998)
    codec: ClassVar[type[ImageCodec]] = ImageCodec

    def build(self, codec: ImageCodec) -> VAENet:
        shares = torch.from_numpy(codec.shares).float()
        return VAENet(codec.shape, codec.channels, shares, self.latent, self.hidden, self.depth, self.components)

    def learn(self, net: VAENet, rows: Rows, run: Run) -> VAENet:
        trained: Any = self.descend(net, rows, replace(run, minutes=run.minutes and 0.9 * run.minutes))
        trained.cpu()
        with torch.no_grad():
            torch.manual_seed(run.seed)
            codes = torch.stack([self.codes(trained, rows) for _ in range(COPIES)])
            for label in rows[1].unique().tolist():
                trained.prior.learn(label, codes[:, rows[1] == label].flatten(0, 1), FLOOR, run.seed, COPIES)  # (4)
        return trained

    def codes(self, net: VAENet, rows: Rows) -> Tensor:
        """A code for each row, float [n, latent]."""
        parts = [
            net.encode(self.seen(net, warped(x, self.augment)), net.hot(y)) for x, y in zip(*(t.split(BATCH) for t in rows), strict=True)
        ]
        return torch.cat([mean + log_scale.exp() * torch.randn_like(mean) for mean, log_scale in parts])  # (1)

    def loss(self, net: VAENet, rows: Rows, phase: str) -> Tensor:
        x, hot = self.seen(net, warped(rows[0], self.augment)), net.hot(rows[1])
        mean, log_scale = net.encode(x, hot)
        h = mean + log_scale.exp() * torch.randn_like(mean)  # (1)
        kl = (normal(h, mean, log_scale) - normal(h, torch.zeros(()), torch.zeros(()))).sum(1)
        if net.training:
            net.warm += 1
        beta = self.beta * min(1.0, net.warm.item() / max(1, self.warm_up)) if net.training else self.beta
        return (self.surprise(net, net.decode(h, hot), x) + beta * kl).mean()  # (3)

    def seen(self, net: VAENet, x: Tensor) -> Tensor:
        """Pixels from 0 to 1, float [n, C + K, H, W]."""
        x = x.float() / 255
        if self.pixel == "binary":
            x[:, : net.channels] = torch.bernoulli(x[:, : net.channels])
        return x

    def surprise(self, net: VAENet, values: Tensor, x: Tensor) -> Tensor:
        """- log p(x|h, y), float [n]."""
        return logistic(values, x, net.channels, net.log_scale) if self.pixel == "logistic" else grey(values, x, net.channels)  # (2)

    def bound(self, net: VAENet, rows: Rows, draws: int, rng: torch.Generator) -> Tensor:
        """At most log p(x, y) in nats on average, nearer to it with more draws; float64 [n], of encoded rows."""
        found = torch.empty(len(rows[1]), dtype=torch.float64)
        for label in rows[1].unique().tolist():
            here = rows[1] == label
            found[here] = torch.cat([self.weighed(net, x, label, draws, rng) for x in rows[0][here].split(BATCH)])
        return found

    def weighed(self, net: VAENet, x: Tensor, label: int, draws: int, rng: torch.Generator) -> Tensor:
        """The bound for images of one label."""
        x, hot = x.float() / 255, net.hot(torch.full((len(x),), label))
        mean, log_scale = net.encode(x, hot)
        total = torch.full((len(x),), -torch.inf, dtype=torch.float64)
        for _ in range(draws):
            h = mean + log_scale.exp() * torch.randn(mean.shape, generator=rng)
            likelihood = -self.surprise(net, net.decode(h, hot), x) - normal(h, mean, log_scale).sum(1)
            total = torch.logaddexp(total, likelihood + net.prior.log_prob(label, h))
        return net.shares[label].log() + total - math.log(draws)  # (5)

    def draw(self, net: VAENet, labels: Tensor, rng: torch.Generator) -> Tensor:
        parts = [net.decode(net.prior.draw(part, rng), net.hot(part)) for part in labels.split(BATCH)]
        return torch.cat([painted(values, net.channels) for values in parts])
