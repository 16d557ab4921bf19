"""The sequences, the likelihood and the sampling of text/gpt, and the probabilities of text/ngram."""

from dataclasses import replace
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F

from data.errors import BadInput
from data.schema import Dataset, Schema
from generators.choosing import choice, telling
from generators.codecs.text import BACK, BOS, EOS, FIRST, PAD, SEP, TextCodec
from generators.fitted import Fitted
from generators.text.gpt import GPT
from generators.text.ngram import Ngram
from generators.text.sequences import SequenceNet, swapped
from generators.train import Training

A, B, C = FIRST, FIRST + 1, FIRST + 2


@pytest.fixture(autouse=True)
def _still():
    with torch.inference_mode():
        yield


def net(labels: int = 3, texts: int = 2, longest: int = 9, size: int = 12, seed: int = 0) -> SequenceNet:
    """Random weights of the size of trained ones."""
    torch.manual_seed(seed)
    made = SequenceNet(size, torch.full((max(1, labels),), 1 / max(1, labels)), labels > 0, texts, longest, 16, 2, 2, 0.1).eval()
    for p in made.parameters():
        p.data += 0.3 * torch.randn(p.shape)
    return made


def rows(*texts: list[int], longest: int = 9) -> torch.Tensor:
    return torch.tensor([[*text, *[PAD] * (longest - len(text))] for text in texts])


ROWS = rows([A, B, SEP, C, EOS], [SEP, C, C, B, A, EOS], [A, SEP, EOS])
Y = torch.tensor([0, 2, 1])


def test_sequences_stand_in_both_orders():
    there, back = (net().sequences(ROWS, Y, order)[:2].tolist() for order in (False, True))
    assert there[0][:8] == [BOS, A, B, SEP, C, 12, EOS, PAD]
    assert back[0][:8] == [BACK, 12, A, B, SEP, C, EOS, PAD]
    there, back = (net(labels=0).sequences(ROWS, Y, order)[:2].tolist() for order in (False, True))
    assert there[1][:7] == [BOS, SEP, C, C, B, A, EOS]
    assert back[1][:7] == [BACK, C, C, B, A, SEP, EOS]


@pytest.mark.parametrize("labels", [0, 3])
@pytest.mark.parametrize("texts", [1, 2, 3])
def test_rows_come_back_from_sequences(labels, texts):
    parts = [[A, B], [C], [B, C, A]][:texts]
    line = [token for part in parts for token in [*part, SEP]][:-1]
    tokens, y = rows([*line, EOS], [*[SEP] * (texts - 1), EOS]), torch.tensor([0, max(0, labels - 1)])
    made = net(labels, texts)
    assert torch.equal(made.rows(made.sequences(tokens, y, True)), tokens)
    if not labels:
        assert torch.equal(made.rows(made.sequences(tokens, y, False)), tokens)
    assert torch.equal(swapped(swapped(tokens, first=False), first=True), tokens)


@pytest.mark.parametrize("labels", [0, 3])
@pytest.mark.parametrize("back", [False, True])
def test_log_prob_is_a_forward_by_hand(labels, back):
    made = net(labels)
    found = made.surprise(made.sequences(ROWS, Y, back)).sum(1)
    for i, sequence in enumerate(made.sequences(ROWS, Y, back).tolist()):
        length, total = sequence.index(PAD), 0.0
        for place in range(1, length):
            h = made(torch.tensor([sequence[:place]]))[0, -1]
            logits = F.linear(h, made.embed.weight, made.bias)
            seps = sequence[:place].count(SEP)
            able = [*range(FIRST, 12), SEP if seps == 0 else EOS]
            if labels and back and place == 1:
                able = list(range(12, 15))
            elif labels and not back and sequence[place - 1] >= 12:
                able = [EOS]
            elif labels and not back and seps:
                able = [*range(FIRST, 12), 12, 13, 14]
            total -= (logits[sequence[place]] - logits[able].logsumexp(0)).item()
        assert found[i].item() == pytest.approx(total, abs=1e-4)
    if not back:
        assert torch.allclose(GPT().log_prob(made, (ROWS, Y)), -found, atol=1e-5)


def test_probabilities_of_all_rows_sum_to_one():
    """Two pieces, two labels: every row of up to three pieces, and the mass of longer ones by the chance to go on."""
    made = net(labels=2, texts=1, longest=4, size=FIRST + 2)
    lines = [[]]
    mass, alive = 0.0, torch.tensor(1.0)
    for length in range(4):
        tokens, y = rows(*[[*line, EOS] for line in lines for _ in range(2)], longest=4), torch.arange(2).repeat(len(lines))
        mass += GPT().log_prob(made, (tokens, y)).exp().sum().item()
        begun = torch.tensor([[BOS, *line] for line in lines])
        stage = made.stages(begun)
        steps = torch.stack([made.logits(made(begun)[:, i], stage[:, i]).log_softmax(1) for i in range(length + 1)], dim=1)
        prefix = steps[:, :-1].gather(2, begun[:, 1:, None])[:, :, 0].sum(1)
        alive = (prefix + steps[:, -1, FIRST : FIRST + 2].logsumexp(1)).exp().sum()
        lines = [[*line, token] for line in lines for token in (FIRST, FIRST + 1)]
    assert mass + alive.item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("back", [False, True])
