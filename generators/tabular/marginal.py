"""Independent columns: the floor that every other generator has to beat.

    (1)  p(row) = prod_k p_k(column k)

Each p_k is the column's own histogram. Everything that joins columns is lost, and with it everything a downstream model could learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from generators.base import Generator, Rows, Run
from generators.codecs.table import TokenCodec


class Histograms(nn.Module):
    """The share of each token at each position: [V], or [V before, V] given the token before where a column has two."""

    shares: nn.ParameterList

    def __init__(self, shares: list[np.ndarray]):
        super().__init__()
        self.shares = nn.ParameterList([nn.Parameter(torch.from_numpy(share).float(), requires_grad=False) for share in shares])


@dataclass(frozen=True)
class Marginal(Generator):
    """Independent columns. No hyper-parameters."""

    codec: ClassVar[type[TokenCodec]] = TokenCodec

    def build(self, codec: TokenCodec) -> Histograms:
        return Histograms(codec.shares)

    def learn(self, net: Histograms, rows: Rows, run: Run) -> Histograms:
        return net  # the codec has counted

    def sample(self, net: Histograms, n: int, rng: torch.Generator) -> Rows:
        columns: list[Tensor] = []
        for share in net.shares:
            if share.ndim == 1:
                columns.append(torch.multinomial(share, n, replacement=True, generator=rng))  # (1)
            else:
                columns.append(torch.multinomial(share[columns[-1]], 1, generator=rng)[:, 0])
        return (torch.stack(columns, dim=1),)
