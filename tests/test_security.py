"""What comes from outside: model files, checkpoints, names in Markdown; where the server listens."""

import json
import re
import resource
import sys
from pathlib import Path

import pytest
import torch
from markdown_it import MarkdownIt
from torch import nn

import generators.train as loop
from data.card import card, plain
from data.errors import BadInput
from data.schema import Dataset, Schema
from data.sources import read
from generators.fitted import Fitted
from generators.registry import make
from generators.train import Trainer, Training, summed, train

HOSTILE = (
    "<script>alert(1)</script>",
    "a|b",
    "](http://evil.example)",
    "[x](javascript:alert(1))",
    "![i](http://evil.example/i.png)",
    "`code` **bold**",
    "line\nbreak | x",
    "<img src=x onerror=alert(1)>",
    "&lt;script&gt;",
    "\\",
    "http://evil.example",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    table = read("iris").table
    folder = tmp_path_factory.mktemp("model")
    recipe = make("tabular/made", {"hidden": 8, "training": {"steps": 5, "patience": 0}})
    recipe.fit(Dataset.of(table, Schema.infer(table)), seed=0).save(folder)
    return folder


def test_a_model_that_says_it_is_huge_is_refused_before_it_fills_the_memory(model, tmp_path):
    said = json.loads((model / "model.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    assert Fitted.load(model).sample(3, seed=0).table.num_rows == 3
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for key, value in (("hidden", 20_000), ("hidden", 10**7), ("hidden", 10**15)):
        parameters = {**said["generator"]["parameters"], key: value}
        (tmp_path / "model.json").write_text(json.dumps(said | {"generator": {"name": "tabular/made", "parameters": parameters}}))
        with pytest.raises(BadInput):
            Fitted.load(tmp_path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300 * (2**20 if sys.platform == "darwin" else 2**10), "MiB of memory for a model of some kilobytes"


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(3))


def test_a_damaged_checkpoint_is_not_gone_on_from(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    rows = (torch.randn(64, 3, generator=torch.Generator().manual_seed(0)),)
    training = Training(steps=30, patience=0, batch=16)

    def once(folder: Path) -> torch.Tensor:
        folder.mkdir(exist_ok=True)
        loss = lambda net, rows, phase: ((rows[0] - net.a) ** 2).mean()  # noqa: E731
        how = {"phases": ("",), "seed": 0, "minutes": None, "device": torch.device("cpu"), "progress": None}
        net, _ = train(Line(), rows, loss=loss, training=training, folder=folder, **how)
        return net.a.detach().clone()

    undisturbed = once(tmp_path / "a")
    file = tmp_path / "a" / "checkpoint.safetensors"
    whole = file.read_bytes()
    assert torch.equal(once(tmp_path / "a"), undisturbed)
    for damage in (whole[:-1] + bytes([whole[-1] ^ 64]), whole[:-4], b"", b"{}" * 20, whole.replace(b"sha256", b"sha255")):
        file.write_bytes(damage)
        with pytest.raises(Exception):  # noqa: B017, PT011  (whatever kind it is, `train` begins again)
            Trainer(Line(), ("",), training, 30).load(file)
        assert torch.equal(once(tmp_path / "a"), undisturbed)


def test_a_digest_of_tensors_sees_names_types_shapes_and_values():
    one = {"a": torch.zeros(2), "b": torch.ones(())}
    others = [{"a": torch.zeros(2)}, {**one, "a": torch.zeros(3)}, {**one, "a": torch.zeros(2).double()}, {"a": one["a"], "c": one["b"]}]
    assert summed(one) == summed(dict(reversed(one.items())))
    assert len({summed(one), *map(summed, others), summed({**one, "b": torch.zeros(())})}) == 6


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text_in_markdown(name):
    schema = {"columns": [{"name": n, "kind": "number", "type": "double"} for n in (name, "plain")]}
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(card({"dataset": "d", "version": "v1", "rows": 3}, schema))
    table = html[html.index("<table>") :]
    tags = set(re.findall(r"<([a-z]+)", table))
    assert tags == {"table", "thead", "tbody", "tr", "th", "td"}
    rows = re.findall(r"<tr>\s*((?:<td>.*?</td>\s*)+)</tr>", table, re.DOTALL)
    assert [row.count("<td>") for row in rows] == [3, 3]
    import html as entities

    assert entities.unescape(re.findall(r"<td>(.*?)</td>", table)[0]) == " ".join(name.split())
    assert "\n" not in plain(name)


def test_the_server_listens_on_loopback_alone():
    from flows.server import HOST

    assert HOST == "127.0.0.1"
    assert "0.0.0.0" not in Path(loop.__file__).parent.parent.joinpath("flows", "server.py").read_text()


def test_every_deployment_of_prefect_yaml_is_a_job():
    import yaml
    from jsonschema import Draft202012Validator
    from prefect.utilities.callables import parameter_schema

    from flows.job import Job
    from flows.synthesize import synthesize

    said = yaml.safe_load((Path(__file__).parent.parent / "prefect.yaml").read_text())
    schema = parameter_schema(synthesize.fn).model_dump_for_openapi()
    for deployment in said["deployments"]:
        Draft202012Validator(schema).validate(deployment["parameters"])
        Job.of(deployment["parameters"]["job"])
        assert deployment["concurrency_limit"]["limit"] == 1
