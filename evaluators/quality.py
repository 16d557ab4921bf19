"""Do the files as written hold what the schema promises? A Great Expectations suite made from the schema alone.

The suite holds nothing of a single row: ranges are the schema's, rounded outwards, and categories are those that the schema
publishes. Files are read again from disk, one part of `CHUNK` rows at a time, so that memory does not grow with the release. Every image
is decoded and every text is read, one at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data.constraints import Rules, row_keys, words
from data.errors import BadInput
from data.images import decoded, encoded, measures
from data.schema import Column, Schema
from data.texts import fault

CHUNK = 200_000
IMAGES = 5_000  # the same where rows hold images


def suite(schema: Schema) -> dict[str, Any]:
    """The Great Expectations suite of a schema as JSON: {"name", "expectations": [{"type", "kwargs"}], ...}; it may be published."""
    return quiet().ExpectationSuite(name="release", expectations=expectations(schema)).to_json_dict()


def quality(schema: Schema, files: list[Path]) -> dict[str, Any]:
    """Run the suite on parquet files: {"passed", "expectations", "failed": [{"expectation", "column", "what"}], "files", "rows"}.

    What cannot be read or computed fails. Besides the suite: stored types, at least one row, ids unique across all files, the schema's
    constraints, that images can be decoded, have the schema's size and, where they are masks, hold no other values than its classes, and
    that texts are Unicode, not empty, without control characters, no longer than the schema says and, where they are code, parse.
    """
    failed: dict[tuple[str, str | None], str] = {}
    column: str | None
    rows, ids = 0, {c.name: Unique() for c in schema.columns if c.kind == "id"}
    made = expectations(schema)
    batches, rules = definition(), Rules.of(schema)
    together = {c: Unique() for c in rules.unique}
    for path in files:
        where = Path(path).name
        try:
            file = pq.ParquetFile(path)
            for column, what in wrong_types(schema, file.schema_arrow):
                failed.setdefault(("stored_type", column), f"{where}: {what}")
            for part in file.iter_batches(IMAGES if schema.modality in ("image", "multimodal") else CHUNK):
                table = pa.Table.from_batches([part])
                rows += len(table)
                for expectation, column, what in run(batches, made, frame(schema, table)):
                    failed.setdefault((expectation, column), f"{where}: {what}")
                for expectation, column, what in spoilt(schema, table):
                    failed.setdefault((expectation, column), f"{where}: {what}")
                for what in against(rules, table):
                    failed.setdefault((f"constraint {what}", None), f"{where}: it does not hold")
                for constraint, digests in together.items():
                    if set(constraint.columns) <= set(table.column_names):
                        digests.parts.append(row_keys(table, constraint.columns)[1])
                for name in ids.keys() & set(table.column_names):
                    ids[name].add(table[name])
        except (OSError, pa.ArrowException) as error:
            failed.setdefault(("readable_file", None), f"{where}: cannot be read ({type(error).__name__})")
    for name, seen in ids.items():
        if seen.repeated:
            failed.setdefault(("unique_ids", name), "an id occurs more than once")
    for constraint, digests in together.items():
        if digests.repeated:
            failed.setdefault((f"constraint {words(constraint)}", None), "values occur together more than once")
    if not rows:
        failed.setdefault(("row_count", None), "there is no row")
    listed = [{"expectation": e, "column": column, "what": what} for (e, column), what in failed.items()]
    read = sum(c.kind in ("image", "mask", "text") for c in schema.columns)
    count = len(made) + len(schema.columns) + len(ids) + read + len(schema.constraints) + 2
    return {"passed": not listed, "expectations": count, "failed": listed, "files": len(files), "rows": rows}


def expectations(schema: Schema) -> list[Any]:
    """Great Expectations' expectations of a schema, on columns as `frame` lays them out."""
    quiet()
    import great_expectations.expectations as gxe

    made: list[Any] = [gxe.ExpectTableColumnsToMatchOrderedList(column_list=schema.names)]
    for c in schema.columns:
        if not c.nullable:
            made.append(gxe.ExpectColumnValuesToNotBeNull(column=c.name))
        if c.is_number and c.low is not None and c.high is not None:
            made.append(gxe.ExpectColumnValuesToBeBetween(column=c.name, min_value=c.low, max_value=c.high))
        if c.kind in ("category", "boolean") and c.categories:
            made.append(gxe.ExpectColumnValuesToBeInSet(column=c.name, value_set=list(c.categories)))
        if c.kind == "id":
            made.append(gxe.ExpectColumnValuesToBeUnique(column=c.name))
    return made


def frame(schema: Schema, table: pa.Table) -> pd.DataFrame:
    """The table as pandas: quantities and dates as float64 in the schema's units, everything else as text; foreign columns stay."""
    known = {c.name: c for c in schema.columns}
    return pd.DataFrame({name: plain(known.get(name), table[name]) for name in table.column_names})


