"""The mathematics of text/transformer: its copying head, its cache, and the two halves of a row."""

from dataclasses import replace
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch

from data.errors import BadInput
from data.schema import Dataset, Schema
from data.texts import keys
from generators.codecs.text import BACK, BOS, EOS, FIRST, PAD, SEP, TextCodec
from generators.drawing import Tally
from generators.nets.attention import turned
from generators.nets.crossing import BothWays
from generators.nets.words import OTHERS, Words, chosen, ruled
from generators.text.transformer import Transformer, TransformerNet, Writing, halves, joined, renamed, told
from generators.train import Training

NAMES = ["abhg", "hhca", "cafe", "bead", "gaff", "dahh"]


@cache
def pairs() -> Dataset:
    """Requests and answers that repeat a name of theirs."""
    rng = np.random.default_rng(0)
    names = sorted({"".join(rng.choice(list("abcdefgh"), 4)) for _ in range(300)} - set(NAMES))
    table = pa.table({"ask": [f"open the file {name}" for name in names], "told": [f"cat {name}" for name in names]})
    return Dataset.of(table, Schema.infer(table, target="told", kinds={"ask": "text", "told": "text"}, task="text-to-code"))


@cache
def net() -> tuple[TextCodec, TransformerNet]:
    """An untrained net whose dropout is off, with weights in which everything matters."""
    torch.manual_seed(0)
    codec = TextCodec.fit(pairs())
    made = Transformer(width=16, depth=2, heads=2).build(codec).eval()
    return codec, made


def texts(n: int, length: int) -> torch.Tensor:
    """Tokens [n, length] of texts of several lengths."""
    rng = torch.Generator().manual_seed(1)
    tokens = torch.randint(FIRST, FIRST + 250, (n, length), generator=rng)
    return tokens.where(torch.arange(length) < torch.randint(1, length + 1, (n, 1), generator=rng), PAD)


