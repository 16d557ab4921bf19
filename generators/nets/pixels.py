"""Images drawn place by place, from the top left: what PixelCNN and PixelRNN have in common.

    (1)  log p(x | y) = sum_ij sum_d log p(t_ijd | t_ij<d, t_before ij, y)      exact, no bound
    (2)  v_ij = K * e_i-3…i-1, j-3…j+3 + s_ij(y)                 the rows above, and where this is
    (3)  h_ij = k * e_i, j-3…j-1 + v_ij                          the places to the left: with (2) the 7 × 7 kernel masked A
    (4)  f = body(v, h, y)                                       a stack of layers that look up and to the left
    (5)  a_ijd = W_d f_ij + sum_<d B_d e(t_ij<d) + b_d,   logits_d = U_d relu(a_d) + c_d

A place is a patch of pixels with all their colours, and the class of each pixel's mask: its slots d are drawn one after another, like
the colours of a pixel, by a small masked net (5). A patch of 1 is the papers' net. A token t is one of a few levels of grey; inside a
level, grey values have the shares they have in the training images, so p(x) is exact on 8 bits.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.nets.mlp import drawn

REACH = 3  # places that the first kernels look up, to the left and to the right
EMBED = 4  # numbers a token
MAPS = 16  # patterns over the image out of which the labels' own are mixed


class Walk(ABC):
    """A body at work on one row after another, which remembers what it needs of the places before."""

    @abstractmethod
    def row(self, v: Tensor) -> None:
        """Begin a row, whose v is [n, c, 1, W]."""

    @abstractmethod
    def column(self, h: Tensor, j: int) -> Tensor:
        """f [n, c] of place j of the row, from its h [n, c]."""


class Body(nn.Module, ABC):
    """The layers between the first kernels and the logits."""

    @abstractmethod
    def forward(self, v: Tensor, h: Tensor, y: Tensor) -> Tensor:
        """v, h [n, c, H, W] and labels [n] -> f [n, c, H, W]. f_ij depends on h_i, ≤j and all of v and h in rows ≤ i and < i."""

    @abstractmethod
    def walk(self, y: Tensor) -> Walk:
        """The same, place by place, for labels [n]."""


class Grid(nn.Module):
    """uint8 images [n, C + K, H, W] as tokens int64 [n, D, H / patch, W / patch] and back; C channels, then K classes of a mask."""

    inside: Tensor  # bool [D, h, w]: False for what only fills up the last patches
    bounds: Tensor  # float64 [256]: running sum of each grey value's share within its level

    def __init__(self, shape: tuple[int, int, int], classes: int, levels: int, patch: int):
        super().__init__()
        self.shape, self.classes, self.levels, self.patch = shape, classes, levels, patch
        self.channels = shape[0] - classes
        self.kinds = self.channels + (classes > 0)
        self.slots, self.size = self.kinds * patch**2, tuple(-(-side // patch) for side in shape[1:])
        self.tokens = torch.tensor(([levels] * self.channels + [classes] * (classes > 0)) * patch**2)  # how many each slot has
        self.register_buffer("bounds", torch.arange(1, 257, dtype=torch.float64) * levels / 256)
        self.register_buffer("inside", self.patches(torch.ones(1, self.kinds, *shape[1:], dtype=torch.bool))[0], persistent=False)

    def level(self, grey: Tensor) -> Tensor:
        """int64 of uint8 grey values: `levels` even steps."""
        return grey.long() * self.levels // 256

    def measure(self, x: Tensor) -> None:
        """Take the shares of grey values within each level from images. Two levels are black and white."""
        grey = torch.arange(256)
        counts = torch.bincount(x[:, : self.channels].flatten().int(), minlength=256).double() + 1e-3
        if self.levels == 2:
            counts = ((grey == 0) | (grey == 255)).double()
        totals = torch.zeros(self.levels, dtype=torch.float64).index_add_(0, self.level(grey), counts)
        self.bounds.copy_((counts / totals[self.level(grey)]).cumsum(0))

    def patches(self, tokens: Tensor) -> Tensor:
        """[n, kinds, H, W] -> [n, D, h, w], the slots of a pixel side by side."""
        n, p, (h, w) = len(tokens), self.patch, self.size
        tokens = F.pad(tokens, (0, w * p - self.shape[2], 0, h * p - self.shape[1]))
        return tokens.view(n, self.kinds, h, p, w, p).permute(0, 3, 5, 1, 2, 4).reshape(n, self.slots, h, w)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [n, D, h, w] of images."""
        mask = [x[:, self.channels :].float().argmax(1, keepdim=True)] if self.classes else []
        return self.patches(torch.cat([self.level(x[:, : self.channels]), *mask], dim=1))

    def images(self, tokens: Tensor, rng: torch.Generator) -> Tensor:
        """uint8 [n, C + K, H, W]: within its level, each grey value by its share."""
        n, p, (h, w) = len(tokens), self.patch, self.size
        tokens = tokens.view(n, p, p, self.kinds, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, self.kinds, h * p, w * p)
        tokens = tokens[:, :, : self.shape[1], : self.shape[2]]
        level = tokens[:, : self.channels]
        share = torch.rand(level.shape, generator=rng, dtype=torch.float64)
        grey = torch.searchsorted(self.bounds, level + share, right=True).clamp(max=255).to(torch.uint8)
        if not self.classes:
            return grey
        return torch.cat([grey, F.one_hot(tokens[:, -1], self.classes).permute(0, 3, 1, 2).to(torch.uint8) * 255], dim=1)

    def log_within(self, x: Tensor) -> Tensor:
        """log p(image | its levels), float [n]."""
        share = self.bounds.diff(prepend=self.bounds.new_zeros(1)).clamp(min=0)
        return share.log()[x[:, : self.channels].int()].flatten(1).sum(1)


