"""From a table to its schema: what each column means, guessed from Arrow type, name and values; everything unusable is named."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.arrow import DAY, IMAGE_TYPE, instant, to_numbers, to_strings, wall
from data.code import language_of
from data.errors import BadInput, suggest
from data.schema import KINDS, RARE, WORDING, Column, Schema, Task
from data.texts import CONTROL

MIN_ROWS = 50  # a joint distribution cannot be learnt, split and judged on less
MAX_CLASSES = 50  # an integer target with more distinct values than this is a quantity, not a class
MAX_MASK = 64  # classes of a mask
MAX_NAME = 128
ID_NAME = re.compile(r"(^|[_\W])(id|ids|uuid|guid|key|nbr|nr|no|ssn|iban|email|e-mail)$|(?<=[a-z])(Id|ID)$", re.IGNORECASE)
TIMES = (DAY, 3_600_000_000, 60_000_000, 1_000_000, 1_000, 1)  # microseconds
PRECISION = {"float": 1e-7, "halffloat": 5e-4}  # relative, of a number that was written with few decimals
MASK_NAME = re.compile(r"mask|label|segment", re.IGNORECASE)
CODE_NAME = re.compile(r"(^|[_\W])(zip|plz|cp|(zip|post|postal)[_ ]?code|phone|telephone|telefono|mobile|fax)$", re.IGNORECASE)
TRUTHS = (  # both spellings of a truth value, in lower case
    *({"yes", "no"}, {"y", "n"}, {"true", "false"}, {"t", "f"}, {"on", "off"}, {"0", "1"}),
    *({"s\u00ed", "no"}, {"si", "no"}, {"s", "n"}, {"oui", "non"}, {"ja", "nein"}, {"sim", "n\u00e3o"}),
)


def infer_schema(
    table: pa.Table, target: str | None, kinds: Mapping[str, str], orders: Mapping[str, Sequence[str]], wanted: Task | None = None
) -> Schema:
    """The schema of a table. BadInput names what cannot be used."""
    check_names(table.column_names)
    if target is not None and target not in table.column_names:
        raise BadInput(f"the target column {target!r} does not exist{suggest(target, table.column_names)}")
    for name, kind in kinds.items():
        if name not in table.column_names:
            raise BadInput(f"the job gives a kind to column {name!r}, which does not exist{suggest(name, table.column_names)}")
        if kind not in KINDS:
            raise BadInput(f"column {name!r}: {kind!r} is not a kind of column; choose one of {', '.join(KINDS)}")
    for name in orders:
        if name not in table.column_names:
            raise BadInput(f"the job gives an order to column {name!r}, which does not exist{suggest(name, table.column_names)}")
        if kinds.get(name, "category") not in ("category", "boolean"):
            raise BadInput(f"column {name!r} has an order of categories but the kind {kinds[name]}: leave one of the two out")
    kinds = dict.fromkeys(orders, "category") | dict(kinds)
    if table.num_rows < MIN_ROWS:
        raise BadInput(f"the table has {table.num_rows} rows; at least {MIN_ROWS} are needed to learn from it and to judge the result")
    columns = tuple(fitting_column(name, table[name], kinds.get(name), name == target, orders.get(name, ())) for name in table.column_names)
    if {c.kind for c in columns} <= {
        "text",
        "category",
        "boolean",
        "image",
        "mask",
    }:  # rows that are texts, not cells of a table with notes in it
        for column in columns:
            if column.kind == "text":
                check_texts(column.name, to_strings(table[column.name]))
    schema = Schema("density", target, columns)
    if target is None:
        if wanted not in (None, "density"):
            raise BadInput(f"the task {wanted} needs a target column: name it (--target)")
        return schema
    y = schema[target]
    if y.kind not in ("image", "mask", "style") and len(pc.unique(table[target].drop_null())) < 2:
        raise BadInput(f"the target column {target!r} is constant: there is nothing to predict; choose another target")
    task: Task
    if any(c.kind in ("image", "style") for c in columns):
        if y.kind in ("image", "style") and not any(c.kind == "image" and c.name != target for c in columns):
            raise BadInput(f"the target column {target!r} holds images, and no other column does: there is nothing to draw in their style")
        check_labels(y, table[target])
        found = {"mask": "segmentation", "image": "image-to-image", "style": "image-to-image", "text": "captioning"}
        task = found.get(y.kind, "classification")  # type: ignore[assignment]
    elif y.kind == "text":
        task = wanted if wanted in WORDING else "text-to-code" if y.language else "text-to-text"
    elif y.kind in ("category", "boolean"):
        task = "classification"
    elif y.is_number:
        task = "regression"
    else:
        raise BadInput(
            f"the target column {target!r} looks like an identifier, which cannot be predicted; choose another target, or give its kind"
        )
    if wanted not in (None, task):
        raise BadInput(f"the task cannot be {wanted}: the target column {target!r} is of kind {y.kind}, which makes it {task}")
    return replace(schema, task=task)


def check_labels(y: Column, values: pa.ChunkedArray) -> None:
    """BadInput for a label of images too rare to be learnt."""
    if y.kind not in ("category", "boolean"):
        return
    counts = {c["values"]: c["counts"] for c in pc.value_counts(y.strings(values).drop_null()).to_pylist()}
    rare = sorted((n, value) for value, n in counts.items() if n < RARE)
    if rare:
        (n, value), more = rare[0], f", and {len(rare) - 1} more are as rare" if len(rare) > 1 else ""
        raise BadInput(
            f"column {y.name!r}: the label {value[:60]!r} has {n} image{'s' * (n > 1)}{more}; a label needs at least {RARE}, "
            f"so give it more or leave it out"
        )


def fitting_column(name: str, values: pa.ChunkedArray, kind: str | None, is_target: bool, order: Sequence[str]) -> Column:
    """`infer_column`, with BadInput for a type that nothing reads or that cannot be of the kind asked for; never a value."""
    try:
        column = infer_column(name, values, kind, is_target, order)
        if column.is_number:
            column.array(np.zeros(1))
        return column
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, TypeError):
        why = f"which cannot be of kind {kind}: give another kind" if kind else "which no generator reads: convert it"
        raise BadInput(f"column {name!r} has the type {values.type}, {why}, or drop it (--drop)") from None


def infer_column(name: str, values: pa.ChunkedArray, kind: str | None, is_target: bool, order: Sequence[str] = ()) -> Column:
    """One column's kind, type, grid, range and publishable categories, in the order given or that of an ordered dictionary."""
    arrow = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if pa.types.is_null(arrow) or values.null_count == len(values):
        what = "the target column" if is_target else "column"
        raise BadInput(
            f"{what} {name!r} is all null: there is nothing to learn; drop it" + (" or choose another target" if is_target else "")
        )
    if pa.types.is_large_string(arrow) or pa.types.is_string_view(arrow):
        arrow = pa.string()
    kind = kind or guess_kind(name, values, arrow, is_target)
    if kind in ("image", "mask", "style"):
        return infer_image(name, kind, values)
    column = Column(name, kind, str(arrow), nullable=values.null_count > 0)  # type: ignore[arg-type]
    if kind == "text":
        return infer_text(column, to_strings(values))
    if column.is_number:
        numbers = column.numbers(values)
        column = replace(column, nullable=bool(np.isnan(numbers).any()))
        numbers = numbers[~np.isnan(numbers)]
        if not len(numbers):
            raise BadInput(f"column {name!r} holds nothing but NaN: there is nothing to learn; drop it (--drop)")
        if np.isinf(numbers).any():
            raise BadInput(f"column {name!r} holds infinite values: replace them by numbers or by nulls")
        zone = arrow.tz if pa.types.is_timestamp(arrow) else None
        clock = wall(numbers, zone) if zone else numbers
        step = zoned_grid(numbers, clock, zone) if zone else grid(numbers, arrow)
        ends = np.array(round_outwards(clock, step))
        low, high = instant(ends, zone, ends) if zone else ends
        return replace(column, step=step, low=float(low), high=float(high))
    if kind in ("category", "boolean"):
        counts = pc.value_counts(column.strings(values).drop_null())
        found, often = counts.field("values"), counts.field("counts").to_numpy()
        if often[often < RARE].sum() > 0.5 * len(values):
            raise BadInput(
                f"column {name!r} has {len(found):,} different values, and most rows hold one that fewer than {RARE} rows share, which a "
                f"release must not repeat: leave it out (--drop {name}), make up new values of the same form (--kind {name}=id), or "
                f"replace it by something coarser, such as the first letters of a code"
            )
        kept = sorted(found.filter(pa.array(often >= RARE)).to_pylist())
        order = order or natural_order(values)
        if order:
            kept = in_order(name, kept, [str(value) for value in order])
        elif pa.types.is_integer(arrow) or pa.types.is_floating(arrow) or pa.types.is_decimal(arrow):
            kept.sort(key=float)
        return replace(column, categories=tuple(kept), ordered=bool(order) or not pa.types.is_string(arrow))
    return column


