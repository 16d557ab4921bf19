"""Autoencoder for tables, with a Gaussian mixture fitted to its codes afterwards.

Ghosh, Sajjadi, Vergari, Black, Schölkopf: From Variational to Deterministic Autoencoders, 2020, arXiv:1903.12436.

    (1)  h = encoder(x) + sigma eps                                        one sigma for all codes: nothing variational
    (2)  log p(x|h) = sum_k log softmax_k(h)[c_k] + sum_j log softmax_j(h)[bin of z_j]
    (3)  loss = - log p(x|h) + pull |encoder(x)|^2 / 2                     the pull keeps the codes together, sigma keeps them apart
    (4)  p(h) = sum_m w_m N(h; mu_m, S_m)                                  EM on the codes (1) of the rows, once the decoder is trained

The codes, whitened, are a table of quantities, and `tabular/gmm` is what learns it; under differential privacy it is one Gaussian. Sampling
draws h from the mixture, then every column from its likelihood (never its mean). Bins of equal mass cut a quantity's rank Phi(z).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from generators.base import Descending, Rows, Run
from generators.codecs.table import MixedCodec
from generators.nets.mlp import MLP, binned, cross_entropy, draw, one_hot, within
from generators.private import Privacy
from generators.tabular.gmm import GMM, Mixture
from generators.train import Training

ROWS = 8192  # rows that pass through a net at once


class Coder(nn.Module):
    """Encoder and decoder MLPs. The decoder's groups are the categories, then the bins of each score."""

    def __init__(self, scores: int, sizes: list[int], latent: int, hidden: int, depth: int, bins: int):
        super().__init__()
        self.sizes, self.groups = sizes, sizes + [bins] * scores
        self.encoder = MLP(scores + sum(sizes), hidden, depth, latent)
        self.decoder = MLP(latent, hidden, depth, sum(self.groups))

    def encode(self, z: Tensor, c: Tensor) -> Tensor:
        """Codes, float [n, latent]."""
        return self.encoder(torch.cat([z, one_hot(c, self.sizes)], dim=1))


class Coded(nn.Module):
    """A coder, and the density of its codes less `middle`, over `scale`."""

    middle: Tensor  # [latent]
    scale: Tensor

    def __init__(self, coder: Coder, density: Mixture):
        super().__init__()
        self.coder, self.density = coder, density
        self.register_buffer("middle", torch.zeros(density.scores))
        self.register_buffer("scale", torch.ones(()))


@dataclass(frozen=True)
class Autoencoder(Descending):
    """`latent` dimensions; MLPs of `depth` layers of `hidden`; `bins` a score; `sigma` and `pull` on the codes; their `density`."""

    latent: int = 16
    hidden: int = 256
    depth: int = 3
    bins: int = 64
    sigma: float = 0.5
    pull: float = 0.3
    density: GMM = GMM()
    training: Training = Training(epochs=20, least_steps=300, batch=512, lr=2e-3, weight_decay=0.01, ema=0.995)
    codec: ClassVar[type[MixedCodec]] = MixedCodec
    private: ClassVar[Mapping[str, Any]] = {
        "hidden": 64,
        "depth": 2,
        "bins": 32,
        "training": {"steps": 1000, "batch": 512, "lr": 3e-3, "weight_decay": 0.0, "clip": 1.0, "ema": 0.99},
    }
    sums: ClassVar[int] = 2  # the moments of the codes are another

    def build(self, codec: MixedCodec) -> Coded:
        coder = Coder(len(codec.scores), codec.sizes, self.latent, self.hidden, self.depth, self.bins)
        return Coded(coder, Mixture(self.density.components, self.latent, []))

    def learn(self, net: Coded, rows: Rows, run: Run) -> Coded:
        share = run.minutes and 0.8 * run.minutes
        coder: Any = self.descend(net.coder, rows, replace(run, minutes=share))
        net.coder = coder
        with torch.no_grad():
            parts = [net.coder.encode(*part) for part in zip(*(t.to(run.device).split(ROWS) for t in rows), strict=True)]
            codes = torch.cat(parts).cpu()
            if run.privacy is not None:
                return gathered(net.cpu(), self.sigma, codes, run.privacy)
            codes += self.sigma * torch.randn(codes.shape, generator=torch.Generator().manual_seed(run.seed))  # (1)
            net.middle, net.scale = codes.mean(0), codes.std()
            table = (codes - net.middle) / net.scale
        self.density.learn(
            net.density.cpu(),
            (table, torch.zeros(len(table), 0, dtype=torch.int64)),
            replace(run, minutes=run.minutes and 0.2 * run.minutes),
        )  # (4)
        return net

    def loss(self, net: Coder, rows: Rows, phase: str) -> Tensor:
        z, c = rows
        code = net.encode(z, c)
        logits = net.decoder(code + self.sigma * torch.randn_like(code))  # (1)
        surprise = cross_entropy(logits, torch.cat([c, binned(z, self.bins)], dim=1), net.groups)  # (2)
        return (surprise + self.pull * code.square().sum(1) / 2).mean()  # (3)

    def sample(self, net: Coded, n: int, rng: torch.Generator) -> Rows:
        table, _ = self.density.sample(net.density, n, rng)
        tokens = torch.cat([draw(net.coder.decoder(h), net.coder.groups, rng) for h in (net.middle + net.scale * table).split(ROWS)])
        c, bins = tokens.split([len(net.coder.sizes), tokens.shape[1] - len(net.coder.sizes)], dim=1)
        return within(bins, self.bins, rng), c


def gathered(net: Coded, sigma: float, codes: Tensor, privacy: Privacy) -> Coded:
    """The net with one Gaussian for (4), from the sums of codes [n, latent] and of their squares under noise.

    No code counts as longer than the root of `latent`; the noise of (1), which nobody learnt from, only adds its variance.
    """
    latent, most = codes.shape[1], codes.shape[1] ** 0.5
    codes = (codes * (most / codes.norm(dim=1, keepdim=True).clamp(min=most))).double()
    sums = torch.cat([codes.sum(0), (codes.T @ codes / most).flatten()]).numpy()
    means, squares = np.split(privacy.summed(sums, most * 2**0.5)[0] / privacy.rows, [latent])
    spread = most * squares.reshape(latent, latent) - np.outer(means, means)
    values, axes = np.linalg.eigh((spread + spread.T) / 2)
    spread = (axes * (values.clip(min=0) + sigma**2)) @ axes.T
    scale = np.sqrt(np.trace(spread) / latent)
    net.middle, net.scale = torch.from_numpy(means).float(), torch.tensor(scale).float()
    net.density.weights[0] = 1.0
    net.density.spread[0] = torch.from_numpy(np.linalg.cholesky(spread / scale**2))
    return net
