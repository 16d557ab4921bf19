"""Column, Schema, Dataset and Split: what a table of draws from P(x, y) is made of.

A Schema says what each column means (its *kind*) and how it is stored (its Arrow *type*). It is inferred from a table and
can be overridden. It is published with every release, so it holds nothing that belongs to one row: categories that occur in
fewer than `RARE` rows are left out and ranges are rounded outwards.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.arrow import cast, hf_dtype, instant, parse_type, to_numbers, to_strings, wall
from data.errors import BadInput

Kind = Literal["number", "integer", "category", "boolean", "datetime", "id", "text", "image", "mask", "style"]
Task = Literal[
    "density",
    "classification",
    "regression",
    "segmentation",
    "image-to-image",
    "text-to-text",
    "translation",
    "text-to-code",
    "summarisation",
    "captioning",
]
Modality = Literal["tabular", "image", "text", "multimodal"]
KINDS: tuple[str, ...] = get_args(Kind)
WORDING: tuple[Task, ...] = ("text-to-text", "translation", "text-to-code", "summarisation")  # from a text to a text

LARGEST = 2**28  # bytes of an image
RARE = 5  # a value seen in fewer rows than this belongs to somebody: it is neither learnt nor published


@dataclass(frozen=True)
class Column:
    """One column. `type` is the Arrow type that a release stores; `low`/`high` are rounded outwards, in `numbers` units;
    of a text, `high` is the most characters.

    `step` is the grid of a quantity: values are whole multiples of it (0.01 for cents, 1 for integers, a day in microseconds for
    dates, on the clock of their zone); 0 means continuous. `ordered` says that `categories` stand in their natural order. `size` is that
    of every image: channels, height, width; the `categories` of a mask are the values of its pixels. `language` is that of a
    text that is code (`data.code`). An image of kind `style` shows how to draw, and belongs to its row by chance (`data.styles`).
    """

    name: str
    kind: Kind
    type: str
    nullable: bool = False
    categories: tuple[str, ...] = ()
    ordered: bool = False
    step: float = 0.0
    low: float | None = None
    high: float | None = None
    size: tuple[int, int, int] | None = None
    language: str = ""

    @property
    def arrow(self) -> pa.DataType:
        return parse_type(self.type)

    @property
    def is_number(self) -> bool:
        """Does `numbers` give a quantity with an order and a distance?"""
        return self.kind in ("number", "integer", "datetime")

    def numbers(self, values: pa.ChunkedArray | pa.Array) -> np.ndarray:
        """float64 [n]: the quantity itself, microseconds since 1970 (UTC) for dates, microseconds for durations; NaN where null."""
        return to_numbers(values)

    def strings(self, values: pa.ChunkedArray | pa.Array) -> pa.Array:
        """string [n]: a category's spelling, null where null."""
        return to_strings(values)

    def array(self, numbers: np.ndarray, null: np.ndarray | None = None) -> pa.Array:
        """The inverse of `numbers`: float64 [n] put on the column's grid and into its Arrow type."""
        kind = self.arrow
        if self.step and pa.types.is_timestamp(kind) and kind.tz:  # the grid is that of the clock on the wall
            numbers = instant(np.rint(wall(numbers, kind.tz) / self.step) * self.step, kind.tz, numbers)
        elif self.step:
            numbers = np.rint(numbers / self.step) * self.step
            if self.step < 1:
                numbers = np.round(numbers, max(0, -math.floor(math.log10(self.step) + 1e-9)))
        if pa.types.is_floating(kind):
            return pa.array(numbers, mask=null).cast(kind)
        if pa.types.is_decimal(kind):
            return pa.array(np.round(numbers, kind.scale), mask=null).cast(kind, safe=False)
        if pa.types.is_integer(kind):
            bounds = np.iinfo(kind.to_pandas_dtype())
            whole = np.clip(numbers, bounds.min, min(bounds.max, 2**63 - 1024))
            return pa.array(np.rint(whole).astype(np.int64), mask=null).cast(kind, safe=False)
        if (pa.types.is_duration(kind) or pa.types.is_time(kind)) and kind.unit == "ns":
            return pa.array(np.rint(numbers * 1000).astype(np.int64), mask=null).cast(kind)
        whole = pa.array(np.rint(numbers).astype(np.int64), mask=null)
        if pa.types.is_date(kind):
            return whole.cast(pa.timestamp("us")).cast(kind, safe=False)
        if pa.types.is_timestamp(kind):
            return whole.cast(pa.timestamp("us", tz=kind.tz)).cast(kind, safe=False)
        if pa.types.is_duration(kind):
            return whole.cast(pa.duration("us")).cast(kind, safe=False)
        if pa.types.is_time(kind):
            return whole.cast(pa.time64("us")).cast(kind, safe=False)
        raise TypeError(f"column {self.name!r} of type {self.type} does not hold numbers")


