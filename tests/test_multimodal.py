"""The laws of every generator of captioned images, run on every "multimodal/" line of the registry, and their data, judge and pages.

Captions name real digits: "a 3", or "a 3 then a 7" of an image of two.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from data.errors import BadInput
from data.images import column, pixels
from data.schema import Dataset, Schema, Split
from data.sources import captioned as source
from data.sources import read
from data.texts import keys, recurring, words
from evaluators import captions as judge
from evaluators import features, image
from evaluators.pictures import both_ways, paired
from flows.job import Job
from flows.publishing import synthesize
from generators import fitted as module
from generators import train as loop
from generators.codecs.caption import CaptionCodec
from generators.codecs.text import EOS, FIRST
from generators.fitted import Fitted
from generators.multimodal.caption_image import CODE
from generators.nets.quantised import DEAD, Quantiser
from generators.registry import DEFAULT, make, name_of, names

NAMES = names("multimodal")
SMALL = {"codes": 32, "coding": 0.4, "hidden": 16, "width": 32, "depth": 1, "training": {"steps": 30, "batch": 32}}
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@cache
def digits(kind: str = "captioned") -> Dataset:
    """Real digits, 8 by 8, alone or two side by side, with what they are in words; "labelled" with how many there are, too."""
    from sklearn.datasets import load_digits

    bunch, rng = load_digits(), np.random.default_rng(0)
    x, counts = (bunch.images * 255 / 16).round().astype(np.uint8), rng.integers(1, 3, 240)
    rows = [rng.integers(0, len(x), 2)[:count] for count in counts]
    images = [np.concatenate([*(x[i] for i in row), *([np.zeros((8, 8), np.uint8)] * (2 - len(row)))], axis=1)[None] for row in rows]
    said = [" then ".join(f"a {WORDS[bunch.target[i]]}" for i in row) for row in rows]
    table = pa.table({"image": column(images), "caption": said, "count": pa.array(counts.astype(str))})
    table, target = (table, "count") if kind == "labelled" else (table.drop_columns(["count"]), "caption" if kind == "captioned" else None)
    return Dataset.of(table, Schema.infer(table, target=target, kinds={"caption": "text"}))


KINDS = ("captioned", "labelled", "alone")


@cache
def fitted(name: str, kind: str = "captioned") -> Fitted:
    return make(name, SMALL).fit(digits(kind), seed=0)


# ---- the laws


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_length_and_schema_are_as_asked(name, kind):
    for n in (1, 30):
        made = fitted(name, kind).sample(n, seed=1)
        assert len(made) == n
        assert made.schema == digits(kind).schema
        assert made.table.schema.equals(digits(kind).table.schema, check_metadata=True)
        assert pixels(made.table["image"]).shape == (n, 1, 8, 16)
        assert all(text.strip() for text in made.table["caption"].to_pylist())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_sample_of_a_model_and_of_a_saved_one(name, kind, tmp_path):
    model = fitted(name, kind)
    assert model.sample(20, seed=1).table.equals(model.sample(20, seed=1).table)
    assert not model.sample(20, seed=1).table.equals(model.sample(20, seed=2).table)
    model.save(tmp_path)
    loaded = Fitted.load(tmp_path)
    assert name_of(type(loaded.generator)) == name
    assert loaded.sample(20, seed=1).table.equals(model.sample(20, seed=1).table)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("phase", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_was_killed_in_either_phase_is_the_same_run(name, phase, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    ends = []

    def kill(done, total, words):
        ends.extend([total] if done == total else [])
        if done == 10 and len(ends) == phase:
            raise KilledError

    with pytest.raises(KilledError):
        make(name, SMALL).fit(digits(), seed=0, folder=tmp_path, progress=kill)
    resumed = make(name, SMALL).fit(digits(), seed=0, folder=tmp_path)
    for key, tensor in fitted(name).net.state_dict().items():
        assert torch.equal(tensor, resumed.net.state_dict()[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_given_fixes_the_label(name):
    made = fitted(name, "labelled").sample(12, seed=0, given={"count": "2"})
    assert made.table["count"].to_pylist() == ["2"] * 12
    with pytest.raises(BadInput, match="cuont"):
        fitted(name, "labelled").sample(1, given={"cuont": "2"})


@pytest.mark.parametrize("name", NAMES)
def test_no_row_repeats_the_words_of_one_to_avoid(name):
    made, columns = fitted(name).sample(30, seed=3, avoid=digits()), [digits().schema["caption"]]
    assert not np.isin(keys(made.table, columns), keys(digits().table, columns)).any()


@pytest.mark.parametrize("name", NAMES)
def test_chunks_are_the_sample(name, monkeypatch):
    model = fitted(name)
    monkeypatch.setattr(module, "CELLS", 20 * model.codec.cells)
    parts = list(model.stream(50, seed=5))
    assert [len(part) for part in parts] == [20, 20, 10]
    assert pa.concat_tables([p.table for p in parts]).combine_chunks().equals(model.sample(50, seed=5).table)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_it_answers_both_ways(name, kind):
    model, asked = fitted(name, kind), digits(kind).take(np.arange(10))
    images, captions = model.answer(asked, seed=0, back=True), model.answer(asked)
    assert images.table["caption"].equals(asked.table["caption"])
    assert not np.array_equal(pixels(images.table["image"]), pixels(asked.table["image"]))
    assert np.array_equal(pixels(captions.table["image"]), pixels(asked.table["image"]))
    assert captions.table.equals(model.answer(asked).table)
    assert images.table.equals(model.answer(asked, seed=0, back=True).table)
    assert model.answer(asked, seed=1).table["caption"].to_pylist() != model.answer(asked, seed=2).table["caption"].to_pylist()


@pytest.mark.parametrize("name", NAMES)
def test_a_model_file_holds_no_training_image(name, tmp_path):
    fitted(name).save(tmp_path)
    rows = torch.from_numpy(pixels(digits().table["image"])).flatten(1).double()
    rows = (rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)
    for key, tensor in load_file(tmp_path / "model.safetensors").items():
        assert len(digits()) not in tensor.shape, f"{key} has an entry an image"
        values = tensor.double().flatten()
        if len(values) >= 128 and len(values) % 128 == 0:
            stored = values.view(-1, 128)
            stored = (stored - stored.mean(1, keepdim=True)) / stored.std(1, keepdim=True).clamp(min=1e-9)
            assert (stored @ rows.T / 127).max() < 0.995, key


@pytest.mark.parametrize("name", NAMES)
def test_it_refuses_images_alone_and_tables(name):
    alone = digits().table.drop_columns(["caption"])
    with pytest.raises(BadInput, match="one image, one text"):
        make(name, SMALL).fit(Dataset.of(alone, Schema.infer(alone)))
    numbers = pa.table({"a": np.arange(60.0), "b": ["x", "y"] * 30})
    with pytest.raises(BadInput, match="one image, one text"):
        make(name, SMALL).fit(Dataset.of(numbers, Schema.infer(numbers)))


def test_the_default_learns_captioned_images():
    assert DEFAULT["multimodal"] in NAMES


# ---- data


def test_an_image_with_a_text_is_multimodal():
    assert [digits(kind).schema.modality for kind in KINDS] == ["multimodal"] * 3
    assert [digits(kind).schema.task for kind in KINDS] == ["captioning", "classification", "density"]
    assert b"huggingface" in digits().table.schema.metadata
    empty = pa.table({"image": digits().table["image"], "caption": ["a one", *[" "] * 239]})
    with pytest.raises(BadInput, match="empty"):
        Schema.infer(empty, target="caption", kinds={"caption": "text"})


def test_a_codec_cuts_what_is_longer_than_it_has_seen():
    codec, rng = CaptionCodec.fit(digits()), np.random.default_rng(0)
    rows = codec.encode(digits(), rng)
    assert codec.decode(rows, rng, start=0, seed=0).table.equals(digits().table)
    longer = digits().table.set_column(
        1, "caption", pa.array([f"{text} then a nine and a one" for text in digits().table["caption"].to_pylist()])
    )
    cut = codec.decode(codec.encode(Dataset.of(longer, digits().schema), rng), rng, start=0, seed=0)
    assert len(cut) == len(digits())
    assert all(b.startswith(a) for a, b in zip(cut.table["caption"].to_pylist(), longer["caption"].to_pylist(), strict=True))


def test_captioned_digits_hold_out_a_fifth_of_the_pairs():
    found = read("captioned_digits")

    def pairs(table):
        return {tuple(w for w in words(text) if w in source.NUMBERS) for text in table["caption"].to_pylist()}

    train, test = pairs(found.table), pairs(found.test)
    assert (len(found.table), len(found.test)) == (6000, 2000)
    assert len({p for p in train if len(p) == 2}) == 80
    new = test - train
    assert len(new) == 20
    assert {left for left, _ in new} == {right for _, right in new} == set(source.NUMBERS)
    digit = np.zeros((9, 9), np.uint8)
    digit[1:8, 3:6] = 255
    assert source.stroke(digit) == pytest.approx(2 * 21 / 20)  # three wide and seven long
    assert source.lean(digit) == pytest.approx(0)
    assert source.lean(np.eye(9, dtype=np.uint8)[::-1] * 255) == pytest.approx(1)


def test_captions_come_again_by_themselves_or_not():
    assert recurring(digits())
    own = pa.table({"image": digits().table["image"], "caption": [f"row number{i} of many" for i in range(len(digits()))]})
    assert not recurring(Dataset.of(own, Schema.infer(own, target="caption", kinds={"caption": "text"})))


# ---- the quantiser


def test_codes_are_the_nearest_of_the_book_and_the_dead_begin_anew():
    torch.manual_seed(0)
    net = Quantiser((1, 8, 16), 16, 4, 8)
    assert (net.grid, net.places) == ((4, 8), 32)
    x = torch.from_numpy(pixels(digits().table["image"]))[:20]
    net.train().loss(x).backward()  # every entry is dead at first
    z = net.features(x.float() / 255).detach().flatten(0, 1)
    assert all((z - entry).abs().sum(1).min() < 1e-4 for entry in net.book[1:])  # the first was nearest to all, and is their mean
    assert torch.equal(net.nearest(z), torch.cdist(z, net.book).argmin(1))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.encoder.parameters())  # straight through
    net.count[3] = DEAD / 2 * len(z) / 16
    before = net.book.clone()
    net.follow(z)
    assert (net.book[3] - before[3]).abs().sum() > 0
    odd = Quantiser((3, 6, 9), 16, 4, 8)
    assert odd.decode(odd.book[odd.encode(torch.zeros(2, 3, 6, 9))]).shape == (2, 3, 6, 9)


def test_codes_stand_column_by_column_in_a_wide_image():
    net = Quantiser((1, 8, 16), 16, 4, 8)
    x = torch.zeros(1, 1, 8, 16)
    moved = x.clone()
    moved[..., 14:] = 1.0
    changed = (net.features(x) - net.features(moved)).abs().sum(2)[0] > 0
    assert not changed[:16].any()
    assert changed[28:].any()


# ---- the decoder


def test_guidance_goes_from_no_caption_to_the_caption_and_beyond():
    model = fitted("multimodal/caption_image")
    net, chances = model.net, torch.randn(12, model.net.gpt.size, generator=torch.Generator().manual_seed(0)).softmax(1)
    codes = net.able(CODE)
    said, blank = (part[:, codes].log().log_softmax(1) for part in chances.chunk(2))
    for scale, wanted in ((0.0, blank), (1.0, said), (3.0, blank + 3 * (said - blank))):
        choose = replace(model.generator, guidance=scale).choosing(net, [CODE], None, True)
        assert torch.equal(choose(chances), codes[wanted.argmax(1)].repeat(2))


def test_a_place_holds_what_belongs_there_and_a_caption_ends_once():
    model = fitted("multimodal/caption_image", "labelled")
    net, codec = model.net, model.codec
    rows = codec.encode(digits("labelled"), np.random.default_rng(0))
    for back in (False, True):
        whole = net.sequences(net.codes.encode(net.image(rows[0])), net.caption(*rows), back)
        assert all(np.isin(whole[:, 1 + i].numpy(), net.able(kind).numpy()).all() for i, kind in enumerate(net.kinds(back)))
        codes, caption = net.parts(whole)
        assert torch.equal(net.sequences(codes, caption, back), whole)
        assert torch.equal(net.written(caption), rows[0][:, codec.pixels :])
    drawn = model.generator.draw(net, torch.zeros(40, dtype=torch.long), torch.Generator().manual_seed(0))[:, codec.pixels :]
    assert ((drawn == EOS).sum(1) == 1).all()
    assert ((drawn >= FIRST).sum(1) == (drawn == EOS).long().argmax(1)).all()


# ---- the judge


def test_subjects_end_captions():
    said = digits().table["caption"].to_pylist()
    assert set(judge.subjects(said)) == set(WORDS)
    assert judge.subjects(["one of a kind"] * 4) == []


def test_agreement_is_of_all_subjects_in_order_and_told_of_new_combinations():
    known = ["one", "two"]
    a, b = (judge.numbered(said, known, 2) for said in (["one two", "two", "two one"], ["a one then a two", "a two", "one then two"]))
    assert judge.agreeing(a, b, {(2, 0)}) == {"all": round(2 / 3, 5), "unseen": 0.5, "rows": 3, "unseen_rows": 2}
    assert judge.agreeing(a, np.zeros_like(a), set())["all"] is None


@cache
def parts() -> Split:
    return Split(digits().take(np.arange(190)), digits().take(np.arange(190, 240)))


def test_coherence_tells_rows_that_belong_together_from_those_that_do_not(monkeypatch):
    monkeypatch.setattr(judge, "STEPS_OF_COHERENCE", 150)
    train, test = parts()
    shuffled = Dataset(test.schema, test.table.set_column(1, "caption", test.table["caption"].take(pa.array(np.roll(np.arange(50), 1)))))
    found = judge.coherence(train, test, {"drawn": shuffled, "image": test, "caption": test})
    assert found["caption"]["synthetic"] == 1.0
    assert found["image"]["synthetic"] == found["image"]["real"] > 0.5
    assert found["drawn"]["synthetic"] < 0.3
    assert 0 < found["image"]["unseen_rows"] < found["image"]["rows"] == 50
    blank = Dataset(test.schema, test.table.set_column(1, "caption", pa.array([f"x{i}" for i in range(50)])))
    assert judge.coherence(blank, test, {}) is None


def test_the_judge_of_utility_learns_what_images_show(monkeypatch):
    monkeypatch.setattr(judge, "STEPS", 150)
    train, test = parts()
    scores = judge.reads(train, test, 0)(np.ones((50, 1)))
    assert scores["subjects"][0] > 0.5
    assert scores["places"][0] >= scores["subjects"][0]


# ---- pages


def test_pages_show_rows_with_their_captions_both_ways(tmp_path):
    rows = digits().take(np.arange(30))
    rows.save(tmp_path / "rows.parquet")
    asked = Dataset(rows.schema, pa.concat_tables([rows.table.slice(0, 2), rows.table.slice(2, 2), rows.table.slice(4, 2)]))
    found = paired([tmp_path / "rows.parquet"], asked)
    said = rows.table["caption"].to_pylist()
    assert [card["caption"] for card in found["pairs"]] == said[:24]
    assert [a["row"]["caption"] for a in found["asked"]] == said[:2]
    assert [a["caption"] for a in both_ways(asked)] == said[4:6]
    assert all(card["picture"].startswith("data:image/png") for card in found["pairs"])


def test_a_whole_run_publishes_what_it_judged_both_ways(tmp_path, monkeypatch):
    """Learners make a few steps only: what matters here is that the files, figures and pages are all there."""
    for place, name in ((judge, "STEPS"), (judge, "STEPS_OF_COHERENCE"), (features, "STEPS"), (image, "STEPS")):
        monkeypatch.setattr(place, name, 40 if place is judge else 5)
    monkeypatch.setenv("ALFAR_HOME", str(tmp_path / "home"))
    digits().save(tmp_path / "digits.parquet")
    gates = {"utility": -99.0, "coverage": 0.0, "near": 1.0, "copies": 1.0, "spans": 1.0, "leaks": 1.0, "dcr": 100.0, "membership": 1.0}
    generator = {"name": NAMES[0], **SMALL}
    job = {"source": str(tmp_path / "digits.parquet"), "target": "caption", "to": str(tmp_path / "to"), "generator": generator}
    outcome = synthesize(Job.of({**job, "kinds": {"caption": "text"}, "gates": gates, "rows": 60}))
    scores = outcome.manifest["scores"]
    assert outcome.passed, outcome.manifest["reasons"]
    assert set(scores["fidelity"]["coherence"]) == {"subjects", "image", "caption", "drawn"}
    assert scores["utility"]["headline"] == "subjects"
    assert scores["privacy"]["texts"]["spans"]
    report, private = (path.read_text() for path in (outcome.folder / "report.html", outcome.private))
    assert "Both ways" in report
    assert "No rows are shown both ways" not in report
    assert "Asked with held-out rows" in private
    import datasets

    loaded = datasets.load_dataset(str(outcome.folder), cache_dir=str(tmp_path / "cache"))["train"]
    assert (loaded[0]["image"].size, type(loaded[0]["caption"])) == ((16, 8), str)
