"""The equations in the generators' pages, checked on cases small enough to know the answer."""

import itertools
import time

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare
from torch.nn import Conv2d, Linear

from data.schema import Dataset, Schema
from generators.codecs.table import MixedCodec, TokenCodec
from generators.nets.mlp import calibrate, cross_entropy, draw, log_softmax, one_hot
from generators.registry import make
from generators.tabular.gan import balanced
from generators.tabular.made import MADE, MaskedNet
from generators.train import SMALL, Batches, Training, few_threads, train

torch.set_num_threads(1)
SIZES = [2, 3, 2, 4]
PAIR = np.array([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]])  # the third token's shares given the second


@pytest.fixture(params=["dense", "wide", "last"])
def masked(request, monkeypatch) -> MaskedNet:
    """A net over two columns of one token, one of two, and an order; as for few positions, as for many, with a column at the end."""
    monkeypatch.setattr("generators.nets.masked.FEW", 3)
    if request.param == "wide":
        monkeypatch.setattr("generators.nets.masked.DENSE", 1)
        monkeypatch.setattr("generators.nets.masked.GROUP", 2)
    torch.manual_seed(0)
    shares = [np.full(2, 1 / 2), np.full(3, 1 / 3), PAIR, np.full(4, 1 / 4)]
    last = 1 if request.param == "last" else None
    net = MaskedNet(shares, [None, None, None, np.array([0.1, 0.5, 0.9, np.nan])], hidden=8, width=4, dropout=0.0, last=last)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return net.eval()


def likely(counts: np.ndarray, p: torch.Tensor) -> bool:
    """Could these counts be draws with these probabilities?"""
    p = p.detach().double().numpy()
    return bool(chisquare(counts, counts.sum() * p / p.sum()).pvalue > 1e-3)


def every_row(sizes: list[int]) -> torch.Tensor:
    return torch.tensor(list(itertools.product(*(range(size) for size in sizes))))


def test_a_large_table_has_its_target_last(monkeypatch):
    numbers = np.random.default_rng(0)
    table = pa.table({"y": numbers.choice(["no", "yes"], 9000), "x": numbers.normal(size=9000), "z": numbers.choice(list("abcd"), 9000)})
    codec = TokenCodec.fit(Dataset.of(table, Schema.infer(table, target="y")))
    assert len(codec.shares) == 4  # x has a second digit
    assert MADE().build(codec).order == [0, 3, 1, 2]
    monkeypatch.setattr("generators.tabular.made.MANY", 9000)
    assert MADE().build(codec).order == [3, 1, 2, 0]
    assert MADE().build(TokenCodec.restore(*codec.state())).order == [3, 1, 2, 0]


def test_no_column_of_made_sees_itself_or_a_later_one(masked):
    net = masked
    tokens = torch.stack([torch.randint(size, (5,)) for size in net.sizes], dim=1)
    embedded = []
    for table in net.embed:
        table.register_forward_hook(lambda module, given, out: (out.retain_grad(), embedded.append(out))[0])
    for place, logits in enumerate(net(tokens)):
        net.zero_grad()
        for e in embedded:
            e.grad = None
        logits.square().sum().backward(retain_graph=True)
        reached = [e.grad is not None and bool(e.grad.abs().sum() > 0) for e in embedded]
        assert reached == [k < place for k in range(len(SIZES))]


