"""Twenty planted canaries: they are in no file of a release, no report, log, suite or card; where they are, nothing is published."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.images import column
from data.schema import Dataset, Schema
from data.sources import read
from data.split import split
from evaluators import leaks
from evaluators.quality import suite
from flows import pipeline, publishing
from flows.job import Job
from generators.registry import make

CANARIES = 20
WORDS = [f"Quetzalcanary{chr(97 + i)}x{i:02d}" for i in range(CANARIES)]
NUMBERS = [round(987654.3201 + 1234.5 * i**1.7, 4) for i in range(CANARIES)]
LOOSE = {"utility": -99, "detector": 1, "shape": 100, "trend": 100, "copies": 1, "dcr": 100, "membership": 1, "informed": 1, "singling": 1}
LOOSE |= {"inference": 1, "near": 1, "spans": 1, "leaks": 1, "coverage": 0}


def people(n: int = 600) -> pa.Table:
    """Ordinary rows, and twenty that each hold a category, an id and a number that nobody else has."""
    rng = np.random.default_rng(0)
    place = rng.choice(n, CANARIES, replace=False)
    city = np.array(["Valencia", "Castellon", "Alicante"])[rng.integers(3, size=n)].astype(object)
    key = np.array([f"K-{i:07d}" for i in rng.choice(10**7, n, replace=False)], dtype=object)
    income = np.round(rng.lognormal(7, 1, n), 4)
    city[place], key[place], income[place] = WORDS, [f"ID-{word}" for word in WORDS], NUMBERS
    wide = (income > np.median(income)).astype(int)
    return pa.table({"key": key, "city": city, "income": income, "rich": np.where(wide, "yes", "no")})


def everything_in(folder) -> bytes:
    """Every byte below a folder, and what its parquet files decode to."""
    raw = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            raw.append(path.read_bytes())
            if path.suffix == ".parquet":
                table = pq.read_table(path)
                raw += [json.dumps(table.to_pylist(), default=repr).encode(), *(v for v in table.schema.metadata.values())]
    return b"\n".join(raw)


def found_in(content: bytes, words=WORDS, numbers=()) -> list[str]:
    """The canaries that stand in some bytes."""
    raw = [value for number in numbers for value in (np.float64(number).tobytes(), f"{number:.4f}".encode(), f"{number:,.4f}".encode())]
    return [w for w in words if re.search(re.escape(w).encode(), content, re.IGNORECASE)] + [repr(v) for v in raw if v in content]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALFAR_HOME", str(tmp_path / "home"))


def order(source: str, generator, **more) -> Job:
    return Job.of({"source": source, "name": "birds", "generator": generator, "gates": LOOSE, "to": "out", **more})


def test_canaries_of_a_table_are_nowhere(tmp_path, capfd):
    csv.write_csv(people(), "birds.csv")
    assert found_in((tmp_path / "birds.csv").read_bytes()) == WORDS
    outcome = pipeline.synthesize(order("birds.csv", {"name": "tabular/made", "training": {"steps": 60}}, target="rich", rows=3000))
    assert outcome.passed, outcome.manifest["reasons"]
    assert [g["passed"] for g in outcome.manifest["gates"] if g["name"] == "files"] == [True]
    said = json.dumps(suite(Schema.from_json(outcome.manifest["schema"]))).encode() + "".join(capfd.readouterr()).encode()
    log = (tmp_path / "home/runs/birds/metrics.jsonl").read_bytes()
    assert found_in(everything_in(tmp_path / "out") + said + log, numbers=NUMBERS) == []


def test_without_the_protection_of_rare_values_nothing_is_published(tmp_path, monkeypatch):
    csv.write_csv(people(), "birds.csv")
    monkeypatch.setattr("generators.codecs.columns.RARE", 1)
    outcome = pipeline.synthesize(order("birds.csv", "tabular/marginal", target="rich"))
    assert any(reason.startswith("files is") for reason in outcome.manifest["reasons"])
    assert not list((tmp_path / "out").glob("birds/v*"))
    why = next(g["why"] for g in outcome.manifest["gates"] if g["name"] == "files")
    assert "model/model.json (column city)" in why
    assert not (outcome.folder / "model/model.json").exists()
    rest = b"".join(p.read_bytes() for p in outcome.folder.rglob("*") if p.is_file() and p.suffix != ".parquet")
    assert found_in(rest) == []  # nor do the gate, its reason, the report or the card spell it


def released(recipe, real) -> bytes:
    """Every byte of a release of a model that was fitted to these rows; the search has found nothing in it."""
    recipe.fit(real.train, seed=0).save(Path("model"))
    outcome = publishing.resample(Path("model"), 60, 0, publishing.Asked(), "birds", "out")
    assert outcome.manifest["verdict"] == "sampled"
    assert (outcome.folder / "report.html").exists()
    assert (outcome.folder / "model/model.safetensors").exists()
    files = {p.name: p.read_bytes() for p in outcome.folder.rglob("*") if p.is_file() and p.suffix != ".parquet"}
    assert leaks.search(leaks.Secrets.of(real), files) == []
    return everything_in(Path("out")) + json.dumps(suite(real.train.schema)).encode()


def test_canaries_of_texts_are_nowhere(capfd):
    rng = np.random.default_rng(0)
    verbs, things = ["open", "close", "paint", "clean", "lift"], ["door", "window", "table", "garden gate", "lamp"]
    texts = [f"please {v} the {t} in the {r}" for v in verbs for t in things for r in ("hall", "kitchen", "attic", "shed")] * 4
    labels = [text.split()[1] for text in texts]
    for word, place in zip(WORDS, rng.choice(len(texts), CANARIES, replace=False), strict=True):
        texts[place] = f"please {labels[place]} the door for {word} at once {10**9 + place}"
    table = pa.table({"text": texts, "intent": labels})
    real = split(Dataset.of(table, Schema.infer(table, target="intent", kinds={"text": "text"})))
    planted = leaks.Secrets.of(real).strings
    assert sum(word.encode() in planted for word in WORDS) >= CANARIES // 2  # those of the training rows are looked for
    whole = released(make("text/gpt", {"width": 32, "depth": 1, "training": {"steps": 40, "batch": 32}}), real)
    assert found_in(whole + "".join(capfd.readouterr()).encode()) == []


def test_canaries_of_images_are_nowhere(tmp_path, capfd):
    rng = np.random.default_rng(0)
    canaries = []
    for label in ("left", "right"):
        (tmp_path / "birds" / label).mkdir(parents=True)
        for number in range(60):
            name, image = f"{number:03d}", np.zeros((16, 16), dtype=np.uint8)
            image[4:12, 2:8] = rng.integers(150, 220)
            image = np.clip(image + rng.integers(0, 40, (16, 16)), 0, 255).astype(np.uint8)
            if number < CANARIES // 2:
                name, image = WORDS[number + (CANARIES // 2 if label == "right" else 0)], rng.integers(0, 256, (16, 16)).astype(np.uint8)
                canaries.append(image)
            Image.fromarray(image).save(tmp_path / "birds" / label / f"{name}.png")
    source = read(str(tmp_path / "birds"))
    real = split(Dataset.of(source.table, Schema.infer(source.table, target="label", kinds=source.kinds)))
    whole = released(make("image/gmm", {"components": 2}), real) + "".join(capfd.readouterr()).encode()
    assert found_in(whole) == []
    for image in canaries:
        line = np.ascontiguousarray(image[5])
        assert line.tobytes() not in whole
        assert (line / np.float32(127.5) - 1).astype(np.float32).tobytes() not in whole


def test_an_image_is_found_as_a_file_and_as_pixels(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (1, 16, 16)).astype(np.uint8) for _ in range(60)]
    table = pa.table({"image": column(images)})
    secrets = leaks.Secrets.of(split(Dataset.of(table, Schema.infer(table, kinds={"image": "image"}))))
    for content in (
        table["image"][3]["bytes"].as_py(),
        images[3].tobytes(),
        (images[3] / np.float32(127.5) - 1).astype(np.float32).tobytes(),
    ):
        assert leaks.search(secrets, {"model.safetensors": b"." * 99 + content}) == [{"file": "model.safetensors", "column": "image"}]


# ---------------------------------------------------------------- the search


def real():
    table = people()
    return split(Dataset.of(table, Schema.infer(table, target="rich", kinds={"key": "id"})))


def test_the_search_finds_each_canary_wherever_it_stands():
    secrets = leaks.Secrets.of(real())
    noise = np.random.default_rng(0).bytes(leaks.BLOCK + 1000)
    for word in WORDS:
        for file in ("model/model.safetensors", "report.html", "release.json"):
            content = json.dumps({"a": [f"say {word}."]}).encode() if file.endswith("json") else noise + word.encode() + noise
            assert leaks.search(secrets, {file: content}) == [{"file": file, "column": "city"}]
    for number in [n for n in NUMBERS if n in [v for s in real() for v in s.table["income"].to_pylist()]][-leaks.RARE :]:
        for content in (np.float64(number).tobytes(), f"<td>{number:.4f}</td>".encode(), f"{number:,.4f}".encode()):
            assert leaks.search(secrets, {"x.bin": noise + content + noise}) == [{"file": "x.bin", "column": "income"}]
    across = noise[: leaks.BLOCK - 5] + WORDS[0].encode()
    assert leaks.search(secrets, {"x.bin": across})
    assert leaks.search(secrets, {"x.bin": noise}) == []


def test_short_rare_values_are_found_among_the_strings_of_json_alone():
    table = people().append_column("pet", pa.array(["cat", "dog"] * 299 + ["emu", "cat"]))
    data = split(Dataset.of(table, Schema.infer(table, target="rich", kinds={"key": "id"})))
    secrets = leaks.Secrets.of(data)
    assert leaks.search(secrets, {"m.json": b'{"values": ["cat", "emu"]}'}) == [{"file": "m.json", "column": "pet"}]
    assert leaks.search(secrets, {"m.json": b'{"values": ["cat", "emus"]}', "r.html": b"emu"}) == []


def test_what_the_schema_publishes_and_the_program_says_is_no_secret():
    secrets = leaks.Secrets.of(real())
    assert not {b"Valencia", b"Castellon"} & secrets.strings.keys()
    assert "membership" in leaks.program()
