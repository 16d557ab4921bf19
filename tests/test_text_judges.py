"""Judges of texts: scores are those of their packages, good rows teach and shuffled ones do not, queries harm nothing."""

import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import sacrebleu
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import BadInput
from data.schema import Dataset, Schema, Split
from data.texts import faithful, names
from evaluators import executing, seq2seq, text
from evaluators.executing import checked, executed, opened, runs, same_answers
from evaluators.protocol import EFFORT, JUDGES, foretold, utility
from evaluators.seq2seq import Learnt, Pieces, joined, units
from evaluators.tabular import judged_as
from evaluators.text import answer_scores, bleu, chrf, rouge, signatures
from flows.job import Job
from flows.planning import plan


@pytest.fixture(autouse=True, scope="module")
def few_steps():
    """Judges that learn for a moment are quick and obey the same laws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seq2seq, "STEPS", 100)
        patch.setattr(seq2seq, "WIDTH", 48)
        patch.setattr(text, "BAG_STEPS", 150)
        patch.setattr("evaluators.protocol.DRAWS", 60)
        yield


INTENTS = {
    "weather": ["will", "it", "rain", "snow", "shine"],
    "music": ["play", "the", "song", "album", "loud"],
    "alarm": ["wake", "me", "ring", "early", "morning"],
}
PLACES = ["paris", "rome", "oslo", "lima", "cairo", "kyoto", "quito", "dakar"]
FILLER = ["please", "now", "today", "here", "there", "again"]


def utterances(n: int, seed: int) -> Dataset:
    rng = np.random.default_rng(seed)
    labels = rng.choice(list(INTENTS), n)
    texts = [" ".join([*rng.choice(INTENTS[label], 2), *rng.choice(FILLER, 2), rng.choice(PLACES)]) for label in labels]
    table = pa.table({"text": texts, "intent": labels})
    return Dataset.of(table, Schema.infer(table, target="intent", kinds={"text": "text", "intent": "category"}))


def questions(n: int, seed: int, places: list[str] = PLACES) -> Dataset:
    rng = np.random.default_rng(seed)
    columns = {"how big is": "SIZE", "what size has": "SIZE", "who runs": "MAYOR", "who leads": "MAYOR"}
    asked, where = rng.choice(list(columns), n), rng.choice(places, n)
    code = [f'SELECT {columns[a]} FROM CITY WHERE NAME = "{w}" ;' for a, w in zip(asked, where, strict=True)]
    table = pa.table({"question": [f"{a} {w}" for a, w in zip(asked, where, strict=True)], "sql": code})
    kinds = {"question": "text", "sql": "text"}
    return Dataset.of(table, Schema.infer(table, target="sql", kinds=kinds, task="text-to-code"))


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("db") / "cities.sqlite"
    with closing(sqlite3.connect(path)) as made:
        made.execute("CREATE TABLE city (name TEXT, size INT, mayor TEXT)")
        made.executemany("INSERT INTO city VALUES (?, ?, ?)", [(p, i, f"m{i}") for i, p in enumerate([*PLACES, "zagreb"])])
        made.commit()
    return path


# ---- scores

TEXTS = ["the cat sat on the mat .", "", "a", "El niño come, ¿no?", "SELECT x FROM t ;", "one two three four five six", "日本 語 x"]
sentences = st.lists(st.tuples(st.sampled_from(TEXTS), st.sampled_from(TEXTS)), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(sentences, st.integers(0, 5))
def test_scores_of_redrawn_rows_are_those_of_sacrebleu(pairs, seed):
    truth, said = zip(*pairs, strict=True)
    rows = np.random.default_rng(seed).integers(len(pairs), size=len(pairs))
    weights = np.stack([np.ones(len(pairs)), np.bincount(rows, minlength=len(pairs))], axis=1)
    for k, some in enumerate((range(len(pairs)), rows)):
        a, b = [truth[i] for i in some], [said[i] for i in some]
        assert chrf(truth, said)(weights)["chrf"][k] == pytest.approx(sacrebleu.corpus_chrf(b, [a]).score)
        assert bleu(truth, said)(weights)["bleu"][k] == pytest.approx(sacrebleu.corpus_bleu(b, [a]).score)


def test_signatures_are_sacrebleus():
    found = signatures(["chrf", "bleu", "exact_match"])
    assert set(found) == {"chrf", "bleu"}
    assert found["chrf"].startswith("nrefs:1|case:mixed")
    assert "tok:13a" in found["bleu"]


def test_the_first_score_is_the_one_the_task_is_judged_by(database):
    data = questions(60, 0)
    asked, truth = (data.table[name].to_pylist() for name in ("question", "sql"))
    one = np.ones((60, 1))
    found = answer_scores(asked, truth, truth, data.schema, database)(one)
    assert list(found)[:2] == ["executes", "exact_match"]
    assert {name: float(value[0]) for name, value in found.items()} == pytest.approx(
        {"executes": 1, "exact_match": 1, "chrf": 100, "bleu": 100, "parses": 1}
    )
    assert next(iter(answer_scores(asked, truth, truth, data.schema)(one))) == "exact_match"
    for task, first in (("translation", "chrf"), ("summarisation", "rouge_l")):
        schema = Schema(task, "sql", data.schema.columns)
        assert next(iter(answer_scores(asked, truth, truth, schema)(one))) == first


def test_a_tool_is_the_first_word_of_a_command():
    table = pa.table({"nl": ["list files", "remove a file"] * 30, "command": ["ls -l", "rm file"] * 30})
    schema = Schema.infer(table, target="command", kinds={"nl": "text", "command": "text"}, task="text-to-code")
    found = answer_scores(["a", "b"], ["ls -l", "rm x"], ["ls", "mv x"], schema)(np.ones((2, 1)))
    assert (found["tool"][0], found["exact_match"][0]) == (0.5, 0)
    assert "parses" not in found


def test_faithful_names_and_numbers_stand_in_the_source():
    assert names("The tool of Ada Lovelace has 3 parts. It runs Linux.") == ["Ada", "Lovelace", "3", "Linux"]
    hits, of = faithful(["ada built 3 parts"], ["By Ada and Bob: 3 parts"])
    assert (hits[0], of[0]) == (2, 3)
    assert rouge(["the cat sat"], ["the cat sat"])[0] == 1


# ---- pieces


@given(st.text(max_size=40))
def test_units_spell_a_text_up_to_its_private_characters(text_):
    assert joined(units(text_)) == seq2seq.PRIVATE.sub("", text_).strip()


def test_code_keeps_its_lines_and_a_slot_cannot_be_forged():
    code = 'def f(x):\n    return {"a": x[1:], **y}\n'
    pieces = Pieces([units(code)] * 3)
    assert pieces.decode(pieces.encode(units(code), {}, 200), {}) == code.strip()
    forged = "".join(seq2seq.NAMES)
    assert max(pieces.encode(units(f"x {forged} y"), {}, 20)) >= len(seq2seq.NAMES)
    assert not set(range(seq2seq.ODD)) & set(pieces.encode(units(forged + " x"), {}, 20))


# ---- what is learnt


def test_labels_are_learnt_from_good_rows_and_not_from_shuffled_ones():
    train, test = utterances(240, 0), utterances(120, 1)
    split = Split(train, Dataset.of(test.table, train.schema))
    assert JUDGES["text", "classification"] == text.CLASSIFIERS
    found = utility(split, [Dataset.of(utterances(240, s).table, train.schema) for s in (2, 3)])
    assert found["headline"] == "accuracy"
    for judge in ("tfidf", "bag"):
        kinds = found["judges"][judge]
        assert kinds["real"]["accuracy"]["mean"] > 0.9
        assert kinds["synthetic"]["accuracy"]["mean"] > 0.9
        assert kinds["floor"]["accuracy"]["mean"] < 0.6
    assert found["ratio"]["value"] == pytest.approx(1, abs=0.1)
    assert "signatures" not in found


def test_the_same_rows_score_the_same():
    train, test = utterances(90, 0), utterances(60, 1)
    one = np.ones((60, 1))
    for judge in text.CLASSIFIERS.values():
        assert judge(train, test, 3)(one) == judge(train, test, 3)(one)


def test_labels_that_train_has_not_are_never_right():
    train, test = utterances(90, 0), utterances(60, 1)
    for kept in (0, 1):
        some = train.take(np.isin(train.table["intent"].to_numpy(zero_copy_only=False), list(INTENTS)[:kept]))
        for judge in text.CLASSIFIERS.values():
            share = test.table["intent"].to_pylist().count("weather") / 60 if kept else 0
            assert judge(some, test, 0)(np.ones((60, 1)))["accuracy"][0] == pytest.approx(share)


def test_texts_beside_other_columns_are_judged_as_a_table():
    data = utterances(60, 0)
    table = data.table.append_column("price", pa.array(np.arange(60.0)))
    assert judged_as(data.schema) == "text"
    assert judged_as(Schema.infer(table, target="intent", kinds={"text": "text", "intent": "category"})) == "tabular"


@pytest.fixture(scope="module")
def learnt():
    data = questions(150, 0)
    return Learnt(data.table["question"].to_pylist(), data.table["sql"].to_pylist(), 0)


def test_words_that_were_never_seen_are_copied(learnt):
    data = questions(60, 1, ["zagreb", "ulaanbaatar", "ñandú"])
    said = learnt(data.table["question"].to_pylist())
    assert np.mean([a == b for a, b in zip(said, data.table["sql"].to_pylist(), strict=True)]) > 0.8


def test_an_answer_depends_on_its_own_source_alone(learnt):
    asked = ["how big is rome", "who runs a city that has a very long name and many words", "", "who leads oslo"]
    together = learnt(asked)
    assert [learnt([one])[0] for one in asked] == together


def test_the_seed_decides_what_is_learnt(monkeypatch):
    data = questions(60, 0)
    asked, told = (data.table[name].to_pylist() for name in ("question", "sql"))
    monkeypatch.setattr(seq2seq, "STEPS", 10)
    same, other = (Learnt(asked, told, seed).net.state_dict() for seed in (5, 6))
    again = Learnt(asked, told, 5).net.state_dict()
    assert all(torch.equal(same[key], again[key]) for key in same)
    assert not torch.equal(same["embed.weight"], other["embed.weight"])


def test_many_pairs_are_seen_as_often_as_it_takes():
    few, many = seq2seq.PASSES
    assert seq2seq.steps_for(400, 32) == seq2seq.steps_for(1000, 32) == seq2seq.STEPS
    assert seq2seq.steps_for(8, 32) == many * 8 / 32 < seq2seq.STEPS
    assert seq2seq.steps_for(1, 32) > 0
    pairs, batch = 100 * seq2seq.STEPS, 20
    steps = seq2seq.steps_for(pairs, batch)
    found = np.concatenate(seq2seq.batches([1 + i % 9 for i in range(pairs)], steps, batch, torch.Generator().manual_seed(0)))
    assert len(found) == steps * batch >= few * pairs
    assert np.mean(np.bincount(found, minlength=pairs) > 0) > 0.9  # drawn: all but e^-2.5 of them


def test_how_long_judging_answers_takes_grows_with_what_is_learnt(monkeypatch):
    """Four sets of real rows and two of each sample, each of as many steps as the rows ask for, one a core."""
    monkeypatch.setattr(text, "cores", lambda: 2)
    learning = vars(Learnt)["__init__"]

    def slow(self, asked, answers, seed, steps=None):
        learning(self, asked, answers, seed, steps)
        self.seconds = 30.0 * self.steps

    monkeypatch.setattr(Learnt, "__init__", slow)
    data = questions(60, 0)
    plainly = replace(data.schema, task="density", target=None)
    batch, fits = Learnt(*text.pairs(data), seed=0, steps=1).batch, 4 + 2 * EFFORT["text"].samples
    for rows in (data, data.take(np.arange(4000) % 60)):
        steps = seq2seq.steps_for(len(rows), batch)
        assert text.pace(rows) == pytest.approx(30 * steps / 2)
        extra = foretold(rows) - foretold(Dataset(plainly, rows.table))
        assert extra == pytest.approx(fits * steps / 4)


def test_answers_are_learnt_from_good_rows_and_run(database):
    train, test = questions(150, 0), questions(60, 1)
    split = Split(train, Dataset.of(test.table, train.schema))
    good = Dataset.of(questions(150, 2).table, train.schema)
    found = utility(split, [good], judges={"seq2seq": text.executing(database)})
    assert found["headline"] == "executes"
    kinds = {kind: scores["executes"]["mean"] for kind, scores in found["judges"]["seq2seq"].items()}
    assert kinds["real"] > 0.8
    assert kinds["synthetic"] > 0.8
    assert kinds["floor"] < 0.4
    assert set(found["signatures"]) == {"chrf", "bleu"}


# ---- queries


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM city",
        "DROP TABLE city",
        "INSERT INTO city VALUES ('x', 1, 'y')",
        "CREATE TABLE new (x)",
        "UPDATE city SET size = 0",
        "PRAGMA query_only = 0",
        "PRAGMA writable_schema = 1",
        "ATTACH DATABASE '{path}.other' AS other",
        "VACUUM INTO '{path}.other'",
        "SELECT load_extension('x')",
        "SELECT 1; DROP TABLE city",
        "BEGIN EXCLUSIVE",
        "",
        "not sql",
        "SELECT '\ud800'",
        "SELECT 1\0",
        "SELECT ?",
    ],
)
def test_nothing_but_reading_is_done(database, query):
    before = database.read_bytes()
    assert executed(database, query.replace("{path}", str(database))) is None
    assert database.read_bytes() == before
    assert sorted(p.name for p in database.parent.iterdir()) == [database.name]


@pytest.mark.parametrize(
    "query",
    [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
        "SELECT count(*) FROM city a, city b, city c, city d, city e, city f, city g, city h, city i",
        "SELECT zeroblob(2000000000)",
        "SELECT printf('%.*c', 1999999999, 'x')",
    ],
)
def test_what_runs_away_is_stopped(database, query):
    began = time.process_time()
    assert executed(database, query) is None
    assert time.process_time() - began < 5


def test_answers_are_compared_as_bags_of_rows(database):
    up, down = "SELECT name FROM city ORDER BY name", "SELECT name FROM city ORDER BY name DESC"
    assert executed(database, up) == executed(database, down)
    twice = "SELECT name FROM city UNION ALL SELECT name FROM city"
    assert executed(database, twice) == Counter({(name,): 2 for name in [*PLACES, "zagreb"]})
    same, known = same_answers(database, [down, twice, "no", up], [up, up, up, "no"])
    assert same.tolist() == [True, False, False, False]
    assert known.tolist() == [True, True, True, False]
    assert runs(database, [up, "SELECT nothing FROM city"]).tolist() == [True, False]
    with closing(opened(database)) as connection, pytest.raises(sqlite3.DatabaseError):
        connection.execute("DELETE FROM city")


def test_a_database_is_refused_when_it_is_none(tmp_path):
    with pytest.raises(BadInput, match="there is no database"):
        checked(tmp_path / "none.sqlite")
    (tmp_path / "text.sqlite").write_text("this is not a database, but it is long enough to be looked at" * 20)
    with pytest.raises(BadInput, match="not an SQLite database"):
        checked(tmp_path / "text.sqlite")
    assert not (tmp_path / "none.sqlite").exists()


def test_a_job_names_its_database_without_its_folder(tmp_path, database):
    pairs = tmp_path / "pairs.csv"
    rows = questions(60, 0).table.to_pylist()
    pairs.write_text("question,sql\n" + "\n".join(f'{r["question"]},"{r["sql"].replace(chr(34), chr(34) * 2)}"' for r in rows))
    values = {"source": str(pairs), "target": "sql", "task": "text-to-code", "kinds": {"question": "text", "sql": "text"}}
    job = Job.of(values | {"database": str(database)})
    assert job.public()["database"] == database.name
    language = Schema.infer(questions(60, 0).table, target="sql", kinds=values["kinds"], task="text-to-code")["sql"].language
    assert language == "sql"
    with pytest.raises(BadInput, match="there is no database"):
        plan(Job.of(values | {"database": str(tmp_path / "gone.sqlite")}))
    with pytest.raises(BadInput, match="leave --database out"):
        plan(Job.of({"source": "penguins", "database": str(database)}))


def test_the_limits_hold_for_a_query_that_answers_too_much(database, monkeypatch):
    monkeypatch.setattr(executing, "ROWS", 5)
    assert executed(database, "SELECT name FROM city") is None


@pytest.mark.parametrize("labels", [2, 3])
def test_margins_are_those_of_every_label(labels):
    rows = [[word, "and"] for word in ("red", "green", "blue")[:labels] for _ in range(4)]
    y = np.arange(labels).repeat(4)
    found = text.margins(rows, y, [*rows, ["and"], []])
    assert found.shape == (len(rows) + 2, labels)
    assert (found.argmax(1)[: len(rows)] == y).all()
    assert (found.max(1)[-1] < found.max(1)[: len(rows)]).all()
    assert (text.linear(rows, y, rows) == y).all()
    assert text.terms("Turn ON, the light") == ["turn", "on", "the", "light", "turn on", "on the", "the light"]
