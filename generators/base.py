"""The contract of every generator: a frozen recipe whose `fit` learns P(x, y) from a Dataset and gives a Fitted.

    VAE(latent=16).fit(train, seed=0).sample(1000, seed=0)

A recipe holds hyper-parameters and nothing else; weights live in a torch module that `build` makes and `learn` fills. A new
generator is one file with `build`, `sample` and either `learn` or, on the shared training loop, `loss`; and one line in the registry.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import numpy as np
import torch
from torch import Tensor, nn

from data.errors import BadInput
from data.layout import Layout
from data.schema import Dataset
from generators.private import Privacy, installed, secret
from generators.train import SHARE, Training, few_threads, fitting, looking, planned, train

if TYPE_CHECKING:
    from generators.fitted import Fitted

Rows = tuple[Tensor, ...]  # what a codec makes of a dataset: tensors with the same first dimension, one entry a row
TRIED, DRAWN, SHOWN = (12, 120), (64, 1024), 0.7  # steps and rows tried; the second when the first take no SHOWN seconds
Progress = Callable[[int, int, str], None]  # steps done, steps in all, a few words


class Codec(ABC):
    """Turns the rows of a Dataset into tensors and back. Fitted on training rows; holds no row."""

    @property
    @abstractmethod
    def cells(self) -> int:
        """Numbers in a row: what a row costs in memory while it is made."""

    @abstractmethod
    def filled(self, rows: Rows) -> float:
        """The mean count of numbers that rows need of their cells: what a row costs in time while it is made."""

    @classmethod
    @abstractmethod
    def fit(cls, data: Dataset) -> Self:
        """Learn the encoding. BadInput names the columns that this codec cannot read."""

    @abstractmethod
    def encode(self, data: Dataset, rng: np.random.Generator) -> Rows:
        """Tensors [n, …] of n rows; `rng` spreads values that a continuous code holds in one point."""

    @abstractmethod
    def decode(self, rows: Rows, rng: np.random.Generator, *, start: int, seed: int) -> Dataset:
        """The rows as a Dataset. Ids are made anew: row i of a release is number start + i of the series `seed`."""

    @abstractmethod
    def condition(self, given: Mapping[str, object]) -> Mapping[str, int]:
        """The code of each fixed column's value. BadInput for an unknown column or a value that never occurs."""

    @abstractmethod
    def matches(self, rows: Rows, condition: Mapping[str, int]) -> Tensor:
        """bool [n]: which rows have the fixed columns' codes."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A JSON-able description and the tensors that go into the model file."""

    @classmethod
    @abstractmethod
    def restore(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `state`."""


@dataclass
class Run:
    """The circumstances of one fit, none of which belongs to the recipe."""

    seed: int = 0
    minutes: float | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    folder: Path | None = None
    progress: Progress | None = None
    privacy: Privacy | None = None
    log: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Generator(ABC):
    """A recipe. Its dataclass fields are its hyper-parameters; `codec` declares which data it reads."""

    codec: ClassVar[type[Codec]]
    publishable: ClassVar[bool] = True
    private: ClassVar[Mapping[str, Any] | None] = None  # fields of the recipe that suit a fit under epsilon; None: it cannot make one
    sums: ClassVar[int] = 1  # how often such a fit sums over all rows, beside its steps: the codec's shares are one

    @abstractmethod
    def build(self, codec: Any) -> nn.Module:
        """An untrained net whose tensors have the shapes of a trained one."""

    @abstractmethod
    def learn(self, net: Any, rows: Rows, run: Run) -> nn.Module:
        """Fill the net from the encoded training rows."""

    @abstractmethod
    def sample(self, net: Any, n: int, rng: torch.Generator) -> Rows:
        """n independent draws, encoded as the codec's `encode` does."""

    @final
    def fit(
        self,
        data: Dataset,
        *,
        seed: int = 0,
        minutes: float | None = None,
        device: str = "auto",
        folder: Path | None = None,
        progress: Progress | None = None,
        epsilon: float | None = None,
    ) -> Fitted:
        """Learn from training rows.

        `minutes` bounds the training time; `folder` keeps checkpoints, from which a killed fit goes on; the same seed on the same
        kind of device gives the same model. BadInput when the codec cannot read the schema.

        With `epsilon` the weights and the codec's shares are (epsilon, delta)-differentially private (`generators.private`), by noise that
        no seed decides; where quantities are cut and which categories are kept is not. BadInput when the recipe cannot be fitted so.
        """
        from generators.fitted import Fitted

        began, cpu = time.perf_counter(), time.process_time()
        learnt = Layout.of(data.schema).forward(data)
        codec: Any = self.codec.fit(learnt)
        privacy = None
        if epsilon is not None:
            if self.private is None:
                raise BadInput(
                    f"{type(self).__name__} cannot be fitted under epsilon: take a neural generator of tables, such as tabular/made"
                )
            installed()
            privacy = Privacy(epsilon, len(data), secret(folder), self.sums)
            codec = codec.noised(privacy)
        rows = codec.encode(learnt, np.random.default_rng([seed, 1]))
        torch.manual_seed(seed)
        run = Run(seed, minutes, pick_device(device), folder, progress, privacy)
        net = self.learn(self.build(codec).to(run.device), rows, run).cpu().eval()
        seconds = round(time.perf_counter() - began, 3)
        run.log |= {
            "rows": len(data),
            "seconds": seconds,
            "other_seconds": round(seconds - run.log.get("training_seconds", 0.0), 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
            "parameters": sum(p.numel() for p in net.parameters()),
            "device": run.device.type,
        }
        if privacy:
            run.log["privacy"] = privacy.to_json()
        return Fitted(self, codec, net, data.schema.drawn, run.log)


@dataclass(frozen=True)
class Forecast:
    """What a fit will cost: `steps` that the time allows, of those `wanted`; minutes of the fit, and seconds of a drawn row."""

    steps: int
    wanted: int
    minutes: float
    row_seconds: float


@dataclass(frozen=True)
class Descending(Generator):
    """A generator with a `loss` that the shared loop descends; each phase is a submodule with an optimiser of its own.

    `sizes` are fields of smaller recipes for when minutes are few, from small to large; the defaults are the largest.
    """

    training: Training = Training()
    phases: ClassVar[tuple[str, ...]] = ("",)
    sizes: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    @abstractmethod
    def loss(self, net: Any, rows: Rows, phase: str) -> Tensor:
        """The scalar that this phase's submodule descends, on one batch."""

    @final
    def descend(
        self, net: nn.Module, rows: Rows, run: Run, phases: tuple[str, ...] | None = None, training: Training | None = None
    ) -> nn.Module:
        """The shared training loop, of all phases by the recipe's training unless told otherwise; the moving average of the weights."""
        with few_threads(net):
            trained, log = train(
                net,
                rows,
                loss=self.loss,
                phases=phases or self.phases,
                training=training or self.training,
                seed=run.seed,
                minutes=run.minutes,
                device=run.device,
                folder=run.folder,
                progress=run.progress,
                privacy=run.privacy,
            )
        run.log |= log
        return trained

    @final
    def within(
        self, data: Dataset, *, minutes: float | None = None, fixed: Collection[str] = (), device: str = "auto", private: bool = False
    ) -> tuple[Self, Forecast]:
        """(the recipe at the largest of its sizes that makes all its steps within the minutes, or at the least; what its fit will cost).

        The recipe as it is without minutes, and when a field of `sizes` is among those `fixed`.
        """
        found = self.expected(data, minutes=minutes, device=device, private=private)
        if found.steps == found.wanted or any(set(size) & set(fixed) for size in self.sizes):
            return self, found
        recipe = self
        for size in reversed(self.sizes):
            recipe = replace(self, **size)
            found = recipe.expected(data, minutes=minutes, device=device, private=private)
            if found.steps == found.wanted:
                break
        return recipe, found

    @final
    def expected(self, data: Dataset, *, minutes: float | None = None, device: str = "auto", private: bool = False) -> Forecast:
        """The cost of `fit`, at most, from a fit of a few steps and a few draws; `private` for one under epsilon."""
        epsilon = math.inf if private else None
        for tried in TRIED:
            trial = replace(self, training=replace(self.training, steps=tried, patience=0)).fit(data, device=device, epsilon=epsilon)
            if trial.log["training_seconds"] > SHOWN:
                break
        seconds = trial.log["step_seconds"]
        some = Layout.of(data.schema).forward(data.take(np.arange(min(len(data), max(DRAWN)))))
        real = trial.codec.encode(some, np.random.default_rng(0))
        wanted = planned(fitting(self.training, real, len(data)), len(data))
        steps = wanted if minutes is None else max(1, min(wanted, int(SHARE * 60 * minutes / seconds)))
        pool, several = trial.pool(data, 0), self.several(trial.net) if isinstance(self, Choosing) else 1
        for drawn in DRAWN:
            began = time.perf_counter()
            with torch.inference_mode(), few_threads(trial.net):
                rng = torch.Generator().manual_seed(0)
                if isinstance(self, Translating) and pool:
                    rows = self.translate(trial.net, pool.take(drawn, {}))
                else:
                    rows = self.sample(trial.net, drawn * several, rng)
                if isinstance(self, Choosing) and several > 1:
                    self.sure(trial.net, rows)
                trial.codec.decode(rows, np.random.default_rng(0), start=0, seed=0)
            row = (time.perf_counter() - began) / drawn
            if row * drawn > SHOWN:
                break
        row *= trial.codec.filled(real) / trial.codec.filled(rows)  # a net that learnt for a few steps knows no lengths
        around = trial.log["other_seconds"] + (looking(minutes) if minutes is not None else 0.0)
        return Forecast(steps, wanted, (around + steps * seconds) / 60, row)


@dataclass(frozen=True)
class Neural(Descending):
    """A generator that learns by the shared loop and nothing else."""

    @final
    def learn(self, net: nn.Module, rows: Rows, run: Run) -> nn.Module:
        return self.descend(net, rows, run)


@dataclass(frozen=True)
class Conditional(Generator):
    """A generator that can draw rows under conditions without drawing all the others; its codec has `weights`."""

    @abstractmethod
    def sample_where(self, net: Any, n: int, rng: torch.Generator, weights: Mapping[int, Tensor]) -> Rows:
        """n draws from p(row) prod_k weights[k][token_k], normalised; fewer when they are too rare.

        `weights[k]`, float [V_k] in [0, 1], belongs to position k of the rows.
        """


@dataclass(frozen=True)
class Completing(Conditional):
    """A generator that can fill in what is missing of a row. Its rows are tokens, int64 [n, K]."""

    @abstractmethod
    def complete(self, net: Any, rows: Rows, known: Tensor, rng: torch.Generator, weights: Mapping[int, Tensor]) -> Rows:
        """The rows with the positions that are not `known`, bool [n, K], drawn given those that are, weighed as in `sample_where`."""


@dataclass(frozen=True)
class Labelled(Conditional):
    """A generator of p(y) p(x|y): rows are (x [n, ...], y int64 [n]). Its net has a buffer `shares`, float [L]: p(y)."""

    @abstractmethod
    def draw(self, net: Any, labels: Tensor, rng: torch.Generator) -> Tensor:
        """x [n, ...] as the codec has it, one for each label int64 [n]."""

    @final
    def sample(self, net: Any, n: int, rng: torch.Generator) -> Rows:
        return self.sample_where(net, n, rng, {})

    @final
    def sample_where(self, net: Any, n: int, rng: torch.Generator, weights: Mapping[int, Tensor]) -> Rows:
        shares = net.shares * weights[0] if 0 in weights else net.shares
        labels = torch.multinomial(shares, n if shares.sum() > 0 else 0, replacement=True, generator=rng)
        return self.draw(net, labels, rng), labels


@dataclass(frozen=True)
class Choosing(Labelled):
    """A generator of texts of which `candidates` rows are drawn for each that is kept: of those that are fit to be kept, the ones that say
    much together, first such as are `sure` (generators/choosing.py)."""

    candidates: int = 1

    def __post_init__(self) -> None:
        if self.candidates < 1:
            from generators.registry import name_of

            raise BadInput(f"{name_of(type(self))}.candidates is {self.candidates}; it must be at least 1")

    @abstractmethod
    def sure(self, net: Any, rows: Rows) -> Tensor:
        """bool [n]: the rows that are taken before others."""

    def several(self, net: Any) -> int:
        """How many rows are drawn for each that is kept."""
        return self.candidates


@dataclass(frozen=True)
class Naming(Labelled):
    """A generator that can also name the label of what it is shown."""

    @abstractmethod
    def posterior(self, net: Any, x: Tensor) -> Tensor:
        """P(y|x), float [n, L], of x [n, ...] as the codec has it."""


@dataclass(frozen=True)
class Answering(Labelled):
    """A generator of rows of several texts that can also write the last one given the others, or the others given the last."""

    @abstractmethod
    def answer(self, net: Any, rows: Rows, rng: torch.Generator | None, back: bool = False) -> Tensor:
        """x of the rows with their last text, whatever it was, drawn given the others; the likeliest token each time without `rng`.

        With `back` the others are drawn given the last.
        """


@dataclass(frozen=True)
class Translating(Generator):
    """A generator whose rows are others drawn in another style. Its codec has `weights`; what is known of the others goes with them."""

    @abstractmethod
    def translate(self, net: Any, rows: Rows) -> Rows:
        """The rows (x [n, ...], y int64 [n]), x in the other style."""

    @final
    def sample(self, net: Any, n: int, rng: torch.Generator) -> Rows:
        raise BadInput("a generator that draws photographs in another style makes none of its own: give it some (of)")


@dataclass(frozen=True)
class Unfolding(Labelled):
    """A generator whose images come about step by step, from noise; `caption` says so where its frames show something else."""

    caption: ClassVar[str] = ""

    @abstractmethod
    def frames(self, net: Any, labels: Tensor, rng: torch.Generator, count: int) -> Tensor:
        """x on its way, uint8 [count, n, ...]: evenly spread over the steps of `draw`, the last of them what it gives."""


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU when there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
