"""Causal transformer for tables: the tokens of a row in any order of its columns.

Vaswani et al.: Attention Is All You Need, 2017, arXiv:1706.03762; any order as in Uria, Murray, Larochelle: A Deep and Tractable Density
Estimator, 2014, arXiv:1310.1757, and Gulati, Roysdon: TabMT, 2023, arXiv:2312.06089.

    (1)  log p(row) = sum_i log p(t_o(i) | t_o(1) … t_o(i-1))            o is any order of the columns
    (2)  x_i = e(t_o(i-1)) + read(o(i-1)) + next(o(i))                    what was read last, where it stood, and what comes next
    (3)  x = x + attention(norm x);   x = x + mlp(norm x)                 place i attends to places 1 … i
    (4)  logits of column o(i) = U_o(i) norm x_i + log shares
    (5)  loss = - log p(row), averaged over a batch in which a share of the rows stands in random orders, the others in the net's own
    (6)  shares *= count of each token / count expected, over the rows in the net's own order     once, after (5)

The net's own order is by rising entropy. Because the next column is an input, a row's known columns can stand first, whichever they are,
and the rest follows from p(rest | known): fixed values cost no rejected rows. Places already read are kept when sampling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import BadInput
from generators.base import Completing, Descending, Rows, Run
from generators.codecs.table import TokenCodec
from generators.nets.attention import Block
from generators.nets.masked import ordered
from generators.nets.mlp import calibrate, drawn
from generators.train import Training

ROWS = 2048  # rows that are walked side by side
MOST = 500_000  # draws that one call spends on a condition
PARTICLES = 8  # candidates for each row that is completed under a condition


class RowNet(nn.Module):
    """K positions of tokens as the codec has them; `order[i]` is the position at place i of the net's own order."""

    starts: Tensor  # [K]: where each position's tokens begin in the embedding
    rank: Tensor  # [K]: the place of each position in the net's own order
    head: Tensor  # [K]: the first position of each position's column

    def __init__(self, shares: list[np.ndarray], width: int, depth: int, heads: int, dropout: float):
        super().__init__()
        sizes, count = [share.shape[-1] for share in shares], len(shares)
        self.order = ordered(shares)
        self.register_buffer("starts", torch.tensor([0, *sizes]).cumsum(0)[:-1], persistent=False)
        self.register_buffer("rank", torch.tensor(self.order).argsort(), persistent=False)
        alone = torch.tensor([share.ndim == 1 for share in shares])
        self.register_buffer("head", torch.where(alone, torch.arange(count), 0).cummax(0).values, persistent=False)
        self.embed = nn.Embedding(sum(sizes), width)
        self.read = nn.Embedding(count + 1, width)  # the last: nothing was read yet
        self.next = nn.Embedding(count, width)
        self.drop = nn.Dropout(dropout)
        self.blocks: Any = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.ModuleList(nn.Linear(width, size, bias=False) for size in sizes)
        self.log_shares = nn.ParameterList(
            [nn.Parameter((torch.from_numpy(share).float() + 1e-6).log(), requires_grad=share.ndim == 1) for share in shares]
        )
        leave: Any
        with torch.no_grad():
            for table in (self.embed, self.read, self.next):
                table.weight.mul_(0.5)
            for leave in self.leave:
                leave.weight.mul_(0.1)

    def orders(self, keys: Tensor) -> Tensor:
        """int64 [n, K]: positions by rising key [n, K] of their columns, then by the net's own order."""
        own = self.rank.argsort().expand(keys.shape)
        return own.gather(1, keys[:, self.head].gather(1, own).argsort(dim=1, stable=True))

    def enter(self, read: Tensor | None, last: Tensor, following: Tensor) -> Tensor:
        """float [n, L, width] of the embeddings read last, their positions, and the positions that come next, int64 [n, L]."""
        x = self.read(last) + self.next(following)
        return x if read is None else x + read  # (2)

    def forward(self, tokens: Tensor, orders: Tensor) -> list[Tensor]:
        """tokens [n, K] as the codec has them, read in `orders` [n, K] -> K tensors of logits [n, V_k], by position."""
        last = torch.cat([torch.full_like(orders[:, :1], len(self.order)), orders[:, :-1]], dim=1)
        read = self.drop(self.embed((tokens + self.starts).gather(1, orders[:, :-1])))
        x = self.enter(F.pad(read, (0, 0, 1, 0)), last, orders)
        for block in self.blocks:
            x = block(x)  # (3)
        x, places, rows = self.norm(x), orders.argsort(dim=1), torch.arange(len(x), device=x.device)
        return [self.logits(x[rows, places[:, k]], k, tokens) for k in range(len(self.order))]

    def logits(self, x: Tensor, k: int, tokens: Tensor) -> Tensor:
        """Logits [n, V] of position k from the normed x [n, width]; a second digit's also from the first, out of tokens [n, K]."""
        share = self.log_shares[k]
        return self.leave[k](x) + (share if share.ndim == 1 else share[tokens[:, k - 1]])  # (4)


