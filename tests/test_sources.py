"""What real tables are read from, and what is refused in one sentence."""

import datetime as dt
import sqlite3
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import BadInput
from data.schema import Schema
from data.sources import catalogue, path_name, read, slug

HERE = Path(__file__).parent.parent
EASY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(folder: Path, content: str | bytes, name: str = "t.csv") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def column(folder: Path, *values: str, delimiter: str = ",") -> pa.ChunkedArray:
    rows = "\n".join(f"{i}{delimiter}{value}" for i, value in enumerate(values))
    return read(written(folder, f"i{delimiter}v\n{rows}\n")).table["v"]


# ---------------------------------------------------------------- built-in


@pytest.mark.parametrize("name", list(catalogue()))
def test_every_built_in_loads_as_stated(name):
    source, entry = read(name), catalogue()[name]
    assert source.name == name
    for rows, stated in ((len(source.table), entry.rows), (len(source.test) if source.test else 0, entry.held)):
        assert rows == stated or (entry.about and 0.7 < rows / stated < 1.4)
    assert not any(pa.types.is_dictionary(c.type) for c in source.table.columns)
    assert not [n for n in source.table.column_names if n in ("index", "Unnamed: 0") or n.startswith("__")]
    schema = Schema.infer(source.table, target=source.target, kinds=source.kinds, task=source.task)
    assert schema.task in (
        "classification",
        "regression",
        "segmentation",
        "translation",
        "text-to-code",
        "summarisation",
        "captioning",
        "image-to-image",
    )
    assert source.task in (None, schema.task)
    assert schema.modality == entry.modality


def test_the_catalogue_imports_nothing_heavy():
    heavy = "'sklearn', 'plotnine', 'statsmodels', 'pandas', 'sqlalchemy', 'django', 'sphinx', 'polib'"
    code = f"import sys; from data.sources import catalogue; catalogue(); print([m for m in ({heavy}) if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE, check=True).stdout.strip() == "[]"


def test_a_built_in_is_the_table_its_package_ships():
    from plotnine.data import diamonds

    ours = read("diamonds").table.to_pandas()
    pd.testing.assert_frame_equal(ours, diamonds.astype(dict.fromkeys(("cut", "color", "clarity"), "object")), check_dtype=False)


# ---------------------------------------------------------------- delimited text


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_delimiter_and_encoding_are_found_out(tmp_path, delimiter, encoding, newline):
    rows = [["Größe", "Stadt", "n"]] + [["groß", "Århus, Besançon; Málaga" if delimiter in "\t|" else "Málaga", str(i)] for i in range(40)]
    source = read(written(tmp_path, newline.join(delimiter.join(r) for r in rows).encode(encoding)))
    assert source.table.column_names == rows[0]
    assert source.table.to_pylist()[7] == {"Größe": "groß", "Stadt": rows[1][1], "n": 7}
    assert any(encoding.split("-sig")[0] in note for note in source.notes)


def test_told_delimiter_and_encoding_win(tmp_path):
    path = written(tmp_path, "a:b\nпривет:1\nмир:2\n".encode("koi8_r"))
    assert read(path, delimiter=":", encoding="koi8_r").table.to_pydict() == {"a": ["привет", "мир"], "b": [1, 2]}
    with pytest.raises(BadInput, match="encoding"):
        read(path, encoding="klingon")
    with pytest.raises(BadInput, match="utf-8"):
        read(path, encoding="utf-8")
    with pytest.raises(BadInput, match="delimiter must be one character"):
        read(path, delimiter="::", encoding="koi8_r")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2", "+3", "0"], pa.int64()),
        (["1", "", "NA", "-", "?", "null", "None", "N/A", "NaN"], pa.int64()),
        (["1.5", "-2", ".5", "1e-3", "7."], pa.float64()),
        (["1", "inf", "-Infinity"], pa.float64()),
        (["True", "FALSE", "true"], pa.bool_()),
        (["007", "010", "123"], pa.string()),
        (["-01", "3"], pa.string()),
        (["12345678901234567890", "12345678901234567891"], pa.string()),
        (["1", "2", "three"], pa.string()),
        (["inf", "inf"], pa.string()),
        (["2024-02-29", "1999-12-31", ""], pa.date32()),
        (["2024/02/29", "1999/12/31"], pa.date32()),
        (["2023-02-29", "2024-01-01"], pa.string()),
        (["2024-02-29 23:59", "2024-02-29T01:02:03.123456789"], pa.timestamp("us")),
        (["2024-02-29T23:59:00Z"], pa.timestamp("us", "UTC")),
        (["2024-02-29 23:59:00+02:00"], pa.timestamp("us", "+02:00")),
        (["2024-02-29 23:59:00+02:00", "2024-02-29 23:59:00+01:00"], pa.timestamp("us", "UTC")),
        (["2024-02-29 23:59:00+02:00", "2024-02-29 23:59:00"], pa.string()),
        (["31/12/2024", "01/02/2024"], pa.date32()),
        (["12/31/2024", "01/02/2024"], pa.date32()),
        (["31/12/2024", "12/31/2024"], pa.string()),
        (["31/02/2024", "01/02/2024"], pa.string()),
        (["31.12.2024 7:05", "01.02.2024 23:00"], pa.timestamp("us")),
        (["12/31/2024 7:05 PM", "1/2/2024 12:00 AM"], pa.timestamp("us")),
        (["1.2.3", "4.5.6"], pa.string()),
    ],
)
def test_types_of_text_columns(tmp_path, values, kind):
    found = column(tmp_path, *values)
    assert found.type == kind
    assert len(found) == len(values)


