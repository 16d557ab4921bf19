"""GPT: a decoder that learns every row in both directions, so that one net draws rows, names labels and answers texts with texts.

Radford et al.: Improving Language Understanding by Generative Pre-Training, 2018, and Language Models are Unsupervised Multitask
Learners, 2019; tokens are chosen as in generators/nets/words.py; rows are kept where the net agrees as in Anaby-Tavor et al.: Do Not Have
Enough Data? Deep Learning to the Rescue!, 2020, arXiv:1911.03118.

    (1)  log p(x, y) = sum_i log p(s_i | s_0 … s_i-1)        s = BOS x SEP y EOS, or BOS x y EOS when y is a label
    (2)  log p(y) p(x | y) likewise                          s = BACK y SEP x EOS, or BACK y x EOS
    (3)  loss = - log p, a token; two thirds of each batch in the order in which rows are drawn, the others in the other one,
         where the label at the end of (1) counts `emphasis` times
    (4)  p(y | x) = p(label y after BOS x) / sum_y' p(label y' after BOS x)
    (5)  of several draws x ~ p(x | y) those are kept that say much together (generators/choosing.py), first of those whose p(y | x) is
         the largest of all labels'
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from data.errors import BadInput
from generators.base import Answering, Choosing, Naming, Neural, Rows
from generators.codecs.text import BACK, BOS, EOS, PAD, SEP, TextCodec
from generators.nets.words import chosen
from generators.text.sequences import SequenceNet
from generators.train import Training

GROUP = 32  # rows of like length that are read side by side in training
AT_WORK = 65_536  # places of rows that are drawn side by side


@dataclass(frozen=True)
class GPT(Neural, Answering, Choosing, Naming):
    """`depth` blocks of `width` with `heads`; `dropout`; how tokens are drawn: `temperature`, `top_p`; how many rows of a label are
    drawn for each that is kept: `candidates`. A label counts as much as `emphasis` tokens where it is to be named.
    """

    width: int = 128
    depth: int = 3
    heads: int = 4
    dropout: float = 0.2
    temperature: float = 1.0
    top_p: float = 0.95
    candidates: int = 4
    emphasis: float = 8.0
    training: Training = Training(epochs=22, least_steps=1500, batch=64, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05, patience=3)
    codec: ClassVar[type[TextCodec]] = TextCodec

    def build(self, codec: TextCodec) -> SequenceNet:
        if self.width % self.heads:
            raise BadInput(f"text/gpt.width is {self.width}; it must be a multiple of heads, which is {self.heads}")
        if not 0 < self.top_p <= 1 or self.temperature <= 0:
            raise BadInput("text/gpt.top_p lies above 0 and not above 1, text/gpt.temperature above 0")
        shares = torch.tensor(codec.shares)
        labelled = codec.label is not None
        return SequenceNet(codec.size, shares, labelled, len(codec.texts), codec.longest, self.width, self.depth, self.heads, self.dropout)

    def loss(self, net: SequenceNet, rows: Rows, phase: str) -> Tensor:
        tokens, y = rows
        order = (tokens != PAD).sum(1).argsort(stable=True)
        total, usual = torch.zeros(()), net.labels > 0  # the order in which rows are drawn
        for group in order.split(GROUP):
            seldom, often = group[::3], torch.cat([group[1::3], group[2::3]])
            both = torch.cat([net.sequences(tokens[some], y[some], way) for some, way in ((seldom, not usual), (often, usual))])
            surprise = net.surprise(both)
            named = (both[:, :1] == BOS) & (both[:, 1 : surprise.shape[1] + 1] >= net.size)
            total = total + (surprise * torch.where(named, self.emphasis, 1.0)).sum()
        return total / (tokens != PAD).sum()  # (3)

    def log_prob(self, net: SequenceNet, rows: Rows) -> Tensor:
        """log p(x, y) in nats, float [n], of encoded rows, read from BOS; without a label, log p of their texts."""
        parts = zip(rows[0].split(GROUP), rows[1].split(GROUP), strict=True)
        return -torch.cat([net.surprise(net.sequences(tokens, y, False)).sum(1) for tokens, y in parts])  # (1)

    def posterior(self, net: SequenceNet, x: Tensor) -> Tensor:
        """p(y | x), float [n, L], of rows' texts int64 [n, T]."""
        found = torch.empty(len(x), net.labels)
        for group in (x != PAD).sum(1).argsort().split(8 * GROUP):
            end = (x[group] == EOS).long().argmax(1)
            h = net(net.sequences(x[group], torch.zeros_like(end), False)[:, : int(end.max()) + 1])
            logits = torch.nn.functional.linear(h[torch.arange(len(group)), end], net.embed.weight[net.size :], net.bias[net.size :])
            found[group] = logits.softmax(1)  # (4)
        return found

    def draw(self, net: SequenceNet, labels: Tensor, rng: torch.Generator) -> Tensor:
        begun = torch.full((len(labels), net.places), PAD)
        begun[:, 0] = BACK if net.labels else BOS
        if net.labels:
            begun[:, 1] = net.size + labels
        return self.completed(net, begun, torch.full_like(labels, 1 + (net.labels > 0)), rng)

    def sure(self, net: SequenceNet, rows: Rows) -> Tensor:
        return self.posterior(net, rows[0]).argmax(1) == rows[1]  # (5)

    def several(self, net: SequenceNet) -> int:
        return self.candidates if net.labels else 1

    def answer(self, net: SequenceNet, rows: Rows, rng: torch.Generator | None, back: bool = False) -> Tensor:
        tokens, y = rows
        begun = net.sequences(tokens, y, back)
        cuts = (begun == SEP).long().cumsum(1)
        known = 1 + (cuts < (1 if back else net.texts - 1)).sum(1)
        begun = torch.where(torch.arange(net.places) < known[:, None], begun, PAD)
        return self.completed(net, begun, known, rng)

    def completed(self, net: SequenceNet, begun: Tensor, known: Tensor, rng: torch.Generator | None) -> Tensor:
        """Tokens [n, T] of sequences that have begun, in groups of like beginnings."""
        tokens = torch.full((len(begun), net.longest), PAD)
        choose = partial(chosen, temperature=self.temperature, top_p=self.top_p, rng=rng)
        for group in known.argsort(stable=True).split(max(16, AT_WORK // net.places)):
            tokens[group] = net.rows(net.go_on(begun[group], known[group], choose))
        return tokens
