"""The choice of rows out of more draws than are wanted, so that those that are kept say much together.

    (1)  of the draws for the rows of a label: first those that are `sure`, each in turn the one with the largest mean of
         n(w)^1/2 / (1 + k(w))  over its tokens and pairs of tokens w
         n(w), k(w): how often w stands in the draws, and in the rows that are chosen already

A sum of concave functions of how often each w is said, taken greedily: Lin, Bilmes: A Class of Submodular Functions for Document
Summarization, 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

from generators.codecs.text import PAD

CHOSEN = 128  # rows of a label that are chosen together


def choice(tokens: Tensor, sure: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
    """Rows int64 [n, T], one for each label int64 [n], out of c draws for each, tokens [c n, T], of which some are `sure`, bool [c n]."""
    n, found = len(labels), tokens[: len(labels)].clone()
    for label in labels.unique():
        for rows in (labels == label).nonzero()[:, 0].split(CHOSEN):
            made = (rows + n * torch.arange(len(tokens) // n)[:, None]).flatten()
            best = made[telling(tokens[made], sure[made], len(rows))]
            found[rows] = tokens[best[torch.randperm(len(rows), generator=rng)]]
    return found


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