def plain(column: Column | None, values: pa.ChunkedArray) -> Any:
    """One column for `frame`; text of any length, and what does not fit its kind, is an empty string or null."""
    with contextlib.suppress(pa.ArrowException):
        if column is not None and column.is_number:
            return column.numbers(values)
        if column is not None and column.kind in ("category", "boolean", "id"):
            return column.strings(values).to_pandas()
    return pd.Series("", index=range(len(values)), dtype=object).mask(values.is_null().to_numpy(), None)


def wrong_types(schema: Schema, stored: pa.Schema) -> Iterator[tuple[str, str]]:
    """The columns whose stored Arrow type is not the schema's (a dictionary of the type is the type), with a sentence."""
    for column in schema.columns:
        if column.name not in stored.names:
            yield column.name, "the column is missing"
            continue
        kind = stored.field(column.name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if kind != column.arrow:
            yield column.name, f"stored as {kind}, not as {column.type}"


def spoilt(schema: Schema, table: pa.Table) -> Iterator[tuple[str, str, str]]:
    """The columns of images and texts with a cell that is not what the schema says: type of expectation, column, sentence."""
    for column in schema.columns:
        if column.name not in table.column_names or table[column.name].type != column.arrow:
            continue  # `wrong_types` says so
        if column.kind in ("image", "mask") and (what := next(wrong_images(column, table[column.name]), None)):
            yield "images", column.name, what
        if column.kind == "text" and (what := next(wrong_texts(column, table[column.name]), None)):
            yield "texts", column.name, what


def wrong_texts(column: Column, texts: pa.ChunkedArray) -> Iterator[str]:
    """What is wrong with each text that is wrong."""
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        yield "a text is not UTF-8"
        return
    found = ((row, fault(column, text)) for row, text in enumerate(texts.to_pylist()) if text is not None)
    yield from (f"row {row} holds {what}" for row, what in found if what)


def wrong_images(column: Column, images: pa.ChunkedArray) -> Iterator[str]:
    """What is wrong with each image that is wrong."""
    known = np.isin(np.arange(256), [int(value) for value in column.categories]) if column.kind == "mask" else np.ones(256, dtype=bool)
    yield from filter(None, (wrong_image(cell, row, column, known) for row, cell in enumerate(encoded(images))))


def wrong_image(cell: bytes, row: int, column: Column, known: np.ndarray) -> str | None:
    """What is wrong with one image; `known` bool [256], the values that its pixels may have."""
    try:
        picture = decoded(cell, row)
    except BadInput as error:
        return str(error)
    if column.size and picture.shape != column.size:
        return f"image {row} is {measures(picture.shape)}, not {measures(column.size)}"
    return None if known[picture].all() else f"image {row} holds a pixel that is none of the mask's classes"


class Unique:
    """Remembers ids by a 64-bit digest each, so that repeats show across files in 8 bytes a row."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []

    def add(self, values: pa.ChunkedArray) -> None:
        """Take in a part."""
        text = values.cast(pa.string()).drop_null().to_pandas()
        self.parts.append(np.asarray(pd.util.hash_pandas_object(text, index=False, categorize=False), dtype=np.uint64))

    @property
    def repeated(self) -> bool:
        """Was anything taken in twice?"""
        digests = np.sort(np.concatenate([np.zeros(0, np.uint64), *self.parts]))
        return bool((digests[1:] == digests[:-1]).any())


def against(rules: Rules, table: pa.Table) -> list[str]:
    """The constraints that a part breaks, or that cannot be computed on it."""
    try:
        return [what for what, rows in rules.broken(table).items() if rows.any()]
    except (KeyError, pa.ArrowException):
        return [words(rule.constraint) for rule in rules.rules]


def run(batches: Any, made: list[Any], table: pd.DataFrame) -> Iterator[tuple[str, str | None, str]]:
    """The expectations that fail on one part: type, column, sentence."""
    gx = quiet()
    checks = gx.ExpectationSuite(name="release", expectations=[e.copy() for e in made])
    report = batches.get_batch({"dataframe": table}).validate(checks, result_format="BOOLEAN_ONLY")
    for result in report.results:
        if not result.success:
            config = result.expectation_config
            info = result.exception_info or {}
            broken = info.get("raised_exception", True) if info else False
            yield config.type, config.kwargs.get("column"), "it could not be computed" if broken else "it does not hold"
    if len(report.results) != len(made):
        yield "suite", None, "an expectation gave no result"


def definition() -> Any:
    """A Great Expectations batch definition that takes a data frame; it lives in memory and draws no progress bars."""
    gx = quiet()
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context.data_sources.add_pandas("files").add_dataframe_asset("part").add_batch_definition_whole_dataframe("rows")


def quiet() -> Any:
    """Great Expectations, imported here because that takes seconds; it sends nothing home and logs only what is wrong."""
    os.environ["GX_ANALYTICS_ENABLED"] = "False"
    import great_expectations

    for name in ("great_expectations", "great_expectations.data_context.types.base"):  # the second sets a level of its own
        logging.getLogger(name).setLevel(logging.ERROR)
    return great_expectations
