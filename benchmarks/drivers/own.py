"""Alfar's own generators; sampling streams into parquet as a release is written."""

import shutil
from pathlib import Path

import pyarrow as pa
import torch  # noqa: F401
from common import run

from data.rows import write_rows
from data.schema import Dataset, Schema
from generators.registry import get, make


def fit(train, order):
    table = pa.Table.from_pandas(train, preserve_index=False)
    schema = Schema.infer(table, target=order["target"])
    recipe = make(order["parameters"]["generator"], order["parameters"].get("parameters", {}))
    return recipe.fit(Dataset.of(table, schema), seed=order["seed"]), order["seed"]


def sample(model, rows, path):
    fitted, seed = model
    folder = Path(path + ".parts")
    (part,) = write_rows(folder, fitted.stream(rows, seed=seed), rows=rows, provenance={})
    part.rename(path)
    shutil.rmtree(folder)


get("tabular/made")
run(fit, sample)
