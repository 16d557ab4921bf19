"""Masked blocks: a network whose output for each position reads the positions before it and no other.

Every position has hidden units of its own, so the masks are whole blocks. Up to `DENSE` positions, a block reads the embeddings of all
positions before it, which costs the square of their number; beyond, the groups of positions behind it reach it through one running sum
of `SUMMARY` units, so that cost grows with the number of positions and no faster.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP = 4  # first layers are computed for this many positions at once
DENSE = 96
SUMMARY = 256
WAVES = 8
FEW = 8  # tokens with an order that need no waves


class Waves(nn.Module):
    """A table float [V, width] for tokens with an order: free rows, which begin at zero, plus waves of the rank that all rows share."""

    waves: Tensor

    def __init__(self, rank: np.ndarray, width: int, scale: float):
        super().__init__()
        phases = math.pi * torch.from_numpy(rank).float()[:, None] * torch.arange(1, WAVES + 1)
        self.register_buffer("waves", phases.cos().nan_to_num(0.0), persistent=False)
        self.free = nn.Parameter(torch.zeros(len(rank), width))
        self.shared = nn.Parameter(torch.randn(WAVES, width) * scale * WAVES**-0.5)

    def forward(self) -> Tensor:
        """float [V, width]."""
        return self.free + self.waves @ self.shared


class Free(nn.Module):
    """A table float [V, width] for tokens without an order."""

    def __init__(self, size: int, width: int, scale: float):
        super().__init__()
        self.free = nn.Parameter(torch.randn(size, width) * scale)

    def forward(self) -> Tensor:
        """float [V, width]."""
        return self.free


class Embed(nn.Module):
    """Tokens [n] -> embeddings [n, width]."""

    def __init__(self, size: int, width: int, rank: np.ndarray | None):
        super().__init__()
        self.table = Free(size, width, 1.0) if rank is None else Waves(rank, width, 1.0)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.table())


class Leave(nn.Module):
    """Hidden units [n, hidden] and the token [n] at the place before -> logits [n, V], which begin at the log shares."""

    def __init__(self, share: np.ndarray, hidden: int, rank: np.ndarray | None):
        super().__init__()
        scale = 0.1 * hidden**-0.5
        known = (torch.from_numpy(share).float() + 1e-6).log()
        self.table = Free(share.shape[-1], hidden, scale) if rank is None else Waves(rank, hidden, scale)
        self.bias = nn.Parameter(known, requires_grad=known.ndim == 1)

    def forward(self, h: Tensor, before: Tensor) -> Tensor:
        weight = self.table()
        return F.linear(h, weight, self.bias) if self.bias.ndim == 1 else F.linear(h, weight) + self.bias[before]


class MaskedNet(nn.Module):
    """Blocks for K positions; `order[i]` is the position of a row's tokens that stands at place i.

    `shares` holds for each position the share of its tokens, [V], or [V before, V] given the token at the position before, which then
    stands directly before it here too. `ranks` orders the tokens of a position where they have an order.
    `last` is a position, the first of its column, that stands at the end.
    """

    def __init__(
        self,
        shares: list[np.ndarray],
        ranks: list[np.ndarray | None],
        hidden: int,
        width: int,
        dropout: float,
        last: int | None = None,
    ):
        super().__init__()
        self.order = ordered(shares, last)
        self.hidden, self.sizes = hidden, [shares[k].shape[-1] for k in self.order]
        widths = [max(1, min(width, round(1.6 * size**0.5))) for size in self.sizes]
        self.starts = np.cumsum([0, *widths]).tolist()  # where each place's embedding begins
        count = len(self.sizes)
        self.spans = [self.starts[min(begin + GROUP, count)] - self.starts[begin] for begin in range(0, count, GROUP)]
        known = [ranks[k] if size > FEW else None for k, size in zip(self.order, self.sizes, strict=True)]
        self.embed = nn.ModuleList(Embed(size, wide, rank) for size, wide, rank in zip(self.sizes, widths, known, strict=True))
        self.drop = nn.Dropout(dropout)
        self.wide = count > DENSE
        self.first, self.sums = nn.ModuleList(), nn.ModuleList()
        for begin in range(0, count, GROUP):
            places = range(begin, min(begin + GROUP, count))
            offset = self.starts[begin] if self.wide else 0
            behind = SUMMARY if self.wide and begin else 0
            layer = nn.Linear(max(1, behind + self.starts[places[-1]] - offset), len(places) * hidden)
            mask = torch.zeros_like(layer.weight)
            for row, place in enumerate(places):
                mask[row * hidden : (row + 1) * hidden, : behind + self.starts[place] - offset] = 1
            with torch.no_grad():
                layer.weight.mul_(mask)
            layer.register_buffer("mask", mask, persistent=False)
            self.first.append(layer)
            if self.wide:
                self.sums.append(nn.Linear(self.starts[places[-1] + 1] - offset, SUMMARY))
        self.middle = nn.Parameter(torch.randn(count, hidden, hidden) * hidden**-0.5)
        self.last = nn.ModuleList(Leave(shares[k], hidden, rank) for k, rank in zip(self.order, known, strict=True))

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """tokens [n, K] in network order -> K tensors of logits [n, V_k]."""
        e = self.drop(torch.cat([table(tokens[:, place]) for place, table in enumerate(self.embed)], dim=1))
        a, behind = [], e[:, :0]
        group: Any
        for number, (group, part) in enumerate(zip(self.first, e.split(self.spans, dim=1), strict=True)):
            x = torch.cat([behind, part], dim=1) if self.wide else e
            weight = group.weight * group.mask
            a.append(F.linear(x[:, : weight.shape[1]], weight[:, : x.shape[1]], group.bias))
            if self.wide:
                behind = self.extend(behind, part, number)
        blocks = torch.cat(a, dim=1).view(len(tokens), -1, self.hidden).transpose(0, 1)  # [K, n, hidden]
        h = F.relu(blocks + torch.bmm(F.relu(blocks), self.middle))
        return [leave(part, tokens[:, place - 1]) for place, (part, leave) in enumerate(zip(h.unbind(0), self.last, strict=True))]

    def extend(self, behind: Tensor, part: Tensor, number: int) -> Tensor:
        """The running sum [n, SUMMARY] with one more group of places, whose embeddings are `part`."""
        fresh = F.relu(self.sums[number](part))
        return behind + fresh if behind.shape[1] else fresh


def ordered(shares: list[np.ndarray], last: int | None = None) -> list[int]:
    """Positions in rising order of entropy, but `last` at the end; one that depends on the position before stays behind it."""
    heads = [k for k, share in enumerate(shares) if share.ndim == 1]
    entropy = {k: -float((shares[k][shares[k] > 0] * np.log(shares[k][shares[k] > 0])).sum()) for k in heads}
    ends = dict(zip(heads, [*heads[1:], len(shares)], strict=True))
    return [k for head in sorted(heads, key=lambda head: (head == last, entropy[head])) for k in range(head, ends[head])]


class Walk:
    """Rows that grow place by place: tokens [n, K], embeddings [n, E] and, in a wide net, the running sum."""

    def __init__(self, net: MaskedNet, n: int):
        self.net, self.place = net, 0
        self.tokens = torch.empty(n, len(net.sizes), dtype=torch.int64)
        self.e = torch.empty(n, net.starts[-1])
        self.behind = self.e[:, :0]

    def logits(self) -> Tensor:
        """Logits [n, V] of the next place."""
        net, place = self.net, self.place
        group: Any = net.first[place // GROUP]
        row = place % GROUP * net.hidden
        weight, bias = group.weight[row : row + net.hidden], group.bias[row : row + net.hidden]
        begin = place - place % GROUP
        offset = net.starts[begin] if net.wide else 0
        seen = self.e[:, offset : net.starts[place]]
        x = torch.cat([self.behind, seen], dim=1) if self.behind.shape[1] else seen
        a = F.linear(x, weight[:, : x.shape[1]], bias)
        return net.last[place](F.relu(a + F.relu(a) @ net.middle[place]), self.tokens[:, place - 1])

    def append(self, token: Tensor) -> None:
        """Set the tokens [n] of the next place."""
        net, place = self.net, self.place
        self.tokens[:, place] = token
        self.e[:, net.starts[place] : net.starts[place + 1]] = net.embed[place](token)
        self.place += 1
        if net.wide and (self.place % GROUP == 0):
            number = place // GROUP
            begin = net.starts[number * GROUP]
            self.behind = net.extend(self.behind, self.e[:, begin : begin + net.spans[number]], number)

    def take(self, rows: Tensor) -> Walk:
        """The walk of chosen rows."""
        walk, place = Walk(self.net, len(rows)), self.place
        walk.tokens[:, :place] = self.tokens[:, :place][rows]
        walk.e[:, : self.net.starts[place]] = self.e[:, : self.net.starts[place]][rows]
        walk.place, walk.behind = place, self.behind[rows]
        return walk