def test_no_place_hears_of_those_after_it(back):
    made = net()
    sequence = made.sequences(ROWS, Y, back)
    for place in range(1, 6):
        changed = sequence.clone()
        changed[:, place] = 12 + (changed[:, place] + 1) % 3
        same = torch.isclose(made(changed), made(sequence), atol=1e-6).all(2)
        assert same[:, :place].all()
        assert not same[:, place:].any(1).all()


def test_the_cache_gives_what_a_whole_forward_gives():
    made = net(longest=30)
    sequence = torch.randint(FIRST, 12, (7, 30))
    sequence[:, 0], sequence[:, 1] = BACK, 12 + torch.arange(7) % 3
    memories, keep = [block.memory(7, 30) for block in made.blocks], torch.tensor([5, 1, 2])
    parts = [made(sequence[:, :4], memories)]
    parts += [made(sequence[:, : i + 1], memories) for i in range(4, 20)]
    assert torch.allclose(torch.cat(parts, dim=1), made(sequence)[:, :20], atol=1e-5)
    memories = [memory.take(keep) for memory in memories]
    assert torch.allclose(made(sequence[keep, :21], memories)[:, 0], made(sequence)[keep, 20], atol=1e-5)


@pytest.mark.parametrize("labels", [0, 3])
@pytest.mark.parametrize("texts", [1, 2, 3])
def test_special_tokens_cannot_be_forged(labels, texts):
    """Weights that want nothing but special tokens and labels still give rows of the right form."""
    made = net(labels, texts, longest=9)
    made.bias.data[[PAD, BOS, BACK, SEP, *range(12, 12 + labels)]] += 20
    tokens = GPT().draw(made, torch.arange(300) % max(1, labels), torch.Generator().manual_seed(0))
    made.bias.data[[SEP, EOS]] -= 60  # and those that never want to end
    tokens = torch.cat([tokens, GPT().draw(made, torch.arange(300) % max(1, labels), torch.Generator().manual_seed(0))])
    for row in tokens.tolist():
        text = row[: row.index(EOS) + 1]
        assert [token for token in text if token < FIRST] == [SEP] * (texts - 1) + [EOS]
        assert set(row[len(text) :]) <= {PAD}
        assert max(row) < 12


def test_draws_follow_the_likelihood():
    """Shares of short rows among 20,000 draws are their probabilities by the sum over the order in which they are drawn."""
    made, n = net(labels=0, texts=2, longest=6, size=FIRST + 2), 20_000
    tokens = GPT(top_p=1.0).draw(made, torch.zeros(n, dtype=torch.int64), torch.Generator().manual_seed(0))
    found, counts = tokens.unique(dim=0, return_counts=True)
    short = found[:, -1] == PAD  # those that were not cut
    p = GPT().log_prob(made, (found[short], torch.zeros(int(short.sum()), dtype=torch.int64))).exp()
    error = (counts[short] / n - p) / (p * (1 - p) / n + 1e-9).sqrt()
    assert error.abs()[p > 0.003].max() < 4.5


def test_the_posterior_is_bayes_on_the_likelihood():
    made = net()
    found = GPT().posterior(made, ROWS)
    assert torch.allclose(found.sum(1), torch.ones(3), atol=1e-5)
    joint = torch.stack([GPT().log_prob(made, (ROWS, torch.full_like(Y, k))) for k in range(3)], dim=1)
    assert torch.allclose(found, joint.softmax(1), atol=1e-5)


@pytest.mark.parametrize("back", [False, True])
def test_answers_keep_what_was_asked(back):
    made = net(labels=0)
    tokens = ROWS[torch.arange(60) % 3]
    for rng in (None, torch.Generator().manual_seed(0)):
        answers = GPT().answer(made, (tokens, torch.zeros(60, dtype=torch.int64)), rng, back)
        for before, after in zip(tokens.tolist(), answers.tolist(), strict=True):
            asked, told = (row[: row.index(EOS)] for row in (before, after))
            if back:
                assert told[told.index(SEP) :] == asked[asked.index(SEP) :]
            else:
                assert told[: told.index(SEP)] == asked[: asked.index(SEP)]
    none = torch.zeros(3, dtype=torch.int64)
    likeliest = GPT().answer(made, (ROWS, none), None, back)
    for i in range(3):
        assert torch.equal(likeliest[i], GPT().answer(made, (ROWS[i : i + 1], none[:1]), None, back)[0])


def test_rows_that_say_something_else_are_chosen():
    tokens = rows([5, 6, EOS], [5, 6, EOS], [7, 8, EOS], [5, 6, EOS], [9, 9, EOS], longest=4)
    everyone, some = torch.ones(5, dtype=torch.bool), torch.tensor([False, True, True, True, False])
    assert sorted(telling(tokens, everyone, 3).tolist()) == [0, 2, 4]
    assert set(telling(tokens, some, 3).tolist()) == {1, 2, 3}
    assert sorted(telling(tokens, some, 5).tolist()) == [0, 1, 2, 3, 4]
    assert set(telling(tokens, some, 4).tolist()) > {1, 2, 3}


