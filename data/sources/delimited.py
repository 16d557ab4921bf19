"""CSV and its relatives: encoding, delimiter, numbers and dates are found out, all columns are read as text first.

Values are trimmed. A column gets a type only when every value has it: a code such as 007 stays text. A file of more than `LARGE` bytes
is read in a stream: encoding and delimiter are those of its beginning, types those of a sample of its rows.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from data.errors import BadInput
from data.infer import check_names
from data.sources.sampling import Sample

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
NULLS = pa.array(["", "NA", "N/A", "null", "NULL", "NaN", "nan", "None", "?", "-"])
BOMS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
LEGACY = ["cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "koi8_r", "gb18030", "big5", "shift_jis", "euc_jp", "euc_kr"]
MAX_LINE = 8_000_000  # bytes
LARGE = 500_000_000  # bytes
SAMPLE = 100_000  # characters from which the delimiter is found out
INTEGER = r"^[+-]?[0-9]+$"
DECIMAL = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
INFINITE = r"^[+-]?(inf|infinity)$"
COMMA_DECIMAL = r"^[+-]?([0-9]+|[0-9]{1,3}(\.[0-9]{3})+)(,[0-9]+)?$"
CLOCK = r"(?P<clock>[ T][0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?)"
ISO = rf"^(?P<day>[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}){CLOCK}?(?P<zone>Z|[+-][0-9]{{2}}(?::?[0-9]{{2}})?)?$"
SPAN = (  # 1:02:03.5, 08:30, 2 days 01:02:03, 1 day, 2:03:04
    r"^(?:(?P<days>-?[0-9]{1,6}) days?(?:,? |$))?"
    r"(?:\+?(?P<hours>[0-9]{1,4}):(?P<minutes>[0-5][0-9])(?::(?P<seconds>[0-5][0-9])(?P<part>\.[0-9]{1,9})?)?)?$"
)
PHONE = r"^\+[0-9]{7,}$"
LOCAL = rf"^(?P<first>[0-9]{{1,2}})[/.-](?P<second>[0-9]{{1,2}})[/.-](?P<year>[0-9]{{4}}){CLOCK}?(?P<half> ?[AaPp][Mm])?$"


def read(path: Path, *, delimiter: str | None = None, encoding: str | None = None) -> tuple[pa.Table, tuple[str, ...]]:
    """The table in a text file, and notes on what was found out. BadInput names the file and, when rows are ragged, the row."""
    raw = path.read_bytes()
    text, encoding = decoded(path, raw, encoding)
    text = text.lstrip("\r\n")
    if not text.strip():
        raise BadInput(f"{path} is empty: it has neither a header nor rows")
    delimiter = delimiter or find_delimiter(path, text[:SAMPLE], whole=len(text) <= SAMPLE)
    check_quotes(path, text, delimiter)
    table = parsed(path, text.encode() + b"\n", delimiter)
    return converted(table, encoding, delimiter)


def stream(path: Path, sample: Sample, *, delimiter: str | None = None, encoding: str | None = None) -> tuple[pa.Table, tuple[str, ...]]:
    """The same of the rows that the sample keeps, with one block of the file in memory at a time."""
    with path.open("rb") as file:
        raw = file.read(MAX_LINE)
    text, encoding = decoded(path, raw[: raw.rfind(b"\n") + 1], encoding)
    delimiter = delimiter or find_delimiter(path, text[:SAMPLE], whole=False)
    names: list[str] = []
    ragged: list[pyarrow.csv.InvalidRow] = []
    plain = "utf8" if encoding.startswith("utf-8") else encoding
    try:
        for batch in pyarrow.csv.open_csv(path, **reading(text.lstrip("\r\n").encode(), delimiter, ragged, plain)):
            table = pa.Table.from_batches([batch])
            if not names:
                names, table = header(table), table.slice(1)
            whole(path, ragged)
            sample.add(table.rename_columns(names))
    except (pa.ArrowException, UnicodeError):
        raise BadInput(f"{path} cannot be split into rows of {encoding}: look for an open quote, or give delimiter and encoding") from None
    if not sample.total:
        raise BadInput(f"{path} has a header but no rows")
    return converted(sample.table(), encoding, delimiter)


def converted(table: pa.Table, encoding: str, delimiter: str) -> tuple[pa.Table, tuple[str, ...]]:
    """Columns of text in the types of their values, and what was found out."""
    notes = [f"encoding {encoding}", f"delimiter {DELIMITERS.get(delimiter, repr(delimiter))}"]
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        words = pc.utf8_trim_whitespace(column)
        words = pc.if_else(pc.is_in(words, NULLS), pa.scalar(None, pa.string()), words)
        columns.append(by_words(words, lambda w, name=name: typed(w, name, delimiter, notes)) or words)  # type: ignore[misc]
    return pa.table(columns, names=table.column_names), tuple(notes)


def decoded(path: Path, raw: bytes, encoding: str | None) -> tuple[str, str]:
    """The text and its encoding: as told, by its byte order mark, UTF-8, UTF-16 without a mark, or the most plausible old one."""
    encoding = encoding or next((name for mark, name in BOMS if raw.startswith(mark)), None) or wide(raw)
    if encoding is None and b"\0" in raw:
        raise BadInput(f"{path} is not a text file (it holds NUL bytes): give a CSV, or a parquet file by its own name")
    try:
        text, encoding = raw.decode(encoding or "utf-8"), encoding or "utf-8"
    except LookupError:
        raise BadInput(f"there is no encoding called {encoding!r}: write utf-8, cp1252, utf-16, …") from None
    except UnicodeError:
        if encoding is not None:
            raise BadInput(f"{path} is not {encoding} throughout: give its right encoding, or save it as UTF-8") from None
        encoding = guess_encoding(path, raw)
        text = raw.decode(encoding)
    if len(re.findall(r"[\x00-\x08\x0e-\x1f]", text[:SAMPLE])) > 0.001 * min(len(text), SAMPLE):
        raise BadInput(f"{path} is not a text file (it holds control characters): give a CSV, or a parquet file by its own name")
    return text, encoding


def wide(raw: bytes) -> str | None:
    """UTF-16 without a mark: every other byte of Latin text is zero."""
    even, odd = raw[:2000:2].count(0), raw[1:2000:2].count(0)
    half = min(len(raw), 2000) / 2
    if len(raw) % 2 == 0 and max(even, odd) > 0.7 * half and min(even, odd) < 0.05 * half:
        return "utf-16-be" if even > odd else "utf-16-le"
    return None


def guess_encoding(path: Path, raw: bytes) -> str:
    """The most plausible encoding of bytes that are not UTF-8, judged on the lines that are not plain ASCII."""
    from charset_normalizer import from_bytes

    sample = b"\n".join(line for line in re.findall(rb"[^\r\n]*[\x80-\xff][^\r\n]*", raw[:5_000_000])[:500])[:100_000]
    matches = from_bytes(sample, cp_isolation=LEGACY, enable_fallback=False)
    for match in sorted(matches, key=lambda m: (m.percent_chaos, -m.percent_coherence, LEGACY.index(m.encoding))):
        for name in sorted(set(match.could_be_from_charset) & set(LEGACY), key=LEGACY.index):
            with suppress(UnicodeError):
                raw.decode(name)
                return name
    raise BadInput(f"{path} is not text in an encoding that can be recognised: save it as UTF-8, or give its encoding")


def find_delimiter(path: Path, sample: str, whole: bool) -> str:
    """The delimiter that splits the header into most parts and the rows into as many; a single column must look like one."""
    lines = sample.splitlines()
    lines = (lines if whole or len(lines) < 2 else lines[:-1])[:500]
    scores = {}
    for mark in (*DELIMITERS, " ", ":", "^", "~"):
        widths = [len(row) for row in csv.reader(lines, delimiter=mark) if row] if len(max(lines, key=len)) < 100_000 else [1]
        scores[mark] = (sum(w == widths[0] for w in widths) / len(widths) if widths[0] > 1 else 0.0, widths[0])
    best = max(DELIMITERS, key=lambda mark: scores[mark])
    if scores[best][0] > 0:
        return best
    for mark, (share, _) in scores.items():
        if share == 1 and len(lines) > 1:
            raise BadInput(f"{path} has no comma, semicolon, tab or bar between its values, but {mark!r}: give it as the delimiter")
    if any(sum(mark in line for line in lines) > 0.5 * len(lines) for mark in ",;\t|" if not any('"' in line for line in lines)):
        raise BadInput(f"no delimiter fits {path}: its rows hold more values than its first line has names; mend the header")
    return ","


def check_quotes(path: Path, text: str, delimiter: str) -> None:
    """BadInput for a line of absurd size and for a quote that is never closed."""
    if any(len(line) > MAX_LINE for line in io.StringIO(text, newline=None)):
        raise BadInput(f"{path} holds a line of more than {MAX_LINE:,} characters: it is not a table of values")
    if text.count('"') % 2 == 0:
        return
    rows, start = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True), 1
    try:
        for _ in rows:
            start = rows.line_num + 1
    except csv.Error as error:
        if "end of data" in str(error) or "field limit" in str(error):
            raise BadInput(f"{path}: a quote opened in the row at line {start:,} is never closed") from None


def parsed(path: Path, text: bytes, delimiter: str) -> pa.Table:
    """All columns as text under the names of the first row. BadInput for ragged rows: their number, never their text."""
    if len(delimiter) != 1 or delimiter in '"\r\n' or ord(delimiter) > 127:
        raise BadInput(f"the delimiter must be one character such as , or ;, not {delimiter[:20]!r}")
    ragged: list[pyarrow.csv.InvalidRow] = []
    try:
        table = pyarrow.csv.read_csv(pa.BufferReader(text), **reading(text, delimiter, ragged))
    except pa.ArrowInvalid:
        raise BadInput(f"{path} cannot be split into rows: look for an open quote, or give the delimiter") from None
    names = header(table)
    whole(path, ragged)
    if table.num_rows < 2:
        raise BadInput(f"{path} has a header but no rows")
    return table.slice(1).rename_columns(names)


def reading(text: bytes, delimiter: str, ragged: list[pyarrow.csv.InvalidRow], encoding: str = "utf8") -> dict[str, Any]:
    """How pyarrow reads rows whose first is in `text`: everything as text, `ragged` gets the first row of another width."""

    def note(row: pyarrow.csv.InvalidRow) -> str:
        if not ragged:
            ragged.append(row)
        return "skip"

    first = text[:1_000_000].split(b"\n")[0]
    width = first.count(delimiter.encode()) + 1
    return {
        "read_options": pyarrow.csv.ReadOptions(
            use_threads=False, autogenerate_column_names=True, block_size=2 * MAX_LINE, encoding=encoding
        ),
        "parse_options": pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=note),
        "convert_options": pyarrow.csv.ConvertOptions(column_types={f"f{i}": pa.string() for i in range(width)}),
    }


def header(table: pa.Table) -> list[str]:
    """The names in the first row. BadInput when they cannot be names."""
    names = [str(table[i][0].as_py() or "").strip() for i in range(table.num_columns)]
    check_names(names)
    return names


def whole(path: Path, ragged: list[pyarrow.csv.InvalidRow]) -> None:
    """BadInput for a row of another width."""
    if ragged:
        row = ragged[0]
        raise BadInput(f"{path}: row {row.number:,} has {row.actual_columns} values where the header has {row.expected_columns} names")


def by_words(column: pa.ChunkedArray, convert: Callable[[pa.Array], pa.Array | None]) -> pa.ChunkedArray | None:
    """A text column converted by way of its different values; None when it stays text."""
    coded = column.dictionary_encode().unify_dictionaries() if column.num_chunks else column
    if column.null_count == len(column):
        return None
    array = convert(coded.chunk(0).dictionary)
    return None if array is None else pa.chunked_array([array.take(chunk.indices) for chunk in coded.chunks])


def typed(words: pa.Array, name: str, delimiter: str, notes: list[str]) -> pa.Array | None:
    """Different texts as booleans, integers, decimals or times; None when they are none of these throughout."""
    lower = pc.utf8_lower(words)
    if pc.all(pc.is_in(lower, pa.array(["true", "false"]))).as_py():
        return pc.equal(lower, "true")
    found = numbers(words, delimiter)
    if found is None:
        found = spans(words)
    return found if found is not None else times(words, name, delimiter, notes)


def numbers(words: pa.Array, delimiter: str) -> pa.Array | None:
    """int64 or double; None for text, for codes with leading zeros, +34600123456 and integers of more than 18 digits."""
    bare = pc.replace_substring_regex(words, r"^\+", "")
    whole = pc.match_substring_regex(words, INTEGER)
    code = pc.or_(pc.match_substring_regex(bare, r"^-?(0[0-9]+|[0-9]{19,})$"), pc.match_substring_regex(words, PHONE))
    if pc.any(code).as_py():
        return None
    if pc.all(whole).as_py():
        return bare.cast(pa.int64())
    infinite = pc.match_substring_regex(words, INFINITE, ignore_case=True)
    if pc.all(pc.or_(infinite, pc.match_substring_regex(words, DECIMAL))).as_py() and not pc.all(infinite).as_py():
        return bare.cast(pa.float64())
    if delimiter == ";" and pc.all(pc.match_substring_regex(words, COMMA_DECIMAL)).as_py():
        return pc.replace_substring(pc.replace_substring(bare, ".", ""), ",", ".").cast(pa.float64())
    return None


def spans(words: pa.Array) -> pa.Array | None:
    """Times of day as time64[us], durations (of a day and more, or with their days) as duration[us], in ns where written so."""
    parts = pc.extract_regex(words, SPAN)
    if parts.null_count or pc.any(pc.and_(pc.equal(parts.field("days"), ""), pc.equal(parts.field("hours"), ""))).as_py():
        return None

    def whole(name: str) -> np.ndarray:
        return pc.if_else(pc.equal(parts.field(name), ""), "0", parts.field(name)).cast(pa.int64()).to_numpy()

    digits = pc.utf8_slice_codeunits(pc.utf8_rpad(pc.utf8_ltrim(parts.field("part"), "."), 9, "0"), 0, 9).cast(pa.int64()).to_numpy()
    unit, scale = ("ns", 1) if np.any(digits % 1000) else ("us", 1000)
    clock = (whole("hours") * 60 + whole("minutes")) * 60 + whole("seconds")
    if not pc.any(pc.not_equal(parts.field("days"), "")).as_py():
        if whole("hours").max() < 24:
            return pa.array((clock * 10**9 + digits) // scale).cast(pa.time64(unit))
        if pc.any(pc.equal(parts.field("seconds"), "")).as_py():
            return None  # 90:15 is anything
    return pa.array(((whole("days") * 86_400 + clock) * 10**9 + digits) // scale).cast(pa.duration(unit))


def times(words: pa.Array, name: str, delimiter: str, notes: list[str]) -> pa.Array | None:
    """date32 or timestamp[us], the zone kept; None for text."""
    if (found := iso_times(words)) is not None:
        if pa.types.is_timestamp(found.type) and found.type.tz and len(pc.unique(pc.extract_regex(words, ISO).field("zone"))) > 1:
            notes.append(f"column {name!r}: times of several zones, read in UTC")
        return found
    slashed = pc.replace_substring_regex(words, r"^([0-9]{4})/([0-9]{2})/([0-9]{2})", r"\1-\2-\3")
    return iso_times(slashed) if not slashed.equals(words) else local_times(words, name, delimiter, notes)


def iso_times(words: pa.Array) -> pa.Array | None:
    """ISO dates as date32, ISO times as timestamp[us]: in their own zone when all share one, in UTC when they differ."""
    parts = pc.extract_regex(words, ISO)
    if parts.null_count:
        return None
    clock, zone = parts.field("clock"), parts.field("zone")
    clocks, zones = pc.not_equal(clock, ""), pc.not_equal(zone, "")
    try:
        if not pc.any(clocks).as_py():
            return None if pc.any(zones).as_py() else parts.field("day").cast(pa.date32())
        if pc.any(zones).as_py() and not pc.all(zones).as_py():
            return None
        clock = pc.replace_substring_regex(clock, r"^[ T](\d):", r" 0\1:")
        clock = pc.replace_substring_regex(pc.replace_substring_regex(clock, r"(\.[0-9]{6})[0-9]+", r"\1"), r"^$", " 00:00")
        iso = pc.binary_join_element_wise(parts.field("day"), pc.utf8_trim(clock, " T"), " ")
        kinds = sorted(set(zone.to_pylist()))
        if kinds == [""]:
            return iso.cast(pa.timestamp("us"))
        one = kinds[0] if len(kinds) == 1 and re.fullmatch(r"[+-]\d\d:\d\d", kinds[0]) else "+00:00"
        kind = pa.timestamp("us", "UTC" if one == "+00:00" else one)
        return pc.binary_join_element_wise(iso, zone, "").cast(kind)
    except pa.ArrowInvalid:
        return None  # no such day or hour


def local_times(words: pa.Array, name: str, delimiter: str, notes: list[str]) -> pa.Array | None:
    """Dates written day first or month first, decided over the whole column: a number above 12 is a day."""
    parts = pc.extract_regex(words, LOCAL)
    if parts.null_count:
        return None
    first, second = (parts.field(f).cast(pa.int64()).to_numpy() for f in ("first", "second"))
    if first.max() > 12 and second.max() > 12:
        return None
    day_first = first.max() > 12 or (second.max() <= 12 and (delimiter == ";" or "." in str(words[0])))
    day, month = (first, second) if day_first else (second, first)
    clock = pc.extract_regex(pc.if_else(pc.equal(parts.field("clock"), ""), " 0:00", parts.field("clock")), r"(?P<hour>\d+):(?P<rest>.*)")
    hour = clock.field("hour").cast(pa.int64()).to_numpy()
    half = np.array([h.strip().lower() for h in parts.field("half").to_pylist()])
    hour = np.where(half == "", hour, hour % 12 + 12 * (half == "pm"))
    timed = pc.any(pc.not_equal(parts.field("clock"), "")).as_py()
    pieces = zip(parts.field("year").to_pylist(), month, day, hour, clock.field("rest").to_pylist(), strict=True)
    found = iso_times(pa.array([f"{y}-{m:02d}-{d:02d}" + (f" {h:02d}:{rest}" if timed else "") for y, m, d, h, rest in pieces]))
    if found is not None:
        notes.append(f"column {name!r}: dates read {'day' if day_first else 'month'} first")
    return found
