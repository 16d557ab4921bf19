"""Words of each label in no order: naive Bayes, drawn from. For few texts a label, from which a net learns too little to name labels.

McCallum, Nigam: A Comparison of Event Models for Naive Bayes Text Classification, AAAI Workshop on Learning for Text Categorization, 1998;
draws without replacement by Gumbel noise as in Kool, van Hoof, Welling 2019, arXiv:1903.06059.

    (1)  p(w | y, k) ~ n(w, y, k) + m l(w, y)    n: how often text k of rows of label y says word w; l: how often the label's name does;
                                                 m: `named`; a word of names counts when a row says it
    (2)  a text: the c words with the largest log p(w | y, k) + g, g ~ Gumbel, in random order; c: as many as in a row of y;
         each of them in a form p(w' | w) ~ how many stems of the vocabulary have the endings of both, itself with 1 - e;  e: `inflected`
    (3)  p(y | x) ~ p(y) prod_k prod_w in x_k ((1 - s) p(w | y, k) + s p(w | k))    s: `shared`
    (4)  of several draws x ~ p(x | y) those are kept that say much together (generators/choosing.py), first of those whose p(y | x) is
         the largest of all labels' by `margin` nats

A judge of few rows trusts what stands side by side by accident; rows in no order teach it not to. Nor has it heard most forms of the
words that it knows: endings that many words exchange ("book", "booked", "booking") are learnt from the vocabulary, in any language. Words
are what stands between spaces, rare ones too, some of which belong to one row: its model and its rows are never published. Code, one draw
of which in 2,000 parses, is refused.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import BadInput
from data.texts import words
from generators.base import Choosing, Rows, Run
from generators.codecs.text import EOS, FIRST, PAD, SEP, TextCodec
from generators.nets.mlp import drawn

MOST = 8192  # words that are known, the most frequent ones
AT_ONCE = 2048  # texts that are drawn together, each by as many numbers as there are words
SPACE = "\u0120"  # as the tokenizer writes it
TINY = 1e-4  # of all words, where a label has few of its own
STEM, ENDING = 4, 4  # letters of a stem at least, and of an ending at most
COMMON = 20  # stems that have both of two endings, so that others may have them too
FORMS = 16  # of a word besides itself, the most common ones


class Forms(NamedTuple):
    """`pieces` int64 [W + M, P]: those of each word, then of each other form; `which` int64 [W, F]: the forms of a word, itself first and
    in the places that are left; `chances` float [W, F]: of the others, adding up to 1 where there are any; `parents` int64 [W + M]: the
    word that each is a form of."""

    pieces: Tensor
    which: Tensor
    chances: Tensor
    parents: Tensor


class Words(nn.Module):
    """`words` int64 [W, P]: the pieces of each word, then PAD; word 0 is none. `counts` float [K, L, W]: (1), not yet divided; `lengths`
    int64 [n, 1 + K]: of each row its label and how many words its texts say. `names`: the words of each label's name; `begins` bool [V]:
    pieces that begin a word."""

    shares: Tensor
    begins: Tensor
    words: Tensor
    counts: Tensor
    lengths: Tensor

    def __init__(self, codec: TextCodec):
        super().__init__()
        self.codec, labels, texts = codec, len(codec.shares), len(codec.texts)
        pieces = [codec.tokenizer.id_to_token(piece) or "" for piece in range(codec.size - FIRST)]
        named = [words(name.replace("_", " ")) for name in codec.label.categories] if codec.label else [[]]
        self.names = [[tuple(found) for found in codec.pieces(name)] for name in named]
        self.texts, self.longest = texts, codec.longest
        self.register_buffer("shares", torch.tensor(codec.shares))
        self.register_buffer("begins", torch.tensor([False] * FIRST + [piece.startswith(SPACE) for piece in pieces]), persistent=False)
        self.register_buffer("words", torch.zeros(1, 1, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(texts, labels, 1))
        self.register_buffer("lengths", torch.zeros(0, 1 + texts, dtype=torch.int64))
        self.register_load_state_dict_pre_hook(fitting)

    def said(self, row: list[int]) -> list[list[tuple[int, ...]]]:
        """The words of each text of a row of tokens, each as its pieces."""
        found: list[list[list[int]]] = [[]]
        begins = True
        for token in row[: row.index(EOS)]:
            if token == SEP:
                found.append([])
                begins = True
            elif begins or self.begins[token]:
                found[-1].append([token])
                begins = False
            else:
                found[-1][-1].append(token)
        return [[tuple(word) for word in text] for text in found]

    @cached_property
    def forms(self) -> Forms:
        """Of the words as they are now."""
        spelt = [tuple(piece for piece in word if piece != PAD) for word in self.words.tolist()]
        texts = [text.strip() for text in self.codec.written([[piece - FIRST for piece in word] for word in spelt])]
        found, number = inflections(texts), {text: i for i, text in enumerate(texts)}
        fresh = sorted({form for forms in found.values() for form in forms} - set(texts))
        number |= {form: i for i, form in enumerate(fresh, len(texts))}
        spelt += [tuple(pieces) for pieces in self.codec.pieces(fresh)]
        parents = torch.arange(len(spelt))
        which, chances = [[i] for i in range(len(texts))], [[0.0] for _ in texts]
        for text, forms in found.items():
            word = number[text]
            which[word] += [number[form] for form in forms]
            chances[word] += [count / forms.total() for count in forms.values()]
            parents[[number[form] for form in forms if number[form] >= len(texts)]] = word
        most = max(map(len, which))
        full = torch.tensor([forms + forms[:1] * (most - len(forms)) for forms in which])
        return Forms(padded(spelt, PAD), full, padded(chances, 0.0), parents)

    def log_p(self, k: int, shared: float) -> Tensor:
        """float [L, W]: log p(w | y, k), mixed with p(w | k), or p(w) where text k says no word that is known."""
        every = self.counts[k].sum(0) if self.counts[k].sum() else self.counts.sum((0, 1))
        own = self.counts[k] / self.counts[k].sum(1, keepdim=True).clamp(min=1)
        return ((1 - shared) * own + shared * every / every.sum()).log()


@dataclass(frozen=True)
class Unigram(Choosing):
    """`named`: how often a label's name counts among its texts; `inflected`: the share of words that have other forms which is said in
    one of these; `shared`, `margin` as in (3) and (4). Not publishable."""

    named: float = 6.0
    inflected: float = 0.5
    shared: float = 0.3
    margin: float = 12.0
    candidates: int = 12
    codec: ClassVar[type[TextCodec]] = TextCodec
    publishable: ClassVar[bool] = False

    def build(self, codec: TextCodec) -> Words:
        if self.named < 0 or not 0 < self.shared < 1 or not 0 <= self.inflected <= 1:
            raise BadInput("text/unigram.named is at least 0, text/unigram.shared and text/unigram.inflected lie between 0 and 1")
        for column in codec.texts:
            if column.language:
                raise BadInput(
                    f"column {column.name!r}: {column.language} in no order, as text/unigram draws it, cannot parse: take text/gpt"
                )
        return Words(codec)

    def learn(self, net: Words, rows: Rows, run: Run) -> Words:
        said = [net.said(row) for row in rows[0].tolist()]
        held = Counter(word for row in said for word in {word for text in row for word in text})
        order = sorted(held, key=lambda word: (-held[word], word))[:MOST]
        number = {word: i for i, word in enumerate(order, 1)}
        net.words = padded([(PAD,), *order], PAD)
        net.counts = torch.zeros(*net.counts.shape[:2], len(net.words))
        for y, row in zip(rows[1].tolist(), said, strict=True):
            for k, text in enumerate(row):
                numbers = [number[word] for word in text if word in number]
                net.counts[k, y].index_add_(0, torch.tensor(numbers, dtype=torch.int64), torch.ones(len(numbers)))
        net.lengths = torch.tensor(sorted([y, *map(len, row)] for y, row in zip(rows[1].tolist(), said, strict=True)))
        for y, name in enumerate(net.names):
            net.counts[:, y, [number[word] for word in name if word in number]] += self.named  # (1)
        return net

    def draw(self, net: Words, labels: Tensor, rng: torch.Generator) -> Tensor:
        found = torch.full((len(labels), net.longest), PAD)
        for label in labels.unique().tolist():
            own = net.lengths[(net.lengths[:, 0] == label) | ~(net.lengths[:, 0] == label).any()]
            for rows in (labels == label).nonzero()[:, 0].split(AT_ONCE):
                lengths = own[torch.randint(len(own), (len(rows),), generator=rng), 1:]
                texts = [self.text(net, label, k, lengths[:, k], rng) for k in range(net.texts)]
                for place, row in enumerate(rows.tolist()):
                    spelt = spelled([net.forms.pieces[text[place]] for text in texts], net.longest)
                    found[row, : len(spelt)] = torch.tensor(spelt)
        return found

    def text(self, net: Words, label: int, k: int, lengths: Tensor, rng: torch.Generator) -> Tensor:
        """int64 [n, C]: the forms of the words of texts k of a label, so many as `lengths` [n] say, then 0."""
        own = int((net.counts[k, label] > 0).sum()) or net.words.shape[0] - 1
        count = lengths.clamp(1, own)
        noise = -torch.empty(len(count), len(net.words)).exponential_(generator=rng).log()
        chosen = (net.log_p(k, TINY)[label] + noise)[:, 1:].topk(int(count.max())).indices + 1  # (2)
        chosen = chosen.masked_fill(torch.arange(chosen.shape[1]) >= count[:, None], 0)
        order = torch.rand(chosen.shape, generator=rng) + 2.0 * (chosen == 0)
        return self.said(net, chosen.gather(1, order.argsort(dim=1)), rng)

    def said(self, net: Words, words: Tensor, rng: torch.Generator) -> Tensor:
        """A form of each word int64 [n, C]."""
        _, which, chances, _ = net.forms
        p = self.inflected * chances[words].flatten(0, 1)
        p[:, 0] = 1 - p.sum(1)
        return which[words].flatten(0, 1).gather(1, drawn(p, rng)[:, None]).view_as(words)

    def sure(self, net: Words, rows: Rows) -> Tensor:
        pieces, _, _, parents = net.forms
        number = {tuple(piece for piece in word if piece != PAD): i for word, i in zip(pieces.tolist(), parents.tolist(), strict=True)}
        said = [net.said(row) for row in rows[0].tolist()]
        log_p = net.shares.log().float().expand(len(said), -1).clone()
        for k in range(net.texts):
            numbers = [torch.tensor([number.get(word, 0) for word in row[k]]) for row in said]
            table = F.pad(net.log_p(k, self.shared)[:, 1:], (1, 0))  # a word that was cut says nothing
            log_p += F.embedding_bag(nn.utils.rnn.pad_sequence(numbers, batch_first=True), table.T.contiguous(), mode="sum")  # (3)
        own = log_p.gather(1, rows[1][:, None])
        return (own > log_p.scatter(1, rows[1][:, None], -torch.inf) + self.margin).all(1)


def padded(rows: Sequence[Sequence[Any]], value: float) -> Tensor:
    """[n, longest] of rows of different lengths."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def inflections(texts: Sequence[str]) -> Mapping[str, Counter[str]]:
    """The other forms of the words that have any: each with how many stems have both its ending and the word's."""
    endings = defaultdict[str, set[str]](set)
    for text in texts:
        for cut in range(max(STEM, len(text) - ENDING), len(text) + 1):
            endings[text[:cut]].add(text[cut:])
    held = Counter(ending for found in endings.values() for ending in found)
    known = [sorted(ending for ending in found if held[ending] >= COMMON) for found in endings.values()]
    shared = Counter(pair for found in known for pair in permutations(found, 2))
    common = defaultdict[str, list[tuple[str, int]]](list)
    for (a, b), count in sorted(shared.items()):
        if count >= COMMON:
            common[a].append((b, count))
    forms = defaultdict[str, Counter[str]](Counter)
    for text in texts:
        for cut in range(max(STEM, len(text) - ENDING), len(text) + 1):
            for ending, count in common[text[cut:]]:
                forms[text][text[:cut] + ending] += count
    return {text: Counter(dict(found.most_common(FORMS))) for text, found in forms.items()}


def spelled(texts: list[Tensor], longest: int) -> list[int]:
    """The pieces of texts (each [C, P]) with what ends them, at most `longest`: words that find no room are left out."""
    row: list[int] = []
    for left, text in reversed(list(enumerate(reversed(texts)))):
        room = longest - len(row) - 1 - 2 * left  # every text that follows takes a piece and an end
        found: list[int] = []
        for word in text.tolist():
            pieces = [piece for piece in word if piece != PAD]
            if len(found) + len(pieces) <= room:
                found += pieces
            elif not found:
                found = pieces[:room]
        row += [*found, SEP if left else EOS]
    return row


def fitting(net: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Make room for the words that are about to be loaded."""
    net.words, net.counts, net.lengths = (torch.empty_like(state[f"{prefix}{name}"]) for name in ("words", "counts", "lengths"))
