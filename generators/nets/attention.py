"""A transformer block that can go on from the keys and values of what it has read.

Vaswani et al.: Attention Is All You Need, 2017, arXiv:1706.03762; norms before each half as in Xiong et al., 2020, arXiv:2002.04745;
places by turning: Su et al.: RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021, arXiv:2104.09864.

    (1)  q_i = R_i q,  k_j = R_j k      R_i turns pair d of the D / 2 pairs of numbers of a head by the angle i 10000^(-2d / D)

so that q_i . k_j depends on q, k and how far apart the two places are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Memory:
    """Keys and values float [n, heads, places, size] of what a block has read of n rows; the first `read` places are filled."""

    def __init__(self, n: int, heads: int, places: int, size: int):
        self.keys, self.values, self.read = torch.empty(n, heads, places, size), torch.empty(n, heads, places, size), 0

    def add(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the next L places, [n, heads, L, size] -> those of all places so far."""
        begin, self.read = self.read, self.read + key.shape[2]
        self.keys[:, :, begin : self.read], self.values[:, :, begin : self.read] = key, value
        return self.keys[:, :, : self.read], self.values[:, :, : self.read]

    def take(self, rows: Tensor) -> Memory:
        """The memory of chosen rows, int64 [m]."""
        n, (_, heads, places, size) = len(rows), self.keys.shape
        taken = Memory(n, heads, places, size)
        taken.add(self.keys[rows, :, : self.read], self.values[rows, :, : self.read])
        return taken


def turned(x: Tensor, start: int = 0) -> Tensor:
    """Vectors [..., L, D] of L places, of which the first is `start`, turned by their angles. D is even."""
    place, pair = torch.arange(start, start + x.shape[-2], device=x.device), torch.arange(0, x.shape[-1], 2, device=x.device)
    angle = place[:, None] * 10_000 ** (-pair / x.shape[-1])
    sin, cos, (a, b) = angle.sin().to(x.dtype), angle.cos().to(x.dtype), x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)  # (1)


class Block(nn.Module):
    """Causal attention, then an MLP, each added to what it reads. What comes in tells its places, unless the block is `turning`."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, turning: bool = False):
        super().__init__()
        self.heads, self.turning = heads, turning
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.three = nn.Linear(width, 3 * width)  # query, key and value
        self.join = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def memory(self, n: int, places: int) -> Memory:
        """An empty memory of n rows."""
        return Memory(n, self.heads, places, self.join.in_features // self.heads)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """x [n, L, width] of the next L places -> the same; L is 1 when the memory holds places already."""
        query, key, value = self.three(self.before(x)).view(*x.shape[:2], 3, self.heads, x.shape[2] // self.heads).permute(2, 0, 3, 1, 4)
        if self.turning:
            query, key = (turned(part, memory.read if memory else 0) for part in (query, key))
        if memory is not None:
            key, value = memory.add(key, value)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=x.shape[1] > 1)
        x = x + self.drop(self.join(attended.transpose(1, 2).reshape(x.shape)))
        return x + self.drop(self.mlp(self.between(x)))