class Within(nn.Module):
    """(5): the slots of a place, one after another. `hidden` units a slot."""

    mask: Tensor  # [D * hidden, D * EMBED]: 1 where an earlier slot is heard
    barred: Tensor  # [D, V]: -inf for tokens that a slot does not have

    def __init__(self, width: int, tokens: Tensor, hidden: int):
        super().__init__()
        slots, most = len(tokens), int(tokens.max())
        self.hidden, self.most = hidden, most
        self.table = nn.Parameter(torch.randn(slots, most, EMBED))
        with torch.no_grad():  # neighbours look alike
            self.table[:, :, 0] = 2 * torch.arange(most) / (tokens[:, None] - 1).clamp(min=1) - 1
        self.enter = nn.Linear(width, slots * hidden)
        self.before = nn.Parameter(torch.randn(slots * hidden, slots * EMBED) / math.sqrt(slots * EMBED))
        self.leave = nn.Parameter(torch.randn(slots, hidden, most) * 0.1 / math.sqrt(hidden))
        self.bias = nn.Parameter(torch.zeros(slots, most))
        earlier = torch.ones(slots, slots).tril(-1)
        self.register_buffer("mask", earlier.repeat_interleave(hidden, 0).repeat_interleave(EMBED, 1), persistent=False)
        barred = torch.where(torch.arange(most) < tokens[:, None], 0.0, -torch.inf)
        self.register_buffer("barred", barred, persistent=False)

    def embedded(self, tokens: Tensor) -> Tensor:
        """e float [n, D * EMBED, h, w] of tokens [n, D, h, w]."""
        slots = torch.arange(len(self.table), device=tokens.device)
        return self.table[slots, tokens.permute(0, 2, 3, 1)].flatten(3).permute(0, 3, 1, 2)

    def forward(self, f: Tensor, e: Tensor) -> Tensor:
        """f [n, c, h, w], e [n, D * EMBED, h, w] -> logits [n, h, w, D, V]."""
        a = self.enter(f.permute(0, 2, 3, 1)) + F.linear(e.permute(0, 2, 3, 1), self.before * self.mask)
        h = F.relu(a).unflatten(3, (-1, self.hidden))
        return torch.einsum("nhwdk,dkv->nhwdv", h, self.leave) + self.bias + self.barred  # (5)

    def draw(self, f: Tensor, inside: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """f [n, c] -> tokens [n, D] of one place, 0 where not `inside` [D]; and their embeddings [n, D * EMBED]."""
        a, before = self.enter(f).unflatten(1, (-1, self.hidden)), self.before.unflatten(0, (-1, self.hidden))
        tokens = torch.zeros(len(f), len(inside), dtype=torch.int64)
        e = f.new_empty(len(f), len(inside), EMBED)
        for d, real in enumerate(inside.tolist()):
            if real:
                h = F.relu(a[:, d] + F.linear(e[:, :d].flatten(1), before[d, :, : d * EMBED]))
                tokens[:, d] = drawn((torch.addmm(self.bias[d], h, self.leave[d]) + self.barred[d]).softmax(1), rng)
            e[:, d] = self.table[d, tokens[:, d]]
        return tokens, e.flatten(1)


class PixelNet(nn.Module):
    """Grid, first kernels (2, 3), body (4) and the net within a place (5). `shares` [L] is p(y)."""

    shares: Tensor

    def __init__(self, grid: Grid, body: Body, shares: Tensor, width: int, hidden: int):
        super().__init__()
        self.grid, self.body = grid, body
        self.within = Within(width, grid.tokens, hidden)
        self.above = nn.Conv2d(grid.slots * EMBED, width, (REACH, 2 * REACH + 1))
        self.left = nn.Conv2d(grid.slots * EMBED, width, (1, REACH))
        self.label = nn.Embedding(len(shares), min(len(shares), MAPS))
        self.maps = nn.Parameter(torch.zeros(min(len(shares), MAPS), width, *grid.size))
        self.register_buffer("shares", shares.float())

    def forward(self, tokens: Tensor, y: Tensor) -> Tensor:
        """tokens [n, D, h, w], labels [n] -> logits [n, h, w, D, V]."""
        e = self.within.embedded(tokens)
        around = F.pad(e, (REACH, REACH, REACH, 0))
        v = self.above(around[:, :, :-1]) + self.sites(y)  # (2)
        h = self.left(around[:, :, REACH:, : -REACH - 1]) + v  # (3)
        return self.within(self.body(v, h, y), e)  # (4, 5)

    def sites(self, y: Tensor) -> Tensor:
        """s [n, c, h, w]: a mixture of a few maps for each label."""
        return torch.tensordot(self.label(y), self.maps, dims=1)

    def surprise(self, tokens: Tensor, y: Tensor) -> Tensor:
        """- log p(tokens | y) in nats, float [n]."""
        logits = self(tokens, y).permute(0, 4, 3, 1, 2)
        return (F.cross_entropy(logits, tokens, reduction="none") * self.grid.inside).flatten(1).sum(1)  # (1)

    def draw(self, y: Tensor, rng: torch.Generator) -> Tensor:
        """Tokens [n, D, h, w] for labels [n]. Each place is computed once, from what its neighbours left behind."""
        (height, width), walk, sites = self.grid.size, self.body.walk(y), self.sites(y)
        tokens = torch.zeros(len(y), self.grid.slots, height, width, dtype=torch.int64)
        around = sites.new_zeros(len(y), self.grid.slots * EMBED, height + REACH, width + 2 * REACH)
        for i in range(height):
            v = self.above(around[:, :, i : i + REACH]) + sites[:, :, i : i + 1]
            walk.row(v)
            for j in range(width):
                h = at(self.left, around[:, :, i + REACH, j : j + REACH]) + v[:, :, 0, j]
                tokens[:, :, i, j], e = self.within.draw(walk.column(h, j), self.grid.inside[:, i, j], rng)
                around[:, :, i + REACH, j + REACH] = e
        return tokens


def at(kernel: nn.Conv2d, x: Tensor) -> Tensor:
    """A kernel of one row at one place: x [n, c, k] -> [n, outputs]."""
    return F.linear(x.flatten(1), kernel.weight.flatten(1), kernel.bias)
