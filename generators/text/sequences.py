"""Rows of texts as sequences that a causal net reads from left to right, in one order or the other.

    BOS x SEP ... SEP y EOS      with a label: BOS x SEP ... label EOS
    BACK y SEP x SEP ... EOS     with a label: BACK label x SEP ... EOS

A label is a token of its own, V + its number. Which tokens can come next is decided by the grammar alone: every text ends with the one
token that must follow it, and no text holds another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.codecs.text import BACK, BOS, EOS, FIRST, PAD, SEP
from generators.nets.attention import Block

PIECE_SEP, PIECE_EOS, PIECE_LABEL, ONLY_EOS, ONLY_LABEL, ONLY_SEP = range(6)  # what can come next


class SequenceNet(nn.Module):
    """A decoder of V tokens and, where rows have a label, L labels; rows of `texts` texts and at most `longest` tokens."""

    shares: Tensor
    barred: Tensor  # [6, V + L]: -inf for what cannot come next

    def __init__(
        self, size: int, shares: Tensor, labelled: bool, texts: int, longest: int, width: int, depth: int, heads: int, dropout: float
    ):
        super().__init__()
        self.size, self.labels, self.texts, self.longest = size, len(shares) * labelled, texts, longest
        self.places = longest + 1 + labelled
        self.register_buffer("shares", shares)
        self.register_buffer("barred", grammar(size, self.labels), persistent=False)
        self.embed = nn.Embedding(size + self.labels, width)
        self.place = nn.Embedding(self.places, width)
        self.label = nn.Embedding(max(1, self.labels), width)
        self.before = nn.Linear(width, width, bias=False)  # of the token before
        self.bias = nn.Parameter(torch.zeros(size + self.labels))
        self.drop = nn.Dropout(dropout)
        self.blocks: Any = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        for table in (self.embed, self.place, self.label):
            nn.init.normal_(table.weight, std=0.02)

    # ---- rows and sequences

    def sequences(self, tokens: Tensor, y: Tensor, back: bool) -> Tensor:
        """int64 [n, places] of rows (tokens [n, T], y [n]) in one order or the other."""
        start = torch.full_like(y, BACK if back and (self.labels or self.texts > 1) else BOS)[:, None]
        if not self.labels:
            return torch.cat([start, swapped(tokens, first=False) if back else tokens], dim=1)
        label = (self.size + y)[:, None]
        if back:
            return torch.cat([start, label, tokens], dim=1)
        end = (tokens == EOS).long().argmax(1, keepdim=True)
        return torch.cat([start, F.pad(tokens, (0, 1)).scatter(1, end + 1, EOS).scatter(1, end, label)], dim=1)

    def rows(self, sequences: Tensor) -> Tensor:
        """tokens [n, T] of sequences [n, places] that are all in the same order; a label is left out."""
        if self.labels:
            return sequences[:, 2:]
        return swapped(sequences[:, 1:], first=True) if sequences[0, 0] == BACK else sequences[:, 1:]

    def stages(self, sequences: Tensor) -> Tensor:
        """int64 [n, L]: what can follow each place of sequences [n, L]."""
        stage = ((sequences == SEP).cumsum(1) >= self.texts - 1).long()  # PIECE_SEP or PIECE_EOS
        if not self.labels:
            return stage
        named = (sequences >= self.size).cumsum(1) > 0
        forward = torch.where(named, ONLY_EOS, stage * PIECE_LABEL)
        return torch.where(sequences[:, :1] == BOS, forward, torch.where(named, stage, ONLY_LABEL))

    # ---- the net

    def forward(self, sequences: Tensor, memories: Any = None) -> Tensor:
        """h float [n, L, width] of the last L places of sequences int64 [n, S]: those that the memories do not hold yet."""
        begin, end = memories[0].read if memories else 0, sequences.shape[1]
        e = self.embed(sequences[:, max(0, begin - 1) :])
        before = e[:, :-1] if begin else F.pad(e, (0, 0, 1, -1))
        x = e[:, -(end - begin) :] + self.before(before) + self.place.weight[begin:end]
        if self.labels:  # a label that stands first is heard everywhere after it
            label = (F.pad(sequences, (0, 1))[:, 1:2] - self.size).clamp(min=0)
            heard = (sequences[:, :1] == BACK) & (torch.arange(begin, end, device=x.device) > 0)
            x = x + self.label(label) * heard[:, :, None]
        x = self.drop(x)
        for block, memory in zip(self.blocks, memories or [None] * len(self.blocks), strict=True):
            x = block(x, memory)
        return self.norm(x)

    def logits(self, h: Tensor, stage: Tensor) -> Tensor:
        """h [m, width], stage int64 [m] -> logits [m, V + L], -inf for what cannot follow."""
        return F.linear(h, self.embed.weight, self.bias) + self.barred[stage]

    def surprise(self, sequences: Tensor) -> Tensor:
        """-log p of every token that follows another, float [n, L - 1]; 0 for PAD."""
        sequences = sequences[:, : int((sequences != PAD).sum(1).max())]
        before, after = sequences[:, :-1], sequences[:, 1:]
        real = after != PAD
        logits = self.logits(self(before)[real], self.stages(before)[real])
        return torch.zeros(after.shape, device=logits.device).masked_scatter(real, F.cross_entropy(logits, after[real], reduction="none"))

    def go_on(self, sequences: Tensor, known: Tensor, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Sequences int64 [n, places], of which the first `known` [n] tokens are there, to their EOS, then PAD.

        `choose` makes tokens int64 [m] of chances [m, V + L]. When a quarter of the rows have ended, they leave the batch.
        """
        sequences, first, rows = sequences.clone(), int(known.min()), torch.arange(len(sequences))
        memories, going = [block.memory(len(rows), self.places) for block in self.blocks], torch.ones_like(rows, dtype=torch.bool)
        h = self(sequences[:, :first], memories)[:, -1]
        for place in range(first, self.places):
            now = sequences[rows]
            ends = self.texts - (now[:, :place] == SEP).sum(1)  # texts that have not ended
            stage = torch.where(ends > 1, PIECE_SEP, PIECE_EOS)
            stage = torch.where(self.places - place > ends, stage, torch.where(ends > 1, ONLY_SEP, ONLY_EOS))
            tokens = torch.where(known[rows] > place, now[:, place], choose(self.logits(h, stage).softmax(1))).masked_fill(~going, PAD)
            sequences[rows, place] = tokens
            going &= tokens != EOS
            if not going.any():
                break
            if 4 * int(going.sum()) <= 3 * len(rows):
                left = going.nonzero()[:, 0]
                rows, going, memories = rows[left], going[left], [memory.take(left) for memory in memories]
            if place + 1 < self.places:
                h = self(sequences[rows, : place + 1], memories)[:, 0]
        return sequences


