"""SDV's single-table synthesisers: the class is parameters["kind"], the rest are its arguments."""

import pandas as pd
from common import run
from sdv import single_table
from sdv.metadata import Metadata


def fit(train, order):
    given = dict(order["parameters"])
    kind = given.pop("kind")
    columns = {n: {"sdtype": "numerical" if pd.api.types.is_numeric_dtype(train[n]) else "categorical"} for n in train}
    metadata = Metadata.load_from_dict({"METADATA_SPEC_VERSION": "V2", "tables": {"t": {"columns": columns}}, "relationships": []})
    model = getattr(single_table, kind)(metadata, **given)
    model.fit({"t": train})
    return model


run(fit, lambda model, rows, path: model.sample(rows)["t"].to_parquet(path))
