"""The laws of every text generator, run on every "text/" line of the registry: labelled texts, pairs of texts, and texts alone.

The corpus is real: the first lines of the docstrings of a few modules of Python's library, with the module as label.
"""

import importlib
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch

from data.errors import BadInput
from data.schema import Dataset, Schema
from data.sources import read
from data.split import split
from data.texts import keys
from evaluators.text import tfidf
from generators import fitted as module
from generators import train as loop
from generators.base import Descending
from generators.codecs.text import FIRST, PAD, TextCodec
from generators.fitted import Fitted
from generators.registry import get, make, name_of, names

TEXT = names("text")
NEURAL = [name for name in TEXT if issubclass(get(name), Descending)]
MODULES = (
    "os",
    "math",
    "socket",
    "subprocess",
    "statistics",
    "shutil",
    "tarfile",
    "turtle",
    "unittest.mock",
    "email.message",
    "ast",
    "random",
)
ODD = ["  ok ", "שלום עולם", "👩‍👩‍👧 🎉", "a\tbc\r\nd", "<|sep|> BOS [EOS] \ufffe", "e\u0301 \u202eback", "x"]


def small(name: str) -> dict:
    """Parameters with which a fit takes a second or two."""
    return {"width": 16, "training": {"steps": 30, "batch": 32}} if name in NEURAL else {}


@cache
def documented() -> list[tuple[str, str, str]]:
    """(what is documented, its first line, its module), a few hundred."""
    found = []
    for name in MODULES:
        for what, thing in vars(importlib.import_module(name)).items():
            lines = (getattr(thing, "__doc__", None) or "").strip().splitlines() if callable(thing) else []
            if lines and not what.startswith("_"):
                found.append((what, lines[0][:60], name))
    return [row for row in found if len(row[1]) < 40][::3][:200]


def table(**columns: list[str]) -> pa.Table:
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


@cache
def labelled() -> Dataset:
    found = table(text=[line for _, line, _ in documented()], module=[name for _, _, name in documented()])
    schema = Schema.infer(found, target="module", kinds={"text": "text", "module": "category"})
    return kept(Dataset.of(found, schema))


def kept(data: Dataset) -> Dataset:
    """The rows whose label is frequent enough to be learnt."""
    return data.take(np.isin(data.y.to_pylist(), data.schema["module"].categories))


@cache
def pairs() -> Dataset:
    found = table(name=[what for what, _, _ in documented()], text=[line for _, line, _ in documented()])
    return Dataset.of(found, Schema.infer(found, target="text", kinds={"name": "text", "text": "text"}, task="text-to-text"))


@cache
def alone() -> Dataset:
    found = table(text=[line for _, line, _ in documented()])
    return Dataset.of(found, Schema.infer(found, kinds={"text": "text"}))


KINDS = {"labelled": labelled, "pairs": pairs, "alone": alone}


@cache
def fitted(name: str, kind: str = "labelled") -> Fitted:
    return make(name, small(name)).fit(KINDS[kind](), seed=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEXT)
def test_length_and_schema_are_as_asked(name, kind):
    for n in (1, 30):
        made = fitted(name, kind).sample(n, seed=1)
        assert len(made) == n
        assert made.schema == KINDS[kind]().schema
        assert made.table.schema.equals(KINDS[kind]().table.schema, check_metadata=True)
        assert all(text.strip() for c in made.schema.columns if c.kind == "text" for text in made.table[c.name].to_pylist())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEXT)
def test_the_seed_decides_the_sample(name, kind):
    model = fitted(name, kind)
    assert model.sample(20, seed=1).table.equals(model.sample(20, seed=1).table)
    assert not model.sample(20, seed=1).table.equals(model.sample(20, seed=2).table)


@pytest.mark.parametrize("name", TEXT)
def test_the_seed_decides_the_model(name):
    again = make(name, small(name)).fit(labelled(), seed=0)
    for key, tensor in fitted(name).net.state_dict().items():
        assert torch.equal(tensor, again.net.state_dict()[key]), key


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEXT)
def test_a_saved_model_samples_the_same_rows(name, kind, tmp_path):
    fitted(name, kind).save(tmp_path)
    loaded = Fitted.load(tmp_path)
    assert name_of(type(loaded.generator)) == name
    assert loaded.sample(20, seed=1).table.equals(fitted(name, kind).sample(20, seed=1).table)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("name", NEURAL)
