"""Texts that are code: which language they are in, and whether they parse. Nothing is ever run here."""

from __future__ import annotations

import ast
import sqlite3
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing

import pyarrow as pa

LOOK = 300  # texts that tell the language
SURE = 0.95  # of them that parse
LONGEST = 100_000  # characters of what is parsed
SYNTAX = (
    "near ",
    "incomplete input",
    "unrecognized token",
    "You can only execute one statement",
)  # what SQLite says of what does not parse
QUERIES = ("select", "with", "insert", "update", "delete")


def sql(text: str) -> bool:
    """Is it one SQL statement, whatever its tables? SQLite reads it against an empty database and runs nothing."""
    words = text.split(None, 1)
    if not words or words[0].lower() not in QUERIES or "\0" in text:
        return False
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            database.execute(f"EXPLAIN {text}")
        except (sqlite3.Error, sqlite3.Warning) as error:
            return not str(error).startswith(SYNTAX)
    return True


def python(text: str) -> bool:
    """Is it Python that says more than a name or a constant?"""
    try:
        with warnings.catch_warnings(action="ignore"):
            body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Name | ast.Constant | ast.BinOp) for node in body)


LANGUAGES: Mapping[str, Callable[[str], bool]] = {"sql": sql, "python": python}


def parses(language: str, text: str) -> bool:
    """Does the text parse in one of `LANGUAGES`? Without a language everything does."""
    return not language or (len(text) <= LONGEST and LANGUAGES[language](text))


def language_of(texts: pa.Array) -> str:
    """The language in which nearly all of the texts parse, or none."""
    some = texts.slice(0, LOOK).to_pylist()
    return next((name for name in LANGUAGES if some and sum(parses(name, text) for text in some) >= SURE * len(some)), "")
