"""Generators of captioned images: both ways, their data, quantiser, decoder, judge and pages."""

from dataclasses import replace
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch

from data.errors import BadInput
from data.images import pixels
from data.schema import Dataset, Schema, Split
from data.sources import captioned as source
from data.sources import read
from data.texts import recurring, words
from evaluators import captions as judge
from evaluators import features, image
from evaluators.pictures import both_ways, paired
from flows.job import Job
from flows.pipeline import synthesize
from generators import train as loop
from generators.codecs.caption import CaptionCodec
from generators.codecs.text import EOS, FIRST
from generators.multimodal.caption_image import CODE
from generators.nets.quantised import DEAD, Quantiser
from generators.registry import DEFAULT, make, names
from tests.small import KINDS, SMALL, WORDS, each, fit, fitted
from tests.test_laws import KilledError, same_weights

NAMES = each("multimodal")


def digits(kind: str = "captioned") -> Dataset:
    return KINDS["multimodal"][kind]()


# ---- the laws


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_was_killed_in_its_second_phase_is_the_same_run(name, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    ends = []

    def kill(done, total, words):
        ends.extend([total] if done == total else [])
        if done == 10 and len(ends) == 1:
            raise KilledError

    with pytest.raises(KilledError):
        fit(name, folder=tmp_path, progress=kill)
    assert same_weights(fit(name, folder=tmp_path), fitted(name))


@pytest.mark.parametrize("kind", KINDS["multimodal"])
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
def test_it_refuses_images_alone(name):
    alone = digits().table.drop_columns(["caption"])
    with pytest.raises(BadInput, match="one image, one text"):
        make(name, SMALL[name]).fit(Dataset.of(alone, Schema.infer(alone)))


def test_the_default_learns_captioned_images():
    assert DEFAULT["multimodal"] in names("multimodal")


# ---- data


def test_an_image_with_a_text_is_multimodal():
    assert [digits(kind).schema.modality for kind in KINDS["multimodal"]] == ["multimodal"] * 3
    assert [digits(kind).schema.task for kind in KINDS["multimodal"]] == ["captioning", "classification", "density"]
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
    name = names("multimodal")[0]
    generator = {"name": name, **SMALL[name]}
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