def infer_text(column: Column, texts: pa.Array) -> Column:
    """A column of texts: the language if they are code, and the most characters, rounded up."""
    most = round_outwards(np.array([0.0, pc.max(pc.utf8_length(texts)).as_py()]), 1.0)[1]
    return replace(column, language=language_of(texts.drop_null()), high=most)


def check_texts(name: str, texts: pa.Array) -> None:
    """BadInput names the first row whose text is empty or holds what no text should."""
    wrong = {
        "is empty": pc.equal(pc.utf8_trim_whitespace(texts), ""),
        "holds a control character other than tab and line breaks": pc.match_substring_regex(texts, CONTROL.pattern),
    }
    for what, rows in wrong.items():
        if (row := pc.index(rows, True).as_py()) >= 0:
            count = pc.sum(rows).as_py() - 1
            more = f", as in {count:,} more" if count else ""
            raise BadInput(f"column {name!r}: the text of row {row + 1:,} {what}{more}: leave such rows out, or the column (--drop)")


def infer_image(name: str, kind: str, values: pa.ChunkedArray) -> Column:
    """A column of images of one size, or of masks: their pixels' values are its categories. BadInput for mixed sizes, and for nulls.

    Images of kind `style` may be missing: there may be fewer of them.
    """
    from data.images import encoded, measures, pixels, shape_of

    missing = values.null_count
    if missing and kind != "style":
        raise BadInput(f"column {name!r} lacks {missing:,} images: leave those rows out")
    values = values.drop_null()
    try:
        shapes = Counter(shape_of(cell, row) for row, cell in enumerate(encoded(values)))
        if len(shapes) > 1:
            (one, _), (other, _) = shapes.most_common(2)
            raise BadInput(f"its images differ in size, {measures(one)} and {measures(other)}: bring them to one size (--size)")
        size = next(iter(shapes))
        if kind != "mask":
            return Column(name, kind, str(IMAGE_TYPE), nullable=missing > 0, size=size)  # type: ignore[arg-type]
        if size[0] != 1:
            raise BadInput("a mask has one channel, whose values are the classes: convert it")
        classes = np.unique(pixels(values))
        if len(classes) > MAX_MASK:
            raise BadInput(f"its pixels have {len(classes)} values, and a mask has at most {MAX_MASK} classes: give it the kind image")
    except BadInput as error:
        raise BadInput(f"column {name!r}: {error}") from None
    return Column(name, "mask", str(IMAGE_TYPE), categories=tuple(map(str, classes.tolist())), size=size)


