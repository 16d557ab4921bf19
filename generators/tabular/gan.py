"""Conditional GAN for tables, trained by sampling.

Xu, Skoularidou, Cuesta-Infante, Veeramachaneni: Modeling Tabular Data using Conditional GAN, 2019, arXiv:1907.00503; the
loss: Huang, Gokaslan, Kuleshov, Tompkin: The GAN is dead; long live the GAN!, 2025, arXiv:2501.05441.

    (1)  a condition is (column k, value v): k uniform, v by the logarithm of its count, the row any that has it: rare values are learnt too
    (2)  G(noise, condition) = scores z and categories by straight-through Gumbel-softmax
    (3)  critic: E softplus(D(fake) - D(real)) + r/2 (E |grad D(real)|^2 + E |grad D(fake)|^2)       each with the real row of its condition
    (4)  maker:  E softplus(D(real) - D(fake)) + cross-entropy of the conditioned column under G
    (5)  sampling draws v by its true share, so that p(x) = sum_v p(v) p(x|v)
    (6)  after (4): log share of each token less log share made is added to its logit, and a score z_j becomes Phi^-1 of its rank
         among the made z_j: the game decides how columns hang together, single columns come out as they are

Comparing each made row with a real one keeps variety without packing rows; the penalties on both sides keep the game stable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.base import Descending, Rows, Run
from generators.codecs.table import MixedCodec
from generators.nets.adversarial import preferred, slope
from generators.nets.mlp import MLP, calibrate, draw, log_softmax, one_hot
from generators.train import Training

ROWS = 8192  # rows made at once to see the scores
LEVELS = 1025  # quantiles of each made score
PASSES = 6  # a logit that is almost certain moves the shares slowly


class Pair(nn.Module):
    """The maker G and the critic D, with the share of every token, [V] in one row."""

    shares: Tensor
    levels: Tensor  # [D, LEVELS]: quantiles of each score as it is made

    def __init__(self, scores: int, shares: list[np.ndarray], noise: int, hidden: int, depth: int):
        super().__init__()
        self.scores, self.sizes, self.noise = scores, [len(s) for s in shares], noise
        width = sum(self.sizes)
        self.maker = MLP(noise + width, hidden, depth, scores + width)
        self.critic = MLP(scores + 2 * width, hidden, depth, 1)
        self.register_buffer("shares", torch.from_numpy(np.concatenate([*shares, np.zeros(0)])).float())
        even = torch.special.ndtri(torch.linspace(0, 1, LEVELS).clamp(1e-5, 1 - 1e-5))
        self.register_buffer("levels", even.repeat(scores, 1))

    def ranked(self, z: Tensor) -> Tensor:
        """Made scores [n, D] -> Phi^-1 of each one's rank among the made ones."""
        z = z.T.contiguous()
        place = torch.searchsorted(self.levels, z).clamp(1, LEVELS - 1)
        low, high = self.levels.gather(1, place - 1), self.levels.gather(1, place)
        rank = (place - 1 + ((z - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)) / (LEVELS - 1)
        return torch.special.ndtri(rank.T.double().clamp(1e-5, 1 - 1e-5)).float()

    def conditions(self, n: int, rng: torch.Generator) -> Tensor:
        """n conditions [n, V]: a column, and a value of it by its true share."""
        condition = torch.zeros(n, len(self.shares))
        if not self.sizes:
            return condition
        column = torch.randint(len(self.sizes), (n,), generator=rng)
        value = draw(self.shares.clamp(min=1e-12).log().expand(n, -1), self.sizes, rng)  # (5)
        return only(one_hot(value, self.sizes), column, self.sizes)

    def make(self, condition: Tensor, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """condition [n, V] -> scores [n, D] and logits [n, V]."""
        noise = torch.randn(len(condition), self.noise, generator=rng, device=condition.device)
        out = self.maker(torch.cat([noise, condition], dim=1))
        return out[:, : self.scores], out[:, self.scores :]

    def judge(self, rows: Tensor, condition: Tensor) -> Tensor:
        """One score a row, [n, 1]."""
        return self.critic(torch.cat([rows, condition], dim=1))


@dataclass(frozen=True)
class GAN(Descending):
    """MLPs of `depth` layers of `hidden`; `noise` dimensions; `penalty` on the critic's gradients; `heat` of the softmax."""

    noise: int = 64
    hidden: int = 128
    depth: int = 3
    penalty: float = 0.1
    heat: float = 0.5
    training: Training = Training(epochs=24, least_steps=800, batch=256, lr=1e-3, betas=(0.0, 0.95), ema=0.9995, decay=0.7)
    phases: ClassVar[tuple[str, ...]] = ("critic", "maker")
    codec: ClassVar[type[MixedCodec]] = MixedCodec
    private: ClassVar[Mapping[str, Any]] = {
        "hidden": 64,
        "depth": 2,
        "penalty": 0.0,
        "training": {"steps": 1000, "batch": 512, "lr": 1e-3, "weight_decay": 0.0, "clip": 1.0, "ema": 0.99},
    }

    def build(self, codec: MixedCodec) -> Pair:
        return Pair(len(codec.scores), codec.priors, self.noise, self.hidden, self.depth)

    def learn(self, net: nn.Module, rows: Rows, run: Run) -> nn.Module:
        trained: Any = self.descend(net, rows, run).cpu()
        rng = torch.Generator().manual_seed(run.seed)
        if trained.sizes and run.privacy is None:
            biases = list(trained.maker.leave.bias[trained.scores :].split(trained.sizes))
            for _ in range(PASSES):
                calibrate(biases, rows[1], lambda part: made(trained, len(part), rng))  # (6)
        if trained.scores:
            with torch.no_grad():
                scores = torch.cat([trained.make(trained.conditions(ROWS, rng), rng)[0] for _ in range(8)])
                trained.levels.copy_(scores.quantile(torch.linspace(0, 1, LEVELS), dim=0).T)  # (6)
        return trained

    def loss(self, net: Pair, rows: Rows, phase: str) -> Tensor:
        z, c, condition = balanced(net, *rows)
        real = torch.cat([z, one_hot(c, net.sizes)], dim=1)
        scores, logits = net.make(condition)
        tokens = [F.gumbel_softmax(part, tau=self.heat, hard=True) for part in logits.split(net.sizes, dim=1)] if net.sizes else []  # (2)
        fake = torch.cat([scores, *tokens], dim=1)
        if phase == "critic":
            if not self.penalty:
                return preferred(net.judge(real, condition), net.judge(fake.detach(), condition))
            real, fake = real.requires_grad_(), fake.detach().requires_grad_()
            on_real, on_fake = net.judge(real, condition), net.judge(fake, condition)
            steep = sum(slope(on, x) for on, x in ((on_real, real), (on_fake, fake)))
            return preferred(on_real, on_fake) + 0.5 * self.penalty * steep  # (3)
        obeyed = (log_softmax(logits, net.sizes) * condition).sum(1)
        return preferred(net.judge(fake, condition), net.judge(real, condition)) - obeyed.mean()  # (4)

    def sample(self, net: Pair, n: int, rng: torch.Generator) -> Rows:
        scores, logits = net.make(net.conditions(n, rng), rng)
        return net.ranked(scores), draw(logits, net.sizes, rng)


def made(net: Pair, n: int, rng: torch.Generator) -> list[Tensor]:
    """Logits [n, V_k] of every category in n made rows."""
    return list(net.make(net.conditions(n, rng), rng)[1].split(net.sizes, dim=1))


def balanced(net: Pair, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A batch redrawn from itself so that values occur by the logarithm of their counts; with its conditions [n, V]."""
    if not net.sizes:
        return z, c, z.new_zeros(len(z), 0)
    column = torch.randint(len(net.sizes), (len(z),), device=z.device)
    hot = one_hot(c, net.sizes)
    count = hot.sum(0)
    weight = torch.log1p(net.shares * 1e4) / count.clamp(min=1)  # of each row that has the value
    columns = torch.stack([part.sum(1) for part in (hot * weight).split(net.sizes, dim=1)])  # [K, n]
    rows = torch.multinomial(columns, len(z), replacement=True).gather(0, column[None])[0]  # (1)
    return z[rows], c[rows], only(hot[rows], column, net.sizes)


def only(hot: Tensor, column: Tensor, sizes: list[int]) -> Tensor:
    """Grouped one-hot rows [n, V] with every group but the chosen one's put to zero."""
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(hot.device)
    return hot * (group == column[:, None])
