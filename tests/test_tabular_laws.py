"""The laws of generators of tables alone: a joint is learnt, copies are rare, and nobody who stands out is given away."""

from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from data.schema import Dataset
from data.sources import read
from data.split import split
from generators.registry import get, make
from tests.small import SMALL, dataset, each, everything, fitted

torch.set_num_threads(1)

ENOUGH = {  # what it takes to learn a joint of a few hundred rows
    "tabular/rbm": {"training": {"steps": 400, "batch": 64, "lr": 1e-2}, "hidden": 32, "bins": 16},
    "tabular/autoencoder": {"training": {"steps": 400, "batch": 64, "lr": 5e-3}, "hidden": 64, "latent": 4},
    "tabular/transformer": {"training": {"steps": 300, "batch": 64, "lr": 5e-3, "patience": 0}, "width": 32},
    "tabular/gan": {"training": {"steps": 600, "batch": 128, "lr": 2e-3}, "hidden": 64, "depth": 2},
    "tabular/vae": {"training": {"steps": 500, "batch": 64, "lr": 5e-3}, "hidden": 64, "depth": 2, "modes": 16, "warm_up": 100},
    "tabular/diffusion": {"training": {"steps": 300, "batch": 64}, "hidden": 64, "depth": 2},
    "sdv/ctgan": {"epochs": 1},
    "sdv/tvae": {"epochs": 100},
}
NAMES = each("tabular")
PUBLISHABLE = [name for name in NAMES if get(name.values[0]).publishable]
# marginal is the floor, copy the cheat; on so few rows SDV's CTGAN takes one step an epoch and learns nothing in the time of a test
LEARNERS = [name for name in NAMES if name.values[0] not in ("tabular/marginal", "tabular/copy", "sdv/ctgan")]


@cache
def penguins():
    """Real rows with nulls, categories, quantities and a column of few whole numbers."""
    source = read("penguins")
    return split(dataset(source.table, source.target), seed=0)


@cache
def learnt(name: str) -> Dataset:
    """As many rows as there are penguins to learn from, by a generator that was trained enough."""
    return make(name, ENOUGH.get(name, {})).fit(penguins().train, seed=0).sample(len(penguins().train), seed=0)


def accuracy(train: Dataset, test: Dataset) -> float:
    """A judge's balanced accuracy on real rows."""
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.metrics import balanced_accuracy_score

    frame = [part.table.to_pandas() for part in (train, test)]
    y = [part.pop("species") for part in frame]
    x = [
        part.assign(island=part["island"].astype(str).map(hash_word), sex=part["sex"].astype(str).map(hash_word)).fillna(-1)
        for part in frame
    ]
    return float(balanced_accuracy_score(y[1], ExtraTreesClassifier(100, random_state=0).fit(x[0], y[0]).predict(x[1])))


def hash_word(word: str) -> int:
    return sum(ord(letter) for letter in word)


@pytest.mark.parametrize("name", LEARNERS)
def test_it_beats_the_floor(name):
    floor = np.mean([accuracy(make("tabular/marginal", {}).fit(penguins().train).sample(275, seed=s), penguins().test) for s in range(3)])
    assert floor < 0.5
    assert accuracy(learnt(name), penguins().test) > max(0.6, floor + 0.15)


def copies(made: Dataset, train: Dataset) -> float:
    """The share of rows that also stand in the training table."""
    known = {tuple(row.values()) for row in train.table.to_pylist()}
    return float(np.mean([tuple(row.values()) in known for row in made.table.to_pylist()]))


@pytest.mark.parametrize("name", [name for name in NAMES if name.values[0] != "tabular/copy"])
def test_exact_copies_are_as_rare_as_among_real_rows(name):
    assert copies(learnt(name), penguins().train) <= copies(penguins().test, penguins().train) + 0.02


def test_the_copier_is_caught():
    assert copies(learnt("tabular/copy"), penguins().train) == 1


@pytest.mark.parametrize("name", PUBLISHABLE)
def test_a_model_file_holds_no_training_row(name, tmp_path):
    fitted(name).save(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes() + (tmp_path / "model.json").read_bytes()
    for word in ("Rumpelstilzchen", "987654", "0.0123456", everything().table["key"][0].as_py()):
        assert word.encode() not in whole
    people = len(everything())
    for key, tensor in load_file(tmp_path / "model.safetensors").items():
        numbers = tensor.double().flatten()
        assert not torch.isclose(numbers, torch.tensor(987654.32, dtype=torch.float64), rtol=1e-4).any(), key
        assert not (numbers - 0.0123456).abs().lt(1e-7).any(), key
        assert people not in tensor.shape, f"{key} has an entry a row"


@pytest.mark.parametrize("name", PUBLISHABLE)
def test_no_row_gives_the_planted_people_away(name):
    made = fitted(name).sample(5000, seed=0).table
    assert "Rumpelstilzchen" not in set(made["word"].to_pylist())
    assert 987654.32 not in set(made["amount"].to_pylist())
    assert not set(made["key"].to_pylist()) - {f"K-{i:05d}" for i in range(100_000)}
    assert len(set(made["key"].to_pylist())) == len(made)


@pytest.mark.parametrize("name", ["tabular/marginal", "tabular/gmm", "tabular/made", "tabular/diffusion", "tabular/vae"])
def test_values_keep_their_grid_and_nulls_their_share(name):
    made, real = fitted(name).sample(4000, seed=0).table, everything().table
    for column in real.column_names:
        share, expected = (t[column].null_count / len(t) for t in (made, real))
        assert abs(share - expected) < 0.15, column
        assert (share > 0) == (expected > 0), column
    numbers = made["amount"].to_numpy()
    assert np.allclose(numbers, np.round(numbers, 7))
    assert all(value == round(value, 2) for value in made["price"].to_pylist())
    assert made["moment"].type == pa.timestamp("us", "Europe/Madrid")
    assert all(m.second == m.microsecond == 0 for m in made["moment"].to_pylist())


@pytest.mark.parametrize("name", NAMES)
def test_tables_of_one_kind_of_column(name):
    rng = np.random.default_rng(0)
    quantities = pa.table({"a": rng.normal(size=100), "b": rng.normal(size=100)})
    words = pa.table({"a": rng.choice(["x", "y"], 100), "b": rng.choice(["u", "v", "w"], 100)})
    for table in (quantities, words):
        assert len(make(name, SMALL.get(name, {})).fit(dataset(table), seed=0).sample(10)) == 10
