"""Blocks of an encoder and a decoder: texts that are read both ways, and texts that are written while looking at what was read.

Vaswani et al.: Attention Is All You Need, 2017, arXiv:1706.03762; norms before each part as in Xiong et al., 2020, arXiv:2002.04745.
Places are told by turning, as generators/nets/attention.py has it, those of the one text beside those of the other: texts that belong
together run side by side more often than not.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.nets.attention import Block, Memory, turned


class Attention(nn.Module):
    """Places of one sequence look at those of another, or of their own, and add what they see."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.before = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.two = nn.Linear(width, 2 * width)  # key and value
        self.join = nn.Linear(width, width)

    def keys(self, memory: Tensor) -> Tensor:
        """Keys and values, [n, 2, heads, S, width / heads], of normed memory [n, S, width]."""
        key, value = self.two(memory).unflatten(2, (2, self.heads, self.size)).permute(2, 0, 3, 1, 4)
        return torch.stack([turned(key), value], dim=1)

    def forward(self, x: Tensor, keys: Tensor, there: Tensor, start: int = 0) -> Tensor:
        """x [n, L, width] at the places `start` and after; `there`, bool [n, S]: which places of the memory are to be seen."""
        query = self.query(self.before(x)).unflatten(2, (self.heads, self.size)).transpose(1, 2)
        seen = F.scaled_dot_product_attention(turned(query, start), keys[:, 0], keys[:, 1], attn_mask=there[:, None, None])
        return x + self.join(seen.transpose(1, 2).flatten(2))


class BothWays(nn.Module):
    """What an LSTM each way, half as wide, makes of texts of several lengths."""

    def __init__(self, width: int):
        super().__init__()
        self.ways: Any = nn.ModuleList(nn.LSTM(width, width // 2, batch_first=True) for _ in range(2))

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """x [n, S, width], of which the first places are `there`, bool [n, S]; what is made of the others means nothing."""
        place, size = torch.arange(x.shape[1], device=x.device), there.sum(1, keepdim=True)
        turn = torch.where(there, size - 1 - place, place)[:, :, None]  # the last place first, and back again
        onwards, backwards = self.ways[0](x)[0], self.ways[1](x.gather(1, turn.expand_as(x)))[0]
        return torch.cat([onwards, backwards.gather(1, turn.expand_as(backwards))], dim=2)


class Reading(nn.Module):
    """Attention both ways, then an MLP, each added to what it reads."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.look = Attention(width, heads)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """x [n, S, width]; `there`, bool [n, S]: its places that hold something."""
        x = self.look(x, self.look.keys(self.look.before(x)), there)
        return x + self.mlp(x)


class Crossing(nn.Module):
    """A look at the memory, then causal attention and an MLP."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.look, self.block = Attention(width, heads), Block(width, heads, turning=True)

    def forward(self, x: Tensor, keys: Tensor, there: Tensor, memory: Memory | None = None) -> Tensor:
        """x [n, L, width], the keys of what was read as `look` makes them, and the memory of what was written, as `Block` takes it."""
        return self.block(self.look(x, keys, there, memory.read if memory else 0), memory)
