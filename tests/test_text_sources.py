"""Texts as they come in: records, catalogues of messages, built-in corpora; what is refused; a split that keeps near copies together."""

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import polib
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.code import parses
from data.errors import BadInput
from data.schema import Dataset, Schema
from data.sources import builtin, read
from data.sources.utterances import branch, parsed
from data.split import split
from data.texts import CONTROL, Texts, keys, words
from generators.codecs.text import BACK, BOS, EOS, PAD, SEP, TextCodec

HERE = Path(__file__).parent.parent
EASY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PAIRS = [(f"open the file number {i}", f"abrir el archivo número {i}") for i in range(60)]


def written(folder: Path, content: str | bytes, name: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def texts(values: list[str]) -> Dataset:
    """Sixty rows and more of a text and a label."""
    rows = values + [f"plain words of row {i}" for i in range(80)]
    table = pa.table({"said": rows, "kind": ["a", "b"] * (len(rows) // 2) + ["a"] * (len(rows) % 2)})
    return Dataset.of(table, Schema.infer(table, target="kind", kinds={"said": "text", "kind": "category"}))


# ---------------------------------------------------------------- records

PLAIN = st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
RECORDS = st.lists(
    st.fixed_dictionaries({"s": PLAIN, "n": st.none() | st.integers(-(2**63), 2**63 - 1), "t": st.none() | st.booleans()}), min_size=1
)


@EASY
@given(RECORDS, st.booleans(), st.booleans())
def test_records_come_back_as_they_were_written(tmp_path, records, whole, escaped):
    told = [json.dumps(record, ensure_ascii=escaped) for record in records]
    path = written(tmp_path, f"[{','.join(told)}]" if whole else "\n".join(told), "a.json" if whole else "a.jsonl")
    assert read(path).table.to_pylist() == records


def test_records_have_one_type_a_column_and_nulls_where_keys_are_missing(tmp_path):
    lines = '{"a": 1, "d": "2024-02-29", "t": " two  words "}\n\n{"a": 2.5, "b": true}\r\n{"d": "2023-01-01", "a": null}\n'
    table = read(written(tmp_path, b"\xef\xbb\xbf" + lines.encode(), "a.ndjson")).table
    assert [str(kind) for kind in table.schema.types] == ["double", "date32[day]", "string", "bool"]
    assert table["a"].to_pylist() == [1.0, 2.5, None]
    assert table["t"].to_pylist() == [" two  words ", None, None]
    assert read(written(tmp_path, lines, "b.json")).table.equals(table), "a record a line, whatever the file's name"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1}\n{"a": 2\n', "line 2 is no JSON"),
        ('{"a": 1}\n{"a": {"b": 2}}\n', "line 2 has a record in 'a'"),
        ('{"a": 1}\n\n{"a": 1, "tags": ["x"]}\n', "line 3 has a list in 'tags'"),
        ('{"a": 1}\n[2]\n', "line 2 is a list where a record"),
        ('{"a": 1}\nnull\n', "line 2 is null where a record"),
        ('{"a": 1}\n{"a": "x"}\n', "'a' is a number in line 1 and text in line 2"),
        ('{"a": 1}\n{"a": true}\n', "'a' is a number in line 1 and a truth value in line 2"),
        ('{"a": 1, "a": 2}\n', "line 1 has the key 'a' twice"),
        ('{"a": "\\ud83d"}\n', "line 1 holds half of a surrogate pair"),
        ('{"\\uDC00": "a"}\n', "line 1 holds half of a surrogate pair"),
        (f'{{"a": {"9" * 30}}}\n', "'a' holds a whole number of more than 64 bits"),
        (f'{{"a": {"9" * 5000}}}\n', "line 1 holds a number or a nesting too long"),
        (f'{{"a": {"[" * 100_000}}}\n', "line 1 holds a number or a nesting too long"),
        ("\n \n", "is empty"),
        ("{}\n{}\n", "no records with values"),
        ('{"": 1}\n', "column 1 has an empty name"),
        ('{"<b>": 1}\n', "angle bracket"),
        ("\n".join(f'{{"k{i}": 1}}' for i in range(3000)), "more than 2,000 different keys"),
    ],
)
def test_a_bad_record_is_named_by_its_line(tmp_path, content, said):
    with pytest.raises(BadInput, match=said) as error:
        read(written(tmp_path, content, "a.jsonl"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"a": 1}, 2]', "record 2 is a number where a record"),
        ('[{"a": [1]}]', "record 1 has a list in 'a'"),
        ('[{"a": 1}', "is no JSON"),
        ('"words"', "is no list of records"),
        ("[]", "holds no records"),
    ],
)
def test_a_bad_list_of_records_is_refused(tmp_path, content, said):
    with pytest.raises(BadInput, match=said):
        read(written(tmp_path, content, "a.json"))