def test_dates_mean_what_they_say(tmp_path):
    assert column(tmp_path, "31/12/2024", "01/02/2024").to_pylist()[1] == dt.date(2024, 2, 1)
    assert column(tmp_path, "12/31/2024", "01/02/2024").to_pylist()[1] == dt.date(2024, 1, 2)
    assert column(tmp_path, "01.02.2024").to_pylist() == [dt.date(2024, 2, 1)]
    assert column(tmp_path, "12/31/2024 7:05 PM", "1/2/2024 12:00 AM").to_pylist() == [
        dt.datetime(2024, 12, 31, 19, 5),
        dt.datetime(2024, 1, 2),
    ]
    zoned = column(tmp_path, "2024-02-29 23:59:00+02:00", "2024-02-29 23:59:00+01:00").to_pylist()
    assert zoned[1] - zoned[0] == dt.timedelta(hours=1)


def test_decimal_commas_with_semicolons_only(tmp_path):
    assert column(tmp_path, "1,5", "-2", "1.234,5", delimiter=";").to_pylist() == [1.5, -2.0, 1234.5]
    assert column(tmp_path, "1.5", "2.25", delimiter=";").to_pylist() == [1.5, 2.25]
    assert pa.types.is_string(column(tmp_path, '"1,5"', '"2,25"').type)


def test_values_are_trimmed_and_quotes_understood(tmp_path):
    table = read(written(tmp_path, 'a, b\n 1, x\n2,"say ""hi"", you"\n3,"two\nlines"\n')).table
    assert table.to_pydict() == {"a": [1, 2, 3], "b": ["x", 'say "hi", you', "two\nlines"]}


def test_one_column_when_plausible(tmp_path):
    assert read(written(tmp_path, "height\n1.5\n2.5\n")).table.to_pydict() == {"height": [1.5, 2.5]}
    assert read(written(tmp_path, "note\nall is well\nno\n")).table.num_columns == 1
    with pytest.raises(BadInput, match="give it as the delimiter"):
        read(written(tmp_path, "a b c\n1 2 3\n4 5 6\n"))
    with pytest.raises(BadInput, match="no delimiter fits"):
        read(written(tmp_path, "a\n1,2,3\n4,5,6\n"))


@EASY
@given(
    st.lists(
        st.tuples(st.integers(-(2**50), 2**50), st.floats(allow_nan=False, width=64), st.dates(dt.date(1000, 1, 1)), st.booleans()),
        min_size=1,
    ),
    st.sampled_from([",", ";", "\t", "|"]),
)
def test_what_pandas_writes_comes_back(tmp_path, rows, delimiter):
    frame = pd.DataFrame(rows, columns=["i", "f", "d", "b"])
    path = tmp_path / "t.csv"
    frame.to_csv(path, index=False, sep=delimiter)
    if np.isinf(frame["f"]).all():
        return
    table = read(str(path)).table
    assert table["i"].to_pylist() == frame["i"].tolist()
    np.testing.assert_array_equal(table["f"].to_numpy(), frame["f"].to_numpy())
    assert table["d"].to_pylist() == frame["d"].tolist()
    assert table["b"].to_pylist() == frame["b"].tolist()


@EASY
@given(
    st.lists(st.text(st.characters(exclude_categories=("C", "Z")), min_size=1), min_size=1, max_size=30),
    st.sampled_from([",", ";", "\t", "|"]),
)
def test_any_text_survives_quoting(tmp_path, words, delimiter):
    words = [f"x{word}é" for word in words]
    path = tmp_path / "t.csv"
    pd.DataFrame({"n": range(len(words)), "word": words}).to_csv(path, index=False, sep=delimiter)
    assert read(str(path)).table["word"].to_pylist() == words


