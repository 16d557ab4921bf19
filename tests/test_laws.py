"""The laws of every generator, run on every line of the registry."""

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from data.errors import BadInput
from data.images import column as image_column
from data.schema import Dataset, Schema
from data.sources import read
from data.split import split
from generators import train as loop
from generators.base import Descending
from generators.fitted import Fitted
from generators.registry import get, make, name_of, names

torch.set_num_threads(1)

TINY = {"training": {"steps": 30, "batch": 64}}
SMALL = {
    "tabular/gmm": {"components": 4, "rounds": 1},
    "tabular/rbm": TINY | {"hidden": 8, "bins": 8},
    "tabular/autoencoder": TINY | {"hidden": 32, "latent": 4, "density": {"components": 4}},
    "tabular/vae": {"training": {"steps": 90, "batch": 64}, "hidden": 32, "latent": 4, "modes": 4},
    "tabular/gan": TINY | {"hidden": 32},
    "tabular/diffusion": TINY | {"hidden": 32, "depth": 1},
    "tabular/transformer": TINY | {"width": 16, "depth": 1, "heads": 2},
    "tabular/made": TINY,
    "sdv/ctgan": {"epochs": 1},
    "sdv/tvae": {"epochs": 1},
}
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
NEURAL = [name for name in names("tabular") if issubclass(get(name), Descending)]
PUBLISHABLE = [name for name in names("tabular") if get(name).publishable]
# marginal is the floor, copy the cheat; on so few rows SDV's CTGAN takes one step an epoch and learns nothing in the time of a test
LEARNERS = [name for name in names("tabular") if name not in ("tabular/marginal", "tabular/copy", "sdv/ctgan")]


def dataset(table: pa.Table, target: str | None = None, kinds: dict | None = None) -> Dataset:
    return Dataset.of(table, Schema.infer(table, target=target, kinds=kinds))


@cache
def penguins():
    """Real rows with nulls, categories, quantities and a column of few whole numbers."""
    source = read("penguins")
    return split(dataset(source.table, source.target), seed=0)


@cache
def everything() -> Dataset:
    """Every kind of column and type, with nulls; two planted people who stand out."""
    rng = np.random.default_rng(0)
    n = 400
    group = rng.integers(3, size=n)
    amount = np.round(rng.lognormal(3, 1, n), 2)
    amount[0], amount[1] = 987654.32, 0.0123456
    word = np.array(["red", "green", "blue"])[group].astype(object)
    word[:2] = "Rumpelstilzchen"
    moment = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=int(m)) for m in rng.integers(500_000, size=n)]
    hole = rng.random(n) < 0.25
    columns = {
        "key": pa.array([f"K-{i:05d}" for i in rng.choice(100_000, n, replace=False)]),
        "word": pa.array(word.tolist()),
        "flag": pa.array((rng.random(n) < 0.3).tolist(), mask=rng.random(n) < 0.1),
        "amount": pa.array(amount),
        "height": pa.array((group + rng.normal(size=n)).astype(np.float32), mask=hole),
        "count": pa.array(rng.poisson(200 * (group + 1)), pa.int16()),
        "price": pa.array([Decimal(int(v)) / 100 for v in rng.integers(100, 99999, size=n)], pa.decimal128(9, 2)),
        "day": pa.array(
            [date(2020, 1, 1) + timedelta(days=int(d)) for d in rng.integers(2000, size=n)], pa.date32(), mask=rng.random(n) < 0.2
        ),
        "moment": pa.array(moment, pa.timestamp("us", "Europe/Madrid")),
    }
    return dataset(pa.table(columns), "word")


@cache
def fitted(name: str) -> Fitted:
    """Each generator, barely trained, on the table of everything."""
    return make(name, SMALL.get(name, {})).fit(everything(), seed=0)


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


@pytest.mark.parametrize("name", names("tabular"))
def test_length_and_schema_are_as_asked(name):
    for n in (1, 70):
        made = fitted(name).sample(n, seed=1)
        assert len(made) == n
        assert made.schema == everything().schema
        assert made.table.schema.equals(everything().table.schema)


@pytest.mark.parametrize("name", names("tabular"))
def test_the_seed_decides_the_sample(name):
    model = fitted(name)
    assert model.sample(60, seed=1).table.equals(model.sample(60, seed=1).table)
    assert not model.sample(60, seed=1).table.equals(model.sample(60, seed=2).table)


@pytest.mark.parametrize("name", names("tabular"))
def test_the_seed_decides_the_model(name):
    again = make(name, SMALL.get(name, {})).fit(everything(), seed=0)
    assert again.sample(60, seed=1).table.equals(fitted(name).sample(60, seed=1).table)


@pytest.mark.parametrize("name", names("tabular"))
def test_a_saved_model_samples_the_same_rows(name, tmp_path):
    fitted(name).save(tmp_path)
    loaded = Fitted.load(tmp_path)
    assert name_of(type(loaded.generator)) == name
    assert loaded.generator == fitted(name).generator
    assert loaded.sample(60, seed=1).table.equals(fitted(name).sample(60, seed=1).table)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("name", NEURAL)
