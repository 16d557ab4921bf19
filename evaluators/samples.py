"""Texts as pages show them: the first rows of a release as they are written, long ones folded, very long ones cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from data.schema import Schema
from evaluators.pictures import batches

ROWS = 20
FOLDED = 300  # characters that are seen before a text is unfolded
MOST = 4_000  # characters of a text on a page


def samples(schema: Schema, files: Sequence[Path]) -> dict[str, Any]:
    """The first rows of a release's files, the target last.

    {"columns": [{"name", "code": is it code, "text": is it a text}], "rows": [[what `folded` makes of each cell]]}.
    """
    columns = sorted(schema.columns, key=lambda c: c.name == schema.target)
    chunks = islice(batches(files, schema), 1)
    cells = [[chunk.table[c.name].slice(0, ROWS).to_pylist() for c in columns] for chunk in chunks]
    rows = [[folded(cell) for cell in row] for part in cells for row in zip(*part, strict=True)]
    return {"columns": [{"name": c.name, "code": bool(c.language), "text": c.kind == "text"} for c in columns], "rows": rows}


def folded(value: object) -> dict[str, Any]:
    """A text for a page: what is seen of it, the rest when it is unfolded, and how many characters are cut."""
    text = "" if value is None else str(value).replace("\r\n", "\n")
    return {"seen": text[:FOLDED], "rest": text[FOLDED:MOST], "cut": max(0, len(text) - MOST)}
