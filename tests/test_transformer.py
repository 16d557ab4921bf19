"""The transformer's equations, checked over every row of a table small enough to count."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from data.errors import BadInput
from generators.tabular.transformer import RowNet, Transformer, Walk

torch.set_num_threads(1)
SIZES = [2, 3, 2, 4]
RECIPE = Transformer(width=8, depth=2, heads=2, dropout=0.0)


@pytest.fixture(scope="module", autouse=True)
def _no_grad_to_keep():
    with torch.no_grad():
        yield


def net() -> RowNet:
    """Four positions; the third is the second digit of the second."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    shares = [np.full(2, 1 / 2), np.full(3, 1 / 3), rng.dirichlet([1, 1], 3), np.full(4, 1 / 4)]
    made = RowNet(shares, 8, 2, 2, 0.0)
    for parameter in made.parameters():
        parameter.add_(0.6 * torch.randn_like(parameter))
    return made.eval()


def every_row() -> torch.Tensor:
    return torch.tensor(list(itertools.product(*(range(size) for size in SIZES))))


def any_orders(model: RowNet, n: int, seed: int = 0) -> torch.Tensor:
    return model.orders(torch.rand(n, 4, generator=torch.Generator().manual_seed(seed)))


def seen(rows: torch.Tensor) -> np.ndarray:
    """How often each row of `every_row` occurs."""
    place = rows @ torch.tensor([24, 8, 4, 1])
    return np.bincount(place.numpy(), minlength=48)


def likely(counts: np.ndarray, p: torch.Tensor) -> bool:
    """Could these counts be draws with these probabilities? What is impossible never occurs."""
    share = (p.double() / p.double().sum()).numpy()
    assert not counts[share == 0].any()
    return bool(chisquare(counts[share > 0], counts.sum() * share[share > 0]).pvalue > 1e-3)


def test_orders_are_permutations_that_keep_digits_together():
    orders = any_orders(net(), 300)
    assert (orders.sort(dim=1).values == torch.arange(4)).all()
    place = orders.argsort(dim=1)
    assert (place[:, 2] == place[:, 1] + 1).all()
    assert len(orders.unique(dim=0)) == 6
    assert net().orders(torch.zeros(1, 4))[0].tolist() == net().order


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_probabilities_sum_to_one_in_any_order(seed):
    model = net()
    orders = None if seed is None else any_orders(model, 1, seed).expand(48, -1)
    assert RECIPE.log_prob(model, (every_row(),), orders).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_each_column_reads_the_ones_before_it_and_no_other():
    """Slopes of the logits with respect to what is embedded, in every order."""
    model = net()
    for order in model.orders(torch.tensor(list(itertools.permutations([0.1, 0.2, 0.3, 0.4])))).unique(dim=0):
        place = order.argsort()
        for k in range(4):
            found = []
            hook = model.embed.register_forward_hook(lambda _m, _i, out, found=found: found.append(out.requires_grad_()))
            with torch.enable_grad():
                logits = model(torch.tensor([[1, 2, 0, 3]]), order[None])[k].square().sum()
                (slope,) = torch.autograd.grad(logits, found[0], allow_unused=True)
            hook.remove()
            reads = slope[0].abs().sum(1) > 0  # by place: the last is never read
            assert reads.tolist() == [i < place[k] for i in range(3)]


def test_the_cache_gives_what_a_whole_pass_gives():
    model, rows = net(), every_row()
    orders = any_orders(model, 48)
    whole = model(rows, orders)
    known = torch.ones(48, 4, dtype=torch.bool)
    walk = Walk(model, rows.clone(), orders)
    for place in range(4):
        now = orders[:, place]
        free = known.clone().scatter_(1, now[:, None], False)
        weights = {k: (torch.arange(SIZES[k]) == 1).float() for k in range(4)}
        mass = walk.step(free, weights, torch.Generator().manual_seed(0))  # the chance of token 1
        for row in range(48):
            assert mass[row].item() == pytest.approx(whole[now[row]][row].softmax(0)[1].item(), abs=1e-5)
        walk.tokens = rows.clone()


