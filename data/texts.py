"""Texts as they are compared: two rows are near copies of each other when their texts use the same words, in whatever order or case."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data.code import parses
from data.schema import Column, Dataset, Schema

WORD = re.compile(r"\w+|[^\w\s]")
NAME = re.compile(r"\w[\w.'@-]*\w|\w")
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # no text holds one: all but tab and the ends of lines


def words(text: str) -> list[str]:
    """The words of a text, in lower case; marks count as words where there are no others."""
    found = WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return [word for word in found if word[0].isalnum() or word[0] == "_"] or found


def keys(table: pa.Table, columns: list[Column]) -> np.ndarray:
    """uint64 [n], the same for rows whose texts in all these columns use the same words."""
    rows = zip(*(table[c.name].to_pylist() for c in columns), strict=True)
    return np.fromiter((key([text or "" for text in row]) for row in rows), dtype=np.uint64, count=table.num_rows)


def key(texts: list[str]) -> int:
    """A digest of the words of several texts."""
    told = "\0".join(" ".join(sorted(set(words(text)))) for text in texts)
    return int.from_bytes(hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def recurring(data: Dataset, share: float = 0.05) -> bool:
    """Do texts come again by themselves, as captions that name what is to be seen: those of one half of the rows in the other?"""
    columns = [c for c in data.schema.columns if c.kind == "text"]
    found = keys(data.table, columns)
    return bool(np.isin(found[::2], found[1::2]).mean() > share)


def faithful(asked: Sequence[str], said: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """float [n] each: how many of the names and numbers of an answer its source has, and how many it names."""
    pairs = [(set(words(source)), [set(words(name)) for name in names(answer)]) for source, answer in zip(asked, said, strict=True)]
    return np.array([sum(name <= source for name in found) for source, found in pairs], float), np.array([len(f) for _, f in pairs], float)


def names(text: str) -> list[str]:
    """The numbers of a text, and its words with a capital that do not begin a sentence."""
    found, begins = [], True
    for match in NAME.finditer(text):
        word = match.group()
        begins = begins or text[: match.start()].rstrip()[-1:] in (".", "!", "?", ":", ";", "\n")
        if any(c.isdigit() for c in word) or (not begins and word[0].isupper()):
            found.append(word)
        begins = False
    return found


def fault(column: Column, text: str) -> str | None:
    """What is wrong with a text of this column, or nothing."""
    if not text.strip():
        return "an empty text"
    if CONTROL.search(text):
        return "a text with a control character"
    if column.high is not None and len(text) > column.high:
        return "a text that is too long"
    return None if parses(column.language, text) else f"{column.language} that does not parse"


@dataclass(frozen=True)
class Texts:
    """The columns of texts, the sorted keys of rows that must not be made, and which column sums up the others, if any."""

    columns: list[Column]
    known: np.ndarray
    summary: str | None = None

    @classmethod
    def of(cls, schema: Schema, avoid: Dataset | None) -> Texts:
        """Without `avoid` any row may be made."""
        columns = [c for c in schema.columns if c.kind == "text"]
        known = np.unique(keys(avoid.table, columns)) if avoid and columns else np.zeros(0, dtype=np.uint64)
        return cls(columns, known, schema.target if schema.task == "summarisation" and len(columns) > 1 else None)

    def unfit(self, table: pa.Table) -> dict[str, np.ndarray]:
        """bool [n], by what is wrong: near copies of known rows, summaries that are not faithful, and what `fault` finds in a text."""
        if not self.columns:
            return {}
        wrong = {"a near copy of a training row": np.isin(keys(table, self.columns), self.known)}
        if self.summary:
            told = {c.name: [text or "" for text in table[c.name].to_pylist()] for c in self.columns}
            said = told.pop(self.summary)
            hits, named = faithful(["\n".join(row) for row in zip(*told.values(), strict=True)], said)
            wrong["a name or number that the document lacks"] = hits < named
        for column in self.columns:
            for row, text in enumerate(table[column.name].to_pylist()):
                if text is not None and (what := fault(column, text)):
                    wrong.setdefault(what, np.zeros(len(table), dtype=bool))[row] = True
        return wrong
