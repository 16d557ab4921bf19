"""The laws of text generators alone: draws have the form of what was read, odd texts too, and corpora are learnt in half a minute."""

import numpy as np
import pytest
import torch

from data.code import parses
from data.errors import BadInput
from data.schema import Dataset, Schema
from data.sources import read
from data.split import split
from data.texts import keys, words
from evaluators.text import tfidf
from generators.base import Descending
from generators.codecs.text import FIRST, PAD, TextCodec
from generators.registry import get, make
from tests.small import KINDS, SMALL, each, fitted, strings

ODD = ["  ok ", "שלום עולם", "👩‍👩‍👧 🎉", "a\tbc\r\nd", "<|sep|> BOS [EOS] \ufffe", "e\u0301 \u202eback", "x"]


@pytest.mark.parametrize("kind", KINDS["text"])
@pytest.mark.parametrize("name", each("text"))
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


@pytest.mark.parametrize("name", each("text"))
def test_odd_texts_are_learnt_and_come_back_whole(name):
    """Spaces at the ends, from right to left, emoji, tabs and ends of lines, and words that look like special tokens."""
    found = strings(text=ODD * 12, other=[text[::-1] for text in ODD] * 12, label=["a", "b", "c"] * 28)
    data = Dataset.of(found, Schema.infer(found, target="label", kinds={"text": "text", "other": "text", "label": "category"}))
    codec = TextCodec.fit(data)
    rows = codec.encode(data, np.random.default_rng(0))
    assert codec.decode(rows, np.random.default_rng(0), start=0, seed=0).table.equals(data.table)
    made = make(name, SMALL.get(name, {})).fit(data, seed=0).sample(10, seed=0)
    assert len(made) == 10
    assert all(text.encode() for column in ("text", "other") for text in made.table[column].to_pylist())


ROWS = {"home_intents": 1000, "messages_es": 1000, "docstrings_summary": 200, "docstrings_code": 200}


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ROWS)
@pytest.mark.parametrize("name", each("text"))
def test_a_built_in_corpus_is_learnt_with_the_defaults_in_a_minute(name, corpus):
    """Fit, sample and judge: labels can be learnt from what is made, and of pairs the answers belong to what they answer."""
    source = read(corpus)
    schema = Schema.infer(source.table, target=source.target, kinds=source.kinds, task=source.task)
    train, test = split(Dataset.of(source.table, schema), seed=0)
    if (name, corpus) == ("text/unigram", "docstrings_code"):
        with pytest.raises(BadInput, match="in no order"):
            make(name, {}).fit(train, seed=0)
        return
    fitted = make(name, {}).fit(train, seed=0, minutes=0.75)
    made = fitted.sample(ROWS[corpus], seed=0, avoid=train)
    assert not np.isin(keys(made.table, fitted.codec.texts), keys(train.table, fitted.codec.texts)).any()
    assert all(parses(column.language, text) for column in fitted.codec.texts for text in made.table[column.name].to_pylist())
    if corpus == "home_intents":
        accuracy = tfidf(made, test, 0)(np.ones((len(test), 1)))["accuracy"][0]
        assert accuracy > 0.3, accuracy  # 39 intents
    elif issubclass(get(name), Descending):  # trigrams draw a text without a look at the one before
        asked, said = (made.table[column.name].to_pylist() for column in fitted.codec.texts)
        if corpus == "messages_es":
            assert np.corrcoef([[*map(len, asked)], [*map(len, said)]])[0, 1] > 0.2  # a longer message has a longer translation
        else:
            own, others = said_before(asked, said), said_before(asked[1:] + asked[:1], said)
            assert own > 1.3 * others, (own, others)  # of Python 3.11 to 3.13: 2.7 to 3.9 times


def said_before(asked: list[str], said: list[str]) -> float:
    """The share of the words of answers that stand in what they answer."""
    pairs = [(set(words(a)), set(words(b))) for a, b in zip(asked, said, strict=True)]
    return sum(len(a & b) for a, b in pairs) / sum(len(b) for _, b in pairs)
