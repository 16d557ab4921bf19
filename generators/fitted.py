"""A trained generator: samples rows, and saves to and loads from a folder of two files.

`model.safetensors` holds the weights and the codec's tensors; `model.json` the registry name, parameters, schema, codec and the digest
of the first. Loading builds only what the registry names, checks the digest and every shape, and never runs code from a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_buffer_registration_hook, register_module_parameter_registration_hook

from data.conditions import Condition
from data.errors import BadInput
from data.layout import Layout
from data.schema import Dataset, Schema
from generators.base import Answering, Codec, Completing, Generator, Naming, Translating, Unfolding
from generators.drawing import Drawing, Pool, Shares, Tally, Wish, divided, strata
from generators.train import few_threads, mix

FORMAT = 3
GROWTH, SPARE = 2, 1_000_000  # numbers that a net may hold while it is built, beyond those of its file
CELLS = 1_000_000  # made at a time: what bounds the memory of any number of rows


@dataclass(frozen=True)
class Fitted:
    """A recipe, the codec that reads its data, and the trained net. `log` is JSON: steps, seconds, the loss curve."""

    generator: Generator
    codec: Codec
    net: nn.Module
    schema: Schema
    log: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def layout(self) -> Layout:
        """How the rows are laid out for learning, so that they keep the constraints."""
        return Layout.of(self.schema)

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        given: Mapping[str, object] | None = None,
        where: str | None = None,
        shares: Shares | None = None,
        avoid: Dataset | None = None,
        of: Dataset | None = None,
    ) -> Dataset:
        """n new rows; the same seed gives the same rows. They keep the constraints of the schema.

        `given` fixes columns, e.g. {"cut": "Ideal"}; `where` is a condition as in SQL, e.g. "price > 500 and cut = 'Ideal'"; `shares` gives
        the values of a column their shares of the rows, e.g. ("cut", {"Ideal": 0.5}), and the same share each where none is named.
        Rows whose texts use the words of a row of `avoid` are drawn again, and so is code that does not parse.
        `of` are the rows that a generator draws in another style, none twice before each was drawn once; others make theirs of noise.
        BadInput for an unknown column or value, and for what is too rare to be met.
        """
        chunks = [chunk.table for chunk in self.stream(n, seed=seed, given=given, where=where, shares=shares, avoid=avoid, of=of)]
        return Dataset(self.schema, pa.concat_tables(chunks).combine_chunks())

    def stream(
        self,
        n: int,
        *,
        seed: int = 0,
        given: Mapping[str, object] | None = None,
        where: str | None = None,
        shares: Shares | None = None,
        avoid: Dataset | None = None,
        tally: Tally | None = None,
        only: range | None = None,
        of: Dataset | None = None,
    ) -> Iterator[Dataset]:
        """The rows of `sample` in chunks of constant size; chunk i depends on (seed, i) only. `tally` counts the draws.

        `only` are the numbers of the chunks that are made, one after another: a part of the same rows, unless the schema has `unique`
        constraints. What is wrong with what is asked is said at once; that it is too rare, when the rows are drawn.
        """
        if n < 1:
            raise BadInput(f"{n} rows were asked for; ask for at least 1")
        asked = [Condition.parse(where, self.schema)] if where is not None else []
        kinds = strata(self.schema, shares) if shares else [({}, [], 1.0)]
        wishes = [Wish(self, {**(given or {}), **values}, [*asked, *more], self.pool(of, seed)) for values, more, _ in kinds]
        drawing = Drawing(self, seed, tally or Tally(), avoid)
        left = divided(n, np.array([share for *_, share in kinds]))
        return self.chunks(n, seed, wishes, left, drawing, range(-(-n // self.chunk)) if only is None else only)

    @property
    def chunk(self) -> int:
        """The rows of a chunk."""
        return max(1, CELLS // self.codec.cells)

    def chunks(self, n: int, seed: int, wishes: list[Wish], left: np.ndarray, drawing: Drawing, only: range) -> Iterator[Dataset]:
        """The chunks `only` of n rows, `left[i]` of them by wish i."""
        for number in range(only.start if len(wishes) == 1 else 0, only.stop):
            start = number * self.chunk
            counts = divided(min(self.chunk, n - start), left)
            left = left - counts  # several wishes: what earlier chunks took decides
            if number not in only:
                continue
            rng, numbers = torch.Generator().manual_seed(mix(seed, number, 7)), np.random.default_rng([seed, number])
            parts: list[pa.Table] = []
            for wish, count in zip(wishes, counts.tolist(), strict=True):
                if count:
                    done = sum(map(len, parts))
                    with torch.inference_mode(), few_threads(self.net):
                        parts.append(drawing.rows(wish, count, start + done, rng, numbers, of=n))
            yield Dataset(self.schema, drawing.mixed(parts, numbers) if len(wishes) > 1 else parts[0])

    def pool(self, of: Dataset | None, seed: int) -> Pool | None:
        """The rows that are drawn in another style; None when the generator makes its rows of noise. BadInput when there are none."""
        if not isinstance(self.generator, Translating):
            return None
        if of is None or not len(of):
            raise BadInput("a model that draws photographs in another style makes none of its own: give it some to draw")
        return Pool(self.codec.encode(of, np.random.default_rng(0)), torch.Generator().manual_seed(mix(seed, 0, 11)))

    @property
    def read(self) -> Schema:
        """The schema of the rows that it has learnt: the one of those it draws, but for a column of images in another style."""
        from generators.codecs.style import StyleCodec

        return self.codec.schema if isinstance(self.codec, StyleCodec) else self.schema

    def translate(self, data: Dataset) -> Dataset:
        """Each row in the other style, with what is known of it. BadInput when the generator cannot, or reads other rows."""
        if not isinstance(self.generator, Translating):
            raise BadInput("only a model of image to image, by image/chipgan, can draw rows in another style")
        with torch.inference_mode(), few_threads(self.net):
            rows = self.generator.translate(self.net, self.codec.encode(data, np.random.default_rng(0))[:2])
        return self.codec.decode(rows, np.random.default_rng(0), start=0, seed=0)

    def impute(self, data: Dataset, *, seed: int = 0) -> Dataset:
        """The data with its nulls filled from P(missing | present); what is there, and ids, stay as they are.

        Values of tables and images are drawn; labels of texts and images, and texts, are the likeliest. BadInput when the generator
        cannot fill what a row lacks, and when no values are found that keep the constraints.
        """
        from generators import registry
        from generators.answers import answered
        from generators.imputing import imputed

        with torch.inference_mode(), few_threads(self.net):
            if isinstance(self.generator, Completing):
                return imputed(self, self.generator, data, seed)
            if isinstance(self.generator, Answering | Naming | Translating):
                return answered(self, data, seed)
        name, filling = registry.name_of(type(self.generator)), (Completing, Answering, Naming, Translating)
        able = [other for other in registry.serving(self.schema) if issubclass(registry.get(other), filling)]
        raise BadInput(f"{name} cannot fill nulls given the rest of a row; these can: {', '.join(able)}")

    def answer(self, data: Dataset, *, seed: int | None = None, back: bool = False) -> Dataset:
        """The data with the last text of each row written anew given the others, or its image: the likeliest, or drawn by a `seed`.

        With `back` the others, or the image, are made given the last text. Rows longer than any training row are left out. BadInput when
        the generator cannot answer, or when rows have one text and no image.
        """
        if not isinstance(self.generator, Answering) or sum(c.kind in ("text", "image") for c in self.schema.columns) < 2:
            raise BadInput("only a model of rows of two texts or more, by text/gpt or text/transformer, or of captions can answer")
        rows = self.codec.encode(Dataset.of(data.table, self.schema), np.random.default_rng(0))
        rng = None if seed is None else torch.Generator().manual_seed(mix(seed, 0, 9))
        with torch.inference_mode(), few_threads(self.net):
            x = self.generator.answer(self.net, rows, rng, back)
        return self.codec.decode((x, rows[1]), np.random.default_rng(0), start=0, seed=0)

    def frames(self, n: int, count: int, *, seed: int = 0) -> Dataset | None:
        """n images on their way in `count` frames, one frame's rows after another's, labels in turn; None when they come about at once."""
        if not isinstance(self.generator, Unfolding):
            return None
        labels = torch.arange(n) % len(self.net.get_buffer("shares"))
        with torch.inference_mode(), few_threads(self.net):
            x = self.generator.frames(self.net, labels, torch.Generator().manual_seed(mix(seed, 0, 8)), count)
        return self.codec.decode((x.flatten(0, 1), labels.repeat(count)), np.random.default_rng(seed), start=0, seed=seed)

    def save(self, folder: Path) -> None:
        """Write model.safetensors and model.json."""
        from generators.registry import name_of

        folder.mkdir(parents=True, exist_ok=True)
        spec, tensors = self.codec.state()
        tensors = {f"codec.{k}": t for k, t in tensors.items()} | {f"net.{k}": t for k, t in self.net.state_dict().items()}
        save_file({k: t.contiguous() for k, t in tensors.items()}, folder / "model.safetensors")
        model = {
            "format": FORMAT,
            "generator": {"name": name_of(type(self.generator)), "parameters": parameters(self.generator)},
            "schema": self.schema.to_json(),
            "codec": spec,
            "log": self.log,
            "sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        }
        (folder / "model.json").write_text(json.dumps(model, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Fitted:
        """What `save` wrote. BadInput when a file is missing, truncated, changed, or made by another version."""
        from generators.registry import make, modality_of

        try:
            model = json.loads((folder / "model.json").read_text())
            with open(folder / "model.safetensors", "rb") as file:
                weights = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError as missing:
            raise BadInput(f"{folder} is not a model: it has no {Path(missing.filename).name}") from None
        except (OSError, ValueError, RecursionError):
            raise BadInput(f"{folder}/model.json cannot be read: the file is truncated or damaged; fit the model again") from None
        if not isinstance(model, dict) or model.get("format") != FORMAT:
            raise BadInput(f"{folder} was written by another version of Alfar: fit the model again with this one")
        if weights != model.get("sha256"):
            raise BadInput(f"{folder}/model.safetensors was changed or truncated after it was written: fit the model again")
        try:
            generator = make(model["generator"]["name"], model["generator"]["parameters"])
            tensors = load_file(folder / "model.safetensors")
            if not all(sound(name, tensor) for name, tensor in tensors.items()):
                raise ValueError("numbers")
            codec = generator.codec.restore(model["codec"], under("codec.", tensors))
            with no_larger(GROWTH * sum(t.numel() for t in tensors.values()) + SPARE):
                net = generator.build(codec)
            net.load_state_dict(under("net.", tensors))
            schema = Schema.from_json(model["schema"])
            if schema.modality != modality_of(model["generator"]["name"]):
                raise ValueError("modality")
            return cls(generator, codec, net.eval(), schema, dict(model["log"]))
        except (
            LookupError,
            TypeError,
            ValueError,
            RuntimeError,
            ArithmeticError,
            AttributeError,
            StopIteration,
            AssertionError,
            SafetensorError,
        ):
            raise BadInput(f"{folder}/model.json does not fit its weights: it was changed; fit the model again") from None


@contextmanager
def no_larger(numbers: int) -> Iterator[None]:
    """While a net is built: ValueError before it fills memory with more numbers than its file can hold."""
    count = 0

    def counted(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal count
        count += 0 if tensor is None else tensor.numel()
        if count > numbers:
            raise ValueError("the net is larger than its weights")

    hooks = [register_module_parameter_registration_hook(counted), register_module_buffer_registration_hook(counted)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def parameters(generator: Generator) -> dict[str, Any]:
    """The recipe's hyper-parameters as JSON."""
    from dataclasses import asdict

    return json.loads(json.dumps(asdict(generator)))


def sound(name: str, tensor: Tensor) -> bool:
    """Are weights numbers, and shares such that something can be drawn by them?"""
    if "shares" in name.split(".") and (tensor.min() < 0 or (tensor.sum(-1) <= 0).any()):
        return False
    return not name.startswith("net.") or bool(tensor.isfinite().all())


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name begins with the prefix, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