def test_a_resumed_run_is_the_same_run(name, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    recipe = make(name, small(name))

    def kill(done, total, words):
        if done == 20:
            raise KilledError

    with pytest.raises(KilledError):
        recipe.fit(labelled(), seed=0, folder=tmp_path, progress=kill)
    resumed = recipe.fit(labelled(), seed=0, folder=tmp_path)
    for key, tensor in fitted(name).net.state_dict().items():
        assert torch.equal(tensor, resumed.net.state_dict()[key]), key


@pytest.mark.parametrize("name", TEXT)
def test_given_fixes_the_label(name):
    made = fitted(name).sample(12, seed=0, given={"module": "os"})
    assert made.table["module"].to_pylist() == ["os"] * 12
    made = fitted(name).sample(12, seed=0, where="module in ('os', 'socket')")
    assert set(made.table["module"].to_pylist()) <= {"os", "socket"}
    with pytest.raises(BadInput, match="modul"):
        fitted(name).sample(1, given={"modul": "os"})
    with pytest.raises(BadInput, match="oz"):
        fitted(name).sample(1, given={"module": "oz"})


@pytest.mark.parametrize("name", TEXT)
def test_no_row_repeats_the_words_of_one_to_avoid(name):
    made = fitted(name).sample(40, seed=3, avoid=labelled())
    columns = [c for c in made.schema.columns if c.kind == "text"]
    assert not np.isin(keys(made.table, columns), keys(labelled().table, columns)).any()


@pytest.mark.parametrize("name", TEXT)
def test_chunks_are_the_sample(name, monkeypatch):
    model = fitted(name)
    monkeypatch.setattr(module, "CELLS", 20 * model.codec.cells)
    parts = list(model.stream(50, seed=5))
    assert [len(part) for part in parts] == [20, 20, 10]
    assert pa.concat_tables([p.table for p in parts]).combine_chunks().equals(model.sample(50, seed=5).table)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEXT)
def test_draws_have_the_form_of_encoded_rows(name, kind):
    model = fitted(name, kind)
    n, codec = 64, model.codec
    with torch.inference_mode():
        tokens, labels = model.generator.sample(model.net, n, torch.Generator().manual_seed(0))
    assert tokens.shape == (n, codec.longest)
    assert tokens.dtype == labels.dtype == torch.int64
    for row in tokens.tolist():
        text = row[: row.index(PAD) if PAD in row else None]
        marks = [token for token in text if token < FIRST]
        assert marks == [3] * (len(codec.texts) - 1) + [4]  # SEP between the texts, EOS last, nothing else
        assert text[-1] == 4
        assert max(row) < codec.size


@pytest.mark.parametrize("name", TEXT)
def test_odd_texts_are_learnt_and_come_back_whole(name):
    """Spaces at the ends, from right to left, emoji, tabs and ends of lines, and words that look like special tokens."""
    found = table(text=ODD * 12, other=[text[::-1] for text in ODD] * 12, label=["a", "b", "c"] * 28)
    data = Dataset.of(found, Schema.infer(found, target="label", kinds={"text": "text", "other": "text", "label": "category"}))
    codec = TextCodec.fit(data)
    rows = codec.encode(data, np.random.default_rng(0))
    assert codec.decode(rows, np.random.default_rng(0), start=0, seed=0).table.equals(data.table)
    made = make(name, small(name)).fit(data, seed=0).sample(10, seed=0)
    assert len(made) == 10
    assert all(text.encode() for column in ("text", "other") for text in made.table[column].to_pylist())


@pytest.mark.parametrize("name", TEXT)
def test_it_refuses_a_table(name):
    numbers = pa.table({"a": np.arange(60.0), "b": ["x", "y"] * 30})
    with pytest.raises(BadInput, match="text"):
        make(name, small(name)).fit(Dataset.of(numbers, Schema.infer(numbers)))


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["home_intents", "messages_es"])
@pytest.mark.parametrize("name", TEXT)
def test_a_built_in_corpus_is_learnt_with_the_defaults_in_half_a_minute(name, corpus):
    """Fit, sample and judge: labels can be learnt from what is made, and of pairs the answers belong to what they answer."""
    source = read(corpus)
    schema = Schema.infer(source.table, target=source.target, kinds=source.kinds, task=source.task)
    train, test = split(Dataset.of(source.table, schema), seed=0)
    fitted = make(name, {}).fit(train, seed=0, minutes=0.5)
    made = fitted.sample(1000, seed=0, avoid=train)
    assert not np.isin(keys(made.table, fitted.codec.texts), keys(train.table, fitted.codec.texts)).any()
    if corpus == "home_intents":
        accuracy = tfidf(made, test, 0)(np.ones((len(test), 1)))["accuracy"][0]
        assert accuracy > 0.3, accuracy  # 39 intents
    else:
        lengths = [[len(text) for text in made.table[column].to_pylist()] for column in ("source", "target")]
        assert np.corrcoef(lengths)[0, 1] > 0.3  # a longer message has a longer translation
