"""Queries run against a real SQLite database, by anybody's text and without harm.

The file is opened for reading, nothing but reading is authorised, and a query that works longer than `MOMENTS` or answers with more than
`ROWS` rows or `CELL` bytes a cell counts as one that fails. How long is counted in SQLite's own instructions, so that the same query ends
in the same way on any machine.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import BadInput

MOMENT = 10_000  # instructions of SQLite's machine between two looks at the clock
MOMENTS = 500
ROWS = 10_000
CELL = 1_000_000
SECONDS = 10.0  # after which a query is stopped whatever it has done
ALLOWED = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE)
HARMLESS = """
    abs avg ceil ceiling char coalesce concat concat_ws count cume_dist current_date current_time current_timestamp date datetime
    dense_rank exp first_value floor glob group_concat ifnull iif instr julianday lag last_value lead length like ln log log10
    lower ltrim max min mod nth_value ntile nullif percent_rank pow power rank replace round row_number rtrim sign sqrt strftime
    string_agg substr substring sum time timediff total trim trunc typeof unicode unixepoch upper
"""  # other functions can write, load code, fill the memory or work for minutes in one instruction
FUNCTIONS = frozenset(HARMLESS.split())
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: CELL,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 100,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}

Result = Counter[tuple[Any, ...]]  # rows and how often each of them came


def checked(path: str | Path) -> Path:
    """The path. BadInput when there is no SQLite database."""
    found = Path(path)
    if not found.is_file():
        raise BadInput(f"there is no database {str(path)!r}: give the path of an SQLite file")
    try:
        with closing(opened(found)) as database:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        raise BadInput(f"{str(path)!r} is not an SQLite database that can be read") from None
    return found


def opened(path: str | Path) -> sqlite3.Connection:
    """A connection that can do nothing but read."""
    database = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)
    database.execute("PRAGMA query_only = 1")
    for limit, value in LIMITS.items():
        database.setlimit(limit, value)
    database.set_authorizer(allowed)
    return database


def allowed(action: int, _: str | None, name: str | None, *more: str | None) -> int:
    """Is it reading, or one of `FUNCTIONS`?"""
    known = action in ALLOWED or (action == sqlite3.SQLITE_FUNCTION and str(name).lower() in FUNCTIONS)
    return sqlite3.SQLITE_OK if known else sqlite3.SQLITE_DENY


def executed(path: str | Path, query: str) -> Result | None:
    """What the query answers, in whatever order; None when it fails or takes too much."""
    with closing(opened(path)) as database:
        return answer(database, query)


def answer(database: sqlite3.Connection, query: str) -> Result | None:
    """What the query answers on a connection of `opened`, or None."""
    left, end = iter(range(MOMENTS)), time.monotonic() + SECONDS
    database.set_progress_handler(lambda: next(left, None) is None or time.monotonic() > end, MOMENT)
    try:
        found = database.execute(query)
        rows = found.fetchmany(ROWS + 1)
    except (sqlite3.Error, sqlite3.Warning, UnicodeError, ValueError, OverflowError):  # how a query fails is its own affair
        return None
    return Counter(rows) if found.description and len(rows) <= ROWS else None


def same_answers(path: str | Path, said: Sequence[str], truth: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """bool [n] where both queries answer the same, and bool [n] where the true query answers at all."""
    with closing(opened(path)) as database:
        known = [answer(database, query) for query in truth]
        found = [answer(database, query) for query in said]
    return np.array([a is not None and a == b for a, b in zip(found, known, strict=True)], bool), np.array(
        [k is not None for k in known], bool
    )


def runs(path: str | Path, queries: Sequence[str]) -> np.ndarray:
    """bool [n]: does each query answer?"""
    with closing(opened(path)) as database:
        return np.array([answer(database, query) is not None for query in queries], bool)
