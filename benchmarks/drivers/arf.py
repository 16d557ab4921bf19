"""arfpy, adversarial random forests, with its defaults."""

from arfpy import arf
from common import Plain, run


def fit(train, order):
    plain = Plain(train)
    model = arf.arf(plain.table, random_state=order["seed"], verbose=False)
    model.forde()
    return model, plain


run(fit, lambda model, rows, path: model[1].back(model[0].forge(rows)).to_parquet(path))
