"""A small net that learns to answer a text with a text: the judge of translations, summaries and code.

Pieces of words are read by a bidirectional GRU and written by two GRUs, with attention between them (Bahdanau, Cho & Bengio 2015,
arXiv:1409.0473). What a word is spelled like need not be learnt when it stands in the source: with source pieces s, states h and
k = softmax(h . W s) over them, the next piece w has

    P(w) = (1 - g) softmax(V h)_w + g sum of k_i over the i with s_i = w      (1)  See, Liu & Manning 2017, arXiv:1704.04368

While it learns, half of the words that an answer shares with its source, and of those that are rare, are hidden behind a piece that says
nothing: it has to copy them, and so it does with words that it has never seen (cf. Jia & Liang 2016, arXiv:1606.03622).

It learns for 2,000 steps, for fewer where these would see a pair more than 128 times on average and for more where they would not see it
two and a half times, on one thread, and draws from a generator of its own, so that a seed decides what it says.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from evaluators.tabular import one_thread, waited

PIECES = 3_000  # of the vocabulary, at most
LETTERS = 400  # of the texts that are known, the most frequent ones
LONGEST = (160, 100)  # pieces of a source and of an answer that are seen
STEPS = 2_000  # where the pairs do not ask for others:
PASSES = (2.5, 128)  # over the pairs, on average, at least and at most
BATCH = 32  # pairs of a step, fewer where they are long:
SEEN = 1_200  # pieces of a step, about
POOL = 16  # batches that are made together, so that those of one have about one length
RATE = 4e-3  # the highest learning rate of the one cycle
WIDTH = 128
DROPOUT = 0.05  # while it learns
HIDDEN = 0.5  # of the words that an answer may take from its source, or that are rare
AT_ONCE = 250  # answers written at a time

PAD, BEGIN, END, ODD = range(4)
SLOTS = 16  # units of a source that may be hidden
GLUE, BEGINS, APART = "\ue000\ue001\ue002"  # private characters, which no text may bring along
NAMES = [chr(0xE010 + i) for i in range(ODD + 1 + SLOTS)]
PRIVATE = re.compile("[\ue000-\ue0ff]")
UNIT = re.compile(r"\w+|([^\w\s])\1*|\s+")


# ---- pieces


def units(text: str) -> list[str]:
    """A text as words, marks and what is not one plain space between them; a mark says whether it touches its neighbours."""
    found = [m for m in UNIT.finditer(PRIVATE.sub("", text).strip()) if m.group() != " "]
    touching = [a.end() == b.start() for a, b in pairwise(found)]
    words = [is_word(m.group()) for m in found]
    spelled = []
    for i, m in enumerate(found):
        mark = not words[i] and not m.group().isspace()
        left = GLUE if mark and i and touching[i - 1] else ""
        right = GLUE if mark and i + 1 < len(found) and touching[i] and words[i + 1] else ""
        spelled.append(left + m.group() + right)
    return spelled


def joined(found: Sequence[str]) -> str:
    """The text of units."""
    text, touches = "", True
    for unit in found:
        space = unit.isspace()
        text += unit.strip(GLUE) if touches or space or unit.startswith(GLUE) else f" {unit.strip(GLUE)}"
        touches = space or unit.endswith(GLUE)
    return text.strip()


class Pieces:
    """A vocabulary of frequent units and parts of units, learnt from texts."""

    def __init__(self, texts: Sequence[list[str]]) -> None:
        letters = sorted(
            Counter(letter for found in texts for unit in found for letter in unit).items(), key=lambda item: (-item[1], item[0])
        )
        known = [BEGINS, *(letter for letter, _ in letters[:LETTERS])]
        self.tokenizer = Tokenizer(models.BPE(unk_token=NAMES[ODD]))
        self.tokenizer.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(APART)  # type: ignore[assignment]
        trainer = trainers.BpeTrainer(
            vocab_size=PIECES,
            min_frequency=2,
            special_tokens=NAMES,
            initial_alphabet=known,
            limit_alphabet=len(known),
            show_progress=False,
        )
        self.tokenizer.train_from_iterator((APART.join(BEGINS + unit for unit in found) for found in texts), trainer)
        self.parts: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, found: list[str], hidden: Mapping[str, int], longest: int) -> list[int]:
        """The pieces of units, at least one and at most so many; a hidden unit is the one piece that stands for it."""
        ids: list[int] = []
        for unit in found:
            if unit not in self.parts:
                self.parts[unit] = self.tokenizer.encode([BEGINS + unit], is_pretokenized=True).ids
            ids += [hidden[unit]] if unit in hidden else self.parts[unit]
        return ids[:longest] or [ODD]

    def decode(self, ids: Sequence[int], hidden: Mapping[str, int]) -> str:
        """The text of pieces."""
        shown = {i: unit for unit, i in hidden.items()}
        spelled = "".join(BEGINS + shown[i] if i in shown else str(self.tokenizer.id_to_token(i)) for i in ids)
        found = [unit for unit in spelled.split(BEGINS) if unit.strip(GLUE)]
        return joined(found)


def hiding(found: list[str], chosen: Container[str]) -> dict[str, int]:
    """A piece for each of the chosen units of a source, in order; the first `SLOTS` of them."""
    picked = [unit for unit in dict.fromkeys(found) if unit in chosen]
    return dict(zip(picked, range(ODD + 1, ODD + 1 + SLOTS), strict=False))


# ---- the net


class Answerer(nn.Module):
    """One GRU each way over the source, two over the answer; the second sees what the first attends to."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(size, width)
        self.read = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)
        self.begin = nn.Linear(width, 2 * width)
        self.first = nn.GRU(width, width, batch_first=True)
        self.second = nn.GRU(2 * width, width, batch_first=True)
        self.attend, self.point = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.state = nn.Linear(2 * width, width)
        self.bias = nn.Parameter(torch.empty(size))
        self.gate = nn.Linear(2 * width, 1)

    def forward(self, source: Tensor, answer: Tensor, rng: torch.Generator) -> Tensor:
        """[b, T]: log P of answer [b, T + 1] int64 after its BEGIN, given source [b, S] int64; both end in PAD."""
        memory, blind, state = self.sources(source, rng)
        vocabulary, copied, gate, _ = self.steps(answer[:, :-1], memory, blind, state, rng)
        after = answer[:, 1:]
        spelled = vocabulary.gather(2, after[:, :, None])[:, :, 0] - vocabulary.logsumexp(2)
        seen = (copied * (source[:, None, :] == after[:, :, None])).sum(2)
        return torch.log((1 - gate) * spelled.exp() + gate * seen + 1e-9)  # (1)

    def dropped(self, x: Tensor, rng: torch.Generator | None) -> Tensor:
        """x with some values at 0 and the others larger; x itself without a generator."""
        return x if rng is None else x * (torch.rand(x.shape, generator=rng) >= DROPOUT) / (1 - DROPOUT)

    def sources(self, source: Tensor, rng: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """States of the source [b, S, d], bool [b, 1, S] where it has ended, and how to begin, [2, b, d]."""
        length = (source != PAD).sum(1)
        packed = pack_padded_sequence(self.dropped(self.embed(source), rng), length, batch_first=True, enforce_sorted=False)
        states, last = self.read(packed)
        memory = pad_packed_sequence(states, batch_first=True, total_length=source.shape[1])[0]
        begin = torch.tanh(self.begin(torch.cat([last[0], last[1]], dim=1)))
        return self.dropped(memory, rng), (source == PAD)[:, None, :], torch.stack(begin.chunk(2, dim=1))

    def steps(
        self, answer: Tensor, memory: Tensor, blind: Tensor, state: Tensor, rng: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits of the vocabulary [b, T, V], shares of the source [b, T, S], the gate [b, T] and the state after answer [b, T]."""
        low, first = self.first(self.dropped(self.embed(answer), rng), state[:1].contiguous())
        met = weigh(self.attend(low), memory, blind) @ memory
        high, second = self.second(self.dropped(torch.cat([low, met], dim=2), rng), state[1:].contiguous())
        copied = weigh(self.point(high), memory, blind)
        both = torch.cat([high, met], dim=2)
        bias = self.bias.index_fill(0, torch.arange(ODD + 1, ODD + 1 + SLOTS), -1e9)  # what is hidden can only be copied
        logits = F.linear(self.dropped(torch.tanh(self.state(both)), rng), self.embed.weight, bias)
        return logits, copied, torch.sigmoid(self.gate(both))[:, :, 0], torch.cat([first, second])


def weigh(asked: Tensor, memory: Tensor, blind: Tensor) -> Tensor:
    """[b, T, S]: how much of each source state, from questions [b, T, d]."""
    return (asked @ memory.transpose(1, 2)).masked_fill(blind, -1e9).softmax(2)


def begun(size: int, rng: torch.Generator) -> Answerer:
    """The net with its first weights."""
    with torch.device("meta"):
        net = Answerer(size, WIDTH)
    net = net.to_empty(device="cpu")
    for weight in net.parameters():
        if weight.ndim == 1:
            nn.init.zeros_(weight)
        elif weight is net.embed.weight:
            nn.init.normal_(weight, std=WIDTH**-0.5, generator=rng)
        else:
            nn.init.xavier_uniform_(weight, generator=rng)
    return net


# ---- learning and answering


class Learnt:
    """What was learnt from pairs of texts, in `steps` of `batch` pairs that took `seconds`: a function from texts to texts."""

    def __init__(self, sources: Sequence[str], answers: Sequence[str], seed: int, steps: int | None = None) -> None:
        rng = torch.Generator().manual_seed(seed)
        asked, told = ([units(text) for text in texts] for texts in (sources, answers))
        counts = Counter(unit for found in asked for unit in set(found))
        self.known = frozenset(counts)
        self.pieces = Pieces([*asked, *told])
        lengths = [
            len(self.pieces.encode(a, {}, LONGEST[0])) + len(self.pieces.encode(b, {}, LONGEST[1]))
            for a, b in zip(asked, told, strict=True)
        ]
        self.batch = int(np.clip(SEEN / np.mean(lengths), 4, BATCH))
        self.steps = steps or steps_for(len(asked), self.batch)
        self.net = begun(len(self.pieces), rng)
        rare = {unit for unit, count in counts.items() if count == 1}
        doubtful = [
            sorted(unit for unit in set(a) if is_word(unit) and (unit in rare or unit in set(b))) for a, b in zip(asked, told, strict=True)
        ]
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=RATE, weight_decay=1e-2, betas=(0.9, 0.98))
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=self.steps, pct_start=0.2)
        began = time.perf_counter()
        with one_thread(), torch.enable_grad():
            for rows in waited(batches(lengths, self.steps, self.batch, rng)):
                hidden = [hiding(asked[i], some(doubtful[i], rng)) for i in rows]
                before = [self.pieces.encode(asked[i], h, LONGEST[0]) for i, h in zip(rows, hidden, strict=True)]
                after = padded([[BEGIN, *self.pieces.encode(told[i], h, LONGEST[1]), END] for i, h in zip(rows, hidden, strict=True)])
                written = after[:, 1:] != PAD
                loss = -(self.net(padded(before), after, rng) * written).sum() / written.sum()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
                optimizer.step()
                cycle.step()
        self.seconds = time.perf_counter() - began

    def __call__(self, sources: Sequence[str]) -> list[str]:
        """The likeliest answer to each source, piece by piece; words of a source that were never seen are hidden."""
        asked = [units(text) for text in sources]
        hidden = [hiding(found, {unit for unit in found if is_word(unit)} - self.known) for found in asked]
        before = [self.pieces.encode(found, h, LONGEST[0]) for found, h in zip(asked, hidden, strict=True)]
        answers = [""] * len(asked)
        order = np.argsort([len(ids) for ids in before], kind="stable")
        with one_thread(), torch.inference_mode():
            for start in range(0, len(order), AT_ONCE):
                rows = order[start : start + AT_ONCE]
                for row, ids in zip(rows, self.written(padded([before[i] for i in rows])), strict=True):
                    answers[row] = self.pieces.decode(ids, hidden[row])
        return answers

    def written(self, source: Tensor) -> list[list[int]]:
        """The pieces of the answer to each of source [b, S], without END."""
        memory, blind, state = self.net.sources(source, None)
        said = torch.full((len(source), 1), BEGIN)
        for _ in range(LONGEST[1]):
            vocabulary, copied, gate, state = self.net.steps(said[:, -1:], memory, blind, state, None)
            chance = (1 - gate) * vocabulary[:, 0].softmax(1)
            chance = chance.scatter_add(1, source, gate * copied[:, 0])  # (1)
            chance[:, [PAD, BEGIN, ODD]] = 0
            after = torch.where((said == END).any(1), PAD, chance.argmax(1))
            if not (after != PAD).any():
                break
            said = torch.cat([said, after[:, None]], dim=1)
        return [[i for i in row if i not in (PAD, END)] for row in said[:, 1:].tolist()]


def is_word(unit: str) -> bool:
    """Is it no mark and no white space?"""
    return unit[0].isalnum() or unit[0] == "_"


def some(found: list[str], rng: torch.Generator) -> set[str]:
    """Each of them or not, by the toss of a coin."""
    tossed = torch.rand(len(found), generator=rng) < HIDDEN
    return {unit for unit, up in zip(found, tossed.tolist(), strict=True) if up}


def padded(rows: Sequence[list[int]]) -> Tensor:
    """int64 [n, longest] of rows of different lengths."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD)


def steps_for(pairs: int, batch: int) -> int:
    """`STEPS`, but so many that a pair is seen as often as `PASSES` say."""
    few, many = (int(passes * pairs / batch) for passes in PASSES)
    return max(few, min(STEPS, many), 1)


def batches(lengths: Sequence[int], steps: int, batch: int, rng: torch.Generator) -> list[np.ndarray]:
    """`steps` batches of row numbers; the pairs of one batch have about one length."""
    found: list[np.ndarray] = []
    n, length = len(lengths), np.array(lengths)
    while len(found) < steps:
        rows = torch.randperm(n, generator=rng).repeat(-(-batch // n))[: batch * POOL].numpy()
        rows = rows[np.argsort(length[rows], kind="stable")]
        cut = [rows[i : i + batch] for i in range(0, len(rows), batch)]
        found += [cut[i] for i in torch.randperm(len(cut), generator=rng).tolist()]
    return found[:steps]
