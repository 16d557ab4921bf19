"""Differential privacy: what is accounted is what is done, and the ledger stops what would exceed the budget."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.stats import norm
from torch import nn

from data import ledger
from data.errors import BadInput
from data.schema import Dataset, Schema
from generators import private, registry
from generators.fitted import Fitted
from generators.private import Privacy, Scored, Steps, row_gradients
from generators.train import Training

ABLE = [name for name in registry.names() if registry.get(name).private is not None]


def table(n: int = 400) -> Dataset:
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=n)
    columns = {
        "word": pa.array(np.array(["red", "green", "blue"])[group].tolist()),
        "amount": pa.array(np.round(rng.lognormal(3, 1, n), 2), mask=rng.random(n) < 0.1),
        "height": pa.array(group + rng.normal(size=n)),
        "count": pa.array(rng.poisson(3, n)),
    }
    data = pa.table(columns)
    return Dataset.of(data, Schema.infer(data, target="word"))


def brief(name: str, **more):
    kind = registry.get(name)
    return registry.make(name, {**kind.private, "training": {**kind.private["training"], "steps": 3, "batch": 64}, **more})


# ---------------------------------------------------------------- accounting


def losses(costs: list[tuple[float, float, int]], removed: bool) -> tuple[np.ndarray, np.ndarray]:
    """(grid, mass) of the sum of all privacy losses when a row is removed, or added: by convolution, straight from the definition."""
    step, count = 1e-3, 2**16
    grid, spectrum = (np.arange(count) - count // 2) * step, np.ones(count // 2 + 1, dtype=complex)
    for sigma, rate, times in costs:
        t = np.linspace(-12 * sigma, 12 * sigma + 1, 400_001)
        mixed, plain = (1 - rate) * norm.pdf(t, 0, sigma) + rate * norm.pdf(t, 1, sigma), norm.pdf(t, 0, sigma)
        upper, lower = (mixed, plain) if removed else (plain, mixed)
        place = np.log(upper / lower) / step + count // 2
        below = np.floor(place).astype(int)
        mass = upper / upper.sum()
        split = np.bincount(below, mass * (below + 1 - place), minlength=count) + np.bincount(
            below + 1, mass * (place - below), minlength=count
        )
        spectrum *= np.fft.rfft(np.fft.ifftshift(split)) ** times
    return grid, np.fft.fftshift(np.fft.irfft(spectrum, count))


@pytest.mark.parametrize(
    "costs", [[(5.0, 1.0, 1)], [(1.2, 0.02, 500)], [(4.0, 1.0, 2), (1.1, 0.016, 1000)]], ids=["one sum", "steps", "sums and steps"]
)
def test_an_accountant_of_our_own_agrees(costs):
    delta, sides = 1e-5, [losses(costs, removed) for removed in (True, False)]
    low, high = 0.01, 20.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        worst = max((mass * -np.expm1(np.minimum(0, middle - grid))).sum() for grid, mass in sides)
        low, high = (middle, high) if worst > delta else (low, middle)
    assert private.spent(costs, delta) >= high - 0.01  # what is promised is a bound
    assert private.spent(costs, delta) == pytest.approx(high, rel=0.03)


def test_the_noise_spends_what_is_wanted():
    epsilon = 2.0
    sigma = private.noise_for(epsilon, 1e-5, [(10.0 / epsilon, 1.0, 1)], 0.02, 300)
    assert 0.95 * epsilon < private.spent([(10.0 / epsilon, 1.0, 1), (sigma, 0.02, 300)], 1e-5) <= 1.01 * epsilon


def test_everything_that_reads_the_rows_is_accounted(monkeypatch):
    monkeypatch.setattr(private, "noise_for", lambda *given: 2.0)
    kept = {name: brief(name).fit(table(), epsilon=2.0).log["privacy"]["mechanisms"] for name in ABLE}
    for name, told in kept.items():
        kind = registry.get(name)
        assert sum(m["steps"] for m in told if m["rate"] < 1) == 3 * len(kind.phases), name
        assert sum(m["rate"] == 1 for m in told) == kind.sums, name


# ---------------------------------------------------------------- the mechanism


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))


def squared(net, rows, phase):
    x, y = rows
    return ((x @ net.weight - y) ** 2).mean()


def rows_of(n=100):
    torch.manual_seed(0)
    return torch.randn(n, 3), torch.randn(n)


def test_gradients_of_rows_are_those_of_each_row_alone():
    net, rows = Line(), rows_of(7)
    nn.init.normal_(net.weight)
    found = row_gradients(Scored(net, squared, ""), {"net.weight": net.weight}, rows)["net.weight"]
    for row in range(7):
        net.zero_grad()
        squared(net, tuple(t[row : row + 1] for t in rows), "").backward()
        assert torch.allclose(found[row], net.weight.grad, atol=1e-6)


def moved_by(rows, clip, sigma, key=b"k", batch=50, place=(0, 0)):
    """What one step of plain descent, at rate 1, adds to the weights."""
    net = Line()
    steps = Steps(rows, key, batch, clip)
    steps.sigma = sigma
    steps.take(net, steps.wrap(torch.optim.SGD(net.parameters(), lr=1.0)), squared, "", place)
    return net.weight.detach() * steps.rate * len(rows[0])


def test_no_row_moves_a_step_by_more_than_the_clip():
    x, y = rows_of()
    with_it = moved_by((x, y), 0.5, 0.0, batch=100)
    y = y.clone()
    y[3] = 1e6
    assert torch.linalg.norm(with_it - moved_by((x, y), 0.5, 0.0, batch=100)) <= 1.0 + 1e-5  # one row changed: taken out, put in
    assert torch.linalg.norm(with_it) > 0.5


def test_the_noise_of_a_step_has_the_promised_size():
    x, y = rows_of()
    still = [moved_by((x, y), 0.5, 0.0, place=(s, 0)) for s in range(200)]
    noisy = [moved_by((x, y), 0.5, 3.0, place=(s, 0)) for s in range(200)]
    noise = torch.stack(noisy) - torch.stack(still)
    assert noise.std().item() == pytest.approx(3.0 * 0.5, rel=0.1)


def test_batches_take_each_row_on_its_own_with_the_stated_chance():
    rows = (torch.arange(1000),)
    steps = Steps(rows, b"k", 50, 1.0)
    sizes = [len(steps.batch((s, 0))[0]) for s in range(400)]
    assert np.mean(sizes) == pytest.approx(50, rel=0.05)
    assert np.var(sizes) == pytest.approx(1000 * 0.05 * 0.95, rel=0.3)  # binomial: no fixed size
    assert not torch.equal(steps.batch((0, 0))[0], steps.batch((0, 1))[0])  # each phase draws its own


def test_an_empty_batch_is_a_step_of_noise():
    net, (x, y) = Line(), rows_of(2)
    steps = Steps((x, y), b"k", 1, 1.0)
    steps.batch = lambda place: (x[:0], y[:0])
    steps.take(net, steps.wrap(torch.optim.SGD(net.parameters(), lr=1.0)), squared, "", (0, 0))
    assert 0 < torch.linalg.norm(net.weight) < 10


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(private, "noise_for", lambda *given: 1.0)


@pytest.mark.parametrize("name", ABLE)
def test_every_neural_generator_of_tables_fits_under_epsilon(name, quick, tmp_path):
    fitted = brief(name).fit(table(), epsilon=3.0)
    fitted.save(tmp_path)
    again = Fitted.load(tmp_path)
    assert len(again.sample(50)) == 50
    assert again.log["loss"] == []  # no curve of losses on real rows
    assert again.log["privacy"]["epsilon"] == 3.0
    assert again.log["privacy"]["delta"] == 1 / (10 * 400)


def test_what_can_be_fitted_under_epsilon_are_the_neural_generators_of_tables():
    neural = {"autoencoder", "vae", "gan", "diffusion", "transformer", "made", "rbm"}
    assert set(ABLE) == {f"tabular/{name}" for name in neural}
    with pytest.raises(BadInput, match="epsilon"):
        registry.make("tabular/gmm", {}).fit(table(), epsilon=1.0)


def test_no_seed_decides_the_noise_and_a_killed_fit_goes_on_with_its_own(quick, tmp_path):
    recipe, data = brief("tabular/made"), table()
    one, other = (recipe.fit(data, seed=0, epsilon=3.0).net.state_dict() for _ in range(2))
    assert any(not torch.equal(one[k], other[k]) for k in one)
    kept = [recipe.fit(data, seed=0, epsilon=3.0, folder=tmp_path).net.state_dict() for _ in range(2)]
    assert all(torch.equal(kept[0][k], kept[1][k]) for k in kept[0])


def test_a_private_fit_that_is_killed_goes_on_from_its_checkpoint(quick, tmp_path, monkeypatch):
    recipe, data = brief("tabular/made"), table()
    recipe = replace(recipe, training=replace(recipe.training, steps=20))
    monkeypatch.setattr("generators.train.CHECKPOINT_SECONDS", 0.0)
    (tmp_path / "whole").mkdir()
    whole = recipe.fit(data, epsilon=3.0, folder=tmp_path / "whole").net.state_dict()
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed/secret").write_bytes((tmp_path / "whole/secret").read_bytes())

    def kill(done: int, total: int, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recipe.fit(data, epsilon=3.0, folder=tmp_path / "killed", progress=kill)
    assert (tmp_path / "killed/checkpoint.safetensors").exists()
    again = recipe.fit(data, epsilon=3.0, folder=tmp_path / "killed").net.state_dict()
    assert all(torch.equal(whole[k], again[k]) for k in whole)


def test_shares_are_noisy_and_no_early_stop_holds_rows_out(quick):
    recipe = brief("tabular/made")
    assert recipe.training.patience == 2  # the recipe's own, which a private fit leaves aside
    data = table()
    exact = recipe.codec.fit(data)
    noised = exact.noised(Privacy(3.0, len(data), b"k"))
    for before, after in zip(exact.codes, noised.codes, strict=True):
        assert after.tokens.shape == before.tokens.shape
        assert after.tokens.min() > 0
        assert after.tokens.sum() == pytest.approx(1)
    assert not np.allclose(exact.codes[0].tokens, noised.codes[0].tokens)
    assert recipe.fit(data, epsilon=3.0).log["steps"] == 3


def test_without_epsilon_nothing_changes():
    training = Training(steps=3, batch=64)
    recipe = replace(registry.make("tabular/made", {}), training=training)
    one, other = (recipe.fit(table(), seed=0) for _ in range(2))
    assert "privacy" not in one.log
    assert all(torch.equal(a, b) for a, b in zip(one.net.state_dict().values(), other.net.state_dict().values(), strict=True))


# ---------------------------------------------------------------- the ledger


def spend(root, fit, epsilon=1.0, budget=None, source="shop", fingerprint="f"):
    return ledger.spend(root, fit=fit, source=source, fingerprint=fingerprint, epsilon=epsilon, delta=1e-6, budget=budget)


def test_the_ledger_adds_up_and_stops(tmp_path):
    assert spend(tmp_path, "a")["epsilon"] == 1
    assert spend(tmp_path, "b", 2.0, 3.0) == {"epsilon": 3.0, "delta": 2e-6, "fits": 2, "budget": 3.0}
    before = (tmp_path / ledger.FILE).read_bytes()
    with pytest.raises(BadInput, match=r"epsilon 3 of a budget of 3.*0\.1"):
        spend(tmp_path, "c", 0.1, 3.0)
    assert (tmp_path / ledger.FILE).read_bytes() == before
    assert spend(tmp_path, "b", 2.0, 3.0)["epsilon"] == 3  # a fit that goes on
    assert spend(tmp_path, "d", 5.0, 5.0, source="other", fingerprint="g")["fits"] == 1
    assert spend(tmp_path, "e", 1.0, source="renamed")["fits"] == 3  # the same rows under another name


def test_ten_tenths_are_one(tmp_path):
    for number in range(10):
        spend(tmp_path, str(number), 0.1, 1.0)


def test_a_damaged_ledger_lets_nothing_be_spent(tmp_path):
    (tmp_path / ledger.FILE).write_text('{"fits": [')
    with pytest.raises(BadInput, match="damaged"):
        spend(tmp_path, "a")


# ---------------------------------------------------------------- the job


def job(source, **more):
    from flows.job import Job

    loose = {"utility": -99, "detector": 1, "shape": 100, "trend": 100, "copies": 1, "dcr": 100, "membership": 1}
    loose |= {"informed": 1, "singling": 1, "inference": 1}
    recipe = {"name": "tabular/made", "training": {"steps": 3, "batch": 64}}
    return Job.of({"source": source, "target": "word", "name": "shop", "to": "out", "generator": recipe, "gates": loose, **more})


def test_a_job_spends_once_tells_what_it_spent_and_stops_before_the_fit(quick, tmp_path, monkeypatch):
    import pyarrow.csv as csv

    from flows import pipeline, planning

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALFAR_HOME", str(tmp_path / "home"))
    csv.write_csv(table().table, "shop.csv")
    one = pipeline.synthesize(job("shop.csv", epsilon=2.0, epsilon_budget=3.0))
    assert one.passed, one.manifest["reasons"]
    assert one.manifest["privacy"]["ledger"] == {"epsilon": 2.0, "delta": one.manifest["privacy"]["delta"], "fits": 1, "budget": 3.0}
    assert "reference" not in one.manifest  # shares of real rows without noise
    for file in ("README.md", "report.html"):
        assert "Differential privacy" in (one.folder / file).read_text()
    more = pipeline.synthesize(job("shop.csv", epsilon=2.0, epsilon_budget=3.0, rows=50))  # the same fit: other rows
    assert more.manifest["privacy"]["ledger"]["epsilon"] == 2.0
    begun = []
    monkeypatch.setattr(type(planning.generator_of(job("shop.csv"), table().schema)), "build", lambda *a: begun.append(1))
    with pytest.raises(BadInput, match="budget of 3"):
        pipeline.synthesize(job("shop.csv", epsilon=2.0, epsilon_budget=3.0, seed=1))
    assert not begun
    assert len(json.loads((tmp_path / "out" / ledger.FILE).read_text())["fits"]) == 1
    with pytest.raises(AttributeError):  # a fit that began and failed is spent
        pipeline.synthesize(job("shop.csv", epsilon=0.5, epsilon_budget=3.0, seed=1))
    assert len(json.loads((tmp_path / "out" / ledger.FILE).read_text())["fits"]) == 2


def test_a_budget_needs_epsilon_and_auto_is_refused():
    with pytest.raises(BadInput, match="epsilon_budget needs epsilon"):
        job("shop.csv", epsilon_budget=3.0)
    with pytest.raises(BadInput, match="auto"):
        job("shop.csv", epsilon=3.0, generator="auto")