def sound(column: Column) -> Column:
    """The column, which a file describes. TypeError or ValueError when there can be none like it."""
    words = (column.name, column.type, column.language, *column.categories)
    bounds = (column.step, *(bound for bound in (column.low, column.high) if bound is not None))
    if not all(isinstance(word, str) for word in words) or not all(isinstance(bound, (int, float)) for bound in bounds):
        raise TypeError(column.name)
    images = column.kind in ("image", "mask", "style")
    if (
        column.kind not in KINDS
        or images != (column.size is not None)
        or not all(math.isfinite(bound) for bound in bounds)
        or column.step < 0
    ):
        raise ValueError(column.name)
    if column.size and (len(column.size) != 3 or not all(type(side) is int and side > 0 for side in column.size)):
        raise TypeError(column.name)
    if math.prod(column.size or ()) > LARGEST:
        raise ValueError(column.name)
    if column.categories:
        cast(pa.chunked_array([column.categories], pa.string()), pa.int64() if column.kind == "mask" else column.arrow)
    return column


@dataclass(frozen=True)
class Constraint:
    """A rule that every row keeps (`data.constraints`): a condition as text, or a rule about columns.

    `values` are the combinations that may occur, as text, those of fewer than `RARE` rows left out.
    """

    kind: Literal["condition", "unique", "combinations", "increasing"]
    text: str = ""
    columns: tuple[str, ...] = ()
    values: tuple[tuple[str | None, ...], ...] = ()


@dataclass(frozen=True)
class Schema:
    """What a dataset means: its columns in order, the target y (None: only P(x)), the task that joins x and y, and rules on its rows."""

    task: Task
    target: str | None
    columns: tuple[Column, ...]
    constraints: tuple[Constraint, ...] = ()

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def modality(self) -> Modality:
        """What a row is: cells of a table, an image with its label or mask, texts, or an image with a text."""
        kinds = {column.kind for column in self.columns}
        if kinds & {"image", "mask", "style"}:
            return "multimodal" if "text" in kinds else "image"
        return "text" if "text" in kinds else "tabular"

    @property
    def drawn(self) -> Schema:
        """The schema of rows that are drawn: of image to image those without the photographs, an image of the style in their place.

        Their target is what is known of the photographs: their mask, their label, or nothing.
        """
        if self.task != "image-to-image":
            return self
        columns = tuple(c for c in self.columns if c.name != self.target)
        of: dict[str, Task] = {"mask": "segmentation", "category": "classification", "boolean": "classification"}
        target = next((c for kind in of for c in columns if c.kind == kind), None)
        return Schema(of[target.kind] if target else "density", target.name if target else None, columns)

    @property
    def arrow(self) -> pa.Schema:
        """The Arrow schema that a release stores, with the Hugging Face key that makes images and labels decode."""
        fields = [pa.field(c.name, c.arrow) for c in self.columns]
        if self.modality not in ("image", "multimodal"):
            return pa.schema(fields)
        features = {c.name: feature(c) for c in self.columns}
        return pa.schema(fields, metadata={b"huggingface": json.dumps({"info": {"features": features}}).encode()})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Schema:
        """What `to_json` gave. TypeError, ValueError or KeyError for anything else."""
        columns = tuple(
            sound(Column(**c | {"categories": tuple(c["categories"]), "size": c.get("size") and tuple(c["size"])})) for c in spec["columns"]
        )
        rules = tuple(
            Constraint(c["kind"], c["text"], tuple(c["columns"]), tuple(tuple(v) for v in c["values"])) for c in spec.get("constraints", ())
        )
        schema = cls(task=spec["task"], target=spec["target"], columns=columns, constraints=rules)
        if schema.task not in get_args(Task) or len(set(schema.names)) < len(columns) or schema.target not in (None, *schema.names):
            raise ValueError("task, target or names")
        return schema

    @classmethod
    def infer(
        cls,
        table: pa.Table,
        *,
        target: str | None = None,
        kinds: Mapping[str, str] | None = None,
        orders: Mapping[str, Sequence[str]] | None = None,
        task: Task | None = None,
    ) -> Schema:
        """The schema of a table; `kinds` and `task` override what is guessed, `orders` gives categories their order, as text.

        BadInput names the column that cannot be used.
        """
        from data.infer import infer_schema

        return infer_schema(table, target, dict(kinds or {}), dict(orders or {}), task)