def natural_order(values: pa.ChunkedArray) -> Sequence[str]:
    """The values of an ordered dictionary as text, in its order; empty for any other column."""
    if not pa.types.is_dictionary(values.type) or not values.type.ordered:
        return ()
    return dict.fromkeys(word for chunk in values.chunks for word in to_strings(chunk.dictionary).drop_null().to_pylist()).keys()  # type: ignore[return-value]


def in_order(name: str, kept: Sequence[str], order: Sequence[str]) -> list[str]:
    """The kept categories as they stand in the order. BadInput when it leaves one out."""
    place = {value: i for i, value in enumerate(order)}
    for value in kept:
        if value not in place:
            raise BadInput(f"the order of column {name!r} leaves out the value {value[:40]!r}: name every value that {RARE} rows share")
    return sorted(kept, key=place.__getitem__)


def guess_kind(name: str, values: pa.ChunkedArray, arrow: pa.DataType, is_target: bool) -> str:
    """The kind that a column's Arrow type, name and values suggest. BadInput for a type that cannot be modelled."""
    if pa.types.is_dictionary(values.type) and values.type.ordered:
        return "category"
    if pa.types.is_boolean(arrow):
        return "boolean"
    if pa.types.is_timestamp(arrow) or pa.types.is_date(arrow):
        return "datetime"
    if pa.types.is_struct(arrow) and {"bytes"} <= {f.name for f in arrow}:
        return "mask" if MASK_NAME.search(name) else "image"
    if pa.types.is_duration(arrow) or pa.types.is_time(arrow):
        return "integer"
    distinct = pc.count_distinct(values).as_py() if not pa.types.is_dictionary(values.type) else len(pc.unique(values.drop_null()))
    share = distinct / max(1, len(values) - values.null_count)
    if pa.types.is_integer(arrow):
        bounds = pc.min_max(values)
        sequential = bounds["max"].as_py() - bounds["min"].as_py() + 1 == distinct
        if not is_target and values.null_count == 0 and ((share == 1 and sequential) or (share > 0.5 and ID_NAME.search(name))):
            return "id"
        if is_target:
            return "category" if distinct <= MAX_CLASSES else "integer"
        if CODE_NAME.search(name):  # a code written in digits: nothing lies between two of them
            return "category" if mostly_shared(to_strings(values)) else "id"
        return "integer"
    if pa.types.is_floating(arrow) or pa.types.is_decimal(arrow):
        numbers = to_numbers(values)
        whole = bool(np.all(numbers[np.isfinite(numbers)] % 1 == 0))
        if whole and is_target and distinct <= MAX_CLASSES:
            return "category"
        return "integer" if whole else "number"
    if pa.types.is_string(arrow) or pa.types.is_large_string(arrow) or pa.types.is_string_view(arrow):
        strings = to_strings(values).drop_null()
        if distinct <= MAX_CLASSES and set(pc.utf8_lower(pc.unique(strings)).to_pylist()) in TRUTHS:
            return "boolean"
        words = pc.mean(pc.count_substring(strings, " ")).as_py() + 1
        if share > 0.5 and words < 2 and (share == 1 or ID_NAME.search(name)) and not is_target:
            return "id"
        return "text" if words >= 2 and not mostly_shared(to_strings(values)) else "category"
    raise BadInput(f"column {name!r} has the type {arrow}, which no generator reads: convert it, or drop it (--drop)")


