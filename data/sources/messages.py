"""Catalogues of gettext, .po and .mo: what a program says and how translators put it, as pairs of texts.

A message counts when it is translated and not obsolete, and no translator has marked it as uncertain (fuzzy). One with a plural gives two
pairs: the singular with the first form, the plural with the last. Pairs that occur twice are kept once.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.errors import BadInput

SUFFIXES = (".po", ".mo")
MOST_BYTES = 200_000_000  # of one catalogue
KINDS = {"source": "text", "target": "text"}
Pair = tuple[str, str]


def files(folder: Path) -> list[Path]:
    """The catalogues below a folder in the order of their names; one that is there as .po and as .mo is taken as .po."""
    found = sorted(path for path in folder.rglob("*.[pm]o") if path.is_file())
    return [path for path in found if path.suffix == ".po" or path.with_suffix(".po") not in found]


def read(path: Path) -> tuple[pa.Table, tuple[str, ...]]:
    """The pairs of a catalogue or of a folder of them: columns source and target, and notes. BadInput for several languages."""
    paths, counts, languages = [path] if path.is_file() else files(path), Counter[str](), dict[str, Path]()
    found: list[Pair] = []
    for one in paths:
        language, pairs = catalogue(one, counts)
        found += pairs
        if pairs:
            languages.setdefault(language, one)
    if len(known := sorted(filter(None, languages))) > 1:
        raise BadInput(f"{path} holds translations into {', '.join(known[:10])}: give the folder or the file of one language")
    kept = table(found)
    if not len(kept):
        raise BadInput(f"{path} holds no message that is translated")
    counts["repeated"] = len(found) - len(kept)
    left = ", ".join(f"{count:,} {why}" for why, count in sorted(counts.items()) if count)
    into = f" into {known[0]}" if known else ""
    return kept, (
        f"messages{into} of {len(paths):,} {'catalogue' if len(paths) == 1 else 'catalogues'}",
        *([f"left out: {left}"] if left else []),
    )


def table(pairs: Sequence[Pair]) -> pa.Table:
    """The different pairs as columns source and target."""
    kept = list(dict.fromkeys(pairs))
    return pa.table({name: pa.array([pair[k] for pair in kept], pa.string()) for k, name in enumerate(KINDS)})


def catalogue(path: Path, counts: Counter[str]) -> tuple[str, list[Pair]]:
    """The language of a catalogue, such as es, and its pairs. `counts` takes in what was left out. BadInput when it is not sound."""
    import polib

    if path.stat().st_size > MOST_BYTES:
        raise BadInput(f"{path} has more than {MOST_BYTES:,} bytes: it is no catalogue of messages")
    try:
        entries = polib.pofile(str(path)) if path.suffix.lower() == ".po" else polib.mofile(str(path))
        pairs = [pair for entry in entries for pair in taken(entry, counts)]
    except (OSError, ValueError, LookupError, struct.error, AssertionError):
        raise BadInput(f"{path} cannot be read as a catalogue of messages: it is damaged, cut short or another format") from None
    return str(entries.metadata.get("Language", "")).replace("-", "_").partition("_")[0].strip().lower(), pairs


def taken(entry: Any, counts: Counter[str]) -> Iterator[Pair]:
    """The pairs of one message of polib."""
    forms = [entry.msgstr_plural[k] for k in sorted(entry.msgstr_plural)] or [entry.msgstr]
    why = "obsolete" if entry.obsolete else "fuzzy" if "fuzzy" in entry.flags else "" if all(forms) else "untranslated"
    if why:
        counts[why] += 1
        return
    pairs = [(entry.msgid, forms[0])] if not entry.msgstr_plural or len(forms) > 1 else []
    pairs += [(entry.msgid_plural, forms[-1])] if entry.msgstr_plural else []
    for source, target in pairs:
        if source.strip() and target.strip():
            yield source.strip(), target.strip()
