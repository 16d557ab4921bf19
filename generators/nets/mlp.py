"""Plain building blocks for tables: an MLP with skip connections, and categories as concatenated one-hot groups."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 4096  # rows that are calibrated at once


class MLP(nn.Module):
    """[n, inputs] -> [n, outputs]: `depth` hidden layers, each added to the one before; the output starts small."""

    def __init__(self, inputs: int, hidden: int, depth: int, outputs: int):
        super().__init__()
        self.enter = nn.Linear(inputs, hidden)
        self.layers = nn.ModuleList(nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU()) for _ in range(depth - 1))
        self.leave = nn.Linear(hidden, outputs)
        with torch.no_grad():
            self.leave.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """float [n, inputs] -> float [n, outputs]."""
        h = F.silu(self.enter(x))
        for layer in self.layers:
            h = h + layer(h)
        return self.leave(h)


def one_hot(tokens: Tensor, sizes: list[int]) -> Tensor:
    """int64 [n, K] -> float [n, V_1 + … + V_K]: a group of V_k for each column."""
    starts = torch.tensor([0, *sizes], device=tokens.device).cumsum(0)[:-1]
    return torch.zeros(len(tokens), sum(sizes), device=tokens.device).scatter(1, tokens + starts, 1.0)


def log_softmax(logits: Tensor, sizes: list[int]) -> Tensor:
    """Log-softmax within each group of [n, V_1 + … + V_K]."""
    return torch.cat([part.log_softmax(1) for part in logits.split(sizes, dim=1)], dim=1) if sizes else logits


def cross_entropy(logits: Tensor, tokens: Tensor, sizes: list[int]) -> Tensor:
    """float [n]: - sum_k log p(token k) of [n, K] tokens under grouped logits [n, V_1 + … + V_K]."""
    terms = [F.cross_entropy(part, tokens[:, k], reduction="none") for k, part in enumerate(logits.split(sizes, dim=1))] if sizes else []
    return torch.stack(terms).sum(0) if terms else logits.new_zeros(len(logits))


def draw(logits: Tensor, sizes: list[int], rng: torch.Generator | None) -> Tensor:
    """int64 [n, K]: one token out of each group, with its probability; `rng` None is the global generator."""
    tokens = [drawn(part.softmax(1), rng) for part in logits.split(sizes, dim=1)] if sizes else []
    return torch.stack(tokens, dim=1) if tokens else torch.zeros(len(logits), 0, dtype=torch.int64)


def drawn(p: Tensor, rng: torch.Generator | None) -> Tensor:
    """int64 [n]: one token a row of [n, V] by its share."""
    cumulative = p.cumsum(1)
    level = torch.rand(len(p), 1, generator=rng, device=p.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, level, right=True).squeeze(1).clamp(max=p.shape[1] - 1)


def binned(z: Tensor, bins: int) -> Tensor:
    """int64 [n, D]: in which of `bins` intervals of equal mass each normal score lies."""
    return (torch.special.ndtr(z) * bins).long().clamp(0, bins - 1)


def within(tokens: Tensor, bins: int, rng: torch.Generator) -> Tensor:
    """float [n, D]: a normal score somewhere in each interval."""
    rank = (tokens + torch.rand(tokens.shape, generator=rng, dtype=torch.float64)) / bins
    return torch.special.ndtri(rank.clamp(1e-9, 1 - 1e-9)).float()


def waves(share: np.ndarray, width: int) -> Tensor:
    """float [V, width]: a vector for each token, near those of its neighbours: cosines of its rank among shares [V], faster and smaller."""
    rank, number = torch.from_numpy(np.cumsum(share) - share / 2).float(), torch.arange(1, width + 1)
    return 2 * torch.cos(torch.pi * rank[:, None] * number) / number.sqrt()


@torch.no_grad()
def calibrate(biases: list[Tensor], tokens: Tensor, forward: Callable[[Tensor], list[Tensor]]) -> None:
    """Move each position's bias [V] so that the tokens it predicts are as frequent as those of the rows, int64 [n, K].

    `forward` gives logits [n, V_k] of every position from rows; biases of another shape stay. To each bias is added the log of the
    observed over the expected count, both with one more row as the net expects it, so that a token that no row has keeps a chance: a
    step of iterative scaling (Darroch, Ratcliff: Generalized Iterative Scaling for Log-Linear Models, 1972) towards the likeliest bias.
    """
    expected = [torch.zeros(bias.shape, dtype=torch.float64, device=bias.device) for bias in biases]
    for part in tokens.split(ROWS):
        for total, logits in zip(expected, forward(part.to(biases[0].device)), strict=True):
            if total.ndim == 1:
                total += logits.softmax(1).sum(0)
    for k, (bias, total) in enumerate(zip(biases, expected, strict=True)):
        if bias.ndim == 1:
            counts = torch.bincount(tokens[:, k], minlength=len(bias)).to(bias.device)
            row = total / len(tokens) + 1e-6
            bias += ((counts + row) / (total + row)).log()
