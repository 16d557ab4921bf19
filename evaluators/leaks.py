"""Can anything that belongs to one real row be read from the files of a release, model files included?

What belongs to somebody: values of a category that fewer than `RARE` rows hold; ids; long texts, and the e-mail addresses and the words
with digits in them that fewer than `RARE` rows use; the `RARE` least and largest values of a quantity; parts of images. Only what can
hardly stand in a file by chance is looked for: strings of at least `LEAST` bytes, ids with a letter or of nine digits, numbers of at least
six figures, none of them in the program's own text. Bytes are searched as they are, so that a value is found in a tensor too, whether it
stands there as text, as a float64 or as an int64; shorter strings are looked for among the strings of JSON alone.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from data.images import decoded, encoded
from data.schema import RARE, Column, Split
from evaluators.overheard import MAIL

LEAST = 8  # bytes: two random strings of such a length are not the same
FIGURES = 6  # of a number
TEXT = 60  # characters of a whole text: a shorter one may well be a part of another
PICTURES, LONG = 10_000, 16  # real images, and how many bytes or pixels of each, that are looked for
BLOCK = 1 << 22  # bytes searched at a time
CODE = re.compile(r"(?=\w*\d)(?=\w*[^\W\d_])\w{8,}|\d{9,}")  # words of letters and digits, long numbers


@dataclass
class Secrets:
    """What must not be found, with the column that it comes from: strings of at least `LEAST` bytes, and short ones."""

    strings: dict[bytes, str] = field(default_factory=dict)
    short: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, real: Split) -> Secrets:
        """Those of all real rows, the held-out ones included. What the schema publishes is no secret."""
        found, schema = cls(), real.train.schema
        public = {value for c in schema.columns for value in (c.name, *c.categories)}
        for column in schema.columns:
            if column.kind in ("image", "style"):
                found.strings |= dict.fromkeys(parts(column, real), column.name)
            elif column.is_number:
                for number in extremes(np.concatenate([column.numbers(data.table[column.name]) for data in real])):
                    found.strings |= dict.fromkeys(spellings(number), column.name)
            elif column.kind != "mask":
                for value in own(column, real) - public:
                    if len(value.encode()) >= LEAST:
                        if value not in program():
                            found.strings[value.encode()] = column.name
                    elif column.kind != "id":
                        found.short[value] = column.name
        return found


def own(column: Column, real: Split) -> set[str]:
    """The strings of a column that belong to somebody."""
    sides = [real.train] if column.kind == "text" else real  # a text that was never learnt from comes about by chance alone
    cells = [value for data in sides for value in column.strings(data.table[column.name]).to_pylist() if value]
    if column.kind == "id":
        return {value for value in cells if len(value) >= LEAST and (not value.isdigit() or len(value) > LEAST)}
    if column.kind != "text":
        return {value for value, rows in Counter(cells).items() if rows < RARE}
    words = Counter(word for text in cells for word in {*CODE.findall(text), *MAIL.findall(text)})
    texts = {text for text, rows in Counter(cells).items() if rows < RARE and len(text) >= TEXT}
    return texts | {word for word, rows in words.items() if rows < RARE}


def extremes(numbers: np.ndarray) -> list[float]:
    """The least and the largest values that fewer than `RARE` rows hold, those of enough figures to be told by."""
    values, rows = np.unique(numbers[~np.isnan(numbers)], return_counts=True)
    ends = np.unique(np.concatenate([values[:RARE][rows[:RARE] < RARE], values[-RARE:][rows[-RARE:] < RARE]]))
    return [v for v in ends.tolist() if len(re.sub(r"e.*", "", f"{abs(v):.15g}").replace(".", "").strip("0")) >= FIGURES]


def spellings(value: float) -> set[bytes]:
    """How a number may stand in a file: as text, where that is long enough, and in eight bytes."""
    texts = {f"{value:.15g}", repr(value), f"{value:,.15g}", *([f"{value:.0f}", f"{value:,.0f}"] if value == int(value) else [])}
    raw = {np.float64(value).tobytes()} | ({np.int64(value).tobytes()} if value == int(value) and 2**24 < abs(value) < 2**63 else set())
    return raw | {text.encode() for text in texts if len(text) >= LEAST}


def parts(column: Column, real: Split) -> Iterator[bytes]:
    """Of each real image a part of its file, and of its most lively row of pixels as bytes and as floats in [-1, 1]."""
    for data in real:
        for row, cell in enumerate(encoded(data.table[column.name].drop_null().slice(0, PICTURES))):
            middle = max(0, len(cell) // 2 - LONG // 2)
            image = decoded(cell, row)
            lines = image.reshape(-1, image.shape[-1])
            line = lines[np.abs(np.diff(lines.astype(int), axis=1)).sum(1).argmax()][:LONG]
            if len(np.unique(line)) >= LEAST:
                yield from (cell[middle : middle + LONG], line.tobytes(), (line / np.float32(127.5) - 1).astype(np.float32).tobytes())


@cache
def program() -> str:
    """The text that reports and cards are made from, whatever the data."""
    here = Path(__file__).parent
    files = [*here.glob("*.j2"), *here.glob("*.css"), *here.glob("*.py"), *(here.parent / "data").glob("*.py")]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def search(secrets: Secrets, files: Mapping[str, bytes]) -> list[dict[str, str]]:
    """[{"file", "column"}]: where something that belongs to somebody was found. The value itself is not told."""
    found = []
    for name, content in files.items():
        columns = {secrets.strings[value] for value in among(content, list(secrets.strings))}
        if name.endswith(".json"):
            columns |= {secrets.short[value] for value in spelled(json.loads(content)) & secrets.short.keys()}
        found += [{"file": name, "column": column} for column in sorted(columns)]
    return found


def among(content: bytes, wanted: list[bytes]) -> list[bytes]:
    """Which byte strings of at least eight bytes stand in the content: by their first eight bytes, then as a whole."""
    heads: dict[int, list[bytes]] = {}
    for value in wanted:
        heads.setdefault(int.from_bytes(value[:8], "little"), []).append(value)
    known = np.array(sorted(heads), dtype=np.uint64)
    begins = np.zeros(1 << 16, dtype=bool)
    begins[(known & np.uint64(0xFFFF)).astype(np.int64)] = True
    hits = set()
    for start in range(0, max(0, len(content) - 7), BLOCK):
        part = np.frombuffer(content, dtype=np.uint8, count=min(BLOCK + 7, len(content) - start), offset=start)
        places = np.flatnonzero(begins[part[:-7].astype(np.int64) | part[1:-6].astype(np.int64) << 8])
        windows = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(part, 8)[places]).view("<u8")[:, 0]
        for place in places[np.isin(windows, known)].tolist():
            head = int.from_bytes(content[start + place : start + place + 8], "little")
            hits |= {value for value in heads[head] if content.startswith(value, start + place)}
    return sorted(hits)


def spelled(value: Any) -> set[str]:
    """Every string in JSON, keys and values."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, Mapping):
        return set(value).union(*map(spelled, value.values()))
    return set().union(*map(spelled, value)) if isinstance(value, list) else set()
