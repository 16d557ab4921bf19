"""The codec of texts with a label: all texts of a row are one sequence of tokens, cut into pieces of bytes.

Sennrich, Haddow, Birch: Neural Machine Translation of Rare Words with Subword Units, 2016, arXiv:1508.07909; pieces of bytes as in Radford
et al.: Language Models are Unsupervised Multitask Learners, 2019, so that any text can be written and none is out of vocabulary.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from data.errors import BadInput
from data.schema import RARE, Column, Dataset, Schema
from data.texts import CONTROL
from generators.base import Rows
from generators.codecs.labels import LabelCodec

PAD, BOS, BACK, SEP, EOS = range(5)  # nothing; begin; begin, the other way round; between two texts; end. No text can spell them
FIRST = 5  # the first piece of text
LONGEST = 512  # tokens of a row; longer rows are left out
FEW = 0.05  # most of them that are left out before the column is refused
PIECES = (512, 8192)  # least and most pieces
PIECE = 100  # bytes of the longest piece
LETTERS = 250  # characters of the training texts for each piece
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


@dataclass(frozen=True)
class TextCodec(LabelCodec):
    """Rows are (tokens int64 [n, T], y int64 [n]): x SEP ... SEP y EOS, then PAD; the label. The target, if a text, stands last.

    `merges` are the pairs of pieces that became one, in order. They come from words that at least `RARE` rows hold, so that no piece spells
    what is one row's own. `longest` is T; `left_out` is how many training rows were longer than `LONGEST`.
    """

    merges: tuple[tuple[str, str], ...] = ()
    longest: int = 0
    left_out: int = 0
    noun: ClassVar[str] = "text"

    @classmethod
    def fit(cls, data: Dataset) -> Self:
        kinds = [c.kind for c in data.schema.columns]
        unfit = [f"{c.name!r} ({c.kind})" for c in data.schema.columns if c.kind not in ("text", "category", "boolean")]
        if unfit or "text" not in kinds or len(kinds) > kinds.count("text") + 1:
            what = f"; it cannot learn {', '.join(unfit)}" if unfit else ""
            raise BadInput(f"a generator of texts takes texts and at most one label{what}: drop the other columns (--drop)")
        bare = cls(data.schema, np.ones(1))
        codec = cls(data.schema, bare.frequencies(data), learnt(bare.sentences(data)))
        lengths = np.array([len(row) for row in codec.tokens(data)])
        long = int((lengths > LONGEST).sum())
        if long > FEW * len(data):
            names = " and ".join(repr(c.name) for c in codec.texts)
            raise BadInput(f"{long:,} of {len(data):,} rows have more than {LONGEST} tokens in {names}: shorten them or leave them out")
        return cls(data.schema, codec.shares, codec.merges, int(lengths[lengths <= LONGEST].max(initial=1)), long)

    @property
    def texts(self) -> list[Column]:
        """The columns of texts as they stand in a row: the target last."""
        found = [c for c in self.schema.columns if c.kind == "text"]
        return sorted(found, key=lambda c: c.name == self.schema.target)

    @property
    def cells(self) -> int:
        return max(1, self.longest)

    def filled(self, rows: Rows) -> float:
        return float((rows[0] != PAD).sum(1, dtype=torch.float64).mean())

    @property
    def size(self) -> int:
        """V: the number of tokens."""
        return FIRST + len(BYTES) + len(self.merges)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Between a text and its pieces, whose numbers begin at 0."""
        return tokenizer(self.merges)

    def sentences(self, data: Dataset) -> list[list[str]]:
        """Every row's texts. BadInput for a null."""
        columns = []
        for column in self.texts:
            values = data.table[column.name]
            if values.null_count:
                raise BadInput(f"column {column.name!r} lacks {values.null_count:,} texts: leave those rows out")
            columns.append(values.to_pylist())
        return [list(row) for row in zip(*columns, strict=True)]

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text as tokens, FIRST and above."""
        return [[FIRST + piece for piece in found.ids] for found in self.tokenizer.encode_batch([" " + text for text in texts])]

    def tokens(self, data: Dataset) -> Iterator[list[int]]:
        """Each row as x SEP ... SEP y EOS."""
        rows, k = self.sentences(data), len(self.texts)
        found = self.pieces([text for row in rows for text in row])
        for start in range(0, len(found), k):
            row: list[int] = []
            for part in found[start : start + k]:
                row += [*part, SEP]
            yield [*row[:-1], EOS]

    def encode(self, data: Dataset, rng: np.random.Generator) -> Rows:
        """The rows that are at most T tokens long."""
        rows, labels = list(self.tokens(data)), self.labels(data)
        kept = [i for i, row in enumerate(rows) if len(row) <= self.longest]
        tokens = np.full((len(kept), self.longest), PAD)
        for line, i in enumerate(kept):
            tokens[line, : len(rows[i])] = rows[i]
        return torch.from_numpy(tokens), torch.from_numpy(labels[kept])

    def decode(self, rows: Rows, rng: np.random.Generator, *, start: int, seed: int) -> Dataset:
        """Texts beyond the last SEP that a row needs are joined to its last one; a piece of a character that is not whole is left out.

        So are control characters, which no text that is learnt from holds.
        """
        lines = rows[0].tolist()
        found = [self.parts(line) for line in lines]
        table = {c.name: pa.array(self.written([row[k] for row in found]), pa.string()) for k, c in enumerate(self.texts)}
        if self.label:
            table[self.label.name] = self.named(rows[1].numpy())
        arrays = [table[name].cast(self.schema[name].arrow) for name in self.schema.names]
        return Dataset(self.schema, pa.table(arrays, schema=self.schema.arrow))

    def parts(self, line: list[int]) -> list[list[int]]:
        """The pieces of each text of a row."""
        found: list[list[int]] = [[]]
        for token in line:
            if token in (EOS, PAD):
                break
            if token == SEP and len(found) < len(self.texts):
                found.append([])
            elif token >= FIRST:
                found[-1].append(token - FIRST)
        return found + [[] for _ in range(len(self.texts) - len(found))]

    def written(self, pieces: list[list[int]]) -> list[str]:
        """Texts from pieces."""
        return [
            CONTROL.sub("", text.replace("\N{REPLACEMENT CHARACTER}", "")).removeprefix(" ") for text in self.tokenizer.decode_batch(pieces)
        ]

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        spec = {"schema": self.schema.to_json(), "merges": self.merges, "longest": self.longest, "left_out": self.left_out}
        return spec, {"shares": torch.from_numpy(self.shares)}

    @classmethod
    def restore(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        merges = tuple((str(a), str(b)) for a, b in spec["merges"])
        known = set(BYTES)
        for a, b in merges:
            if not {a, b} <= known or len(a + b) > PIECE:
                raise ValueError("merges")
            known.add(a + b)
        if not 0 < int(spec["longest"]) <= LONGEST or len(merges) > PIECES[1]:
            raise ValueError("longest or merges")
        return cls(Schema.from_json(spec["schema"]), tensors["shares"].numpy(), merges, int(spec["longest"]), int(spec["left_out"])).whole()


def cut() -> pre_tokenizers.PreTokenizer:
    """Into words with the space before them; every digit is a word, so that no number is a piece."""
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])


def tokenizer(merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """The tokenizer of these merges: bytes are the pieces 0 to 255, and each merge makes one more."""
    vocabulary = {piece: i for i, piece in enumerate([*BYTES, *(a + b for a, b in merges)])}
    made = Tokenizer(models.BPE(vocabulary, list(merges)))
    made.pre_tokenizer, made.decoder = cut(), decoders.ByteLevel()
    return made


def learnt(rows: list[list[str]]) -> tuple[tuple[str, str], ...]:
    """The merges of the words that at least `RARE` rows hold, each counted once a row."""
    cutter, counts = cut(), Counter[str]()
    for row in rows:
        counts.update({word for text in row for word, _ in cutter.pre_tokenize_str(" " + text)})
    letters = sum(len(text) for row in rows for text in row)
    size = min(max(PIECES[0], letters // LETTERS), PIECES[1])
    trainer = trainers.BpeTrainer(
        vocab_size=len(BYTES) + size, min_frequency=RARE, initial_alphabet=BYTES, max_token_length=PIECE, show_progress=False
    )
    made = Tokenizer(models.BPE())
    made.train_from_iterator((word for word, count in sorted(counts.items()) if count >= RARE for _ in range(count)), trainer)
    return merges_of(made)


def merges_of(made: Tokenizer) -> tuple[tuple[str, str], ...]:
    """The merges of a tokenizer that each make a new piece, in order."""
    known, found = set(BYTES), []
    for pair in json.loads(made.to_str())["model"]["merges"]:
        a, b = pair if isinstance(pair, list) else pair.split(" ")
        if a + b not in known:
            known.add(a + b)
            found.append((a, b))
    return tuple(found)
