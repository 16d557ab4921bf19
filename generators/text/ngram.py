"""Trigrams of every label: the floor. Its tables spell out the training rows, so it can never be published.

Witten, Bell: The Zero-Frequency Problem, IEEE Transactions on Information Theory, 1991.

    (1)  p(row | y) = prod_i p_3(t_i | y, k, t_i-2, t_i-1)           k is the number of the text that t_i stands in
    (2)  p_j(t | c) = (n(c t) + d(c) p_j-1(t | c')) / (n(c) + d(c))   n counts; d(c) is how many different tokens follow c
    (3)  the contexts c, c', …: y k t_i-2 t_i-1;  y k t_i-1;  k t_i-1;  k;   then p_0 is the same for every token
    (4)  t ~ p_j:  with chance n(c) / (n(c) + d(c)) what follows c somewhere in the training rows, else t ~ p_j-1

A table of an order is the sorted list of its grams c t, one for each place of the training rows: those of a context stand side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from generators.base import Labelled, Rows, Run
from generators.codecs.text import EOS, FIRST, PAD, SEP, TextCodec


class Grams(nn.Module):
    """`table` int64 [4, places of the training rows]: the sorted grams of each order, the longest context first."""

    shares: Tensor
    table: Tensor

    def __init__(self, size: int, shares: Tensor, texts: int, longest: int):
        super().__init__()
        self.size, self.texts, self.longest = size, texts, longest
        self.register_buffer("shares", shares)
        self.register_buffer("table", torch.zeros(4, 0, dtype=torch.int64))
        self.register_load_state_dict_pre_hook(fitting)

    def contexts(self, y: Tensor, k: Tensor, last: Tensor) -> Tensor:
        """int64 [4, ...]: a number for each context (3) of labels y, texts k and the two tokens before, last [..., 2]."""
        v, one, two = self.size, last[..., 1], last[..., 0]
        every, own = k * v + one, (y * self.texts + k) * v + one
        return torch.stack([own * v + two, own, every, k])

    def places(self, tokens: Tensor, y: Tensor) -> Tensor:
        """The contexts int64 [4, n, T] of the places of rows (tokens [n, T], y [n])."""
        padded = nn.functional.pad(tokens, (2, 0), value=PAD)
        k = (padded[:, 1:-1] == SEP).cumsum(1)
        return self.contexts(y[:, None].expand_as(k), k, torch.stack([padded[:, :-2], padded[:, 1:-1]], dim=2))

    def counts(self, order: int, contexts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(where the grams of contexts [m] begin, how many there are, how many of them differ) in the table of an order, int64 [m]."""
        table = self.table[order]
        begin, end = (torch.searchsorted(table, (contexts + more) * self.size) for more in (0, 1))
        kinds = nn.functional.pad(table.diff(prepend=table.new_full((1,), -1)).ne(0).cumsum(0), (1, 0))
        return begin, end - begin, kinds[end] - kinds[begin]


@dataclass(frozen=True)
class Ngram(Labelled):
    """No hyper-parameters; not publishable."""

    codec: ClassVar[type[TextCodec]] = TextCodec
    publishable: ClassVar[bool] = False

    def build(self, codec: TextCodec) -> Grams:
        return Grams(codec.size, torch.tensor(codec.shares), len(codec.texts), codec.longest)

    def learn(self, net: Grams, rows: Rows, run: Run) -> nn.Module:
        real = rows[0] != PAD
        net.table = (net.places(*rows)[:, real] * net.size + rows[0][real]).sort(dim=1).values
        return net

    def log_prob(self, net: Grams, rows: Rows) -> Tensor:
        """log p(x, y) in nats, float [n], of encoded rows."""
        real, contexts = rows[0] != PAD, net.places(*rows)
        tokens = rows[0][real]
        p = torch.full(tokens.shape, 1 / (net.size - FIRST + 1), dtype=torch.float64)  # pieces, and what ends the text
        for order in (3, 2, 1, 0):
            c = contexts[order][real]
            _, n, d = net.counts(order, c)
            both = [torch.searchsorted(net.table[order], c * net.size + tokens, right=right) for right in (False, True)]
            p = torch.where(n > 0, (both[1] - both[0] + d * p) / (n + d).clamp(min=1), p)  # (2)
        return torch.zeros(real.shape, dtype=p.dtype).masked_scatter(real, p.log()).sum(1) + net.shares.log()[rows[1]]  # (1)

    def draw(self, net: Grams, labels: Tensor, rng: torch.Generator) -> Tensor:
        tokens, going = torch.full((len(labels), net.longest + 2), PAD), torch.arange(len(labels))
        k = torch.zeros_like(labels)
        for place in range(2, net.longest + 2):
            left = net.texts - k[going]  # texts that have not ended
            ending = torch.where(left > 1, SEP, EOS)
            found = self.following(net, net.contexts(labels[going], k[going], tokens[going, place - 2 : place]), ending, rng)
            found = torch.where(net.longest + 2 - place > left, found, ending)
            tokens[going, place] = found
            k[going] += found == SEP
            going = going[found != EOS]
        return tokens[:, 2:]

    def following(self, net: Grams, contexts: Tensor, ending: Tensor, rng: torch.Generator) -> Tensor:
        """int64 [m]: a token for each of m contexts [4, m]; `ending` is the token that ends each text."""
        found = torch.randint(FIRST - 1, net.size, ending.shape, generator=rng)
        found = torch.where(found < FIRST, ending, found)
        for order in (3, 2, 1, 0):
            begin, n, d = net.counts(order, contexts[order])
            stay, which = torch.rand(2, len(n), generator=rng, dtype=torch.float64)
            there = net.table[order][(begin + (which * n).long()).clamp(max=net.table.shape[1] - 1)] % net.size
            found = torch.where(stay * (n + d) < n, there, found)  # (4)
        return found


def fitting(net: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Make room for the table that is about to be loaded."""
    net.table = torch.empty_like(state[f"{prefix}table"])
