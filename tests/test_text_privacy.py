"""Privacy of texts: copies, runs of words and what belongs to somebody are counted beside what real texts repeat, and stop a release."""

import json

import numpy as np
import pyarrow as pa
import pytest

from data.schema import Dataset, Schema
from evaluators.gates import SPAN, Thresholds, check
from evaluators.overheard import RUNS, capitals, long_numbers, mails, overheard, placed
from evaluators.privacy import privacy
from flows.compare import likeness, shown
from flows.screen import headlines

NOUNS = [f"{a}{b}" for a in ("lamp", "desk", "road", "bird", "tree", "boat", "wall", "shop") for b in ("", "s", "er", "ing", "let")]


def corpus(n: int, seed: int, length: int = 12) -> Dataset:
    rng = np.random.default_rng(seed)
    label = rng.choice(["new", "old"], n)
    texts = [f"{y} " + " ".join(rng.choice(NOUNS, length)) for y in label]
    table = pa.table({"text": texts, "age": label})
    return Dataset.of(table, Schema.infer(table, target="age", kinds={"text": "text", "age": "category"}))


TRAIN, TEST, MADE = corpus(400, 0), corpus(200, 1), corpus(400, 2)


def with_texts(data: Dataset, changed: dict[int, str]) -> Dataset:
    texts = [changed.get(i, text) for i, text in enumerate(data.table["text"].to_pylist())]
    return Dataset.of(data.table.set_column(0, "text", pa.array(texts)), data.schema)


def text(row: int) -> str:
    return TRAIN.table["text"][row].as_py()


def scores(made: Dataset, train: Dataset = TRAIN) -> dict:
    return {"fidelity": {"kind": "text", "detector": {"test": {"auc": 0.6}}}, "privacy": privacy(train, TEST, made)}


def failed(made: Dataset, train: Dataset = TRAIN) -> set[str]:
    gates = {g["name"]: g["passed"] for g in check(scores(made, train), Thresholds(), publishable=True)}
    assert set(gates) == {"utility", "detector", "near", "copies", "dcr", "membership", "spans", "leaks", "quality", "publishable"}
    return {name for name, passed in gates.items() if not passed} - {"utility", "quality"}


def test_honest_texts_pass_and_copies_do_not():
    assert failed(MADE) == set()
    assert failed(TRAIN) == {"copies", "near", "dcr", "membership", "spans"}


@pytest.mark.parametrize("change", [str, str.upper, lambda t: "  " + t.replace(" ", "\t ") + "\n"])
def test_a_copy_is_one_whatever_its_spaces_and_capitals(change):
    some = with_texts(MADE, {i: change(text(i)) for i in range(40)})
    found = privacy(TRAIN, TEST, some)
    assert found["copies"]["synthetic"] == pytest.approx(0.1)
    assert found["copies"]["real"] == 0
    assert found["texts"]["columns"] == [{"name": "text", "synthetic": 0.1, "real": 0.0}]


def test_the_same_words_in_another_order_are_near_copies_and_no_copies():
    some = with_texts(MADE, {i: " ".join(reversed(text(i).split())) for i in range(40)})
    found = privacy(TRAIN, TEST, some)
    assert found["copies"]["synthetic"] == 0
    assert found["texts"]["near_copies"] == {"synthetic": 0.1, "real": 0.0}
    assert found["near"]["synthetic"] >= 0.1 > found["near"]["real"]


def test_runs_of_words_are_counted_by_their_length():
    some = with_texts(MADE, {i: "quite another beginning and then " + " ".join(text(i).split()[2:10]) for i in range(100)})
    found = {run["words"]: run for run in overheard(TRAIN, TEST, some)["spans"]}
    assert list(found) == list(RUNS)
    assert SPAN in RUNS
    assert found[8]["synthetic"] == 0.25
    assert found[12]["synthetic"] == 0
    assert found[8]["real"] == 0
    assert "spans" in failed(some)


