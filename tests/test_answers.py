"""Nulls of texts and images, filled by every generator that can: labels, answers, what was asked, captions and images."""

from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from data.errors import BadInput
from data.images import column, pixels
from data.schema import Dataset, Schema
from flows.cli import main
from generators.base import Answering, Completing, Naming, Translating
from generators.fitted import Fitted
from generators.registry import get, make, names

RECIPES = {
    "image/gmm": {},
    "image/rbm": {"training": {"epochs": 10}},
    "image/chipgan": {"training": {"steps": 2, "batch": 4}},
    "text/gpt": {"width": 32, "depth": 2, "dropout": 0.0, "training": {"steps": 400, "batch": 64, "lr": 4e-3}},
    "text/transformer": {"width": 32, "heads": 2, "dropout": 0.0, "training": {"steps": 150, "batch": 32, "lr": 4e-3}},
    "multimodal/caption_image": {"codes": 32, "coding": 0.4, "hidden": 16, "width": 32, "depth": 1, "training": {"steps": 30, "batch": 32}},
}
FILLING = [n for n in names() if issubclass(get(n), Answering | Naming | Translating) and not issubclass(get(n), Completing)]
TOPICS = {"send": ["mail", "parcel", "letter"], "play": ["song", "film", "game"], "cook": ["soup", "rice", "fish"]}


@cache
def labelled(name: str) -> Dataset:
    """Utterances with what they are about, or images of a bright half with its side."""
    rng = np.random.default_rng(0)
    if get(name).codec.noun == "text":
        kinds = rng.choice(list(TOPICS), 300)
        said = [f"please {kind} the {rng.choice(TOPICS[kind])} {rng.choice(['now', 'today', 'later'])}" for kind in kinds]
        table = pa.table({"said": said, "topic": kinds})
        return Dataset.of(table, Schema.infer(table, target="topic", kinds={"said": "text"}))
    sides = rng.integers(2, size=300)
    x = rng.integers(0, 60, (300, 1, 6, 6)).astype(np.uint8)
    for image, side in zip(x, sides, strict=True):
        image[0, :, 3 * side : 3 * side + 3] += 180
    table = pa.table({"image": column(x), "side": np.array(["left", "right"])[sides]})
    return Dataset.of(table, Schema.infer(table, target="side"))


@cache
def paired(name: str) -> Dataset:
    """Orders with what is done on them, or images of a bright half and what is said of them."""
    rng = np.random.default_rng(0)
    if get(name).codec.noun == "text":
        things = rng.choice([thing for things in TOPICS.values() for thing in things], 300)
        table = pa.table({"ask": [f"where is the {thing}" for thing in things], "told": [f"{thing} is here" for thing in things]})
        return Dataset.of(table, Schema.infer(table, target="told", kinds={"ask": "text", "told": "text"}, task="translation"))
    data = labelled("image/gmm")
    table = pa.table({"image": data.table["image"], "caption": [f"the {side} half" for side in data.y.to_pylist()]})
    return Dataset.of(table, Schema.infer(table, target="caption", kinds={"caption": "text"}))


@cache
def fitted(name: str, kind: str) -> Fitted:
    return make(name, RECIPES[name]).fit({"labelled": labelled, "paired": paired}[kind](name), seed=0)


def without(data: Dataset, name: str, rows: np.ndarray) -> Dataset:
    """The data with nulls in a column."""
    place = data.schema.names.index(name)
    values = pa.array(data.table[name].to_pylist(), data.table.schema.field(name).type)
    gone = values.take(pa.array(np.arange(len(data)), mask=rows))
    return Dataset(data.schema, data.table.set_column(place, data.table.schema.field(name), gone))


def test_every_generator_that_fills_is_tried():
    assert sorted(RECIPES) == sorted(FILLING)


@pytest.mark.parametrize("name", [n for n in FILLING if issubclass(get(n), Naming)])
def test_labels_are_named(name):
    data = labelled(name)
    rows = np.arange(len(data)) % 3 == 0
    found = fitted(name, "labelled").impute(without(data, data.schema.target, rows))
    assert found.table.drop_columns([data.schema.target]).equals(data.table.drop_columns([data.schema.target]))
    right = np.array(found.y.to_pylist()) == np.array(data.y.to_pylist())
    assert right[~rows].all(), "what is there stays"
    assert right.mean() > 0.95