@EASY
@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused_in_one_sentence(tmp_path, content):
    path = written(tmp_path, content)
    try:
        rows, said = read(path).table.num_rows, ""
    except BadInput as error:
        rows, said = 1, str(error)
    assert rows > 0
    assert "\n" not in said


def secret(message: str) -> bool:
    return "hunter2" in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ("a,b,c\n", "no rows"),
        ("a,b,c", "no rows"),
        ("a,b\n1,2\n1,2,hunter2\n3,4\n", "row 3 has 3 values where the header has 2"),
        ("a,b\n1,2\nhunter2\n3,4\n", "row 3 has 1 values where the header has 2"),
        ("a,b,a\n1,2,3\n", "two columns are called 'a'"),
        ("a,,c\n1,2,3\n", "column 2 has an empty name"),
        ("a,b<script>\n1,2\n", "column 2"),
        ('a,"b\nc"\n1,2\n', "column 2"),
        (f"a,{'b' * 10_000}\n1,2\n", "10,000 characters"),
        ('a,b\n1,2\n3,"hunter2\n5,6\n7,8\n', "line 3 is never closed"),
        ('a,b\n1,2\n3,"hunter2' + "\n5,6" * 60_000, "never closed"),
        (b"PAR1\x00\x01\x02\x00\x00\x15", "not a text file"),
        (b"a,b\n1,2\n\x00,3\n", "NUL"),
        (bytes(range(1, 32)) * 20, "not a text file"),
        ("a,b\n1," + "x" * 9_000_000, "8,000,000 characters"),
    ],
)
def test_bad_text_files(tmp_path, content, says):
    with pytest.raises(BadInput, match=says) as caught:
        read(written(tmp_path, content))
    assert not secret(str(caught.value))