def test_planted_values_are_counted_and_never_shown():
    secret, number, name = "ada.l+x@example.org", "+34 600-123.456", "Zebulon"
    train = with_texts(TRAIN, {3: text(3) + f" write to {secret} or {number} and ask for {name}"})
    made = with_texts(
        MADE, {0: f"mail {secret.upper()}", 1: f"call {number.replace(' ', '')} now", 2: f"say hello to {name}", 5: f"{secret} {name}"}
    )
    found = privacy(train, TEST, made)
    leaks = found["texts"]["leaks"]
    assert leaks["emails"] == {"known": 1, "synthetic": 0.005, "real": 0.0, "values": {"synthetic": 1, "real": 0}}
    assert leaks["numbers"]["values"] == {"synthetic": 1, "real": 0}
    assert leaks["names"] == {"known": 1, "synthetic": 0.005, "real": 0.0, "values": {"synthetic": 1, "real": 0}}
    assert leaks["any"] == {"synthetic": 0.01, "real": 0.0}
    told = json.dumps(found).casefold()
    assert not any(value in told for value in ("ada", "example.org", "600", "zebulon"))
    more = with_texts(MADE, dict.fromkeys(range(20), f"mail {secret}"))
    assert "leaks" in failed(more, train)


def test_names_that_many_rows_have_belong_to_nobody():
    train = with_texts(TRAIN, {i: f"we went to London {text(i)}" for i in range(5)})
    made = with_texts(MADE, {0: "we went to London again"})
    assert overheard(train, TEST, made)["leaks"]["names"]["known"] == 0


def test_what_is_a_mail_a_number_or_a_name():
    assert mails("Write to A.B@Example.co.uk, not to a@b or @home.") == ["a.b@example.co.uk"]
    assert long_numbers("12 or 12,345 or 600 123 456 or 1-2") == ["12345", "600123456"]
    assert capitals("The city of Oslo. Then Rome, R2D2 and eXa.") == ["Oslo", "Rome"]


def test_equal_words_lie_at_one_place_and_others_apart():
    a, b = placed(TRAIN, [TRAIN, with_texts(TRAIN, {0: text(0).upper() + " !"})])
    assert np.allclose(a, b)
    apart = np.sqrt(((a[:100] - a[100:200]) ** 2).sum(1))
    assert (apart > 0.5).all()
    assert np.median(apart) < 2


def test_the_figures_of_texts_have_a_reference_and_few_rows_none():
    found = privacy(TRAIN, TEST, MADE)
    assert found["dcr"]["low"] <= 50 <= found["dcr"]["high"]
    assert abs(found["dcr"]["real"] - 50) < 12
    assert found["membership"]["low"] <= 0.5 <= found["membership"]["high"]
    assert sum(found["distances"]["real"]) == pytest.approx(1, abs=1e-3)
    empty = privacy(TRAIN, TEST, MADE.take(np.arange(0)))
    assert empty["near"] is None
    assert empty["texts"]["near_copies"]["synthetic"] is None
    assert check({"fidelity": {"kind": "text"}, "privacy": empty}, publishable=True)[2]["passed"] is False


def test_texts_that_are_all_empty_are_judged():
    blank = with_texts(MADE, dict.fromkeys(range(len(MADE)), ""))
    found = privacy(TRAIN, TEST, blank)
    assert found["copies"]["synthetic"] == 0
    assert json.dumps(found)


def test_boards_and_screens_show_texts():
    from evaluators.wording import wording

    whole = {"utility": {}, "fidelity": wording(TRAIN, TEST, MADE), "privacy": privacy(TRAIN, TEST, MADE)}
    told = headlines(whole)
    for line in ("perplexity", "nearer to a training row", "copies", "leaked", "labels as a judge says"):
        assert line in told
    row = likeness([whole["fidelity"]])
    keys = [key for key, _, _ in shown({"rows": [row]})]
    assert row["kind"] == "text"
    assert {"detector", "perplexity", "agreement"} <= set(row) & set(keys)