def grammar(size: int, labels: int) -> Tensor:
    """float [6, V + L]: -inf for what cannot come next."""
    table = torch.full((6, size + labels), -torch.inf)
    table[[PIECE_SEP, PIECE_EOS, PIECE_LABEL], FIRST:size] = 0
    table[[PIECE_SEP, ONLY_SEP], SEP] = 0
    table[[PIECE_EOS, ONLY_EOS], EOS] = 0
    table[[PIECE_LABEL, ONLY_LABEL], size:] = 0
    return table


def swapped(tokens: Tensor, first: bool) -> Tensor:
    """Rows a SEP b EOS as b SEP a EOS, cut at their first or at their last SEP; int64 [n, T]. Rows of one text stay."""
    at, end = (tokens == SEP).long(), (tokens == EOS).long().argmax(1, keepdim=True)
    cut = at.argmax(1, keepdim=True) if first else tokens.shape[1] - 1 - at.flip(1).argmax(1, keepdim=True)
    place, half = torch.arange(tokens.shape[1], device=tokens.device), end - cut  # b SEP takes `half` places
    source = torch.where(place < half - 1, cut + 1 + place, torch.where(place == half - 1, cut, place - half))
    return torch.where(at.any(1, keepdim=True) & (place < end), tokens.gather(1, source.clamp(0, tokens.shape[1] - 1)), tokens)