def test_made_is_a_distribution(masked):
    net, rows = masked, every_row(SIZES)
    log_p = make("tabular/made", {}).log_prob(net, (rows,))
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("n", [20_000, 40])
def test_made_samples_what_it_says(masked, n):
    """Many rows go by counts of prefixes, few row by row: both follow log_prob."""
    net, rows, recipe = masked, every_row(SIZES), make("tabular/made", {})
    expected = recipe.log_prob(net, (rows,)).exp()
    weights = np.cumprod([1, *SIZES[:0:-1]])[::-1].copy()
    seen = np.zeros(len(rows))
    with torch.no_grad():
        for repeat in range(20_000 // n):
            drawn = recipe.sample(net, n, torch.Generator().manual_seed(repeat))[0].numpy()
            seen += np.bincount(drawn @ weights, minlength=len(rows))
    assert likely(seen, expected)


@pytest.mark.parametrize("n", [20_000, 40])
def test_made_draws_what_a_condition_leaves(masked, n):
    net, rows, recipe = masked, every_row(SIZES), make("tabular/made", {})
    weights = {1: torch.tensor([1.0, 0.0, 0.5]), 3: torch.tensor([0.0, 1.0, 1.0, 0.2])}
    expected = recipe.log_prob(net, (rows,)).exp() * weights[1][rows[:, 1]] * weights[3][rows[:, 3]]
    code = np.cumprod([1, *SIZES[:0:-1]])[::-1].copy()
    with torch.no_grad():
        found = [recipe.sample_where(net, n, torch.Generator().manual_seed(s), weights)[0].numpy() for s in range(20_000 // n)]
        nothing = recipe.sample_where(net, 10, torch.Generator(), {0: torch.zeros(2)})[0]
    assert all(len(part) == n for part in found)
    assert len(nothing) == 0
    assert likely(np.bincount(np.concatenate(found) @ code, minlength=len(rows))[expected > 0], expected[expected > 0])


def test_made_completes_rows_by_what_is_known(masked):
    net, rows, recipe = masked, every_row(SIZES), make("tabular/made", {})
    chances = recipe.log_prob(net, (rows,)).exp()
    fits = (rows[:, 0] == 1) & (rows[:, 3] == 2)
    asked = torch.tensor([[1, 0, 0, 2]]).expand(8_000, -1)
    known = torch.tensor([True, False, False, True]).expand(8_000, -1)
    with torch.no_grad():
        made = recipe.complete(net, (asked,), known, torch.Generator().manual_seed(0), {})[0]
    assert (made[:, [0, 3]] == torch.tensor([1, 2])).all()
    shares = np.bincount((made[:, 1] * 2 + made[:, 2]).numpy(), minlength=6) / 8_000
    assert shares == pytest.approx((chances[fits] / chances[fits].sum()).detach().numpy(), abs=0.03)


def test_calibration_makes_expected_counts_those_of_the_rows(masked):
    """Step by step, up to the likeliest biases; a token that no row has keeps a chance, and a second digit's shares are let be."""
    net, recipe = masked, make("tabular/made", {})
    rows = torch.stack([torch.randint(size, (600,)) for size in SIZES], dim=1)
    rows[:, 3].clamp_(max=2)
    order, biases = rows[:, net.order], [leave.bias for leave in net.last]
    fixed = [bias.clone() for bias in biases if bias.ndim == 2]
    likelihoods = [recipe.log_prob(net, (rows,)).mean().item()]
    for _ in range(60):
        calibrate(biases, order, net)
        likelihoods.append(recipe.log_prob(net, (rows,)).mean().item())
    assert likelihoods[0] < likelihoods[1] < likelihoods[-1]
    for k, logits in enumerate(net(order)):
        if biases[k].ndim == 1:
            counts = torch.bincount(order[:, k], minlength=len(biases[k]))
            assert torch.allclose(logits.softmax(1).sum(0), counts.float(), atol=2)
            assert biases[k].isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip(fixed, [bias for bias in biases if bias.ndim == 2], strict=True))


@pytest.mark.parametrize("name", ["tabular/made", "tabular/transformer", "tabular/diffusion"])
def test_a_fit_ends_calibrated(name, monkeypatch):
    """Six steps at a wild rate leave marginals that are off; calibrated, the shares of single columns come out right."""
    recipe = make(name, {"training": {"steps": 6, "lr": 0.05, "patience": 0}})

    def gap() -> float:
        made = recipe.fit(mixed(), seed=0).sample(20_000, seed=0).table
        shares = [dict(zip(*np.unique(table["word"].to_numpy(), return_counts=True), strict=True)) for table in (mixed().table, made)]
        return max(abs(shares[0][w] / 800 - shares[1].get(w, 0) / 20_000) for w in shares[0])

    calibrated = gap()
    monkeypatch.setattr(f"generators.{name.replace('/', '.')}.calibrate", lambda *given: None)
    assert calibrated < min(0.02, 0.5 * gap())


def test_grouped_categories():
    tokens = torch.stack([torch.randint(size, (6,)) for size in SIZES], dim=1)
    hot = one_hot(tokens, SIZES)
    assert [part.argmax(1).tolist() for part in hot.split(SIZES, 1)] == [column.tolist() for column in tokens.T]
    logits = torch.randn(6, sum(SIZES))
    assert torch.allclose(cross_entropy(logits, tokens, SIZES), -(log_softmax(logits, SIZES) * hot).sum(1), atol=1e-5)
    assert torch.allclose(torch.stack([part.exp().sum(1) for part in log_softmax(logits, SIZES).split(SIZES, 1)]), torch.ones(()))
    many = draw(logits[:1].expand(20_000, -1), SIZES, torch.Generator().manual_seed(0))
    for column, part in zip(many.T, logits[0].split(SIZES), strict=True):
        assert likely(np.bincount(column, minlength=len(part)), part.softmax(0))


def correlated(n: int = 800) -> Dataset:
    rng = np.random.default_rng(0)
    a = rng.normal(size=n)
    table = pa.table({"a": a, "b": 0.8 * a + 0.6 * rng.normal(size=n)})
    return Dataset.of(table, Schema.infer(table))


def mixed(n: int = 800) -> Dataset:
    rng = np.random.default_rng(0)
    word = rng.integers(3, size=n)
    table = pa.table({"a": rng.normal(size=n) + word, "word": np.array(["x", "y", "z"])[word], "more": rng.choice(["u", "v"], n)})
    return Dataset.of(table, Schema.infer(table))


def test_without_categories_the_mixture_is_scikit_learns():
    from sklearn.mixture import GaussianMixture

    model = make("tabular/gmm", {"components": 4, "floor": 1e-6, "iterations": 50}).fit(correlated(), seed=0)
    z, c = model.codec.encode(correlated(), np.random.default_rng([0, 1]))
    count = model.log["components"]
    theirs = GaussianMixture(count, reg_covar=1e-6, max_iter=50, init_params="k-means++", random_state=0).fit(z.double().numpy())
    ours = model.net.terms(z.double(), one_hot(c, []).double()).logsumexp(1).numpy()
    assert np.allclose(ours, theirs.score_samples(z.double().numpy()), atol=0.02)


def test_the_mixture_is_a_distribution_over_categories_and_scores():
    model = make("tabular/gmm", {"components": 4, "rounds": 2}).fit(mixed(), seed=0)
    grid = torch.linspace(-7, 7, 1401, dtype=torch.float64)
    total = 0.0
    for row in every_row(model.net.sizes):
        hot = one_hot(row.expand(len(grid), -1), model.net.sizes).double()
        total += float(model.net.terms(grid[:, None], hot).logsumexp(1).exp().sum() * (grid[1] - grid[0]))
    assert total == pytest.approx(1, abs=1e-3)


def test_exact_em_never_lowers_the_mixtures_likelihood():
    found = []
    for rounds in range(4):
        model = make("tabular/gmm", {"components": 4, "rounds": rounds, "floor": 1e-6}).fit(mixed(), seed=0)
        z, c = model.codec.encode(mixed(), np.random.default_rng([0, 1]))
        found.append(float(model.net.terms(z.double(), one_hot(c, model.net.sizes).double()).logsumexp(1).mean()))
    assert all(later >= earlier - 2e-3 for earlier, later in itertools.pairwise(found))  # the ridge may cost a little


class KnownTable(torch.nn.Module):
    """The exact denoiser of a known joint [V_1, …, V_K]: what is hidden is summed out."""

    def __init__(self, joint: torch.Tensor):
        super().__init__()
        self.joint, self.sizes, self.order = joint, list(joint.shape), [2, 0, 1]

    def chances(self, x: torch.Tensor, k: int) -> torch.Tensor:
        found = []
        for row in x.tolist():
            p = self.joint
            for axis, token in enumerate(row):
                p = p if token == self.sizes[axis] else p.narrow(axis, token, 1)
            mass = p.sum([axis for axis in range(p.ndim) if axis != k])
            found.append(mass / mass.sum())
        return torch.stack(found)


@pytest.mark.parametrize("n", [4000, 4])
def test_the_diffusion_brings_tokens_back_by_the_joint_of_its_denoiser(n):
    """Many rows go by counts of what is there already, few row by row."""
    joint = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(0))
    joint[0, 1] = 0
    recipe, seen = make("tabular/diffusion", {}), np.zeros(joint.shape)
    for seed in range(4000 // n):
        (x,) = recipe.sample(KnownTable(joint), n, torch.Generator().manual_seed(seed))
        np.add.at(seen, tuple(x.T.numpy()), 1)
    assert seen.sum() == 4000
    assert not seen[0, 1].any()
    kept = joint > 0
    assert likely(seen[kept.numpy()], joint[kept])


def test_noise_hides_every_number_of_tokens_as_often_and_fine_digits_with_their_coarse_ones():
    shares = [np.full(4, 1 / 4), np.full((4, 5), 1 / 5), np.array([0.9, 0.1]), np.full(3, 1 / 3)]
    rows = torch.zeros(400, 4, dtype=torch.int64)
    for spread in (0.0, 0.5, 100.0):
        recipe = make("tabular/diffusion", {"hidden": 8, "spread": spread})
        net = recipe.build(type("", (), {"shares": shares}))
        seen = recipe.noise(net, rows)
        assert torch.bincount(seen.sum(1), minlength=4).tolist() == [100] * 4
        assert not (seen[:, 1] & ~seen[:, 0]).any()
        if not spread:  # always the order of sampling
            assert net.order == [2, 3, 0, 1]
            assert (seen[:, net.order].int().diff(dim=1) <= 0).all()
    assert 40 < (seen & ~seen[:, [2]])[:, 0].sum() < 200  # any order: a coarse digit is often there before the cheapest column


def test_a_denoiser_begins_with_the_shares_and_its_loss_with_their_entropy():
    data = Dataset.of(words := mixed().table.select(["word", "more"]), Schema.infer(words))
    recipe = make("tabular/diffusion", {"hidden": 16, "spread": 100.0})
    codec = TokenCodec.fit(data)
    net = recipe.build(codec).eval()
    with torch.no_grad():
        for leave in net.leave:
            leave.weight.zero_()
    for k, share in enumerate(codec.shares):
        assert np.allclose(net.chances(torch.tensor([net.sizes]), k)[0].detach().numpy(), share, atol=1e-4)
    entropy = -sum(float((share * np.log(share)).sum()) for share in codec.shares)
    rows = codec.encode(data, np.random.default_rng(0))[0].repeat(20, 1)
    torch.manual_seed(0)
    assert recipe.loss(net, (rows,), "").item() == pytest.approx(entropy, rel=0.02)


def test_the_vaes_bins_are_a_density_over_scores():
    recipe = make("tabular/vae", {"bins": 8, "hidden": 16})
    codec = MixedCodec.fit(mixed())
    net = recipe.build(codec)
    grid = torch.linspace(-5, 5, 4001)
    tokens = net.tokens(grid[:, None], torch.zeros(4001, 2, dtype=torch.int64))[:, -1]
    edges = torch.special.ndtri(torch.arange(1, 8, dtype=torch.float64) / 8).float()
    assert torch.equal(tokens, torch.searchsorted(edges, grid, right=True))


def test_the_vaes_bound_is_below_the_likelihood():
    """With every latent equal the bound is the log-likelihood itself: averaged over the training rows, minus the entropy."""
    torch.manual_seed(0)
    recipe = make("tabular/vae", {"hidden": 16, "latent": 2, "modes": 1})
    codec = TokenCodec.fit(mixed())
    assert codec.names == ["a", "word", "more"]
    codec = MixedCodec.fit(mixed())
    net = recipe.build(codec).eval()
    with torch.no_grad():
        for part in (net.encoder.leave, net.decoder.leave):
            part.weight.zero_()
            part.bias.zero_()
        net.means.zero_()
    rows = codec.encode(mixed(), np.random.default_rng(0))
    uniform = sum(np.log(size) for size in net.groups)
    assert recipe.loss(net, rows, "").item() == pytest.approx(uniform, rel=1e-4)


def gan():
    recipe, codec = make("tabular/gan", {"hidden": 16}), MixedCodec.fit(mixed())
    torch.manual_seed(0)
    return recipe, recipe.build(codec), codec.encode(mixed(), np.random.default_rng(0))


def test_a_phase_moves_its_own_part_only():
    from generators.train import Trainer

    recipe, net, rows = gan()
    batch = tuple(t[:64] for t in rows)
    for phases, still, moving in ((("critic",), net.maker, net.critic), (("maker",), net.critic, net.maker)):
        before = [[p.clone() for p in part.parameters()] for part in (still, moving)]
        runner = Trainer(net, phases, recipe.training, 10)
        runner.advance(batch, recipe.loss, 0)
        assert all(torch.equal(a, b) for a, b in zip(before[0], still.parameters(), strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(before[1], moving.parameters(), strict=True))
    net.zero_grad()
    recipe.loss(net, batch, "critic").backward()
    assert all(p.grad is None for p in net.maker.parameters())


def test_training_by_sampling_gives_rows_that_meet_their_condition():
    _, net, rows = gan()
    torch.manual_seed(1)
    z, c, condition = balanced(net, *(t[:400] for t in rows))
    assert len(z) == len(c) == len(condition) == 400
    assert torch.equal(condition.sum(1), torch.ones(400))
    assert torch.equal((one_hot(c, net.sizes) * condition).sum(1), torch.ones(400))


def run_of(steps: int | None = None, minutes: float | None = None, **settings: object):
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 1)
    x = torch.randn(500, 3)
    rows = (x, x @ torch.tensor([[1.0], [2.0], [3.0]]))

    def loss(net, rows, phase):
        return F.mse_loss(net(rows[0]), rows[1])

    training = Training(steps=steps, lr=0.05, ema=0.9, **settings)
    return train(
        net,
        rows,
        loss=loss,
        phases=("",),
        training=training,
        seed=0,
        minutes=minutes,
        device=torch.device("cpu"),
        folder=None,
        progress=None,
    )


def test_batches_are_drawn_without_replacement():
    rows = (torch.arange(10),)
    batches = Batches(rows, 3, 0, torch.device("cpu"))
    passes = [torch.cat([batches[step][0] for step in range(3 * p, 3 * p + 3)]).tolist() for p in range(4)]
    assert all(len(set(one)) == 9 for one in passes)
    assert len({tuple(one) for one in passes}) == 4
    assert batches[7][0].tolist() == Batches(rows, 3, 0, torch.device("cpu"))[7][0].tolist()
    assert batches[7][0].tolist() != Batches(rows, 3, 1, torch.device("cpu"))[7][0].tolist()


def test_training_descends_and_logs():
    net, log = run_of(steps=400)
    assert torch.allclose(net.weight, torch.tensor([[1.0, 2.0, 3.0]]), atol=0.05)
    assert log["steps"] == 400
    assert log["loss"][-1][1] < 0.01 * log["loss"][0][1]


def test_minutes_are_a_bound():
    began = time.perf_counter()
    _, log = run_of(steps=10**9, minutes=0.03)
    assert time.perf_counter() - began < 2 * 0.03 * 60
    assert 1 <= log["steps"] < 10**6


def test_training_stops_when_held_out_rows_stop_gaining():
    _, log = run_of(steps=20_000, patience=3)
    assert log["steps"] < 20_000


def test_dropout_falls_with_the_rate():
    seen = []
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.4), torch.nn.Linear(4, 1))

    def loss(net, rows, phase):
        seen.append(net[1].p)
        return net(rows[0]).square().mean()

    training, device = Training(steps=100, decay=0.5), torch.device("cpu")
    settings = {"phases": ("",), "minutes": None, "folder": None, "progress": None}
    train(net, (torch.randn(100, 3),), loss=loss, training=training, seed=0, device=device, **settings)
    assert max(seen) == seen[49] == 0.4
    assert seen[50:] == sorted(seen[50:], reverse=True)
    assert seen[75] == pytest.approx(0.2)
    assert seen[-1] == pytest.approx(0.4 / 50)