@dataclass(frozen=True)
class Dataset:
    """A table of draws from P(x, y) with its schema; columns stand in the schema's order and types."""

    schema: Schema
    table: pa.Table

    def __post_init__(self) -> None:
        if self.table.column_names != self.schema.names:
            raise BadInput(f"the table's columns are {self.table.column_names}, the schema says {self.schema.names}")

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def x(self) -> pa.Table:
        """Every column but the target."""
        return self.table if self.schema.target is None else self.table.drop_columns([self.schema.target])

    @property
    def y(self) -> pa.ChunkedArray:
        """The target column."""
        if self.schema.target is None:
            raise BadInput("this dataset has no target column")
        return self.table[self.schema.target]

    def take(self, rows: np.ndarray) -> Dataset:
        """The rows at these positions (int [m]) or where this mask (bool [n]) is true."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return Dataset(self.schema, self.table.take(pa.array(rows)))

    @classmethod
    def of(cls, table: pa.Table, schema: Schema) -> Dataset:
        """A table cast to a schema: columns chosen, ordered and typed as it says. BadInput names what is missing or unfit."""
        missing = [name for name in schema.names if name not in table.column_names]
        if missing:
            raise BadInput(f"the table lacks column {missing[0]!r}, which the schema has")
        arrays = []
        for column in schema.columns:
            try:
                arrays.append(cast(table[column.name], column.arrow))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                raise BadInput(f"column {column.name!r} is {table[column.name].type}, which does not fit {column.type}") from None
        return cls(schema, pa.table(arrays, schema=schema.arrow))

    def save(self, path: Path) -> None:
        """One parquet file that holds the rows and, in its footer, the schema."""
        meta = {**(self.table.schema.metadata or {}), b"alfar.schema": json.dumps(self.schema.to_json()).encode()}
        pq.write_table(self.table.replace_schema_metadata(meta), path, compression="zstd", row_group_size=100_000)

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """What `save` wrote."""
        table = pq.read_table(path)
        return cls(Schema.from_json(json.loads(table.schema.metadata[b"alfar.schema"])), table)


def feature(column: Column) -> dict[str, Any]:
    """A column as the Hugging Face key describes it: labels that are 0, 1, 2, … have names."""
    if column.kind in ("image", "mask", "style"):
        return {"_type": "Image"}
    if (
        column.kind == "category"
        and pa.types.is_integer(column.arrow)
        and column.categories == tuple(map(str, range(len(column.categories))))
    ):
        return {"names": list(column.categories), "_type": "ClassLabel"}
    return {"dtype": hf_dtype(column.arrow), "_type": "Value"}


class Split(NamedTuple):
    """A generator sees `train`; `test` is what everything is scored on."""

    train: Dataset
    test: Dataset
