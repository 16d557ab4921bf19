"""MOSTLY AI's TabularARGN with its defaults."""

from common import run
from mostlyai.engine import TabularARGN


def fit(train, order):
    return TabularARGN(random_state=order["seed"], device="cpu", verbose=0, **order["parameters"]).fit(train)


run(fit, lambda model, rows, path: model.sample(rows).to_parquet(path))