@pytest.mark.parametrize("name", [n for n in FILLING if issubclass(get(n), Naming)])
def test_the_posterior_is_a_distribution(name):
    model = fitted(name, "labelled")
    x, y = model.codec.encode(labelled(name), np.random.default_rng(0))
    with torch.inference_mode():
        p = model.generator.posterior(model.net, x)
    assert p.shape == (len(y), len(model.codec.shares))
    assert torch.allclose(p.sum(1).double(), torch.ones(len(y)).double(), atol=1e-4)


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize("name", [n for n in FILLING if issubclass(get(n), Answering)])
def test_either_half_of_a_pair_is_made_of_the_other(name, way):
    data = paired(name)
    lost, kept = data.schema.names[way], data.schema.names[1 - way]
    rows = np.arange(len(data)) % 3 == 0
    model, gone = fitted(name, "paired"), without(data, lost, rows)
    found = model.impute(gone, seed=1)
    assert found.table[kept].equals(data.table[kept])
    assert found.table.filter(pa.array(~rows)).equals(data.table.filter(pa.array(~rows)))
    assert not found.table[lost].null_count
    assert found.table.equals(model.impute(gone, seed=1).table)
    if data.schema[lost].kind == "text" and get(name).codec.noun == "text":
        right = np.array(found.table[lost].to_pylist()) == np.array(data.table[lost].to_pylist())
        assert right[rows].mean() > 0.8


@pytest.mark.parametrize("name", [n for n in FILLING if issubclass(get(n), Translating)])
def test_photographs_are_drawn_in_the_style(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photographs = labelled("image/gmm").table.slice(0, 60)
    style = column(np.random.default_rng(1).integers(0, 255, (60, 1, 6, 6)).astype(np.uint8))
    table = photographs.append_column("style", style)
    model = make(name, RECIPES[name]).fit(Dataset.of(table, Schema.infer(table, target="style", kinds={"style": "style"})), seed=0)
    model.save(tmp_path / "model")
    pq.write_table(photographs, "asked.parquet")
    assert main(["impute", "model", "asked.parquet", "--to", "drawn.parquet"]) == 0
    found, drawn = pq.read_table("drawn.parquet"), model.translate(Dataset.of(photographs, model.schema)).table["image"].to_pylist()
    assert found.drop_columns(["style"]).equals(photographs)
    assert found["style"].to_pylist() == drawn
    gaps = style.take(pa.array(np.arange(60), mask=np.arange(60) > 40))
    some = model.impute(Dataset.of(photographs.append_column("style", gaps), model.read))
    assert some.table["style"].to_pylist() == style.to_pylist()[:41] + drawn[41:]


def test_what_cannot_be_filled_is_said():
    model, data = fitted("text/gpt", "labelled"), labelled("text/gpt")
    rows = np.arange(len(data)) == 4
    with pytest.raises(BadInput, match="row 4 lacks 'said'; the model fills 'topic'"):
        model.impute(without(data, "said", rows))
    alone = labelled("text/gpt").table.select(["said"])
    bare = make("text/gpt", {"training": {"steps": 1}}).fit(Dataset.of(alone, Schema.infer(alone, kinds={"said": "text"})), seed=0)
    with pytest.raises(BadInput, match="fills nothing"):
        bare.impute(Dataset.of(pa.table({"said": pa.nulls(2, pa.string())}), bare.schema))
    long = pa.table({"said": ["now " * 400], "topic": pa.nulls(1, pa.string())})
    with pytest.raises(BadInput, match="1 of 1 rows are longer"):
        model.impute(Dataset.of(long, model.schema))
    other = pa.table({"image": column(np.zeros((1, 1, 8, 8), np.uint8)), "side": pa.nulls(1, pa.string())})
    with pytest.raises(BadInput, match="8×8 grey, not 6×6 grey"):
        fitted("image/gmm", "labelled").impute(Dataset.of(other, labelled("image/gmm").schema))


def test_who_cannot_fill_says_who_can():
    data = labelled("image/gmm")
    with pytest.raises(BadInput, match=r"image/vae cannot fill nulls.*image/gmm, image/rbm"):
        make("image/vae", {"training": {"steps": 1}}).fit(data, seed=0).impute(data)


def test_captions_become_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fitted("multimodal/caption_image", "paired").save(tmp_path / "model")
    pa.csv.write_csv(pa.table({"caption": ["the left half", "the right half"] * 30}), "told.csv")
    assert main(["impute", "model", "told.csv", "--to", "drawn.parquet"]) == 0
    found = pq.read_table("drawn.parquet")
    assert pixels(found["image"]).shape == (60, 1, 6, 6)
    assert found["caption"].to_pylist() == ["the left half", "the right half"] * 30


@pytest.mark.parametrize("name", ["text/gpt", "image/gmm"])
def test_the_command_adds_the_target_that_a_table_lacks(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data, target = labelled(name), labelled(name).schema.target
    fitted(name, "labelled").save(tmp_path / "model")
    pq.write_table(data.table.drop_columns([target]).append_column("note", pa.array(["kept"] * len(data))), "asked.parquet")
    assert main(["impute", "model", "asked.parquet", "--to", "named.parquet"]) == 0
    found = pq.read_table("named.parquet")
    assert found["note"].to_pylist() == ["kept"] * len(data)
    assert np.mean(np.array(found[target].to_pylist()) == np.array(data.y.to_pylist())) > 0.95
    assert f"filled {len(data)} cells in 1 columns" in capsys.readouterr().out
