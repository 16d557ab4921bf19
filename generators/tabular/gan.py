"""Conditional GAN for tables, trained by sampling.

Xu, Skoularidou, Cuesta-Infante, Veeramachaneni: Modeling Tabular Data using Conditional GAN, 2019, arXiv:1907.00503; the
loss: Huang, Gokaslan, Kuleshov, Tompkin: The GAN is dead; long live the GAN!, 2025, arXiv:2501.05441.

    (1)  a condition is (column k, value v): k uniform, v by the logarithm of its count, the row any that has it: rare values are learnt too
    (2)  G(noise, condition) = scores z and categories by straight-through Gumbel-softmax
    (3)  critic: E softplus(D(fake) - D(real)) + r/2 (E |grad D(real)|^2 + E |grad D(fake)|^2)       each with the real row of its condition
    (4)  maker:  E softplus(D(real) - D(fake)) + cross-entropy of the conditioned column under G
    (5)  sampling draws v by its true share, so that p(x) = sum_v p(v) p(x|v)

Comparing each made row with a real one keeps variety without packing rows; the penalties on both sides keep the game stable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.base import Neural, Rows
from generators.codecs.table import MixedCodec
from generators.nets.mlp import MLP, draw, log_softmax, one_hot
from generators.train import Training


class Pair(nn.Module):
    """The maker G and the critic D, with the share of every token, [V] in one row."""

    shares: Tensor

    def __init__(self, scores: int, shares: list[np.ndarray], noise: int, hidden: int, depth: int):
        super().__init__()
        self.scores, self.sizes, self.noise = scores, [len(s) for s in shares], noise
        width = sum(self.sizes)
        self.maker = MLP(noise + width, hidden, depth, scores + width)
        self.critic = MLP(scores + 2 * width, hidden, depth, 1)
        self.register_buffer("shares", torch.from_numpy(np.concatenate([*shares, np.zeros(0)])).float())

    def make(self, condition: Tensor, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """condition [n, V] -> scores [n, D] and logits [n, V]."""
        noise = torch.randn(len(condition), self.noise, generator=rng, device=condition.device)
        out = self.maker(torch.cat([noise, condition], dim=1))
        return out[:, : self.scores], out[:, self.scores :]

    def judge(self, rows: Tensor, condition: Tensor) -> Tensor:
        """One score a row, [n, 1]."""
        return self.critic(torch.cat([rows, condition], dim=1))


@dataclass(frozen=True)
class GAN(Neural):
    """MLPs of `depth` layers of `hidden`; `noise` dimensions; `penalty` on the critic's gradients; `heat` of the softmax."""

    noise: int = 64
    hidden: int = 128
    depth: int = 3
    penalty: float = 0.1
    heat: float = 0.5
    training: Training = Training(epochs=24, least_steps=800, batch=256, lr=1e-3, betas=(0.0, 0.95), ema=0.9995, decay=0.7)
    phases: ClassVar[tuple[str, ...]] = ("critic", "maker")
    codec: ClassVar[type[MixedCodec]] = MixedCodec

    def build(self, codec: MixedCodec) -> Pair:
        return Pair(len(codec.scores), codec.priors, self.noise, self.hidden, self.depth)

    def loss(self, net: Pair, rows: Rows, phase: str) -> Tensor:
        z, c, condition = balanced(net, *rows)
        real = torch.cat([z, one_hot(c, net.sizes)], dim=1)
        scores, logits = net.make(condition)
        made = [F.gumbel_softmax(part, tau=self.heat, hard=True) for part in logits.split(net.sizes, dim=1)] if net.sizes else []  # (2)
        fake = torch.cat([scores, *made], dim=1)
        if phase == "critic":
            real, fake = real.requires_grad_(), fake.detach().requires_grad_()
            on_real, on_fake = net.judge(real, condition), net.judge(fake, condition)
            steep = sum(slope(on, x) for on, x in ((on_real, real), (on_fake, fake)))
            return F.softplus(on_fake - on_real).mean() + 0.5 * self.penalty * steep  # (3)
        obeyed = (log_softmax(logits, net.sizes) * condition).sum(1)
        return F.softplus(net.judge(real, condition) - net.judge(fake, condition)).mean() - obeyed.mean()  # (4)

    def sample(self, net: Pair, n: int, rng: torch.Generator) -> Rows:
        condition = torch.zeros(n, len(net.shares))
        if net.sizes:
            column = torch.randint(len(net.sizes), (n,), generator=rng)
            value = draw(net.shares.clamp(min=1e-12).log().expand(n, -1), net.sizes, rng)  # (5)
            condition = only(one_hot(value, net.sizes), column, net.sizes)
        scores, logits = net.make(condition, rng)
        return scores.clamp(-4, 4), draw(logits, net.sizes, rng)


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


def slope(scores: Tensor, x: Tensor) -> Tensor:
    """E |grad D|^2."""
    (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return gradient.square().sum(1).mean()