@EASY
@given(st.binary(max_size=60) | st.text(st.sampled_from('{}[]",:\\u d8a1\n'), max_size=40).map(str.encode))
def test_no_bytes_break_the_reading_of_records(tmp_path, content):
    for name in ("a.jsonl", "a.json"):
        with suppress(BadInput):
            read(written(tmp_path, content, name))


# ---------------------------------------------------------------- catalogues of messages


def catalogue(entries: list[polib.POEntry], language: str = "es") -> polib.POFile:
    made = polib.POFile()
    made.metadata = {"Content-Type": "text/plain; charset=UTF-8", "Language": language, "Plural-Forms": "nplurals=2; plural=n!=1;"}
    made.extend(entries)
    return made


MIXED = [
    *(polib.POEntry(msgid=x, msgstr=y) for x, y in PAIRS),
    polib.POEntry(msgid="not yet"),
    polib.POEntry(msgid="perhaps", msgstr="quizás", flags=["fuzzy"]),
    polib.POEntry(msgid="gone", msgstr="ido", obsolete=True),
    polib.POEntry(msgid="%d apple", msgid_plural="%d apples", msgstr_plural={0: "%d manzana", 1: "%d manzanas"}),
    polib.POEntry(msgid="%d half", msgid_plural="%d halves", msgstr_plural={0: "%d mitad", 1: ""}),
    polib.POEntry(msgid=PAIRS[0][0], msgstr=PAIRS[0][1], msgctxt="again"),
    polib.POEntry(msgid="\nFile \u202babc\u202c 😀\n", msgstr="\nArchivo\n"),
]
TAKEN = [*PAIRS, ("%d apple", "%d manzana"), ("%d apples", "%d manzanas"), ("File \u202babc\u202c 😀", "Archivo")]


def test_a_catalogue_is_pairs_of_what_is_translated(tmp_path):
    catalogue(MIXED).save(str(tmp_path / "shop.po"))
    source = read(str(tmp_path / "shop.po"))
    assert (source.name, source.target, source.task) == ("shop", "target", "translation")
    assert list(zip(*source.table.to_pydict().values(), strict=True)) == TAKEN
    assert source.notes == ("messages into es of 1 catalogue", "left out: 1 fuzzy, 1 obsolete, 1 repeated, 2 untranslated")
    schema = Schema.infer(source.table, target="target", kinds=source.kinds, task=source.task)
    assert (schema.task, schema.modality) == ("translation", "text")


def test_a_compiled_catalogue_and_a_folder_of_them_say_the_same(tmp_path):
    place = tmp_path / "es" / "LC_MESSAGES"
    place.mkdir(parents=True)
    made = catalogue([entry for entry in MIXED if entry.translated() and not entry.obsolete])
    made.save_as_mofile(str(place / "shop.mo"))
    compiled = read(str(place / "shop.mo")).table
    assert set(map(str, compiled.to_pylist())) == {str({"source": x, "target": y}) for x, y in TAKEN}
    made.save(str(place / "shop.po"))
    catalogue([polib.POEntry(msgid="sea", msgstr="mar")], "es_ES").save(str(place / "more.po"))
    source = read(str(tmp_path / "es"))
    assert (source.name, len(source.table)) == ("es", len(TAKEN) + 1)
    catalogue([polib.POEntry(msgid="sea", msgstr="mer")], "fr").save(str(place / "other.po"))
    with pytest.raises(BadInput, match="translations into es, fr"):
        read(str(tmp_path))