class Walk:
    """Rows that are read place by place in their orders [n, K]; their tokens fill up."""

    def __init__(self, net: RowNet, tokens: Tensor, orders: Tensor):
        self.net, self.tokens, self.orders, self.place = net, tokens, orders, 0
        self.memories = [block.memory(len(tokens), len(net.order)) for block in net.blocks]

    def step(self, known: Tensor | None, weights: Mapping[int, Tensor], rng: torch.Generator) -> Tensor:
        """Draw the next token of every row, unless it is `known`, bool [n, K]; the share [n] of its chances that `weights` let through."""
        net, now = self.net, self.orders[:, self.place]
        if self.place:
            last = self.orders[:, self.place - 1]
            read = net.embed(self.tokens.gather(1, last[:, None]) + net.starts[last][:, None])
            x = net.enter(read, last[:, None], now[:, None])
        else:
            x = net.enter(None, torch.full_like(now, len(net.order))[:, None], now[:, None])
        for block, memory in zip(net.blocks, self.memories, strict=True):
            x = block(x, memory)
        x, mass = net.norm(x[:, 0]), torch.ones(len(now))
        free = torch.ones_like(now, dtype=torch.bool) if known is None else ~known.gather(1, now[:, None])[:, 0]
        for k in now[free].unique().tolist():
            rows = ((now == k) & free).nonzero()[:, 0]
            p = net.logits(x[rows], k, self.tokens[rows]).softmax(1)
            if k in weights:
                p = p * weights[k]
                mass[rows] = p.sum(1)
            self.tokens[rows, k] = drawn(p, rng)
        self.place += 1
        return mass

    def take(self, rows: Tensor) -> Walk:
        """The walk of chosen rows."""
        walk = Walk(self.net, self.tokens[rows], self.orders[rows])
        walk.place, walk.memories = self.place, [memory.take(rows) for memory in self.memories]
        return walk