def test_a_resumed_run_is_the_same_run(name, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    recipe = make(name, SMALL.get(name, {}))
    whole = recipe.fit(everything(), seed=3)

    def kill(done, total, words):
        if done == 20:
            raise KilledError

    with pytest.raises(KilledError):
        recipe.fit(everything(), seed=3, folder=tmp_path, progress=kill)
    seen = []
    resumed = recipe.fit(everything(), seed=3, folder=tmp_path, progress=lambda done, total, words: seen.append(done))
    assert min(seen) > 10, "it began again"
    for key, tensor in whole.net.state_dict().items():
        assert torch.equal(tensor, resumed.net.state_dict()[key]), key
    assert whole.log["loss"] == resumed.log["loss"]


@pytest.mark.parametrize("name", names("tabular"))
def test_fit_leaves_its_input_alone(name):
    fitted(name)
    assert everything().table.equals(everything.__wrapped__().table)


@pytest.mark.parametrize("name", names("tabular"))
def test_it_refuses_what_its_codec_cannot_read(name):
    table = penguins().train.table
    words = [f"a sentence with number {i} in it" for i in range(len(table))]
    image = image_column([np.zeros((1, 4, 4), dtype=np.uint8)] * len(table))
    data = dataset(
        table.append_column("remark", pa.array(words)).append_column("photo", image), "sex", {"remark": "text", "photo": "image"}
    )
    with pytest.raises(BadInput, match=r"'remark'.*'photo'"):
        make(name, SMALL.get(name, {})).fit(data)


@pytest.mark.parametrize("name", LEARNERS)
def test_it_beats_the_floor(name):
    floor = np.mean([accuracy(make("tabular/marginal", {}).fit(penguins().train).sample(275, seed=s), penguins().test) for s in range(3)])
    assert floor < 0.5
    assert accuracy(learnt(name), penguins().test) > max(0.6, floor + 0.15)


def copies(made: Dataset, train: Dataset) -> float:
    """The share of rows that also stand in the training table."""
    known = {tuple(row.values()) for row in train.table.to_pylist()}
    return float(np.mean([tuple(row.values()) in known for row in made.table.to_pylist()]))


@pytest.mark.parametrize("name", [n for n in names("tabular") if n != "tabular/copy"])
def test_exact_copies_are_as_rare_as_among_real_rows(name):
    assert copies(learnt(name), penguins().train) <= copies(penguins().test, penguins().train) + 0.02


def test_the_copier_is_caught():
    assert copies(learnt("tabular/copy"), penguins().train) == 1


@pytest.mark.parametrize("name", names("tabular"))
def test_given_fixes_columns(name):
    made = fitted(name).sample(40, seed=0, given={"word": "green", "flag": True})
    assert len(made) == 40
    assert set(made.table["word"].to_pylist()) == {"green"}
    assert set(made.table["flag"].to_pylist()) == {True}
    with pytest.raises(BadInput, match="wrod"):
        fitted(name).sample(1, given={"wrod": "green"})
    with pytest.raises(BadInput, match="word"):
        fitted(name).sample(1, given={"word": "mauve"})


@pytest.mark.parametrize("name", names("tabular"))
def test_a_file_that_was_changed_is_refused(name, tmp_path):
    fitted(name).save(tmp_path)
    weights, text = (tmp_path / "model.safetensors").read_bytes(), (tmp_path / "model.json").read_text()
    model = json.loads(text)
    first = next(iter(load_file(tmp_path / "model.safetensors")))

    def broken(new_text: str | None, new_weights: bytes | None):
        for path, content in (("model.json", new_text and new_text.encode()), ("model.safetensors", new_weights)):
            (tmp_path / path).unlink(missing_ok=True)
            if content is not None:
                (tmp_path / path).write_bytes(content)
        with pytest.raises(BadInput) as caught:
            Fitted.load(tmp_path)
        assert "\n" not in str(caught.value)

    broken(text, None)
    broken(None, weights)
    broken(text[: len(text) // 2], weights)
    broken(text, weights[: len(weights) // 2])
    broken(text, weights[:-1] + bytes([weights[-1] ^ 1]))
    broken(json.dumps(model | {"format": 99}), weights)
    broken(json.dumps([]), weights)
    broken(json.dumps(model | {"generator": {"name": "os.system", "parameters": {}}}), weights)
    broken(json.dumps(model | {"codec": {}}), weights)
    tensors = load_file_from(weights, tmp_path)
    save_file({k: t for k, t in tensors.items() if k != first}, tmp_path / "fewer.safetensors")
    import hashlib

    fewer = (tmp_path / "fewer.safetensors").read_bytes()
    broken(json.dumps(model | {"sha256": hashlib.sha256(fewer).hexdigest()}), fewer)


def load_file_from(weights: bytes, folder):
    (folder / "copy.safetensors").write_bytes(weights)
    return load_file(folder / "copy.safetensors")


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


@pytest.mark.parametrize("name", names("tabular"))
def test_tables_of_one_kind_of_column(name):
    rng = np.random.default_rng(0)
    quantities = pa.table({"a": rng.normal(size=100), "b": rng.normal(size=100)})
    words = pa.table({"a": rng.choice(["x", "y"], 100), "b": rng.choice(["u", "v", "w"], 100)})
    for table in (quantities, words):
        assert len(make(name, SMALL.get(name, {})).fit(dataset(table), seed=0).sample(10)) == 10


@pytest.mark.parametrize("name", names("tabular"))
def test_chunks_are_the_sample(name, monkeypatch):
    from generators import fitted as module

    monkeypatch.setattr(module, "CELLS", 40 * len(everything().schema.columns))
    parts = list(fitted(name).stream(100, seed=5))
    assert [len(part) for part in parts] == [40, 40, 20]
    assert pa.concat_tables([p.table for p in parts]).combine_chunks().equals(fitted(name).sample(100, seed=5).table)
    assert len(set(pa.concat_tables([p.table for p in parts])["key"].to_pylist())) == 100 or not get(name).publishable
