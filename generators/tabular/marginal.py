"""Independent columns: the floor that every other generator has to beat.

    (1)  p(row) = prod_k p_k(column k)

Each p_k is the column's own histogram. Everything that joins columns is lost, and with it everything a downstream model could learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from generators.base import Generator, Rows, Run
from generators.codecs.table import TokenCodec


class Histograms(nn.Module):
    """One vector of probabilities a column."""

    shares: nn.ParameterList

    def __init__(self, sizes: list[int]):
        super().__init__()
        self.shares = nn.ParameterList([nn.Parameter(torch.zeros(size), requires_grad=False) for size in sizes])


@dataclass(frozen=True)
class Marginal(Generator):
    """Independent columns. No hyper-parameters."""

    codec: ClassVar[type[TokenCodec]] = TokenCodec

    def build(self, codec: TokenCodec) -> Histograms:
        return Histograms(codec.sizes)

    def learn(self, net: Histograms, rows: Rows, run: Run) -> Histograms:
        for column, share in zip(rows[0].T, net.shares, strict=True):
            share.data = torch.bincount(column, minlength=len(share)).float() / len(column)
        return net

    def sample(self, net: Histograms, n: int, rng: torch.Generator) -> Rows:
        columns: list[Tensor] = [torch.multinomial(share, n, replacement=True, generator=rng) for share in net.shares]  # (1)
        return (torch.stack(columns, dim=1),)
