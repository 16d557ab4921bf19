"""Presets: every one is a recipe, the job file and the command line take it, and its cost is counted, not guessed."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from data.errors import BadInput
from flows.cli import main, parser, values_of
from flows.job import Job
from generators.base import Descending
from generators.nets.counting import Counting
from generators.presets import PRESETS, cost, example, resolved
from generators.registry import get, make, modality_of, names

torch.set_num_threads(1)
SIZED = [name for name in names() if modality_of(name) != "tabular" and issubclass(get(name), Descending)]


def test_every_net_of_images_and_texts_has_presets():
    assert set(SIZED) <= set(PRESETS) <= set(names())


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_recipes_and_the_defaults_are_one_of_them(name):
    recipes = {preset: make(name, sizes) for preset, sizes in PRESETS[name].items()}
    assert list(recipes) == ["cpu-smoke", "cpu", "gpu"]
    assert recipes["cpu"] == get(name)()
    assert recipes["cpu-smoke"].training.steps <= 200
    assert recipes["gpu"] != recipes["cpu"]


@pytest.mark.parametrize("name", PRESETS)
def test_the_largest_preset_makes_two_steps(name):
    training = {**PRESETS[name]["gpu"].get("training", {}), "steps": 2, "batch": 2, "patience": 0}
    data = example(name)
    log = make(name, {**PRESETS[name]["gpu"], "training": training}).fit(data, device="cpu").log
    small = make(name, {"training": {"steps": 1, "batch": 2, "patience": 0}}).fit(data, device="cpu").log
    assert log["steps"] == 2
    assert log["parameters"] > 2 * small["parameters"]


def test_a_preset_is_what_it_stands_for_and_what_is_said_beside_it_wins():
    recipe = {"name": "image/dcgan", "preset": "gpu", "width": 5, "training": {"lr": 0.5}}
    sizes = PRESETS["image/dcgan"]["gpu"]
    wanted = {"name": "image/dcgan", **sizes, "width": 5, "training": {**sizes["training"], "lr": 0.5}}
    assert resolved(recipe) == wanted
    assert Job.of({"source": "mnist", "generator": recipe}).generator == wanted
    options = ["run", "mnist", "--generator", "image/dcgan", "--preset", "gpu", "--set", "width=5", "--set", "training.lr=0.5"]
    assert Job.of(values_of(parser().parse_args(options))).generator == wanted
    assert resolved({"name": "image/dcgan"}) == {"name": "image/dcgan"}


@pytest.mark.parametrize("recipe", [{"preset": "gpu"}, {"name": "image/gmm", "preset": "gpu"}, {"name": "image/dcgan", "preset": "gpo"}])
def test_an_unknown_preset_is_bad_input(recipe):
    with pytest.raises(BadInput, match="preset"):
        Job.of({"source": "mnist", "generator": recipe})


def test_operations_are_those_of_its_layers():
    net, x = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 64, 7)), torch.rand(4, 3, 8, 8)
    forwards = 4 * 2 * (64 * 9 * 3 * 5 + 5 * 64 * 7)
    with Counting() as counter:
        net(x)
    assert counter.flops == forwards
    with Counting() as counter, FlopCounterMode(display=False) as theirs:
        net(x).sum().backward()
    assert counter.flops == theirs.get_total_flops() == 3 * forwards - 4 * 2 * 64 * 9 * 3 * 5  # the images take no gradient


def test_operations_of_a_recurrent_layer_are_those_of_its_products():
    layer, x = nn.LSTM(8, 16, batch_first=True), torch.rand(3, 5, 8)
    with Counting() as counter:
        layer(x)[0].sum()
    assert counter.flops == 3 * 5 * 2 * 4 * 16 * (8 + 16)
    with Counting() as counter:
        layer(x)[0].sum().backward()
    assert counter.flops == 3 * 3 * 5 * 2 * 4 * 16 * (8 + 16)


def test_the_cost_of_a_step_grows_with_its_net():
    costs = [cost(make("image/dcgan", {"width": width}), example("image/dcgan")) for width in (8, 16)]
    assert costs[0].parameters < costs[1].parameters
    assert costs[0].flops < costs[1].flops < 4.5 * costs[0].flops


def test_presets_are_shown(capsys):
    assert main(["show", "image/autoencoder"]) == 0
    out = capsys.readouterr().out
    shown = {line.split()[0]: line.split()[1].replace(",", "") for line in out.splitlines() if line.split()[:1] in (["cpu"], ["gpu"])}
    for preset, parameters in shown.items():
        recipe = make("image/autoencoder", PRESETS["image/autoencoder"][preset])
        assert int(parameters) == cost(recipe, example("image/dcgan")).parameters
    assert list(shown) == ["cpu", "gpu"]
    assert main(["show", "image/gmm"]) == 0
    assert "presets" not in capsys.readouterr().out
