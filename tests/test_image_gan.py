"""The game of maker and critic: its loss and penalties on a critic whose gradients are known, its augmentation, labels, shapes."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data.images import column
from data.schema import Dataset, Schema
from generators.base import Descending, Forecast
from generators.codecs.image import ImageCodec
from generators.image.biggan import within
from generators.nets.adversarial import Critic, Game, Players, augmented, bounded, finished, overlap, play, preferred, slope
from generators.presets import example
from generators.registry import get, make, names

torch.set_num_threads(1)
NAMES = ["image/gan", "image/dcgan", "image/stylegan", "image/biggan"]
SMALL = {
    "image/gan": {"hidden": 16, "depth": 2},
    "image/dcgan": {"width": 4},
    "image/stylegan": {"width": 4},
    "image/biggan": {"width": 4},
}


def straight(cells: int) -> Critic:
    """D(x, y) = (v + w_y) . x + b: |grad D|^2 = |v + w_y|^2 for every x."""
    return Critic(nn.Flatten(), cells, labels=2)


class Constant(nn.Module):
    """G(noise, y) = its one picture."""

    def __init__(self, shape):
        super().__init__()
        self.noise = 3
        self.picture = nn.Parameter(torch.rand(shape) - 0.5)

    def forward(self, noise, y):
        return self.picture.expand(len(y), *self.picture.shape)


def game(shape=(1, 3, 4), channels=1) -> Players:
    torch.manual_seed(0)
    return Players(Constant(shape), straight(int(np.prod(shape))), torch.ones(2) / 2, channels)


def test_the_losses_of_a_linear_critic_in_closed_form():
    net = game()
    x, y = torch.rand(4, 1, 3, 4), torch.tensor([0, 1, 0, 1])
    w = net.critic.real.weight + net.critic.each.weight[y]
    gap = ((x.flatten(1) - net.maker.picture.flatten()) * w).sum(1)  # real above fake
    unread = [F.cross_entropy(net.critic.label(picture.flatten(1)), y) for picture in (x, net.maker.picture.expand(x.shape))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("generators.nets.adversarial.PROBED", 1)
        critic = play(net, x, y, "critic", Game(penalty=0.3, shift=0.0, legible=0.7))
    assert torch.allclose(critic, F.softplus(-gap).mean() + 0.3 / 2 * (2 * w.square().sum(1).mean()) + unread[0])
    maker = play(net, x, y, "maker", Game(penalty=0.3, shift=0.0, legible=0.7))
    assert torch.allclose(maker, F.softplus(gap).mean() + 0.7 * unread[1])


def test_the_logistic_loss_of_a_linear_critic_in_closed_form():
    net, rules = game(), Game(loss="logistic", penalty=0.3, shift=0.0, legible=0.7)
    x, y = torch.rand(4, 1, 3, 4), torch.tensor([0, 1, 0, 1])
    w = net.critic.real.weight + net.critic.each.weight[y]
    real, fake = (((picture.flatten(1) * w).sum(1) + net.critic.real.bias) for picture in (x, net.maker.picture.expand(x.shape)))
    unread = [F.cross_entropy(net.critic.label(picture.flatten(1)), y) for picture in (x, net.maker.picture.expand(x.shape))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("generators.nets.adversarial.PROBED", 1)
        critic = play(net, x, y, "critic", rules)
    steep = w.square().sum(1).mean()  # of real images alone
    assert torch.allclose(critic, (F.softplus(-real) + F.softplus(fake)).mean() + 0.3 / 2 * steep + unread[0])
    assert torch.allclose(play(net, x, y, "maker", rules), F.softplus(-fake).mean() + 0.7 * unread[1])


def test_the_hinge_loss_of_a_linear_critic_in_closed_form():
    net, rules = game(), Game(loss="hinge", penalty=0.0, shift=0.0, legible=0.0)
    x, y = torch.rand(4, 1, 3, 4), torch.tensor([0, 1, 0, 1])
    w = net.critic.real.weight + net.critic.each.weight[y]
    real, fake = (((picture.flatten(1) * w).sum(1) + net.critic.real.bias) for picture in (x, net.maker.picture.expand(x.shape)))
    assert torch.allclose(play(net, x, y, "critic", rules), ((1 - real).clamp(min=0) + (1 + fake).clamp(min=0)).mean())
    assert torch.allclose(play(net, x, y, "maker", rules), -fake.mean())


def test_orthogonal_rows_do_not_overlap_and_labels_do_not_count():
    maker = nn.ModuleDict({"label": nn.Embedding(3, 4), "body": nn.Linear(6, 4)})
    nn.init.orthogonal_(maker["body"].weight)
    assert overlap(maker).item() == pytest.approx(0, abs=1e-9)
    with torch.no_grad():
        maker["body"].weight.copy_(torch.eye(4, 6)).index_put_((torch.tensor([0]), torch.tensor([1])), torch.tensor(0.5))
    assert overlap(maker).item() == pytest.approx(2 * 0.5**2)


def test_augmentation_comes_as_often_as_the_critic_is_sure():
    torch.manual_seed(0)
    net, x, y = game(), torch.rand(50, 1, 3, 4), torch.zeros(50, dtype=torch.int64)
    rules = Game(loss="hinge", penalty=0.0, legible=0.0, target=0.6)
    for sign, chances in ((1.0, [0.1, 0.2]), (-1.0, [0.1, 0.0, 0.0])):
        with torch.no_grad():
            net.critic.real.bias.fill_(100 * sign)
        for chance in chances:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("generators.nets.adversarial.SPEED", 500)
                play(net, x, y, "critic", rules)
            assert net.chance.item() == pytest.approx(chance, abs=1e-6)
    x = torch.rand(400, 3, 4, 4)
    moved = (augmented(x, 3, 0.3, torch.tensor(0.25)) != x).flatten(1).any(1)
    assert 0.15 < moved.float().mean() < 0.35
    assert torch.equal(augmented(x, 3, 0.3, torch.tensor(0.0)), x)


def test_a_bounded_layer_stretches_nothing():
    torch.manual_seed(0)
    layer = bounded(nn.Linear(20, 10))
    with torch.no_grad():
        layer.parametrizations.weight.original.mul_(7)
    for _ in range(20):
        layer(torch.randn(1, 20))  # the power method goes on
    assert torch.linalg.svdvals(layer.eval().weight)[0].item() == pytest.approx(1, rel=1e-3)


def test_the_slope_of_some_images_stands_for_all():
    net = game()
    x, y = torch.rand(8, 1, 3, 4), torch.zeros(8, dtype=torch.int64)
    steep = (net.critic.real.weight + net.critic.each.weight[0]).square().sum()
    torch.manual_seed(1)
    free = play(net, x, y, "critic", Game(penalty=0.0, shift=0.1, legible=0.0))
    torch.manual_seed(1)
    assert torch.allclose(play(net, x, y, "critic", Game(penalty=0.5, shift=0.1, legible=0.0)) - free, 0.5 * steep, atol=1e-5)


def test_each_side_gets_the_gradient_of_its_own_loss_only():
    net = game()
    x, y = torch.rand(5, 1, 3, 4), torch.zeros(5, dtype=torch.int64)
    play(net, x, y, "critic", Game(penalty=0.3, shift=0.1, legible=0.1)).backward()
    assert all(p.grad is not None for p in net.critic.parameters())
    assert net.maker.picture.grad is None
    for legible in (0.0, 0.1):
        net.zero_grad()
        play(net, x, y, "maker", Game(penalty=0.3, shift=0.1, legible=legible)).backward()
        assert all(p.grad is None for p in net.critic.parameters())
        assert net.maker.picture.grad.abs().sum() > 0
    assert all(p.requires_grad for p in net.critic.parameters())


def test_the_relativistic_loss_and_its_gradient():
    one, other = torch.tensor([0.0, 2.0], dtype=torch.float64, requires_grad=True), torch.tensor([1.0, -3.0], dtype=torch.float64)
    assert preferred(one, one).item() == pytest.approx(np.log(2))
    loss = preferred(one, other)
    assert loss.item() == pytest.approx((np.log1p(np.exp(1.0)) + np.log1p(np.exp(-5.0))) / 2)
    assert torch.autograd.gradcheck(lambda s: preferred(s, other), one)
    assert preferred(one + 7, other + 7).item() == pytest.approx(loss.item())


def test_the_slope_and_its_gradient_against_finite_differences():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    x = torch.randn(3, 1, 2, 3, dtype=torch.float64, requires_grad=True)
    steep, eps = slope(net(x).squeeze(1), x), 1e-5
    differences = torch.zeros(3, 6, dtype=torch.float64)
    for cell in range(6):
        nudge = torch.zeros(6, dtype=torch.float64)
        nudge[cell] = eps
        up, down = (net(x.detach() + sign * nudge.view(1, 1, 2, 3)).squeeze(1) for sign in (1, -1))
        differences[:, cell] = (up - down).detach() / (2 * eps)
    assert steep.item() == pytest.approx(differences.square().sum(1).mean().item(), rel=1e-6)
    steep.backward()
    weight = net[1].weight
    measured = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0, 0] += sign * eps
        measured.append(slope(net(x).squeeze(1), x).item())
        with torch.no_grad():
            weight[0, 0] -= sign * eps
    assert weight.grad[0, 0].item() == pytest.approx((measured[0] - measured[1]) / (2 * eps), rel=1e-5)


@pytest.mark.parametrize(("channels", "classes"), [(1, 0), (1, 3), (3, 0), (3, 2)])
def test_augmentation_keeps_the_range_and_the_mask_and_lets_gradients_through(channels, classes):
    torch.manual_seed(0)
    image = torch.where(torch.rand(40, channels, 7, 9) < 0.5, -1.0, 1.0)  # nothing but the ends of the range
    mask = 2 * F.one_hot(torch.randint(max(1, classes), (40, 7, 9)), classes).permute(0, 3, 1, 2).float() - 1 if classes else image[:, :0]
    x = torch.cat([image, mask], dim=1).requires_grad_()
    moved = augmented(x, channels, shift=0.3)
    assert moved.shape == x.shape
    assert moved.abs().max() <= 1 + 1e-6
    assert not torch.equal(moved, x)
    if classes:
        assert torch.equal((moved[:, channels:] > 0).sum(1), torch.ones(40, 7, 9, dtype=torch.int64))
    moved.square().sum().backward()
    assert (x.grad.flatten(1).abs().sum(1) > 0).all()


def test_the_shift_moves_image_and_mask_together_and_not_too_far():
    torch.manual_seed(0)
    picture = torch.arange(100.0).view(1, 1, 10, 10).expand(200, 2, 10, 10)
    moved = augmented(picture, 1, shift=0.2)
    assert torch.equal(moved[:, 0], moved[:, 1])
    centre = moved[:, 0, 5, 5].long().tolist()  # of what stands there, tens are its row and units its column
    assert {value // 10 - 5 for value in centre} == {-2, -1, 0, 1, 2}
    assert {value % 10 - 5 for value in centre} == {-2, -1, 0, 1, 2}
    assert torch.equal(augmented(picture, 1, shift=0.0), picture)


def test_the_score_is_a_projection_on_the_label():
    critic, x = straight(8), torch.randn(5, 1, 2, 4)
    scores = torch.stack([critic(x, torch.full((5,), label))[0] for label in range(2)])
    expected = [x.flatten(1) @ (critic.real.weight[0] + critic.each.weight[label]) + critic.real.bias for label in range(2)]
    assert torch.allclose(scores, torch.stack(expected), atol=1e-6)
    assert (scores[0] - scores[1]).abs().min() > 1e-4


def test_a_finished_mask_is_nearly_one_hot():
    out = finished(20 * torch.randn(6, 5, 4, 4), channels=2)
    assert out.abs().max() <= 1
    assert torch.allclose((out[:, 2:] + 1).sum(1), torch.full((6, 4, 4), 2.0), atol=1e-5)


def pictures(channels: int, size: tuple[int, int], classes: int, n: int = 70) -> Dataset:
    """Bright top or dark top, named so; where it is bright the mask is its highest class."""
    rng = np.random.default_rng(0)
    bright = rng.random(n) < 0.5
    x = rng.integers(0, 40, (n, channels, *size), dtype=np.uint8)
    x[bright, :, : size[0] // 2] += 200
    columns, kinds = {"image": column(x), "label": pa.array(np.where(bright, "light", "dark").tolist())}, {"image": "image"}
    if classes:
        mask = rng.integers(0, classes, (n, 1, *size), dtype=np.uint8)
        columns["mask"], kinds["mask"] = column(mask), "mask"
    table = pa.table(columns)
    return Dataset.of(table, Schema.infer(table, target="label", kinds=kinds))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("channels", "size", "classes"), [(1, (8, 8), 0), (3, (32, 32), 2), (1, (28, 20), 4), (3, (9, 13), 0), (1, (64, 3), 0)]
)
def test_every_size_and_number_of_channels(name, channels, size, classes):
    data = pictures(channels, size, classes)
    fitted = make(name, {**SMALL[name], "training": {"steps": 2, "batch": 16}}).fit(data, seed=0, device="cpu")
    made = fitted.sample(5, seed=1, given={"label": "light"})
    assert made.schema == data.schema
    x, _ = fitted.codec.encode(made, np.random.default_rng(0))
    assert x.shape == (5, channels + classes, *size)
    assert x.dtype == torch.uint8


@pytest.mark.parametrize("name", NAMES)
def test_maker_and_critic_follow_the_label(name):
    codec = ImageCodec.fit(pictures(1, (8, 8), 0))
    torch.manual_seed(0)
    net = make(name, SMALL[name]).build(codec)
    x, zeros, ones = torch.rand(6, 1, 8, 8), torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.int64)
    one, other = (net.make(y, torch.Generator().manual_seed(0)) for y in (zeros, ones))
    assert (one - other).abs().max() > 1e-4
    assert (net.critic(x, zeros)[0] - net.critic(x, ones)[0]).abs().min() > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_what_the_label_says(name):
    data = pictures(1, (8, 8), 0, n=300)
    training = {"steps": 200, "batch": 64, "ema": 0.95, "lr": 1e-3}
    recipe = make(name, {"training": training} | ({"hidden": 64} if name == "image/gan" else {"width": 8}))
    fitted = recipe.fit(data, seed=0, device="cpu")
    for label, low, high in (("light", 120, 255), ("dark", 0, 80)):
        x, _ = fitted.codec.encode(fitted.sample(50, seed=0, given={"label": label}), np.random.default_rng(0))
        top = x[:, 0, :4].float().mean((1, 2))
        assert ((top >= low) & (top <= high)).float().mean() > 0.9, label


def test_fine_styles_of_oneself_change_nothing_and_those_of_others_do():
    torch.manual_seed(0)
    maker = make("image/stylegan", SMALL["image/stylegan"]).build(ImageCodec.fit(pictures(1, (8, 8), 0))).maker.eval()
    noise, y = torch.randn(3, maker.noise), torch.tensor([0, 1, 1])
    own, mixed = maker.truncated(noise, y, 0.7), maker.mixed(noise, y, noise[1, : maker.latent], 0.7)
    assert torch.allclose(mixed[1], own[1], atol=1e-6)
    assert all((mixed[i] - own[i]).abs().max() > 1e-4 for i in (0, 2))


def test_every_level_of_biggan_hears_its_own_noise_and_the_label():
    torch.manual_seed(0)
    maker = make("image/biggan", SMALL["image/biggan"]).build(ImageCodec.fit(pictures(1, (28, 28), 0))).maker
    noise, y = torch.randn(8, maker.noise), torch.zeros(8, dtype=torch.int64)
    image = maker(noise, y)
    for part in torch.arange(maker.noise).split(maker.parts):
        other = noise.clone()
        other[:, part] = torch.randn(8, len(part))
        assert (maker(other, y) - image).abs().mean() > 0.01
    assert (maker(noise, 1 - y) - image).abs().mean() > 0.01


def test_truncated_noise_keeps_within_the_limit_and_its_order():
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    kept = within(noise, 0.5)
    assert kept.abs().max() <= 0.5
    assert torch.equal(kept.argsort(), noise.argsort())
    assert torch.allclose(within(noise, 6.0), noise, atol=1e-2)


# ---- sizes


def foretold(room: int):
    """`expected` of a machine on which nets of `room` channels and less make all their steps within a minute."""

    def expected(self, data, *, minutes=None, device="auto", private=False):
        wanted = 1000
        steps = wanted if minutes is None else min(wanted, int(wanted * minutes * room / self.width))
        return Forecast(steps, wanted, 1.0, 0.0)

    return expected


@pytest.mark.parametrize(("room", "minutes", "width"), [(64, 1, 32), (20, 1, 16), (20, 10, 32), (20, None, 32), (1, 1, 16)])
def test_minutes_choose_the_largest_size_that_makes_its_steps(monkeypatch, room, minutes, width):
    monkeypatch.setattr(Descending, "expected", foretold(room))
    recipe, cost = make("image/dcgan", {}).within(None, minutes=minutes)
    assert recipe == make("image/dcgan", {"width": width})
    assert cost == recipe.expected(None, minutes=minutes)


def test_a_size_that_is_stated_stays(monkeypatch):
    monkeypatch.setattr(Descending, "expected", foretold(1))
    stated = make("image/dcgan", {"width": 48, "noise": 8})
    assert stated.within(None, minutes=1, fixed={"name": "image/dcgan", "width": 48, "noise": 8})[0] == stated
    other = make("image/dcgan", {"noise": 8})
    assert other.within(None, minutes=1, fixed={"noise": 8})[0] == make("image/dcgan", {"noise": 8, "width": 16})


@pytest.mark.parametrize("name", [name for name in names() if get(name).__dict__.get("sizes")])
def test_sizes_are_fields_of_smaller_nets(name):
    kind = get(name)
    codec = kind.codec.fit(example(name))
    nets = [replace(kind(), **size).build(codec) for size in (*kind.sizes, {})]
    counts = [sum(p.numel() for p in net.parameters()) for net in nets]
    assert counts == sorted(set(counts)), "from small to large, the defaults the largest"