def test_each_label_keeps_its_share_of_what_is_chosen():
    tokens, rng = torch.randint(FIRST, 90, (900, 7)), torch.Generator().manual_seed(0)
    labels, wanted = torch.arange(900) % 3, torch.tensor([200, 70, 0])
    found = choice(tokens, torch.ones(900, dtype=torch.bool), labels, wanted, rng)
    assert torch.equal(labels[found].bincount(minlength=3), wanted)
    assert (found.diff() > 0).all()
    few = choice(tokens[:30], torch.ones(30, dtype=torch.bool), labels[:30], wanted, rng)
    assert torch.equal(labels[few].bincount(minlength=3), torch.tensor([10, 10, 0]))


def test_rows_cost_what_they_hold():
    codec = TextCodec.fit(sentences())
    assert codec.filled((rows([A, EOS], [A, B, SEP, C, EOS], longest=9), Y[:2])) == 3.5


def test_parameters_are_checked():
    data = sentences()
    for bad in (GPT(width=30), GPT(top_p=0.0), GPT(temperature=-1.0)):
        with pytest.raises(BadInput, match=r"text/gpt"):
            bad.fit(data)


# ---- what is learnt


@cache
def sentences() -> Dataset:
    """Colours of things: which of two words ends a sentence depends on its label and its first word."""
    words, ends = (
        ["roses", "skies", "lemons", "fields"],
        {"day": ["red", "blue", "yellow", "green"], "night": ["grey", "black", "white", "dark"]},
    )
    text = [f"{word} are {ends[when][i]}" for i, word in enumerate(words) for when in ends] * 30
    table = pa.table({"text": text, "when": ["day", "night"] * 120})
    return Dataset.of(table, Schema.infer(table, target="when", kinds={"text": "text", "when": "category"}))


@torch.inference_mode(False)
def learnt(steps: int = 300) -> Fitted:
    return GPT(width=32, depth=2, dropout=0.0, training=Training(steps=steps, batch=32, lr=5e-3)).fit(sentences(), seed=0)


def test_what_rows_say_is_learnt():
    model = learnt()
    made = model.sample(200, seed=0)
    real = set(zip(*(sentences().table[name].to_pylist() for name in ("text", "when")), strict=True))
    assert np.mean([pair in real for pair in zip(made.table["text"].to_pylist(), made.table["when"].to_pylist(), strict=True)]) > 0.95
    rows = model.codec.encode(sentences(), np.random.default_rng(0))
    assert (model.generator.posterior(model.net, rows[0]).argmax(1) == rows[1]).all()


def test_rows_are_kept_whose_label_the_net_would_name():
    model = learnt(steps=40)
    share = []
    for candidates in (1, 6):
        made = replace(model, generator=replace(model.generator, candidates=candidates)).sample(200, seed=0)
        share.append(model.generator.sure(model.net, model.codec.encode(made, np.random.default_rng(0))).float().mean().item())
    assert share[1] > share[0] + 0.05


def test_ngram_probabilities_sum_to_one():
    table = pa.table({"a": ["x y z", "x y", "z y x y"] * 20, "b": ["1", "2 2", "3"] * 20, "c": ["p", "q", "p"] * 20})
    schema = Schema.infer(table, target="c", kinds={"a": "text", "b": "text", "c": "category"})
    model = Ngram().fit(Dataset.of(table, schema))
    generator, grams = model.generator, model.net
    tokens, y = model.codec.encode(Dataset.of(table, schema), np.random.default_rng(0))
    for place in range(int((tokens[0] != PAD).sum())):
        begun = tokens[:1].clone()
        begun[:, place:] = PAD
        every = begun.repeat(grams.size, 1)
        every[:, place] = torch.arange(grams.size)
        before = generator.log_prob(grams, (begun, y[:1]))
        ending = SEP if (begun == SEP).sum() == 0 else EOS
        able = torch.tensor([*range(FIRST, grams.size), ending])
        after = generator.log_prob(grams, (every[able], y[:1].expand(len(able))))
        assert (after - before).exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_ngram_draws_follow_its_probabilities():
    table = pa.table({"text": ["a b c c", "a c", "b c", "a b"] * 20})
    model = Ngram().fit(Dataset.of(table, Schema.infer(table, kinds={"text": "text"})))
    n = 20_000
    tokens = model.generator.draw(model.net, torch.zeros(n, dtype=torch.int64), torch.Generator().manual_seed(0))
    found, counts = tokens.unique(dim=0, return_counts=True)
    p = model.generator.log_prob(model.net, (found, torch.zeros(len(found), dtype=torch.int64))).exp()
    frequent = (p > 0.003) & (found[:, -1] == PAD)
    error = (counts / n - p) / (p * (1 - p) / n).sqrt()
    assert error.abs()[frequent].max() < 4.5
    assert frequent.sum() >= 3
