"""Tokens as vectors and vectors as chances of tokens, by one table; and the choice of a token.

Press, Wolf: Using the Output Embedding to Improve Language Models, 2017, arXiv:1608.05859; nucleus: Holtzman, Buys, Du, Forbes, Choi: The
Curious Case of Neural Text Degeneration, 2020, arXiv:1904.09751.

    (1)  input of token w = sqrt(W) e_w
    (2)  log p(w|h) = u_w - log sum_v exp u_v,   u_v = e_v h + b_v
    (3)  sum_v exp u_v ~ sum of exp u_v over the tokens of the batch + R / S sum of exp u_v over S of the R others      while training
    (4)  tokens are drawn by p^(1/temperature), again while those that are likelier hold top_p of the chances

(3) is right on average and costs a fraction of the whole vocabulary: Jean, Cho, Memisevic, Bengio, 2015, arXiv:1412.2007, in its spirit.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.codecs.text import EOS, FIRST, SEP
from generators.nets.mlp import drawn

OTHERS = 256  # tokens that stand for those which a batch lacks


class Words(nn.Module):
    """`size` tokens as vectors of `width`."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.table = nn.Embedding(size, width)
        self.bias = nn.Parameter(torch.zeros(size))
        nn.init.normal_(self.table.weight, std=width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """float [n, L, width] of tokens [n, L]."""
        return math.sqrt(self.table.embedding_dim) * self.table(tokens)  # (1)

    def logits(self, h: Tensor) -> Tensor:
        """u, float [..., V], of vectors [..., width]."""
        return F.linear(h, self.table.weight, self.bias)

    def log_prob(self, h: Tensor, tokens: Tensor) -> Tensor:
        """log p(token|h), float [m], of h [m, width] and tokens [m]."""
        seen = tokens.unique()
        size = len(self.bias)
        if not self.training or len(seen) + OTHERS >= size:
            return -F.cross_entropy(self.logits(h), tokens, reduction="none")  # (2)
        absent = torch.ones(size, dtype=torch.bool, device=h.device).index_fill(0, seen, False).nonzero()[:, 0]
        some = torch.cat([seen, absent[torch.randperm(len(absent), device=h.device)[:OTHERS]]])
        weight = F.pad(torch.zeros_like(seen, dtype=h.dtype), (0, OTHERS), value=math.log(len(absent) / OTHERS))
        logits = F.linear(h, self.table(some), self.bias[some] + weight)  # (3)
        return -F.cross_entropy(logits, torch.searchsorted(seen, tokens), reduction="none")


def chosen(p: Tensor, temperature: float, top_p: float, rng: torch.Generator | None) -> Tensor:
    """int64 [n]: a token for each row of chances [n, V] that need not add up to one; the likeliest when `rng` is None."""
    if rng is None:
        return p.argmax(1)
    if temperature != 1:
        p = (p / p.amax(1, keepdim=True)).pow(1 / temperature)
    tokens, left = drawn(p, rng), torch.arange(len(p) if top_p < 1 else 0)
    while len(left):
        likelier = (p * (p > p.gather(1, tokens[left, None]))).sum(1)
        again = likelier >= top_p * p.sum(1)
        p, left = p[again], left[again]
        tokens[left] = drawn(p, rng)  # (4)
    return tokens


def ruled(p: Tensor, tokens: Tensor, left: Tensor, room: Tensor, spare: int) -> Tensor:
    """The chances [n, V] of what may follow the tokens [n]: SEP while texts are `left` [n], EOS after the last, neither at its beginning.

    A text ends where the room [n], in tokens, is only as large as what must still come: `spare` pieces for each text, and the ends.
    """
    begun = tokens >= FIRST
    tight = room <= torch.where(begun, (spare + 1) * left + 1, left + 1)
    ruled = p.masked_fill(tight[:, None], 0.0)
    ruled[:, :FIRST] = 0
    ruled[:, SEP] = torch.where(tight, 1.0, p[:, SEP] * begun) * (left > 0)
    ruled[:, EOS] = torch.where(tight, 1.0, p[:, EOS] * begun) * (left == 0)
    return ruled


def spare(longest: int) -> int:
    """The pieces that a text leaves to each that comes after it, in rows of at most so many tokens."""
    return max(1, longest // 16)
