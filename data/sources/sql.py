"""SQL: one reading statement through SQLAlchemy. Nothing is ever written to the database, nor is a database made."""

from __future__ import annotations

import re
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine

from data.environment import filled
from data.errors import BadInput
from data.infer import check_names
from data.sources import delimited
from data.sources.sampling import Sample

CHUNK = 50_000  # rows fetched at a time
HIDDEN = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|--[^\n]*|/\*.*?\*/", re.DOTALL)  # literals, quoted names, comments
WRITES = re.compile(r"\b(insert|update|delete|merge|drop|alter|create|truncate|grant|attach|into)\b", re.IGNORECASE)


def name(url: str) -> str:
    """The database's name: the file's stem for sqlite."""
    return Path(parse(url).database or parse(url).drivername).stem


def read(url: str, query: str | None, sample: Sample) -> pa.Table:
    """The result of one SELECT. BadInput for a database that is missing, a query that is not one SELECT, or an SQL error."""
    parsed = parse(url)
    engine = connect(parsed)
    try:
        with explained(parsed):
            if query is None or not query.strip():
                tables = sorted(sa.inspect(engine).get_table_names())
                raise BadInput(f"a database needs a query (--query 'select …'); it has the tables {', '.join(tables[:20]) or '(none)'}")
            statement = checked(query)
            with engine.connect().execution_options(postgresql_readonly=True) as connection:
                return fetch(connection, statement, sample)
    finally:
        engine.dispose()


def parse(url: str) -> URL:
    """The parts of a URL, `${NAME}` in user, password and host filled in. BadInput does not repeat it: it may hold a password."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise BadInput("the database URL cannot be understood: write it like sqlite:///shop.db or postgresql://user@host/base") from None
    return parsed.set(username=secret(parsed.username), password=secret(parsed.password), host=secret(parsed.host))


def secret(part: str | None) -> str | None:
    """A part of a URL, filled in from the environment."""
    return part and filled(str(part))


def connect(url: URL) -> Engine:
    """An engine; sqlite files are opened read-only and must exist."""
    if url.get_backend_name() == "sqlite":
        path = Path(url.database or ":memory:")
        if not path.is_file():
            raise BadInput(f"the database file {path} does not exist: check the path after sqlite:///")
        uri = f"file:{quote(str(path.absolute()))}?mode=ro"
        return sa.create_engine("sqlite://", creator=lambda: sqlite3.connect(uri, uri=True))
    try:
        return sa.create_engine(url)
    except sa.exc.NoSuchModuleError:
        raise BadInput(f"there is no database kind called {url.drivername!r}: write sqlite, postgresql, mysql, …") from None
    except ImportError as error:
        raise BadInput(f"reading {url.get_backend_name()} needs the Python package {error.name!r}: install it") from None


def checked(query: str) -> str:
    """The query without its last semicolon. BadInput unless it is one SELECT (or WITH … SELECT)."""
    statement = query.strip().rstrip("; \n\t")
    bare = HIDDEN.sub(" ", statement).strip()
    if ";" in bare:
        raise BadInput("the query holds more than one statement: give one SELECT")
    if not re.match(r"\(*\s*(select|with)\b", bare, re.IGNORECASE) or WRITES.search(bare):
        raise BadInput("the query must be one SELECT or WITH … SELECT: nothing is ever written to a database")
    return statement


@contextmanager
def explained(url: URL) -> Iterator[None]:
    """SQL errors as one sentence, without values of rows, without the password."""
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        cause = getattr(error, "orig", None)
        lines = "" if cause is None or isinstance(error, sa.exc.DataError | sa.exc.IntegrityError) else str(cause).strip()
        why = lines.splitlines()[0][:200] if lines else type(error).__name__
        if url.password:
            why = why.replace(str(url.password), "***")
        raise BadInput(f"the database {url.database or url.drivername!r} refused: {why}") from None
    except sqlite3.Error as error:
        raise BadInput(f"the database {url.database!r} refused: {error}") from None


def fetch(connection: Connection, statement: str, sample: Sample) -> pa.Table:
    """The rows of a statement that the sample keeps, in chunks, then each column under one type."""
    result = connection.execution_options(stream_results=True).exec_driver_sql(statement)
    names = list(result.keys())
    check_names(names)
    for rows in result.partitions(CHUNK):
        sample.add(pa.table([array(list(values)) for values in zip(*rows, strict=True)], names=names))
    if not sample.total:
        raise BadInput("the query returns no rows: there is nothing to learn from")
    kept = sample.chunks()
    return pa.table([unified([table[name].combine_chunks() for table in kept]) for name in names], names=names)


def array(values: list[Any]) -> pa.Array:
    """Python values as Arrow: numbers, decimals, dates and text as they are, a mixture as text."""
    values = [str(v) if isinstance(v, uuid.UUID) else v for v in values]
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([None if v is None else str(v) for v in values], pa.string())


def unified(chunks: list[pa.Array]) -> pa.ChunkedArray:
    """One type for all chunks of a column; text that is ISO dates throughout becomes dates (sqlite has no date type)."""
    try:
        column = pa.concat_tables([pa.table({"c": c}) for c in chunks], promote_options="permissive")["c"]
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        column = pa.chunked_array([c.cast(pa.string()) for c in chunks])
    if not pa.types.is_string(column.type):
        return column
    return delimited.by_words(column, lambda words: delimited.iso_times(words)) or column