def test_catalogues_of_one_form_and_of_nothing(tmp_path):
    one = [polib.POEntry(msgid="%d sea", msgid_plural="%d seas", msgstr_plural={0: "海"}), polib.POEntry(msgid="a", msgstr="b")]
    catalogue(one, "ja").save(str(tmp_path / "a.po"))
    assert read(str(tmp_path / "a.po")).table.to_pylist() == [{"source": "%d seas", "target": "海"}, {"source": "a", "target": "b"}]
    catalogue([polib.POEntry(msgid="not yet")]).save(str(tmp_path / "b.po"))
    with pytest.raises(BadInput, match="no message that is translated"):
        read(str(tmp_path / "b.po"))


@EASY
@given(st.data())
def test_no_damage_breaks_the_reading_of_catalogues(tmp_path, data):
    made = catalogue(MIXED[55:])
    suffix = data.draw(st.sampled_from([".po", ".mo"]))
    (made.save if suffix == ".po" else made.save_as_mofile)(str(tmp_path / f"a{suffix}"))
    content = bytearray((tmp_path / f"a{suffix}").read_bytes())
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=6)):
        content[place] = byte
    with suppress(BadInput):
        read(written(tmp_path, bytes(content[: data.draw(st.integers(0, len(content)))]), f"b{suffix}"))


# ---------------------------------------------------------------- built-in texts


TEXTS = [name for name, entry in builtin.CATALOGUE.items() if entry.modality == "text"]


@pytest.fixture(scope="module")
def loaded() -> dict[str, tuple[pa.Table, pa.Table | None]]:
    return {name: builtin.load(name) for name in TEXTS}


@pytest.fixture(scope="module")
def corpora(loaded) -> dict[str, pa.Table]:
    return {name: table for name, (table, _) in loaded.items()}


@pytest.mark.parametrize("name", TEXTS)
def test_built_in_texts_are_sound_and_different(corpora, name):
    rows = list(zip(*(column.to_pylist() for column in corpora[name].columns), strict=True))
    assert len(set(rows)) == len(rows) > 1000
    assert all(text.strip() and not CONTROL.search(text) for row in rows for text in row)
    assert not any(str(HERE) in text or sys.prefix in text for row in rows for text in row), "no paths of this machine"


