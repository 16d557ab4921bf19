"""The choice of rows out of more draws than are wanted, so that those that are kept say much together.

    (1)  of the draws of a label: first those that are `sure`, each in turn the one with the largest mean of
         n(w)^1/2 / (1 + k(w))  over its tokens and pairs of tokens w
         n(w), k(w): how often w stands in the draws, and in the rows that are chosen already

A sum of concave functions of how often each w is said, taken greedily: Lin, Bilmes: A Class of Submodular Functions for Document
Summarization, 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

from generators.codecs.text import PAD

CHOSEN = 128  # rows of a label that are chosen together, at most


def choice(tokens: Tensor, sure: Tensor, labels: Tensor, wanted: Tensor, rng: torch.Generator) -> Tensor:
    """int64 [k], rising: of rows of tokens [m, T] so many of each label as are `wanted`, int64 [L], or all where there are fewer."""
    found = []
    for label, n in enumerate(wanted.tolist()):
        own = (labels == label).nonzero()[:, 0]
        own, parts = own[torch.randperm(len(own), generator=rng)], -(-n // CHOSEN)
        for part in range(parts):
            some, room = own[part::parts], len(range(part, n, parts))
            found.append(some[telling(tokens[some], sure[some], room)] if room < len(some) else some)
    return torch.cat(found).sort().values


def telling(tokens: Tensor, sure: Tensor, n: int) -> Tensor:
    """int64 [n]: n of m rows, tokens int64 [m, T], that say much and seldom the same; first of those that are `sure`, bool [m]."""
    tokens = tokens[:, : int((tokens != PAD).sum(1).max())]
    said = torch.cat([tokens, (tokens[:, :-1] << 32) + tokens[:, 1:]], dim=1)
    real = torch.cat([tokens, tokens[:, 1:]], dim=1) != PAD
    kinds, which = said.masked_fill(~real, -1).unique(return_inverse=True)
    worth, heard = torch.bincount(which.flatten()).sqrt() * (kinds >= 0), torch.ones(len(kinds))
    found, share = torch.empty(n, dtype=torch.int64), torch.where(sure, 1.0, 1e-6) / real.sum(1)
    for place in range(n):
        best = ((worth / heard)[which].sum(1) * share).argmax()  # (1)
        found[place], share[best] = best, -1
        heard.index_add_(0, which[best], torch.ones(which.shape[1]))
    return found