@pytest.mark.parametrize(("net", "threads"), [(Linear(SMALL - 2, 1), 1), (Linear(SMALL, 1), 2), (Conv2d(1, 1, 3), 2)])
def test_a_small_net_is_at_work_on_one_thread_and_gives_the_others_back(net, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with few_threads(net):
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_loss_that_is_no_number_stops_the_run():
    from generators.train import DivergedError

    with pytest.raises(DivergedError, match=r"step \d+ of"):
        train(
            torch.nn.Linear(1, 1),
            (torch.ones(100, 1),),
            loss=lambda net, rows, phase: (net(rows[0]) * float("inf")).sum(),
            phases=("",),
            training=Training(steps=5),
            seed=0,
            minutes=None,
            device=torch.device("cpu"),
            folder=None,
            progress=None,
        )


def test_single_columns_of_the_gan_come_out_right():
    """A game of a few rounds leaves shares and scores anywhere; (6) brings each column, by itself, to where it belongs."""
    data = mixed()
    made = make("tabular/gan", {"training": {"steps": 30}}).fit(data, seed=0).sample(20_000, seed=0).table
    for word in ("x", "y", "z"):
        assert np.mean(made["word"].to_numpy() == word) == pytest.approx(np.mean(data.table["word"].to_numpy() == word), abs=0.03)
    levels = np.linspace(0.05, 0.95, 10)
    assert np.quantile(made["a"].to_numpy(), levels) == pytest.approx(np.quantile(data.table["a"].to_numpy(), levels), abs=0.15)
