"""Encoder-decoder transformer that can copy: a text from its label or from nothing, and the other text of a pair from the first.

Vaswani et al.: Attention Is All You Need, 2017, arXiv:1706.03762; with recurrent layers: Chen et al.: The Best of Both Worlds: Combining
Recent Advances in Neural Machine Translation, 2018, arXiv:1804.09849; copying: See, Liu, Manning: Get To The Point: Summarization with
Pointer-Generator Networks, 2017, arXiv:1704.04368; the way back: Sennrich, Haddow, Birch: Improving Neural Machine Translation Models
with Monolingual Data, 2016, arXiv:1511.06709.

    (1)  log p(x, y | label) = log p(x | label) + log p(y | x, label)     both by one net, whose source is the label alone, or with x
    (2)  u_i = e_i + LSTM(e)_i     over the vectors e of what is read, both ways, and of what is written, from left to right
    (3)  m = read(u of label, source),   h_i = write(u of start, w_1 … w_i-1; m)    the start tells what is written: x, y, or x given y
    (4)  a_ij = softmax_j((M m_j + N e_j-1) P h_i)                        over the tokens s_j of the source, which know the one before
    (5)  p(w_i = w) = g_i softmax_w(E h_i + b) + (1 - g_i) sum_j a_ij [s_j = w],   g_i = sigmoid(G h_i), 1 when there is no source
    (6)  loss = - log p(w_i), on average over the tokens of x from the label, of y from x, and for a share of the rows of x from y
    (7)  of several draws those are kept that say much together (generators/choosing.py), first of the half with the largest
         log p(y | x, label) a token

So that (4) learns to copy whatever there is and not only the names of the rows, some of the tokens that both texts of a row have are
replaced while training, in both alike, by others. Keys and values of the source are made once a text, those of what is written once a
token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import BadInput
from generators.base import Answering, Choosing, Neural, Rows
from generators.codecs.text import BACK, BOS, EOS, FIRST, LONGEST, PAD, SEP, TextCodec
from generators.nets.crossing import BothWays, Crossing, Reading
from generators.nets.words import Words, chosen, ruled, spare
from generators.train import Training

ROWS = 256  # texts that are written side by side
READ = 64  # and read again, which takes the chances of all tokens
ALIKE = 8  # texts of like length that are trained on side by side
SURE = 30.0  # a gate that is open
State = tuple[Tensor, Tensor]  # of an LSTM, each [1, n, width]


class TransformerNet(nn.Module):
    """`texts` in a row; a source is its label and then its tokens [n, S], PAD where there are none."""

    shares: Tensor  # [L]

    def __init__(self, codec: TextCodec, width: int, depth: int, heads: int, dropout: float):
        super().__init__()
        self.texts, self.longest = len(codec.texts), codec.longest
        self.words, self.label = Words(codec.size, width), nn.Embedding(len(codec.shares), width)
        self.drop = nn.Dropout(dropout)
        self.listen, self.speak = BothWays(width), nn.LSTM(width, width, batch_first=True)
        self.readers: Any = nn.ModuleList(Reading(width, heads) for _ in range(depth))
        self.writers: Any = nn.ModuleList(Crossing(width, heads) for _ in range(depth))
        self.read_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.point, self.gate = nn.Linear(width, width, bias=False), nn.Linear(width, 1)
        self.pointed = nn.Linear(2 * width, width, bias=False)
        self.register_buffer("shares", torch.from_numpy(codec.shares).float())

    def heard(self, source: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """A source token by token, [n, 1 + S, width], and which of its places are there, bool [n, 1 + S]."""
        there = F.pad(source != PAD, (1, 0), value=True)
        x = self.drop(torch.cat([self.label(labels)[:, None], self.words(source)], dim=1))
        return x + self.drop(self.listen(x, there)), there  # (2)

    def read(self, x: Tensor, there: Tensor) -> Tensor:
        """The memory [n, 1 + S, width] of what was heard."""
        for layer in self.readers:
            x = x + self.drop(layer(x, there) - x)
        return self.read_norm(x)

    def spoken(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The tokens [n, L], each with those before it, [n, L, width], and the state to go on from."""
        x = self.drop(self.words(tokens))
        after, state = self.speak(x, state)
        return x + self.drop(after), state  # (2)

    def forward(self, x: Tensor, memory: Tensor, there: Tensor) -> Tensor:
        """h, [n, L, width], at the places of what is spoken, [n, L, width], each of which sees those before it."""
        for layer in self.writers:
            x = x + self.drop(layer(x, layer.look.keys(memory), there) - x)
        return self.norm(x)  # (3)

    def places(self, source: Tensor, memory: Tensor) -> Tensor:
        """What a pointer is compared with, [n, S, width]: each place of the source, and the token before it."""
        before = F.pad(self.words.table(source), (0, 0, 1, 0))[:, :-1]
        return self.pointed(torch.cat([memory[:, 1:], before], dim=2))

    def pointer(self, h: Tensor, places: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """a [n, L, S], and G h [n, L], of h [n, L, width]."""
        score = self.point(h) @ places.mT / h.shape[2] ** 0.5
        gate = self.gate(h)[:, :, 0].masked_fill(~there[:, 1:].any(1, keepdim=True), SURE)
        return score.masked_fill(~there[:, None, 1:], -1e9).softmax(2), gate  # (4)

    def log_prob(self, source: Tensor, target: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The row, int64 [m], and log p, float [m], of every token of the targets [n, L + 1] but their starts, of sources [n, S].

        They are read in groups of like length.
        """
        source, target = source[:, : most(source)], target[:, : most(target)]
        (heard, there), (spoken, _) = self.heard(source, labels), self.spoken(target[:, :-1])
        owners, states, wanted, gates, copied = [], [], [], [], []
        for rows, size, length in alike(source, target):
            read, after = source[rows, :size], target[rows, 1:length]
            present, live = there[rows, : size + 1], after != PAD
            memory = self.read(heard[rows, : size + 1], present)
            h = self(spoken[rows, : length - 1], memory, present)
            pointer, gate = self.pointer(h, self.places(read, memory), present)
            copied.append((pointer * (read[:, None] == after[:, :, None])).sum(2)[live])
            owners.append(rows[:, None].expand_as(after)[live])
            states.append(h[live])
            gates.append(gate[live])
            wanted.append(after[live])
        gate, copy = torch.cat(gates), torch.cat(copied).clamp(min=1e-12).log()
        said = self.words.log_prob(torch.cat(states), torch.cat(wanted))
        return torch.cat(owners), torch.logaddexp(F.logsigmoid(gate) + said, F.logsigmoid(-gate) + copy)  # (5)

    def sureness(self, x: Tensor, y: Tensor, labels: Tensor) -> Tensor:
        """log p(w_i), on average over the tokens of y [n, M], given x [n, S]; float [n]."""
        found = torch.zeros(len(y))
        for some in torch.arange(len(y)).split(READ):
            rows, log_p = self.log_prob(x[some], told(SEP, y[some]), labels[some])
            found[some] = torch.zeros(len(some)).index_add_(0, rows, log_p) / ((y[some] != PAD).sum(1) + 1)
        return found


class Writing:
    """Texts on their way, token by token."""

    def __init__(self, net: TransformerNet, source: Tensor, labels: Tensor):
        self.net, self.source = net, source
        heard, self.there = net.heard(source, labels)
        memory = net.read(heard, self.there)
        self.state: State | None = None
        self.places, self.keys = net.places(source, memory), [layer.look.keys(memory) for layer in net.writers]
        self.memories = [layer.block.memory(len(source), net.longest) for layer in net.writers]

    def step(self, tokens: Tensor) -> Tensor:
        """The chances [n, V] of what follows the tokens int64 [n]."""
        x, self.state = self.net.spoken(tokens[:, None], self.state)
        for layer, keys, memory in zip(self.net.writers, self.keys, self.memories, strict=True):
            x = layer(x, keys, self.there, memory)
        h = self.net.norm(x)
        pointer, gate = self.net.pointer(h, self.places, self.there)
        p = gate.sigmoid() * self.net.words.logits(h[:, 0]).softmax(1)
        return p.scatter_add(1, self.source, (gate.sigmoid().neg() + 1) * pointer[:, 0])  # (5)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows, int64 [m], only."""
        self.source, self.places, self.there = self.source[rows], self.places[rows], self.there[rows]
        self.keys = [keys[rows] for keys in self.keys]
        self.state = self.state and (self.state[0][:, rows], self.state[1][:, rows])
        self.memories = [memory.take(rows) for memory in self.memories]


@dataclass(frozen=True)
class Transformer(Neural, Answering, Choosing):
    """`depth` blocks of `width` with `heads` on either side; `backwards` is the share of rows that are also learnt the other way round.

    In a share of the rows, `renamed`, half of the tokens that both texts have are replaced while training. Texts are drawn at
    `temperature`, those that answer another at `answer_temperature`, both from the nucleus `top_p`; `candidates` rows for each that is
    kept.
    """

    width: int = 128
    depth: int = 2
    heads: int = 4
    dropout: float = 0.1
    backwards: float = 0.2
    renamed: float = 0.3
    candidates: int = 4
    temperature: float = 1.0
    answer_temperature: float = 0.5
    top_p: float = 0.98
    training: Training = Training(epochs=8, least_steps=3000, most_epochs=40, batch=16, tokens=800, lr=2e-3, weight_decay=0.01, ema=0.995)
    codec: ClassVar[type[TextCodec]] = TextCodec

    def build(self, codec: TextCodec) -> TransformerNet:
        if self.width % (2 * self.heads):
            raise BadInput(f"text/transformer.width is {self.width}; it must be a multiple of twice heads, which is {2 * self.heads}")
        return TransformerNet(codec, self.width, self.depth, self.heads, self.dropout)

    def loss(self, net: TransformerNet, rows: Rows, phase: str) -> Tensor:
        x, y = halves(rows[0], net.texts)
        back = torch.rand(len(x), device=x.device) < self.backwards
        tasks = [(torch.zeros_like(x), told(BOS, x), rows[1])]
        if net.texts > 1:
            x, y = renamed(x, y, len(net.words.bias), self.renamed * net.training)
            tasks += [(x, told(SEP, y), rows[1]), (y[back], told(BACK, x[back]), rows[1][back])]
        source, target, labels = (torch.cat(parts) for parts in zip(*tasks, strict=True))
        return -net.log_prob(source, target, labels)[1].mean()  # (6)

    def draw(self, net: TransformerNet, labels: Tensor, rng: torch.Generator) -> Tensor:
        return torch.cat([self.once(net, some, rng) for some in labels.split(ROWS)])

    def sure(self, net: TransformerNet, rows: Rows) -> Tensor:
        if net.texts == 1:
            return torch.ones(len(rows[1]), dtype=torch.bool)
        sureness = net.sureness(*halves(rows[0], net.texts), rows[1])
        return sureness >= sureness.median()  # (7)

    def once(self, net: TransformerNet, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Rows [n, T] for few enough labels int64 [n] to be written side by side."""
        room = torch.full_like(labels, net.longest - (spare(net.longest) + 1) * (net.texts > 1))  # what an answer takes
        x = write(net, labels.new_zeros(len(labels), 0), labels, BOS, room, self.temperature, self.top_p, rng)
        if net.texts == 1:
            return joined(x, None, net.longest)
        room = net.longest - 1 - (x != PAD).sum(1)
        y = write(net, x, labels, SEP, room, self.answer_temperature, self.top_p, rng)  # (1)
        return joined(x, y, net.longest)

    def answer(self, net: TransformerNet, rows: Rows, rng: torch.Generator | None, back: bool = False) -> Tensor:
        parts = []
        for tokens, labels in zip(*(t.split(ROWS) for t in rows), strict=True):
            x, y = halves(tokens, net.texts)
            known = y if back else x
            room = net.longest - 1 - (known != PAD).sum(1)
            made = write(net, known, labels, BACK if back else SEP, room, self.answer_temperature, self.top_p, rng)
            parts.append(joined(made, y, net.longest) if back else joined(x, made, net.longest))
        return torch.cat(parts)


def write(
    net: TransformerNet,
    source: Tensor,
    labels: Tensor,
    start: int,
    room: Tensor,
    temperature: float,
    top_p: float,
    rng: torch.Generator | None,
) -> Tensor:
    """Texts int64 [n, L], PAD after their end, of sources [n, S]; at most so many tokens with their end as there is room, int64 [n]."""
    source = source[:, : min(LONGEST, most(source))] if source.numel() else source
    writing, tokens, alive = Writing(net, source, labels), torch.full_like(labels, start), torch.arange(len(labels))
    found, left = torch.full((len(labels), net.longest), PAD), torch.full_like(labels, 0 if start == SEP else max(0, net.texts - 2))
    for place in range(net.longest):
        tokens = chosen(ruled(writing.step(tokens), tokens, left, room - place, spare(net.longest)), temperature, top_p, rng)
        left, going = left - (tokens == SEP).long(), (tokens != EOS).nonzero()[:, 0]
        found[alive[going], place] = tokens[going]
        if len(going) < len(tokens):
            writing.keep(going)
            tokens, left, room, alive = tokens[going], left[going], room[going], alive[going]
        if not len(alive):
            break
    return found[:, : most(found)]


def halves(rows: Tensor, texts: int) -> tuple[Tensor, Tensor]:
    """Rows [n, T] as (x, y), each [n, T] with PAD after its end: y is the last text, x all before it, or the only one."""
    place = torch.arange(rows.shape[1], device=rows.device)
    ends = (rows == (SEP if texts > 1 else EOS)) * place
    cut, end = ends.amax(1, keepdim=True), ((rows == EOS) * place).amax(1, keepdim=True)
    after = rows.gather(1, (place + cut + 1).clamp(max=rows.shape[1] - 1))
    return rows.where(place < cut, PAD), after.where(place < end - cut - 1, PAD)


def renamed(x: Tensor, y: Tensor, size: int, share: float) -> tuple[Tensor, Tensor]:
    """Texts [n, T], where in a share of the rows half of the tokens that both texts have are others, the same in both."""
    names = torch.arange(size, device=x.device).expand(len(x), size)
    both = torch.zeros_like(names).scatter(1, x, 1) * torch.zeros_like(names).scatter(1, y, 1) > 0
    chosen = both & (names >= FIRST) & (torch.rand(names.shape, device=x.device) < 0.5) & (torch.rand(len(x), 1, device=x.device) < share)
    names = torch.randint_like(names, FIRST, size).where(chosen, names)
    return names.gather(1, x), names.gather(1, y)


def told(start: int, text: Tensor) -> Tensor:
    """[n, S + 2]: a text [n, S] between its start and EOS, then PAD."""
    found = F.pad(text, (1, 1))
    found[:, 0] = start
    return found.scatter(1, (text != PAD).sum(1, keepdim=True) + 1, EOS)


def joined(x: Tensor, y: Tensor | None, longest: int) -> Tensor:
    """Rows [n, T] of the codec from texts x [n, L] and y [n, M] that fit into them."""
    ends = (x != PAD).sum(1, keepdim=True)
    rows = F.pad(x, (0, 2 * longest)).scatter(1, ends, EOS if y is None else SEP)
    if y is not None:
        rows.scatter_(1, ends + 1 + torch.arange(y.shape[1] + 1, device=x.device), told(SEP, y)[:, 1:])
    return rows[:, :longest].clone()


def alike(source: Tensor, target: Tensor) -> Iterator[tuple[Tensor, int, int]]:
    """The numbers of rows whose texts are of like length, and the tokens of the longest of those texts."""
    size, length = (source != PAD).sum(1), (target != PAD).sum(1)
    order = (size + length + source.shape[1] * (size > 0)).argsort()
    for rows in order.split(ALIKE):
        yield rows, int(size[rows].max()), int(length[rows].max())


def most(texts: Tensor) -> int:
    """The tokens of the longest of texts [n, L], PAD after their end."""
    return int((texts != PAD).sum(1).max()) if len(texts) else 0