def test_built_in_texts_are_the_same_at_every_reading():
    cheap = ["home_intents", "home_intents_de", "messages_es"]
    code = f"""
from data.arrow import fingerprint
from data.sources import builtin
print([fingerprint(builtin.load(name)[0]) for name in {cheap}])
"""
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE, check=True, env=os.environ | {"PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout != ""


@pytest.mark.parametrize("name", ["home_intents", "home_intents_es", "home_intents_de"])
def test_utterances_have_an_intent_each_and_no_sign_of_their_templates(corpora, name):
    table = corpora[name]
    assert not [text for text in table["text"].to_pylist() if set(text) & set("[](){}<>|;") or "  " in text]
    counts = Counter(table["intent"].to_pylist())
    assert len(counts) > 30
    assert min(counts.values()) >= 20
    assert max(counts.values()) <= 120
    assert len(set(table["text"].to_pylist())) == len(table)


def test_templates_are_read_as_they_are_meant():
    from data.sources.utterances import Home

    home = Home(
        {"room": {"values": ["(den|attic)", {"in": "hall"}]}, "n": {"range": {"from": 2, "to": 4, "step": 2}}}, {"the": "(the|my)"}, {}
    )
    rng = Random(0)
    said = {home.say(parsed("light[s] {n:level}( |-)[<the> ]{room}"), rng) for _ in range(2000)}
    rooms = {f"{the}{room}" for the in ("", "the ", "my ") for room in ("den", "attic", "hall")}
    assert said == {f"light{s} {n}{gap}{room}" for s in ("", "s") for n in (2, 4) for gap in " -" for room in rooms}
    assert {home.say(branch(iter(["a", ";", "b"])), rng) for _ in range(40)} == {"a b", "b a"}


def test_functions_parse_have_no_docstring_and_are_short(corpora):
    for row in corpora["docstrings_code"].to_pylist():
        assert parses("python", row["code"])
        assert row["code"].count("\n") < 15
        assert row["text"] not in row["code"]


@pytest.mark.parametrize("name", ["docstrings_code", "docstrings_summary"])
def test_docstrings_that_are_held_out_are_not_those_of_training_over_again(loaded, name):
    """Nor nearly so: of docstrings split one by one a quarter has .3 of its runs of three words in common with one of the others."""
    train, test = (
        [{tuple(found[i : i + 3]) for i in range(max(1, len(found) - 2))} for found in map(words, table["text"].to_pylist())]
        for table in loaded[name]
    )
    said = defaultdict[tuple[str, ...], list[int]](list)
    for row, runs in enumerate(train):
        for run in runs:
            said[run].append(row)
    shared = [Counter(row for run in runs for row in said[run]) for runs in test]
    alike = [max((n / len(runs | train[row]) for row, n in rows.items()), default=0) for runs, rows in zip(test, shared, strict=True)]
    assert np.mean(np.array(alike) > 0.3) < 0.06, np.mean(np.array(alike) > 0.3)


def test_messages_are_translated(corpora):
    pairs = {(row["source"], row["target"]) for row in corpora["messages_es"].to_pylist()}
    assert {("Saturday", "sábado"), ("Directory not found", "Directorio no encontrado")} <= pairs


# ---------------------------------------------------------------- what a text may be


def test_unusual_texts_go_through_the_codec_as_they_are():
    long, spelt = "a b" * 33_334, "<|sep|> <sep> [SEP] </s> <pad> <eos> Ġ"
    odd = ["שלום לכולם \u200f", "😀🏽👩‍👩‍👧 é é", "tab\tand\nlines\r\n", "  spaces  ", "\ufeff\u2028\u202e\ufffe", spelt, "0", long]
    data = texts(odd)
    codec = TextCodec.fit(data)
    assert codec.left_out == 1, "the one that is too long to be learnt"
    tokens = list(codec.tokens(data))
    assert all(set(row) & {PAD, BOS, BACK, SEP, EOS} == {EOS} for row in tokens), "no text spells a sign of the codec"
    rows = codec.encode(data, np.random.default_rng(0))
    back = codec.decode(rows, np.random.default_rng(0), start=0, seed=0)
    assert back.table["said"].to_pylist() == [text for text in data.table["said"].to_pylist() if text != long]
    assert data.schema["said"].high == 110_000


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "is empty"), (" \n\t ", "is empty"), ("a\0b", "control character"), ("a\x1b[0m", "control"), ("a\x85b", "control")],
)
def test_what_is_no_text_is_refused_by_its_row(text, said):
    with pytest.raises(BadInput, match=f"'said': the text of row 2 .*{said}") as error:
        texts(["first", text, "third"])
    assert text.strip() not in str(error.value) or not text.strip()


def test_a_table_may_have_notes_that_are_empty():
    table = pa.table({"note": ["", *(f"plain words of row {i}" for i in range(79))], "size": [float(i) for i in range(80)]})
    assert Schema.infer(table, kinds={"note": "text"})["note"].kind == "text"


