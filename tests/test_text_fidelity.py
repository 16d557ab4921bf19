"""Fidelity of texts: known figures come out, equal sets are alike, and what is garbled, repeated or badly labelled is told."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from data.schema import RARE, Dataset, Schema
from evaluators.wording import LEAST, answers, divergence, lengths, numbered, perplexity, self_bleu, wording

WORDS = {
    "rain": ["rain", "snow", "wind", "cloud", "storm", "sun"],
    "song": ["song", "album", "band", "tune", "choir", "drum"],
    "bank": ["money", "card", "loan", "cash", "debt", "coin"],
}
COMMON = ["the", "a", "my", "for", "about", "please", "now", "and", "show", "me"]


def corpus(n: int, seed: int, labels: bool = True) -> Dataset:
    rng = np.random.default_rng(seed)
    label = rng.choice(list(WORDS), n)
    texts = [" ".join(rng.permutation([*rng.choice(WORDS[y], 3), *rng.choice(COMMON, rng.integers(2, 6))])) for y in label]
    table = pa.table({"text": texts, "topic": label} if labels else {"text": texts})
    kinds = {"text": "text", "topic": "category"} if labels else {"text": "text"}
    return Dataset.of(table, Schema.infer(table, target="topic" if labels else None, kinds=kinds))


def summaries(n: int, seed: int, honest: bool = True) -> Dataset:
    rng = np.random.default_rng(seed)
    number = rng.integers(100, size=n)
    table = pa.table(
        {"page": [f"pack {k} files" for k in number], "summary": [f"It packs {k if honest else k + 100} files" for k in number]}
    )
    return Dataset.of(table, Schema.infer(table, target="summary", kinds={"page": "text", "summary": "text"}, task="summarisation"))


TRAIN, TEST, SAME = corpus(300, 0), corpus(200, 1), corpus(300, 2)


def with_texts(data: Dataset, texts: list[str]) -> Dataset:
    return Dataset.of(data.table.set_column(0, "text", pa.array(texts)), data.schema)


# ---- figures


def test_equal_sets_diverge_by_nothing_and_strange_ones_by_one_bit():
    count = Counter({("a",): 3, ("b",): 1})
    assert divergence(count, count) == 0
    assert divergence(count, Counter({("c",): 2})) == pytest.approx(1)
    assert divergence(count, Counter()) == 1
    assert divergence(Counter(), Counter()) == 0
    assert divergence(count, Counter({("a",): 1, ("b",): 1})) == pytest.approx(divergence(Counter({("a",): 1, ("b",): 1}), count))


def test_perplexity_is_that_of_witten_and_bell():
    numbers = numbered({"train": [["a", "b"], ["a", "a"]], "test": [["a", "b"]]})
    v = 4  # a, b, the end and what is unknown
    one = {"a": (3 + 3 / v) / 9, "b": (1 + 3 / v) / 9, "end": (2 + 3 / v) / 9}  # of six words of three kinds
    start = (2 + 1 * one["a"]) / 3
    after_a = (1 + 3 * one["b"]) / 6  # b, a and the end each followed a once
    after_b = (1 + 1 * one["end"]) / 2
    three = [(2 + start) / 3, (1 + 2 * after_a) / 4, (1 + after_b) / 2]  # start start a twice; start a b and start a a; a b end
    assert perplexity(numbers["train"], numbers["test"], v) == pytest.approx(np.prod(three) ** (-1 / 3))


def test_self_bleu_is_one_of_copies_and_the_share_of_clipped_pieces_of_others():
    assert self_bleu([["a", "b", "c", "d", "e"]] * 3) == pytest.approx(1)
    texts = [["a", "b", "c", "d", "e"], ["a", "b", "c", "d", "x"], ["a", "a", "b", "c", "d"]]
    shares = []
    for n in range(1, 5):
        grams = [Counter(tuple(t[i : i + n]) for i in range(len(t) - n + 1)) for t in texts]
        hits = sum(min(c, max(o[g] for j, o in enumerate(grams) if j != i)) for i, own in enumerate(grams) for g, c in own.items())
        shares.append(hits / sum(g.total() for g in grams))
    assert self_bleu(texts) == pytest.approx(np.exp(np.mean(np.log(shares))))


def test_answers_hide_labels_of_few_rows():
    column = TRAIN.schema["topic"]
    truth = np.array(["rain"] * 10 + ["song"] * 6 + ["bank"] * (RARE - 1), dtype=object)
    said = np.array(["rain"] * 8 + ["song"] * 2 + ["song"] * 6 + ["rain"] * (RARE - 1), dtype=object)
    found = answers(column, truth, {"real": truth, "synthetic": said})
    assert dict(zip(found["values"], found["synthetic"], strict=True)) == {"rain": 0.8, "song": 1.0}
    assert found["rows"] == [10, 6]
    assert found["confused"] == [{"true": "rain", "said": "song", "real": 0.0, "synthetic": 0.2}]


def test_a_histogram_of_lengths_holds_every_row():
    found = lengths(TRAIN.schema["text"], TRAIN, SAME)
    assert len(found["edges"]) == len(found["real"]) + 1
    assert sum(found["synthetic"]) == pytest.approx(1, abs=0.02)
    longer = with_texts(SAME, ["word " * 500] * len(SAME))
    assert lengths(TRAIN.schema["text"], TRAIN, longer)["synthetic"][-1] == 1


# ---- whole judgements


def test_the_training_texts_score_like_themselves():
    found = wording(TRAIN, TEST, TRAIN)
    for name in ("perplexity", "vocabulary"):
        assert found[name]["synthetic"] == pytest.approx(found[name]["real"], rel=0.15), name
    assert found["divergence"]["words"]["synthetic"] == pytest.approx(found["divergence"]["words"]["real"], abs=0.02)
    assert found["detector"]["test"]["auc"] == pytest.approx(0.5, abs=0.12)
    assert json.loads(json.dumps(found)) == found


def test_honest_texts_are_like_real_ones_and_others_are_told():
    good = wording(TRAIN, TEST, SAME)
    rng = np.random.default_rng(5)
    garbled = with_texts(SAME, ["zxq " + " ".join(rng.choice(["blue", "green", "red"], 6)) for _ in range(len(SAME))])
    bad = wording(TRAIN, TEST, garbled)
    assert good["perplexity"]["synthetic"] < 1.2 * good["perplexity"]["real"] < bad["perplexity"]["synthetic"]
    assert good["divergence"]["words"]["synthetic"] < 0.1 < 0.99 < bad["divergence"]["words"]["synthetic"]
    assert good["vocabulary"]["synthetic"] == 1 > bad["vocabulary"]["synthetic"] == 0
    assert good["label_agreement"]["synthetic"] > 0.9 > 0.6 > bad["label_agreement"]["synthetic"]
    assert bad["detector"]["test"]["auc"] > 0.99
    assert good["classes"]["values"] == list(TRAIN.schema["topic"].categories)
    repeated = wording(TRAIN, TEST, with_texts(SAME, [TRAIN.table["text"][0].as_py()] * len(SAME)))
    assert repeated["self_bleu"]["synthetic"] > 0.999 > repeated["self_bleu"]["real"]
    assert repeated["distinct"]["2"]["synthetic"] < 0.1 < repeated["distinct"]["2"]["real"]


def test_wrong_labels_show_in_what_is_learnt_from_them():
    labels = SAME.table["topic"].to_pylist()
    turned = [{"rain": "song", "song": "rain"}.get(y, y) for y in labels]
    found = wording(TRAIN, TEST, Dataset.of(SAME.table.set_column(1, "topic", pa.array(turned)), SAME.schema))
    right = dict(zip(found["answers"]["values"], found["answers"]["synthetic"], strict=True))
    assert right["bank"] > 0.9 > 0.1 > max(right["rain"], right["song"])
    assert {(pair["true"], pair["said"]) for pair in found["answers"]["confused"][:2]} == {("rain", "song"), ("song", "rain")}
    assert min(found["answers"]["real"]) > 0.9


def test_summaries_that_name_what_is_not_there_are_not_faithful():
    train, test = summaries(120, 0), summaries(60, 1)
    for honest, share in ((True, 1.0), (False, 0.0)):
        found = wording(train, test, summaries(120, 2, honest))["faithful"]
        assert found == {"synthetic": share, "real": 1.0}


def test_code_is_parsed_and_run(tmp_path):
    import sqlite3

    path = tmp_path / "a.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE t (x INT)")
    database.close()
    n = 60
    table = pa.table({"q": [f"which x is {i}" for i in range(n)], "sql": [f"SELECT x FROM t WHERE x = {i}" for i in range(n)]})
    real = Dataset.of(table, Schema.infer(table, target="sql", kinds={"q": "text", "sql": "text"}, task="text-to-code"))
    half = [s if i % 2 else s.replace("x FROM", "y FROM") for i, s in enumerate(table["sql"].to_pylist())]
    quarter = [s if i % 4 else "SELECT" for i, s in enumerate(half)]
    made = Dataset.of(table.set_column(1, "sql", pa.array(quarter)), real.schema)
    found = wording(real, real, made, database=path)
    assert found["parses"] == {"synthetic": 0.75, "real": 1.0}
    assert found["executes"] == {"synthetic": 0.5, "real": 1.0}
    assert wording(real, real, made)["executes"] is None


def test_few_rows_give_the_same_keys_without_a_figure():
    few = wording(TRAIN, TEST, SAME.take(np.arange(LEAST - 1)))
    whole = wording(TRAIN, TEST, SAME)
    assert set(few) == set(whole)
    assert few["perplexity"] is None
    assert wording(corpus(60, 0, labels=False), corpus(60, 1, labels=False), corpus(60, 2, labels=False))["answers"] is None


def test_no_real_text_is_in_the_result():
    odd = TRAIN.table["text"].to_pylist()
    odd[7] = "a secret zzyzx that nobody knows"
    train = with_texts(TRAIN, odd)
    assert "zzyzx" not in json.dumps(wording(train, TEST, train))