def test_rows_are_drawn_as_log_prob_says():
    model = net()
    made = RECIPE.sample(model, 20_000, torch.Generator().manual_seed(0))[0]
    assert len(made) == 20_000
    assert likely(seen(made), RECIPE.log_prob(model, (every_row(),)).exp())


def in_order(model: RowNet, first: list[int]) -> torch.Tensor:
    """log p of every row with some columns first."""
    keys = torch.ones(4)
    keys[first] = torch.arange(len(first)) / 10
    return RECIPE.log_prob(model, (every_row(),), model.orders(keys[None]).expand(48, -1))


@pytest.mark.parametrize(
    "weights",
    [{3: [0, 0, 1, 0]}, {3: [0.2, 0, 1, 0.5]}, {0: [0, 1], 3: [0, 1, 1, 0]}, {1: [0, 0, 1], 2: [0, 1]}, {0: [0.3, 1], 3: [1, 0, 0.1, 0]}],
)
def test_rows_under_weights_follow_the_joint(weights):
    model, rows = net(), every_row()
    tensors = {k: torch.tensor(w, dtype=torch.float32) for k, w in weights.items()}
    made = RECIPE.sample_where(model, 15_000, torch.Generator().manual_seed(0), tensors)[0]
    assert len(made) == 15_000
    first = sorted(weights, key=lambda k: int((tensors[k] > 0).sum()))
    p = in_order(model, first).exp()
    for k, weight in tensors.items():
        p = p * weight[rows[:, k]]
    assert likely(seen(made), p)


def test_what_cannot_be_met_gives_no_rows():
    assert RECIPE.sample_where(net(), 5, torch.Generator(), {0: torch.zeros(2)})[0].shape == (0, 4)


@pytest.mark.parametrize("there", [[0], [3], [1, 2], [0, 3], []])
def test_rows_are_completed_by_what_is_known(there):
    model, rows = net(), every_row()
    known = torch.zeros(4, dtype=torch.bool)
    known[there] = True
    given = torch.tensor([[1, 2, 1, 3]]).expand(15_000, -1)
    made = RECIPE.complete(model, (given,), known.expand(15_000, -1), torch.Generator().manual_seed(0), {})[0]
    assert (made[:, there] == given[:, there]).all()
    keys = (~known).float()
    p = RECIPE.log_prob(model, (rows,), model.orders(keys[None]).expand(48, -1)).exp()
    p = p * (rows[:, there] == torch.tensor([1, 2, 1, 3])[there]).all(1)
    assert likely(seen(made), p)


def test_rows_are_completed_under_weights():
    """Token 0 of the free columns is forbidden; rows with different known columns go side by side."""
    model, rows = net(), every_row()
    known = torch.tensor([[True, False, False, False], [False, True, True, False]]).repeat(6000, 1)
    given = torch.tensor([[1, 2, 1, 3]]).expand(12_000, -1)
    weights = {k: (torch.arange(SIZES[k]) > 0).float() for k in (1, 3)}
    made = RECIPE.complete(model, (given,), known, torch.Generator().manual_seed(0), weights)[0]
    for half, there in enumerate(([0], [1, 2])):
        p = RECIPE.log_prob(model, (rows,), model.orders((~known[half]).float()[None]).expand(48, -1)).exp()
        p = p * (rows[:, there] == given[0, there]).all(1)
        for k in {1, 3} - set(there):
            p = p * weights[k][rows[:, k]]
        counts, share = seen(made[half::2]) / 6000, p / p.sum()
        assert np.abs(counts - share.numpy()).max() < 0.03  # particles: nearly exact


def test_heads_divide_the_width():
    with pytest.raises(BadInput, match="multiple of heads"):
        Transformer(width=10, heads=4).build(None)
