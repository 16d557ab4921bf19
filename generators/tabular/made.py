"""MADE for tables: a masked autoregressive network over the tokens of a row. The default for tables.

Germain, Gregor, Murray, Larochelle: MADE: Masked Autoencoder for Distribution Estimation, 2015, arXiv:1502.03509, in block
form: every token has hidden units of its own, so the masks are whole blocks (generators/nets/masked.py).

    (1)  log p(row) = sum_k log p(t_k | t_<k)            tokens t_1 … t_K in the network's order: exact, no bound
    (2)  a_k = W_k [e(t_1), …, e(t_k-1)] + b_k           block k reads the embeddings of the tokens before it and of no other
    (3)  h_k = a_k + V_k relu(a_k),   logits_k = U_k relu(h_k) + c_k
    (4)  c_k = log share of each token                   so that training starts from the independent columns
    (5)  loss = - log p(row), averaged over a batch
    (6)  e(t) = A cos(pi j rank(t)), U_k likewise        for tokens that have an order: neighbours learn from each other
    (7)  c_k += log (count of each token / count expected given the rows' own t_<k)     once, after (5): the marginals come out right
    (8)  p(row | allowed): a prefix goes on with probability p(t_k allowed | t_<k) / the largest such probability

Columns stand in rising order of entropy; in a large table the target stands last, so that (1) holds p(target | all the others) itself:
with many rows that predicts better, with few rows worse (Ng, Jordan: On Discriminative vs. Generative Classifiers, NIPS 2001).

When sampling, rows that agree so far share one evaluation: while few different prefixes exist, their counts are split by a multinomial
draw, which is the same distribution as drawing row by row. A condition thins the prefixes as they grow (8), so what cannot be met is given
up early, and a value that hardly depends on the others costs nothing; one of a target that stands last is met by throwing rows away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.base import Completing, Descending, Rows, Run
from generators.codecs.table import TokenCodec
from generators.nets.masked import MaskedNet, Walk
from generators.nets.mlp import calibrate, drawn
from generators.train import Training

ROWS = 8192  # rows evaluated at once when sampling
MOST = 2_000_000  # draws that one call spends on a condition
PARTICLES = 32  # candidates for each row that is completed
MANY = 40_000  # rows from which the target stands last


@dataclass(frozen=True)
class MADE(Descending, Completing):
    """Masked autoregressive network. `hidden` units a token, embeddings at most `width` wide, `dropout` on the embeddings."""

    hidden: int = 32
    width: int = 16
    dropout: float = 0.2
    training: Training = Training(epochs=40, least_steps=600, batch=256, lr=1e-2, weight_decay=0.1, ema=0.995, patience=2)
    codec: ClassVar[type[TokenCodec]] = TokenCodec
    private: ClassVar[Mapping[str, Any]] = {
        "hidden": 16,
        "width": 8,
        "dropout": 0.0,
        "training": {"steps": 1000, "batch": 512, "lr": 5e-3, "weight_decay": 0.0, "clip": 1.0, "ema": 0.99},
    }

    def build(self, codec: TokenCodec) -> MaskedNet:
        last = codec.positions[codec.target].start if codec.target is not None and codec.seen >= MANY else None
        return MaskedNet(codec.shares, codec.ranks, self.hidden, self.width, self.dropout, last)

    def loss(self, net: MaskedNet, rows: Rows, phase: str) -> Tensor:
        return -self.log_prob(net, rows).mean()  # (5)

    def learn(self, net: nn.Module, rows: Rows, run: Run) -> nn.Module:
        trained: Any = self.descend(net, rows, run)
        if run.privacy is None:
            calibrate([leave.bias for leave in trained.last], rows[0][:, trained.order], trained)  # (7)
        return trained

    def log_prob(self, net: MaskedNet, rows: Rows) -> Tensor:
        """log p(row) in nats, float [n], of encoded rows."""
        tokens = rows[0][:, net.order]
        terms = [F.cross_entropy(logits, tokens[:, place], reduction="none") for place, logits in enumerate(net(tokens))]
        return -torch.stack(terms).sum(0)  # (1)

    def sample(self, net: MaskedNet, n: int, rng: torch.Generator) -> Rows:
        return restored(net, self.walk(net, n, rng, {}))

    def sample_where(self, net: MaskedNet, n: int, rng: torch.Generator, weights: Mapping[int, Tensor]) -> Rows:
        allowed = {net.order.index(k): weight for k, weight in weights.items()}
        found, have, drawn, size = [], 0, 0, max(ROWS, n)
        while have < n and drawn < MOST:
            found.append(self.walk(net, size, rng, allowed))
            have, drawn = have + len(found[-1]), drawn + size
            size = min(MOST // 4, max(ROWS, int(1.1 * (n - have) * drawn / max(1, have))))
        return restored(net, torch.cat(found)[:n])

    def walk(self, net: MaskedNet, n: int, rng: torch.Generator, allowed: Mapping[int, Tensor]) -> Tensor:
        """Tokens [m, K] in network order: n draws, less those that `allowed` thins out, in random order."""
        numbers = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
        walk, counts = Walk(net, 1), np.array([n])
        while walk.place < len(net.sizes) and len(counts) < n / 3:  # few prefixes: split their counts
            starts = torch.arange(len(counts)).split(ROWS)
            p = torch.cat([walk.take(part).logits().softmax(1) for part in starts]).double()
            if walk.place in allowed:
                p, kept = thinned(p, allowed[walk.place])
                counts = numbers.binomial(counts, kept.numpy())  # (8)
            split = numbers.multinomial(counts, (p / p.sum(1, keepdim=True)).numpy())
            prefix, chosen = np.nonzero(split)
            counts = split[prefix, chosen]
            walk = walk.take(torch.from_numpy(prefix))
            walk.append(torch.from_numpy(chosen))
        rows = torch.from_numpy(numbers.permutation(np.repeat(np.arange(len(counts)), counts)))
        return torch.cat([onwards(walk.take(part), rng, allowed) for part in rows.split(ROWS)])

    def complete(self, net: MaskedNet, rows: Rows, known: Tensor, rng: torch.Generator, weights: Mapping[int, Tensor]) -> Rows:
        allowed = {net.order.index(k): weight for k, weight in weights.items()}
        parts = []
        for tokens, fixed in zip(rows[0][:, net.order].split(ROWS // PARTICLES), known[:, net.order].split(ROWS // PARTICLES), strict=True):
            tokens, fixed = tokens.repeat_interleave(PARTICLES, 0), fixed.repeat_interleave(PARTICLES, 0)
            walk, weight = Walk(net, len(tokens)), torch.zeros(len(tokens))
            for place in range(len(net.sizes)):
                p = walk.logits().softmax(1)
                here = fixed[:, place]
                free = p * allowed[place] if place in allowed else p
                weight += torch.where(here, p.gather(1, tokens[:, [place]])[:, 0], free.sum(1)).clamp(min=1e-30).log()
                walk.append(torch.where(here, tokens[:, place], drawn(free, rng)))
            best = torch.multinomial(weight.view(-1, PARTICLES).softmax(1), 1, generator=rng)[:, 0]
            parts.append(walk.tokens.view(-1, PARTICLES, len(net.sizes))[torch.arange(len(best)), best])
        return restored(net, torch.cat(parts))


def onwards(walk: Walk, rng: torch.Generator, allowed: Mapping[int, Tensor]) -> Tensor:
    """Tokens [m, K] of these rows, walked row by row to the end."""
    while walk.place < len(walk.net.sizes):
        p = walk.logits().softmax(1)
        if walk.place in allowed and len(p):
            p, kept = thinned(p, allowed[walk.place])
            going = (torch.rand(len(p), generator=rng) < kept).nonzero()[:, 0]  # (8)
            walk, p = walk.take(going), p[going]
        walk.append(drawn(p, rng))
    return walk.tokens


def thinned(p: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities [n, V] times weights [V], and the share [n] of each row that goes on."""
    p = p * weight
    mass = p.sum(1)
    return torch.where(mass[:, None] > 0, p, 1.0), mass / mass.max().clamp(min=1e-30)


def restored(net: MaskedNet, tokens: Tensor) -> Rows:
    """Tokens in network order back in the codec's."""
    inverse = torch.empty(len(net.order), dtype=torch.int64)
    inverse[torch.tensor(net.order)] = torch.arange(len(net.order))
    return (tokens[:, inverse],)