def full(made: TransformerNet, source: torch.Tensor, target: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The chances [n, L, V] of every token by its definition, without groups and without a cache."""
    heard, there = made.heard(source, labels)
    memory = made.read(heard, there)
    h = made(made.spoken(target[:, :-1])[0], memory, there)
    pointer, gate = made.pointer(h, made.places(source, memory), there)
    hot = torch.nn.functional.one_hot(source, len(made.words.bias)).float()
    return gate.sigmoid()[:, :, None] * made.words.logits(h).softmax(2) + (1 - gate.sigmoid())[:, :, None] * (pointer @ hot)


@torch.no_grad()
def test_chances_add_up_to_one_with_and_without_a_source():
    _, made = net()
    source, labels = texts(5, 7), torch.zeros(5, dtype=torch.int64)
    target = told(SEP, texts(5, 6))
    assert torch.allclose(full(made, source, target, labels).sum(2), torch.ones(5, 7), atol=1e-5)
    writing = Writing(made, source[:, :0], labels)
    assert torch.allclose(writing.step(torch.full((5,), BOS)).sum(1), torch.ones(5), atol=1e-5)
    assert torch.allclose(writing.step(torch.full((5,), FIRST)).sum(1), torch.ones(5), atol=1e-5)


@torch.no_grad()
def test_copying_reaches_tokens_that_the_vocabulary_does_not():
    _, made = net()
    rare, labels = FIRST + 77, torch.zeros(1, dtype=torch.int64)
    bias = made.words.bias.clone()
    made.words.bias[rare] = -1e4
    with_it, without = torch.tensor([[FIRST + 1, rare, FIRST + 2]]), torch.tensor([[FIRST + 1, FIRST + 3, FIRST + 2]])
    assert Writing(made, with_it, labels).step(torch.tensor([SEP]))[0, rare] > 0.01
    assert Writing(made, without, labels).step(torch.tensor([SEP]))[0, rare] < 1e-9
    made.words.bias.copy_(bias)


@torch.no_grad()
def test_steps_with_a_cache_give_what_the_whole_gives():
    _, made = net()
    source, labels, target = texts(6, 9), torch.zeros(6, dtype=torch.int64), told(BACK, texts(6, 8))
    whole = full(made, source, target, labels)
    writing = Writing(made, source, labels)
    for place in range(target.shape[1] - 1):
        if place == 4:  # the rest of the way with some of the rows
            some = torch.tensor([0, 2, 3, 5])
            writing.keep(some)
            whole, target = whole[some], target[some]
        assert torch.allclose(writing.step(target[:, place]), whole[:, place], atol=1e-5), place


@torch.no_grad()
def test_the_loss_is_the_log_of_the_chances():
    _, made = net()
    source, labels, target = texts(40, 9), torch.zeros(40, dtype=torch.int64), told(SEP, texts(40, 8))
    source[:15] = PAD
    there = target[:, 1:] != PAD
    log_p = full(made, source, target, labels).gather(2, target[:, 1:, None])[:, :, 0].log()
    rows, found = made.log_prob(source, target, labels)
    assert torch.allclose(found[rows.argsort(stable=True)], log_p[there], atol=1e-4)
    mean = (log_p * there).sum(1) / there.sum(1)
    assert torch.allclose(made.sureness(source, target[:, 1:].masked_fill(target[:, 1:] == EOS, PAD), labels), mean, atol=1e-4)


@torch.no_grad()
def test_nothing_depends_on_what_is_written_later_or_on_padding():
    _, made = net()
    source, labels, target = texts(4, 9), torch.zeros(4, dtype=torch.int64), told(SEP, texts(4, 8))
    whole, changed = full(made, source, target, labels), target.clone()
    changed[:, 5:] = FIRST + 9
    assert torch.allclose(full(made, source, changed, labels)[:, :5], whole[:, :5], atol=1e-6)
    assert not torch.allclose(full(made, source, changed, labels)[:, 5], whole[:, 5], atol=1e-6)
    wider = torch.nn.functional.pad(source, (0, 5))
    assert torch.allclose(full(made, wider, target, labels), whole, atol=1e-5)


def test_a_row_is_cut_into_halves_and_joined_again():
    codec, _ = net()
    rows, _ = codec.encode(pairs(), np.random.default_rng(0))
    x, y = halves(rows, 2)
    assert torch.equal(joined(x, y, codec.longest), rows)
    single = torch.tensor([[7, 8, EOS, PAD], [9, 7, 8, EOS]])
    assert torch.equal(halves(single, 1)[0], torch.tensor([[7, 8, PAD, PAD], [9, 7, 8, PAD]]))
    assert torch.equal(joined(halves(single, 1)[0], None, 4), single)
    three = torch.tensor([[7, SEP, 8, SEP, 9, EOS, PAD]])
    assert halves(three, 3)[0].tolist() == [[7, SEP, 8, PAD, PAD, PAD, PAD]]
    assert halves(three, 3)[1].tolist() == [[9, PAD, PAD, PAD, PAD, PAD, PAD]]


def test_what_is_read_both_ways_knows_all_of_its_text_and_nothing_behind_it():
    torch.manual_seed(0)
    both, x, sizes = BothWays(8), torch.randn(3, 7, 8), [7, 4, 1]
    there = torch.arange(7) < torch.tensor(sizes)[:, None]
    with torch.no_grad():
        found = both(x, there)
        other = both(x + torch.randn_like(x) * ~there[:, :, None], there)
        for row, size in enumerate(sizes):
            alone = both(x[row : row + 1, :size], there[row : row + 1, :size])
            assert torch.allclose(found[row, :size], alone[0], atol=1e-6)
            assert torch.allclose(found[row, :size], other[row, :size], atol=1e-6)
            assert torch.allclose(alone[0].flip(0)[:, 4:], both.ways[1](x[row : row + 1, :size].flip(1))[0][0], atol=1e-6)
        changed = both(torch.cat([x[:, :3], x[:, 3:4] + 1, x[:, 4:]], 1), there)
    assert ((changed - found)[0].abs().sum(1) > 0).all()
    assert ((changed - found)[1, :4].abs().sum(1) > 0).all()
    assert torch.equal(changed[2, :1], found[2, :1])


def test_names_are_replaced_in_both_texts_alike():
    torch.manual_seed(0)
    x, y = texts(200, 9), texts(200, 8).roll(1, 0)
    y[:, 0] = x[:, 0]
    a, b = renamed(x, y, FIRST + 300, 1.0)
    assert torch.equal(a[:, 0], b[:, 0])
    assert 0.3 < (a[:, 0] != x[:, 0]).float().mean() < 0.7
    own = ~(x[:, :, None] == y[:, None]).any(2)
    assert torch.equal(a[own], x[own])
    assert ((a == PAD) == (x == PAD)).all()
    for same, text in zip(renamed(x, y, FIRST + 300, 0.0), (x, y), strict=True):
        assert torch.equal(same, text)


def test_a_sample_of_the_vocabulary_stands_for_all_of_it():
    torch.manual_seed(0)
    words = Words(4 * OTHERS, 8).train()
    h, tokens = torch.randn(50, 8), torch.randint(0, 40, (50,))
    with torch.no_grad():
        drawn = torch.stack([words.log_prob(h, tokens) for _ in range(60)])
        exact = words.eval().log_prob(h, tokens)
    assert torch.allclose(exact, words.logits(h).log_softmax(1).gather(1, tokens[:, None])[:, 0], atol=1e-5)
    assert (drawn.mean(0) - exact).abs().max() < 0.05
    assert drawn.std(0).max() > 1e-3


def test_a_nucleus_is_the_fewest_tokens_of_enough_chance():
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).repeat(4000, 1)
    rng = torch.Generator().manual_seed(0)
    assert set(chosen(p, 1.0, 0.75, rng).tolist()) == {0, 1}
    counts = torch.bincount(chosen(p, 1.0, 1.0, rng), minlength=4) / 4000
    assert torch.allclose(counts, p[0], atol=0.03)
    cold = torch.bincount(chosen(p, 0.5, 1.0, rng), minlength=4) / 4000
    assert torch.allclose(cold, p[0].square() / p[0].square().sum(), atol=0.03)
    assert chosen(p, 1.0, 1.0, None).tolist() == [0] * 4000


def test_a_text_ends_where_the_next_one_needs_the_room():
    p = torch.full((4, FIRST + 4), 0.1)
    tokens, left, room = torch.tensor([BOS, FIRST, FIRST, FIRST]), torch.tensor([1, 1, 1, 0]), torch.tensor([20, 20, 4, 1])
    may = [set(row.nonzero()[:, 0].tolist()) for row in ruled(p, tokens, left, room, spare=2)]
    pieces = set(range(FIRST, FIRST + 4))
    assert may == [pieces, pieces | {SEP}, {SEP}, {EOS}]


def test_answers_copy_names_they_were_never_taught_and_go_back():
    recipe = Transformer(width=32, heads=2, dropout=0.0, training=Training(steps=160, batch=64, lr=4e-3))
    model = recipe.fit(pairs(), seed=0)
    asked = pa.table({"ask": [f"open the file {name}" for name in NAMES], "told": ["?"] * len(NAMES)})
    found = model.answer(Dataset.of(asked, model.schema))
    again = model.answer(found, back=True)
    drawn = model.answer(Dataset.of(asked, model.schema), seed=0)
    assert found.table["ask"].equals(asked["ask"])
    assert again.table["told"].equals(found.table["told"])
    assert len(drawn) == len(NAMES)
    for made, column in ((found, "told"), (again, "ask")):
        assert sum(name in text for name, text in zip(NAMES, made.table[column].to_pylist(), strict=True)) >= len(NAMES) - 1


@pytest.mark.parametrize("start", [0, 7])
def test_turned_vectors_see_how_far_apart_they_are_and_nothing_else(start):
    query, key = torch.randn(2, 1, 8, dtype=torch.float64).expand(2, 12, 8)
    here, there = turned(query, start), turned(key, start)
    score = here @ there.T
    for apart in range(-5, 6):
        line = score.diagonal(apart)
        assert torch.allclose(line, line[:1].expand_as(line))
    assert torch.allclose(here.norm(dim=1), query.norm(dim=1))
    assert torch.allclose(score, turned(query) @ turned(key).T)
    assert torch.equal(turned(query)[0], query[0])
    assert score[0].std() > 0.01


@pytest.mark.parametrize(("words", "batch"), [(2, 16), (20, 8), (200, 1)])
def test_a_batch_holds_fewer_rows_where_they_are_long(words, batch):
    text = ["a " * words] * 90
    data = Dataset.of(pa.table({"ask": text, "told": text}), pairs().schema)
    recipe = Transformer(width=8, heads=2, training=Training(steps=1, batch=16, tokens=8 * (2 * 21 + 2)))
    assert recipe.fit(data, seed=0).log["batch"] == batch


def test_few_rows_are_not_seen_more_often_than_so_many_times():
    data = pairs().take(np.arange(40))
    few, many = Training(epochs=1, least_steps=30, most_epochs=5, batch=16), Training(epochs=1, least_steps=30, batch=16)
    for training, steps in ((few, 13), (many, 30), (replace(few, least_steps=4), 4), (replace(few, epochs=6), 15)):
        recipe = Transformer(width=8, heads=2, candidates=1, training=training)
        assert recipe.fit(data, seed=0).log["steps"] == steps
    assert recipe.expected(data).wanted == steps


def rows_of(model, candidates, n):
    """Rows as the codec has them, of a model that draws so many for each that it keeps."""
    made = replace(model, generator=replace(model.generator, candidates=candidates)).sample(n, seed=0)
    return model.codec.encode(made, np.random.default_rng(0))


def test_rows_are_chosen_of_those_that_are_fit():
    recipe = Transformer(width=32, heads=2, training=Training(steps=100, batch=32, lr=4e-3))
    data, tally = pairs(), Tally()
    model = recipe.fit(data, seed=0)
    made = next(model.stream(60, seed=0, avoid=data, tally=tally))
    assert len(made) == tally.kept == 60
    assert not np.isin(keys(made.table, model.codec.texts), keys(data.table, model.codec.texts)).any()
    copies, others = tally.turned["a near copy of a training row"], tally.turned["a row that says less than others"]
    assert tally.drawn >= 60 * recipe.candidates
    assert copies > 0
    assert others > 0


def test_rows_whose_answer_the_net_is_sure_of_are_kept():
    recipe = Transformer(width=32, heads=2, training=Training(steps=30, batch=32, lr=4e-3))
    model = recipe.fit(pairs(), seed=0)

    def sureness(candidates):
        drawn, labels = rows_of(model, candidates, 80)
        return model.net.sureness(*halves(drawn, 2), labels).mean()

    assert sureness(1) < 1.15 * sureness(4) < 0


def test_heads_must_fit_the_width():
    with pytest.raises(BadInput, match="width"):
        Transformer(width=30, heads=4).fit(pairs())