def test_texts_in_a_csv_are_kept(tmp_path):
    odd = ["שלום לכולם", "😀🏽 hello", "two\nlines, and a comma", 'a "quote" <|sep|>', "a" * 50_000 + " " + "b" * 50_000]
    rows = [*odd, *(f"plain words of row {i}" for i in range(60))]
    quoted = ['"' + text.replace('"', '""') + '"' for text in rows]
    path = written(tmp_path, "said,kind\n" + "".join(f"{text},{'xy'[i % 2]}\n" for i, text in enumerate(quoted)), "a.csv")
    assert read(path).table["said"].to_pylist() == rows
    for odd_one, said in (("a\0b", "NUL bytes"), ("\x01\x02" * 200, "control characters")):
        with pytest.raises(BadInput, match=said):
            read(written(tmp_path, f"said,kind\n{odd_one},x\nwords and more,y\n", "b.csv"))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 3], np.int32)), pa.py_buffer(b"\xed\xa0\x80"))  # a surrogate
    pq.write_table(pa.table({"said": pa.concat_arrays([broken] * 60)}), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match=r"'said' holds .* not UTF-8"):
        read(str(tmp_path / "a.parquet"))


def test_unfit_texts_are_not_made():
    schema = texts(["some words"]).schema
    made = pa.table({"said": ["good words", "", "a\0b", "w " * 500, "other words"]})
    wrong = Texts.of(schema, None).unfit(made)
    assert {what: rows.tolist() for what, rows in wrong.items() if rows.any()} == {
        "an empty text": [False, True, False, False, False],
        "a text with a control character": [False, False, True, False, False],
        "a text that is too long": [False, False, False, True, False],
    }


def test_summaries_that_name_what_their_document_lacks_are_not_made():
    lines = ["Runs Linux.", "Runs Windows.", "Runs 4 times.", "Runs it 3 times."]
    table = pa.table({"page": ["it runs Linux 3 times"] * 60, "line": 15 * lines})
    schema = Schema.infer(table, target="line", kinds={"page": "text", "line": "text"}, task="summarisation")
    what = "a name or number that the document lacks"
    assert Texts.of(schema, None).unfit(table)[what].tolist() == 15 * [False, True, True, False]
    other = Schema.infer(table, target="line", kinds={"page": "text", "line": "text"}, task="translation")
    assert what not in Texts.of(other, None).unfit(table)


# ---------------------------------------------------------------- splits


def test_near_copies_of_a_text_stay_on_one_side():
    rng = np.random.default_rng(0)
    words = [f"turn {a} the {b} now" for a in "abcdefgh" for b in "ijklmnopqrstuvw"]
    said = [" ".join(rng.permutation(text.upper().split() if i % 3 else text.split())) for i in range(4) for text in words]
    kinds = ["x" if len(text) and "a" in text.lower().split() else "y" for text in said]
    table = pa.table({"said": said, "kind": kinds, "more": [f"words {i} of it" for i in range(len(said))]}).select(["said", "kind"])
    data = Dataset.of(table, Schema.infer(table, target="kind", kinds={"said": "text", "kind": "category"}))
    parts = split(data, seed=1)
    train, test = (set(keys(part.table, [data.schema["said"]])) for part in parts)
    assert not train & test
    assert len(parts.test) == pytest.approx(0.2 * len(data), rel=0.1)
    share = [part.table["kind"].to_pylist().count("x") / len(part) for part in parts]
    assert share[0] == pytest.approx(share[1], abs=0.03), "labels stay stratified"


def test_a_source_text_is_not_in_train_and_test():
    table = pa.table({"source": [f"word {i // 3} and more" for i in range(300)], "target": [f"palabra número {i}" for i in range(300)]})
    data = Dataset.of(table, Schema.infer(table, target="target", kinds=dict.fromkeys(table.column_names, "text")))
    train, test = (set(part.table["source"].to_pylist()) for part in split(data))
    assert not train & test
    assert len(train | test) == 100
    few = Dataset(data.schema, pa.table({"source": ["the same words"] * 60, "target": [f"palabra número {i}" for i in range(60)]}))
    with pytest.raises(BadInput, match="'source' holds 1 different texts"):
        split(few)