def mostly_shared(strings: pa.Array) -> bool:
    """Do at most half of the rows hold a value that fewer than `RARE` rows share?"""
    counts = pc.value_counts(strings.drop_null()).field("counts").to_numpy()
    return bool(counts[counts < RARE].sum() <= 0.5 * len(strings))


def grid(numbers: np.ndarray, arrow: pa.DataType) -> float:
    """The largest sensible step of which every value is a whole multiple; 0 for continuous values."""
    if pa.types.is_date(arrow):
        return float(DAY)
    if pa.types.is_timestamp(arrow) or pa.types.is_duration(arrow) or pa.types.is_time(arrow):
        return float(next((s for s in TIMES if np.all(numbers % s == 0)), 1 if pa.types.is_timestamp(arrow) else 1e-3))
    if pa.types.is_integer(arrow):
        return 1.0
    blur = PRECISION.get(str(arrow), 1e-9)
    for decimals in range(9):
        scaled = numbers * 10.0**decimals
        if np.all(np.abs(scaled - np.rint(scaled)) <= blur * np.maximum(1, np.abs(scaled))):
            return float(f"1e-{decimals}")
    return 0.0


def zoned_grid(numbers: np.ndarray, clock: np.ndarray, zone: str) -> float:
    """The same for times in a zone by its clock on the wall, where a midnight that the zone skips is the next hour that it has."""
    return float(next((s for s in TIMES if np.array_equal(instant(np.rint(clock / s) * s, zone, numbers), numbers)), 1))


def round_outwards(numbers: np.ndarray, step: float) -> tuple[float, float]:
    """A range that holds every value and discloses no extreme: rounded outwards to two figures of the spread, and to the grid.

    That a quantity is never negative is no secret: such a range ends at zero.
    """
    low, high = float(numbers.min()), float(numbers.max())
    unit = max(step, 10.0 ** (math.floor(math.log10((high - low) or abs(high) or 1.0)) - 1))
    inner, outer = math.floor(low / unit - 1e-9) * unit, math.ceil(high / unit + 1e-9) * unit
    if step > 1:  # times: a power of ten is no whole number of days
        inner, outer = math.floor(inner / step) * step, math.ceil(outer / step) * step
    return (max(0.0, inner) if low >= 0 else inner), outer


def check_names(names: Sequence[str]) -> None:
    """BadInput unless every column name is there once, printable, short, and safe to show in any page or query."""
    for position, name in enumerate(names, 1):
        if not name.strip():
            raise BadInput(f"column {position} has an empty name: give it one")
        if len(name) > MAX_NAME:
            raise BadInput(f"the name of column {position} ({name[:20]}…) has {len(name):,} characters: rename it to at most {MAX_NAME}")
        if not name.isprintable():
            raise BadInput(f"the name of column {position} holds a line break or another control character: rename it")
        if re.search("[<>\"'`]", name):
            raise BadInput(f"the name of column {position} holds a quote or an angle bracket: rename it")
        if names.index(name) != position - 1:
            raise BadInput(f"two columns are called {name!r}: rename one")
