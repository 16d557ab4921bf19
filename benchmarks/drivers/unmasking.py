"""UnmaskingTrees (utrees)."""

from common import Coded, run
from utrees import UnmaskingTrees


def fit(train, order):
    coded = Coded(train)
    model = UnmaskingTrees(random_state=order["seed"], xgboost_kwargs={"n_jobs": 1}, **order["parameters"])
    return model.fit(coded.matrix, quantize_cols=coded.kinds), coded


run(fit, lambda model, rows, path: model[1].table_of(model[0].generate(rows)).to_parquet(path))
