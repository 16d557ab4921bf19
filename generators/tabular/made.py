"""MADE for tables: a masked autoregressive network over one token a column. The default for tables.

Germain, Gregor, Murray, Larochelle: MADE: Masked Autoencoder for Distribution Estimation, 2015, arXiv:1502.03509, in block
form: every column has hidden units of its own, so the masks are whole blocks.

    (1)  log p(row) = sum_k log p(t_k | t_<k)            tokens t_1 … t_K in the network's order: exact, no bound
    (2)  a_k = W_k [e(t_1), …, e(t_k-1)] + b_k           block k reads the embeddings of the columns before it and of no other
    (3)  h_k = a_k + V_k relu(a_k),   logits_k = U_k relu(h_k) + c_k
    (4)  c_k = log share of each token                   so that training starts from the independent columns
    (5)  loss = - log p(row), averaged over a batch

Columns stand in rising order of entropy. When sampling, rows that agree so far share one evaluation: while few different prefixes
exist, their counts are split by a multinomial draw, which is the same distribution as drawing row by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.base import Neural, Rows
from generators.codecs.table import TokenCodec
from generators.train import Training

GROUP = 4  # first layers are computed for this many columns at once
ROWS = 8192  # rows evaluated at once when sampling


class MaskedNet(nn.Module):
    """Blocks for K columns; `order[i]` is the column that stands at place i."""

    def __init__(self, shares: list[np.ndarray], hidden: int, width: int, dropout: float):
        super().__init__()
        entropy = [-float((s[s > 0] * np.log(s[s > 0])).sum()) for s in shares]
        self.order = [int(k) for k in np.argsort(entropy, kind="stable")]
        self.hidden, self.sizes = hidden, [len(shares[k]) for k in self.order]
        widths = [max(1, min(width, round(1.6 * size**0.5))) for size in self.sizes]
        self.starts = np.cumsum([0, *widths]).tolist()  # where each column's embedding begins
        self.embed = nn.ModuleList(nn.Embedding(size, wide) for size, wide in zip(self.sizes, widths, strict=True))
        self.drop = nn.Dropout(dropout)
        count = len(self.sizes)
        self.first = nn.ModuleList()
        for begin in range(0, count, GROUP):
            places = range(begin, min(begin + GROUP, count))
            layer = nn.Linear(max(1, self.starts[places[-1]]), len(places) * hidden)
            mask = torch.zeros_like(layer.weight)
            for row, place in enumerate(places):
                mask[row * hidden : (row + 1) * hidden, : self.starts[place]] = 1
            with torch.no_grad():
                layer.weight.mul_(mask)
            layer.register_buffer("mask", mask, persistent=False)
            self.first.append(layer)
        self.middle = nn.Parameter(torch.randn(count, hidden, hidden) * hidden**-0.5)
        self.last = nn.ModuleList(nn.Linear(hidden, size) for size in self.sizes)
        final: Any
        for place, final in enumerate(self.last):
            share = torch.from_numpy(shares[self.order[place]]).float()
            with torch.no_grad():
                final.weight.mul_(0.1)
                final.bias.copy_((share + 1e-6).log())  # (4)

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """tokens [n, K] in network order -> K tensors of logits [n, V_k]."""
        n = len(tokens)
        e = self.drop(torch.cat([table(tokens[:, place]) for place, table in enumerate(self.embed)], dim=1))
        a = []
        group: Any
        for group in self.first:
            reads = group.weight.shape[1]
            x = e[:, :reads] if reads <= e.shape[1] else e.new_zeros(n, reads)
            a.append(F.linear(x, group.weight * group.mask, group.bias))
        blocks = torch.cat(a, dim=1).view(n, -1, self.hidden).transpose(0, 1)  # (2)  [K, n, hidden]
        h = blocks + torch.bmm(F.relu(blocks), self.middle)  # (3)
        return [layer(F.relu(h[place])) for place, layer in enumerate(self.last)]

    def logits(self, place: int, e: Tensor) -> Tensor:
        """Logits [n, V] of the column at one place from the embeddings [n, starts[place]] of those before it."""
        group: Any = self.first[place // GROUP]
        row = place % GROUP * self.hidden
        weight, bias = group.weight[row : row + self.hidden], group.bias[row : row + self.hidden]
        a = F.linear(e, weight[:, : e.shape[1]] if place else weight[:, :0], bias)  # (2)
        return self.last[place](F.relu(a + F.relu(a) @ self.middle[place]))  # (3)


@dataclass(frozen=True)
class MADE(Neural):
    """Masked autoregressive network. `hidden` units a column, embeddings at most `width` wide, `dropout` on the embeddings."""

    hidden: int = 32
    width: int = 16
    dropout: float = 0.1
    training: Training = Training(epochs=40, least_steps=600, batch=256, lr=1e-2, weight_decay=0.01, ema=0.995, patience=2)
    codec: ClassVar[type[TokenCodec]] = TokenCodec

    def build(self, codec: TokenCodec) -> MaskedNet:
        return MaskedNet(codec.shares, self.hidden, self.width, self.dropout)

    def loss(self, net: MaskedNet, rows: Rows, phase: str) -> Tensor:
        return -self.log_prob(net, rows).mean()  # (5)

    def log_prob(self, net: MaskedNet, rows: Rows) -> Tensor:
        """log p(row) in nats, float [n], of encoded rows."""
        tokens = rows[0][:, net.order]
        terms = [F.cross_entropy(logits, tokens[:, place], reduction="none") for place, logits in enumerate(net(tokens))]
        return -torch.stack(terms).sum(0)  # (1)

    def sample(self, net: MaskedNet, n: int, rng: torch.Generator) -> Rows:
        numbers = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
        tokens, counts = torch.zeros(1, 0, dtype=torch.int64), np.array([n])
        e = torch.zeros(1, 0)
        place = 0
        while place < len(net.sizes) and len(counts) < n / 3:  # few prefixes: split their counts
            p = torch.cat([net.logits(place, part).softmax(1) for part in e.split(ROWS)]).double().numpy()
            split = numbers.multinomial(counts, p / p.sum(1, keepdims=True))
            prefix, chosen = np.nonzero(split)
            counts = split[prefix, chosen]
            tokens, e = extend(net, place, tokens[prefix], e[prefix], torch.from_numpy(chosen))
            place += 1
        rows = torch.from_numpy(numbers.permutation(np.repeat(np.arange(len(counts)), counts)))
        parts = []
        for part in rows.split(ROWS):
            t, x = tokens[part], e[part]
            for later in range(place, len(net.sizes)):  # then row by row
                cumulative = net.logits(later, x).softmax(1).cumsum(1)
                draw = torch.rand(len(x), 1, generator=rng) * cumulative[:, -1:]
                token = torch.searchsorted(cumulative, draw).squeeze(1).clamp(max=cumulative.shape[1] - 1)
                t, x = extend(net, later, t, x, token)
            parts.append(t)
        inverse = torch.empty(len(net.order), dtype=torch.int64)
        inverse[torch.tensor(net.order)] = torch.arange(len(net.order))
        return (torch.cat(parts)[:, inverse],)


def extend(net: MaskedNet, place: int, tokens: Tensor, e: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """The prefixes with one more token, and their embeddings."""
    return torch.cat([tokens, token[:, None]], dim=1), torch.cat([e, net.embed[place](token)], dim=1)
