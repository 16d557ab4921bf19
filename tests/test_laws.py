"""The laws of every generator, run on every line of the registry, on small data of its modality."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from data.errors import BadInput
from data.images import column, pixels
from data.texts import keys
from generators import fitted as module
from generators import train as loop
from generators.base import Descending
from generators.fitted import Fitted
from generators.registry import get, make, modality_of, name_of
from tests.small import KINDS, MODALITIES, SMALL, data_of, dataset, drawn, each, everything, first, fit, fitted, read

torch.set_num_threads(1)

NEURAL = [name for name in each() if issubclass(get(name.values[0]), Descending)]
CASES = [
    pytest.param(*name.values, kind, marks=name.marks) for modality in MODALITIES for name in each(modality) for kind in KINDS[modality]
]
GIVEN = {  # the kind of data, a value of each of some columns, and another value of the first
    "tabular": ("everything", {"word": "green", "flag": True}, "blue"),
    "image": ("labelled", {"label": "7"}, "1"),
    "text": ("labelled", {"module": "os"}, "socket"),
    "multimodal": ("labelled", {"count": "2"}, "1"),
}


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_length_and_schema_are_as_asked(name, kind):
    data = data_of(name, kind)
    for n in (1, 20):
        made = drawn(name, n, kind, seed=1)
        assert len(made) == n
        assert made.schema == data.schema
        assert made.table.schema.equals(data.table.schema, check_metadata=True)
        for c in data.schema.columns:
            if c.kind in ("image", "mask"):
                assert pixels(made.table[c.name]).shape == (n, *c.size)
            if c.kind == "mask":
                assert set(np.unique(pixels(made.table[c.name])).astype(str)) <= set(c.categories)
            if c.kind == "text":
                assert all(text.strip() for text in made.table[c.name].to_pylist())


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_seed_decides_the_sample_of_a_model_and_of_a_saved_one(name, kind, tmp_path):
    made = drawn(name, 20, kind, seed=1).table
    assert made.equals(drawn(name, 20, kind, seed=1).table)
    assert not made.equals(drawn(name, 20, kind, seed=2).table)
    fitted(name, kind).save(tmp_path)
    loaded = Fitted.load(tmp_path)
    assert name_of(type(loaded.generator)) == name
    assert loaded.generator == fitted(name, kind).generator
    assert made.equals(drawn(name, 20, kind, loaded, seed=1).table)


def same_weights(a: Fitted, b: Fitted) -> bool:
    ours, theirs = a.net.state_dict(), b.net.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


@pytest.mark.parametrize("name", each())
def test_the_seed_decides_the_model(name):
    again = fit(name)
    assert not issubclass(get(name), Descending) or same_weights(again, fitted(name))
    assert drawn(name, 20, model=again, seed=1).table.equals(drawn(name, 20, seed=1).table)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("name", NEURAL)
def test_a_resumed_run_is_the_same_run(name, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)

    told, seen = [], []

    def kill(done, total, words):
        told.append(done)
        if len(told) == 2:
            raise KilledError

    with pytest.raises(KilledError):
        fit(name, folder=tmp_path, progress=kill)
    resumed = fit(name, folder=tmp_path, progress=lambda done, total, words: seen.append(done))
    assert seen[0] > told[0], "it began again"
    assert same_weights(resumed, fitted(name))
    assert resumed.log["loss"] == fitted(name).log["loss"]


@pytest.mark.parametrize("name", each())
def test_fit_leaves_its_input_alone(name):
    fitted(name)
    fresh = KINDS[modality_of(name)][first(name)].__wrapped__
    assert data_of(name).table.equals(fresh().table)


@pytest.mark.parametrize("name", each())
def test_it_refuses_what_its_codec_cannot_read(name):
    table = everything().table
    if modality_of(name) == "tabular":
        words = pa.array([f"a sentence with number {i} in it" for i in range(len(table))])
        image = column([np.zeros((1, 4, 4), dtype=np.uint8)] * len(table))
        data = dataset(table.append_column("remark", words).append_column("photo", image), "flag", {"remark": "text", "photo": "image"})
        why = r"'remark'.*'photo'"
    else:
        data, why = everything(), {"image": "image", "text": "text", "multimodal": "one image, one text"}[modality_of(name)]
    with pytest.raises(BadInput, match=why):
        make(name, SMALL.get(name, {})).fit(data)


@pytest.mark.parametrize("name", each())
def test_given_fixes_columns(name):
    kind, given, other = GIVEN[modality_of(name)]
    made = drawn(name, 40, kind, seed=0, given=given)
    assert len(made) == 40
    assert all(set(made.table[key].to_pylist()) == {value} for key, value in given.items())
    key, value = next(iter(given.items()))
    made = drawn(name, 25, kind, seed=0, where=f"{key} in ('{value}', '{other}')")
    assert set(made.table[key].to_pylist()) <= {value, other}
    with pytest.raises(BadInput, match=key[::-1]):
        drawn(name, 1, kind, given={key[::-1]: value})
    with pytest.raises(BadInput, match="mauve"):
        drawn(name, 1, kind, given={key: "mauve"})


@pytest.mark.parametrize("name", each())
def test_chunks_are_the_sample(name, monkeypatch):
    model = fitted(name)
    monkeypatch.setattr(module, "CELLS", 20 * model.codec.cells)
    parts = list(model.stream(50, seed=5, of=read(name)))
    assert [len(part) for part in parts] == [20, 20, 10]
    whole = pa.concat_tables([p.table for p in parts]).combine_chunks()
    assert whole.equals(drawn(name, 50, seed=5).table)
    keys = [c.name for c in model.schema.columns if c.kind == "id"]
    assert not get(name).publishable or all(len(set(whole[key].to_pylist())) == 50 for key in keys)


@pytest.mark.parametrize("name", each("text", "multimodal"))
def test_no_row_repeats_the_words_of_one_to_avoid(name):
    made, columns = drawn(name, 40, seed=3, avoid=data_of(name)), [c for c in data_of(name).schema.columns if c.kind == "text"]
    assert not np.isin(keys(made.table, columns), keys(data_of(name).table, columns)).any()


@pytest.mark.parametrize("name", each())
def test_a_file_that_was_changed_is_refused(name, tmp_path):
    fitted(name).save(tmp_path)
    weights, text = (tmp_path / "model.safetensors").read_bytes(), (tmp_path / "model.json").read_text()
    model = json.loads(text)
    tensors = load_file(tmp_path / "model.safetensors")
    largest = max(tensors, key=lambda key: tensors[key].numel())

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
    save_file({k: t for k, t in tensors.items() if k != largest}, tmp_path / "fewer.safetensors")
    fewer = (tmp_path / "fewer.safetensors").read_bytes()
    broken(json.dumps(model | {"sha256": hashlib.sha256(fewer).hexdigest()}), fewer)


@pytest.mark.parametrize("name", each("image", "multimodal"))
def test_a_model_file_holds_no_training_image(name, tmp_path):
    fitted(name).save(tmp_path)
    data = read(name)
    rows = [pixels(data.table[c.name]).reshape(len(data), -1) for c in data.schema.columns if c.kind in ("image", "style")]
    rows = standard(torch.from_numpy(np.concatenate(rows)).double())
    size = rows.shape[1]
    for key, tensor in load_file(tmp_path / "model.safetensors").items():
        assert len(data) not in tensor.shape, f"{key} has an entry an image"
        values = tensor.double().flatten()
        if len(values) >= size and len(values) % size == 0:  # correlation with every image: scale and shift do not hide it
            assert (standard(values.view(-1, size)) @ rows.T / (size - 1)).max() < 0.995, key


def standard(rows: torch.Tensor) -> torch.Tensor:
    return (rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True).clamp(min=1e-9)
