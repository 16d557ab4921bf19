"""Masked diffusion for tables: noise hides tokens until none is left, and one network learns to bring any of them back.

Austin et al.: Structured Denoising Diffusion Models in Discrete State-Spaces, 2021, arXiv:2107.03006; Hoogeboom et al.: Autoregressive
Diffusion Models, 2021, arXiv:2110.02037; for tables, with a schedule for each column, Shi et al.: TabDiff, 2024, arXiv:2410.20626.

    (1)  token k comes back at the time T_k = place_k / K + spread u_k, u_k in [0, 1]: x_t shows those with T_k <= t and hides the others
    (2)  h = MLP[e_1(x_1), …, e_K(x_K)],   p_k(. | x) = softmax(U_k h + log share_k)       each position has an embedding of "hidden"
    (3)  loss = E K/m sum_hidden k - log p_k(x_0,k | x_t)        t such that the number m of hidden tokens is spread evenly over 1 … K
    (4)  log share_k += log (count of each token / count expected, given the row's tokens that come back before it)     once, after (3)
    (5)  sampling brings the tokens back one after the other, each drawn from p_k given those that are there

Tokens of low entropy come first. With a large `spread` every order is as likely and (3) bounds - log p(x_0); with a small one the network
learns mostly the order in which (5) goes. t enters through m alone, so the network needs no clock. Rows that agree so far share one
evaluation, their counts split by a multinomial draw. A column's fine digit is hidden, and not asked for, as long as its coarse one is.
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
from generators.codecs.table import TokenCodec
from generators.nets.masked import ordered
from generators.nets.mlp import MLP, calibrate, drawn, waves
from generators.train import Training

ROWS = 8192  # rows evaluated at once when sampling


class Denoiser(nn.Module):
    """p_k(. | x) for K positions; a token of V_k is hidden. `shares` as the codec's: [V], or [V before, V] of a fine digit."""

    place: Tensor  # [K]: where each position stands in the order of sampling

    def __init__(self, shares: list[np.ndarray], hidden: int, depth: int, width: int, dropout: float):
        super().__init__()
        self.sizes, self.order = [share.shape[-1] for share in shares], ordered(shares)
        self.register_buffer("place", torch.tensor(self.order).argsort(), persistent=False)
        self.fine = [k for k, share in enumerate(shares) if share.ndim == 2]
        widths = [max(1, min(width, round(1.6 * size**0.5))) for size in self.sizes]
        self.embed = nn.ModuleList(nn.Embedding(size + 1, wide) for size, wide in zip(self.sizes, widths, strict=True))
        self.drop = nn.Dropout(dropout)
        self.body = MLP(sum(widths), hidden, depth, hidden)
        self.leave = nn.ModuleList(nn.Linear(hidden, size) for size in self.sizes)
        self.given = nn.ParameterDict()  # log shares of a fine digit given the coarse one, then given that it is hidden
        embed: Any
        leave: Any
        for k, (share, embed, leave) in enumerate(zip(shares, self.embed, self.leave, strict=True)):
            log = (torch.from_numpy(share).float() + 1e-6).log()
            with torch.no_grad():
                even = np.full(share.shape[-1], 1 / share.shape[-1])
                embed.weight.copy_(F.pad(waves(share if share.ndim == 1 else even, embed.embedding_dim), (0, 0, 0, 1)))
                leave.weight.mul_(0.1)
                leave.bias.copy_(log if share.ndim == 1 else torch.zeros_like(leave.bias))
            if share.ndim == 2:
                self.given[str(k)] = nn.Parameter(F.pad(log, (0, 0, 0, 1)), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """h: tokens [n, K] -> float [n, hidden]."""
        e = torch.cat([table(x[:, k]) for k, table in enumerate(self.embed)], dim=1)
        return F.silu(self.body(self.drop(e)))  # (2)

    def logits(self, h: Tensor, x: Tensor, k: int) -> Tensor:
        """Logits [n, V_k] of one position from h and the tokens [n, K]."""
        logits = self.leave[k](h)  # (2)
        return logits + self.given[str(k)][x[:, k - 1]] if str(k) in self.given else logits

    def ordered(self, x: Tensor) -> list[Tensor]:
        """Logits [n, V_k] of every position given those that come back before it, out of whole rows [n, K]."""
        hidden = torch.tensor(self.sizes, device=x.device)
        shown = [torch.where(self.place < self.place[k], x, hidden) for k in range(x.shape[1])]
        return [self.logits(self(part), part, k) for k, part in enumerate(shown)]

    def chances(self, x: Tensor, k: int) -> Tensor:
        """p_k(. | x), float [n, V_k]."""
        return torch.cat([self.logits(self(part), part, k).softmax(1) for part in x.split(ROWS)])


@dataclass(frozen=True)
class Diffusion(Descending):
    """An MLP of `depth` layers of `hidden`; embeddings at most `width` wide, with `dropout`; `spread` of the times, in whole rows."""

    hidden: int = 256
    depth: int = 5
    width: int = 16
    dropout: float = 0.1
    spread: float = 0.5
    training: Training = Training(epochs=40, least_steps=300, batch=512, lr=4e-3, weight_decay=0.1, clip=1.0, ema=0.999, decay=0.4)
    codec: ClassVar[type[TokenCodec]] = TokenCodec
    private: ClassVar[Mapping[str, Any]] = {
        "hidden": 64,
        "depth": 3,
        "width": 8,
        "dropout": 0.0,
        "training": {"steps": 1000, "batch": 512, "lr": 3e-3, "weight_decay": 0.0, "clip": 1.0, "ema": 0.99},
    }

    def build(self, codec: TokenCodec) -> Denoiser:
        return Denoiser(codec.shares, self.hidden, self.depth, self.width, self.dropout)

    def loss(self, net: Denoiser, rows: Rows, phase: str) -> Tensor:
        x, seen = rows[0], self.noise(net, rows[0])
        noisy = torch.where(seen, x, torch.tensor(net.sizes, device=x.device))
        h, asked = net(noisy), ~seen
        asked[:, net.fine] &= seen[:, [k - 1 for k in net.fine]]
        terms = [F.cross_entropy(net.logits(h, noisy, k), x[:, k], reduction="none") for k in range(x.shape[1])]
        return ((torch.stack(terms, dim=1) * asked).sum(1) * x.shape[1] / (~seen).sum(1)).mean()  # (3)

    def learn(self, net: nn.Module, rows: Rows, run: Run) -> nn.Module:
        trained: Any = self.descend(net, rows, run)
        if run.privacy is None:
            calibrate([leave.bias for leave in trained.leave], rows[0], trained.ordered)  # (4)
        return trained

    def noise(self, net: Denoiser, x: Tensor) -> Tensor:
        """bool [n, K]: the tokens that are seen. Their numbers are spread evenly over 0 … K - 1."""
        n, count = x.shape
        time = net.place / count + self.spread * torch.rand(n, count, device=x.device)  # (1)
        for k in net.fine:
            time[:, k] = torch.maximum(time[:, k], time[:, k - 1] + 1e-4)
        many = ((torch.randperm(n, device=x.device) + torch.rand(n, device=x.device)) / n * count).long().clamp(max=count - 1)
        return time.argsort(1).argsort(1) < many[:, None]

    def sample(self, net: Denoiser, n: int, rng: torch.Generator) -> Rows:
        numbers = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
        x, counts, order = torch.tensor([net.sizes]), np.array([n]), list(net.order)
        while order and len(counts) < n / 3:  # few different rows: split their counts
            k = order.pop(0)
            p = net.chances(x, k).double()
            split = numbers.multinomial(counts, (p / p.sum(1, keepdim=True)).numpy())
            row, token = np.nonzero(split)
            x, counts = x[row], split[row, token]
            x[:, k] = torch.from_numpy(token)
        x = x[torch.from_numpy(numbers.permutation(np.repeat(np.arange(len(counts)), counts)))]
        for part in x.split(ROWS):
            for k in order:
                part[:, k] = drawn(net.chances(part, k), rng)  # (5)
        return (x,)