def test_bad_paths(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        read(str(tmp_path / "none.csv"))
    with pytest.raises(BadInput, match="does not exist"):
        read("none.parquet")
    (tmp_path / "f.csv").mkdir()
    with pytest.raises(BadInput, match="folder where a file is expected"):
        read(str(tmp_path / "f.csv"))
    with pytest.raises(BadInput, match="no parquet file"):
        read(str(tmp_path))
    with pytest.raises(BadInput, match="did you mean 'diamonds'"):
        read("dimonds")
    for odd in ("", "\0", "x" * 5000, "no such thing"):
        with pytest.raises(BadInput):
            read(odd)
    with pytest.raises(BadInput, match="database URL"):
        read("wine", query="select 1")


# ---------------------------------------------------------------- parquet


def test_parquet_file_folder_and_release_folder(tmp_path):
    frame = pd.DataFrame({"c": pd.Categorical(["a", "b", None]), "n": [1, 2, 3]}, index=["x", "y", "z"])
    home = tmp_path / "shop" / "v3"
    (home / "data").mkdir(parents=True)
    frame.to_parquet(home / "data" / "train-00000-of-00002.parquet")
    frame.to_parquet(home / "data" / "train-00001-of-00002.parquet")
    (home / "README.md").write_text("not parquet")
    for place, rows in ((home, 6), (home / "data", 6), (home / "data" / "train-00000-of-00002.parquet", 3)):
        source = read(str(place))
        assert source.table.num_rows == rows
        assert source.table.schema == pa.schema([("c", pa.string()), ("n", pa.int64())])
        assert source.table["c"].to_pylist()[:3] == ["a", "b", None]
        assert source.name == "shop"


def test_bad_parquet(tmp_path):
    good = tmp_path / "good.parquet"
    pq.write_table(pa.table({"a": list(range(5000))}), good)
    whole = good.read_bytes()
    for position, content in enumerate([b"", b"PAR1", whole[: len(whole) // 2], b"junk" * 100, whole[:100] + b"\xff" * 200 + whole[300:]]):
        bad = tmp_path / f"bad{position}.parquet"
        bad.write_bytes(content)
        with pytest.raises(BadInput, match="cannot be read as parquet"):
            read(str(bad))
    folder = tmp_path / "mixed"
    folder.mkdir()
    pq.write_table(pa.table({"a": [1]}), folder / "1.parquet")
    pq.write_table(pa.table({"b": [1]}), folder / "2.parquet")
    with pytest.raises(BadInput, match="differ in column"):
        read(str(folder))
    pq.write_table(pa.table({"a": ["x"]}), folder / "2.parquet")
    with pytest.raises(BadInput, match="different types"):
        read(str(folder))


# ---------------------------------------------------------------- SQL


@pytest.fixture
def shop(tmp_path):
    base = sqlite3.connect(tmp_path / "My Shop.db")
    base.execute("create table orders (id integer, paid text, price real, note text, mixed)")
    rows = [
        (i, f"2024-01-{i % 28 + 1:02d}", i / 4 if i % 3 else None, "it's; fine" if i % 2 else None, i if i % 2 else "x") for i in range(100)
    ]
    base.executemany("insert into orders values (?, ?, ?, ?, ?)", rows)
    base.commit()
    base.close()
    return f"sqlite:///{tmp_path / 'My Shop.db'}"


def test_sql_to_arrow(shop):
    source = read(shop, query="select * from orders where note is null or note like 'it''s; %' order by id;")
    assert source.name == "my-shop"
    types = {name: str(source.table[name].type) for name in source.table.column_names}
    assert types == {"id": "int64", "paid": "date32[day]", "price": "double", "note": "string", "mixed": "string"}
    assert source.table["price"].null_count == 34
    assert read(shop, query="with t as (select id from orders) select count(*) as n from t").table.to_pydict() == {"n": [100]}


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (None, "orders"),
        ("  ", "orders"),
        ("selec * from orders", "one SELECT"),
        ("select * from nowhere", "no such table"),
        ("select nope from orders", "no such column"),
        ("select * from", "refused"),
        ("delete from orders", "one SELECT"),
        ("select 1; drop table orders", "more than one statement"),
        ("with t as (select 1) delete from orders", "one SELECT"),
        ("/* select */ drop table orders", "one SELECT"),
        ("attach 'x.db' as x", "one SELECT"),
        ("pragma writable_schema = 1", "one SELECT"),
        ("select id, id from orders", "two columns"),
        ("select * from orders where id < 0", "no rows"),
    ],
)
def test_bad_queries(shop, query, says):
    with pytest.raises(BadInput, match=says):
        read(shop, query=query)
    assert read(shop, query="select count(*) as n from orders").table["n"][0].as_py() == 100


def test_a_database_is_never_made_nor_its_password_shown(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        read(f"sqlite:///{tmp_path / 'none.db'}", query="select 1")
    assert not list(tmp_path.iterdir())
    (tmp_path / "text.db").write_text("not a database at all, hunter2" * 100)
    for url in (
        f"sqlite:///{tmp_path / 'text.db'}",
        "sqlite://",
        "postgresql://me:hunter2@nowhere.invalid/x",
        "oops://me:hunter2@h/x",
        "://hunter2",
    ):
        with pytest.raises(BadInput) as caught:
            read(url, query="select * from t")
        assert not secret(str(caught.value))


def test_sql_values_of_every_kind():
    from data.sources.sql import array, unified

    assert unified([array([None, None]), array([1, None])]).type == pa.int64()
    assert unified([array([1]), array([1.5])]).to_pylist() == [1.0, 1.5]
    assert unified([array([Decimal("1.50"), None])]).type == pa.decimal128(3, 2)
    assert unified([array([dt.date(2024, 1, 1)])]).type == pa.date32()
    assert unified([array([1]), array(["x"])]).to_pylist() == ["1", "x"]
    assert unified([array([2**70, 1])]).to_pylist() == [str(2**70), "1"]


# ---------------------------------------------------------------- names


@given(st.text(max_size=200))
def test_a_slug_is_always_a_safe_folder(text):
    import re

    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,59}", slug(text))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/Sales 2024.csv", "sales-2024"),
        ("adult/train.parquet", "adult"),
        ("data.parquet", "data"),
        ("x/data/train.csv", "x"),
        ("_.csv", "dataset"),
    ],
)
def test_names_of_paths(path, name):
    assert path_name(Path(path)) == name


def test_the_fingerprint_is_of_content(tmp_path):
    one = read(written(tmp_path, "a,b\n1,2\n3,4\n", "one.csv"))
    same = read(written(tmp_path, "a;b\r\n1;2\r\n3;4\r\n", "two.csv"))
    other = read(written(tmp_path, "a,b\n1,2\n3,5\n", "three.csv"))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert len(one.fingerprint) == 16


def test_a_fifo_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.csv")
    done = threading.Event()

    def attempt():
        with pytest.raises(BadInput):
            read(str(tmp_path / "pipe.csv"))
        done.set()

    threading.Thread(target=attempt, daemon=True).start()
    assert done.wait(5)
