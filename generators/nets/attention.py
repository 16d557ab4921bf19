"""A transformer block that can go on from the keys and values of what it has read.

Vaswani et al.: Attention Is All You Need, 2017, arXiv:1706.03762; norms before each half as in Xiong et al., 2020, arXiv:2002.04745.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Causal attention, then an MLP, each added to what it reads."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.three = nn.Linear(width, 3 * width)  # query, key and value
        self.join = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [n, L, width], and the keys and values [n, heads, P, width / heads] of the places before, if any, when L is 1.

        Both come back, the keys and values with those of x.
        """
        query, key, value = self.three(self.before(x)).view(*x.shape[:2], 3, self.heads, x.shape[2] // self.heads).permute(2, 0, 3, 1, 4)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=past is None)
        x = x + self.join(attended.transpose(1, 2).reshape(x.shape))
        return x + self.mlp(self.between(x)), (key, value)
