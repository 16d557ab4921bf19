"""SDV's GaussianCopula, CTGAN and TVAE, to compare with. They need the extra `baselines` and are never published.

Patki, Wedge, Veeramachaneni: The Synthetic Data Vault, 2016; Xu, Skoularidou, Cuesta-Infante, Veeramachaneni: Modeling Tabular Data using
Conditional GAN, 2019, arXiv:1907.00503 (CTGAN and TVAE).

Not publishable for three reasons: the packages' licence (BUSL-1.1) limits services built on them, their metadata and transformers hold
the extremes of the real columns, and a saved model here keeps the training rows: what SDV works out before training (transformers,
samplers, the shapes of the nets) is worked out again from them by its own code, with zero epochs, and the trained weights are put in.
"""

from __future__ import annotations

import importlib.util
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from data.errors import BadInput
from data.schema import Dataset
from generators.base import Generator, Rows, Run
from generators.codecs.columns import Categories
from generators.codecs.table import TableCodec

TABLE = "rows"  # SDV wants a name for it
NO_ROWS: Rows = (torch.zeros(0, 0), torch.zeros(0, 0))


@dataclass(frozen=True)
class PlainCodec(TableCodec):
    """Rows are (x float64 [n, D], c int64 [n, K]): quantities as they are, NaN where null, and tokens. Keeps the training rows."""

    rows: Rows = NO_ROWS

    @classmethod
    def fit(cls, data: Dataset) -> Self:
        empty = super().fit(data)
        return replace(empty, rows=empty.encode(data, np.random.default_rng(0)))

    @property
    def places(self) -> tuple[list[int], list[int]]:
        """(positions of the quantities, positions of the categories)."""
        tokens = [k for k, code in enumerate(self.codes) if isinstance(code, Categories)]
        return [k for k in range(len(self.codes)) if k not in tokens], tokens

    def encode(self, data: Dataset, rng: np.random.Generator) -> Rows:
        columns = [data.table[code.column.name] for code in self.codes]
        x = [self.codes[k].column.numbers(columns[k]) for k in self.places[0]]
        c = [self.codes[k].encode(columns[k], rng)[0] for k in self.places[1]]
        empty = np.zeros((len(data), 0))
        return torch.from_numpy(np.stack(x, 1) if x else empty), torch.from_numpy(np.stack(c, 1) if c else empty.astype(np.int64))

    def decode(self, rows: Rows, rng: np.random.Generator, *, start: int, seed: int) -> Dataset:
        x, c = (t.numpy() for t in rows)
        arrays: dict[int, Any] = {}
        for j, k in enumerate(self.places[0]):
            null = np.isnan(x[:, j])
            arrays[k] = self.codes[k].column.array(np.where(null, 0.0, x[:, j]), null)
        for j, k in enumerate(self.places[1]):
            arrays[k] = self.codes[k].decode(c[:, j], rng.random(len(c)))
        return self.assemble([arrays[k] for k in range(len(self.codes))], len(c), start, seed)

    def matches(self, rows: Rows, condition: Mapping[str, int]) -> Tensor:
        table, codes = self.decode(rows, np.random.default_rng(0), start=0, seed=0).table, dict(zip(self.names, self.codes, strict=True))
        found = [codes[name].encode(table[name], np.random.default_rng(0))[0] == token for name, token in condition.items()]
        return torch.from_numpy(np.stack(found).all(0))

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        spec, tensors = super().state()
        return spec, tensors | {"rows.x": self.rows[0], "rows.c": self.rows[1]}

    @classmethod
    def restore(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        return replace(super().restore(spec, tensors), rows=(tensors["rows.x"], tensors["rows.c"]))

    def frame(self) -> Any:
        """The training rows as pandas columns "0", "1", …: quantities, then categories as words."""
        import pandas as pd

        columns = [*self.rows[0].numpy().T, *self.rows[1].numpy().astype(str).astype(object).T]
        return pd.DataFrame({str(number): column for number, column in enumerate(columns)})


class Synthesizer(nn.Module):
    """SDV's own object with the codec whose rows it saw; the part of it that is trained, if any, is a submodule."""

    def __init__(self, sdv: Any, codec: PlainCodec, trained: nn.Module | None):
        super().__init__()
        self.sdv, self.codec, self.trained = sdv, codec, trained


@dataclass(frozen=True)
class SDV(Generator):
    """What the three share."""

    codec: ClassVar[type[PlainCodec]] = PlainCodec
    publishable: ClassVar[bool] = False

    @abstractmethod
    def fitted(self, codec: PlainCodec, epochs: int, seed: int) -> Synthesizer:
        """SDV's synthesizer after so many epochs on the codec's rows."""

    def build(self, codec: PlainCodec) -> Synthesizer:
        return self.fitted(codec, 0, 0)

    def sample(self, net: Synthesizer, n: int, rng: torch.Generator) -> Rows:
        seed = int(torch.randint(2**31, (1,), generator=rng))
        with seeded(seed):
            net.sdv.reset_sampling()
            net.sdv._set_random_state(seed)
            net.train()  # as SDV does: its CTGAN normalises by the batch when it samples, too
            frame = net.sdv.sample(n)[TABLE]
        tokens = [name for name in frame if not np.issubdtype(frame[name].dtype, np.number)]
        x = frame.drop(columns=tokens).to_numpy(dtype=np.float64, na_value=np.nan)
        return torch.from_numpy(x), torch.from_numpy(frame[tokens].astype(np.int64).to_numpy())

    def make(self, kind: str, codec: PlainCodec, seed: int, **parameters: Any) -> Any:
        """SDV's class of this name, fitted; transformers depend on the rows alone, weights on the seed too."""
        if importlib.util.find_spec("sdv") is None:
            raise BadInput('the generators sdv/… need a package that is not installed: pip install "alfar[baselines]"')
        from sdv import single_table
        from sdv.metadata import Metadata

        quantities, categories = codec.places
        kinds = ["numerical"] * len(quantities) + ["categorical"] * len(categories)
        columns = {str(number): {"sdtype": name} for number, name in enumerate(kinds)}
        metadata = Metadata.load_from_dict({"METADATA_SPEC_VERSION": "V2", "tables": {TABLE: {"columns": columns}}, "relationships": []})
        with seeded(0, seed):
            synthesizer = getattr(single_table, kind)(metadata, **parameters)
            synthesizer.fit({TABLE: codec.frame()})
        return synthesizer


@dataclass(frozen=True)
class GaussianCopula(SDV):
    """SDV's GaussianCopulaSynthesizer with its defaults. Fitted in closed form: the seed makes no difference."""

    def fitted(self, codec: PlainCodec, epochs: int, seed: int) -> Synthesizer:
        return Synthesizer(self.make("GaussianCopulaSynthesizer", codec, seed), codec, None)

    def learn(self, net: Synthesizer, rows: Rows, run: Run) -> Synthesizer:
        return net


@dataclass(frozen=True)
class Network(SDV):
    """A net that SDV trains for `epochs`, or for as many of them as the minutes given allow."""

    epochs: int = 300
    kind: ClassVar[str]
    part: ClassVar[str]  # the attribute that holds the net which sampling uses

    def fitted(self, codec: PlainCodec, epochs: int, seed: int) -> Synthesizer:
        made = self.make(self.kind, codec, seed, epochs=epochs)
        return Synthesizer(made, codec, getattr(made._model, self.part))

    def learn(self, net: Synthesizer, rows: Rows, run: Run) -> Synthesizer:
        codec, epochs, began = net.codec, self.epochs, time.perf_counter()
        if run.minutes is not None:
            self.fitted(codec, 0, run.seed)
            prepared = time.perf_counter() - began
            self.fitted(codec, 1, run.seed)
            epoch = max(1e-3, time.perf_counter() - began - 2 * prepared)
            left = 60 * run.minutes - (time.perf_counter() - began) - prepared
            epochs = max(1, min(epochs, int(0.9 * left / epoch)))
        run.log["epochs"] = epochs
        return self.fitted(codec, epochs, run.seed)


@dataclass(frozen=True)
class CTGAN(Network):
    """SDV's CTGANSynthesizer with its defaults."""

    kind: ClassVar[str] = "CTGANSynthesizer"
    part: ClassVar[str] = "_generator"


@dataclass(frozen=True)
class TVAE(Network):
    """SDV's TVAESynthesizer with its defaults."""

    kind: ClassVar[str] = "TVAESynthesizer"
    part: ClassVar[str] = "decoder"


@contextmanager
def seeded(numpy_seed: int, torch_seed: int | None = None) -> Iterator[None]:
    """SDV draws from the global generators: seed them, silence its warnings, and put everything back."""
    before = np.random.get_state()
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.random.seed(numpy_seed)
        torch.manual_seed(numpy_seed if torch_seed is None else torch_seed)
        try:
            yield
        finally:
            np.random.set_state(before)
