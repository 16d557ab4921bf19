"""ForestDiffusion, flow matching with boosted trees, with its defaults but one process."""

from common import Coded, run
from ForestDiffusion import ForestDiffusionModel


def fit(train, order):
    coded = Coded(train)
    sizes = {i: len(coded.values[n]) for i, n in enumerate(coded.columns) if n in coded.values}
    model = ForestDiffusionModel(
        coded.matrix,
        bin_indexes=[i for i, size in sizes.items() if size <= 2],
        cat_indexes=[i for i, size in sizes.items() if size > 2],
        int_indexes=[i for i, kind in enumerate(coded.kinds) if kind == "integer"],
        n_jobs=1,
        seed=order["seed"],
        **order["parameters"],
    )
    return model, coded


run(fit, lambda model, rows, path: model[1].table_of(model[0].generate(batch_size=rows)).to_parquet(path))