@dataclass(frozen=True)
class Transformer(Descending, Completing):
    """`depth` blocks of `width` with `heads`; `dropout` on the embeddings; the share of rows that are `shuffled` in training."""

    width: int = 64
    depth: int = 2
    heads: int = 4
    dropout: float = 0.1
    shuffled: float = 0.5
    training: Training = Training(epochs=40, least_steps=600, batch=256, lr=6e-3, weight_decay=0.01, ema=0.995, patience=2)
    codec: ClassVar[type[TokenCodec]] = TokenCodec
    private: ClassVar[Mapping[str, Any]] = {
        "width": 32,
        "dropout": 0.0,
        "shuffled": 0.0,
        "training": {"steps": 1000, "batch": 512, "lr": 3e-3, "weight_decay": 0.0, "clip": 1.0, "ema": 0.99},
    }

    def build(self, codec: TokenCodec) -> RowNet:
        if self.width % self.heads:
            raise BadInput(f"tabular/transformer.width is {self.width}; it must be a multiple of heads, which is {self.heads}")
        return RowNet(codec.shares, self.width, self.depth, self.heads, self.dropout)

    def loss(self, net: RowNet, rows: Rows, phase: str) -> Tensor:
        keys = torch.rand(rows[0].shape, device=rows[0].device)
        some = torch.rand(len(keys), 1, device=keys.device) < self.shuffled
        return -self.log_prob(net, rows, net.orders(keys * some)).mean()  # (5)

    def learn(self, net: nn.Module, rows: Rows, run: Run) -> nn.Module:
        trained: Any = self.descend(net, rows, run)
        if run.privacy is None:
            calibrate(list(trained.log_shares), rows[0], lambda tokens: trained(tokens, own(trained, tokens)))  # (6)
        return trained

    def log_prob(self, net: RowNet, rows: Rows, orders: Tensor | None = None) -> Tensor:
        """log p(row) in nats, float [n], of encoded rows; read in the net's own order, or in `orders` [n, K]."""
        tokens = rows[0]
        orders = own(net, tokens) if orders is None else orders
        terms = [F.cross_entropy(logits, tokens[:, k], reduction="none") for k, logits in enumerate(net(tokens, orders))]
        return -torch.stack(terms).sum(0)  # (1)

    def sample(self, net: RowNet, n: int, rng: torch.Generator) -> Rows:
        return self.sample_where(net, n, rng, {})

    def sample_where(self, net: RowNet, n: int, rng: torch.Generator, weights: Mapping[int, Tensor]) -> Rows:
        keys = torch.full((1, len(net.order)), math.inf)
        for k, weight in weights.items():
            keys[:, net.head[k]] = float((weight > 0).sum())  # what is fixed stands first, then what is weighed
        orders = net.orders(keys)
        found, have, spent = [], 0, 0
        while have < n and spent < max(MOST, n):
            size = ROWS if weights else min(ROWS, n - have)
            found.append(self.walk(net, size, orders, rng, weights))
            have, spent = have + len(found[-1]), spent + size
        return (torch.cat(found)[:n],)

    def walk(self, net: RowNet, n: int, order: Tensor, rng: torch.Generator, weights: Mapping[int, Tensor]) -> Tensor:
        """Tokens [m, K] of n draws read in one order [1, K], less those that the weights turn away."""
        walk, alike = Walk(net, torch.zeros(n, len(net.order), dtype=torch.int64), order.expand(n, -1)), True
        for k in order[0].tolist():
            mass = walk.step(None, weights, rng)
            if k in weights:  # while all rows are alike, so are their masses, and none is turned away
                walk = walk.take((torch.rand(len(mass), generator=rng) < (mass.sign() if alike else mass)).nonzero()[:, 0])
                alike = alike and int((weights[k] > 0).sum()) == 1
        return walk.tokens

    def complete(self, net: RowNet, rows: Rows, known: Tensor, rng: torch.Generator, weights: Mapping[int, Tensor]) -> Rows:
        copies = PARTICLES if len(weights) > 1 else 1  # the first weight after what is known is met exactly
        parts = []
        for tokens, there in zip(rows[0].split(ROWS // copies), known.split(ROWS // copies), strict=True):
            tokens, there = tokens.repeat_interleave(copies, 0), there.repeat_interleave(copies, 0)
            walk, weight = Walk(net, tokens, net.orders((~there).float())), torch.zeros(len(tokens))
            while walk.place < len(net.order):
                weight += walk.step(there, weights, rng).clamp(min=1e-30).log()
            best = torch.multinomial(weight.view(-1, copies).softmax(1), 1, generator=rng)[:, 0]
            parts.append(walk.tokens.view(-1, copies, len(net.order))[torch.arange(len(best)), best])
        return (torch.cat(parts),)


def own(net: RowNet, tokens: Tensor) -> Tensor:
    """int64 [n, K]: the net's own order for each row."""
    return net.orders(torch.zeros(tokens.shape, device=tokens.device))
