"""What the drivers share. A driver runs in its peer's own environment: this file needs pandas with pyarrow and no more.

python driver.py order.json       {"train", "out", "result", "rows", "seed", "target", "package", "parameters"}

A driver imports its peer first, then calls `run(fit, sample)`: fit(train, order) -> model, sample(model, rows, path) writes a parquet file.
CPU seconds are those of the process and its children, user and system, without the imports before `run`.
"""

import json
import os
import random
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

NULL = "<null>"
RATE_ROWS, QUICK = 200_000, 8.0  # a table that was drawn in fewer CPU seconds than this is drawn once more, larger, for the rate


def cpu() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def peak_mb() -> int:
    """The most memory this process held; getrusage would count what its parent held before exec."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return round(int(line.split()[1]) / 1024)


def read(path: str) -> pd.DataFrame:
    """Texts as plain objects with None for null, numbers as int64 or float64."""
    table = pd.read_parquet(path)
    for name in table:
        if not pd.api.types.is_numeric_dtype(table[name]):
            table[name] = table[name].astype(object).where(table[name].notna(), None)
    return table


def run(fit, sample) -> None:
    order = json.loads(Path(sys.argv[1]).read_text())
    random.seed(order["seed"])
    np.random.seed(order["seed"])
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(order["seed"])
        sys.modules["torch"].set_num_threads(1)
    found = {"version": version(order["package"]), "imports_s": round(cpu(), 2)}

    def tell(**more) -> None:
        found.update(more, peak_mb=peak_mb())
        Path(order["result"]).write_text(json.dumps(found))

    train = read(order["train"])
    began = cpu()
    model = fit(train, order)
    fitted = cpu()
    tell(fit_s=round(fitted - began, 2))
    sample(model, order["rows"], order["out"])
    drawn = cpu() - fitted
    tell(sample_s=round(drawn, 2), rate=order["rows"] / max(drawn, 0.01))
    if drawn < QUICK and order["rows"] < RATE_ROWS:
        fitted = cpu()
        sample(model, RATE_ROWS, order["out"] + ".rate")
        tell(rate=RATE_ROWS / (cpu() - fitted))
        Path(order["out"] + ".rate").unlink()


class Plain:
    """For peers that cannot read nulls: a null category is a word, a null number the median with a category of its own beside it."""

    def __init__(self, train: pd.DataFrame):
        self.names, self.whole = list(train), [n for n in train if pd.api.types.is_integer_dtype(train[n])]
        self.numbers = [n for n in train if pd.api.types.is_numeric_dtype(train[n])]
        self.gaps = [n for n in self.numbers if train[n].isna().any()]
        self.table = train.copy()
        for name in train:
            if name in self.gaps:
                self.table[f"{name} null"] = train[name].isna().map({True: "yes", False: "no"}).astype(object)
                self.table[name] = train[name].fillna(train[name].median())
            elif name not in self.numbers:
                self.table[name] = train[name].where(train[name].notna(), NULL).astype(object)

    def back(self, made: pd.DataFrame) -> pd.DataFrame:
        """A table like train: nulls put back, whole numbers whole."""
        made = made.copy()
        for name in self.names:
            if name in self.numbers:
                made[name] = pd.to_numeric(made[name]).astype(float)
            else:
                made[name] = made[name].astype(object).where(made[name] != NULL, None)
            if name in self.gaps:
                made.loc[made[f"{name} null"] == "yes", name] = np.nan
            if name in self.whole:
                made[name] = made[name].round()
        return made[self.names]


class Coded(Plain):
    """The same as a matrix of floats: categories by their number; `kinds` names each column's kind."""

    def __init__(self, train: pd.DataFrame):
        super().__init__(train)
        self.values = {n: pd.factorize(self.table[n])[1] for n in self.table if n not in self.numbers}
        self.columns = list(self.table)
        self.kinds = ["categorical" if n in self.values else "integer" if n in self.whole else "continuous" for n in self.columns]
        codes = {n: pd.Categorical(self.table[n], self.values[n]).codes if n in self.values else self.table[n] for n in self.columns}
        self.matrix = np.column_stack([np.asarray(codes[n], dtype=float) for n in self.columns])

    def table_of(self, matrix: np.ndarray) -> pd.DataFrame:
        made = pd.DataFrame(np.asarray(matrix, dtype=float), columns=self.columns)
        for name, values in self.values.items():
            made[name] = np.asarray(values, dtype=object)[made[name].round().clip(0, len(values) - 1).astype(int)]
        return self.back(made)
