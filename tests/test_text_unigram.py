"""The words, the probabilities and the draws of text/unigram."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch

from data.errors import BadInput
from data.schema import Dataset, Schema
from generators import drawing
from generators.codecs.text import EOS, PAD, SEP
from generators.registry import make
from generators.text.unigram import COMMON, FORMS, MOST, STEM, inflections, spelled

TEXTS = {"play_music": ["play a song", "put on some music", "a song now"], "set_alarm": ["wake me at six", "an alarm at six", "wake me up"]}


def corpus() -> Dataset:
    rows = [(text, label) for label, texts in TEXTS.items() for text in texts] * 10
    table = pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
    return Dataset.of(table, Schema.infer(table, target="label", kinds={"text": "text", "label": "category"}))


def fitted(**parameters):
    return make("text/unigram", parameters).fit(corpus(), seed=0)


def words(model) -> list[str]:
    return [text.strip() for text in model.codec.written([[p - 5 for p in word if p != PAD] for word in model.net.words.tolist()])]


def test_it_counts_words_and_the_names_of_labels():
    model = fitted(named=3.0)
    found = dict(zip(words(model), model.net.counts[0].T.tolist(), strict=True))
    assert found["song"] == [20, 0]
    assert found["music"] == [10 + 3, 0]  # it stands in the label's name as well
    assert found["alarm"] == [0, 10 + 3]
    assert "set" not in found  # only the name says it
    assert torch.allclose(model.net.log_p(0, 0.3).exp().sum(1), torch.ones(2))


def test_no_word_comes_twice_and_words_are_those_of_the_label():
    made = fitted().sample(40, seed=0)
    said = {label: {word for text in texts for word in text.split()} for label, texts in TEXTS.items()}
    for text, label in zip(made.table["text"].to_pylist(), made.y.to_pylist(), strict=True):
        row = text.split()
        assert len(set(row)) == len(row)
        assert set(row) <= said[label]


def stems(n: int) -> list[str]:
    """Different words of six letters, no two of which share a stem."""
    return ["".join(letters) for letters in itertools.islice(itertools.product("bdfgklmnprst", repeat=6), 0, n * 12**3, 12**3)]


def test_endings_that_many_words_exchange_make_forms_of_the_others():
    many, few, odd = stems(2 * COMMON)[:COMMON], stems(2 * COMMON)[COMMON:-1], stems(2 * COMMON)[-1]
    found = inflections([*many, *(f"{stem}ing" for stem in many), *few, *(f"{stem}ed" for stem in few), odd, "sit", "sits"])
    assert set(found[odd]) == {f"{odd}ing"}
    assert many[0] in found[f"{many[0]}ing"]
    assert not {form for forms in found.values() for form in forms if form.endswith("ed")}  # one stem too few
    assert "sit" not in found  # shorter than STEM
    assert len("sit") < STEM


def test_numbered_words_have_few_forms():
    """Thousands of endings of one stem are no endings that others have; pairs of them all would not fit into memory."""
    found = inflections([f"item{i}" for i in range(1000, MOST)])
    assert max(len(forms) for forms in found.values()) == FORMS


def test_words_are_said_in_other_forms_and_heard_in_them():
    """Words of a label that nobody inflects are said with the ending that those of another have, and still name their label."""
    known = stems(3 * COMMON)
    texts = [f"{stem} {stem}ing" for stem in known[:COMMON]] + known[COMMON:]
    table = pa.table({"text": texts * 2, "label": (["a"] * COMMON + ["b"] * (2 * COMMON)) * 2})
    data = Dataset.of(table, Schema.infer(table, target="label", kinds={"text": "text", "label": "category"}))
    said = {}
    for share in (0.0, 0.5):
        model = make("text/unigram", {"inflected": share, "margin": 0.5, "candidates": 1}).fit(data, seed=0)
        made = model.sample(400, seed=0)
        said[share] = {
            w for text, y in zip(made.table["text"].to_pylist(), made.y.to_pylist(), strict=True) if y == "b" for w in text.split()
        }
        rows = model.codec.encode(made, np.random.default_rng(0))
        assert model.generator.sure(model.net, rows).float().mean() > 0.9
    assert said[0.0] <= set(known[COMMON:])
    assert {word.removesuffix("ing") for word in said[0.5]} <= set(known[COMMON:])
    assert len({word for word in said[0.5] if word.endswith("ing")}) > COMMON


def test_rows_that_could_be_of_another_label_come_last():
    """The word that both labels say makes a text of no label; there are enough others."""
    table = pa.table({"text": ["both one", "both two"] * 30, "label": ["a", "b"] * 30})
    data = Dataset.of(table, Schema.infer(table, target="label", kinds={"text": "text", "label": "category"}))
    model = make("text/unigram", {"margin": 1.0, "candidates": 8}).fit(data, seed=0)
    model.net.lengths[:, 1] = 1  # word
    assert set(model.sample(40, seed=0).table["text"].to_pylist()) == {"one", "two"}


def test_more_candidates_than_may_be_drawn_at_once_still_end(monkeypatch):
    """Most of the sets of words must not come again, so that rows are drawn again, those for one row at a time."""
    monkeypatch.setattr(drawing, "LARGEST", 2)
    tally, model = drawing.Tally(), fitted(candidates=3)
    made = next(model.stream(40, seed=0, avoid=model.sample(600, seed=1), tally=tally))
    assert len(made) == 40
    assert tally.drawn > 3 * 40


def test_a_row_has_room_for_all_its_texts():
    long, short = torch.tensor([[7, 8, 9], [10, 11, PAD]]), torch.tensor([[12, PAD, PAD]])
    assert spelled([long, short], 9) == [7, 8, 9, 10, 11, SEP, 12, EOS]
    assert spelled([long, short], 7) == [7, 8, 9, SEP, 12, EOS]
    assert spelled([long, short], 5) == [7, 8, SEP, 12, EOS]


@pytest.mark.parametrize("parameters", [{"shared": 0.0}, {"named": -1.0}, {"inflected": 1.5}])
def test_it_refuses_what_is_no_recipe(parameters):
    with pytest.raises(BadInput, match=next(iter(parameters))):
        fitted(**parameters)


def test_texts_are_no_longer_than_those_it_learnt_from():
    lengths = [len(text.split()) for text in fitted().sample(60, seed=1).table["text"].to_pylist()]
    assert max(lengths) <= 4
    assert np.mean(lengths) > 2


def test_code_is_refused_for_words_in_no_order_do_not_parse():
    code = [f"def f(x):\n    return x {sign} 1" for sign in "+-"]
    table = pa.table({"text": ["add one", "take one away"] * 30, "code": code * 30})
    data = Dataset.of(table, Schema.infer(table, target="code", kinds={"text": "text", "code": "text"}, task="text-to-code"))
    with pytest.raises(BadInput, match="column 'code': python in no order"):
        make("text/unigram", {}).fit(data)
